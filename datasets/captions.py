"""Photos with captions: COCO's annotations, or a table of file names and captions.

Source: COCO captions, arXiv 1504.00325; published at https://cocodataset.org
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from dehaze.datasets.pairing import list_images
from dehaze.datasets.registry import DatasetNotFoundError, existing_folder
from dehaze.errors import reason

LAYOUT = (
    "expected COCO's captions (captions_val2017.json), or a .tsv with a line a photo: its path "
    "below the folder, a tab, its caption"
)


@dataclass(frozen=True)
class CaptionedPhoto:
    """A photo and its caption.

    Attributes:
        name: its path below the folder, with its extension.
        file: its path.
        caption: the first of its captions, in one line.
    """

    name: str
    file: Path
    caption: str


@dataclass(frozen=True)
class CaptionedPhotos:
    """The photos of a folder that have a caption, and names without a match.

    Attributes:
        photos: in natural order.
        uncaptioned: names of the photos without a caption.
        missing: names with captions but without a photo.
        further: how many captions of these photos are not used, since another stands before them.
    """

    photos: tuple[CaptionedPhoto, ...]
    uncaptioned: tuple[str, ...]
    missing: tuple[str, ...]
    further: int


def open_captioned_photos(
    folder: Path, captions: Path, *, results: Collection[Path] = ()
) -> CaptionedPhotos:
    """The photos of a folder and its subfolders with their captions.

    A photo's prompt is its first caption in the file, as COCO's photos have five.

    Args:
        folder: of the photos.
        captions: COCO's annotations (.json), or file names and captions (.tsv).
        results: folders that the results go to, which are not searched.

    Raises:
        DatasetNotFoundError: the folder or the file is missing, the folder is the output as well or
            lies in it, the file is no such file, or no photo has a caption; the message says what
            was expected.
    """
    existing_folder(folder, results, recursive=True)
    known = read_captions(captions)
    images, _ = list_images(folder, recursive=True, results=results)
    files = {path.relative_to(folder).as_posix(): path for path in images}
    photos = tuple(
        CaptionedPhoto(name, path, known[name][0]) for name, path in files.items() if name in known
    )
    if not photos:
        raise DatasetNotFoundError(
            f"{captions}: none of its {len(known)} names is a photo's path below {folder}; the "
            f"first is {next(iter(known), '')!r}"
        )
    return CaptionedPhotos(
        photos,
        uncaptioned=tuple(name for name in files if name not in known),
        missing=tuple(name for name in known if name not in files),
        further=sum(len(known[photo.name]) - 1 for photo in photos),
    )


def read_captions(file: Path) -> dict[str, list[str]]:
    """The captions of each photo by its name, in the file's order, without empty ones.

    Raises:
        DatasetNotFoundError: the file is missing, or of another kind.
    """
    readers = {".json": _coco, ".tsv": _table}
    if file.suffix.lower() not in readers:
        raise DatasetNotFoundError(f"{file}: no .json and no .tsv: {LAYOUT}")
    try:
        text = file.read_text(encoding="utf-8-sig")
        pairs = readers[file.suffix.lower()](text)
    except OSError as error:
        raise DatasetNotFoundError(f"{file}: cannot be read ({reason(error)})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetNotFoundError(
            f"{file}: no captions ({type(error).__name__}: {error}): {LAYOUT}"
        ) from error
    found: dict[str, list[str]] = {}
    for name, caption in pairs:
        words = " ".join(caption.split())
        if words:
            found.setdefault(name, []).append(words)
    return found


def _coco(text: str) -> list[tuple[str, str]]:
    content = json.loads(text)
    names: Mapping[int, str] = {image["id"]: str(image["file_name"]) for image in content["images"]}
    return [(names[one["image_id"]], _text(one["caption"])) for one in content["annotations"]]


def _text(caption: object) -> str:
    if not isinstance(caption, str):
        raise ValueError(f"the caption {caption!r} is no text")
    return caption


def _table(text: str) -> list[tuple[str, str]]:
    pairs = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        columns = line.split("\t")
        if len(columns) != 2:
            raise ValueError(f"line {number} has {len(columns)} columns, not 2")
        pairs.append((columns[0].strip(), columns[1]))
    return pairs
