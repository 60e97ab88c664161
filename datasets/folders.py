"""A user's own pictures: a folder of hazy photos, with or without ground truth."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from dehaze.datasets.pairing import before_underscore, list_images, natural_key, pair
from dehaze.datasets.registry import (
    CLEAR_FOLDERS,
    HAZY_FOLDERS,
    TRANSMISSION_FOLDERS,
    Dataset,
    DatasetNotFoundError,
    subfolder,
)

_ROLE = re.compile(r"_(?:hazy|haze|input|gt|clear|original|target)$", re.IGNORECASE)


def _without_role(stem: str) -> str:
    return _ROLE.sub("", stem)


def open_paired_folder(hazy_folder: Path, clear_folder: Path) -> Dataset:
    """Pair two folders of pictures.

    One rule pairs the whole folder, so that a missing ground truth is never replaced by a picture
    of a similar name. The names must be the same once a role suffix (``_hazy``, ``_GT``, ...) is
    taken off. If no two names are, RESIDE's rule is followed: the clear picture's name is the part
    of the hazy name before the first underscore. A folder ``trans`` or ``transmission``
    beside the hazy one may hold transmission maps, under the hazy pictures' names.

    Args:
        hazy_folder: the hazy pictures.
        clear_folder: their ground truth.

    Raises:
        DatasetNotFoundError: a folder is missing or holds no picture.
    """
    hazy_files, oddities = list_images(_existing(hazy_folder))
    clear_files, others = list_images(_existing(clear_folder))
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
    transmission_folder = subfolder(hazy_folder.parent, TRANSMISSION_FOLDERS)
    if transmission_folder is not None:
        maps = {path.stem: path for path in list_images(transmission_folder)[0]}
        samples = [replace(sample, transmission=maps.get(sample.hazy.stem)) for sample in samples]
    return Dataset(
        name=_folder_name(hazy_folder),
        samples=tuple(samples),
        oddities=tuple(oddities + others + unpaired),
        paired=True,
    )


def open_photo_folder(folder: Path, *, results: Collection[Path] = ()) -> Dataset:
    """All pictures of a folder and its subfolders, without ground truth.

    Args:
        folder: of the pictures.
        results: folders that the results go to; they are not searched, so that a second run takes
            no result for a photo.

    Raises:
        DatasetNotFoundError: the folder is missing or holds no picture, or is the output as well.
    """
    files, oddities = list_images(_existing(folder, results), recursive=True, results=results)
    if not files:
        raise DatasetNotFoundError(f"{folder}: holds no picture")
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

    ``results`` as for ``open_photo_folder``.

    Raises:
        DatasetNotFoundError: the folder is missing or holds no picture, or holds a ``hazy/``
            without any of the ground-truth folders.
    """
    hazy_folder = subfolder(_existing(root), HAZY_FOLDERS)
    if hazy_folder is None:
        return open_photo_folder(root, results=results)
    clear_folder = subfolder(root, CLEAR_FOLDERS)
    if clear_folder is None:
        raise DatasetNotFoundError(
            f"{root}: has {hazy_folder.name}/ but no ground truth; name that folder "
            f"{' or '.join(CLEAR_FOLDERS)}, or give {hazy_folder} itself for photos without one"
        )
    return open_paired_folder(hazy_folder, clear_folder)


def _existing(folder: Path, results: Collection[Path] = ()) -> Path:
    if not folder.is_dir():
        raise DatasetNotFoundError(f"{folder}: is no folder")
    if folder.resolve() in {path.resolve() for path in results}:
        raise DatasetNotFoundError(
            f"{folder}: is the output folder as well; name another one with -o"
        )
    return folder


def _folder_name(folder: Path) -> str:
    resolved = folder.resolve()
    is_role = resolved.name.lower() in {name.lower() for name in HAZY_FOLDERS}
    return (resolved.parent.name if is_role else resolved.name) or "folder"
