"""A pool of rendered pairs on disk, as cells, which rendering renews during training.

A shard is a folder of 512 pairs of one working size. Shards are written whole or not at all, and
numbered; the oldest is removed when there are more than the pool may hold.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.captions import Caption
from training.data import draw_pair_of_cells, draw_working_size
from training.photos import PhotoCache

logger = logging.getLogger(__name__)

SHARD_PAIRS = 512


@dataclass(frozen=True)
class Shard:
    """Pairs of one working size, mapped to memory.

    Attributes:
        degraded: float16 (n, h, w, 9) in [0, 1], the cells of what the captions say.
        clear: float16 (n, h, w, 9) in [0, 1], those of the photos behind them.
        captions: of ``degraded``.
    """

    degraded: NDArray[np.float16]
    clear: NDArray[np.float16]
    captions: list[Caption]

    @classmethod
    def load(cls, folder: Path) -> Shard:
        captions = [Caption(**row) for row in json.loads((folder / "captions.json").read_text())]
        return cls(
            np.load(folder / "degraded.npy", mmap_mode="r"),
            np.load(folder / "clear.npy", mmap_mode="r"),
            [_with_bounds(caption) for caption in captions],
        )


def _with_bounds(caption: Caption) -> Caption:
    """JSON has lists only, so bounds become tuples again."""
    bounds = None if caption.density is None else (caption.density[0], caption.density[1])
    return Caption(caption.text, caption.word, caption.kind, bounds)


def shard_paths(pool: Path) -> list[Path]:
    """The shards of a pool, oldest first."""
    return sorted(path for path in pool.glob("[0-9]*") if path.suffix == "")


class PoolReader:
    """Draws from the shards of a pool, which may be renewed meanwhile."""

    def __init__(self, pool: Path) -> None:
        self.pool = pool
        self._shards: dict[str, Shard] = {}

    def draw_of(self, rng: np.random.Generator, latents: tuple[int, ...]) -> Shard:
        """One of the shards whose latents have this height and width."""
        while True:
            shard = self.draw(rng)
            height, width = shard.clear.shape[1:3]
            if height * latents[-1] == width * latents[-2]:
                return shard

    def draw(self, rng: np.random.Generator) -> Shard:
        """One of the shards.

        Raises:
            FileNotFoundError: the pool is empty.
        """
        paths = shard_paths(self.pool)
        if not paths:
            raise FileNotFoundError(f"{self.pool} holds no shards: run `python -m training render`")
        path = paths[int(rng.integers(len(paths)))]
        if path.name not in self._shards:
            present = {each.name for each in paths}
            self._shards = {name: s for name, s in self._shards.items() if name in present}
            self._shards[path.name] = Shard.load(path)
        return self._shards[path.name]


def write_shard(
    cache: PhotoCache, pool: Path, number: int, seed: int, pairs: int = SHARD_PAIRS
) -> Path:
    """Renders a shard, which depends on seed and number alone."""
    rng = np.random.default_rng((seed, number))
    size = draw_working_size(rng)
    drawn = [draw_pair_of_cells(cache, size, rng) for _ in range(pairs)]
    partial = pool / f"{number:06d}.part"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    np.save(partial / "degraded.npy", np.stack([pair[0] for pair in drawn]).astype(np.float16))
    np.save(partial / "clear.npy", np.stack([pair[1] for pair in drawn]).astype(np.float16))
    captions = json.dumps([asdict(pair[2]) for pair in drawn])
    (partial / "captions.json").write_text(captions)
    final = pool / f"{number:06d}"
    os.replace(partial, final)
    return final


def fill_pool(
    cache: PhotoCache,
    pool: Path,
    shards: int,
    most: int,
    seed: int = 0,
    pairs: int = SHARD_PAIRS,
) -> None:
    """Renders ``shards`` more shards, from the number after the last; keeps ``most`` of them."""
    pool.mkdir(parents=True, exist_ok=True)
    present = shard_paths(pool)
    first = int(present[-1].name) + 1 if present else 0
    for number in range(first, first + shards):
        write_shard(cache, pool, number, seed, pairs)
        logger.info("shard %d", number)
        for oldest in shard_paths(pool)[:-most]:
            shutil.rmtree(oldest)
