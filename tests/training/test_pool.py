from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from training.photos import PhotoCache
from training.pool import PoolReader, Shard, fill_pool, shard_paths, write_shard


def test_a_shard_follows_from_seed_and_number(photo_cache: PhotoCache, tmp_path: Path) -> None:
    one = Shard.load(write_shard(photo_cache, tmp_path / "one", 3, seed=5, pairs=4))
    other = Shard.load(write_shard(photo_cache, tmp_path / "other", 3, seed=5, pairs=4))
    np.testing.assert_array_equal(one.degraded, other.degraded)
    assert one.captions == other.captions
    assert one.clear.shape == one.degraded.shape
    assert one.clear.shape[0] == len(one.captions) == 4
    next_one = Shard.load(write_shard(photo_cache, tmp_path / "one", 4, seed=5, pairs=4))
    assert next_one.captions != one.captions


def test_the_oldest_shards_make_room(photo_cache: PhotoCache, tmp_path: Path) -> None:
    fill_pool(photo_cache, tmp_path, 3, 2, pairs=2)
    assert [path.name for path in shard_paths(tmp_path)] == ["000001", "000002"]
    fill_pool(photo_cache, tmp_path, 1, 2, pairs=2)
    assert [path.name for path in shard_paths(tmp_path)] == ["000002", "000003"]


@pytest.mark.slow
def test_several_workers_render_the_same_shards(photo_cache: PhotoCache, tmp_path: Path) -> None:
    fill_pool(photo_cache, tmp_path / "one", 2, 2, pairs=2)
    fill_pool(photo_cache, tmp_path / "two", 2, 2, pairs=2, workers=2)
    for one, two in zip(shard_paths(tmp_path / "one"), shard_paths(tmp_path / "two"), strict=True):
        assert one.name == two.name
        for file in ("degraded.npy", "clear.npy", "density.npy", "captions.json"):
            assert (one / file).read_bytes() == (two / file).read_bytes()


def test_a_reader_follows_a_pool_that_is_renewed(photo_cache: PhotoCache, tmp_path: Path) -> None:
    fill_pool(photo_cache, tmp_path, 1, 1, pairs=2)
    reader, rng = PoolReader(tmp_path), np.random.default_rng(0)
    first = reader.draw(rng)
    fill_pool(photo_cache, tmp_path, 1, 1, pairs=2)
    assert reader.draw(rng).captions != first.captions


def test_shards_of_one_size_are_joined(photo_cache: PhotoCache, tmp_path: Path) -> None:
    fill_pool(photo_cache, tmp_path, 8, 8, pairs=2)
    reader, rng = PoolReader(tmp_path), np.random.default_rng(0)
    drawn = reader.draw_pairs(rng, 5)
    assert drawn.clear.shape == drawn.degraded.shape
    assert len(drawn.captions) == len(drawn.clear) == len(drawn.density) == 6
    stored = [Shard.load(path) for path in shard_paths(tmp_path)]
    sizes = [shard.clear.shape[1:] for shard in stored]
    of_a_size = sizes.count(drawn.clear.shape[1:])
    # Where shards suffice, each pair comes once.
    once = min(6, 2 * of_a_size)
    assert len(np.unique(drawn.clear.numpy().reshape(6, -1), axis=0)) == once
    height, width = drawn.clear.shape[1:3]
    like = reader.draw_pairs(rng, 1, (1, 36, height // 2, width // 2))
    assert like.clear.shape[1:3] == (height, width)


def test_a_size_that_no_shard_has_is_an_error(photo_cache: PhotoCache, tmp_path: Path) -> None:
    fill_pool(photo_cache, tmp_path, 1, 1, pairs=2)
    with pytest.raises(FileNotFoundError, match=r"no shard for latents of \(3, 8\)"):
        PoolReader(tmp_path).draw_pairs(np.random.default_rng(0), 1, (3, 8))


def test_an_empty_pool_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="training render"):
        PoolReader(tmp_path).draw(np.random.default_rng(0))
