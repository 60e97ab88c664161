from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dehaze.recovery.guided_filter import guided_coefficients, guided_filter, reduced, resize
from dehaze.recovery.recover import (
    RECOVERIES,
    ProxyEstimate,
    estimate_by_physics,
    gain,
    missing_lightness,
    recover_by_physics,
    recover_through,
    remove_haze,
    shrink_thin_haze,
)
from dehaze.recovery.scattering import fit_scattering, recover_scene, scatter
from dehaze.recovery.settings import RECOVERY, RecoverySettings

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


@given(t=st.floats(0.05, 1.0), airlight=st.floats(0.3, 1.0), seed=st.integers(0, 9))
def test_recovering_undoes_scattering(t: float, airlight: float, seed: int) -> None:
    clear = scene(8, 12, seed)
    transmission = np.full((8, 12), t, np.float32)
    colour = np.full(3, airlight, np.float32)
    hazy = scatter(clear, transmission, colour)
    np.testing.assert_allclose(recover_scene(hazy, transmission, colour), clear, atol=5e-5)


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


@pytest.mark.parametrize(
    ("size", "expected"), [((60, 90), (40, 60)), ((500, 45), (444, 40)), ((9, 12), (9, 12))]
)
def test_a_picture_is_reduced_to_its_short_side(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert reduced(scene(*size), 40).shape == (*expected, 3)


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
    assert transmission.min() >= np.float32(RECOVERY.least_transmission)
    assert transmission.max() <= 1
    assert airlight.min() >= 0
    assert airlight.max() <= 1


def test_pairs_of_two_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="hazy picture"):
        fit_scattering(scene(8, 12), scene(12, 8))


def error(one: Array, other: Array) -> float:
    return float(np.sqrt(((one - other) ** 2).mean()))


@pytest.mark.parametrize("name", RECOVERIES.names())
def test_recoveries_keep_the_size_and_range_of_the_photo(name: str) -> None:
    clear = scene(97, 143)
    hazy = scatter(clear, veil(97, 143), AIRLIGHT)
    low = (resize(hazy, (32, 47)), resize(clear, (32, 47)))
    recovery = RECOVERIES.get(name)(hazy, *low)
    assert recovery.image.shape == clear.shape
    assert recovery.image.dtype == np.float32
    assert recovery.image.min() >= 0
    assert recovery.image.max() <= 1
    assert error(recovery.image, clear) < error(hazy, clear)


def test_physics_brings_back_detail_that_enlarging_cannot() -> None:
    clear = scene(192, 288)
    hazy = scatter(clear, veil(192, 288), AIRLIGHT)
    low = (resize(hazy, (32, 48)), resize(clear, (32, 48)))
    physics, enlarged = (RECOVERIES.get(name)(hazy, *low) for name in ("physics", "none"))
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
    recovery = RECOVERIES.get(name)(photo, low, low)
    assert recovery.image.shape == photo.shape
    assert np.isfinite(recovery.image).all()


def cells(picture: Array) -> Array:
    """Each 6 x 6 pixels' mean, darkest and brightest, float32 (h, w, 9)."""
    height, width = picture.shape[0] // 6, picture.shape[1] // 6
    blocks = picture[: 6 * height, : 6 * width].reshape(height, 6, width, 6, 3)
    return np.concatenate([blocks.mean((1, 3)), blocks.min((1, 3)), blocks.max((1, 3))], axis=2)


def test_nine_numbers_a_cell_tell_more_than_three() -> None:
    clear, truth = scene(192, 288), veil(192, 288)
    hazy = scatter(clear, truth, AIRLIGHT)
    noise = np.random.default_rng(0).normal(0.0, 0.02, (32, 48, 9)).astype(np.float32)
    expected = resize(truth, (32, 48))
    errors = []
    for channels in (3, 9):
        low_hazy, low_clear = cells(hazy), np.clip(cells(clear) + noise, 0.0, 1.0)
        transmission, _ = fit_scattering(low_hazy[..., :channels], low_clear[..., :channels])
        errors.append(error(transmission, expected))
    assert errors[1] < 0.8 * errors[0]


def test_without_noise_the_haze_is_divided_away() -> None:
    clear, transmission = scene(), veil()
    hazy = scatter(clear, transmission, AIRLIGHT)
    sure = RecoverySettings(noise_ratio=0.0)
    found = remove_haze(hazy, transmission, AIRLIGHT, sure)
    np.testing.assert_allclose(found, clear, atol=1e-4)


def test_clear_air_is_left_alone() -> None:
    photo = scene()
    found = remove_haze(photo, np.ones(photo.shape[:2], np.float32), AIRLIGHT)
    np.testing.assert_allclose(found, photo, atol=1e-6)


@pytest.mark.parametrize("t", [0.05, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("noise_ratio", [0.005, 0.04])
def test_the_gain_has_the_least_squared_error(t: float, noise_ratio: float) -> None:
    """The gain is the multiple of I - A nearest to J - A, with noise n on the veil."""
    rng = np.random.default_rng(3)
    difference = rng.normal(0.0, 1.0, 400_000)
    seen = t * difference + (1.0 - t) * rng.normal(0.0, noise_ratio**0.5, difference.shape)
    best = float((seen * difference).mean() / (seen**2).mean())
    assert float(gain(np.float32([t]), noise_ratio)[0]) == pytest.approx(best, rel=0.01)


def test_noise_in_thick_haze_is_enlarged_less_than_edges() -> None:
    step = np.full((90, 120, 3), 0.2, dtype=np.float32)
    step[:, 60:] = 0.7
    transmission = np.full((90, 120), 0.2, dtype=np.float32)
    noise = np.random.default_rng(0).normal(0.0, 0.004, step.shape).astype(np.float32)
    hazy = scatter(step, transmission, AIRLIGHT) + noise
    untouched = hazy.copy()
    plain = recover_scene(hazy, transmission, AIRLIGHT)
    quiet = remove_haze(hazy, transmission, AIRLIGHT)
    flat = np.s_[10:80, 10:50]
    assert quiet[flat].std(axis=(0, 1)).max() < 0.75 * plain[flat].std(axis=(0, 1)).min()
    # Nothing is smoothed away for good.
    assert quiet[flat].std() > 1.2 * 0.004
    height = quiet[20:70, 66:110].mean() - quiet[20:70, 10:54].mean()
    assert height == pytest.approx(0.5, abs=0.06)
    # The edge is as steep as it was.
    rise = quiet[20:70, 61].mean() - quiet[20:70, 58].mean()
    assert rise == pytest.approx(height, abs=0.05)
    np.testing.assert_array_equal(hazy, untouched)


def test_a_bluish_veil_leaves_a_grey_scene_greyer() -> None:
    grey = np.repeat(scene().mean(2, keepdims=True), 3, axis=2)
    transmission = np.full(grey.shape[:2], 0.15, dtype=np.float32)
    veil_colour = AIRLIGHT + np.array([-0.01, 0.0, 0.01], np.float32)
    hazy = scatter(grey, transmission, veil_colour)
    plain = recover_scene(hazy, transmission, AIRLIGHT)
    found = remove_haze(hazy, transmission, AIRLIGHT)

    def colour(picture: Array) -> float:
        return float(np.ptp(picture, axis=2).mean())

    assert colour(found) < 0.5 * colour(plain)


def test_a_known_veil_is_removed_at_every_photo_size() -> None:
    errors = []
    for scale in (1, 4):
        clear, transmission = scene(192 * scale, 288 * scale), veil(192 * scale, 288 * scale)
        hazy = scatter(clear, transmission, AIRLIGHT)
        low = (resize(hazy, (32, 48)), resize(clear, (32, 48)))
        errors.append(error(recover_by_physics(hazy, *low).image, clear))
    assert errors[1] < 1.3 * errors[0]


def dense_haze(t: float, airlight_error: float) -> tuple[Array, ProxyEstimate, Array]:
    """A photo in even haze, its estimate with a wrong airlight, and the scene."""
    clear, transmission = scene(192, 288), np.full((192, 288), t, np.float32)
    hazy = scatter(clear, transmission, AIRLIGHT)
    wrong = AIRLIGHT + np.float32(airlight_error)
    plain = remove_haze(hazy, transmission, wrong)
    lightness = missing_lightness(plain, transmission, resize(clear, (32, 48)))
    return hazy, ProxyEstimate(hazy, transmission, wrong, lightness), clear


def test_dense_haze_leaves_the_lightness_of_the_models_scene() -> None:
    hazy, estimate, clear = dense_haze(t=0.06, airlight_error=0.01)
    unknown = replace(estimate, lightness=np.zeros_like(estimate.lightness))
    plain, found = (recover_through(hazy, each).image for each in (unknown, estimate))
    assert plain.mean() < clear.mean() - 0.05
    assert found.mean() == pytest.approx(clear.mean(), abs=0.02)
    # No detail comes from the scene.
    within = np.s_[40:60, 40:60]
    detail = [picture[within].mean(2) - picture[within].mean() for picture in (plain, found)]
    assert detail[1].std() == pytest.approx(detail[0].std(), rel=0.15)


def test_thin_haze_leaves_the_lightness_of_the_photo() -> None:
    _, estimate, _ = dense_haze(t=0.9, airlight_error=0.1)
    assert np.abs(estimate.lightness).max() < 1e-4


@given(density=st.floats(0.0, 0.9), error=st.floats(0.01, 0.2))
@settings(max_examples=40)
def test_thin_haze_is_shrunk_and_dense_haze_is_not(density: float, error: float) -> None:
    t = np.full((3, 4), 1.0 - density, np.float32)
    shrunk = shrink_thin_haze(t, error)
    # Never denser than it was found, and a share of it.
    assert (shrunk >= t - 1e-6).all()
    gained = 0.0 if density == 0 else density**5 / (density**4 + error**4)
    np.testing.assert_allclose(1.0 - shrunk, gained, atol=1e-5)


def test_thin_haze_is_judged_over_the_whole_photo() -> None:
    t = np.ones((10, 10), np.float32)
    t[:2] = 0.2
    shrunk = shrink_thin_haze(t, 0.05)
    np.testing.assert_array_equal(shrunk[2:], 1.0)
    np.testing.assert_allclose((1 - shrunk[:2]) / 0.8, 0.16**4 / (0.16**4 + 0.05**4), rtol=1e-5)


def test_the_airlights_own_colour_has_the_photos_transmission() -> None:
    clear, t = scene(), np.full((96, 144), 0.4, np.float32)
    clear[:, 72:] = AIRLIGHT
    fitted, _ = fit_scattering(scatter(clear, t, AIRLIGHT), clear)
    np.testing.assert_allclose(fitted[:, 80:], 0.4, atol=0.05)


@pytest.mark.parametrize("size", [(96, 144), (404, 420)])
def test_a_photo_is_recovered_through_its_estimate(size: tuple[int, int]) -> None:
    clear, t = scene(*size), veil(*size)
    hazy = scatter(clear, t, AIRLIGHT)
    small = (hazy, clear) if size[0] < 400 else (resize(hazy, (32, 48)), resize(clear, (32, 48)))
    estimate = estimate_by_physics(hazy, *small)
    assert estimate.photo.shape[:2] == estimate.transmission.shape
    assert min(estimate.transmission.shape) == min(400, size[0])
    through = recover_through(hazy, estimate)
    np.testing.assert_array_equal(through.image, RECOVERIES.get("physics")(hazy, *small).image)
    thinner = replace(estimate, transmission=np.sqrt(estimate.transmission))
    assert np.abs(recover_through(hazy, thinner).image - through.image).mean() > 0.02


def test_edges_that_overshoot_do_not_pass_the_least_transmission() -> None:
    """The photo has stronger edges than its reduced copy."""
    photo = scene(96, 144)
    small = resize(photo, (24, 36))
    estimate = ProxyEstimate(
        small,
        np.clip(small.mean(2) - 0.3, RECOVERY.least_transmission, 1.0),
        AIRLIGHT,
        np.zeros(small.shape[:2], np.float32),
    )
    found = recover_through(photo, estimate)
    assert found.transmission is not None
    assert found.transmission.min() == np.float32(RECOVERY.least_transmission)
    assert found.transmission.max() <= 1.0
