"""Photos by class: a folder with a subfolder for each."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from dehaze.datasets.pairing import holds_results, list_images, natural_key
from dehaze.datasets.readable import split_readable
from dehaze.datasets.registry import DatasetNotFoundError, existing_folder
from dehaze.wording import counted


@dataclass(frozen=True)
class PhotoClass:
    """Photos of one thing.

    Attributes:
        name: the subfolder's, with spaces for its underscores.
        photos: the files of those that decode, in natural order.
        left_out: one line about each of the others.
    """

    name: str
    photos: tuple[Path, ...]
    left_out: tuple[str, ...]


def open_class_folder(
    root: Path, *, least: int = 1, results: Collection[Path] = ()
) -> tuple[PhotoClass, ...]:
    """The classes of a folder, each a subfolder with photos; hidden ones are left out.

    Args:
        root: the folder.
        least: how many photos that decode a class needs.
        results: folders that the results go to, which are not searched.

    Raises:
        DatasetNotFoundError: there is no such folder or no class in it, it is the output as well or
            lies in it, a class has too few photos, two have one name, or photos lie beside the
            subfolders.
    """
    existing_folder(root, results, recursive=True)
    loose, _ = list_images(root)
    if loose:
        raise DatasetNotFoundError(
            f"{loose[0]}: belongs to no class; put each class's photos into a subfolder of its name"
        )
    classes: dict[str, PhotoClass] = {}
    closed = {path.resolve() for path in results}
    for folder in sorted(root.iterdir(), key=lambda path: natural_key(path.name)):
        if folder.resolve() in closed or holds_results(folder):
            continue
        if folder.is_dir() and not folder.name.startswith("."):
            files, _ = list_images(folder, recursive=True, results=results)
            photos, left_out = split_readable(files)
            if len(photos) < least:
                held = counted(len(photos), "photo") + (f" ({left_out[0]})" if left_out else "")
                raise DatasetNotFoundError(f"{folder}: holds {held}, and a class needs {least}")
            name = folder.name.replace("_", " ")
            if name in classes:
                raise DatasetNotFoundError(
                    f"{folder}: a class is called {name!r} already; put its photos into one folder"
                )
            classes[name] = PhotoClass(name, tuple(photos), tuple(left_out))
    if not classes:
        raise DatasetNotFoundError(f"{root}: holds no subfolder; each class has one, of its name")
    return tuple(classes.values())
