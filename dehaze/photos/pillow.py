"""Pillow for pixels alone: it never sees metadata, so that damaged ones cannot stop it."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from dehaze.photos.photo import Samples, UnreadableError

# Pillow's own limit of pixels is global; it is lifted only while a header is read.
_limit = threading.Lock()


@contextmanager
def opened(data: bytes, file_format: str) -> Iterator[Image.Image]:
    """The image that data of a format hold, its samples not decoded yet."""
    with _limit:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(io.BytesIO(data), formats=(file_format,))
        finally:
            Image.MAX_IMAGE_PIXELS = before
    with image:
        yield image


def samples_in(data: bytes, file_format: str) -> Samples:
    """The samples that data of a format hold, as ``samples_of`` gives them."""
    with opened(data, file_format) as image:
        image.load()
        return samples_of(image)


def samples_of(image: Image.Image) -> Samples:
    """An image's samples as (H, W, C): grey or RGB, and alpha where it has any."""
    modes = {"1": "L", "P": "RGB", "YCbCr": "RGB", "PA": "RGBA"}
    mode = modes.get(image.mode, image.mode)
    if mode == "RGB" and "transparency" in image.info:
        mode = "RGBA"
    return np.atleast_3d(np.asarray(image if mode == image.mode else image.convert(mode)))


def cmyk_to_srgb(image: Image.Image, icc_profile: bytes | None) -> Samples:
    """A CMYK image as sRGB samples, by its profile if it has one that can be used."""
    if icc_profile is not None:
        try:
            converted = ImageCms.profileToProfile(
                image,
                ImageCms.ImageCmsProfile(io.BytesIO(icc_profile)),
                ImageCms.createProfile("sRGB"),
                outputMode="RGB",
            )
            if converted is not None:
                return np.asarray(converted)
        except (ImageCms.PyCMSError, OSError):
            # With a damaged profile, the plain conversion still gives a photo.
            pass
    return np.asarray(image.convert("RGB"))


def saved(samples: Samples, file_format: str, **options: Any) -> bytes:
    """A file of 8-bit samples, without metadata."""
    plane = samples[..., 0] if samples.shape[2] == 1 else samples
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(plane)).save(buffer, file_format, **options)
    return buffer.getvalue()


def check_samples(samples: Samples, seen: Samples) -> None:
    """Check 16-bit samples against Pillow, which may see only eight of their bits.

    Args:
        samples: (H, W, C) uint16 by the other decoder.
        seen: (H, W, c) by Pillow, uint8 or uint16, with as many channels or fewer.

    Raises:
        UnreadableError: the decoders disagree.
    """
    shared = min(samples.shape[2], seen.shape[2])
    ours, theirs = samples[..., :shared], seen[..., :shared]
    if theirs.dtype == np.uint8:
        ours = ours >> 8
    if not np.array_equal(ours, theirs):
        raise UnreadableError(
            "is decoded in two ways by two decoders", "save it anew, without compression"
        )
