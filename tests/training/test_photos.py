from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from training.photos import (
    ROOM_SHARE,
    Entry,
    PhotoCache,
    build_cache,
    drawn_weights,
    fill_holes,
    source_weights,
)


def test_a_split_holds_its_own_photos(photo_data: Path, tmp_path: Path) -> None:
    names = {
        split: {entry.name for entry in build_cache(photo_data, tmp_path / split, split).entries}
        for split in ("train", "val")
    }
    assert names["train"] == {
        "clean/bsds500/a.png",
        "train/rgbd/room/0.webp",
        "train/rgbd/room/1.webp",
        "train/photos/street/0.webp",
    }
    assert names["val"] == {"clean/bsds500/b.png", "train/photos/street/1.webp"}


def test_photos_and_depths_come_back_as_stored(photo_data: Path, photo_cache: PhotoCache) -> None:
    for index, entry in enumerate(photo_cache.entries):
        stored = cv2.imread(str(photo_data / entry.name))[..., ::-1]
        np.testing.assert_array_equal(photo_cache.photo(index), stored)
        depth = photo_cache.depth(index)
        assert (depth is not None) == ("room" in entry.name)
        if depth is not None:
            assert entry.metres == 8.0
            assert entry.indoor
            assert depth.shape == stored.shape[:2]
            assert depth[-1, -1] == pytest.approx(60000 / 65535, rel=1e-3)
            assert depth.min() > 0


def test_a_cache_is_built_once(photo_data: Path, tmp_path: Path) -> None:
    build_cache(photo_data, tmp_path, "val")
    written = (tmp_path / "pixels.bin").stat().st_mtime_ns
    assert len(build_cache(tmp_path / "nowhere", tmp_path, "val")) == 2
    assert (tmp_path / "pixels.bin").stat().st_mtime_ns == written


def test_a_folder_without_photos_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="clean/ or train/"):
        build_cache(tmp_path, tmp_path / "cache", "train")


def test_holes_are_filled_from_around_them() -> None:
    ramp = np.linspace(1.0, 2.0, 64, dtype=np.float32)[None].repeat(48, 0)
    known = np.ones(ramp.shape, bool)
    known[10:30, 20:40] = False
    filled = fill_holes(np.where(known, ramp, 0.0).astype(np.float32), known)
    np.testing.assert_array_equal(filled[known], ramp[known])
    assert np.abs(filled - ramp).max() < 0.12
    with pytest.raises(ValueError, match="no pixel is known"):
        fill_holes(ramp, np.zeros(ramp.shape, bool))


def test_a_long_sequence_is_drawn_less_than_its_length() -> None:
    weights = source_weights(["long"] * 100 + ["short"] * 10)
    assert weights.sum() == pytest.approx(1.0)
    assert weights[:100].sum() / weights[100:].sum() == pytest.approx(10**0.6)


def test_rooms_are_drawn_at_their_share() -> None:
    entries = [
        Entry(str(i), "rooms" if i < 90 else "views", 8, 8, 0, -1, 0.0, i < 90) for i in range(100)
    ]
    weights = drawn_weights(entries)
    assert weights.sum() == pytest.approx(1.0)
    assert weights[:90].sum() == pytest.approx(ROOM_SHARE)
    # With one kind alone there is nothing to balance.
    np.testing.assert_allclose(drawn_weights(entries[:90]), 1 / 90)
