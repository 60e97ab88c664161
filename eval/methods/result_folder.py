"""Rows of pictures that another program has made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dehaze.datasets import read_rgb
from dehaze.datasets.pairing import list_images
from dehaze.eval.methods.base import Method, MethodError, MethodInput, MethodOutput
from dehaze.levels import from_levels


class ResultFolder(Method):
    """Pictures that another program has made, found by the hazy picture's name or scene.

    They lie in ``PATH`` or in ``PATH/<subset>``. For an oracle each subfolder there holds one
    iteration's pictures.
    """

    saves = False

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(name, f"results in {folder}")
        if not folder.is_dir():
            raise MethodError(f"{folder} is no folder; expected folder:NAME=PATH with its results")
        self._folder = folder
        self.has_candidates = True
        self._indices: dict[Path, dict[str, tuple[Path, ...]]] = {}

    def settings(self) -> dict[str, Any]:
        return {"folder": str(self._folder)}

    def run(self, source: MethodInput) -> MethodOutput:
        found = self.find(source.subset, source.name, source.scene)
        if found is None:
            folder = self._folder_of(source.subset)
            raise FileNotFoundError(f"{folder} has no picture named {source.name}")
        return MethodOutput(image=from_levels(read_rgb(found).pixels))

    def find(self, subset: str, name: str, scene: str) -> Path | None:
        """The file of a picture, or None.

        Raises:
            ValueError: several files carry the name.
        """
        return self._find(self._folder_of(subset), name, scene)

    def files(self, subset: str, name: str, scene: str) -> tuple[Path, ...]:
        folder = self._folder_of(subset)
        places = (folder, *_iterations(folder))
        return tuple(path for each in places for path in self._named(each, name, scene)[1])

    def candidates(self, source: MethodInput) -> Iterator[tuple[str, MethodOutput]]:
        found = [
            (path.name, self._find(path, source.name, source.scene))
            for path in _iterations(self._folder_of(source.subset))
        ]
        if not any(picture for _, picture in found):
            yield "", self.run(source)
            return
        for label, picture in found:
            if picture is not None:
                yield label, MethodOutput(image=from_levels(read_rgb(picture).pixels))

    def _folder_of(self, subset: str) -> Path:
        below = self._folder / subset
        return below if below.is_dir() else self._folder

    def _find(self, folder: Path, name: str, scene: str) -> Path | None:
        key, matches = self._named(folder, name, scene)
        if len(matches) > 1:
            names = ", ".join(path.name for path in matches)
            raise ValueError(f"{folder}: {key} is claimed by {names}; keep one")
        return matches[0] if matches else None

    def _named(self, folder: Path, name: str, scene: str) -> tuple[str, tuple[Path, ...]]:
        """The pictures named like the hazy one, or else like its scene, and that name."""
        if folder not in self._indices:
            self._indices[folder] = _index_of(folder)
        files = self._indices[folder]
        keys = (name, name.rsplit("/", 1)[-1], scene)
        return next(((key, files[key]) for key in keys if key in files), ("", ()))


def _iterations(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def _index_of(folder: Path) -> dict[str, tuple[Path, ...]]:
    index: dict[str, tuple[Path, ...]] = {}
    for path in list_images(folder, recursive=True)[0]:
        key = path.relative_to(folder).with_name(path.stem).as_posix()
        index[key] = (*index.get(key, ()), path)
    return index
