"""A user's own pictures: a folder of hazy photos, with or without ground truth."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from dehaze.datasets.pairing import (
    Oddity,
    OddityKind,
    Sample,
    before_underscore,
    duplicate,
    list_images,
    natural_key,
    pair,
)
from dehaze.datasets.registry import (
    CLEAR_FOLDERS,
    HAZY_FOLDERS,
    TRANSMISSION_FOLDERS,
    Dataset,
    DatasetNotFoundError,
    existing_folder,
    subfolder,
)

_ROLE = re.compile(r"_(?:hazy|haze|input|gt|clear|original|target)$", re.IGNORECASE)


def _without_role(stem: str) -> str:
    return _ROLE.sub("", stem)


def open_paired_folder(
    hazy_folder: Path, clear_folder: Path, *, results: Collection[Path] = ()
) -> Dataset:
    """Pair two folders of pictures.

    One rule pairs the whole folder, so that a missing ground truth is never replaced by a picture
    of a similar name. The names must be the same once a role suffix (``_hazy``, ``_GT``, ...) is
    taken off. If no two names are, RESIDE's rule is followed: the clear picture's name is the part
    of the hazy name before the first underscore. A folder ``trans`` or ``transmission``
    beside the hazy one may hold transmission maps, under the hazy pictures' names.

    Args:
        hazy_folder: the hazy pictures.
        clear_folder: their ground truth.
        results: folders that the results go to.

    Raises:
        DatasetNotFoundError: a folder is missing or holds no picture, or one of them, the
            transmission maps' included, is the output as well.
    """
    hazy_files, oddities = list_images(existing_folder(hazy_folder, results))
    clear_files, others = list_images(existing_folder(clear_folder, results))
    for folder, files in ((hazy_folder, hazy_files), (clear_folder, clear_files)):
        if not files:
            raise DatasetNotFoundError(f"{folder}: holds no picture")
    clear_scenes = {_without_role(path.stem) for path in clear_files}
    identical = any(_without_role(path.stem) in clear_scenes for path in hazy_files)
    samples, unpaired = pair(
        hazy_files,
        clear_files,
        hazy_folder=hazy_folder,
        scene_of_hazy=_without_role if identical else before_underscore,
        scene_of_clear=_without_role,
    )
    # "." has no parent by name, and a link's own folder is meant, not that of its target.
    beside = Path(os.path.abspath(hazy_folder)).parent
    transmission_folder = subfolder(beside, TRANSMISSION_FOLDERS)
    ambiguous: list[Oddity] = []
    if transmission_folder is not None:
        maps, _ = list_images(existing_folder(transmission_folder, results))
        samples, ambiguous = _with_maps(samples, maps)
    return Dataset(
        name=_folder_name(hazy_folder),
        samples=tuple(samples),
        oddities=tuple(oddities + others + unpaired + ambiguous),
        paired=True,
    )


def _with_maps(
    samples: Sequence[Sample], maps: Sequence[Path]
) -> tuple[list[Sample], list[Oddity]]:
    """The samples with their transmission maps, and an oddity for each that has several."""
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for path in maps:
        by_stem[path.stem].append(path)
    found, ambiguous = [], []
    for sample in samples:
        own = by_stem.get(sample.hazy.stem, [])
        if len(own) > 1:
            ambiguous.append(duplicate(f"the transmission map {own[0].stem}", own, sample.hazy))
        else:
            found.append(replace(sample, transmission=own[0] if own else None))
    return found, ambiguous


def open_photo_folder(folder: Path, *, results: Collection[Path] = ()) -> Dataset:
    """All pictures of a folder and its subfolders, without ground truth.

    Args:
        folder: of the pictures.
        results: folders that the results go to; they are not searched, so that a second run takes
            no result for a photo.

    Raises:
        DatasetNotFoundError: the folder is missing or holds no picture, or is the output as well,
            or lies in it.
    """
    existing_folder(folder, results, recursive=True)
    files, oddities = list_images(folder, recursive=True, results=results)
    if not files:
        closed = next((odd.message for odd in oddities if odd.kind is OddityKind.RESULTS), None)
        more = "" if closed is None else f" ({closed})"
        raise DatasetNotFoundError(f"{folder}: holds no picture{more}")
    samples, unpaired = pair(files, None, hazy_folder=folder, scene_of_hazy=str, scene_of_clear=str)
    samples.sort(key=lambda sample: natural_key(sample.name))
    return Dataset(
        name=_folder_name(folder),
        samples=tuple(samples),
        oddities=tuple(oddities + unpaired),
        paired=False,
    )


def open_folder(root: Path, *, results: Collection[Path] = ()) -> Dataset:
    """A folder with ``hazy/`` and a ground-truth folder as pairs, any other folder as photos.

    ``results`` as for ``open_paired_folder`` and ``open_photo_folder``, with their errors.

    Raises:
        DatasetNotFoundError: the folder is missing or holds no picture, or holds a ``hazy/``
            without any of the ground-truth folders.
    """
    hazy_folder = subfolder(existing_folder(root), HAZY_FOLDERS)
    if hazy_folder is None:
        return open_photo_folder(root, results=results)
    clear_folder = subfolder(root, CLEAR_FOLDERS)
    if clear_folder is None:
        raise DatasetNotFoundError(
            f"{root}: has {hazy_folder.name}/ but no ground truth; name that folder "
            f"{' or '.join(CLEAR_FOLDERS)}, or give {hazy_folder} itself for photos without one"
        )
    return open_paired_folder(hazy_folder, clear_folder, results=results)


def _folder_name(folder: Path) -> str:
    resolved = folder.resolve()
    is_role = resolved.name.lower() in {name.lower() for name in HAZY_FOLDERS}
    return (resolved.parent.name if is_role else resolved.name) or "folder"
