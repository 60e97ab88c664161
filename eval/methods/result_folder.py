"""Rows of pictures that another program has made."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
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
        return _find_result(self._folder_of(subset), name, scene)

    def candidates(self, source: MethodInput) -> Iterator[tuple[str, MethodOutput]]:
        folder = self._folder_of(source.subset)
        iterations = sorted(path for path in folder.iterdir() if path.is_dir())
        found = [(path.name, _find_result(path, source.name, source.scene)) for path in iterations]
        if not any(picture for _, picture in found):
            yield "", self.run(source)
            return
        for label, picture in found:
            if picture is not None:
                yield label, MethodOutput(image=from_levels(read_rgb(picture).pixels))

    def _folder_of(self, subset: str) -> Path:
        below = self._folder / subset
        return below if below.is_dir() else self._folder


def _find_result(folder: Path, name: str, scene: str) -> Path | None:
    """The picture named like the hazy one, or like its scene.

    Raises:
        ValueError: several files carry the name.
    """
    files = _index_of(folder)
    for key in (name, name.rsplit("/", 1)[-1], scene):
        matches = files.get(key, ())
        if len(matches) > 1:
            names = ", ".join(path.name for path in matches)
            raise ValueError(f"{folder}: {key} is claimed by {names}; keep one")
        if matches:
            return matches[0]
    return None


@lru_cache(maxsize=64)
def _index_of(folder: Path) -> dict[str, tuple[Path, ...]]:
    index: dict[str, tuple[Path, ...]] = {}
    for path in list_images(folder, recursive=True)[0]:
        key = path.relative_to(folder).with_name(path.stem).as_posix()
        index[key] = (*index.get(key, ()), path)
    return index
