from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from dehaze.errors import DehazeError
from dehaze.eval.probes import codec_roundtrip, reconstruct
from dehaze.inversion import InversionResult
from dehaze.models import ModelError
from dehaze.pipelines.dehaze import DehazePipeline
from dehaze.prompts import WordError

Array = NDArray[np.float32]


@pytest.fixture(scope="module")
def any_pipeline(any_model: Path) -> DehazePipeline:
    """A small random model of every shape; ``pipeline`` is where the codec has to be lossless."""
    loaded = DehazePipeline.from_pretrained(any_model)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.mark.parametrize("size", [(40, 60), (61, 39), (33, 100), (7, 5), (1, 1)])
def test_a_photo_of_any_size_comes_back_at_its_own(
    any_pipeline: DehazePipeline, size: tuple[int, int]
) -> None:
    rng = np.random.default_rng(0)
    result = any_pipeline(rng.random((*size, 3)).astype(np.float32))
    assert result.image.shape == (*size, 3)
    assert result.image.dtype == np.float32
    assert result.attention.shape == size
    assert result.transmission is not None
    assert result.transmission.shape == size
    assert np.isfinite(result.image).all()


@pytest.fixture
def photos(photo: Array) -> list[Array]:
    """Of one padded size, though not of one size: (40, 60), (40, 59), (80, 120)."""
    larger = photo.repeat(2, axis=0).repeat(2, axis=1)
    return [photo, 0.3 + 0.5 * photo[::-1, 1:], 0.9 - 0.2 * larger]


@pytest.mark.parametrize(
    "solver",
    [
        "anderson",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("fixed-point", "edict", "bdia")),
    ],
)
def test_photos_in_a_batch_fare_as_each_of_them_alone(
    pipeline: DehazePipeline, photos: list[Array], solver: str
) -> None:
    """They converge at different steps, and each has a trace of its own."""
    settings: dict[str, Any] = {"solver": solver}
    if solver in ("anderson", "fixed-point"):
        settings |= {"tolerance": 3e-3, "max_iterations": 6}
    together = pipeline(photos, **settings)
    alone = [pipeline(photo, **settings) for photo in photos]
    assert [result.nfe for result in together] == [result.nfe for result in alone]
    if solver == "anderson":
        assert len({tuple(result.trace.iterations.flatten().tolist()) for result in alone}) > 1
    for ours, own in zip(together, alone, strict=True):
        # EDICT divides by its mixing weight at each step, and rounding grows with it.
        tolerance = 3e-3 if solver == "edict" else 2e-4
        np.testing.assert_allclose(ours.image, own.image, atol=tolerance)
        np.testing.assert_allclose(ours.attention, own.attention, atol=1e-5)
        assert ours.trace.worst_residual == pytest.approx(
            own.trace.worst_residual, rel=1e-2, nan_ok=True
        )
        for name, value in vars(own.trace).items():
            assert getattr(ours.trace, name).shape == value.shape


def test_a_batch_takes_a_strength_for_each_photo(
    pipeline: DehazePipeline, photos: list[Array]
) -> None:
    weights = np.zeros(photos[2].shape[:2], np.float32)
    weights[:, 60:] = 1.0
    strengths: list[float | Array] = [0.5, 0.0, weights]
    together = pipeline(photos, strength=strengths)
    for photo, strength, ours in zip(photos, strengths, together, strict=True):
        own = pipeline(photo, strength=strength)
        np.testing.assert_allclose(ours.image, own.image, atol=2e-4)


def test_batch_inversion_is_edited_whole_or_by_sample(
    pipeline: DehazePipeline, photos: list[Array]
) -> None:
    inversion = pipeline.invert(photos, solver="ddim")
    together = pipeline(photos, inversion=inversion)
    for b, photo in enumerate(photos):
        own = pipeline(photo, inversion=inversion.sample(b))
        np.testing.assert_allclose(together[b].image, own.image, atol=2e-4)
        assert inversion.sample(b).trajectory.shape == pipeline.invert(photo).trajectory.shape
    with pytest.raises(ValueError, match="2 photos and 2 strengths do not fit"):
        pipeline(photos[:2], inversion=inversion)


def test_photos_of_several_sizes_are_no_batch(pipeline: DehazePipeline, photo: Array) -> None:
    with pytest.raises(ValueError, match="one padded size, not of"):
        pipeline([photo, photo.swapaxes(0, 1)])
    with pytest.raises(ValueError, match="there is no photo"):
        pipeline([])


def test_strength_zero_returns_what_the_codec_was_given(
    any_pipeline: DehazePipeline, photo: Array
) -> None:
    result = any_pipeline(
        photo, strength=0.0, recovery="none", num_inference_steps=10, max_iterations=2
    )
    small = codec_roundtrip(any_pipeline, photo)
    latents = any_pipeline.codec.encode(photo)
    inversion = any_pipeline.invert(photo, num_inference_steps=10, max_iterations=2)
    back, evaluations = any_pipeline.swap_word(inversion, strength=0.0)
    assert evaluations == 0
    assert (back - latents).abs().max() < 1e-4
    assert result.nfe == int(inversion.trace.nfe.sum())
    assert small.shape == (16, 24, 3)


def test_the_codec_at_the_working_size_is_lossless(pipeline: DehazePipeline) -> None:
    small = np.random.default_rng(1).random((16, 24, 3)).astype(np.float32)
    np.testing.assert_allclose(codec_roundtrip(pipeline, small), small, atol=1e-6)


def test_the_swap_changes_the_photo_and_full_injection_less_so(
    any_pipeline: DehazePipeline, photo: Array
) -> None:
    # The network's output is compared, since recovery shrinks small changes.
    swapped = any_pipeline(photo, recovery="none").image
    still = any_pipeline(photo, recovery="none", strength=0.0).image
    assert np.abs(swapped - still).max() > 1e-3


def test_attention_shares_default_to_the_models_own(pipeline: DehazePipeline, photo: Array) -> None:
    inversion = pipeline.invert(photo)
    own = DehazePipeline.from_pipe(pipeline)
    own.description = replace(pipeline.description, cross_replace_steps=0.0, self_replace_steps=0.0)
    free, controlled = (pipe.swap_word(inversion)[0] for pipe in (own, pipeline))
    assert (free - controlled).abs().max() > 1e-4
    result = own(photo, inversion=inversion, recovery="none").image
    named = pipeline(
        photo, inversion=inversion, recovery="none", cross_replace_steps=0.0, self_replace_steps=0.0
    ).image
    np.testing.assert_array_equal(result, named)
    usual = own(
        photo, inversion=inversion, recovery="none", cross_replace_steps=0.8, self_replace_steps=0.4
    ).image
    np.testing.assert_array_equal(
        usual, pipeline(photo, inversion=inversion, recovery="none").image
    )


def test_a_model_may_take_fewer_steps_back(pipeline: DehazePipeline, photo: Array) -> None:
    inversion = pipeline.invert(photo)
    own = DehazePipeline.from_pipe(pipeline)
    own.description = replace(pipeline.description, denoising_steps=1)
    latents, evaluations = own.swap_word(inversion)
    assert evaluations == 1
    assert (latents - pipeline.swap_word(inversion)[0]).abs().max() > 1e-4
    still, evaluations = own.swap_word(inversion, strength=0.0)
    assert evaluations == 0
    torch.testing.assert_close(still, inversion.trajectory[0], rtol=0, atol=1e-4)
    # EDICT undoes its own steps, so it takes them all.
    exact = pipeline.invert(photo, solver="edict")
    whole, single = (pipe.swap_word(exact) for pipe in (pipeline, own))
    assert torch.equal(whole[0], single[0])


def test_result_is_deterministic(any_pipeline: DehazePipeline, photo: Array) -> None:
    np.testing.assert_array_equal(any_pipeline(photo).image, any_pipeline(photo).image)


def test_nfe_counts_every_evaluation(any_pipeline: DehazePipeline, photo: Array) -> None:
    rows = 0
    forward = any_pipeline.unet.forward

    def counting(latents: Any, *arguments: Any, **named: Any) -> Any:
        nonlocal rows
        # A guided call holds the prompt's row and that of the empty prompt.
        rows += len(latents)
        return forward(latents, *arguments, **named)

    any_pipeline.unet.forward = counting
    for settings in ({}, {"guidance_scale": 2.0}, {"solver": "ddim"}, {"strength": 0.0}):
        rows = 0
        assert any_pipeline(photo, **settings).nfe == rows


def test_guidance_one_is_no_guidance_and_two_is_another_result(
    any_pipeline: DehazePipeline, photo: Array
) -> None:
    # Recovery is off, since it may find no haze in the output of random weights.
    plain = any_pipeline(photo, recovery="none")
    guided = any_pipeline(photo, recovery="none", guidance_scale=2.0)
    assert guided.nfe > plain.nfe
    assert np.abs(guided.image - plain.image).max() > 1e-4


@pytest.mark.parametrize("null_text", ["embedding", "delete"])
def test_both_null_texts_run(any_pipeline: DehazePipeline, photo: Array, null_text: str) -> None:
    result = any_pipeline(photo, "a city in fog", "fog", null_text=null_text)
    assert result.image.shape == photo.shape


def test_a_strength_map_acts_where_it_is_set(pipeline: DehazePipeline, photo: Array) -> None:
    weights = np.zeros(photo.shape[:2], np.float32)
    still = pipeline(photo, strength=weights, recovery="none").image
    np.testing.assert_allclose(
        still, pipeline(photo, strength=0.0, recovery="none").image, atol=1e-5
    )
    weights[:, 40:] = 1.0
    moved = np.abs(pipeline(photo, strength=weights, recovery="none").image - still).mean((0, 2))
    assert moved[45:].mean() > 2 * moved[:20].mean()


def test_the_word_must_be_in_the_prompt(any_pipeline: DehazePipeline, photo: Array) -> None:
    with pytest.raises(WordError, match="smog"):
        any_pipeline.check_prompt(word="smog")
    with pytest.raises(WordError, match="name the word"):
        any_pipeline(photo, "a photo with fog")
    any_pipeline.check_prompt("a photo with fog", "fog")


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"recovery": "magic"}, "physics"),
        ({"null_text": "aloud"}, "embedding"),
        ({"solver": "newton"}, "fixed-point"),
        ({"output_type": "jpg"}, "np, pil, pt"),
        ({"spacing": "even"}, "leading"),
        ({"strength": np.ones((2, 2))}, "strength"),
        ({"strength": -1.0}, "strength is -1.0: it must be 0 to 2"),
        ({"strength": 50}, "strength is 50"),
        ({"strength": float("nan")}, "strength is nan"),
        ({"strength": [float("inf")]}, "strength is inf"),
        ({"guidance_scale": -1.0}, "guidance_scale"),
        ({"cross_replace_steps": 1.5}, "cross_replace_steps"),
        ({"self_replace_steps": float("nan")}, "self_replace_steps"),
        ({"num_inference_steps": 0}, "steps"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"max_iterations": 0}, "max_iterations"),
        ({"depth": 9}, "depth"),
        ({"depth": "2"}, "depth is '2': it must be a whole number"),
        ({"checked": "no"}, "checked is 'no': it must be True or False"),
        ({"strength": "1"}, "strength is '1': it must be a number, or a map of numbers"),
        ({"cross_replace_steps": "all"}, "cross_replace_steps is 'all': it is a share"),
        ({"self_replace_steps": [0.4]}, r"self_replace_steps is \[0.4\]: it is a share"),
        ({"callback_on_step_end": "print"}, "callback_on_step_end is 'print': it must be a func"),
        ({"inversion": "a.inversion"}, "inversion is 'a.inversion': it must be what invert"),
        ({"prompt": ["haze", "fog"]}, r"prompt is \['haze', 'fog'\]: it must be one text"),
        ({"prompt": b"haze"}, "prompt is b'haze': it must be one text"),
        ({"word": ["haze"]}, r"word is \['haze'\]: it must be one text"),
        ({"word": 1}, "word is 1: it must be one text"),
    ],
)
def test_bad_settings_are_named(
    pipeline: DehazePipeline, photo: Array, settings: dict[str, Any], cause: str
) -> None:
    with pytest.raises(ValueError, match=cause) as caught:
        pipeline(photo, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"record_attention": "no"}, "record_attention is 'no': it must be True or False"),
        ({"start": "a.inversion"}, "inversion is 'a.inversion': it must be what invert"),
        ({"prompt": ["haze"]}, r"prompt is \['haze'\]: it must be one text"),
        ({"settings": {"steps": 3}}, r"settings is \{'steps': 3\}: it must be InversionSettings"),
    ],
)
def test_bad_settings_of_an_inversion_are_named(
    pipeline: DehazePipeline, photo: Array, settings: dict[str, Any], cause: str
) -> None:
    with pytest.raises(DehazeError, match=cause):
        pipeline.invert(photo, **settings)


@pytest.mark.parametrize("photo", ["a.jpg", None, Path("a.jpg"), [b"haze"]])
def test_an_input_that_is_no_photo_is_named(pipeline: DehazePipeline, photo: Any) -> None:
    with pytest.raises(ValueError, match=r"not (str|NoneType|.*Path|bytes): read a file with"):
        pipeline(photo)


def test_pil_out_and_callbacks_as_in_diffusers(pipeline: DehazePipeline, photo: Array) -> None:
    seen: list[tuple[int, int, tuple[int, ...]]] = []

    def callback(pipe: Any, step: int, timestep: int, tensors: dict[str, torch.Tensor]) -> None:
        seen.append((step, timestep, tuple(tensors["latents"].shape)))

    result = pipeline(photo, output_type="pil", callback_on_step_end=callback)
    assert isinstance(result.image, Image.Image)
    assert result.image.size == (60, 40)
    assert [step for step, _, _ in seen] == [0, 1, 2, 3]
    timesteps = [timestep for _, timestep, _ in seen]
    assert timesteps == sorted(timesteps, reverse=True)
    assert seen[0][2] == (1, 12, 8, 12)


def test_an_inversion_is_saved_and_swapped_later(
    pipeline: DehazePipeline, photo: Array, tmp_path: Path
) -> None:
    inversion = pipeline.invert(photo)
    inversion.save(tmp_path / "photo.safetensors", attention=True)
    loaded = InversionResult.load(tmp_path / "photo.safetensors")
    whole = pipeline(photo)
    later = pipeline(photo, inversion=loaded)
    np.testing.assert_allclose(later.image, whole.image, atol=1e-6)
    # A saved inversion leaves one evaluation a step, or none.
    assert later.nfe == 4
    assert pipeline(photo, inversion=loaded, strength=0.0).nfe == 0
    assert whole.nfe == later.nfe + int(inversion.trace.nfe.sum())


def test_a_file_without_attention_has_it_recorded_again(
    pipeline: DehazePipeline, photo: Array, tmp_path: Path
) -> None:
    inversion = pipeline.invert(photo, checked=True)
    inversion.save(tmp_path / "photo.safetensors")
    loaded = InversionResult.load(tmp_path / "photo.safetensors")
    expected = pipeline(photo, inversion=inversion)
    found = pipeline(photo, inversion=loaded)
    np.testing.assert_array_equal(found.image, expected.image)
    np.testing.assert_array_equal(found.attention, expected.attention)
    assert found.nfe == expected.nfe + loaded.steps
    heat = pipeline.word_attention(photo, loaded, word="haze")
    np.testing.assert_array_equal(heat, expected.attention)


def test_the_attention_map_is_a_probability(pipeline: DehazePipeline, photo: Array) -> None:
    result = pipeline(photo)
    assert result.attention.min() > 0
    assert result.attention.max() < 1
    inversion = pipeline.invert(photo)
    np.testing.assert_array_equal(pipeline.word_attention(photo, inversion), result.attention)
    one_layer = {"mid_block.attentions.0.transformer_blocks.0.attn2": 1.0}
    chosen = pipeline.word_attention(photo, inversion, layers=one_layer, steps=[4])
    assert np.abs(chosen - result.attention).max() > 1e-4
    stretched = result.attention_normalised()
    assert stretched.min() == 0
    assert stretched.max() == 1


def test_a_saved_pipeline_comes_back_the_same(
    any_model: Path, photo: Array, tmp_path: Path
) -> None:
    pipe = DehazePipeline.from_pretrained(any_model)
    layers = {"mid_block.attentions.0.transformer_blocks.0.attn2": 1.0}
    own = {"map_layers": layers, "vocabulary": frozenset({"a", "photo", "with", "haze"})}
    inversion = replace(pipe.description.inversion, steps=3, max_iterations=2)
    pipe.description = replace(pipe.description, inversion=inversion, **own)
    pipe.save_pretrained(tmp_path / "copy")
    again = DehazePipeline.from_pretrained(tmp_path / "copy")
    assert again.description == pipe.description
    assert again.scheduler.config["_class_name"] == pipe.scheduler.config["_class_name"]
    for one in (pipe, again):
        one.set_progress_bar_config(disable=True)
    before, after = pipe(photo), again(photo)
    assert after.nfe == before.nfe
    np.testing.assert_array_equal(after.image, before.image)


def test_saving_pickled_weights_is_refused(pipeline: DehazePipeline, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="safetensors alone"):
        pipeline.save_pretrained(tmp_path, safe_serialization=False)


@pytest.mark.parametrize("stable_diffusion", ["epsilon", "v_prediction", "xl"], indirect=True)
def test_stable_diffusion_runs_through_the_same_code(stable_diffusion: Path, photo: Array) -> None:
    pipe = DehazePipeline.from_pretrained(stable_diffusion)
    pipe.set_progress_bar_config(disable=True)
    result = pipe(photo, num_inference_steps=4, max_iterations=3)
    assert result.image.shape == photo.shape
    assert np.isfinite(result.image).all()
    assert result.attention.shape == photo.shape[:2]
    assert pipe.description.size_multiple == 4
    assert pipe.description.short_side == 32
    latents = pipe.codec.encode(photo)
    inversion = pipe.invert(photo, num_inference_steps=4)
    assert (inversion.trajectory[0] - latents).abs().max() == 0
    back, _ = pipe.swap_word(inversion, strength=0.0)
    assert (back - latents).abs().max() < 1e-4


def test_the_codecs_own_scaling_is_used(stable_diffusion: Path, photo: Array) -> None:
    pipe = DehazePipeline.from_pretrained(stable_diffusion)
    small = torch.from_numpy(photo).permute(2, 0, 1)[None] * 2 - 1
    small = torch.nn.functional.interpolate(small, size=(32, 48), mode="area")
    with torch.no_grad():
        mode = pipe.vae.encode(small).latent_dist.mode()
    got = pipe.codec.encode(small[0].permute(1, 2, 0).numpy() / 2 + 0.5)
    torch.testing.assert_close(got, mode * 0.31, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_latents_in_single(
    random_model: Path, photo: Array, dtype: torch.dtype
) -> None:
    pipe = DehazePipeline.from_pretrained(random_model, torch_dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.unet.dtype == dtype
    assert pipe.vae.dtype == torch.float32
    quick: dict[str, Any] = {"num_inference_steps": 2, "max_iterations": 1}
    inversion = pipe.invert(photo, **quick)
    assert inversion.trajectory.dtype == torch.float32
    assert np.isfinite(pipe(photo, **quick).image).all()


def test_reconstruction_runs_the_network_on_the_way_back(
    pipeline: DehazePipeline, photo: Array
) -> None:
    small, exact = reconstruct(pipeline, photo, max_iterations=30, tolerance=1e-7)
    _, plain = reconstruct(pipeline, photo, solver="ddim")
    assert small.shape == exact.shape == (16, 24, 3)
    assert np.abs(exact - small).max() < 5e-3
    assert np.abs(plain - small).mean() > 20 * np.abs(exact - small).mean()


@pytest.mark.parametrize("method", ["edict", "bdia"])
def test_exact_methods_swap_the_word_along_their_own_way_back(
    pipeline: DehazePipeline, photo: Array, method: str
) -> None:
    inversion = pipeline.invert(photo, num_inference_steps=4, solver=method)
    untouched, evaluations = pipeline.swap_word(inversion, strength=0.0)
    assert evaluations == 0
    assert (untouched - inversion.trajectory[0]).abs().max() < 1e-4
    swapped, evaluations = pipeline.swap_word(inversion)
    assert evaluations == {"edict": 8, "bdia": 3}[method]
    assert (swapped - inversion.trajectory[0]).abs().max() > 1e-3
    original, back = reconstruct(pipeline, photo, num_inference_steps=4, solver=method)
    # Exact up to float32's rounding, which the coupling and the network amplify.
    assert np.abs(original - back).max() < 5e-3
    assert np.isfinite(pipeline(photo, num_inference_steps=4, solver=method).image).all()


@pytest.mark.slow
def test_a_mode_holds_a_guided_way_back(pipeline: DehazePipeline, photo: Array) -> None:
    settings: dict[str, Any] = {
        "num_inference_steps": 4, "tolerance": 1e-5, "max_iterations": 15, "guidance_scale": 3.0,
    }  # fmt: skip
    error = {
        mode: float(
            np.abs(np.subtract(*reconstruct(pipeline, photo, mode=mode, **settings))).mean()
        )
        for mode in ("plain", "negative-prompt", "direct")
    }
    assert error["negative-prompt"] < 0.1 * error["plain"]
    assert error["direct"] < 0.1 * error["plain"]
    with pytest.raises(ValueError, match=r"magic.*null-text"):
        reconstruct(pipeline, photo, mode="magic", **settings)


def test_an_adjusted_inversion_starts_elsewhere(pipeline: DehazePipeline, photo: Array) -> None:
    plain = pipeline.invert(photo, num_inference_steps=4)
    adjusted = pipeline.invert(photo, num_inference_steps=4, adjustment="noise-denoise")
    change = (adjusted.trajectory[0] - plain.trajectory[0]).norm() / plain.trajectory[0].norm()
    assert plain.adjustment is None
    assert adjusted.adjustment is not None
    assert float(adjusted.adjustment[0]) == pytest.approx(float(change), rel=1e-4)
    assert float(change) > 1e-4
    assert int(adjusted.trace.nfe.sum()) >= 4 + 4


@pytest.mark.slow
def test_the_fitted_settings_beat_plain_inversion(bundled: DehazePipeline, photo: Array) -> None:
    def lost(**settings: Any) -> float:
        original, back = reconstruct(bundled, photo, num_inference_steps=20, **settings)
        return float(np.sqrt(np.square(original - back).mean()))

    best = bundled.description.reconstructing(20)
    assert lost(settings=best) < 0.1 * lost(solver="ddim")
    assert bundled.invert(photo, settings=best).trace.nfe.sum() <= 1.6 * 20
