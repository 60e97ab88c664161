"""The training photos, decoded once into memory-mapped files.

The data folder has two parts. ``clean/`` holds BSDS500 and SUN-Hays 80, without depth. ``train/``
holds other sources, ``SOURCES.tsv``, which describes them, and ``split.tsv``, which assigns each
photo to a split. Some of its photos have a depth map beside them: a 16-bit PNG in which larger is
farther and 0 is unknown.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dehaze.levels import from_levels

Array = NDArray[np.float32]

# Largest short side of a photo in the cache, in pixels; it leaves room for crops.
LARGEST_SHORT_SIDE = 384
# Largest share of unknown pixels in a depth map.
MOST_HOLES = 0.3
# A source of n photos is drawn in proportion to n to this power: long sequences of one room repeat
# themselves.
SOURCE_EXPONENT = 0.6
# Share of rooms among the drawn photos.
ROOM_SHARE = 0.42
# SUN-Hays 80 and BSDS500 have few photos, but sharper and more varied ones than the others.
CLEAN_WEIGHT = 2.0


@dataclass(frozen=True)
class Entry:
    """Where a photo lies in the cache.

    Attributes:
        name: path relative to the data folder.
        source: the data set or sequence it belongs to.
        height, width: in pixels.
        pixels: offset of its first value in the file of pixels.
        depth: offset of its first value in the file of depths, -1 without depth.
        metres: the distance at depth 1, in metres; 0 where depth is relative.
        indoor: whether it shows a room.
    """

    name: str
    source: str
    height: int
    width: int
    pixels: int
    depth: int
    metres: float
    indoor: bool


class PhotoCache:
    """Photos and depth maps of one split.

    Args:
        folder: from ``build_cache``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rows = json.loads((folder / "index.json").read_text())
        self.entries = [Entry(**row) for row in rows]
        self._pixels = np.memmap(folder / "pixels.bin", dtype=np.uint8, mode="r")
        self._depths = np.memmap(folder / "depths.bin", dtype=np.float16, mode="r")
        self.weights = drawn_weights(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def photo(self, index: int) -> NDArray[np.uint8]:
        """uint8 (H, W, 3) RGB."""
        entry = self.entries[index]
        count = 3 * entry.height * entry.width
        stored = self._pixels[entry.pixels : entry.pixels + count]
        return stored.reshape(entry.height, entry.width, 3)

    def depth(self, index: int) -> Array | None:
        """float32 (H, W), positive: a share of the sensor's range, or relative."""
        entry = self.entries[index]
        if entry.depth < 0:
            return None
        stored = self._depths[entry.depth : entry.depth + entry.height * entry.width]
        return np.asarray(stored.reshape(entry.height, entry.width), dtype=np.float32)


def drawn_weights(entries: list[Entry]) -> NDArray[np.float64]:
    """The probability of each photo; those of rooms sum to ``ROOM_SHARE``."""
    weights = source_weights([entry.source for entry in entries])
    indoor = np.array([entry.indoor for entry in entries])
    rooms = float(weights[indoor].sum())
    if 0.0 < rooms < 1.0:
        weights = weights * np.where(indoor, ROOM_SHARE / rooms, (1 - ROOM_SHARE) / (1 - rooms))
    return weights


def source_weights(sources: list[str]) -> NDArray[np.float64]:
    """The probability of each photo, from the size of its source."""
    counts = Counter(sources)
    weights = {
        source: count ** (SOURCE_EXPONENT - 1.0) * (CLEAN_WEIGHT if "clean" in source else 1.0)
        for source, count in counts.items()
    }
    each = np.array([weights[source] for source in sources])
    return np.asarray(each / each.sum())


def build_cache(data: Path, folder: Path, split: str) -> PhotoCache:
    """Decodes the photos of a split into a cache, or returns the cache if it exists.

    Args:
        data: holds ``clean/`` and ``train/``; either may be missing.
        folder: where the cache is written.
        split: ``train`` or ``val``.

    Raises:
        FileNotFoundError: the data folder holds neither.
        ValueError: a photo cannot be read.
    """
    if (folder / "index.json").is_file():
        return PhotoCache(folder)
    listed = [*_list_clean(data / "clean", split), *_list_train(data / "train", split)]
    if not listed:
        raise FileNotFoundError(f"{data} holds no photos: it should hold clean/ or train/")
    folder.mkdir(parents=True, exist_ok=True)
    entries: list[Entry] = []
    at, depth_at = 0, 0
    with (folder / "pixels.bin").open("wb") as pixels, (folder / "depths.bin").open("wb") as depths:
        for path, source, metres, indoor in listed:
            photo = read_photo(path)
            depth = None
            if (path.with_suffix(".png")).is_file() and "rgbd" in source:
                depth = read_depth(path.with_suffix(".png"))
                if depth is None:
                    continue
            height, width = photo.shape[:2]
            entries.append(
                Entry(
                    str(path.relative_to(data)),
                    source,
                    height,
                    width,
                    at,
                    -1 if depth is None else depth_at,
                    metres,
                    indoor,
                )
            )
            pixels.write(photo.tobytes())
            at += photo.size
            if depth is not None:
                depths.write(depth.astype(np.float16).tobytes())
                depth_at += depth.size
        if depth_at == 0:
            depths.write(np.zeros(1, np.float16).tobytes())
    index = json.dumps([asdict(entry) for entry in entries])
    (folder / "index.json").write_text(index + "\n")
    return PhotoCache(folder)


def load_photos(paths: Iterable[Path], short_side: int) -> list[Array]:
    """Photos as float32 (H, W, 3) RGB in [0, 1], resized to ``short_side`` in pixels.

    Raises:
        ValueError: a photo cannot be read.
    """
    photos = []
    for path in paths:
        stored = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if stored is None:
            raise ValueError(f"{path} is not a photo that can be read")
        scale = short_side / min(stored.shape[:2])
        size = (round(stored.shape[1] * scale), round(stored.shape[0] * scale))
        reduced = cv2.resize(stored, size, interpolation=cv2.INTER_AREA)
        photos.append(from_levels(np.ascontiguousarray(reduced[..., ::-1])))
    return photos


def read_photo(path: Path) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) RGB, reduced to ``LARGEST_SHORT_SIDE`` where it is larger."""
    stored = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if stored is None:
        raise ValueError(f"{path} is not a photo that can be read")
    scale = LARGEST_SHORT_SIDE / min(stored.shape[:2])
    if scale < 1.0:
        size = (round(stored.shape[1] * scale), round(stored.shape[0] * scale))
        stored = cv2.resize(stored, size, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(stored[..., ::-1], dtype=np.uint8)


def read_depth(path: Path) -> Array | None:
    """A depth map in (0, 1] with its holes filled; None where too much is unknown."""
    stored = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if stored is None or stored.dtype != np.uint16 or stored.ndim != 2:
        raise ValueError(f"{path} is not a depth map of 16 bits")
    if float((stored == 0).mean()) > MOST_HOLES:
        return None
    depth = from_levels(stored)
    return fill_holes(depth, stored > 0)


def fill_holes(values: Array, known: NDArray[np.bool_]) -> Array:
    """Fills unknown pixels smoothly from the known ones around them, in holes of any size.

    Means of the known pixels at half the size fill unknown pixels at full size; their own holes are
    filled from a quarter of the size, and so on ("push-pull", Gortler et al., "The Lumigraph",
    1996, section 3.4).

    Args:
        values: float32 (H, W).
        known: bool (H, W), true at one pixel at least.

    Raises:
        ValueError: no pixel is known.
    """
    if not known.any():
        raise ValueError("no pixel is known, so there is nothing to fill holes from")
    if known.all():
        return values
    weight = known.astype(np.float32)
    size = (max(1, values.shape[1] // 2), max(1, values.shape[0] // 2))
    if size == values.shape[::-1]:
        return np.full_like(values, float(values[known].mean()))
    share = cv2.resize(weight, size, interpolation=cv2.INTER_AREA).reshape(size[::-1])
    total = cv2.resize(values * weight, size, interpolation=cv2.INTER_AREA).reshape(size[::-1])
    coarse = fill_holes(np.asarray(total / np.maximum(share, 1e-6), np.float32), share > 1e-6)
    enlarged = cv2.resize(coarse, values.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(np.where(known, values, enlarged), dtype=np.float32)


def _list_clean(folder: Path, split: str) -> list[tuple[Path, str, float, bool]]:
    """Paths of clean/: BSDS500 in its own splits, SUN-Hays 80 in ``train``."""
    listed = folder / "bsds500" / f"{split}.txt"
    names = listed.read_text().split() if listed.is_file() else []
    paths = [(folder / "bsds500" / name, "clean/bsds500") for name in names]
    if split == "train":
        paths += [(path, "clean/sun_hays80") for path in sorted(folder.glob("sun_hays80/*.*"))]
    return [(path, source, 0.0, False) for path, source in paths]


def _list_train(folder: Path, split: str) -> list[tuple[Path, str, float, bool]]:
    if not (folder / "split.tsv").is_file():
        return []
    with (folder / "SOURCES.tsv").open(newline="") as stream:
        about = {row["source"]: row for row in csv.DictReader(stream, delimiter="\t")}
    listed = []
    for line in (folder / "split.tsv").read_text().splitlines():
        name, own = line.split("\t")
        if own != split:
            continue
        row = about[name.rsplit("/", 1)[0]]
        listed.append(
            (folder / name, row["source"], _metres(row["depth"]), "indoor" in row["indoor_outdoor"])
        )
    return listed


def _metres(described: str) -> float:
    """The far limit of a measured depth in metres, 0 where its unit is unknown."""
    limit = re.search(r"(?:far limit|clipped at) (\d+) m", described)
    return float(limit[1]) if limit and described.startswith("metric") else 0.0
