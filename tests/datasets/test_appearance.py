from __future__ import annotations

import cv2
import numpy as np
import pytest

from dehaze.datasets.appearance import APPEARANCES, Array, render_appearance


@pytest.fixture
def clear() -> Array:
    coarse = np.random.default_rng(1).random((16, 24, 3)).astype(np.float32)
    return np.clip(cv2.resize(coarse, (144, 96), interpolation=cv2.INTER_CUBIC), 0.0, 1.0)


@pytest.mark.parametrize("word", APPEARANCES.names())
def test_a_rendering_is_a_photo_and_repeats_under_its_seed(clear: Array, word: str) -> None:
    one, again = (render_appearance(clear, word, np.random.default_rng(3)) for _ in range(2))
    assert one.picture.shape == clear.shape
    assert one.picture.dtype == np.float32
    assert 0.0 <= one.picture.min() <= one.picture.max() <= 1.0
    assert np.array_equal(one.picture, again.picture)
    assert np.array_equal(one.clear, clear)
    assert np.abs(one.picture - clear).mean() > 0.02
    assert word in one.prompt.split() or f" {word}" in one.prompt


def test_each_appearance_is_its_procedure(clear: Array) -> None:
    rng = np.random.default_rng(0)
    looks = {word: render_appearance(clear, word, rng).picture for word in APPEARANCES.names()}
    light = {word: float((picture**2.2).mean()) for word, picture in looks.items()}
    plain = float((clear**2.2).mean())
    assert light["night"] < 0.2 * plain
    assert looks["night"][..., 2].mean() / looks["night"][..., 0].mean() > (
        clear[..., 2].mean() / clear[..., 0].mean()
    )
    assert looks["sunset"][..., 0].mean() > 1.2 * looks["sunset"][..., 2].mean()
    assert light["snow"] > 1.2 * plain
    # A Gaussian leaves the mean alone and takes the detail.
    assert looks["blur"].mean() == pytest.approx(clear.mean(), abs=0.02)
    assert np.abs(np.diff(looks["blur"], axis=1)).mean() < np.abs(np.diff(clear, axis=1)).mean()
    saturation = np.ptp(looks["rain"], axis=2).mean() / np.ptp(clear, axis=2).mean()
    assert saturation < 0.6


def test_black_and_white_is_the_luma_of_opencv(clear: Array) -> None:
    look = render_appearance(clear, "black and white", np.random.default_rng(0)).picture
    luma = cv2.cvtColor(clear, cv2.COLOR_RGB2GRAY)
    np.testing.assert_allclose(look, np.repeat(luma[..., None], 3, axis=2), atol=1e-3)


def test_an_unknown_word_is_refused_with_the_known_ones(clear: Array) -> None:
    with pytest.raises(ValueError, match="unknown appearance 'dusk': there are haze, night"):
        render_appearance(clear, "dusk", np.random.default_rng(0))
