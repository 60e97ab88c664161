"""Write photos the way their sources were written."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, TiffImagePlugin
from PIL.PngImagePlugin import PngInfo

from dehaze.photos.atomic import write_bytes
from dehaze.photos.kinds import format_of
from dehaze.photos.metadata import EXIF_IFD
from dehaze.photos.photo import Encoding, FloatArray, Photo, PhotoError

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def write_photo(
    path: str | os.PathLike[str], pixels: FloatArray, like: Photo | None = None
) -> None:
    """Write pixels the way the photo they came from was written; all of the file or none of it.

    Values are clipped to [0, 1] and rounded half to even. A grey photo gets the luma (Rec. 601) of
    the pixels; the alpha of ``like`` is written untouched.

    Args:
        path: the file to write, replaced if it exists. Its folder must exist.
        pixels: (H, W, 3) RGB in [0, 1], upright.
        like: the photo that ``pixels`` were made from. None: 8-bit RGB in the format of the suffix.

    Raises:
        PhotoError: pixels that are not finite, an unknown suffix, or a file that cannot be written.
        ValueError: pixels of another shape than (H, W, 3), or than ``like`` with an alpha.
    """
    path = Path(path)
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"pixels must have shape (H, W, 3), not {pixels.shape}")
    if like is None:
        like = Photo(pixels, encoding=Encoding(format=format_of(path)))
    if like.alpha is not None and like.alpha.shape != pixels.shape[:2]:
        raise ValueError(f"pixels of shape {pixels.shape} do not fit alpha {like.alpha.shape}")
    if not np.isfinite(pixels).all():
        raise PhotoError(
            path, "the result holds values that are not numbers", "try --dtype float32"
        )
    encoding = like.encoding
    channels = [pixels @ _LUMA] if encoding.grey else list(np.moveaxis(pixels, 2, 0))
    if like.alpha is not None:
        channels.append(like.alpha)
    samples = np.dstack([_quantise(channel, encoding.bits) for channel in channels])
    try:
        data = _encode(samples, encoding)
    except (OSError, ValueError, struct.error, cv2.error) as error:
        raise PhotoError(
            path,
            f"cannot be encoded as {encoding.format} ({error})",
            "convert the source to PNG and try again",
        ) from error
    write_bytes(path, data)


def _quantise(values: FloatArray, bits: int) -> npt.NDArray[Any]:
    top = 2**bits - 1
    scaled = np.clip(values, 0, 1).astype(np.float32, copy=False)
    scaled *= np.float32(top)
    return np.rint(scaled, out=scaled).astype(np.uint8 if bits == 8 else np.uint16)


def _encode(samples: npt.NDArray[Any], encoding: Encoding) -> bytes:
    if encoding.format == "TIFF":
        return _encode_tiff(samples, encoding)
    if encoding.format == "PNG" and encoding.bits == 16:
        return _encode_png_16(samples, encoding)
    if encoding.format == "BMP" and samples.shape[2] == 4:
        # Pillow writes the fourth channel of a BMP without declaring it as alpha.
        return bytes(cv2.imencode(".bmp", samples[..., [2, 1, 0, 3]])[1])

    options: dict[str, Any] = {
        name: value
        for name, value in (
            ("exif", encoding.exif),
            ("icc_profile", encoding.icc_profile),
            ("dpi", encoding.dots_per_inch),
        )
        if value is not None
    }
    if encoding.format == "JPEG":
        options["subsampling"] = encoding.subsampling
        options["progressive"] = encoding.progressive
        if encoding.quantisation is None:
            options["quality"] = 95
        else:
            options["qtables"] = encoding.quantisation
    if encoding.format == "WEBP":
        # A lossy WebP does not say at which quality it was made.
        options |= {"lossless": encoding.lossless, "quality": 90, "exact": True}
    if encoding.format in ("JPEG", "WEBP") and encoding.xmp is not None:
        options["xmp"] = encoding.xmp
    if encoding.format == "PNG" and encoding.xmp is not None:
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", encoding.xmp.decode(errors="replace"))
    buffer = io.BytesIO()
    plane = samples[..., 0] if samples.shape[2] == 1 else samples
    Image.fromarray(np.ascontiguousarray(plane)).save(buffer, encoding.format, **options)
    return buffer.getvalue()


def _encode_png_16(samples: npt.NDArray[Any], encoding: Encoding) -> bytes:
    """A PNG of 16 bits a channel: Pillow writes none in colour, OpenCV none with grey and alpha."""
    height, width, channels = samples.shape
    rows = samples.astype(">u2").reshape(height, -1).view(np.uint8)
    # Filter 2: each byte less the one above it.
    filtered = rows.copy()
    filtered[1:] -= rows[:-1]
    filtered = np.hstack([np.full((height, 1), 2, np.uint8), filtered])
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0))]
    if encoding.icc_profile is not None:
        chunks.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(encoding.icc_profile)))
    if encoding.dots_per_inch is not None:
        per_metre = [round(value / 0.0254) for value in encoding.dots_per_inch]
        chunks.append((b"pHYs", struct.pack(">IIB", *per_metre, 1)))
    if encoding.exif is not None:
        chunks.append((b"eXIf", encoding.exif.removeprefix(b"Exif\0\0")))
    if encoding.xmp is not None:
        chunks.append((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + encoding.xmp))
    chunks += [(b"IDAT", zlib.compress(filtered.tobytes())), (b"IEND", b"")]
    return PNG_SIGNATURE + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def _encode_tiff(samples: npt.NDArray[Any], encoding: Encoding) -> bytes:
    """A TIFF of 8 or 16 bits: one deflated strip, each sample less its left neighbour.

    Pillow writes no 16-bit colour, and its compressed writer refuses some EXIF; both write the
    directory through the class used here.
    """
    height, width, channels = samples.shape
    differences = samples.copy()
    differences[:, 1:] -= samples[:, :-1]
    strip = zlib.compress(differences.astype(f"<u{encoding.bits // 8}").tobytes())

    directory = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
    if encoding.exif is not None:
        exif = Image.Exif()
        exif.load(encoding.exif)
        for tag in exif:
            directory[tag] = exif.get_ifd(tag) if tag in (EXIF_IFD, 0x8825) else exif[tag]
    elif encoding.dots_per_inch is not None:
        directory[TiffImagePlugin.X_RESOLUTION] = encoding.dots_per_inch[0]
        directory[TiffImagePlugin.Y_RESOLUTION] = encoding.dots_per_inch[1]
        directory[TiffImagePlugin.RESOLUTION_UNIT] = 2
    if encoding.icc_profile is not None:
        directory[TiffImagePlugin.ICCPROFILE] = encoding.icc_profile
    if encoding.xmp is not None:
        directory[TiffImagePlugin.XMP] = encoding.xmp
    directory[TiffImagePlugin.IMAGEWIDTH] = width
    directory[TiffImagePlugin.IMAGELENGTH] = height
    directory[TiffImagePlugin.BITSPERSAMPLE] = (encoding.bits,) * channels
    directory[TiffImagePlugin.COMPRESSION] = 8
    directory[TiffImagePlugin.PHOTOMETRIC_INTERPRETATION] = 1 if channels < 3 else 2
    directory[TiffImagePlugin.SAMPLESPERPIXEL] = channels
    directory[TiffImagePlugin.ROWSPERSTRIP] = height
    directory[TiffImagePlugin.STRIPBYTECOUNTS] = len(strip)
    # Pillow moves this by the length of the directory, after which the strip begins.
    directory[TiffImagePlugin.STRIPOFFSETS] = 0
    directory[TiffImagePlugin.PREDICTOR] = 2
    if channels in (2, 4):
        directory[TiffImagePlugin.EXTRASAMPLES] = 2
    buffer = io.BytesIO()
    directory.save(buffer)
    return buffer.getvalue() + strip
