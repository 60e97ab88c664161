from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dehaze.recovery.density import Array, darkest_pixels, region_ratio, weigh_veil
from dehaze.recovery.guided_filter import resize
from dehaze.recovery.recover import calibrated_veil, recover_by_physics, recover_calibrated
from dehaze.recovery.scattering import scatter

AIRLIGHT = np.array([0.9, 0.88, 0.86], dtype=np.float32)


def scene_with_shadows(height: int = 120, width: int = 180) -> Array:
    """Smooth colours with black dots that a picture of 32 pixels cannot show."""
    coarse = np.random.default_rng(0).random((6, 9, 3)).astype(np.float32)
    clear = np.clip(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), 0.1, 1.0)
    clear[::6, ::6] = 0.0
    return np.asarray(clear, dtype=np.float32)


def ramp() -> Array:
    return np.linspace(0.3, 0.8, 180, dtype=np.float32)[None].repeat(120, axis=0)


def test_the_darkest_pixels_of_haze_over_shadows_are_its_veil() -> None:
    hazy = scatter(scene_with_shadows(), ramp(), AIRLIGHT)
    # At the lower and the right edge a window may have no shadow.
    inside = np.s_[:115, :175]
    # Neighbours differ a little in t: that is all they may be off by.
    darkest = darkest_pixels(hazy, AIRLIGHT)
    np.testing.assert_allclose(darkest[inside], 1.0 - ramp()[inside], atol=0.03)
    assert darkest_pixels(scene_with_shadows(), AIRLIGHT)[inside].max() == 0.0


def test_haze_density_from_one_source_alone() -> None:
    veil, darkest = 1.0 - ramp(), np.full((120, 180), 0.25, np.float32)
    for share, expected in ((0.0, veil), (1.0, darkest), (0.5, np.sqrt(veil * 0.25))):
        weighed = weigh_veil(veil, darkest, darkest, share=share, region_share=0.0, exponent=0.0)
        np.testing.assert_allclose(weighed, expected, rtol=1e-5)


def test_a_region_is_put_right_by_what_is_dark_in_it() -> None:
    """Shadows on a bright wall: between them D says nothing, and the region still does."""
    truth = np.full((60, 200), 0.4, dtype=np.float32)
    darkest = np.full_like(truth, 0.8)
    darkest[::10, ::10] = truth[::10, ::10]
    found = truth.copy()
    found[:, :100] *= 0.6
    found[:, 100:] *= 1.4
    ratio = region_ratio(found, darkest)
    # Far from where the two meet.
    np.testing.assert_allclose(ratio[:, :50], 1.0 / 0.6, rtol=1e-4)
    np.testing.assert_allclose(ratio[:, 150:], 1.0 / 1.4, rtol=1e-4)
    assert (np.diff(ratio, axis=1) < 1e-6).all()
    weighed = weigh_veil(found, darkest, darkest, share=0.0, region_share=1.0, exponent=0.0)
    np.testing.assert_allclose(weighed[:, :50], truth[:, :50], rtol=1e-4)
    np.testing.assert_allclose(weighed[:, 150:], truth[:, 150:], rtol=1e-4)


def test_region_without_dark_pixels_is_scaled_within_bounds() -> None:
    bright = np.full((30, 40), 0.9, dtype=np.float32)
    assert region_ratio(np.full_like(bright, 0.01), bright).max() <= 3.0
    assert region_ratio(np.full_like(bright, 0.5), np.zeros_like(bright)).min() > 0.0


@given(found=st.floats(0.4, 1.6), share=st.floats(0.0, 0.9))
@settings(max_examples=25)
def test_trusted_wholly_the_darkest_pixels_put_any_density_right(
    found: float, share: float
) -> None:
    truth = np.full((60, 90), 0.4, dtype=np.float32)
    veil = weigh_veil(found * truth, truth, truth, share=share, exponent=1.0)
    np.testing.assert_allclose(veil, truth, rtol=1e-3)


def test_a_scene_without_haze_has_next_to_no_veil() -> None:
    clear = scene_with_shadows()
    darkest = darkest_pixels(clear, AIRLIGHT)
    veil = weigh_veil(np.full(darkest.shape, 0.3, np.float32), darkest, darkest)
    assert veil.max() < 0.02


@given(strength=st.floats(0.1, 1.0))
@settings(max_examples=25)
def test_partial_strength_is_judged_like_the_whole(strength: float) -> None:
    hazy = scatter(scene_with_shadows(60, 90), np.full((60, 90), 0.5, np.float32), AIRLIGHT)
    found = np.full((60, 90), 0.35, dtype=np.float32)
    part = calibrated_veil(hazy, np.float32(strength) * found, AIRLIGHT, strength)
    whole = calibrated_veil(hazy, found, AIRLIGHT)
    np.testing.assert_allclose(part, strength * whole, rtol=1e-2)


def test_no_strength_is_no_veil_to_weigh() -> None:
    photo = scene_with_shadows(30, 40)
    none = np.zeros((30, 40), np.float32)
    np.testing.assert_array_equal(calibrated_veil(photo, none, AIRLIGHT, strength=0.0), none)


def test_sizes_that_differ_are_named() -> None:
    veil, small = np.zeros((30, 40), np.float32), np.zeros((8, 8), np.float32)
    with pytest.raises(ValueError, match=r"\(30, 40\).*\(8, 8\)"):
        weigh_veil(veil, small, small)


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
