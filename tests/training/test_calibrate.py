from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import cv2
import numpy as np
import pytest

from dehaze.datasets.synthesis import RenderedHaze, render_haze
from dehaze.pipelines.dehaze import DehazePipeline
from training.calibrate import calibrate


def renderings() -> list[RenderedHaze]:
    """Haze over scenes whose darkest pixels are black."""
    scenes = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        coarse = rng.random((6, 9, 3)).astype(np.float32)
        clear = np.clip(cv2.resize(coarse, (90, 60), interpolation=cv2.INTER_CUBIC), 0.05, 1.0)
        clear[::4, ::4] = 0.0
        scenes.append(render_haze(clear, rng, density=0.1 + 0.1 * seed, homogeneous=True))
    return scenes


def pipeline_that_finds(share: float, scenes: list[RenderedHaze]) -> DehazePipeline:
    """Knows the truth, and finds ``share`` of every veil."""
    known = {haze.hazy.tobytes(): haze for haze in scenes}

    def call(image: Any, recovery: str) -> SimpleNamespace:
        assert recovery == "physics"
        haze = known[image.tobytes()]
        transmission = np.asarray(1.0 - share * (1.0 - haze.transmission), dtype=np.float32)
        return SimpleNamespace(transmission=transmission, airlight=haze.airlight)

    return cast(DehazePipeline, call)


def test_darkest_pixels_correct_a_model_that_is_too_mild() -> None:
    scenes = renderings()
    fitted = calibrate(pipeline_that_finds(0.6, scenes), scenes)
    # The black dots name the density: they are to be believed nearly or quite.
    assert fitted.share == 1.0 or fitted.exponent >= 0.8
    assert fitted.calibrated > fitted.uncalibrated + 3.0
    assert fitted.calibrated >= fitted.shipped > fitted.uncalibrated + 2.0
    assert fitted.calibrated == max(fitted.grid.values())
    assert (
        fitted.grid[f"{fitted.share} {fitted.region_share} {fitted.exponent}"] == fitted.calibrated
    )


def test_calibration_of_zero_is_the_model_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_sky(photo: np.ndarray, *_: Any) -> np.ndarray:
        return np.zeros(photo.shape[:2], np.float32)

    monkeypatch.setattr("dehaze.recovery.recover.sky_protection", no_sky)
    scenes = renderings()
    fitted = calibrate(pipeline_that_finds(0.6, scenes), scenes)
    assert fitted.grid["0.0 0.0 0.0"] == pytest.approx(fitted.uncalibrated, abs=0.05)


def test_a_model_that_is_right_needs_no_correction() -> None:
    scenes = renderings()
    fitted = calibrate(pipeline_that_finds(1.0, scenes), scenes)
    assert fitted.oracle - fitted.uncalibrated < 0.5
