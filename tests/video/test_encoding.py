"""The format that a clip is written in keeps its samples."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from clips import with_matrix, write_clip
from numpy.typing import NDArray

from dehaze.video.clip import VideoError, open_clip
from dehaze.video.encoding import choose_encoding

pytest.importorskip("av", reason="the extra video is not installed")
QUARTER = (0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)


def lossless(path: Path, photo: NDArray[np.float32], pix_fmt: str) -> Path:
    return write_clip(path, [photo], codec="ffv1", pix_fmt=pix_fmt, time_base=Fraction(1, 1000))


def test_chroma_is_never_coarser_than_in_the_clip(
    tmp_path: Path, photo: NDArray[np.float32]
) -> None:
    """H.264 has no 4:1:1; 4:2:0 has fewer rows of chroma, 4:2:2 has all."""
    clip = open_clip(lossless(tmp_path / "a.mkv", photo, "yuv411p"))
    encoding = choose_encoding(clip, tmp_path / "b.mov")
    assert (encoding.encoder.name, encoding.samples.name) == ("libx264", "yuv422p")
    assert "its samples, yuv411p, come back as yuv422p" in encoding.notes


def test_a_turned_clip_keeps_the_chroma_of_both_sides(
    tmp_path: Path, photo: NDArray[np.float32]
) -> None:
    """4:2:2 has half the columns of chroma: upright it has half the rows, which H.264 has not."""
    source = write_clip(tmp_path / "a.mp4", [photo], pix_fmt="yuv422p")
    assert choose_encoding(open_clip(source), tmp_path / "b.mp4").samples.name == "yuv422p"
    turned = open_clip(with_matrix(source, QUARTER))
    assert choose_encoding(turned, tmp_path / "b.mp4").samples.name == "yuv444p"


def test_bits_are_never_fewer_than_in_the_clip(tmp_path: Path, photo: NDArray[np.float32]) -> None:
    clip = open_clip(lossless(tmp_path / "a.mkv", photo, "yuv420p14le"))
    with pytest.raises(VideoError, match=r"takes neither ffv1 nor a codec .* with 14 bits"):
        choose_encoding(clip, tmp_path / "b.mov")
    assert choose_encoding(clip, tmp_path / "b.mkv").samples.bits == 14
