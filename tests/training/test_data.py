from __future__ import annotations

import numpy as np
import pytest
import torch

from dehaze.datasets.appearance import APPEARANCES
from dehaze.datasets.synthesis import DENSITY_WORDS, HAZE_KINDS
from dehaze.models.unshuffling import cells_of
from training.captions import HAZE_WORDS
from training.data import (
    CELL_SIZE,
    PLAIN,
    Scene,
    draw_pair,
    draw_pair_of_cells,
    draw_plain_density,
    find_cells,
    render_over,
)
from training.photos import PhotoCache

SIZE = (96, 144)


def test_cells_are_the_codecs() -> None:
    picture = np.random.default_rng(0).random((24, 36, 3), dtype=np.float32)
    expected = cells_of(torch.from_numpy(picture).permute(2, 0, 1)[None], CELL_SIZE)[0]
    np.testing.assert_allclose(find_cells(picture), expected.permute(1, 2, 0), atol=1e-6)


def test_pairs_of_every_kind_are_drawn(photo_cache: PhotoCache) -> None:
    rng = np.random.default_rng(0)
    words: set[str | None] = set()
    for _ in range(300):
        pair = draw_pair(photo_cache, SIZE, rng)
        for picture in (pair.degraded, pair.clear):
            assert picture.shape == (*SIZE, 3)
            assert picture.dtype == np.float32
            assert 0.0 <= picture.min() <= picture.max() <= 1.0
        words.add(pair.caption.word)
    assert words >= {*HAZE_KINDS.names()}
    assert len(words & {*APPEARANCES.names()}) >= 5
    assert words <= {*HAZE_WORDS, *APPEARANCES.names()}


def test_some_pairs_under_the_plain_prompt_are_clear(photo_cache: PhotoCache) -> None:
    rng = np.random.default_rng(0)
    pairs = [draw_pair(photo_cache, SIZE, rng) for _ in range(300)]
    plain = [pair for pair in pairs if pair.caption.text == "a photo with haze"]
    differences = np.array([np.abs(pair.degraded - pair.clear).mean() for pair in plain])
    assert 0.04 < float((differences < 0.02).mean()) < 0.4


def test_a_density_word_names_the_density(photo_cache: PhotoCache) -> None:
    rng = np.random.default_rng(1)
    kept: dict[str, list[float]] = {word: [] for word in DENSITY_WORDS}
    for _ in range(700):
        pair = draw_pair(photo_cache, SIZE, rng)
        for word in DENSITY_WORDS:
            if word in pair.caption.text.split():
                kept[word].append(float(pair.degraded.std() / max(pair.clear.std(), 1e-3)))
    # A veil takes contrast away.
    means = [np.mean(kept[word]) for word in ("faint", "light", "moderate", "heavy", "dense")]
    assert means == sorted(means, reverse=True)


@pytest.mark.parametrize("size", [(32, 48), (48, 32), (32, 40)])
def test_cells_fill_the_working_size(photo_cache: PhotoCache, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for _ in range(6):
        pair = draw_pair_of_cells(photo_cache, size, rng)
        degraded, clear = pair.degraded, pair.clear
        assert degraded.shape == clear.shape == (*size, 9)
        assert pair.density.shape == (size[0] // 2, size[1] // 2)
        # The darkest value of a cell is at most its mean, in padded cells too.
        assert (degraded[..., 3:6] <= degraded[..., :3] + 1e-6).all()
        assert (degraded[..., 6:] >= degraded[..., :3] - 1e-6).all()


def test_the_density_of_a_pair_is_where_contrast_is_lost(photo_cache: PhotoCache) -> None:
    rng = np.random.default_rng(2)
    densities, losses = [], []
    for _ in range(60):
        pair = draw_pair(photo_cache, SIZE, rng)
        assert pair.density.shape == SIZE
        if pair.caption.word not in HAZE_WORDS:
            assert not pair.density.any()
            continue
        half = SIZE[1] // 2
        for side in (slice(0, half), slice(half, None)):
            hazy, clear = (
                float((each[:, side] - each[:, side].mean((0, 1))).std())
                for each in (pair.degraded, pair.clear)
            )
            densities.append(float(pair.density[:, side].mean()))
            losses.append(1.0 - hazy / clear)
    # With one t everywhere they are equal, but for noise, clipping and uneven light.
    assert np.corrcoef(densities, losses)[0, 1] > 0.8


def test_plain_densities_are_clear_thin_and_in_fog() -> None:
    rng = np.random.default_rng(0)
    rooms, views = (
        np.array([draw_plain_density(indoor, rng) for _ in range(4000)]) for indoor in (True, False)
    )
    # Half of the views are thinner than half of the rooms, for all the fog.
    assert np.median(views) < np.median(rooms) - 0.03
    assert np.quantile(views, 0.97) > 0.8
    for densities, densest in ((rooms, 0.92), (views, 0.96)):
        assert densities.min() >= 0.0
        assert densities.max() <= densest
        assert np.mean(densities < 0.04) == pytest.approx(1 / 6, abs=0.025)


def test_dense_haze_is_sometimes_lit_unevenly_thin_haze_never() -> None:
    clear = 0.8 * np.random.default_rng(0).random((*SIZE, 3), dtype=np.float32)
    depth = np.tile(np.linspace(0.2, 1.0, SIZE[1], dtype=np.float32), (SIZE[0], 1))
    scene = Scene(clear, depth, metres=0.0, indoor=True)
    shares = {}
    for density in (0.2, 0.8):
        uneven = []
        for seed in range(200):
            rng = np.random.default_rng(seed)
            haze = render_over(scene, PLAIN, "haze", density, rng)
            if max(haze.airlight.max(), haze.clear.max()) >= 1.0:
                # Where the truth is cut off at white, the model does not hold.
                continue
            transmission = haze.transmission[..., None]
            even = haze.clear * transmission + haze.airlight * (1.0 - transmission)
            # V, which all channels share, in I = J t + A V (1 - t).
            light = 1.0 + (haze.hazy - even) / (haze.airlight * (1.0 - transmission))
            uneven.append(float(np.abs(light - 1.0).max()) > 1e-3)
            if uneven[-1]:
                assert np.ptp(light, axis=2).max() < 1e-3
                assert light.mean() == pytest.approx(1.0, abs=0.1)
                assert 0.01 < light.std() < 0.3
        shares[density] = np.mean(uneven)
    assert shares[0.2] == 0.0
    assert shares[0.8] == pytest.approx(0.3, abs=0.1)
