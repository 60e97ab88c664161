"""Read and write photos, and give each one back as it came.

A photo is dehazed as float pixels, but its owner sees a file: the format, the bit depth, greyness,
transparency, EXIF, colour profile and compression of the source all come back with it.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import re
import secrets
import struct
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image, ImageCms, JpegImagePlugin, TiffImagePlugin, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

FloatArray = npt.NDArray[np.float32]

MAX_MEGAPIXELS = 200.0
PHOTO_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".webp", ".bmp"}
)
RAW_SUFFIXES = frozenset(
    {".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dng", ".erf", ".iiq", ".kdc", ".mrw", ".nef"}
    | {".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"}
)
# Pictures a camera makes that cannot be read here: they are named as failures, never passed over.
UNSUPPORTED_SUFFIXES = RAW_SUFFIXES | {".heic", ".heif", ".hif", ".avif", ".jxl", ".jp2"}

_FORMAT_OF_SUFFIX = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    ".png": "PNG",
    ".webp": "WEBP",
    ".bmp": "BMP",
}
_HEIC_CURE = "convert it to JPEG or TIFF first: heif-convert of libheif does, or sips on a Mac"
_RAW_CURE = "develop it to TIFF or JPEG first: darktable-cli, RawTherapee or dcraw -T do"
_OTHER_CURE = "convert it to PNG or JPEG first: ImageMagick does"
# Offset and pattern of a file's first bytes, what it is, and what to do with it.
_SIGNATURES = (
    (4, rb"ftyp(avif|avis)", "AVIF", _HEIC_CURE),
    (4, rb"ftyp(hei|hev|mif1|msf1)", "HEIC", _HEIC_CURE),
    (4, rb"ftypcrx", "camera raw (CR3)", _RAW_CURE),
    (0, rb"GIF8", "GIF", _OTHER_CURE),
    (0, rb"\xff\x0a|\x00\x00\x00\x0cJXL ", "JPEG XL", _OTHER_CURE),
    (0, rb"\x00\x00\x00\x0cjP  ", "JPEG 2000", _OTHER_CURE),
    (0, rb"\s*(<\?xml|<svg)", "SVG or XML", _OTHER_CURE),
    (0, rb"%PDF", "PDF", _OTHER_CURE),
)
_TIFF_CURE = "save it as a TIFF or PNG of 8 or 16 bits, grey or RGB"
# How the name of a file begins and ends while it is being written.
_UNFINISHED = (".dehaze-", ".part")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

_WIDTH, _HEIGHT, _ORIENTATION = 0x0100, 0x0101, 0x0112
_EXIF_IFD = 0x8769
_PIXEL_WIDTH, _PIXEL_HEIGHT = 0xA002, 0xA003
# TIFF tags that say how the source's bytes lie, not what the photo shows: the writer makes its own.
# The colour profile and XMP travel beside EXIF, so their tags are here too.
_LAYOUT_TAGS = frozenset(
    {*range(254, 267), 273, *range(277, 282), 284, *range(288, 294), 317, *range(320, 348)}
    | {*range(512, 522), *range(529, 533), 700, 34675, 37724}
)
_XMP_ORIENTATION = re.compile(
    rb"(tiff:Orientation\s*=\s*[\"'])\d([\"'])|(<tiff:Orientation>)\d(</tiff:Orientation>)"
)

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)

logger = logging.getLogger(__name__)

# Pillow's own limit is one global number; it is lifted while a header is read, and only there.
_pillow_limit = threading.Lock()


class PhotoError(ValueError):
    """A photo that cannot be read or written: one line of input, cause and cure."""

    def __init__(self, path: str | os.PathLike[str], cause: str, cure: str) -> None:
        self.path = Path(path)
        self.cause = " ".join(cause.split())
        self.cure = cure
        super().__init__(f"{printable(path)}: {self.cause}; {self.cure}")

    def __reduce__(self) -> tuple[type[PhotoError], tuple[Path, str, str]]:
        return type(self), (self.path, self.cause, self.cure)


@dataclass(frozen=True)
class Encoding:
    """How a photo lay in its file, as far as the same can be written again.

    Attributes:
        format: "JPEG", "PNG", "TIFF", "WEBP" or "BMP".
        bits: bits a channel, 8 or 16, from the file's own header.
        grey: one channel of colour instead of three.
        exif: EXIF bytes ("Exif" prefix and TIFF structure) with the orientation reset, or None.
        icc_profile: colour profile bytes, or None.
        xmp: XMP packet bytes, or None.
        dots_per_inch: horizontal and vertical, or None.
        quantisation: JPEG quantisation tables by index, 64 values each, or None.
        subsampling: JPEG chroma subsampling: 0 is 4:4:4, 1 is 4:2:2, 2 is 4:2:0.
        progressive: JPEG in several scans.
        lossless: WebP without loss.
    """

    format: str = "PNG"
    bits: int = 8
    grey: bool = False
    exif: bytes | None = None
    icc_profile: bytes | None = None
    xmp: bytes | None = None
    dots_per_inch: tuple[float, float] | None = None
    quantisation: dict[int, list[int]] | None = None
    subsampling: int = 0
    progressive: bool = False
    lossless: bool = True


@dataclass(frozen=True)
class Photo:
    """A photo in memory, upright.

    Attributes:
        pixels: (H, W, 3) float32 RGB in [0, 1], as encoded in the file (sRGB unless the profile
            says otherwise). A grey photo has three equal channels.
        alpha: (H, W) float32 opacity in [0, 1], or None.
        encoding: what is needed to write the photo as it came.
        notes: one sentence for each thing that cannot come back as it was.
    """

    pixels: FloatArray
    alpha: FloatArray | None = None
    encoding: Encoding = field(default_factory=Encoding)
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, after the EXIF orientation."""
        return self.pixels.shape[1], self.pixels.shape[0]


def printable(path: str | os.PathLike[str]) -> str:
    """A path on one line: a name with newlines or undecodable bytes comes escaped, in quotes."""
    text = os.fspath(path)
    return text if text.isprintable() else ascii(text)


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
    unsupported = _unsupported_kind(path, data)
    if unsupported is not None:
        kind, cure = unsupported
        raise PhotoError(path, f"{kind} is not supported", cure)
    with _named_errors(path, data):
        tags = _grey_alpha_tags(data)
        if tags is not None:
            width, height = tags[_WIDTH], tags[_HEIGHT]
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
        like = Photo(pixels, encoding=Encoding(format=_format_of(path)))
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


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file as a whole: at any moment the path holds the old content or the new.

    Raises:
        PhotoError: the file cannot be written; nothing is left behind.
    """
    path = Path(path)
    # A name of its own, so that a photo whose name fills all 255 bytes still has room.
    temporary = path.parent / f"{_UNFINISHED[0]}{secrets.token_hex(8)}{_UNFINISHED[1]}"
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _synchronise(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            if error.errno == errno.ENAMETOOLONG:
                raise PhotoError(path, "its name is too long to write", "shorten it") from error
            raise PhotoError(
                path,
                f"cannot be written ({error.strerror or error})",
                "check the folder's permissions and the room on the disk",
            ) from error
        raise


def discard_unfinished(folder: Path) -> None:
    """Remove what writes that were killed have left in a folder."""
    prefix, suffix = _UNFINISHED
    for path in folder.glob(f"{prefix}*{suffix}"):
        path.unlink(missing_ok=True)


def _synchronise(folder: Path) -> None:
    """A new name lasts once its folder is on the disk as well."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems synchronise no folders.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


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


def _unsupported_kind(path: Path, data: bytes) -> tuple[str, str] | None:
    """What a file is, and what to do with it, if it is known and not supported."""
    # Many raw files are TIFF inside: by content they would pass for their own thumbnail.
    if path.suffix.lower() in RAW_SUFFIXES:
        return f"camera raw ({path.suffix})", _RAW_CURE
    for offset, pattern, kind, cure in _SIGNATURES:
        if re.match(pattern, data[offset : offset + 32]):
            return kind, cure
    return None


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
    notes = _notes_on_name(path, file_format)
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
        xmp=_xmp(image.info),
        dots_per_inch=_dots_per_inch(image.info),
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
    samples = _upright(samples, exif.get(_ORIENTATION, 1))
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
            exif=_exif(exif, size=(samples.shape[1], samples.shape[0]), notes=notes),
        ),
        notes=tuple(notes),
    )


def _notes_on_name(path: Path, file_format: str) -> list[str]:
    expected = _FORMAT_OF_SUFFIX.get(path.suffix.lower())
    if expected in (None, file_format):
        return []
    return [f"holds {file_format} in spite of its name, and comes back as {file_format}"]


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
    if samples.dtype != np.uint16 or samples.shape != (tags[_HEIGHT], tags[_WIDTH], 2):
        raise OSError("the decoder gave no 16-bit samples of the size that the header states")
    # The print density is among the tags, and comes back with them.
    encoding = Encoding(
        format="TIFF",
        bits=16,
        icc_profile=tags.get(TiffImagePlugin.ICCPROFILE) or None,
        xmp=_xmp({"xmp": tags.get(TiffImagePlugin.XMP)}),
    )
    return _photo(samples, tags, encoding, _notes_on_name(path, "TIFF"))


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
        if data.startswith(_PNG_SIGNATURE) and data[25] == 4:
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


def _exif(exif: Image.Exif, *, size: tuple[int, int], notes: list[str]) -> bytes | None:
    try:
        for tag in _LAYOUT_TAGS.intersection(exif):
            del exif[tag]
        if _ORIENTATION in exif:
            exif[_ORIENTATION] = 1
        details = exif.get_ifd(_EXIF_IFD) if _EXIF_IFD in exif else {}
        for tag, length in zip((_PIXEL_WIDTH, _PIXEL_HEIGHT), size, strict=True):
            if tag in details:
                details[tag] = length
        return exif.tobytes() if len(exif) else None
    except Exception as error:
        # EXIF comes from countless writers; the photo is worth more than its damaged label.
        logger.debug("EXIF cannot be written again", exc_info=True)
        notes.append(f"its EXIF is damaged and is left out ({type(error).__name__})")
        return None


def _xmp(info: Mapping[Any, Any]) -> bytes | None:
    packet = info.get("xmp") or info.get("XML:com.adobe.xmp")
    if not packet:
        return None
    if isinstance(packet, str):
        packet = packet.encode()
    return _XMP_ORIENTATION.sub(rb"\g<1>\g<3>1\g<2>\g<4>", bytes(packet))


def _dots_per_inch(info: Mapping[Any, Any]) -> tuple[float, float] | None:
    density = info.get("dpi")
    if density is None:
        return None
    horizontal, vertical = float(density[0]), float(density[1])
    return (horizontal, vertical) if min(horizontal, vertical) > 0 else None


def _webp_is_lossless(data: bytes) -> bool:
    position = 12
    while position + 8 <= len(data):
        name = data[position : position + 4]
        if name in (b"VP8L", b"VP8 "):
            return name == b"VP8L"
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        position += 8 + length + length % 2
    return False


def _format_of(path: Path) -> str:
    try:
        return _FORMAT_OF_SUFFIX[path.suffix.lower()]
    except KeyError:
        raise PhotoError(
            path,
            f"has no photo's suffix ({path.suffix!r})",
            f"use one of {', '.join(sorted(_FORMAT_OF_SUFFIX))}",
        ) from None


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
    return _PNG_SIGNATURE + b"".join(
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
            directory[tag] = exif.get_ifd(tag) if tag in (_EXIF_IFD, 0x8825) else exif[tag]
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
