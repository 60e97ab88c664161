"""A pool of rendered pairs on disk, stored as cells, which can be renewed during training.

A shard is a numbered folder of 512 pairs of one working size, written whole or not at all. The
oldest shards are deleted when the pool holds too many.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from training.captions import Caption
from training.data import draw_pair_of_cells, draw_working_size
from training.photos import PhotoCache

logger = logging.getLogger(__name__)

SHARD_PAIRS = 512
_ARRAYS = ("degraded", "clear", "density")


@dataclass(frozen=True)
class Shard:
    """Pairs of one working size, mapped to memory or on an accelerator.

    Attributes:
        degraded: float16 (n, h, w, 9) in [0, 1], the cells of the degraded pictures.
        clear: float16 (n, h, w, 9) in [0, 1], the cells of their clear photos.
        density: float16 (n, h / 2, w / 2), the haze's 1 - t.
        captions: of ``degraded``.
    """

    degraded: Tensor
    clear: Tensor
    density: Tensor
    captions: list[Caption]

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> Shard:
        captions = [Caption(**row) for row in json.loads((folder / "captions.json").read_text())]
        # Copy-on-write, since torch warns of memory that cannot be written.
        degraded, clear, density = (
            torch.from_numpy(np.load(folder / f"{name}.npy", mmap_mode="c")).to(device)
            for name in _ARRAYS
        )
        return cls(degraded, clear, density, [_with_bounds(caption) for caption in captions])

    @classmethod
    def joined(cls, shards: Sequence[Shard]) -> Shard:
        """All pairs of some shards of one working size."""
        degraded, clear, density = (
            torch.cat([getattr(shard, name) for shard in shards]) for name in _ARRAYS
        )
        return cls(
            degraded, clear, density, [caption for each in shards for caption in each.captions]
        )


def _with_bounds(caption: Caption) -> Caption:
    """The caption of a JSON object, whose bounds become a tuple again."""
    bounds = None if caption.density is None else (caption.density[0], caption.density[1])
    return Caption(caption.text, caption.word, caption.kind, bounds)


def shard_paths(pool: Path) -> list[Path]:
    """The shards of a pool, oldest first."""
    return sorted(path for path in pool.glob("[0-9]*") if path.suffix == "")


class PoolReader:
    """Draws shards of a pool that may be renewed at the same time.

    Args:
        pool: the folder.
        device: where loaded shards are kept.
    """

    def __init__(self, pool: Path, device: str = "cpu") -> None:
        self.pool, self.device = pool, device
        self._shards: dict[str, Shard] = {}

    def draw(self, rng: np.random.Generator) -> Shard:
        """One of the shards.

        Raises:
            FileNotFoundError: the pool is empty.
        """
        paths = self._paths()
        return self._loaded(paths[int(rng.integers(len(paths)))], paths)

    def draw_pairs(
        self, rng: np.random.Generator, pairs: int, latents: tuple[int, ...] | None = None
    ) -> Shard:
        """Random shards of one working size, joined until they hold enough pairs.

        No shard comes twice before all others of its size have come.

        Args:
            rng: draws the shards.
            pairs: least number of pairs.
            latents: shape whose height and width the latents have; of a random shard when None.

        Raises:
            FileNotFoundError: the pool is empty, or holds no shard of this size.
        """
        drawn: list[Shard] = []
        for shard in self._of_one_size(rng, latents):
            drawn.append(shard)
            pairs -= len(shard.captions)
            if pairs <= 0:
                break
        return drawn[0] if len(drawn) == 1 else Shard.joined(drawn)

    def _of_one_size(
        self, rng: np.random.Generator, latents: tuple[int, ...] | None
    ) -> Iterator[Shard]:
        """All shards of one working size in a random order, then in another, without end."""
        found = True
        while found:
            found, paths = False, self._paths()
            for path in (paths[position] for position in rng.permutation(len(paths))):
                if path.name not in self._shards and not path.exists():
                    continue  # It has just been renewed.
                shard = self._loaded(path, paths)
                height, width = shard.clear.shape[1:3]
                latents = (height, width) if latents is None else latents
                if height * latents[-1] == width * latents[-2]:
                    found = True
                    yield shard
        raise FileNotFoundError(f"{self.pool} holds no shard for latents of {latents}")

    def _paths(self) -> list[Path]:
        paths = shard_paths(self.pool)
        if not paths:
            raise FileNotFoundError(f"{self.pool} holds no shards: run `python -m training render`")
        return paths

    def _loaded(self, path: Path, paths: Sequence[Path]) -> Shard:
        """A shard, loaded once; those that are no longer among ``paths`` are forgotten."""
        if path.name not in self._shards:
            present = {each.name for each in paths}
            self._shards = {name: s for name, s in self._shards.items() if name in present}
            self._shards[path.name] = Shard.load(path, self.device)
        return self._shards[path.name]


def write_shard(
    cache: PhotoCache, pool: Path, number: int, seed: int, pairs: int = SHARD_PAIRS
) -> Path:
    """Renders a shard; its contents depend on ``seed`` and ``number`` alone."""
    rng = np.random.default_rng((seed, number))
    size = draw_working_size(rng)
    drawn = [draw_pair_of_cells(cache, size, rng) for _ in range(pairs)]
    unfinished = pool / f"{number:06d}.part"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for name in _ARRAYS:
        stacked = np.stack([getattr(pair, name) for pair in drawn])
        np.save(unfinished / f"{name}.npy", stacked.astype(np.float16))
    captions = json.dumps([asdict(pair.caption) for pair in drawn])
    (unfinished / "captions.json").write_text(captions)
    final = pool / f"{number:06d}"
    os.replace(unfinished, final)
    return final


def fill_pool(
    cache: PhotoCache,
    pool: Path,
    shards: int,
    most: int,
    seed: int = 0,
    pairs: int = SHARD_PAIRS,
    workers: int = 1,
) -> None:
    """Renders ``shards`` more shards, then deletes the oldest beyond ``most``.

    The shards do not depend on the number of worker processes.
    """
    pool.mkdir(parents=True, exist_ok=True)
    present = shard_paths(pool)
    first = int(present[-1].name) + 1 if present else 0
    write = partial(_write_shard_in, cache.folder, pool, seed=seed, pairs=pairs)
    numbers = range(first, first + shards)
    with ProcessPoolExecutor(workers, get_context("spawn")) as executor:
        rendered = map(write, numbers) if workers == 1 else executor.map(write, numbers)
        for path in rendered:
            logger.info("shard %s", path.name)
            for oldest in shard_paths(pool)[:-most]:
                shutil.rmtree(oldest)


def _write_shard_in(cache: Path, pool: Path, number: int, seed: int, pairs: int) -> Path:
    """Renders a shard in a worker process, on one thread, since the processes share the cores."""
    cv2.setNumThreads(1)
    return write_shard(_opened(cache), pool, number, seed, pairs)


@lru_cache(maxsize=1)
def _opened(cache: Path) -> PhotoCache:
    return PhotoCache(cache)
