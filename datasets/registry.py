"""Data sets, and their registry by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

from dehaze.datasets.pairing import Oddity, OddityKind, Sample, list_images, pair
from dehaze.errors import DehazeError
from dehaze.registry import Registry

# Names of folders in published sets and their repackaged copies, in upper or lower case.
HAZY_FOLDERS = ("hazy", "haze", "input", "IN")
CLEAR_FOLDERS = ("gt", "clear", "original", "target")
TRANSMISSION_FOLDERS = ("trans", "transmission")


class DatasetNotFoundError(DehazeError, FileNotFoundError):
    """A data set is missing, or has another layout than expected."""


def existing_folder(
    folder: Path, results: Collection[Path] = (), *, recursive: bool = False
) -> Path:
    """The folder, if its pictures are safe from a run's results, and the results from it.

    Args:
        folder: of pictures.
        results: folders that the results go to.
        recursive: whether its subfolders are searched, too. A folder within the results' would then
            give them back as pictures.

    Raises:
        DatasetNotFoundError: it is missing, is an output folder as well, or lies in one and is
            searched with its subfolders.
    """
    if not folder.is_dir():
        raise DatasetNotFoundError(f"{folder}: is no folder")
    resolved = folder.resolve()
    outputs = {path.resolve() for path in results}
    if resolved in outputs:
        raise DatasetNotFoundError(
            f"{folder}: is the output folder as well; name another one with -o"
        )
    if recursive and not outputs.isdisjoint(resolved.parents):
        raise DatasetNotFoundError(f"{folder}: lies in the output folder; name another one with -o")
    return folder


_Sample = TypeVar("_Sample")


def spread(samples: Sequence[_Sample], limit: int | None) -> tuple[_Sample, ...]:
    """At most ``limit`` samples, evenly spread; all of them when None.

    Raises:
        ValueError: ``limit`` is not positive.
    """
    if limit is None:
        return tuple(samples)
    if limit < 1:
        raise ValueError(f"a limit must be at least 1, not {limit}")
    count = min(limit, len(samples))
    return tuple(samples[index * len(samples) // count] for index in range(count))


@dataclass(frozen=True)
class Dataset:
    """The samples of one data set, and everything that was odd about its files.

    Attributes:
        name: the registered name, or the folder's name.
        samples: the pictures that can be scored, in natural order.
        oddities: everything odd about the files. A file with an oddity of a failing kind is no
            sample.
        paired: whether the set has ground truth.
    """

    name: str
    samples: tuple[Sample, ...]
    oddities: tuple[Oddity, ...]
    paired: bool

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    @property
    def failures(self) -> tuple[Oddity, ...]:
        """The oddities of files that cannot be scored."""
        return tuple(oddity for oddity in self.oddities if oddity.kind.is_failure)

    def counts(self) -> dict[OddityKind, int]:
        """How often each kind of oddity was met."""
        return dict(Counter(oddity.kind for oddity in self.oddities))

    def spread(self, limit: int | None) -> tuple[Sample, ...]:
        """At most ``limit`` samples, evenly spread, since neighbours often show one scene.

        All of them when None.

        Raises:
            ValueError: ``limit`` is not positive.
        """
        return spread(self.samples, limit)


class BenchmarkDataset:
    """A published data set: its source, its folders, and how its file names pair.

    A subclass sets the attributes, and finds the scene in a file's name.

    Attributes:
        name: the name in the registry and on the command line.
        title: the name in the literature, with the number of pictures.
        published: the address where it is published.
        layout: the expected files, for messages.
        locations: paths of the set below the root. The root may also be a folder on such a path.
        hazy_folders: names that the folder of hazy pictures may have; "." where the pictures lie in
            the location itself.
        clear_folders: names that the folder of ground truth may have; empty where there is none.
        recursive: whether hazy pictures lie in subfolders, too.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    published: ClassVar[str]
    layout: ClassVar[str]
    locations: ClassVar[tuple[str, ...]]
    hazy_folders: ClassVar[tuple[str, ...]] = HAZY_FOLDERS
    clear_folders: ClassVar[tuple[str, ...]] = CLEAR_FOLDERS
    recursive: ClassVar[bool] = False

    @classmethod
    def scene_of_hazy(cls, stem: str) -> str | None:
        """The scene of a hazy file, from its name without extension; None for a foreign name."""
        return stem

    @classmethod
    def scene_of_clear(cls, stem: str) -> str | None:
        """The scene of a ground truth, from its name without extension; None for a foreign name."""
        return stem

    @classmethod
    def describe(cls, sample: Sample, folder: Path) -> Sample:
        """The sample with the set's transmission map and airlight."""
        return sample

    @classmethod
    def open(cls, root: Path, *, results: Collection[Path] = ()) -> Dataset:
        """Find the set below ``root`` and pair its files.

        Args:
            root: the folder that holds the set under one of its ``locations``, or the set itself.
            results: folders that the results go to, which are not searched.

        Raises:
            DatasetNotFoundError: it is not there; the message says where it is published, which
                layout was expected and what was missing. Or a folder of its pictures is one of
                ``results``.
        """
        folder = cls._locate(root)
        hazy_folder = subfolder(folder, cls.hazy_folders)
        clear_folder = subfolder(folder, cls.clear_folders)
        if hazy_folder is None:
            raise cls._missing(f"{folder} has no folder {' or '.join(cls.hazy_folders)}")
        if cls.clear_folders and clear_folder is None:
            raise cls._missing(f"{folder} has no folder {' or '.join(cls.clear_folders)}")
        hazy_files, oddities = list_images(
            existing_folder(hazy_folder, results), recursive=cls.recursive, results=results
        )
        clear_files = None
        if clear_folder is not None:
            clear_files, others = list_images(existing_folder(clear_folder, results))
            oddities = oddities + others
        if not hazy_files:
            raise cls._missing(f"{hazy_folder} holds no picture")
        samples, unpaired = pair(
            hazy_files,
            clear_files,
            hazy_folder=hazy_folder,
            scene_of_hazy=cls.scene_of_hazy,
            scene_of_clear=cls.scene_of_clear,
        )
        return Dataset(
            name=cls.name,
            samples=tuple(cls.describe(sample, folder) for sample in samples),
            oddities=tuple(oddities + unpaired),
            paired=clear_files is not None,
        )

    @classmethod
    def _locate(cls, root: Path) -> Path:
        if not root.is_dir():
            raise cls._missing(f"{root} is no folder")
        own_parts = tuple(part.lower() for part in root.resolve().parts)
        for location in cls.locations:
            parts = Path(location).parts
            # The root may be the location's parent, lie within it, or be the set itself.
            for depth in range(len(parts) + 1):
                above = tuple(part.lower() for part in parts[:depth])
                if own_parts[len(own_parts) - depth :] != above:
                    continue
                folder = descend(root, parts[depth:])
                if folder is not None and subfolder(folder, cls.hazy_folders) is not None:
                    return folder
        places = ", ".join(str(root / location) for location in cls.locations)
        raise cls._missing(f"looked for a hazy folder in {places}")

    @classmethod
    def _missing(cls, cause: str) -> DatasetNotFoundError:
        return DatasetNotFoundError(
            f"{cls.name}: {cause}. Expected layout: {cls.layout}. {cls.title} is published at "
            f"{cls.published}; it is not redistributed here, download it there"
        )


def descend(folder: Path, parts: tuple[str, ...]) -> Path | None:
    """The folder below ``folder`` along ``parts``, whatever their case."""
    for part in parts:
        found = subfolder(folder, (part,))
        if found is None:
            return None
        folder = found
    return folder


def subfolder(folder: Path, names: tuple[str, ...]) -> Path | None:
    """The first of ``names`` that is a folder below ``folder``, whatever its case."""
    if "." in names:
        return folder
    present = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    return next((present[name.lower()] for name in names if name.lower() in present), None)


DATASETS: Registry[type[BenchmarkDataset]] = Registry("data set")


def register_dataset(dataset: type[BenchmarkDataset]) -> type[BenchmarkDataset]:
    """Class decorator: make a data set known under its ``name``.

    Raises:
        ValueError: the name is taken.
    """
    return DATASETS.register(dataset.name, dataset)


def open_dataset(name: str, root: Path | str, *, results: Collection[Path] = ()) -> Dataset:
    """Open a registered data set below a folder.

    Args:
        name: one of ``DATASETS.names()``.
        root: the folder that holds it.
        results: folders that the results go to, which are not searched.

    Raises:
        UnknownNameError: no data set has that name.
        DatasetNotFoundError: it is not there, or a folder of its pictures is one of ``results``.
    """
    return DATASETS.get(name).open(Path(root), results=results)
