"""Which captioned photos a model can invert, each under its own caption."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dehaze.datasets.captions import CaptionedPhoto, open_captioned_photos
from dehaze.datasets.registry import spread
from dehaze.errors import DehazeError
from dehaze.wording import counted

if TYPE_CHECKING:
    from dehaze.pipelines.base import InversionPipeline

# At most this many names are listed; the rest are counted.
_NAMED = 5


class CaptionError(DehazeError, ValueError):
    """A model can read none of the captions."""


@dataclass(frozen=True)
class CaptionChoice:
    """The photos that are inverted under their captions, and those that are not, by name.

    Attributes:
        photos: those that were chosen, in natural order.
        readable: how many photos there were to choose from.
        unreadable: why, for each photo whose caption the model cannot read: it never learned a
            word, or the caption is too long.
        uncaptioned: photos without a caption.
        missing: names with captions but without a photo.
        further: captions that are not used, since another of the same photo stands before them.
    """

    photos: tuple[CaptionedPhoto, ...]
    readable: int
    unreadable: dict[str, str]
    uncaptioned: tuple[str, ...]
    missing: tuple[str, ...]
    further: int

    @property
    def failures(self) -> list[str]:
        """One line for each photo that had to be left out."""
        lines = []
        if self.unreadable:
            lines.append(
                f"{counted(len(self.unreadable), 'photo')} whose caption the model cannot read: "
                f"{_named(_reasons(self.unreadable))}"
            )
        if self.uncaptioned:
            lines.append(
                f"{counted(len(self.uncaptioned), 'photo')} without a caption: "
                f"{_named(self.uncaptioned)}"
            )
        return lines

    @property
    def notes(self) -> list[str]:
        """One line for each kind of captions that are not used."""
        lines = []
        if self.missing:
            lines.append(f"{len(self.missing)} captions name no photo: {_named(self.missing)}")
        if self.further:
            lines.append(
                f"{self.further} further captions are not used: a photo's first is its prompt"
            )
        return lines

    def of_files(self, files: Collection[Path]) -> CaptionChoice:
        """The same of these photos alone."""
        return replace(self, photos=tuple(one for one in self.photos if one.file in files))

    def content(self) -> dict[str, Any]:
        """All of it by name, for JSON: the photos with their captions."""
        return asdict(self) | {"photos": {photo.name: photo.caption for photo in self.photos}}

    def summary(self) -> list[str]:
        """What the table's rows do not say, as a list in Markdown."""
        readable = counted(self.readable, "photo")
        chosen = f"{len(self.photos)} of {readable} with a caption that can be read"
        left_out = [f"left out: {line}" for line in self.failures]
        return [f"- {line}." for line in (chosen, *left_out, *self.notes)]


def choose_captioned(
    pipeline: InversionPipeline,
    folder: Path,
    captions: Path,
    *,
    limit: int | None = None,
    results: Collection[Path] = (),
) -> CaptionChoice:
    """The photos of a folder whose captions a model can read.

    Args:
        pipeline: with the model.
        folder: of the photos.
        captions: see ``dehaze.datasets.captions.open_captioned_photos``.
        limit: the most photos to choose, evenly spread; all when None.
        results: folders that the results go to, which are not searched.

    Raises:
        DatasetNotFoundError: the folder, the file or its captions are not there.
        CaptionError: the model can read none of the captions.
    """
    opened = open_captioned_photos(folder, captions, results=results)
    readable, unreadable = [], dict[str, str]()
    for photo in opened.photos:
        try:
            pipeline.prompts.tokens(photo.caption)
        except DehazeError as error:
            # The cause without the cure, which is the same long list for every photo.
            unreadable[photo.name] = str(error).partition(": ")[0]
        else:
            readable.append(photo)
    if not readable:
        raise CaptionError(
            f"{captions}: the model can read none of the captions: {_named(_reasons(unreadable))}"
        )
    return CaptionChoice(
        spread(readable, limit),
        len(readable),
        unreadable,
        opened.uncaptioned,
        opened.missing,
        opened.further,
    )


def _reasons(unreadable: Mapping[str, str]) -> list[str]:
    return [f"{name} ({why})" for name, why in unreadable.items()]


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
