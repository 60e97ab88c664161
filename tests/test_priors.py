"""The priors equal the computations of their papers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import minimum_filter
from skimage.color import rgb2hsv
from skimage.data import astronaut

from dehaze import priors
from dehaze.priors import PRIORS
from dehaze.recovery.guided_filter import guided_filter
from dehaze.registry import UnknownNameError


def test_the_dark_channel_is_scipys_minimum() -> None:
    picture = astronaut()[:50, :60].astype(np.float32)
    expected = minimum_filter(picture.min(axis=2), size=15, mode="nearest")
    np.testing.assert_array_equal(priors.dark_channel(picture, 15), expected)


def test_dcp_airlight_is_the_brightest_of_the_haziest() -> None:
    hazy = np.full((100, 100, 3), 0.2, dtype=np.float32)
    hazy[:20, :20] = 0.8  # haze
    hazy[5, 5] = (0.9, 0.85, 0.8)  # in the haze: brightest there
    hazy[60, 60] = 1.0  # a lamp: brighter, but its patch is dark
    found = priors.estimate_by_dark_channel(hazy)
    np.testing.assert_allclose(found.airlight, [0.9, 0.85, 0.8])


def test_the_colour_attenuation_prior_is_its_linear_model() -> None:
    hazy = astronaut()[100:180, 100:200].astype(np.float32) / np.float32(255)
    hsv = rgb2hsv(hazy.astype(np.float64))
    depth = 0.121779 + 0.959710 * hsv[..., 2] - 0.780245 * hsv[..., 1]
    depth = minimum_filter(depth, size=15, mode="nearest").astype(np.float32)
    grey = (hazy @ np.array([0.299, 0.587, 0.114])).astype(np.float32)
    expected = np.clip(np.exp(-guided_filter(grey, depth, 60, 1e-3)), 0.1, 0.9)
    found = priors.estimate_by_color_attenuation(hazy)
    np.testing.assert_allclose(found.transmission, expected, atol=1e-4)


def test_the_fast_guided_filter_changes_little() -> None:
    tile = astronaut()[:500, :500].astype(np.float32) / np.float32(255)
    hazy = np.tile(0.5 * tile + 0.45, (3, 3, 1)).astype(np.float32)
    assert priors.thinning(hazy) > 1
    fast = priors.estimate_by_dark_channel(hazy).transmission
    grey = (hazy @ np.array([0.299, 0.587, 0.114])).astype(np.float32)
    airlight = priors.estimate_by_dark_channel(hazy).airlight
    raw = 1 - np.float32(0.95) * priors.dark_channel(hazy / airlight, 15)
    exact = np.clip(guided_filter(grey, raw, 60, 1e-4), 0, 1)
    assert float(np.abs(fast - exact).mean()) < 0.02


def test_an_unknown_prior_lists_the_known() -> None:
    with pytest.raises(UnknownNameError, match="dcp, cap"):
        PRIORS.get("he")
