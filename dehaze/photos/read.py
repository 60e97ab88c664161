"""Read photos, upright, with what is needed to write them as they came."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image, ImageCms, JpegImagePlugin, TiffImagePlugin, UnidentifiedImageError

from dehaze.photos.kinds import notes_on_name, unsupported_kind
from dehaze.photos.metadata import (
    HEIGHT,
    ORIENTATION,
    WIDTH,
    dots_per_inch,
    upright_exif,
    upright_xmp,
)
from dehaze.photos.photo import Encoding, Photo, PhotoError

MAX_MEGAPIXELS = 200.0
_TIFF_CURE = "save it as a TIFF or PNG of 8 or 16 bits, grey or RGB"
# Pillow's own limit is one global number; it is lifted while a header is read, and only there.
_pillow_limit = threading.Lock()
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class PhotoFile:
    """A photo as it lies in its file: known to be one, and how large, but not decoded yet.

    Attributes:
        path: the file.
        data: all of its bytes.
        megapixels: width times height, in millions, as the header states them.
    """

    path: Path
    data: bytes
    megapixels: float

    def decode(self) -> Photo:
        """The photo, upright.

        Raises:
            PhotoError: cut short, damaged, or of an unsupported kind.
        """
        with _named_errors(self.path, self.data):
            tags = _grey_alpha_tags(self.data)
            if tags is not None:
                return _decode_grey_alpha(self.path, self.data, tags)
            with _open(self.data) as image:
                return _decode(self.path, self.data, image)


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
    data = _read_bytes(path)
    unsupported = unsupported_kind(path, data)
    if unsupported is not None:
        kind, cure = unsupported
        raise PhotoError(path, f"{kind} is not supported", cure)
    with _named_errors(path, data):
        tags = _grey_alpha_tags(data)
        if tags is not None:
            width, height = tags[WIDTH], tags[HEIGHT]
        else:
            with _open(data) as image:
                width, height = image.size
    megapixels = width * height / 1e6
    if megapixels > max_megapixels:
        raise PhotoError(
            path,
            f"has {megapixels:.0f} megapixels where at most {max_megapixels:g} are read",
            "raise --max-megapixels if you trust the file",
        )
    return PhotoFile(path, data, megapixels)


def read_photo(path: str | os.PathLike[str], *, max_megapixels: float = MAX_MEGAPIXELS) -> Photo:
    """Read and decode a JPEG, PNG, TIFF, WebP or BMP file of 8 or 16 bits a channel.

    Arguments as for ``open_photo``.

    Returns:
        The photo: pixels (H, W, 3) in [0, 1] and everything ``write_photo`` needs.

    Raises:
        PhotoError: missing, empty, cut short, too large, not a photo, or of an unsupported kind.
    """
    return open_photo(path, max_megapixels=max_megapixels).decode()


def _read_bytes(path: Path) -> bytes:
    try:
        if not path.exists():
            raise PhotoError(path, "does not exist", "check the name")
        if not path.is_file():
            raise PhotoError(path, "is not a file", "name a photo")
        data = path.read_bytes()
    except OSError as error:
        raise PhotoError(
            path, f"cannot be read ({error.strerror or error})", "check its permissions"
        ) from error
    if not data:
        raise PhotoError(path, "is empty (0 bytes)", "copy it again from where it came")
    return data


@contextmanager
def _named_errors(path: Path, data: bytes) -> Iterator[None]:
    """Whatever a decoder raises, the file is at fault: a damaged one can trip it anywhere."""
    try:
        yield
    except PhotoError:
        raise
    except MemoryError as error:
        raise PhotoError(path, "does not fit in memory", "make it smaller first") from error
    except UnidentifiedImageError as error:
        if data.startswith((b"II*\0", b"MM\0*")):
            raise PhotoError(
                path, "is a damaged TIFF, or of a kind that is not supported", _TIFF_CURE
            ) from error
        raise PhotoError(
            path,
            "is not a photo that can be read",
            "JPEG, PNG, TIFF, WebP and BMP are; if it is one of these, copy it again",
        ) from error
    except Exception as error:
        cure = "copy it again from where it came"
        if "truncated" in str(error).lower():
            raise PhotoError(path, "is cut short", cure) from error
        raise PhotoError(
            path, f"cannot be decoded ({type(error).__name__}: {error})", cure
        ) from error


@contextmanager
def _open(data: bytes) -> Iterator[Image.Image]:
    with _pillow_limit:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "TIFF", "WEBP", "BMP"))
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    with image:
        yield image


def _decode(path: Path, data: bytes, image: Image.Image) -> Photo:
    # A JPEG that carries further pictures (a gain map, a preview) calls itself MPO.
    file_format = "JPEG" if image.format == "MPO" else str(image.format)
    frames = getattr(image, "n_frames", 1)
    notes = notes_on_name(path, file_format)
    if frames > 1:
        if file_format in ("PNG", "WEBP"):
            raise PhotoError(
                path, f"is an animation of {frames} frames", "save its frames as photos first"
            )
        notes.append(f"only the first of its {frames} pictures is kept")

    bits = _bits(path, data, image, file_format)
    subsampling = JpegImagePlugin.get_sampling(image) if file_format == "JPEG" else 0
    # Loading proves that all of the file is there, also where OpenCV then reads the full depth.
    image.load()
    encoding = Encoding(
        format=file_format,
        bits=bits,
        icc_profile=image.info.get("icc_profile") or None,
        xmp=upright_xmp(image.info),
        dots_per_inch=dots_per_inch(image.info),
        quantisation=getattr(image, "quantization", None),
        # Pillow cannot name (-1) or write rarer subsamplings: full chroma loses nothing.
        subsampling=max(subsampling, 0),
        progressive=bool(image.info.get("progressive")),
        lossless=file_format != "WEBP" or _webp_is_lossless(data),
    )
    if bits == 16:
        samples = _samples_16(data)
    elif image.mode == "CMYK":
        notes.append("converted from CMYK to sRGB")
        samples = np.asarray(_from_cmyk(image, encoding.icc_profile))
        encoding = replace(encoding, icc_profile=None)
    else:
        samples = np.atleast_3d(np.asarray(image.convert(_plain_mode(path, image))))
    return _photo(samples, image.getexif(), encoding, notes)


def _photo(
    samples: npt.NDArray[Any], exif: Image.Exif, encoding: Encoding, notes: list[str]
) -> Photo:
    """A photo of stored samples, (H, W, 1 to 4): grey or RGB, then alpha."""
    # Pillow and OpenCV both turn a TIFF upright as they decode it, and nothing else.
    samples = _upright(samples, exif.get(ORIENTATION, 1))
    values = samples.astype(np.float32)
    # In place, as below: a second copy of a large photo is what memory has to be found for.
    values /= np.float32(2**encoding.bits - 1)
    grey = values.shape[2] < 3
    colour = np.repeat(values[..., :1], 3, axis=2) if grey else values[..., :3]
    return Photo(
        pixels=np.ascontiguousarray(colour),
        alpha=np.ascontiguousarray(values[..., -1]) if values.shape[2] in (2, 4) else None,
        encoding=replace(
            encoding,
            grey=grey,
            exif=upright_exif(exif, size=(samples.shape[1], samples.shape[0]), notes=notes),
        ),
        notes=tuple(notes),
    )


def _grey_alpha_tags(data: bytes) -> Image.Exif | None:
    """The tags of a TIFF of 16-bit grey with alpha, which Pillow and OpenCV do not read."""
    if not data.startswith((b"II*\0", b"MM\0*")):
        return None
    tags = Image.Exif()
    tags.load(data)
    wanted = {
        TiffImagePlugin.BITSPERSAMPLE: (16, 16),
        TiffImagePlugin.PHOTOMETRIC_INTERPRETATION: 1,
        TiffImagePlugin.SAMPLESPERPIXEL: 2,
    }
    return tags if all(tags.get(tag) == value for tag, value in wanted.items()) else None


def _decode_grey_alpha(path: Path, data: bytes, tags: Image.Exif) -> Photo:
    samples = tifffile.imread(io.BytesIO(data), key=0)
    if samples.dtype != np.uint16 or samples.shape != (tags[HEIGHT], tags[WIDTH], 2):
        raise OSError("the decoder gave no 16-bit samples of the size that the header states")
    # The print density is among the tags, and comes back with them.
    encoding = Encoding(
        format="TIFF",
        bits=16,
        icc_profile=tags.get(TiffImagePlugin.ICCPROFILE) or None,
        xmp=upright_xmp({"xmp": tags.get(TiffImagePlugin.XMP)}),
    )
    return _photo(samples, tags, encoding, notes_on_name(path, "TIFF"))


def _bits(path: Path, data: bytes, image: Image.Image, file_format: str) -> int:
    """Bits a channel, 8 or 16, as the header states them: a dark 16-bit photo is still one."""
    if file_format == "PNG":
        return 16 if data[24] == 16 else 8
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return 8
    depths = set(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
    if max(depths) <= 8:
        return 8
    kinds = set(image.tag_v2.get(TiffImagePlugin.SAMPLEFORMAT, (1,)))
    photometric = image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION)
    if depths == {16} and kinds == {1} and photometric in (1, 2):
        return 16
    raise PhotoError(
        path,
        f"is a TIFF of a kind that is not supported (bits {sorted(depths)}, sample format "
        f"{sorted(kinds)}, photometric {photometric})",
        _TIFF_CURE,
    )


def _samples_16(data: bytes) -> npt.NDArray[np.uint16]:
    """All samples of a 16-bit file, (H, W, 1 to 4) in the order grey or RGB, then alpha."""
    raw = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if raw is None or raw.dtype != np.uint16:
        raise OSError("the decoder gave no 16-bit samples")
    samples: npt.NDArray[np.uint16] = np.atleast_3d(raw)
    if samples.shape[2] >= 3:
        order = [2, 1, 0, 3][: samples.shape[2]]
        samples = samples[..., order]
        # OpenCV spreads a PNG of grey with alpha (colour type 4) over four channels.
        if data.startswith(PNG_SIGNATURE) and data[25] == 4:
            samples = samples[..., [0, 3]]
    return samples


def _plain_mode(path: Path, image: Image.Image) -> str:
    transparent = "transparency" in image.info
    if image.mode in ("1", "L"):
        return "LA" if transparent else "L"
    if image.mode in ("LA", "La"):
        return "LA"
    if image.mode in ("RGBA", "RGBa", "PA"):
        return "RGBA"
    if image.mode in ("RGB", "P", "RGBX", "YCbCr"):
        return "RGBA" if transparent else "RGB"
    raise PhotoError(
        path, f"has the colour mode {image.mode}, which is not supported", "save it as RGB first"
    )


def _from_cmyk(image: Image.Image, icc_profile: bytes | None) -> Image.Image:
    if icc_profile is not None:
        try:
            converted = ImageCms.profileToProfile(
                image,
                ImageCms.ImageCmsProfile(io.BytesIO(icc_profile)),
                ImageCms.createProfile("sRGB"),
                outputMode="RGB",
            )
            if converted is not None:
                return converted
        except (ImageCms.PyCMSError, OSError):
            # A damaged profile: the plain conversion still gives a photo.
            pass
    return image.convert("RGB")


def _upright(samples: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """Apply an EXIF orientation, 1 to 8, to (H, W, C); any other value leaves it as it is."""
    if orientation in (5, 6, 7, 8):
        samples = samples.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    return samples


def _webp_is_lossless(data: bytes) -> bool:
    position = 12
    while position + 8 <= len(data):
        name = data[position : position + 4]
        if name in (b"VP8L", b"VP8 "):
            return name == b"VP8L"
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        position += 8 + length + length % 2
    return False
