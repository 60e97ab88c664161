"""Reading a clip: its properties, its frames, and clips that are refused."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import moving_scene, with_matrix, write_clip
from numpy.typing import NDArray
from PIL import Image

from dehaze.video import clip as module
from dehaze.video.clip import (
    Clip,
    VideoError,
    VideoLibraryError,
    frames_of,
    load_av,
    open_clip,
    turn_of_matrix,
    upright,
)

av = pytest.importorskip("av", reason="the extra video is not installed")
Array = NDArray[np.float32]
ONE = 1 << 16


def opened(path: Path, frames: list[Array], **how: object) -> Clip:
    return open_clip(write_clip(path, frames, **how))  # type: ignore[arg-type]


def test_a_clip_is_read_as_it_was_written(tmp_path: Path, photo: Array) -> None:
    times = [900, 4500, 9000, 20000]
    clip = opened(
        tmp_path / "a.mp4",
        moving_scene(photo, 4),
        times=times,
        options={"crf": "1", "preset": "ultrafast"},
        color_primaries=9,
        color_trc=1,
        colorspace=1,
        color_range=1,
        sample_aspect_ratio=Fraction(4, 3),
    )
    assert (clip.codec, clip.size, clip.frames) == ("h264", (40, 60), 4)
    assert (clip.primaries, clip.transfer, clip.colour.matrix) == (9, 1, 1)
    assert clip.aspect == Fraction(4, 3)
    assert not clip.colour.full_range
    frames = list(frames_of(clip))
    assert np.diff([frame.pts for frame in frames]).tolist() == np.diff(times).tolist()
    assert not any(frame.resized or frame.moved for frame in frames)
    # The clip was made by FFmpeg's own conversion, with chroma at half the size.
    for frame, wanted in zip(frames, moving_scene(photo, 4), strict=True):
        assert np.abs(frame.pixels.mean((0, 1)) - wanted.mean((0, 1))).max() < 0.03


@pytest.mark.parametrize(
    ("a", "b", "c", "d", "quarters"),
    [(1, 0, 0, 1, 0), (0, 1, -1, 0, 3), (-1, 0, 0, -1, 2), (0, -1, 1, 0, 1)],
)
def test_a_turned_clip_comes_out_upright(
    tmp_path: Path, photo: Array, a: int, b: int, c: int, d: int, quarters: int
) -> None:
    path = write_clip(tmp_path / "a.mp4", [photo], options={"crf": "1"})
    stored = next(frames_of(open_clip(path))).pixels
    matrix = (a * ONE, b * ONE, 0, c * ONE, d * ONE, 0, 0, 0, 1 << 30)
    clip = open_clip(with_matrix(path, matrix))
    np.testing.assert_array_equal(
        next(frames_of(clip)).pixels, np.rot90(stored, quarters).astype(np.float32)
    )
    assert clip.upright_size == ((60, 40) if quarters % 2 else (40, 60))


def test_every_display_matrix_follows_the_standard() -> None:
    """Every turn and mirror, by moving each pixel as ISO/IEC 14496-12 says."""
    pixels = np.arange(2 * 3 * 3, dtype=np.float32).reshape(2, 3, 3)
    height, width = pixels.shape[:2]
    for a, b, c, d in [
        *((s, 0, 0, t) for s in (1, -1) for t in (1, -1)),
        *((0, s, t, 0) for s in (1, -1) for t in (1, -1)),
    ]:
        turn = turn_of_matrix(np.int32([a * ONE, b * ONE, 0, c * ONE, d * ONE, 0, 0, 0, 1 << 30]))
        assert turn is not None
        shown = upright(pixels, turn)
        moved = {
            (a * p + c * q, b * p + d * q): pixels[q, p]
            for q in range(height)
            for p in range(width)
        }
        left, top = min(x for x, _ in moved), min(y for _, y in moved)
        for (x, y), colour in moved.items():
            np.testing.assert_array_equal(shown[y - top, x - left], colour)


def test_a_clip_turned_by_other_angles_is_refused(tmp_path: Path, photo: Array) -> None:
    path = write_clip(tmp_path / "a.mp4", [photo])
    skew = round(ONE * 0.7071)
    with pytest.raises(VideoError, match="other than 90 degrees"):
        open_clip(with_matrix(path, (skew, skew, 0, -skew, skew, 0, 0, 0, 1 << 30)))


@pytest.mark.parametrize(
    ("how", "cause"),
    [
        ({"pix_fmt": "yuv420p10le", "color_trc": 16}, r"high dynamic range \(PQ\)"),
        ({"pix_fmt": "yuv420p10le", "color_trc": 18}, r"high dynamic range \(HLG\)"),
        ({"options": {"flags": "+ildct+ilme"}}, "interlaced"),
        ({"colorspace": 8}, "matrix 8"),
    ],
)
def test_clips_that_would_come_out_wrong_are_refused(
    tmp_path: Path, photo: Array, how: dict[str, object], cause: str
) -> None:
    with pytest.raises(VideoError, match=f"a.mp4: .*{cause}"):
        opened(tmp_path / "a.mp4", [photo], **how)


def test_alpha_that_vp9_keeps_beside_its_frames_is_seen(tmp_path: Path, photo: Array) -> None:
    how: dict[str, Any] = {
        "codec": "libvpx-vp9",
        "pix_fmt": "yuva420p",
        "time_base": Fraction(1, 1000),
    }
    with pytest.raises(VideoError, match=r"a.webm: is transparent in places"):
        opened(tmp_path / "a.webm", [photo], **how, options={"auto-alt-ref": "0"})
    how["pix_fmt"] = "yuv420p"
    assert opened(tmp_path / "b.webm", [photo], **how).codec == "vp9"


def test_a_transparent_clip_is_refused(tmp_path: Path, photo: Array) -> None:
    with pytest.raises(VideoError, match="transparent"):
        opened(tmp_path / "a.mkv", [photo], codec="ffv1", pix_fmt="yuva420p")


def test_ten_bits_are_read_as_such(tmp_path: Path, photo: Array) -> None:
    clip = opened(tmp_path / "a.mp4", [photo], pix_fmt="yuv420p10le", options={"crf": "1"})
    assert clip.samples.bits == 10
    grey = next(frames_of(clip)).pixels.mean()
    assert grey == pytest.approx(photo.mean(), abs=0.02)


def test_frames_larger_than_allowed_are_refused(tmp_path: Path, photo: Array) -> None:
    path = write_clip(tmp_path / "a.mp4", [photo])
    with pytest.raises(VideoError, match="megapixels"):
        open_clip(path, max_megapixels=0.001)


def test_files_that_are_no_clips_are_refused(tmp_path: Path, photo: Array) -> None:
    path = tmp_path / "a.mp4"
    whole = write_clip(path, moving_scene(photo, 3), sound=True).read_bytes()
    for content in (b"", b"no clip", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(VideoError, match="cannot be read as a clip"):
            open_clip(path)
    with pytest.raises(VideoError, match="cannot be read as a clip"):
        open_clip(tmp_path / "missing.mp4")


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff", "gif", "apng", "avif"])
def test_a_picture_named_as_a_clip_is_refused(tmp_path: Path, photo: Array, kind: str) -> None:
    path = tmp_path / "a.mp4"
    picture = Image.fromarray(np.uint8(photo * 255))
    more = {"save_all": True, "append_images": [picture.rotate(180)]} if kind == "apng" else {}
    try:
        picture.save(path, format="png" if kind == "apng" else kind, **more)  # type: ignore[arg-type]
    except KeyError:
        pytest.skip(f"Pillow was built without {kind}")
    with pytest.raises(VideoError, match=rf"a.mp4: is a picture \({kind}\) named as a clip; name"):
        open_clip(path)


def test_a_file_of_sound_alone_has_no_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        audio = container.add_stream("aac", rate=48000, layout="mono")
        heard = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        heard.sample_rate = 48000
        container.mux(audio.encode(heard))
        container.mux(audio.encode(None))
    with pytest.raises(VideoError, match="has no picture, only audio"):
        open_clip(path)


def test_a_clip_without_frames_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 60, 40, "yuv420p"
        audio = container.add_stream("aac", rate=48000, layout="mono")
        heard = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        heard.sample_rate = 48000
        container.mux(audio.encode(heard))
        container.mux(audio.encode(None))
    with pytest.raises(VideoError, match="has no frames"):
        open_clip(path)


def test_a_clip_cut_short_is_done_as_far_as_it_goes(tmp_path: Path, photo: Array) -> None:
    rng = np.random.default_rng(0)
    frames = [rng.random((40, 60, 3), np.float32) for _ in range(75)]
    path = write_clip(tmp_path / "a.mkv", frames, options={"preset": "ultrafast"})
    assert open_clip(path).notes == ()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    clip = open_clip(path)
    assert "cut short: its header says 3.0 s" in clip.notes[0]
    assert 20 < len(list(frames_of(clip))) < 55


def test_damaged_frames_do_not_end_a_clip(tmp_path: Path, photo: Array) -> None:
    frames = moving_scene(photo, 9)
    path = write_clip(tmp_path / "a.mkv", frames, codec="mjpeg", pix_fmt="yuvj420p")
    data = bytearray(path.read_bytes())
    # The third picture loses its beginning.
    place = -1
    for _ in range(3):
        place = data.index(b"\xff\xd8\xff", place + 1)
    data[place : place + 400] = bytes(400)
    path.write_bytes(data)
    clip = open_clip(path)
    assert clip.frames == 9
    assert 7 <= len(list(frames_of(clip))) <= 9


def test_frames_that_change_size_are_brought_to_the_first(tmp_path: Path, photo: Array) -> None:
    small, large = (tmp_path / f"{name}.ts" for name in ("small", "large"))
    write_clip(small, moving_scene(photo, 2), time_base=Fraction(1, 90000))
    bigger = np.repeat(np.repeat(photo, 2, 0), 2, 1)
    write_clip(large, [bigger] * 2, times=[90000, 93600])
    joined = tmp_path / "a.ts"
    joined.write_bytes(small.read_bytes() + large.read_bytes())
    frames = list(frames_of(open_clip(joined)))
    assert {frame.pixels.shape for frame in frames} == {(40, 60, 3)}
    assert [frame.resized for frame in frames] == [False, False, True, True]


def test_time_stamps_always_grow(tmp_path: Path, photo: Array) -> None:
    clip = opened(tmp_path / "a.mkv", moving_scene(photo, 3))
    frames = list(frames_of(clip))
    assert min(np.diff([frame.pts for frame in frames])) > 0


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(VideoLibraryError, match=r'pip install "dehaze-diffusion\[video\]"'):
        load_av()


def test_clips_are_known_by_their_names() -> None:
    assert module.is_clip(Path("DJI_0001.MP4"))
    assert not module.is_clip(Path("photo.jpg"))
