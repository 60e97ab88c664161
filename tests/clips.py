"""Clips made on the spot by PyAV, for tests."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


def moving_scene(scene: Array, frames: int) -> list[Array]:
    """A scene in haze that moves by a pixel a frame, float32 each, of the scene's size."""
    hazy = 0.5 * scene + np.float32(0.4)
    return [np.ascontiguousarray(np.roll(hazy, n, axis=1)) for n in range(frames)]


def write_clip(
    path: Path,
    frames: Sequence[Array],
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    times: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, 90000),
    sound: bool = False,
    metadata: dict[str, str] | None = None,
    options: dict[str, str] | None = None,
    **context: Any,
) -> Path:
    """Writes frames, float32 (H, W, 3) in [0, 1], and noise as sound beside them.

    Args:
        times: time stamps in units of the time base; 25 a second when None.
        context: attributes of the encoder's context, such as ``color_primaries``.
    """
    import av

    times = times or [int(n / (25 * time_base)) for n in range(len(frames))]
    with av.open(str(path), "w") as container:
        container.metadata.update(metadata or {})
        stream = container.add_stream(codec, rate=25, options={"bf": "0", **(options or {})})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        stream.time_base = stream.codec_context.time_base = time_base
        for name, value in context.items():
            setattr(stream.codec_context, name, value)
        audio = container.add_stream("aac", rate=48000, layout="stereo") if sound else None
        for frame, time in zip(frames, times, strict=True):
            picture = av.VideoFrame.from_ndarray(
                np.round(frame * 255).astype(np.uint8), format="rgb24"
            )
            picture.pts, picture.time_base = time, time_base
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
        if audio is not None:
            rng = np.random.default_rng(0)
            for n in range(8):
                noise = rng.normal(0.0, 0.1, (2, 1024)).astype(np.float32)
                heard = av.AudioFrame.from_ndarray(noise, format="fltp", layout="stereo")
                heard.sample_rate, heard.pts = 48000, 1024 * n
                container.mux(audio.encode(heard))
            container.mux(audio.encode(None))
    return path


def with_matrix(path: Path, numbers: tuple[int, ...]) -> Path:
    """The MP4 with another display matrix of its first track, see ISO/IEC 14496-12."""
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 44
    data[place : place + 36] = struct.pack(">9i", *numbers)
    path.write_bytes(data)
    return path


def packets_of(path: Path, kind: str) -> list[bytes]:
    """The packets of the first stream of a kind, "video" or "audio"."""
    import av

    with av.open(str(path)) as container:
        stream = next(each for each in container.streams if each.type == kind)
        return [bytes(packet) for packet in container.demux(stream) if packet.size]
