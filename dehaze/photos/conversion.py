"""Gives results another format, quality or name than their photos."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dehaze.photos.formats import FORMATS
from dehaze.photos.kinds import PHOTO_SUFFIXES, format_of, note_on_name
from dehaze.photos.photo import Encoding, Metadata, Photo, PhotoError

_SHARED = {"exif": "EXIF", "xmp": "XMP", "profile": "colour profile"}


@dataclass(frozen=True)
class ResultFile:
    """How a result's file differs from its photo's.

    Attributes:
        suffix: what its name ends in, such as ".png", which names its format as well; None for the
            photo's own.
        quality: of a JPEG or a lossy WebP, 1 to 100. None for 90 in a WebP; in a JPEG for the
            photo's own, or for 95 where the photo is no JPEG.
        addition: put at the end of its name, before the suffix.
    """

    suffix: str | None = None
    quality: int | None = None
    addition: str = ""

    @property
    def format(self) -> str | None:
        """The format that the suffix names; None for the photo's own."""
        return None if self.suffix is None else format_of(Path(f"a{self.suffix}"))

    def name(self, path: Path) -> Path:
        """The result's path, for that of its photo below the folder."""
        own = path.suffix if path.suffix.lower() in PHOTO_SUFFIXES else ""
        stem = path.name.removesuffix(own)
        keeps = self.suffix is None or (own and format_of(path) == self.format)
        return path.with_name(f"{stem}{self.addition}{own if keeps else self.suffix}")

    def growth(self, path: Path) -> float:
        """The size of a result's file as a multiple of its photo's, roughly, by their formats."""
        if self.format is None or path.suffix.lower() not in PHOTO_SUFFIXES:
            return 1.0
        source, target = FORMATS.get(format_of(path)), FORMATS.get(self.format)
        return target.bytes_per_pixel / source.bytes_per_pixel

    def applied_to(self, photo: Photo, path: Path) -> Photo:
        """The photo with the encoding of its result, and notes on what that loses.

        Args:
            photo: decoded.
            path: its file.

        Raises:
            PhotoError: the format has no place for what the photo has.
        """
        source = photo.encoding.format
        target = self.format or source
        if target != source:
            said = note_on_name(path, source)
            photo = replace(photo, notes=tuple(note for note in photo.notes if note not in said))
            photo = _converted(photo, path, target)
        if self.quality is None or not FORMATS.get(target).has_quality:
            return photo
        # The containers' common protocol has no quality.
        container: Any = photo.encoding.container or FORMATS.get(target).container()
        if target == "WEBP" and container.lossless:
            return replace(
                photo, notes=(*photo.notes, "is a lossless WebP and stays one: without --quality")
            )
        container = replace(container, quality=self.quality)
        return replace(photo, encoding=replace(photo.encoding, container=container))


def _converted(photo: Photo, path: Path, target: str) -> Photo:
    source, wanted = photo.encoding, FORMATS.get(target)
    notes = list(photo.notes)
    alpha = photo.alpha
    if alpha is not None and not wanted.has_alpha:
        if float(np.min(alpha, initial=1.0)) < 1.0:
            raise PhotoError(
                path,
                f"is transparent in places, and {target} has no transparency",
                "choose --format png, tiff or webp for it",
            )
        alpha = None
    bits = source.bits if source.bits in wanted.depths else max(wanted.depths)
    if bits < source.bits:
        notes.append(f"its {source.bits} bits a channel become {bits}: {target} has no more")
    metadata = source.container.metadata if source.container is not None else Metadata()
    missing = list(metadata.others)
    if source.grey and not wanted.has_grey and metadata.profile[16:20] == b"GRAY":
        metadata = replace(metadata, profile=b"")
        missing.append("a colour profile of grey")
    container = wanted.container.labelled(metadata)
    kept = container.metadata
    missing += [
        name
        for field, name in _SHARED.items()
        if getattr(metadata, field) and not getattr(kept, field)
    ]
    if missing:
        notes.append(f"of its metadata {target} has no place for: {', '.join(missing)}")
    encoding = Encoding(target, bits, source.grey, premultiplied=False, container=container)
    return replace(photo, alpha=alpha, encoding=encoding, notes=tuple(notes))
