from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from dehaze.attention.control import AttentionControl, ControlError
from dehaze.attention.session import RecordingPlan
from dehaze.eval.probes import retrace
from dehaze.inversion import InversionMismatchError, InversionResult
from dehaze.inversion.schedule import ScheduleError
from dehaze.models.clip import load_clip
from dehaze.network import NonFiniteError
from dehaze.pipelines.edit import EditPipeline
from dehaze.pipelines.edit_plan import EditPlan
from dehaze.pipelines.edit_settings import EditSettings
from dehaze.prompts import WordError

Array = NDArray[np.float32]
SOURCE, TARGET = "a street with haze", "a street with snow"


@pytest.fixture(scope="module")
def pipe(any_model: Path) -> EditPipeline:
    loaded = EditPipeline.from_pretrained(any_model)
    # A random network hardly depends on its prompt, so its attention to words is strengthened.
    with torch.no_grad():
        for name, weight in loaded.unet.named_parameters():
            if "attn2.to_" in name and "bias" not in name:
                weight.mul_(4.0)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture(scope="module")
def inversion(pipe: EditPipeline) -> InversionResult:
    """The path of a generated picture, which has no inversion error."""
    return pipe.generate(SOURCE, generator=seeded(1), size=(16, 24))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def change(pipe: EditPipeline, inversion: InversionResult, **settings: Any) -> torch.Tensor:
    target = settings.pop("target", TARGET)
    edited = pipe.edit(inversion, SOURCE, target, EditSettings(**settings))
    return edited.latents - inversion.trajectory[0]


def test_a_photo_is_edited_at_its_own_size(pipe: EditPipeline, photo: Array) -> None:
    result = pipe(photo, SOURCE, TARGET, max_iterations=3)
    assert result.image.shape == photo.shape
    assert result.source.shape == (16, 24, 3)
    assert np.abs(result.image - photo).max() > 1e-3
    assert result.nfe == int(result.trace.nfe.sum()) + 4
    assert (result.mask, result.scores) == (None, ())
    picture = pipe(photo, SOURCE, TARGET, max_iterations=3, output_type="pil").image
    assert isinstance(picture, Image.Image)
    assert picture.size == (60, 40)
    alone = pipe(photo, SOURCE, TARGET, max_iterations=3, return_dict=False)
    np.testing.assert_array_equal(alone[0], result.image)
    assert len(alone) == 1


def test_edit_of_a_saved_inversion_costs_half_at_most(
    pipe: EditPipeline, photo: Array, tmp_path: Path
) -> None:
    whole = pipe(photo, SOURCE, TARGET)
    pipe.invert(photo, SOURCE).save(tmp_path / "photo.safetensors", attention=True)
    saved = InversionResult.load(tmp_path / "photo.safetensors")
    again = pipe(photo, SOURCE, TARGET, inversion=saved)
    np.testing.assert_allclose(again.image, whole.image, atol=1e-6)
    other = pipe(photo, SOURCE, "a street with rain", inversion=saved)
    assert again.nfe == other.nfe == saved.steps
    assert 2 * again.nfe <= whole.nfe
    assert np.abs(other.image - again.image).max() > 1e-3


def test_a_file_without_attention_has_it_recorded_again(
    pipe: EditPipeline, photo: Array, tmp_path: Path
) -> None:
    """With ``checked`` the solver's last evaluation was at z_i itself."""
    inversion = pipe.invert(photo, SOURCE, checked=True)
    for name, attention in (("whole", True), ("bare", False)):
        inversion.save(tmp_path / name, attention=attention)
    assert 2 * (tmp_path / "bare").stat().st_size < (tmp_path / "whole").stat().st_size
    whole, bare = (InversionResult.load(tmp_path / name) for name in ("whole", "bare"))
    assert bare.attention == {}
    expected, found = (pipe(photo, SOURCE, TARGET, inversion=each) for each in (whole, bare))
    np.testing.assert_array_equal(found.image, expected.image)
    # The first three of four steps follow the source, see ``cross_replace_steps``.
    assert found.nfe == expected.nfe + 3
    own = EditSettings(cross_replace_steps=0.0, self_replace_steps=0.0)
    assert pipe(photo, SOURCE, TARGET, own, inversion=bare).nfe == expected.nfe
    plan = pipe.recording(SOURCE, TARGET)
    again, _ = pipe.with_attention(bare, plan=plan)
    assert set(again.attention) == set(pipe.invert(photo, SOURCE, record_attention=plan).attention)


def test_a_generated_picture_records_the_attention_of_its_edit(pipe: EditPipeline) -> None:
    whole = pipe.generate(SOURCE, generator=seeded(3))
    plan = pipe.recording(SOURCE, TARGET)
    less = pipe.generate(SOURCE, generator=seeded(3), record_attention=plan)
    assert len(less.attention) < len(whole.attention)
    expected, found = (pipe(None, SOURCE, TARGET, inversion=path) for path in (whole, less))
    np.testing.assert_array_equal(found.image, expected.image)


@pytest.mark.parametrize(("mode", "records"), [("direct", True), ("negative-prompt", False)])
def test_attention_is_recorded_once(
    pipe: EditPipeline,
    photo: Array,
    mode: str,
    records: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A mode that records it on the way back leaves nothing for the inversion to record."""
    plans: list[RecordingPlan | None] = []
    session = pipe.recording_session
    monkeypatch.setattr(
        pipe, "recording_session", lambda batch, plan: plans.append(plan) or session(batch, plan)
    )
    pipe(photo, SOURCE, TARGET, EditSettings(mode=mode, guidance_scale=2.0), solver="ddim")
    inverting, anchoring = plans
    assert anchoring is not None
    assert (inverting is None) is records


def test_the_inversion_has_a_guidance_of_its_own(pipe: EditPipeline, photo: Array) -> None:
    settings = EditSettings(guidance_scale=2.0)
    plain, guided = (
        pipe(photo, SOURCE, TARGET, settings, solver="ddim", inversion_guidance_scale=scale)
        for scale in (None, 2.0)
    )
    assert (plain.nfe, guided.nfe) == (4 + 8, 8 + 8)
    assert np.abs(plain.image - guided.image).max() > 1e-4
    inverted = pipe.invert(photo, SOURCE, solver="ddim", guidance_scale=2.0)
    again = pipe(photo, SOURCE, TARGET, settings, inversion=inverted)
    np.testing.assert_array_equal(again.image, guided.image)
    with pytest.raises(InversionMismatchError, match="with steps 4, not 3"):
        pipe(photo, SOURCE, TARGET, inversion=inverted, num_inference_steps=3)
    with pytest.raises(InversionMismatchError, match="solver 'ddim', not 'edict'"):
        pipe(photo, SOURCE, TARGET, inversion=inverted, solver="edict")
    with pytest.raises(ValueError, match="when the inversion was made"):
        pipe(photo, SOURCE, TARGET, inversion=inverted, inversion_guidance_scale=2.0)


def test_a_generated_picture_is_edited_without_an_inversion(pipe: EditPipeline) -> None:
    path = pipe.generate(SOURCE, generator=seeded(3))
    assert int(path.trace.nfe.sum()) == path.steps == 4
    same = pipe.generate(SOURCE, generator=seeded(3))
    assert torch.equal(path.trajectory, same.trajectory)
    assert not torch.equal(path.latents, pipe.generate(SOURCE, generator=seeded(4)).latents)
    # Every step of the path solves its equation, so the source prompt reconstructs it.
    torch.testing.assert_close(retrace(pipe, path), path.trajectory[0], atol=1e-4, rtol=0)
    result = pipe(None, SOURCE, TARGET, inversion=path)
    assert result.image.shape == result.source.shape == (16, 16, 3)
    assert result.nfe == 4
    guided = pipe.generate(SOURCE, generator=seeded(3), guidance_scale=3.0)
    assert int(guided.trace.nfe.sum()) == 8
    back = retrace(pipe, guided, guidance_scale=3.0)
    torch.testing.assert_close(back, guided.trajectory[0], atol=1e-4, rtol=0)


def test_strength_zero_is_the_source_and_costs_nothing(
    pipe: EditPipeline, inversion: InversionResult
) -> None:
    edited = pipe.edit(inversion, SOURCE, TARGET, EditSettings(strength=0.0))
    torch.testing.assert_close(edited.latents, inversion.trajectory[0], atol=1e-5, rtol=0)
    assert edited.nfe == 0


def test_fresh_source_agrees_at_strength_one_and_costs_twice(
    pipe: EditPipeline, inversion: InversionResult
) -> None:
    fresh = pipe.edit(inversion, SOURCE, TARGET, EditSettings(fresh_source=True))
    cached = pipe.edit(inversion, SOURCE, TARGET)
    torch.testing.assert_close(fresh.latents, cached.latents, atol=1e-5, rtol=0)
    assert (fresh.nfe, cached.nfe) == (8, 4)
    # Beyond strength 1 the two differ.
    more = [
        change(pipe, inversion, strength=1.5, fresh_source=fresh_source)
        for fresh_source in (False, True)
    ]
    assert (more[0] - more[1]).abs().max() > 1e-3
    assert min(float(other.norm()) for other in more) > float(change(pipe, inversion).norm())


def test_the_source_at_its_own_latents_is_no_edit(
    pipe: EditPipeline, inversion: InversionResult
) -> None:
    """Both prompts alike: the fresh noise of the source is that of the path."""
    settings = EditSettings(strength=1.7, fresh_source=True)
    edited = pipe.edit(inversion, SOURCE, None, settings)
    torch.testing.assert_close(edited.latents, inversion.trajectory[0], atol=1e-4, rtol=0)


def test_guidance_1_is_none_and_more_changes_more(
    pipe: EditPipeline, inversion: InversionResult
) -> None:
    edited = pipe.edit(inversion, SOURCE, TARGET, EditSettings(guidance_scale=2.0))
    assert edited.nfe == 8
    assert (edited.latents - pipe.edit(inversion, SOURCE, TARGET).latents).abs().max() > 1e-3


def test_blended_guidance_lies_between_its_two_scales(
    pipe: EditPipeline, inversion: InversionResult
) -> None:
    low, high = (change(pipe, inversion, guidance_scale=g) for g in (1.0, 3.0))
    alike = change(pipe, inversion, guidance_scale=3.0, guidance_outside=3.0)
    torch.testing.assert_close(alike, high, atol=1e-4, rtol=0)
    blended = change(pipe, inversion, guidance_scale=3.0, guidance_outside=1.0)
    nearer = (blended - low).norm(), (blended - high).norm(), (high - low).norm()
    assert nearer[0] < nearer[2]
    assert nearer[1] < nearer[2]
    named = change(pipe, inversion, guidance_scale=3.0, guidance_outside=1.0, focus="haze")
    assert torch.equal(named, blended)


def test_the_focus_is_where_the_latents_are(pipe: EditPipeline, inversion: InversionResult) -> None:
    """On an accelerator the attention of a saved inversion stays on the host, as simulated here."""
    settings = EditSettings(guidance_scale=3.0, guidance_outside=1.0, focus="haze")
    plan = EditPlan(pipe.prompts.tokens(SOURCE), pipe.prompts.tokens(TARGET), settings)
    elsewhere = replace(inversion, trajectory=inversion.trajectory.to("meta"))
    focus = plan.focus_map(elsewhere, None)
    assert focus is not None
    assert focus.device.type == "meta"
    assert focus.shape == (1, 1, *inversion.latent_size)


@pytest.mark.parametrize("mode", ["null-text", "negative-prompt"])
@pytest.mark.slow
def test_modes_of_embeddings_bring_guidance_nearer_to_the_source(
    pipe: EditPipeline, inversion: InversionResult, mode: str
) -> None:
    settings: dict[str, Any] = {
        "target": SOURCE, "guidance_scale": 4.0, "cross_replace_steps": 0.0,
        "self_replace_steps": 0.0,
    }  # fmt: skip
    lost = change(pipe, inversion, **settings).norm()
    kept = change(pipe, inversion, mode=mode, **settings).norm()
    assert kept < 0.6 * lost
    # The edit still changes the picture.
    assert change(pipe, inversion, mode=mode, guidance_scale=4.0).abs().max() > 1e-2


def test_the_anchors_of_a_mode_are_counted(pipe: EditPipeline, inversion: InversionResult) -> None:
    direct = pipe.edit(inversion, SOURCE, TARGET, EditSettings(mode="direct", guidance_scale=2.0))
    assert direct.nfe == 2 * 4 + 2 * 4


def test_a_blend_leaves_the_rest_as_it_was(pipe: EditPipeline, inversion: InversionResult) -> None:
    settings = EditSettings(blend=("street",), blend_threshold=0.97)
    edited = pipe.edit(inversion, SOURCE, TARGET, settings)
    assert edited.mask is not None
    assert edited.mask.shape == (1, 1, 8, 12)
    outside = (1.0 - edited.mask) * (edited.latents - inversion.trajectory[0])
    assert 0.0 < edited.mask.mean() < 1.0
    assert outside.abs().max() == 0.0
    assert (edited.latents - inversion.trajectory[0]).abs().max() > 1e-3


def test_a_blend_holds_both_latents_of_edict(
    pipe: EditPipeline, photo: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At threshold 1 nothing is let through: each step begins at the inversion's own latents."""
    inversion = pipe.invert(
        photo, SOURCE, settings=pipe.description.inversion.changed(steps=4, solver="edict")
    )
    seen: list[torch.Tensor] = []
    forward = pipe.denoiser.forward
    monkeypatch.setattr(
        pipe.denoiser,
        "forward",
        lambda sample, *rest, **named: (seen.append(sample), forward(sample, *rest, **named))[1],
    )
    settings = EditSettings(blend=("street",), blend_threshold=1.0)
    edited = pipe.edit(inversion, SOURCE, TARGET, settings)
    assert torch.equal(edited.latents, inversion.trajectory[0])
    # Two evaluations a step, steps 4 to 1; the first of a step is at one latent as it was left.
    both = inversion.trajectory, inversion.companion["trajectory"]
    for i, sample in zip(range(4, 0, -1), seen[::2], strict=True):
        assert torch.equal(sample, both[i % 2][i])


def test_a_blend_holds_a_picture_by_bdia(pipe: EditPipeline, photo: Array) -> None:
    """Its first step back takes no evaluation, so there is no attention to blend by."""
    settings = pipe.description.inversion.changed(steps=4, solver="bdia")
    inversion = pipe.invert(photo, SOURCE, settings=settings)
    edited = pipe.edit(
        inversion, SOURCE, TARGET, EditSettings(blend=("street",), blend_threshold=0.97)
    )
    assert edited.mask is not None
    assert 0.0 < edited.mask.mean() < 1.0
    outside = (1.0 - edited.mask) * (edited.latents - inversion.trajectory[0])
    assert outside.abs().max() == 0.0
    assert (edited.latents - inversion.trajectory[0]).abs().max() > 1e-3


def test_a_blend_at_strength_0_is_the_source(
    pipe: EditPipeline, inversion: InversionResult
) -> None:
    settings = EditSettings(blend=("street",), strength=0.0)
    edited = pipe.edit(inversion, SOURCE, TARGET, settings)
    torch.testing.assert_close(edited.latents, inversion.trajectory[0], atol=1e-5, rtol=0)
    assert edited.mask is None


def test_a_strength_map_acts_where_it_is_set(pipe: EditPipeline, photo: Array) -> None:
    weights = np.zeros(photo.shape[:2], np.float32)
    weights[:, 30:] = 1.0
    found = pipe.invert(photo, SOURCE)
    settings = EditSettings(strength=weights)
    edited = pipe.edit(found, SOURCE, TARGET, settings, photo=photo)
    moved = (edited.latents - found.trajectory[0]).abs().mean((0, 1, 2))
    assert moved[8:].mean() > 2 * moved[:4].mean()
    with pytest.raises(ValueError, match="needs the photo"):
        pipe.edit(found, SOURCE, TARGET, settings)


def test_the_best_of_several_samples_is_kept(
    pipe: EditPipeline, inversion: InversionResult
) -> None:
    settings = EditSettings(eta=0.8, samples=4)
    edited = pipe.edit(inversion, SOURCE, TARGET, settings, generator=seeded(5))
    assert len(edited.scores) == 4
    assert len(set(edited.scores)) == 4
    assert edited.nfe == 16
    # One generator draws for one sample after the other.
    generator, one = seeded(5), EditSettings(eta=0.8)
    alone = [
        pipe.edit(inversion, SOURCE, TARGET, one, generator=generator).latents for _ in range(4)
    ]
    assert torch.equal(alone[int(np.argmax(edited.scores))], edited.latents)
    again = pipe.edit(inversion, SOURCE, TARGET, settings, generator=seeded(5))
    assert torch.equal(edited.latents, again.latents)


def test_the_best_sample_by_a_given_score_is_kept(pipe: EditPipeline) -> None:
    seen: list[NDArray[np.uint8]] = []

    def middle(picture: NDArray[np.uint8], prompt: str) -> float:
        assert prompt == "a street with snow"
        seen.append(picture)
        return -abs(len(seen) - 2.0)

    # No word of the source is being edited, and none is needed.
    path = pipe.generate("a street", generator=seeded(1), size=(16, 24), num_inference_steps=2)
    settings = EditSettings(eta=0.8, samples=3, score=middle)
    edited = pipe.edit(path, "a street", TARGET, settings, generator=seeded(5))
    assert edited.scores == (-1.0, 0.0, -1.0)
    generator, one = seeded(5), EditSettings(eta=0.8)
    alone = [
        pipe.edit(path, "a street", TARGET, one, generator=generator).latents for _ in range(3)
    ]
    assert torch.equal(edited.latents, alone[1])
    for picture, latents in zip(seen, alone, strict=True):
        made = pipe.codec.decode(latents, (16, 24))
        assert picture.dtype == np.uint8
        assert np.abs(picture / 255.0 - made).max() <= 0.5 / 255.0 + 1e-6
    broken = EditSettings(eta=0.8, samples=2, score=lambda picture, prompt: math.nan)
    with pytest.raises(NonFiniteError, match="score of a sample is nan"):
        pipe.edit(path, "a street", TARGET, broken)


def test_clip_scores_the_picture_that_is_returned(pipe: EditPipeline, clip_model: Path) -> None:
    clip = load_clip(str(clip_model))
    path = pipe.generate("a street", generator=seeded(2), num_inference_steps=2)
    settings = EditSettings(eta=0.9, samples=3, score=clip)
    result = pipe(None, "a street", TARGET, settings, inversion=path, generator=seeded(3))
    saved = np.rint(255.0 * result.image).astype(np.uint8)
    assert max(result.scores) == pytest.approx(clip(saved, TARGET), abs=1e-4)
    assert len(set(result.scores)) == 3


def test_noise_between_steps_needs_two(pipe: EditPipeline, inversion: InversionResult) -> None:
    once = EditPipeline.from_pipe(pipe)
    once.description = replace(pipe.description, denoising_steps=1)
    noisy = EditSettings(eta=0.5)
    if inversion.table.alphas[0] == 1.0:
        with pytest.raises(ValueError, match="single step"):
            once.edit(inversion, SOURCE, TARGET, noisy)
    else:
        # Stable Diffusion's last step leaves a little noise, so there is some to draw.
        drawn = once.edit(inversion, SOURCE, TARGET, noisy, generator=seeded(5)).latents
        assert not torch.equal(drawn, once.edit(inversion, SOURCE, TARGET).latents)


@pytest.mark.parametrize("solver", ["edict", "bdia"])
def test_noise_of_ddims_steps_is_not_a_samplers(
    pipe: EditPipeline, photo: NDArray[np.float32], solver: str
) -> None:
    noisy, cause = EditSettings(eta=0.5), f"{solver} goes back by steps of its own"
    with pytest.raises(ScheduleError, match=cause):
        pipe(photo, SOURCE, TARGET, noisy, solver=solver)
    inversion = pipe.invert(photo, SOURCE, solver=solver, num_inference_steps=2)
    with pytest.raises(ScheduleError, match=cause):
        pipe.edit(inversion, SOURCE, TARGET, noisy)


def test_a_step_of_the_edit_calls_back(pipe: EditPipeline, inversion: InversionResult) -> None:
    steps: list[int] = []
    pipe.edit(
        inversion,
        SOURCE,
        TARGET,
        callback_on_step_end=lambda owner, step, timestep, tensors: steps.append(step),
    )
    assert steps == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"mode": "magic"}, "null-text"),
        ({"mode": "direct"}, "guidance_scale"),
        ({"mode": "direct", "guidance_scale": 2.0, "guidance_outside": 1.0}, "plain"),
        ({"exclude": ("street",)}, "blend"),
        ({"eta": 2.0}, "eta is 2.0: it must be 0 to 1"),
        ({"eta": math.nan}, "eta"),
        ({"strength": -1.0}, "strength is -1.0: it must be 0 to 2"),
        ({"strength": 50.0}, "strength"),
        ({"strength": math.nan}, "strength"),
        ({"strength": np.full((40, 60), 3.0)}, "strength is 3.0"),
        ({"guidance_scale": -1.0}, "guidance_scale"),
        ({"guidance_outside": math.inf, "guidance_scale": 2.0}, "guidance_outside"),
        ({"blend_threshold": 1.5, "blend": ("street",)}, "blend_threshold"),
        ({"word_weights": {"snow": math.nan}}, "the weight of 'snow' is nan"),
        ({"self_replace_steps": 1.5}, "self_replace_steps"),
        ({"samples": 3}, "eta"),
        ({"samples": 0}, "at least 1"),
        ({"blend_threshold": 0.5}, "blend_threshold has no effect without a blend"),
        ({"samples": 2.5, "eta": 0.5}, "samples is 2.5: it must be a whole number"),
        ({"blend": "street"}, "blend is 'street': it must be several texts"),
        ({"blend": ("street",), "exclude": "haze"}, "exclude is 'haze': it must be several"),
        ({"blend": (1,)}, "a word of blend is 1: it must be one text"),
        ({"word_weights": ("snow", 2.0)}, "word_weights is .*: it must be a dict"),
        ({"word_weights": {"snow": "2"}}, "the weight of 'snow' is '2': it must be a finite"),
        ({"cross_replace_steps": {"snow": "all"}}, "cross_replace_steps of 'snow' is 'all'"),
        ({"fresh_source": "no"}, "fresh_source is 'no': it must be True or False"),
        ({"score": lambda picture, prompt: 0.0}, "chooses among several samples"),
        ({"focus": "haze"}, "focus has no effect"),
        (
            {"focus": "haze", "eta": 0.5, "samples": 2, "score": lambda picture, prompt: 0.0},
            "focus has no effect",
        ),
        ({"control": "swirl"}, "replace, refine, reweight"),
        ({"blend": ("rain",)}, "rain.*a, street, with, haze"),
        ({"word_weights": {"rain": 2.0}}, "rain.*a, street, with, snow"),
        ({"cross_replace_steps": -1.0}, "cross_replace_steps"),
        ({"guidance_outside": 1.0, "guidance_scale": 2.0, "focus": "fog"}, "fog"),
    ],
)
def test_bad_settings_are_named(
    pipe: EditPipeline, photo: Array, settings: dict[str, Any], cause: str
) -> None:
    with pytest.raises(ValueError, match=cause):
        pipe(photo, SOURCE, TARGET, EditSettings(**settings))


def test_inputs_that_cannot_be_edited_are_named(pipe: EditPipeline, photo: Array) -> None:
    with pytest.raises(ValueError, match="generator draws the noise of eta, which is 0"):
        pipe(photo, SOURCE, TARGET, generator=seeded(1))
    with pytest.raises(ValueError, match="neither a photo nor an inversion"):
        pipe(None, SOURCE, TARGET)
    with pytest.raises(ValueError, match="affine"):
        pipe(photo, SOURCE, TARGET, recovery="magic")
    with pytest.raises(ValueError, match="there is no photo"):
        pipe(None, SOURCE, TARGET, inversion=pipe.generate(SOURCE), recovery="affine")
    with pytest.raises(ValueError, match="np, pil, pt"):
        pipe(photo, SOURCE, TARGET, output_type="jpg")
    with pytest.raises(ValueError, match="multiples of 4"):
        pipe.generate(SOURCE, size=(16, 15))
    several = EditSettings(eta=0.5, samples=2)
    with pytest.raises(WordError, match="focus"):
        pipe(photo, "a street", "a street with snow", several)
    of_itself = RecordingPlan(AttentionControl(cross_replace_steps=0.0), map_layers=())
    bare = pipe.generate(SOURCE, record_attention=of_itself)
    with pytest.raises(ControlError, match="no cross-attention was recorded"):
        pipe.edit(bare, SOURCE, TARGET, EditSettings(blend=("street",)))


# Latents of 64 x 96, as Stable Diffusion's at 512 x 768, and of 128 x 192, as XL's at 1024 x 1536.
@pytest.mark.parametrize(
    ("model", "size"),
    [
        ("stable_diffusion_1", (128, 192)),
        pytest.param("stable_diffusion_xl", (256, 384), marks=pytest.mark.slow),
    ],
)
def test_self_replace_steps_act_at_large_sizes(
    request: pytest.FixtureRequest, model: str, size: tuple[int, int]
) -> None:
    pipe = EditPipeline.from_pretrained(request.getfixturevalue(model))
    pipe.set_progress_bar_config(disable=True)
    path = pipe.generate(SOURCE, generator=seeded(1), size=size, num_inference_steps=1)
    followed, free = (
        change(pipe, path, cross_replace_steps=0.0, self_replace_steps=share)
        for share in (1.0, 0.0)
    )
    assert not torch.equal(followed, free)


def test_an_inversion_of_several_photos_is_refused(pipe: EditPipeline, photo: Array) -> None:
    both = pipe.invert([photo, photo[::-1]], "a street with haze")
    with pytest.raises(ValueError, match="is of several photos: take one by sample"):
        pipe(None, "a street with haze", "a street with snow", inversion=both)
