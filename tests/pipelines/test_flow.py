"""Stable Diffusion 3 and FLUX: what they generate, invert, edit and dehaze."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flow_models import T5_TOKENS
from numpy.typing import NDArray

from dehaze.eval.probes import retrace, solve_steps
from dehaze.inversion import FlowTable, InversionResult, InversionSettings, ScheduleError
from dehaze.models import ModelError
from dehaze.models.conditioning import network_output
from dehaze.models.kinds import FLUX
from dehaze.pipelines.dehaze import DehazePipeline
from dehaze.pipelines.edit import EditPipeline, EditSettings
from dehaze.pipelines.interpolate import InterpolatePipeline
from dehaze.prompts import WordError, word_span

Array = NDArray[np.float32]
SOURCE, TARGET = "a photo of a street with dense haze", "a photo of a street with dense snow"
SIZE = (16, 24)


def loaded(folder: Path) -> EditPipeline:
    pipe = EditPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


# FLUX's attention is tested with the quick tests in tests/attention/test_joint.py, and what it
# generates by ``distilled_flux``.
@pytest.fixture(
    scope="module", params=["stable_diffusion_3", pytest.param("flux", marks=pytest.mark.slow)]
)
def flow_model(request: pytest.FixtureRequest) -> Path:
    """A folder with a tiny random model of flow matching."""
    folder: Path = request.getfixturevalue(request.param)
    return folder


@pytest.fixture(scope="module")
def pipe(flow_model: Path) -> EditPipeline:
    return loaded(flow_model)


@pytest.fixture(scope="module")
def path(pipe: EditPipeline) -> InversionResult:
    return pipe.generate(SOURCE, generator=seeded(), size=SIZE)


@pytest.fixture(scope="module")
def picture() -> Array:
    return np.random.default_rng(3).uniform(0.0, 1.0, (*SIZE, 3)).astype(np.float32)


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def diffusers_pipeline(folder: Path) -> Any:
    # Imported here: it takes a second, and few tests need it.
    from diffusers import DiffusionPipeline

    theirs = DiffusionPipeline.from_pretrained(folder)
    theirs.set_progress_bar_config(disable=True)
    return theirs


@pytest.fixture(scope="module")
def theirs(flow_model: Path) -> Any:
    """diffusers' own pipeline."""
    return diffusers_pipeline(flow_model)


def diffusers_latents(theirs: Any, **settings: Any) -> torch.Tensor:
    """What diffusers' own pipeline makes, (1, C, h, w)."""
    height, width = SIZE
    made: torch.Tensor = theirs(
        SOURCE, height=height, width=width, num_inference_steps=3, generator=seeded(),
        output_type="latent", max_sequence_length=T5_TOKENS, **settings,
    )[0]  # fmt: skip
    if made.ndim == 4:
        return made
    unpacked: torch.Tensor = theirs._unpack_latents(made, height, width, theirs.vae_scale_factor)
    return unpacked


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_generated_picture_is_that_of_diffusers(
    pipe: EditPipeline, theirs: Any, guidance: float
) -> None:
    ours = pipe.generate(SOURCE, generator=seeded(), size=SIZE, guidance_scale=guidance)
    settings: dict[str, Any] = {"guidance_scale": guidance}
    if pipe.kind is FLUX:
        settings = {"true_cfg_scale": guidance, "negative_prompt": ""}
    wanted = diffusers_latents(theirs, **settings)
    torch.testing.assert_close(ours.trajectory[0], wanted, atol=1e-5, rtol=0)
    assert int(ours.trace.nfe.sum()) == (3 if guidance == 1.0 else 6)


def test_guidance_that_is_distilled_is_a_number_of_the_network(distilled_flux: Path) -> None:
    pipe = loaded(distilled_flux)
    guided = pipe.generate(SOURCE, generator=seeded(), size=SIZE, guidance_scale=3.5)
    wanted = diffusers_latents(diffusers_pipeline(distilled_flux), guidance_scale=3.5)
    torch.testing.assert_close(guided.trajectory[0], wanted, atol=1e-5, rtol=0)
    assert int(guided.trace.nfe.sum()) == 3
    plain = pipe.generate(SOURCE, generator=seeded(), size=SIZE)
    assert (plain.trajectory[0] - guided.trajectory[0]).abs().max() > 1e-3
    for settings in (
        EditSettings(mode="null-text", guidance_scale=3.0),
        EditSettings(guidance_scale=3.0, guidance_outside=1.0),
    ):
        with pytest.raises(ValueError, match="guidance is distilled"):
            pipe(None, SOURCE, TARGET, settings, inversion=plain)
    with pytest.raises(ValueError, match="mode direct is of classifier-free"):
        pipe.anchor(plain, "direct", guidance_scale=3.0)
    photo = np.zeros((*SIZE, 3), np.float32)
    with pytest.raises(ValueError, match="mode null-text is of classifier-free"):
        DehazePipeline.from_pipe(pipe)(photo, mode="null-text", guidance_scale=3.0)


def test_an_inversion_comes_back(pipe: EditPipeline, picture: Array) -> None:
    exact = pipe.invert(picture, SOURCE, tolerance=1e-6, max_iterations=20)
    assert exact.trace.converged.all()
    plain = pipe.invert(picture, SOURCE, solver="ddim")
    lost, kept = ((retrace(pipe, each) - each.trajectory[0]).abs().max() for each in (plain, exact))
    assert kept < 1e-4
    assert lost > 100 * kept


@pytest.mark.slow
def test_the_certificate_bounds_the_error(pipe: EditPipeline, picture: Array) -> None:
    settings = InversionSettings(steps=3, max_iterations=30).changed(
        solver="fixed-point", criterion="certificate", tolerance=1e-3
    )
    found = pipe.invert(picture, SOURCE, settings=settings)
    assert found.trace.stopped.all()
    sharper = replace(settings, criterion="residual", tolerance=1e-6)
    exact, _ = solve_steps(pipe, found, sharper)
    error = (found.trajectory[1:] - exact).flatten(1).norm(dim=1)
    error = error / exact.flatten(1).norm(dim=1)
    last = found.trace.iterations[:, 0] - 1
    bounds = found.trace.bounds[torch.arange(3), last, 0]
    assert (error <= bounds).all()
    assert (bounds < 1e-3).all()


def test_photos_of_a_batch_are_those_alone(pipe: EditPipeline, picture: Array) -> None:
    dehazer = DehazePipeline.from_pipe(pipe)
    settings: dict[str, Any] = {"max_iterations": 4, "recovery": "none"}
    both = dehazer([picture, picture[::-1].copy()], **settings)
    alone = dehazer(picture, **settings)
    np.testing.assert_allclose(both[0].image, alone.image, atol=2e-4)
    np.testing.assert_allclose(both[0].attention, alone.attention, atol=1e-4)
    assert alone.attention.shape == SIZE
    assert 0.0 < alone.attention.min() <= alone.attention.max() < 1.0
    assert np.abs(both[1].image - alone.image).max() > 1e-2


def test_strength_zero_is_the_source_and_costs_nothing(
    pipe: EditPipeline, path: InversionResult
) -> None:
    kept = pipe.edit(path, SOURCE, TARGET, EditSettings(strength=0.0))
    torch.testing.assert_close(kept.latents, path.trajectory[0], atol=1e-5, rtol=0)
    assert kept.nfe == 0
    same = pipe.edit(path, SOURCE, None)
    torch.testing.assert_close(same.latents, path.trajectory[0], atol=1e-5, rtol=0)
    assert (pipe.edit(path, SOURCE, TARGET).latents - path.trajectory[0]).abs().max() > 1e-2


def test_the_word_is_swapped_in_every_encoders_rows(pipe: EditPipeline) -> None:
    tokens = pipe.prompts.tokens(SOURCE)
    span = word_span(tokens, "dense haze")
    # CLIP: begin a photo of a street with dense haze end. T5: the same without begin, and ha ze.
    clip, t5 = (7, 8), (6, 7, 8)
    assert span == (t5 if pipe.kind is FLUX else (*clip, *(32 + position for position in t5)))
    swapped = pipe.prompts.swapped(tokens, "dense haze", span)[0]
    own, null = pipe.prompts.embed(tokens)[0], pipe.prompts.null_text()[0]
    length = pipe.prompts.length
    assert length == len(tokens.ids) == (16 if pipe.kind is FLUX else 48)
    for position in range(length):
        wanted = null if position in span else own
        assert torch.equal(swapped[position], wanted[position])
    # The pooled embedding is that of the text without the word.
    without = pipe.prompts.embed(pipe.prompts.tokens("a photo of a street with"))[0]
    assert torch.equal(swapped[length:], without[length:])
    assert not torch.equal(swapped[length:], own[length:])


def test_haze_is_removed_by_deleting_the_word(pipe: EditPipeline, picture: Array) -> None:
    dehazer = DehazePipeline.from_pipe(pipe)
    result = dehazer(picture, "a street with haze", null_text="delete", recovery="none")
    assert result.image.shape == (*SIZE, 3)
    assert np.isfinite(result.image).all()
    assert np.abs(result.image - picture).max() > 1e-2


def test_a_blend_and_a_mode_serve_a_flow(pipe: EditPipeline, path: InversionResult) -> None:
    blended = pipe.edit(path, SOURCE, TARGET, EditSettings(blend=("snow",), blend_threshold=0.9))
    assert blended.mask is not None
    assert 0.0 < blended.mask.mean() < 1.0
    outside = (1.0 - blended.mask) * (blended.latents - path.trajectory[0])
    assert outside.abs().max() == 0.0
    assert (blended.latents - path.trajectory[0]).abs().max() > 1e-3
    free = {"guidance_scale": 3.0, "cross_replace_steps": 0.0, "self_replace_steps": 0.0}
    lost, kept = (
        (pipe.edit(path, SOURCE, None, EditSettings(**each)).latents - path.trajectory[0]).norm()
        for each in (free, {**free, "mode": "negative-prompt"})
    )
    assert kept < 0.1 * lost


def test_ddim_settings_are_named_before_a_flow_is_inverted(
    pipe: EditPipeline, picture: Array
) -> None:
    with pytest.raises(ScheduleError, match=r"eta is 0\.5: it is the noise of DDIM"):
        pipe(picture, SOURCE, TARGET, EditSettings(eta=0.5))
    with pytest.raises(ScheduleError, match="'trailing' is of DDIM"):
        pipe.invert(picture, SOURCE, spacing="trailing")
    with pytest.raises(ScheduleError, match="solver renoise-regularised is not made for"):
        pipe.invert(picture, SOURCE, solver="renoise-regularised")
    with pytest.raises(WordError, match="tokens and the model reads"):
        pipe.check_prompts("haze " * 20)


def test_a_saved_pipeline_and_a_shared_one_are_the_same(
    pipe: EditPipeline, path: InversionResult, tmp_path: Path
) -> None:
    pipe.save_pretrained(tmp_path)
    again = EditPipeline.from_pretrained(tmp_path)
    assert again.description == pipe.description
    assert again.provenance.fingerprint() == pipe.provenance.fingerprint()
    wanted = pipe.edit(path, SOURCE, TARGET).latents
    assert torch.equal(again.edit(path, SOURCE, TARGET).latents, wanted)
    shared = InterpolatePipeline.from_pipe(again)
    assert shared.transformer is again.transformer
    assert len(shared(path, path, pictures=2, path="slerp").pictures) == 2
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["unet"] == [None, None]
    again.text_encoder_2 = None
    with pytest.raises(ModelError, match="has no text_encoder_2"):
        DehazePipeline.from_pipe(again)


def test_diffusers_own_pipeline_lends_its_parts(theirs: Any, path: InversionResult) -> None:
    pipe = EditPipeline.from_pipe(theirs)
    assert pipe.transformer is theirs.transformer
    pipe.set_progress_bar_config(disable=True)
    assert pipe.description.inversion.steps == 28
    assert pipe.description.size_multiple == 4
    back = pipe.edit(path, SOURCE, None).latents
    torch.testing.assert_close(back, path.trajectory[0], atol=1e-5, rtol=0)


def test_a_strip_stays_within_the_positions_that_are_known(stable_diffusion_3: Path) -> None:
    pipe = loaded(stable_diffusion_3)
    assert pipe.description.long_side == 24 * 4
    strip = np.zeros((10, 200, 3), np.float32)
    assert pipe.codec.padded_size(strip) == (16, 96)
    assert pipe.invert(strip, SOURCE, solver="ddim").trajectory.shape[-2:] == (8, 48)
    with pytest.raises(ValueError, match="takes 96 pixels a side at most"):
        pipe.generate(SOURCE, size=(16, 100))


@pytest.mark.slow
def test_half_precision_runs_where_the_picture_stays_precise(flow_model: Path) -> None:
    half = EditPipeline.from_pretrained(flow_model, torch_dtype=torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    made = half.generate(SOURCE, generator=seeded(), size=SIZE)
    assert half.transformer.dtype == torch.bfloat16
    assert made.trajectory.dtype == torch.float32
    exact = loaded(flow_model).generate(SOURCE, generator=seeded(), size=SIZE)
    torch.testing.assert_close(made.trajectory, exact.trajectory, atol=0.1, rtol=0)


def test_the_network_is_evaluated_between_steps(pipe: EditPipeline, path: InversionResult) -> None:
    network = pipe.prompted_network(path.table, SOURCE)
    z, everyone = path.latents, torch.arange(1)
    assert isinstance(path.table, FlowTable)
    with torch.no_grad():
        own, same = network(z, 2, everyone), network.at(z, 2, everyone, path.table.sigmas[2])
        between = network.at(z, 2, everyone, 0.3)
        embedding = pipe.prompts.embed(pipe.prompts.tokens(SOURCE))
        wanted = network_output(
            pipe.transformer, z, 300.0, embedding, pipe.prompts.length, SIZE, 1.0
        )
    torch.testing.assert_close(same, own, atol=1e-5, rtol=0)
    torch.testing.assert_close(between, wanted, atol=1e-5, rtol=0)
    assert network.evaluations == 3


@pytest.mark.parametrize(
    ("solver", "evaluations"),
    [
        ("rf-solver", 6),
        pytest.param("fireflow", 4, marks=pytest.mark.slow),
        pytest.param("rf-inversion", 3, marks=pytest.mark.slow),
    ],
)
def test_the_peers_invert_and_edit(
    pipe: EditPipeline, picture: Array, solver: str, evaluations: int
) -> None:
    found = pipe.invert(picture, SOURCE, solver=solver)
    kept = pipe.edit(found, SOURCE, TARGET, EditSettings(strength=0.0))
    torch.testing.assert_close(kept.latents, found.trajectory[0], atol=1e-5, rtol=0)
    free = EditSettings(cross_replace_steps=0.0, self_replace_steps=0.0)
    edited = pipe.edit(found, SOURCE, TARGET, free)
    assert edited.nfe == evaluations
    # The control has the source's attention of each step, and holds the edit to it.
    held = pipe.edit(found, SOURCE, TARGET)
    assert (held.latents - edited.latents).abs().max() > 1e-3


def test_attention_is_recorded_anew_under_distilled_guidance(
    distilled_flux: Path, photo: Array
) -> None:
    pipe = loaded(distilled_flux)
    made = pipe.invert(
        photo, num_inference_steps=2, guidance_scale=3.5, max_iterations=100, tolerance=1e-6
    )
    again, _ = pipe.with_attention(replace(made, attention={}))
    assert again.attention.keys() == made.attention.keys()
    for name, value in made.attention.items():
        torch.testing.assert_close(again.attention[name], value, rtol=0.0, atol=1e-4)
