"""WebP: the chunks of the source around newly coded pixels (WebP container specification)."""

from __future__ import annotations

from dataclasses import dataclass, field

from dehaze.photos.exif import orientation_of, upright_exif
from dehaze.photos.photo import Decoded, Metadata, Samples, UnreadableError
from dehaze.photos.pillow import opened, samples_in, saved
from dehaze.photos.xmp import notes_on_promises, upright_xmp, xmp_orientation

_PIXELS = {b"VP8 ", b"VP8L", b"ALPH"}
_PROFILE, _EXIF, _XMP = b"ICCP", b"EXIF", b"XMP "
# Bits of the extended header that announce what follows.
_ANNOUNCED = {_PROFILE: 0x20, b"ALPH": 0x10, _EXIF: 0x08, _XMP: 0x04}
_PREFIX = b"Exif\0\0"

Chunk = tuple[bytes, bytes]


@dataclass(frozen=True)
class WebpContainer:
    """What a WebP has besides its pixels.

    Attributes:
        chunks: name and content of each kept chunk.
        orientation: that the pixels were stored in.
        lossless: coded without loss.
        quality: 1 to 100, where it is not lossless; the source's own is unknown.
    """

    chunks: tuple[Chunk, ...] = ()
    orientation: int = 1
    lossless: bool = True
    quality: int = 90

    def encode(self, samples: Samples) -> bytes:
        """A WebP of 8-bit samples: RGB or RGBA."""
        # For a lossless file, quality is the effort; 90 takes long enough.
        quality = 90 if self.lossless else self.quality
        coded = saved(samples, "WEBP", lossless=self.lossless, quality=quality, exact=True)
        if not self.chunks:
            return coded
        height, width = samples.shape[:2]
        pixels = [chunk for chunk in _chunks(coded)[0] if chunk[0] in _PIXELS]
        kept = [self._upright(chunk, width, height) for chunk in self.chunks]
        profile = [chunk for chunk in kept if chunk[0] == _PROFILE]
        others = [chunk for chunk in kept if chunk[0] != _PROFILE]
        flags = 0
        for name, _ in [*kept, *pixels]:
            flags |= _ANNOUNCED.get(name, 0)
        if samples.shape[2] == 4:
            flags |= _ANNOUNCED[b"ALPH"]
        header = bytes([flags, 0, 0, 0]) + b"".join(
            (length - 1).to_bytes(3, "little") for length in (width, height)
        )
        body = b"WEBP" + b"".join(
            _written(chunk) for chunk in [(b"VP8X", header), *profile, *pixels, *others]
        )
        return b"RIFF" + len(body).to_bytes(4, "little") + body

    @property
    def metadata(self) -> Metadata:
        """See ``Container``."""
        found = dict(self.chunks)
        known = (_EXIF, _XMP, _PROFILE)
        return Metadata(
            exif=found.get(_EXIF, b"").removeprefix(_PREFIX),
            xmp=found.get(_XMP, b""),
            profile=found.get(_PROFILE, b""),
            orientation=self.orientation,
            others=tuple(name.decode("latin-1").strip() for name in found if name not in known),
        )

    @classmethod
    def labelled(cls, metadata: Metadata) -> WebpContainer:
        """A lossy container with this metadata."""
        named = ((_EXIF, metadata.exif), (_XMP, metadata.xmp), (_PROFILE, metadata.profile))
        chunks = tuple((name, body) for name, body in named if body)
        return cls(chunks, metadata.orientation, lossless=False)

    def _upright(self, chunk: Chunk, width: int, height: int) -> Chunk:
        """A chunk of a photo of this size, turned upright."""
        name, body = chunk
        if name == _EXIF:
            prefix = _PREFIX if body.startswith(_PREFIX) else b""
            exif = body.removeprefix(_PREFIX)
            return name, prefix + upright_exif(
                exif, width=width, height=height, orientation=self.orientation
            )
        if name == _XMP:
            return name, upright_xmp(body, width=width, height=height)
        return chunk


@dataclass(frozen=True)
class WebpSource:
    """A WebP file, its chunks read."""

    width: int
    height: int
    data: bytes = field(repr=False)
    container: WebpContainer
    notes: tuple[str, ...]
    premultiplied = False

    @property
    def orientation(self) -> int:
        """1 to 8, as EXIF numbers them."""
        return self.container.orientation

    def decode(self) -> Decoded:
        """The samples; see ``Source``."""
        return Decoded(samples_in(self.data, "WEBP"), self.container, self.notes)


def open_webp(data: bytes) -> WebpSource:
    """Read the chunks of a WebP.

    Raises:
        UnreadableError: of a kind that cannot be read.
        Exception: any error of the decoder, for damaged data.
    """
    if len(data) < 8 + int.from_bytes(data[4:8], "little"):
        raise UnreadableError("is cut short")
    chunks, end = _chunks(data)
    kept: list[Chunk] = []
    notes: dict[str, None] = {}
    for name, body in chunks:
        if name == b"C2PA":
            lost = "its content credentials (C2PA) are left out: they vouch for other pixels"
            notes[lost] = None
        elif name not in _PIXELS | {b"VP8X", b"ANIM", b"ANMF"}:
            kept.append((name, body))
    if data[end:].strip(b"\0"):
        notes[f"{len(data) - end} bytes behind its end are left out"] = None
    found = dict(kept)
    notes |= dict.fromkeys(notes_on_promises(found.get(_XMP, b"")))
    with opened(data, "WEBP") as image:
        frames = getattr(image, "n_frames", 1)
        width, height = image.size
    if frames > 1:
        raise UnreadableError(
            f"is an animation of {frames} frames", "save its frames as photos first"
        )
    orientation = orientation_of(found.get(_EXIF, b"").removeprefix(_PREFIX))
    if orientation is None:
        orientation = xmp_orientation(found.get(_XMP, b""))
    names = {name for name, _ in chunks}
    container = WebpContainer(tuple(kept), orientation or 1, lossless=b"VP8 " not in names)
    return WebpSource(width, height, data, container, tuple(notes))


def _chunks(data: bytes) -> tuple[list[Chunk], int]:
    """Name and content of each chunk, and where they end."""
    end = min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    chunks: list[Chunk] = []
    place = 12
    while place + 8 <= end:
        name = data[place : place + 4]
        length = int.from_bytes(data[place + 4 : place + 8], "little")
        chunks.append((name, data[place + 8 : min(end, place + 8 + length)]))
        place += 8 + length + length % 2
    return chunks, end


def _written(chunk: Chunk) -> bytes:
    name, body = chunk
    return name + len(body).to_bytes(4, "little") + body + b"\0" * (len(body) % 2)
