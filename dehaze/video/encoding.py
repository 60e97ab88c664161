"""Writes a clip: encodes runs of frames, and joins them with all else of the original.

Each run is a file of its own, so that a killed job continues after the last whole run.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dehaze.errors import reason
from dehaze.registry import Registry
from dehaze.video.clip import Clip, Frame, VideoError, is_cover, load_av
from dehaze.video.colour import ColourCoding, SampleFormat, fill_planes, sample_format

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Encoder:
    """How pictures are encoded in the codec of a clip.

    Attributes:
        codec: FFmpeg's name of the result's codec.
        name: of FFmpeg's encoder.
        options: of the encoder: a quality at which the eye sees no loss.
        odd_sizes: whether it takes chroma of half the size with odd numbers of pixels.
        finest_time: the most units of time that a second may have.
        run: FFmpeg's name of a run's container, which keeps time stamps in any unit.
    """

    codec: str
    name: str
    options: Mapping[str, str] = field(default_factory=dict)
    odd_sizes: bool = True
    finest_time: int = 1 << 31
    run: str = "nut"


ENCODERS: Registry[Encoder] = Registry("codec")
"""The encoder of a result, by FFmpeg's name of the clip's codec."""

# Without B-frames, so that a run's time stamps stand in order.
for _encoder in (
    Encoder("h264", "libx264", {"crf": "17", "preset": "medium", "bf": "0"}, odd_sizes=False),
    Encoder(
        "hevc",
        "libx265",
        {"crf": "18", "preset": "fast", "x265-params": "bframes=0:log-level=none"},
        odd_sizes=False,
    ),
    Encoder("vp9", "libvpx-vp9", {"crf": "20", "b": "0", "cpu-used": "4", "row-mt": "1"}),
    Encoder("av1", "libsvtav1", {"crf": "20", "preset": "8"}, odd_sizes=False),
    Encoder(
        "mpeg4",
        "mpeg4",
        {"flags": "+qscale", "global_quality": "236", "bf": "0"},
        finest_time=65535,
    ),
    Encoder("mjpeg", "mjpeg", {"flags": "+qscale", "global_quality": "236"}),
    # NUT, the container of all other runs, cannot hold it.
    Encoder("prores", "prores_ks", {"profile": "3"}, run="mov"),
    Encoder("ffv1", "ffv1"),
):
    ENCODERS.register(_encoder.codec, _encoder)

RUN_SUFFIX = ".run"
"""The suffix of the files of runs, whatever their container."""

# Tried in this order where a clip's own codec cannot be written, or not into its container.
_INSTEAD = ("h264", "vp9")

CONTAINERS = {
    ".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"
}  # fmt: skip
"""The suffixes that a result can have, and FFmpeg's names of their containers."""

# What a muxer writes by itself.
_OWN_TAGS = frozenset({"major_brand", "minor_version", "compatible_brands", "encoder"})


@dataclass(frozen=True)
class Encoding:
    """How a clip is written.

    Attributes:
        encoder: of the pictures.
        samples: the format of its samples.
        colour: how they encode colours.
        container: FFmpeg's name.
        copied: the indices of the original's streams that are copied as they are.
        notes: what differs from the original besides the haze.
    """

    encoder: Encoder
    samples: SampleFormat
    colour: ColourCoding
    container: str
    copied: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


def choose_encoding(clip: Clip, output: Path) -> Encoding:
    """The clip's own codec, depth and chroma where they can be written, or the nearest.

    Args:
        clip: that is dehazed.
        output: whose suffix names the container.

    Raises:
        VideoError: the suffix names no container, or it takes no codec of this depth, or not the
            clip's sound.
    """
    av = load_av()
    container = CONTAINERS.get(output.suffix.lower())
    if container is None:
        raise VideoError(
            output,
            f"its suffix names no container that is written, {', '.join(CONTAINERS)}",
            "name the output's file with -o",
        )
    with av.open(io.BytesIO(), "w", format=container) as probe:
        fitting = set(probe.supported_codecs)
    copied, notes = _copied(av, clip, output, fitting)
    for codec in (clip.codec, *_INSTEAD):
        encoder = ENCODERS.get(codec) if codec in ENCODERS.names() else None
        if encoder is None or codec not in fitting or not _is_available(av, encoder):
            continue
        samples = _nearest(av, encoder, clip)
        if samples is None or clip.time_base.denominator > encoder.finest_time:
            continue
        if codec != clip.codec:
            notes.append(f"its picture, {clip.codec}, comes back as {codec}")
        if samples.name != clip.samples.name:
            notes.append(f"its samples, {clip.samples.name}, come back as {samples.name}")
        colour = ColourCoding(
            # RGB has no matrix of its own; players take BT.601 for SD and BT.709 for HD.
            clip.colour.matrix if samples.is_rgb is clip.samples.is_rgb else 2,
            clip.colour.full_range,
        )
        return Encoding(encoder, samples, colour, container, tuple(copied), tuple(notes))
    raise VideoError(
        output,
        f"this container takes neither {clip.codec} nor a codec that could be taken instead, with "
        f"{clip.samples.bits} bits",
        "name an output that ends in .mkv",
    )


def _copied(av: Any, clip: Clip, output: Path, fitting: set[str]) -> tuple[list[int], list[str]]:
    """The streams to copy beside the picture, and notes on those left out."""
    copied, notes = [], []
    with av.open(str(clip.path), metadata_errors="replace") as original:
        for stream in original.streams:
            if stream.index == clip.stream:
                continue
            context = getattr(stream, "codec_context", None)
            name = context.codec.canonical_name if context is not None else stream.type
            if context is not None and name in fitting and not is_cover(stream):
                copied.append(stream.index)
                if stream.type == "video":
                    notes.append("its further picture is copied with its haze")
            elif stream.type == "audio":
                raise VideoError(
                    output,
                    f"this container does not take the sound of the clip, {name}",
                    "name an output that ends in .mkv, or as the input does",
                )
            else:
                notes.append(f"its {_KINDS.get(stream.type, stream.type)} is left out ({name})")
    return copied, notes


_KINDS = {"video": "cover", "subtitle": "subtitle", "data": "data stream"}


def _is_available(av: Any, encoder: Encoder) -> bool:
    try:
        av.Codec(encoder.name, "w")
    except ValueError:
        return False
    return True


def _nearest(av: Any, encoder: Encoder, clip: Clip) -> SampleFormat | None:
    """The encoder's smallest format that keeps all of the clip's samples; None without one."""
    height, width = clip.upright_size
    fitting = []
    for each in av.Codec(encoder.name, "w").video_formats or ():
        samples = sample_format(each.name)
        if samples is None or samples.name != each.name or samples.bits < clip.samples.bits:
            continue
        if samples.chroma is None and not samples.is_rgb and clip.samples != samples:
            continue
        if samples.chroma is not None:
            columns, rows = samples.chroma
            if not encoder.odd_sizes and (width % columns or height % rows):
                continue
            had = clip.samples.chroma or ((2, 2) if not clip.samples.is_rgb else (1, 1))
            had = had[::-1] if clip.turn[0] % 2 else had
            if had[0] % columns or had[1] % rows:
                continue
        fitting.append(samples)
    if clip.samples in fitting:
        return clip.samples
    return min(fitting, key=lambda each: _cost(each, clip.samples), default=None)


def _cost(samples: SampleFormat, like: SampleFormat) -> tuple[bool, int, int]:
    columns, rows = samples.chroma or (1, 1)
    return samples.is_rgb is not like.is_rgb, samples.bits, -columns * rows


class RunWriter:
    """Encodes a run of frames to a file of its own; a context manager.

    Args:
        path: of the file.
        clip: that the frames are of.
        encoding: how they are written.
    """

    def __init__(self, path: Path, clip: Clip, encoding: Encoding) -> None:
        self._av = load_av()
        self._path = path
        self._clip = clip
        self._encoding = encoding

    def __enter__(self) -> RunWriter:
        clip, encoding = self._clip, self._encoding
        height, width = clip.upright_size
        kind = encoding.encoder.run
        self._container = self._av.open(
            str(self._path), "w", format=kind, options=_time_options(kind, clip)
        )
        options = dict(encoding.encoder.options)
        stream = self._container.add_stream(encoding.encoder.name, rate=clip.rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, self._format
        stream.time_base = clip.time_base
        context = stream.codec_context
        context.time_base = clip.time_base
        context.flags |= _GLOBAL_HEADER
        context.color_primaries, context.color_trc = clip.primaries, clip.transfer
        context.colorspace = encoding.colour.matrix
        context.color_range = _FULL if encoding.colour.full_range else _LIMITED
        if clip.upright_aspect:
            context.sample_aspect_ratio = clip.upright_aspect
        self._stream = stream
        return self

    @property
    def _format(self) -> str:
        """The samples' format; MJPEG's encoder knows that of full range by another name."""
        name = self._encoding.samples.name
        of_jpeg = self._encoding.encoder.name == "mjpeg" and self._encoding.colour.full_range
        return name.replace("yuv", "yuvj") if of_jpeg else name

    def add(self, pixels: Array, frame: Frame) -> None:
        """Adds a frame: its upright pixels, float32 (H, W, 3) in [0, 1], and its time stamp."""
        samples, colour = self._encoding.samples, self._encoding.colour
        height, width = pixels.shape[:2]
        made = self._av.VideoFrame(width, height, self._format)
        fill_planes(made, colour.from_rgb(pixels, samples))
        made.colorspace = colour.matrix
        made.color_range = _FULL if colour.full_range else _LIMITED
        made.pts, made.time_base = frame.pts, self._clip.time_base
        self._mux(self._stream.encode(made))

    def _mux(self, packets: Sequence[Any]) -> None:
        try:
            for packet in packets:
                self._container.mux(packet)
        except OSError as error:
            raise unwritable(self._path, error) from error

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._mux(self._stream.encode(None))
        finally:
            self._container.close()


_GLOBAL_HEADER = 1 << 22
_LIMITED, _FULL = 1, 2


def unwritable(path: Path, error: OSError) -> VideoError:
    """The error for a clip that cannot be written, with the cure."""
    cause = f"cannot be written ({reason(error)})"
    return VideoError(path, cause, "check the folder's permissions and the room on the disk")


def join(
    clip: Clip, encoding: Encoding, runs: Sequence[Path], output: Path, *, end: int
) -> tuple[str, ...]:
    """Writes the result: the runs' pictures, and all else of the clip unchanged.

    Args:
        clip: the original.
        encoding: that the runs were written in.
        runs: their files, in order.
        output: the file. A call that is interrupted leaves a part of it: write it beside its
            place, and move it there.
        end: when the last frame ends, in units of the clip's ``time_base``.

    Returns:
        What differs from the original besides the haze.

    Raises:
        VideoError: it cannot be written.
    """
    av = load_av()
    options = _time_options(encoding.container, clip)
    with av.open(str(clip.path), metadata_errors="replace") as original:
        tags = {name: tag for name, tag in original.metadata.items() if name not in _OWN_TAGS}
        if encoding.container in ("mp4", "mov") and any("." in name for name in tags):
            # For tags of phones, such as com.apple.quicktime.make.
            options["movflags"] = "use_metadata_tags"
        try:
            with av.open(str(output), "w", format=encoding.container, options=options) as container:
                container.metadata.update(tags)
                _mux_all(av, clip, encoding, runs, original, container, end)
        except OSError as error:
            raise unwritable(output, error) from error
    return _lost_tags(av, output, tags)


def _time_options(container: str, clip: Clip) -> dict[str, str]:
    """The options by which a container keeps a clip's time stamps to the last digit."""
    if container not in ("mp4", "mov"):
        return {}
    # Start times are otherwise rounded to a millisecond.
    scale = str(clip.time_base.denominator)
    return {"movie_timescale": scale, "video_track_timescale": scale}


def _mux_all(
    av: Any,
    clip: Clip,
    encoding: Encoding,
    runs: Sequence[Path],
    original: Any,
    container: Any,
    end: int,
) -> None:
    with av.open(str(runs[0])) as first:
        # Opaque: a decoder, such as libdav1d, may have no encoder of its name.
        picture = container.add_stream_from_template(first.streams.video[0], opaque=True)
        picture.time_base = clip.time_base
        picture.metadata.update(original.streams[clip.stream].metadata)
        if encoding.encoder.codec == "hevc" and encoding.container != "matroska":
            # Apple's players know no other tag.
            picture.codec_context.codec_tag = "hvc1"
        others = {}
        for index in encoding.copied:
            stream = original.streams[index]
            others[index] = container.add_stream_from_template(stream)
            others[index].metadata.update(stream.metadata)
        if hasattr(original, "chapters") and original.chapters():
            container.set_chapters(original.chapters())
        pictures = _Lookahead(_pictures(av, clip, runs, end))
        if others:
            for packet in original.demux(*(original.streams[index] for index in others)):
                if packet.dts is None:
                    continue
                time = packet.dts * Fraction(packet.time_base)
                for before in pictures.until(time):
                    before.stream = picture
                    container.mux(before)
                packet.stream = others[packet.stream_index]
                container.mux(packet)
        for rest in pictures.until(None):
            rest.stream = picture
            container.mux(rest)


def _pictures(av: Any, clip: Clip, runs: Sequence[Path], end: int) -> Iterator[Any]:
    """The encoded pictures of all runs, in order."""
    for run in runs:
        with av.open(str(run)) as container:
            packets = _Lookahead(
                packet for packet in container.demux(video=0) if packet.dts is not None
            )
            for packet in packets.until(None):
                if run == runs[-1] and packets.is_at_end:
                    packet.duration = round(end * clip.time_base / packet.time_base) - packet.pts
                yield packet


class _Lookahead:
    """Packets in their order, with a look at the next one."""

    def __init__(self, packets: Iterator[Any]) -> None:
        self._packets = packets
        self._next = next(packets, None)

    @property
    def is_at_end(self) -> bool:
        """Whether none is left."""
        return self._next is None

    def until(self, time: Fraction | None) -> Iterator[Any]:
        """The packets that are due up to a time, in seconds; None for all."""
        while self._next is not None:
            packet = self._next
            if time is not None and packet.dts * Fraction(packet.time_base) > time:
                return
            self._next = next(self._packets, None)
            yield packet


def _lost_tags(av: Any, output: Path, tags: Mapping[str, str]) -> tuple[str, ...]:
    with av.open(str(output), metadata_errors="replace") as written:
        kept = {name.lower() for name in written.metadata}
    lost = sorted(name for name in tags if name.lower() not in kept)
    return (f"this container has no place for its {', '.join(lost)}",) if lost else ()
