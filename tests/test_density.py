from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dehaze.density import Array, veil_ratio, veil_scale
from dehaze.physics import recover_by_physics, recover_calibrated, resize, scatter

AIRLIGHT = np.array([0.9, 0.88, 0.86], dtype=np.float32)


def scene_with_shadows(height: int = 120, width: int = 180) -> Array:
    """Smooth colours with black dots that a picture of 32 pixels cannot show."""
    coarse = np.random.default_rng(0).random((6, 9, 3)).astype(np.float32)
    clear = np.clip(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), 0.1, 1.0)
    clear[::6, ::6] = 0.0
    return np.asarray(clear, dtype=np.float32)


def test_the_veil_that_leaves_the_darkest_pixels_black_is_of_the_right_density() -> None:
    clear = scene_with_shadows()
    truth = np.linspace(0.3, 0.8, clear.shape[1], dtype=np.float32)[None].repeat(120, axis=0)
    hazy = scatter(clear, truth, AIRLIGHT)
    # Neighbours differ a little in t: that is all the ratio may be off by.
    assert veil_ratio(hazy, truth, AIRLIGHT) == pytest.approx(1.0, abs=0.1)
    assert veil_ratio(hazy, 1.0 - 0.5 * (1.0 - truth), AIRLIGHT) == pytest.approx(2.0, abs=0.2)
    assert veil_ratio(clear, truth, AIRLIGHT) == 0.0


@given(share=st.floats(0.5, 1.5), strength=st.floats(0.1, 1.0))
@settings(max_examples=25, deadline=None)
def test_a_denser_veil_is_scaled_less_and_strength_is_kept(share: float, strength: float) -> None:
    clear = scene_with_shadows(60, 90)
    truth = np.full((60, 90), 0.5, dtype=np.float32)
    hazy = scatter(clear, truth, AIRLIGHT)
    found = np.asarray(1.0 - share * (1.0 - truth), dtype=np.float32)
    denser = np.asarray(1.0 - 1.2 * share * (1.0 - truth), dtype=np.float32)
    scale = veil_scale(hazy, found, AIRLIGHT)
    assert veil_scale(hazy, denser, AIRLIGHT) < scale
    # What was asked for in part is scaled like the whole.
    part = np.asarray(1.0 - strength * (1.0 - found), dtype=np.float32)
    assert veil_scale(hazy, part, AIRLIGHT, strength) == pytest.approx(scale, rel=1e-3)


def test_no_strength_is_no_veil_to_scale() -> None:
    photo = scene_with_shadows(30, 40)
    assert veil_scale(photo, np.ones((30, 40), np.float32), AIRLIGHT, strength=0.0) == 1.0


def test_sizes_that_differ_are_named() -> None:
    with pytest.raises(ValueError, match=r"\(30, 40\).*\(8, 8\)"):
        veil_ratio(scene_with_shadows(30, 40), np.ones((8, 8), np.float32), AIRLIGHT)


def test_a_judgement_that_is_too_mild_is_put_right_at_full_size() -> None:
    clear = scene_with_shadows()
    hazy = scatter(clear, np.full(clear.shape[:2], 0.5, np.float32), AIRLIGHT)
    mild = scatter(clear, np.full(clear.shape[:2], 0.8, np.float32), AIRLIGHT)
    low = (resize(hazy, (32, 48)), resize(mild, (32, 48)))
    errors = [
        float(np.abs(recover(hazy, *low).image - clear).mean())
        for recover in (recover_by_physics, recover_calibrated)
    ]
    assert errors[1] < 0.6 * errors[0]
