"""Modes that hold guided denoising to the inversion while a photo is dehazed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dehaze.inversion import InversionMismatchError
from dehaze.inversion.reconstruction import RECONSTRUCTION_MODES
from dehaze.pipelines.dehaze import DehazePipeline
from dehaze.ranges import RangeError

Array = NDArray[np.float32]
GUIDED: dict[str, Any] = {"guidance_scale": 3.0, "num_inference_steps": 2, "solver": "ddim"}


@pytest.fixture
def pipeline(stable_diffusion_1: Path) -> DehazePipeline:
    """A small network, since a fit goes through it ten times a step."""
    loaded = DehazePipeline.from_pretrained(stable_diffusion_1)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture
def photos(photo: Array) -> list[Array]:
    return [photo, 0.3 + 0.5 * photo[::-1]]


@pytest.mark.parametrize("mode", RECONSTRUCTION_MODES.names())
def test_photos_held_in_a_batch_fare_as_each_alone(
    pipeline: DehazePipeline, photos: list[Array], mode: str
) -> None:
    settings = GUIDED | {"mode": mode, "num_inference_steps": 1, "cross_replace_steps": 1.0}
    together = pipeline(photos, **settings)
    alone = [pipeline(each, **settings) for each in photos]
    for ours, own in zip(together, alone, strict=True):
        assert ours.nfe == own.nfe
        np.testing.assert_allclose(ours.image, own.image, atol=2e-4)
        np.testing.assert_allclose(ours.attention, own.attention, atol=1e-5)


def test_a_mode_inverts_at_guidance_one(pipeline: DehazePipeline, photo: Array) -> None:
    both = pipeline(photo, **GUIDED)
    plain = pipeline(photo, mode="plain", **GUIDED)
    assert (int(both.trace.nfe.sum()), both.nfe) == (4, 8)
    assert (int(plain.trace.nfe.sum()), plain.nfe) == (2, 6)
    assert np.abs(both.image - plain.image).max() > 1e-4
    guided = pipeline.invert(photo, **GUIDED)
    with pytest.raises(InversionMismatchError, match=r"guidance_scale 3\.0, not 1\.0"):
        pipeline(photo, inversion=guided, mode="plain", **GUIDED)


def test_plain_at_guidance_one_is_no_mode(pipeline: DehazePipeline, photo: Array) -> None:
    settings = GUIDED | {"guidance_scale": None}
    np.testing.assert_array_equal(
        pipeline(photo, mode="plain", **settings).image, pipeline(photo, **settings).image
    )


def test_a_held_way_back_takes_every_step(pipeline: DehazePipeline, photo: Array) -> None:
    """It ignores the model's own number of steps, and the fit's evaluations are counted."""
    pipeline.description = replace(pipeline.description, denoising_steps=1)
    assert pipeline(photo, mode="plain", **GUIDED).nfe == 2 + 2 * 1
    assert pipeline(photo, mode="negative-prompt", **GUIDED).nfe == 2 + 2 * 2
    fit = pipeline(photo, mode="null-text", **GUIDED).nfe - (2 + 2 * 2)
    assert 3 * 2 <= fit <= 12 * 2


@pytest.mark.parametrize(
    ("chosen", "error", "cause"),
    [
        ({"mode": "null-text", "guidance_scale": 1.0}, ValueError, "above 1"),
        ({"mode": "null-text", "guidance_scale": None}, ValueError, "above 1"),
        ({"mode": "direct", "solver": "edict"}, ValueError, "edict inverts another"),
        ({"mode": "magic"}, ValueError, r"magic.*null-text"),
        ({"mode": "plain", "guidance_scale": 90.0}, RangeError, "0 to 50"),
    ],
)
def test_a_mode_that_cannot_hold_is_refused_at_once(
    pipeline: DehazePipeline,
    photo: Array,
    chosen: dict[str, Any],
    error: type[Exception],
    cause: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def ran(*arguments: Any) -> None:
        raise AssertionError("the network ran")

    monkeypatch.setattr(pipeline.unet, "forward", ran)
    with pytest.raises(error, match=cause):
        pipeline(photo, **GUIDED | chosen)


def test_null_text_of_a_batch_is_refused_by_its_fit(
    pipeline: DehazePipeline, photos: list[Array]
) -> None:
    inversion = pipeline.invert(photos, num_inference_steps=2, solver="ddim")
    with pytest.raises(ValueError, match="one sample of the batch"):
        pipeline.anchor(inversion, "null-text", guidance_scale=3.0)
