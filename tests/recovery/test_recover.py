from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dehaze.recovery.guided_filter import guided_coefficients, guided_filter, resize
from dehaze.recovery.recover import (
    ESTIMATES,
    RECOVERIES,
    recover_quietly,
    recover_through,
    subdue_colours,
)
from dehaze.recovery.scattering import (
    TRANSMISSION_MINIMUM,
    fit_scattering,
    raise_airlight,
    recover_scene,
    scatter,
)

Array = NDArray[np.float32]


def scene(height: int = 96, width: int = 144, seed: int = 0) -> Array:
    """Large shapes with fine texture on them."""
    rng = np.random.default_rng(seed)
    shapes = cv2.resize(rng.uniform(0.1, 0.9, (5, 7, 3)), (width, height), interpolation=0)
    texture = rng.normal(0.0, 0.06, (height, width, 1))
    return np.clip(shapes + texture, 0.0, 1.0).astype(np.float32)


def veil(height: int = 96, width: int = 144) -> Array:
    ramp = np.linspace(0.35, 0.9, height, dtype=np.float32)[:, None]
    return np.repeat(ramp, width, axis=1)


AIRLIGHT = np.float32([0.85, 0.9, 0.95])


@given(t=st.floats(0.12, 1.0), airlight=st.floats(0.3, 1.0), seed=st.integers(0, 9))
def test_recovering_undoes_scattering(t: float, airlight: float, seed: int) -> None:
    clear = scene(8, 12, seed)
    transmission = np.full((8, 12), t, np.float32)
    colour = np.full(3, airlight, np.float32)
    hazy = scatter(clear, transmission, colour)
    np.testing.assert_allclose(recover_scene(hazy, transmission, colour), clear, atol=2e-5)


def test_scattering_at_its_ends() -> None:
    clear = scene(8, 12)
    np.testing.assert_array_equal(scatter(clear, np.ones((8, 12), np.float32), AIRLIGHT), clear)
    nothing = scatter(clear, np.zeros((8, 12), np.float32), AIRLIGHT)
    np.testing.assert_allclose(nothing, np.broadcast_to(AIRLIGHT, clear.shape))


def brute_force_coefficients(
    guide: Array, target: Array, radius: int, epsilon: float
) -> tuple[Array, Array]:
    """He, Sun and Tang's two loops over windows, written out."""
    height, width = target.shape

    def window(values: Array, y: int, x: int) -> Array:
        padded = np.pad(
            values, [(radius, radius)] * 2 + [(0, 0)] * (values.ndim - 2), mode="symmetric"
        )
        return padded[y : y + 2 * radius + 1, x : x + 2 * radius + 1]

    slopes = np.zeros_like(guide)
    intercepts = np.zeros_like(target)
    for y in range(height):
        for x in range(width):
            pixels = window(guide, y, x).reshape(-1, guide.shape[2])
            values = window(target, y, x).ravel()
            centred = pixels - pixels.mean(0)
            covariance = centred.T @ centred / len(pixels)
            crossed = centred.T @ (values - values.mean()) / len(pixels)
            slopes[y, x] = np.linalg.solve(covariance + epsilon * np.eye(guide.shape[2]), crossed)
            intercepts[y, x] = values.mean() - slopes[y, x] @ pixels.mean(0)
    mean_slopes = np.zeros_like(slopes)
    mean_intercepts = np.zeros_like(intercepts)
    for y in range(height):
        for x in range(width):
            mean_slopes[y, x] = window(slopes, y, x).reshape(-1, guide.shape[2]).mean(0)
            mean_intercepts[y, x] = window(intercepts, y, x).mean()
    return mean_slopes, mean_intercepts


@pytest.mark.parametrize("channels", [1, 3])
def test_the_guided_filter_equals_its_definition(channels: int) -> None:
    rng = np.random.default_rng(1)
    guide = rng.random((9, 11, channels))
    target = rng.random((9, 11))
    slopes, intercepts = guided_coefficients(guide, target, radius=2, epsilon=1e-3)
    expected = brute_force_coefficients(guide, target, 2, 1e-3)
    np.testing.assert_allclose(slopes, expected[0], atol=1e-6)
    np.testing.assert_allclose(intercepts, expected[1], atol=1e-6)


def test_a_target_that_is_affine_in_the_guide_passes_the_filter() -> None:
    guide = scene(40, 50)[..., 0]
    target = np.float32(0.3) + np.float32(0.5) * guide
    filtered = guided_filter(guide, target, radius=4, epsilon=1e-9)
    np.testing.assert_allclose(filtered, target, atol=1e-3)


def test_subsampling_changes_the_filter_little() -> None:
    guide, target = scene(120, 160)[..., 0], veil(120, 160)
    whole = guided_filter(guide, target, radius=16, epsilon=1e-2)
    fast = guided_filter(guide, target, radius=16, epsilon=1e-2, subsample=4)
    assert np.abs(whole - fast).mean() < 0.01


@pytest.mark.parametrize(
    ("settings_", "cause"),
    [({"radius": 0}, "radius"), ({"radius": 2, "subsample": 0}, "subsample")],
)
def test_filter_settings_out_of_range_are_named(settings_: dict[str, int], cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        guided_filter(veil(), veil(), epsilon=1e-3, **settings_)


def test_a_filter_of_two_sizes_names_both() -> None:
    with pytest.raises(ValueError, match=r"\(96, 144\).*\(8, 8\)"):
        guided_coefficients(veil(), veil(8, 8), 1, 1e-3)


def test_the_pair_tells_transmission_and_airlight() -> None:
    clear, truth = scene(), veil()
    hazy = scatter(clear, truth, AIRLIGHT)
    transmission, airlight = fit_scattering(hazy, clear)
    assert np.abs(transmission - truth).mean() < 0.03
    np.testing.assert_allclose(airlight, AIRLIGHT, atol=0.04)


def test_a_pair_without_difference_is_all_transmission() -> None:
    clear = scene()
    transmission, airlight = fit_scattering(clear, clear)
    np.testing.assert_allclose(transmission, 1.0)
    assert np.isfinite(airlight).all()


@given(seed=st.integers(0, 50))
@settings(max_examples=20)
def test_any_pair_gives_values_in_range(seed: int) -> None:
    rng = np.random.default_rng(seed)
    hazy, clear = rng.random((2, 9, 13, 3)).astype(np.float32)
    transmission, airlight = fit_scattering(hazy, clear)
    assert transmission.min() >= np.float32(TRANSMISSION_MINIMUM)
    assert transmission.max() <= 1
    assert airlight.min() >= 0
    assert airlight.max() <= 1


def test_pairs_of_two_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="hazy picture"):
        fit_scattering(scene(8, 12), scene(12, 8))


def room() -> tuple[Array, Array]:
    """A scene with a white wall, and a thin veil before it: nothing of the photo is all veil."""
    clear = np.minimum(scene(), 0.9)
    clear[30:50, 40:80] = 0.97
    return clear, np.full(clear.shape[:2], 0.6, np.float32)


def test_something_white_raises_an_airlight_that_is_too_dark() -> None:
    clear, transmission = room()
    hazy = scatter(clear, transmission, np.float32([0.95, 0.95, 0.95]))
    raised = raise_airlight(hazy, transmission, np.float32([0.8, 0.8, 0.8]))
    # White is 1, the wall .97: (.97 * .6 + .95 * .4 - .6) / .4 = .905.
    np.testing.assert_allclose(raised, 0.905, atol=1e-3)


@given(airlight=st.floats(0.2, 1.0), t=st.floats(0.12, 1.0), seed=st.integers(0, 9))
@settings(max_examples=30)
def test_the_airlight_is_only_raised_and_never_past_what_is_true(
    airlight: float, t: float, seed: int
) -> None:
    clear, transmission = scene(seed=seed), np.full((96, 144), t, np.float32)
    truth = airlight * np.float32([1.0, 0.9, 0.8])
    hazy = scatter(clear, transmission, truth)
    np.testing.assert_allclose(raise_airlight(hazy, transmission, truth), truth, atol=1e-5)
    darker = raise_airlight(hazy, transmission, truth * 0.7)
    assert (darker >= truth * 0.7).all()
    assert darker.mean() <= truth.mean() + 1e-5


def test_an_airlight_keeps_its_hue_when_raised() -> None:
    clear, transmission = room()
    hazy = scatter(clear, transmission, np.float32([0.95, 0.95, 0.95]))
    dull = np.float32([0.8, 0.77, 0.74])
    raised = raise_airlight(hazy, transmission, dull)
    assert raised.mean() > dull.mean() + 0.1
    np.testing.assert_allclose(raised / raised.mean(), dull / dull.mean(), rtol=1e-5)


def test_a_coloured_light_does_not_colour_the_airlight() -> None:
    clear, transmission = room()
    grey = np.float32([0.7, 0.7, 0.7])
    hazy = scatter(np.minimum(clear, 0.4), transmission, grey)
    hazy[30:50, 40:80, 0] = 0.95
    raised = raise_airlight(hazy, transmission, grey)
    assert raised[0] > 0.8
    np.testing.assert_allclose(raised, raised[0])


def test_blown_lights_and_thin_veils_leave_the_airlight_alone() -> None:
    clear, transmission = room()
    dark = np.float32([0.7, 0.7, 0.7])
    hazy = scatter(np.minimum(clear, 0.5), transmission, dark)
    hazy[30:50, 40:80] = 1.0
    np.testing.assert_array_equal(raise_airlight(hazy, transmission, dark), dark)
    thin = np.full_like(transmission, 0.75)
    white = scatter(clear, thin, np.float32([0.95, 0.95, 0.95]))
    np.testing.assert_array_equal(raise_airlight(white, thin, dark), dark)


def test_airlight_is_read_from_an_opaque_veil() -> None:
    clear, transmission = room()
    hazy = scatter(clear, transmission, np.float32([0.95, 0.95, 0.95]))
    dark = np.float32([0.8, 0.8, 0.8])
    alone = raise_airlight(hazy, transmission, dark)
    transmission = transmission.copy()
    # A fog bank of the airlight that was found; v = .9 there, so a fifth of the raise is left.
    transmission[:10] = 0.1
    hazy[:10] = dark
    beside = raise_airlight(hazy, transmission, dark)
    np.testing.assert_allclose(beside - dark, 0.2 * (alone - dark), atol=2e-3)


def error(one: Array, other: Array) -> float:
    return float(np.sqrt(((one - other) ** 2).mean()))


@pytest.mark.parametrize("name", RECOVERIES.names())
def test_recoveries_keep_the_size_and_range_of_the_photo(name: str) -> None:
    clear = scene(97, 143)
    hazy = scatter(clear, veil(97, 143), AIRLIGHT)
    low = (resize(hazy, (32, 47)), resize(clear, (32, 47)))
    recovery = RECOVERIES.get(name)(hazy, *low, 1.0)
    assert recovery.image.shape == clear.shape
    assert recovery.image.dtype == np.float32
    assert recovery.image.min() >= 0
    assert recovery.image.max() <= 1
    assert error(recovery.image, clear) < error(hazy, clear)


def test_physics_brings_back_detail_that_enlarging_cannot() -> None:
    clear = scene(192, 288)
    hazy = scatter(clear, veil(192, 288), AIRLIGHT)
    low = (resize(hazy, (32, 48)), resize(clear, (32, 48)))
    physics, enlarged = (RECOVERIES.get(name)(hazy, *low, 1.0) for name in ("physics", "none"))
    assert error(physics.image, clear) < 0.35 * error(enlarged.image, clear)
    assert physics.transmission is not None
    assert np.abs(physics.transmission - veil(192, 288)).mean() < 0.05
    detail = [
        cv2.Laplacian(picture.mean(2), cv2.CV_32F).var()
        for picture in (clear, physics.image, enlarged.image)
    ]
    assert detail[1] > 0.8 * detail[0]
    assert detail[2] < 0.1 * detail[0]


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 2), (500, 9)])
@pytest.mark.parametrize("name", RECOVERIES.names())
def test_recoveries_take_photos_of_any_shape(name: str, size: tuple[int, int]) -> None:
    photo = np.random.default_rng(0).random((*size, 3)).astype(np.float32)
    low = np.full((16, 20, 3), 0.5, np.float32)
    recovery = RECOVERIES.get(name)(photo, low, low, 1.0)
    assert recovery.image.shape == photo.shape
    assert np.isfinite(recovery.image).all()


def test_noise_in_thick_haze_is_enlarged_less_than_edges() -> None:
    rng = np.random.default_rng(0)
    step = np.full((90, 120, 3), 0.2, dtype=np.float32)
    step[:, 60:] = 0.7
    transmission = np.full((90, 120), 0.2, dtype=np.float32)
    noise = rng.normal(0.0, 0.004, step.shape).astype(np.float32)
    hazy = scatter(step, transmission, AIRLIGHT) + noise
    untouched = hazy.copy()
    plain = recover_scene(hazy, transmission, AIRLIGHT)
    quiet = recover_quietly(hazy, transmission, AIRLIGHT)
    flat = np.s_[10:80, 10:50]
    assert quiet[flat].std(axis=(0, 1)).max() < 0.6 * plain[flat].std(axis=(0, 1)).min()
    # 1 / .5 of the noise, and not much less: nothing is smoothed away for good.
    assert quiet[flat].std() > 1.2 * 0.004
    height = quiet[20:70, 66:110].mean() - quiet[20:70, 10:54].mean()
    assert height == pytest.approx(0.5, abs=0.02)
    # The edge is as steep as it was.
    rise = quiet[20:70, 61].mean() - quiet[20:70, 58].mean()
    assert rise == pytest.approx(0.5, abs=0.05)
    np.testing.assert_array_equal(hazy, untouched)


def test_thin_haze_is_removed_as_the_model_says() -> None:
    transmission = np.clip(veil(), 0.5, 1.0)
    hazy = scatter(scene(), transmission, AIRLIGHT)
    np.testing.assert_array_equal(
        recover_quietly(hazy, transmission, AIRLIGHT), recover_scene(hazy, transmission, AIRLIGHT)
    )


def test_chroma_shrinks_by_the_odds_of_the_veil() -> None:
    """The closed form is the least squares of one colour seen twice: as itself, and as the veil."""
    rng = np.random.default_rng(3)
    scene_colour = rng.normal(0.0, 1.0, 200_000)
    doubt = rng.normal(0.0, 0.02**0.5, scene_colour.shape)
    for t in (0.12, 0.2, 0.5):
        seen = scene_colour + doubt * (1.0 - t) / t
        best = float((seen * scene_colour).mean() / (seen**2).mean())
        red = np.full((2, 2, 3), 0.2, dtype=np.float32)
        red[..., 0] = 0.8
        subdued = subdue_colours(red, np.full((2, 2), t, dtype=np.float32))
        np.testing.assert_allclose(subdued - 0.4, best * (red - 0.4), atol=0.005)


@given(seed=st.integers(0, 2**16))
def test_subdued_colours_keep_brightness_greys_and_clear_air(seed: int) -> None:
    rng = np.random.default_rng(seed)
    colours = rng.random((7, 9, 3)).astype(np.float32)
    transmission = rng.uniform(0.12, 1.0, (7, 9)).astype(np.float32)
    subdued = subdue_colours(colours, transmission)
    assert subdued.dtype == np.float32
    assert -1e-6 <= subdued.min() <= subdued.max() <= 1 + 1e-6
    np.testing.assert_allclose(subdued.mean(2), colours.mean(2), atol=1e-6)
    clear = np.ones_like(transmission)
    np.testing.assert_allclose(subdue_colours(colours, clear), colours, atol=1e-6)
    greys = np.repeat(colours[..., :1], 3, axis=2)
    np.testing.assert_allclose(subdue_colours(greys, transmission), greys, atol=1e-6)


def test_blue_veil_leaves_a_grey_scene_grey() -> None:
    grey = np.repeat(scene().mean(2, keepdims=True), 3, axis=2)
    transmission = np.full(grey.shape[:2], 0.15, dtype=np.float32)
    veil_colour = AIRLIGHT + np.array([-0.01, 0.0, 0.01], np.float32)
    recovered = recover_scene(scatter(grey, transmission, veil_colour), transmission, AIRLIGHT)
    subdued = subdue_colours(recovered, transmission)
    assert np.abs(subdued - grey).mean() < 0.7 * np.abs(recovered - grey).mean()


@pytest.mark.parametrize("size", [(96, 144), (404, 420)])
def test_a_photo_is_recovered_through_its_estimate(size: tuple[int, int]) -> None:
    clear, t = scene(*size), veil(*size)
    hazy = scatter(clear, t, AIRLIGHT)
    small = (hazy, clear) if size[0] < 400 else (resize(hazy, (32, 48)), resize(clear, (32, 48)))
    estimate = ESTIMATES.get("calibrated")(hazy, *small, 1.0)
    assert estimate.photo.shape[:2] == estimate.transmission.shape
    assert min(estimate.transmission.shape) == min(400, size[0])
    through = recover_through(hazy, estimate)
    np.testing.assert_array_equal(through.image, RECOVERIES.get("calibrated")(hazy, *small).image)
    thinner = replace(estimate, transmission=np.sqrt(estimate.transmission))
    assert np.abs(recover_through(hazy, thinner).image - through.image).mean() > 0.02
