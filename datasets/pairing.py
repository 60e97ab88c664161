"""Pairing of hazy and clear pictures: by id, never by the order of a listing."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dehaze.datasets.decoding import read_rgb
from dehaze.errors import DehazeError
from dehaze.levels import from_levels
from dehaze.photos import PHOTO_SUFFIXES, UNSUPPORTED_SUFFIXES

# RESIDE's indoor ground truth keeps a border of 10 px a side that its hazy pictures have lost.
BORDER = 10

# What an evaluation's output folder holds from its first picture on: its settings, and its records.
SETTINGS_FILE = "settings.json"
RECORDS_FOLDER = "records"


class OddityKind(Enum):
    """The kinds of odd files. A file of a failing kind cannot be scored."""

    MISSING_CLEAR = ("hazy image without ground truth", True)
    DUPLICATE = ("several files claim one id", True)
    UNRECOGNISED = ("file name that does not follow the set's naming", True)
    UNREADABLE = ("picture that cannot be read", True)
    UNUSED_CLEAR = ("ground truth without hazy image", False)
    NOT_AN_IMAGE = ("file that is no picture", False)
    CONVERTED = ("picture converted to 8-bit RGB", False)
    CROPPED = ("ground truth cropped by 10 px a side", False)
    RESULTS = ("folder with results of another evaluation, not searched", False)

    def __init__(self, meaning: str, is_failure: bool) -> None:
        self.meaning = meaning
        self.is_failure = is_failure


@dataclass(frozen=True)
class Oddity:
    """Something odd about a file: its kind, the file, and one line about it."""

    kind: OddityKind
    path: Path
    message: str


class SizeMismatchError(DehazeError, ValueError):
    """A hazy image and its ground truth differ in size, by more or less than RESIDE's border."""


@dataclass(frozen=True)
class LoadedSample:
    """The pictures of one sample, aligned pixel by pixel.

    Attributes:
        hazy: (H, W, 3) uint8 RGB.
        clear: (H, W, 3) uint8 RGB, or None where the set has no ground truth.
        transmission: (H, W) float32 in [0, 1], or None where the set does not have it.
        oddities: the conversions and crops that were needed.
    """

    hazy: NDArray[np.uint8]
    clear: NDArray[np.uint8] | None
    transmission: NDArray[np.float32] | None
    oddities: tuple[Oddity, ...]


@dataclass(frozen=True)
class Sample:
    """One hazy picture of a data set, with its ground truth as far as it is known.

    Attributes:
        name: unique within the set: the hazy file's path below its folder, without extension.
        scene: the id that the hazy picture shares with its ground truth.
        hazy: the hazy picture's file.
        clear: the ground truth's file, or None.
        transmission: the file of the true transmission map t (grey, 255 for t = 1), or None.
        airlight: the airlight A that the haze was rendered with, RGB in [0, 1], or None.
    """

    name: str
    scene: str
    hazy: Path
    clear: Path | None = None
    transmission: Path | None = None
    airlight: tuple[float, float, float] | None = None

    def load(self) -> LoadedSample:
        """Decode the pictures and align them.

        Raises:
            PhotoError: a file does not decode.
            SizeMismatchError: the sizes differ by something else than 20 px in both directions.
        """
        oddities: list[Oddity] = []
        hazy = _read(self.hazy, oddities)
        clear = None
        if self.clear is not None:
            whole = _read(self.clear, oddities)
            clear = crop_to(whole, hazy.shape[:2], self.clear, self.hazy)
            if clear.shape != whole.shape:
                message = f"{self.clear}: cropped by {BORDER} px a side to fit {self.hazy.name}"
                oddities.append(Oddity(OddityKind.CROPPED, self.clear, message))
        transmission = None
        if self.transmission is not None:
            # A transmission map is grey by nature, so its conversion is not odd.
            grey = read_rgb(self.transmission).pixels[..., 0]
            grey = crop_to(grey, hazy.shape[:2], self.transmission, self.hazy)
            transmission = from_levels(grey)
        return LoadedSample(hazy, clear, transmission, tuple(oddities))


def crop_to(
    pixels: NDArray[np.uint8], size: tuple[int, ...], path: Path, hazy_path: Path
) -> NDArray[np.uint8]:
    """Bring a ground truth to the size of its hazy picture by RESIDE's border, or refuse.

    Args:
        pixels: (H, W) or (H, W, 3), the ground truth.
        size: (height, width) of the hazy picture.
        path: the ground truth's file, for the message.
        hazy_path: the hazy picture's file, for the message.

    Returns:
        ``pixels`` where the sizes agree; its centre where both sides are 20 px longer.

    Raises:
        SizeMismatchError: any other difference. Nothing is resized silently.
    """
    excess = (pixels.shape[0] - size[0], pixels.shape[1] - size[1])
    if excess == (0, 0):
        return pixels
    if excess == (2 * BORDER, 2 * BORDER):
        return pixels[BORDER:-BORDER, BORDER:-BORDER]
    raise SizeMismatchError(
        f"{hazy_path} is {size[1]}x{size[0]} but {path} is {pixels.shape[1]}x{pixels.shape[0]}: "
        f"only equal sizes, or a border of {BORDER} px a side, can be compared"
    )


def _read(path: Path, oddities: list[Oddity]) -> NDArray[np.uint8]:
    decoded = read_rgb(path)
    if decoded.conversion is not None:
        message = f"{path}: {decoded.conversion}, converted to 8-bit RGB"
        oddities.append(Oddity(OddityKind.CONVERTED, path, message))
    return decoded.pixels


def before_underscore(stem: str) -> str:
    """The part of a name before the first underscore: in RESIDE's sets the id of the scene."""
    return stem.split("_", 1)[0]


def natural_key(text: str) -> list[tuple[int, str]]:
    """A sorting key under which "2" comes before "10"."""
    parts = re.split(r"(\d+)", text)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def list_images(
    folder: Path, *, recursive: bool = False, results: Collection[Path] = ()
) -> tuple[list[Path], list[Oddity]]:
    """The pictures of a folder in natural order, and everything else that is visible in it.

    Formats that dehaze cannot read (HEIC, camera raw) count as pictures, so that they fail when
    they are loaded instead of being passed over silently.

    Args:
        folder: an existing folder. It is searched even if it lies in one of ``results``.
        recursive: descend into subfolders. One that holds the results of an evaluation is not
            searched, and is reported.
        results: folders of results, which are neither searched nor reported.

    Raises:
        OSError: a folder cannot be listed.
    """
    searched = folder.resolve()
    closed = {path.resolve() for path in results} - {searched, *searched.parents}
    images: list[Path] = []
    others: list[Oddity] = []
    for path in _files_below(folder, closed, others) if recursive else folder.iterdir():
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if hidden or not path.is_file():
            continue
        if closed and not closed.isdisjoint(path.resolve().parents):
            continue
        if path.suffix.lower() in PHOTO_SUFFIXES | UNSUPPORTED_SUFFIXES:
            images.append(path)
        else:
            others.append(Oddity(OddityKind.NOT_AN_IMAGE, path, f"{path}: no picture, left alone"))
    return sorted(images, key=lambda path: natural_key(str(path))), others


def holds_results(folder: Path) -> bool:
    """Whether a folder is the output of an evaluation, whose pictures are nobody's photos."""
    # The functions of os.path take a folder that cannot be entered for one without results. The
    # search then fails at the folder itself, and names it.
    settings, records = folder / SETTINGS_FILE, folder / RECORDS_FOLDER
    return os.path.isfile(settings) and os.path.isdir(records)


def _files_below(folder: Path, closed: Collection[Path], oddities: list[Oddity]) -> Iterator[Path]:
    """The files of the folders that are searched; others with results join ``oddities``."""
    for parent, folders, names in os.walk(folder, onerror=_refuse):
        searched = []
        for name in folders:
            path = Path(parent, name)
            if name.startswith(".") or path.resolve() in closed:
                continue
            if holds_results(path):
                message = f"{path}: holds the results of another evaluation, not searched"
                oddities.append(Oddity(OddityKind.RESULTS, path, message))
            else:
                searched.append(name)
        folders[:] = searched
        yield from (Path(parent, name) for name in names)


def _refuse(error: OSError) -> None:
    # Photos that nobody sees would be missing from every number.
    raise error


def pair(
    hazy_files: Sequence[Path],
    clear_files: Sequence[Path] | None,
    *,
    hazy_folder: Path,
    scene_of_hazy: Callable[[str], str | None],
    scene_of_clear: Callable[[str], str | None],
) -> tuple[list[Sample], list[Oddity]]:
    """Pair hazy and clear files by the id of their scene, whatever their extensions.

    Several hazy files may share one ground truth. A file that cannot be paired is reported, never
    guessed: it has no ground truth, its id has two, another hazy file has its name, or its name has
    no id.

    Args:
        hazy_files: the hazy pictures, in the order that the samples shall have.
        clear_files: the ground truths, or None for a set that has none.
        hazy_folder: the folder below which a sample's name is taken.
        scene_of_hazy: takes a hazy file's name without extension; returns the id of its scene, or
            None for a name that does not follow the set's naming.
        scene_of_clear: likewise for a ground truth's name.

    Returns:
        The samples that can be scored, and everything odd.
    """
    oddities: list[Oddity] = []
    hazy_by_name: dict[str, list[Path]] = defaultdict(list)
    for path in hazy_files:
        name = path.relative_to(hazy_folder).with_name(path.stem).as_posix()
        hazy_by_name[name].append(path)
    clear_by_scene: dict[str, list[Path]] = {}
    if clear_files is not None:
        clear_by_scene = defaultdict(list)
        for path in clear_files:
            scene = scene_of_clear(path.stem)
            if scene is None:
                oddities.append(_unrecognised(path))
            else:
                clear_by_scene[scene].append(path)

    samples: list[Sample] = []
    used: set[str] = set()
    for name, files in hazy_by_name.items():
        scene = scene_of_hazy(files[0].stem)
        if len(files) > 1:
            oddities += [duplicate(f"the hazy image {name}", files, path) for path in files]
        if scene is None:
            oddities += [_unrecognised(path) for path in files]
            continue
        used.add(scene)
        if len(files) > 1:
            continue
        hazy = files[0]
        if clear_files is None:
            samples.append(Sample(name=name, scene=scene, hazy=hazy))
            continue
        candidates = clear_by_scene.get(scene, [])
        if len(candidates) == 1:
            samples.append(Sample(name=name, scene=scene, hazy=hazy, clear=candidates[0]))
        elif candidates:
            oddities.append(duplicate(f"the ground truth of scene {scene}", candidates, hazy))
        else:
            message = f"{hazy}: no ground truth with id {scene}"
            oddities.append(Oddity(OddityKind.MISSING_CLEAR, hazy, message))
    for scene, candidates in clear_by_scene.items():
        if scene not in used:
            message = f"{candidates[0]}: no hazy image with id {scene}"
            oddities.append(Oddity(OddityKind.UNUSED_CLEAR, candidates[0], message))
    return samples, oddities


def _unrecognised(path: Path) -> Oddity:
    message = f"{path}: the name does not follow this set's naming"
    return Oddity(OddityKind.UNRECOGNISED, path, message)


def duplicate(what: str, files: Sequence[Path], path: Path) -> Oddity:
    """The oddity of a file that cannot be scored, since several files are what it needs one of.

    Args:
        what: it needs.
        files: that claim to be it.
        path: the file that cannot be scored.
    """
    names = ", ".join(file.name for file in files)
    message = f"{path}: {what} is claimed by {names}; keep one"
    return Oddity(OddityKind.DUPLICATE, path, message)
