"""Reads a clip: its properties, checks, and its frames one by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dehaze.errors import DehazeError, reason
from dehaze.photos import MAX_MEGAPIXELS, FileError
from dehaze.video.colour import ColourCoding, SampleFormat, planes_of, sample_format

Array = NDArray[np.float32]

CLIP_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts"}
    | {".wmv", ".3gp", ".flv", ".ogv"}
)
"""The suffixes by which a file is taken for a clip, in lower case."""

# H.273's TransferCharacteristics of HDR: perceptual quantiser and hybrid log-gamma.
_HDR = {16: "PQ", 18: "HLG"}
_TO_SDR = "make an SDR copy of it first: ffmpeg's zscale and tonemap filters do"
# FFmpeg's readers of pictures, beside those whose names end in _pipe, and the brands of HEIF and
# AVIF, which lie in the container of MP4.
_PICTURES = frozenset({"image2", "gif", "apng", "ico"})
_PICTURE_BRANDS = frozenset(
    {"avif", "avis", "mif1", "msf1", "heic", "heix", "heim", "heis", "hevc", "hevx"}
)
# A clip that ends earlier than its header says by more than this, in seconds, is cut short.
_MISSING_SECONDS = 1.0


class VideoError(FileError):
    """A clip that cannot be read or written."""


class VideoLibraryError(DehazeError, ImportError):
    """The library that reads and writes clips is not installed."""


def load_av() -> Any:
    """PyAV, quiet.

    Raises:
        VideoLibraryError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise VideoLibraryError(
            f'clips need PyAV ({error}); pip install "dehaze-diffusion[video]"'
        ) from error
    # Not set_level, whose callback waits for ever where FFmpeg's threads log.
    av.logging.set_libav_level(av.logging.PANIC)
    return av


def is_clip(path: Path) -> bool:
    """Whether a file is a clip by its name."""
    return path.suffix.lower() in CLIP_SUFFIXES


@dataclass(frozen=True)
class Clip:
    """A clip as its file states it.

    Attributes:
        path: the file.
        stream: the index of its picture's stream.
        codec: FFmpeg's name of the picture's codec.
        size: (height, width) in pixels as they are stored.
        turn: how a stored frame becomes upright, see ``upright``.
        samples: the format of the first frame.
        colour: how its samples encode colours.
        primaries, transfer: H.273's numbers, kept as they are.
        aspect: width of a pixel over its height, as it is stored; None where it is not stated.
        rate: frames a second, on average.
        time_base: the unit of its time stamps, in seconds.
        frames: the number of the picture's packets, a few of which may not be decodable.
        notes: what a user should know of it.
    """

    path: Path
    stream: int
    codec: str
    size: tuple[int, int]
    turn: tuple[int, bool]
    samples: SampleFormat
    colour: ColourCoding
    primaries: int
    transfer: int
    aspect: Fraction | None
    rate: Fraction
    time_base: Fraction
    frames: int
    notes: tuple[str, ...] = ()

    @property
    def frame_duration(self) -> int:
        """How long a frame lasts on average, in units of ``time_base``, at least 1."""
        return max(1, round(1 / (self.rate * self.time_base)))

    @property
    def upright_size(self) -> tuple[int, int]:
        """(height, width) of its frames as they are shown, in pixels."""
        height, width = self.size
        return (width, height) if self.turn[0] % 2 else (height, width)

    @property
    def upright_aspect(self) -> Fraction | None:
        """``aspect`` of its frames as they are shown."""
        return 1 / self.aspect if self.aspect and self.turn[0] % 2 else self.aspect


@dataclass(frozen=True)
class Frame:
    """One frame of a clip.

    Attributes:
        pixels: upright, float32 (H, W, 3) RGB in [0, 1].
        pts: its time stamp, in units of the clip's ``time_base``.
        duration: likewise, 0 where it is not stated.
        resized: whether it was stored at another size than the first frame.
        moved: whether it got a new time stamp, since its own was missing or not after that of the
            last frame.
        damaged: whether the decoder found its data damaged, and made up a part of it. Decoders of
            HEVC, VP8 and FFV1 seldom find that.
    """

    pixels: Array
    pts: int
    duration: int = 0
    resized: bool = False
    moved: bool = False
    damaged: bool = False


def open_clip(path: Path, *, max_megapixels: float = MAX_MEGAPIXELS) -> Clip:
    """Reads a clip's properties, and refuses clips whose results would be wrong.

    Args:
        path: the file.
        max_megapixels: larger frames are refused.

    Raises:
        VideoLibraryError: PyAV is not installed.
        VideoError: it cannot be read, is a photo, has no picture or no frame, or its frames are
            interlaced, of high dynamic range, transparent, too large, or of a format that is not
            supported.
    """
    av = load_av()
    count, last, notes = 0, Fraction(0), []
    with _opened(av, path) as container:
        _refuse_pictures(path, container)
        stream = _picture_stream(path, container)
        index = stream.index
        time_base = Fraction(stream.time_base)
        start = (stream.start_time or 0) * time_base
        end_of_all = Fraction(0)
        for packet in _packets(av, container):
            if packet.size == 0 or packet.time_base is None:
                continue
            end = ((packet.pts or 0) + (packet.duration or 0)) * Fraction(packet.time_base)
            end_of_all = max(end_of_all, end)
            if packet.stream_index == index:
                count += 1
                last = max(last, end)
        stated, there = _lengths(container, stream, last - start, end_of_all)
        if count and stated - there > _MISSING_SECONDS:
            notes.append(f"cut short: its header says {stated:.1f} s and {there:.1f} s are there")
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    if count == 0:
        raise VideoError(path, "has no frames", "copy it again from where it came")
    with _opened(av, path) as container:
        stream = container.streams[index]
        # The side data of HDR and of the display lie with the frame, not with the header.
        first, _ = next(_decoded(av, container, stream), (None, False))
        if first is None:
            raise VideoError(
                path, "has no frame that can be decoded", "copy it again from where it came"
            )
        clip = _described(path, stream, first, Fraction(rate), time_base, count)
    megapixels = clip.size[0] * clip.size[1] / 1e6
    if megapixels > max_megapixels:
        raise VideoError(
            path,
            f"its frames have {megapixels:.4g} megapixels, more than {max_megapixels:g}",
            "raise --max-megapixels",
        )
    return replace(clip, notes=tuple(notes))


def frames_of(clip: Clip) -> Iterator[Frame]:
    """The frames of a clip in the order in which they are shown, from its beginning.

    Frames that cannot be decoded are left out. Frames of another size are resized to the first
    one's.

    Raises:
        VideoError: it can no longer be read, or changes to a format that is not supported.
    """
    av = load_av()
    before: int | None = None
    with _opened(av, clip.path) as container:
        for frame, damaged in _decoded(av, container, container.streams[clip.stream]):
            _refuse_frame(clip.path, frame)
            samples = sample_format(frame.format.name)
            if samples is None:
                raise _unsupported(clip.path, frame.format.name)
            resized = (frame.height, frame.width) != clip.size
            pixels = clip.colour.to_rgb(planes_of(frame, samples), samples)
            if resized:
                pixels = _resized(pixels, clip.size)
            pts, moved = frame.pts, False
            if pts is None or (before is not None and pts <= before):
                pts, moved = (0 if before is None else before + clip.frame_duration), True
            before = pts
            duration = getattr(frame, "duration", None) or 0
            yield Frame(upright(pixels, clip.turn), pts, duration, resized, moved, damaged)


def upright(pixels: Array, turn: tuple[int, bool]) -> Array:
    """Stored pixels as they are shown.

    Args:
        pixels: (H, W, 3).
        turn: quarter turns anticlockwise, 0 to 3, and whether they are mirrored left to right
            before that.
    """
    quarters, mirrored = turn
    return np.ascontiguousarray(np.rot90(pixels[:, ::-1] if mirrored else pixels, quarters))


def turn_of_matrix(matrix: NDArray[np.int32]) -> tuple[int, bool] | None:
    """The turn that a display matrix stands for; None for one that is no multiple of 90 degrees.

    Args:
        matrix: the nine numbers of ISO/IEC 14496-12, section 8.3.2: a, b, u, c, d, v, x, y, w. A
            stored point (p, q) is shown at (a p + c q + x, b p + d q + y), q downwards.

    Example:
        >>> turn_of_matrix(np.int32([0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30]))
        (3, False)
    """
    a, b, c, d = (round(float(matrix[n]) / 65536.0, 3) for n in (0, 1, 3, 4))
    mirrored = a * d - b * c < 0
    if mirrored:
        a, b = -a, -b
    # A quarter turn anticlockwise shows (p, q) at (q, -p).
    quarters = {(1.0, 0.0): 0, (0.0, -1.0): 1, (-1.0, 0.0): 2, (0.0, 1.0): 3}.get((a, b))
    if quarters is None or (c, d) != (-b, a):
        return None
    return quarters, mirrored


def is_cover(stream: Any) -> bool:
    """Whether a stream is a picture of one frame, and no film."""
    return bool(stream.disposition & type(stream.disposition).attached_pic)


def _opened(av: Any, path: Path) -> Any:
    try:
        return av.open(str(path), metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(
            path,
            f"cannot be read as a clip ({reason(error)}): it is none, or was cut short",
            "copy it again from where it came",
        ) from error


def _refuse_pictures(path: Path, container: Any) -> None:
    kind = container.format.name
    brand = container.metadata.get("major_brand", "")
    if kind.endswith("_pipe") or kind in _PICTURES or brand in _PICTURE_BRANDS:
        raise VideoError(
            path,
            f"is a picture ({brand or kind.removesuffix('_pipe')}) named as a clip",
            "name it after its kind; convert an animation first: ffmpeg does",
        )


def _picture_stream(path: Path, container: Any) -> Any:
    found = [stream for stream in container.streams.video if not is_cover(stream)]
    if not found:
        others = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise VideoError(path, f"has no picture, only {others}", "name a clip that has one")
    if found[0].codec_context is None:
        raise VideoError(
            path, "its picture is of an unknown codec", "convert it first: ffmpeg does"
        )
    return found[0]


def _packets(av: Any, container: Any, *streams: Any) -> Iterator[Any]:
    try:
        yield from container.demux(*streams)
    except (av.FFmpegError, OSError):
        # The clip ends here; the caller compares that with its header.
        return


def _decoded(av: Any, container: Any, stream: Any) -> Iterator[tuple[Any, bool]]:
    """The frames that can be decoded, and whether each is damaged."""
    strict = _strict_decoder(av, stream)
    # Not by frames: a frame that cannot be decoded would take those with it that are in the decoder
    # when the clip ends. Decoding takes little of a frame's time.
    stream.thread_type = "SLICE"
    for packet in _packets(av, container, stream):
        try:
            frames = packet.decode()
        except av.FFmpegError:
            continue
        faulty = bool(frames) and strict is not None and not _decodes(av, strict, packet)
        for frame in frames:
            yield frame, faulty or bool(frame.is_corrupt)


def _strict_decoder(av: Any, stream: Any) -> Any | None:
    """A decoder that refuses damaged frames of MJPEG, whose usual one does not mark them."""
    if stream.codec_context.name != "mjpeg":
        return None
    decoder = av.CodecContext.create("mjpeg", "r")
    decoder.options = {"err_detect": "explode"}
    return decoder


def _decodes(av: Any, decoder: Any, packet: Any) -> bool:
    try:
        decoder.decode(packet)
    except av.FFmpegError:
        return False
    return True


def _lengths(
    container: Any, stream: Any, of_picture: Fraction, end_of_all: Fraction
) -> tuple[float, float]:
    """The length by the header, and the length that is there, in seconds."""
    if stream.duration is not None:
        return float(stream.duration * stream.time_base), float(of_picture)
    # Of the longest stream, sound included.
    begin = (container.start_time or 0) / 1e6
    return (container.duration or 0) / 1e6, float(end_of_all) - begin


def _described(
    path: Path, stream: Any, frame: Any, rate: Fraction, time_base: Fraction, count: int
) -> Clip:
    context = stream.codec_context
    _refuse_frame(path, frame)
    # VP8 and VP9 keep alpha beside the frames, where their decoders pass it over.
    if stream.metadata.get("alpha_mode", "0") != "0":
        raise _transparent(path)
    transfer = int(context.color_trc)
    side = {str(each.type).rpartition(".")[2] for each in frame.side_data}
    if transfer in _HDR or side & {"DOVI_METADATA", "DOVI_RPU_BUFFER"}:
        kind = _HDR.get(transfer, "Dolby Vision")
        raise VideoError(
            path, f"is of high dynamic range ({kind}), which is not supported", _TO_SDR
        )
    samples = sample_format(frame.format.name)
    if samples is None:
        raise _unsupported(path, frame.format.name)
    matrix = int(frame.colorspace)
    full = int(frame.color_range) == 2 or frame.format.name.startswith("yuvj")
    colour = ColourCoding(matrix, full or samples.is_rgb)
    if not colour.is_supported(samples):
        raise VideoError(
            path,
            f"its colours are stored by matrix {matrix} of H.273, which is not supported",
            "convert it first: ffmpeg -i ... -vf colorspace=bt709 does",
        )
    aspect = stream.sample_aspect_ratio
    return Clip(
        path=path,
        stream=stream.index,
        codec=context.codec.canonical_name,
        size=(frame.height, frame.width),
        turn=_turn(path, frame),
        samples=samples,
        colour=colour,
        primaries=int(context.color_primaries),
        transfer=transfer,
        aspect=Fraction(aspect) if aspect else None,
        rate=rate,
        time_base=time_base,
        frames=count,
    )


def _turn(path: Path, frame: Any) -> tuple[int, bool]:
    for each in frame.side_data:
        if str(each.type).endswith("DISPLAYMATRIX"):
            turn = turn_of_matrix(np.frombuffer(bytes(each), np.int32))
            if turn is None:
                raise VideoError(
                    path,
                    "is to be shown turned by other than 90 degrees",
                    "turn it first: ffmpeg's rotate filter does",
                )
            return turn
    return 0, False


def _refuse_frame(path: Path, frame: Any) -> None:
    if frame.interlaced_frame:
        raise VideoError(
            path,
            "is interlaced, which is not supported",
            "deinterlace it first: ffmpeg -i ... -vf bwdif does",
        )
    if any(component.is_alpha for component in frame.format.components):
        raise _transparent(path)


def _transparent(path: Path) -> VideoError:
    return VideoError(
        path,
        "is transparent in places, which is not supported",
        "flatten it first: ffmpeg -i ... -pix_fmt yuv420p does",
    )


def _unsupported(path: Path, name: str) -> VideoError:
    return VideoError(
        path,
        f"its frames are of the format {name}, which is not supported",
        "convert it first: ffmpeg -i ... -pix_fmt yuv420p does",
    )


def _resized(pixels: Array, size: tuple[int, int]) -> Array:
    from dehaze.recovery.guided_filter import resize

    return resize(pixels, size)
