"""What a report shows of one photo, kept beside the results while a job runs.

A job may be interrupted and resumed, and may run on several machines. A card for each photo lies in
a hidden folder of the output folder, so that the report can be made at the end.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dehaze.batch import Item, Work, Worker
from dehaze.digests import stamp_of_file
from dehaze.errors import reason
from dehaze.luma import luma
from dehaze.photos import Photo, PhotoError, read_photo, write_bytes
from dehaze.report.thumbnails import false_colours, shrunk, thumbnail

CARDS_FOLDER = ".dehaze-report"
"""The folder of the cards, within the output folder."""

_VERSION = 1


@dataclass(frozen=True)
class Card:
    """What is shown of one photo.

    Attributes:
        size: width and height of the photo, in pixels.
        pictures: WebP files by name: "before", "after" and, from the model, "attention" and
            "transmission".
        values: numbers by name: ``lightness``, the mean luma of the result over that of the photo;
            ``change``, the mean absolute difference of their thumbnails, in levels of 255; and from
            the model ``density``, the mean of 1 - t in [0, 1].
        stamp: size in bytes and time in nanoseconds of the result's file, None without one. A card
            of another result is not used.
    """

    size: tuple[int, int]
    pictures: dict[str, bytes]
    values: dict[str, float] = field(default_factory=dict)
    stamp: tuple[int, int] | None = None

    def to_json(self) -> bytes:
        """The card as a file's content."""
        pictures = {
            name: base64.b64encode(data).decode("ascii") for name, data in self.pictures.items()
        }
        content = {
            "version": _VERSION,
            "size": self.size,
            "values": self.values,
            "stamp": self.stamp,
            "pictures": pictures,
        }
        return json.dumps(content).encode("ascii")

    @classmethod
    def from_json(cls, data: bytes) -> Card:
        """A card from its file's content.

        Raises:
            ValueError: it is none, or one of another version.
        """
        try:
            content = json.loads(data)
            if content["version"] != _VERSION:
                raise ValueError(f"version {content['version']}")
            return cls(
                size=(int(content["size"][0]), int(content["size"][1])),
                pictures={
                    str(name): base64.b64decode(text, validate=True)
                    for name, text in content["pictures"].items()
                },
                values={str(name): float(value) for name, value in content["values"].items()},
                stamp=(int(content["stamp"][0]), int(content["stamp"][1])),
            )
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError("not a card of a report") from error


def make_card(photo: Photo, image: Any, maps: Any = None) -> Card:
    """The card of a photo and its result.

    Args:
        photo: the photo.
        image: the result, float32 (H, W, 3) in [0, 1].
        maps: a ``DehazeResult``, for its attention and transmission, or None.
    """
    # Means of the small pictures, since means of a photo of 24 megapixels would cost as much again.
    before, after = shrunk(photo.pixels), shrunk(image)
    pictures = {"before": thumbnail(before), "after": thumbnail(after)}
    values = {
        "change": float(np.abs(after - before).mean()) * 255.0,
        "lightness": float(luma(after).mean()) / max(float(luma(before).mean()), 1e-6),
    }
    if maps is not None:
        pictures["attention"] = thumbnail(false_colours(shrunk(maps.attention_normalised())))
    if maps is not None and maps.transmission is not None:
        transmission = shrunk(maps.transmission)
        pictures["transmission"] = thumbnail(transmission)
        values["density"] = 1.0 - float(transmission.mean())
    return Card(photo.size, pictures, values)


def card_path(folder: Path, output: Path) -> Path:
    """Where the card of a result lies.

    Args:
        folder: the output folder.
        output: the result, inside of it.
    """
    below = Path(os.path.relpath(output, folder)).as_posix()
    # A hash, so that no name is too long for a file or leads elsewhere.
    return folder / CARDS_FOLDER / f"{hashlib.sha256(os.fsencode(below)).hexdigest()[:32]}.json"


def read_card(folder: Path, output: Path) -> Card | None:
    """The card of a result, or None where there is none, or one of an earlier result.

    Arguments as for ``card_path``.
    """
    try:
        card = Card.from_json(card_path(folder, output).read_bytes())
        return card if card.stamp == stamp_of_file(output) else None
    except (OSError, ValueError):
        return None


def card_from_files(folder: Path, source: Path, output: Path) -> Card:
    """A card without maps, for a result that has none; it is kept for the next time.

    Args:
        folder: the output folder.
        source: the photo.
        output: its result.

    Raises:
        PhotoError: one of the two cannot be read.
    """
    card = make_card(read_photo(source), read_photo(output).pixels)
    return _keep(card, folder, output)


def cause_of(error: PhotoError | OSError) -> str:
    """Why a card cannot be made or kept."""
    return error.cause if isinstance(error, PhotoError) else reason(error)


def _keep(card: Card, folder: Path, output: Path) -> Card:
    path = card_path(folder, output)
    if path.parent.is_symlink():
        cause = "is a link, which could lead out of the output folder"
        raise PhotoError(path.parent, cause, "remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    card = replace(card, stamp=stamp_of_file(output))
    write_bytes(path, card.to_json())
    return card


@dataclass(frozen=True)
class CardingWork:
    """Does another work, and keeps a card of each photo.

    Attributes:
        work: what is done to each photo.
        folder: the output folder, absolute.
    """

    work: Work
    folder: Path

    def start(self) -> CardingWorker:
        """See ``dehaze.batch.Work``; errors as of ``work``."""
        return CardingWorker(self.work.start(), self.folder)

    def on_cpu(self) -> CardingWork:
        """See ``dehaze.batch.Work``."""
        return replace(self, work=self.work.on_cpu())

    def photos_at_once(self, *, accelerated: bool) -> int:
        """See ``dehaze.batch.Work``."""
        return self.work.photos_at_once(accelerated=accelerated)

    @property
    def may_be_parallel(self) -> bool:
        """As the work is."""
        return self.work.may_be_parallel

    def fingerprint(self) -> str:
        """See ``dehaze.batch.Work``; errors as of ``work``."""
        return self.work.fingerprint()


class CardingWorker:
    """See ``CardingWork`` and ``dehaze.batch.Worker``."""

    def __init__(self, worker: Worker, folder: Path) -> None:
        self._worker = worker
        self._folder = folder

    @property
    def batch_size(self) -> int:
        """That of the worker."""
        return self._worker.batch_size

    @property
    def parallel(self) -> bool:
        """As the worker is."""
        return self._worker.parallel

    def kind(self, photo: Photo) -> Hashable:
        """That of the worker."""
        return self._worker.kind(photo)

    def process(self, items: Sequence[Item]) -> None:
        """As the worker does."""
        self._worker.process(items)

    def save(self, item: Item) -> Sequence[Path]:
        """Save as the worker does, then keep the card, or note why it cannot be kept."""
        files = self._worker.save(item)
        # A method without a model gives the picture alone.
        picture = getattr(item.result, "image", item.result)
        maps = None if picture is item.result else item.result
        try:
            _keep(make_card(item.decoded(), picture, maps), self._folder, item.output)
        except (PhotoError, OSError) as error:
            # The result is there and whole: only the report lacks something.
            item.notes += (f"its data for the report cannot be kept: {cause_of(error)}",)
        return files

    def stop(self) -> None:
        """Stop the worker."""
        self._worker.stop()
