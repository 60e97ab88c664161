"""Read photos, upright, with all that is needed to write them in the same format."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import UnidentifiedImageError

from dehaze.errors import reason
from dehaze.photos.formats import FORMATS
from dehaze.photos.kinds import note_on_name, refuse_unsupported
from dehaze.photos.photo import (
    COPY_AGAIN,
    Encoding,
    FloatArray,
    Photo,
    PhotoError,
    Samples,
    Source,
    UnreadableError,
)

MAX_MEGAPIXELS = 200.0


@dataclass(frozen=True)
class PhotoFile:
    """A photo's file, its header read, its pixels not decoded yet.

    Attributes:
        path: the file.
        data: all of its bytes.
        format: of its content, see ``Encoding``.
        source: its header, read.
    """

    path: Path
    data: bytes = field(repr=False)
    format: str
    source: Source = field(repr=False)

    @property
    def megapixels(self) -> float:
        """Width times height, in millions, as the header states them."""
        return self.source.width * self.source.height / 1e6

    def decode(self) -> Photo:
        """The photo, upright.

        Raises:
            PhotoError: cut short, damaged, or of an unsupported kind.
        """
        with _named_errors(self.path):
            decoded = self.source.decode()
            samples = _upright(decoded.samples, self.source.orientation)
            colours, alpha = _values(samples, premultiplied=self.source.premultiplied)
        encoding = Encoding(
            format=self.format,
            bits=8 * samples.dtype.itemsize,
            grey=samples.shape[2] < 3,
            premultiplied=self.source.premultiplied,
            container=decoded.container,
        )
        notes = (
            *note_on_name(self.path, self.format),
            *decoded.notes,
            *_notes_on_alpha(samples, premultiplied=self.source.premultiplied),
        )
        return Photo(colours, alpha, encoding, notes)


def open_photo(
    path: str | os.PathLike[str], *, max_megapixels: float = MAX_MEGAPIXELS
) -> PhotoFile:
    """Read a JPEG, PNG, TIFF, WebP or BMP file, and its header.

    Args:
        path: the file. The content decides the format, not the name.
        max_megapixels: a photo with more pixels is refused before it is decoded.

    Raises:
        PhotoError: missing, empty, too large, not a photo, or of an unsupported kind.
    """
    path = Path(path)
    return open_bytes(_read_bytes(path), path, max_megapixels=max_megapixels)


def open_bytes(data: bytes, path: Path, *, max_megapixels: float = MAX_MEGAPIXELS) -> PhotoFile:
    """Read the header of a photo from its file's bytes.

    Args:
        data: all of its bytes.
        path: its name, for messages.
        max_megapixels: as for ``open_photo``.

    Raises:
        PhotoError: as ``open_photo`` raises it.
    """
    if not data:
        raise PhotoError(path, "is empty (0 bytes)", COPY_AGAIN)
    with _named_errors(path):
        refuse_unsupported(path, data)
        name = next((name for name in FORMATS.names() if FORMATS.get(name).begins(data)), None)
        if name is None:
            raise UnreadableError(
                "is not a photo that can be read",
                "JPEG, PNG, TIFF, WebP and BMP are; if it is one of these, copy it again",
            )
        file = PhotoFile(path, data, name, FORMATS.get(name).open(data))
        if file.source.width < 1 or file.source.height < 1:
            raise UnreadableError("has no pixels")
    if file.megapixels > max_megapixels:
        raise PhotoError(
            path,
            f"has {file.megapixels:.4g} megapixels where at most {max_megapixels:g} are read",
            "raise --max-megapixels if you trust the file",
        )
    return file


def read_photo(path: str | os.PathLike[str], *, max_megapixels: float = MAX_MEGAPIXELS) -> Photo:
    """Read and decode a JPEG, PNG, TIFF, WebP or BMP file of 8 or 16 bits a channel.

    Arguments as for ``open_photo``.

    Returns:
        The photo: pixels (H, W, 3) in [0, 1] and everything ``write_photo`` needs.

    Raises:
        PhotoError: missing, empty, cut short, too large, not a photo, or of an unsupported kind.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from dehaze.photos import read_photo, write_photo
        >>> with TemporaryDirectory() as folder:
        ...     write_photo(Path(folder) / "a.png", photo)
        ...     read_photo(Path(folder) / "a.png").size
        (64, 48)
    """
    return open_photo(path, max_megapixels=max_megapixels).decode()


def _read_bytes(path: Path) -> bytes:
    try:
        if not path.exists():
            raise PhotoError(path, "does not exist", "check the name")
        if not path.is_file():
            raise PhotoError(path, "is not a file", "name a photo")
        return path.read_bytes()
    except OSError as error:
        raise PhotoError(
            path, f"cannot be read ({reason(error)})", "check its permissions"
        ) from error


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Turns any error of a decoder into a ``PhotoError``: a damaged file can raise anything."""
    try:
        yield
    except PhotoError:
        raise
    except UnreadableError as error:
        raise PhotoError(path, error.cause, error.cure) from error
    except MemoryError as error:
        raise PhotoError(path, "does not fit in memory", "make it smaller first") from error
    except Exception as error:
        if "truncated" in str(error).lower():
            raise PhotoError(path, "is cut short", COPY_AGAIN) from error
        # Pillow's own message names an object in memory.
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "not of the kind that it begins as" if unknown else str(error)
        raise PhotoError(
            path, f"cannot be decoded ({type(error).__name__}: {reason})", COPY_AGAIN
        ) from error


def _upright(samples: Samples, orientation: int) -> Samples:
    """Apply an EXIF orientation, 1 to 8, to (H, W, C)."""
    if orientation in (5, 6, 7, 8):
        samples = samples.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    return samples


def _notes_on_alpha(samples: Samples, *, premultiplied: bool) -> tuple[str, ...]:
    """A note where premultiplied colours are larger than their alpha, which cannot come back."""
    if premultiplied and (samples[..., :-1] > samples[..., -1:]).any():
        return (
            "its colours are larger than their associated alpha in places, and are clipped to it",
        )
    return ()


def _values(samples: Samples, *, premultiplied: bool) -> tuple[FloatArray, FloatArray | None]:
    """Colours (H, W, 3) and alpha (H, W) in [0, 1] of stored samples, (H, W, 1 to 4)."""
    top = np.float32(np.iinfo(samples.dtype).max)
    channels = samples.shape[2]
    colours = np.empty((*samples.shape[:2], 3), np.float32)
    # In one pass, without a second copy of the photo in memory.
    np.divide(samples[..., : 1 if channels < 3 else 3], top, out=colours)
    alpha = np.asarray(samples[..., -1] / top, np.float32) if channels in (2, 4) else None
    if premultiplied and alpha is not None:
        # Fully transparent pixels have no colour; they stay 0, as stored.
        np.divide(colours, alpha[..., None], out=colours, where=alpha[..., None] > 0)
        np.minimum(colours, 1, out=colours)
    return colours, alpha
