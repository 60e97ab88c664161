"""A clip from file to file: everything is kept, nothing is done twice, results are complete."""

from __future__ import annotations

import os
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import moving_scene, packets_of, with_matrix, write_clip
from diffusers import DDIMScheduler
from numpy.typing import NDArray

from dehaze.pipelines.dehaze import DehazePipeline
from dehaze.video import job as module
from dehaze.video.clip import VideoError, frames_of, open_clip
from dehaze.video.frames import FrameDehazer, FrameResult, FrameSettings
from dehaze.video.job import ClipResult, dehaze_video, work_folder

av = pytest.importorskip("av", reason="the extra video is not installed")
Array = NDArray[np.float32]
QUICK = FrameSettings(num_inference_steps=1, solver="fixed-point", max_iterations=1)
RUN = 2


@pytest.fixture(autouse=True)
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RUN", RUN)


@pytest.fixture
def darkened(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model: every frame comes back at three quarters of its lightness."""

    def darken(dehazer: FrameDehazer, frame: Array, time: float) -> FrameResult:
        return FrameResult(frame * np.float32(0.75), 0, is_first=False)

    monkeypatch.setattr(FrameDehazer, "__call__", darken)


def run(
    source: Path, output: Path, pipe: DehazePipeline, stop: int | None = None, **how: Any
) -> ClipResult:
    """Runs a clip's job, and interrupts it after ``stop`` frames."""
    done = [0]

    def on_frame(kept: bool) -> None:
        done[0] += not kept
        if done[0] == stop:
            raise KeyboardInterrupt

    return dehaze_video(source, output, pipe, QUICK, on_frame=on_frame, **how)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.usefixtures("darkened")
def test_all_but_the_picture_stays_as_it_was(
    tmp_path: Path, photo: Array, pipeline: DehazePipeline, suffix: str
) -> None:
    times = [0, 3600, 9000, 10800, 21600, 25200, 28800]
    base = Fraction(1, 1000) if suffix == ".mkv" else Fraction(1, 90000)
    source = write_clip(
        tmp_path / f"a{suffix}",
        moving_scene(photo, 7),
        times=[int(time * Fraction(1, 90000) / base) for time in times],
        time_base=base,
        sound=True,
        metadata={"title": "A ridge", "creation_time": "2024-05-01T10:00:00Z"},
        color_primaries=9,
        color_trc=1,
        colorspace=9,
        color_range=2,
        sample_aspect_ratio=Fraction(4, 3),
    )
    output = tmp_path / "out" / f"b{suffix}"
    result = run(source, output, pipeline)
    assert (result.status, result.frames, result.notes) == ("done", 7, ())
    before, after = open_clip(source), open_clip(output)
    for name in ("codec", "size", "samples", "colour", "primaries", "transfer", "aspect", "frames"):
        assert getattr(after, name) == getattr(before, name), name
    frames = [list(frames_of(each)) for each in (before, after)]
    assert [each.pts for each in frames[1]] == [each.pts for each in frames[0]]
    for old, new in zip(*frames, strict=True):
        assert np.abs(new.pixels - 0.75 * old.pixels).mean() < 0.02
    assert packets_of(output, "audio") == packets_of(source, "audio")
    with av.open(str(output)) as written:
        assert written.metadata.get("title", written.metadata.get("TITLE")) == "A ridge"
        assert written.metadata["creation_time"].startswith("2024-05-01T10:00:00")


@pytest.mark.usefixtures("darkened")
def test_a_turned_clip_is_written_upright(
    tmp_path: Path, photo: Array, pipeline: DehazePipeline
) -> None:
    source = write_clip(
        tmp_path / "a.mp4", moving_scene(photo, 2), sample_aspect_ratio=Fraction(4, 3)
    )
    quarter = (0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    run(with_matrix(source, quarter), tmp_path / "b.mp4", pipeline)
    before, after = open_clip(source), open_clip(tmp_path / "b.mp4")
    assert (after.size, after.turn, after.aspect) == ((60, 40), (0, False), Fraction(3, 4))
    old, new = (next(frames_of(each)).pixels for each in (before, after))
    assert np.abs(new - 0.75 * old).mean() < 0.02


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "suffix", "size", "comes_back"),
    [
        ("libx264", "yuv420p10le", ".mp4", (40, 60), ("h264", "yuv420p10le")),
        ("libx265", "yuv420p", ".mp4", (40, 60), ("hevc", "yuv420p")),
        ("libvpx-vp9", "yuv420p", ".webm", (41, 61), ("vp9", "yuv420p")),
        ("libsvtav1", "yuv420p", ".mp4", (40, 60), ("av1", "yuv420p")),
        ("mjpeg", "yuvj422p", ".mov", (40, 60), ("mjpeg", "yuv422p")),
        ("ffv1", "yuv420p", ".mkv", (41, 61), ("ffv1", "yuv420p")),
        ("mpeg2video", "yuv420p", ".mkv", (40, 60), ("h264", "yuv420p")),
        # H.264 has no odd sizes with chroma at half the size.
        ("mpeg2video", "yuv420p", ".mkv", (41, 61), ("h264", "yuv444p")),
        ("ffv1", "gray", ".mkv", (40, 60), ("ffv1", "gray")),
        ("prores_ks", "yuv422p10le", ".mov", (40, 60), ("prores", "yuv422p10le")),
    ],
)
@pytest.mark.usefixtures("darkened")
def test_every_codec_comes_back_in_its_own_or_says_so(
    tmp_path: Path,
    photo: Array,
    pipeline: DehazePipeline,
    codec: str,
    pix_fmt: str,
    suffix: str,
    size: tuple[int, int],
    comes_back: tuple[str, str],
) -> None:
    frames = moving_scene(np.pad(photo, ((0, 1), (0, 1), (0, 0)), "edge"), 2)
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    source = write_clip(
        tmp_path / f"a{suffix}",
        [frame[: size[0], : size[1]] for frame in frames],
        codec=codec,
        pix_fmt=pix_fmt,
        time_base=Fraction(1, 25),
        options=options,
    )
    output = tmp_path / f"b{suffix}"
    result = run(source, output, pipeline)
    before, after = open_clip(source), open_clip(output)
    assert (after.codec, after.samples.name) == comes_back
    assert after.size == size
    said = " ".join(result.notes)
    assert ("comes back as h264" in said) == (before.codec != after.codec)
    assert ("samples" in said) == (before.samples != after.samples)
    for old, new in zip(frames_of(before), frames_of(after), strict=True):
        assert np.abs(new.pixels.mean((0, 1)) - 0.75 * old.pixels.mean((0, 1))).max() < 0.02


def test_a_killed_job_goes_on_and_ends_with_the_same_bytes(
    tmp_path: Path, photo: Array, pipeline: DehazePipeline
) -> None:
    source = write_clip(tmp_path / "a.mp4", moving_scene(photo, 5), sound=True)
    whole = run(source, tmp_path / "whole.mp4", pipeline)
    output = tmp_path / "b.mp4"
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(source, output, pipeline, stop=RUN + 1)
        assert not output.exists()
    kept: list[bool] = []
    result = dehaze_video(source, output, pipeline, QUICK, on_frame=kept.append)
    assert kept == [True] * 2 * RUN + [False]
    assert output.read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    assert (result.evaluations, result.shots) == (whole.evaluations, whole.shots)
    assert sorted(path.name for path in work_folder(output).iterdir()) == [".lock", "journal.jsonl"]


@pytest.mark.usefixtures("darkened")
def test_a_finished_result_is_kept_until_something_changes(
    tmp_path: Path, photo: Array, pipeline: DehazePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_clip(tmp_path / "a.mp4", moving_scene(photo, 4))
    output = tmp_path / "b.mp4"
    assert run(source, output, pipeline).status == "done"
    again = run(source, output, pipeline)
    assert (again.status, again.frames) == ("kept", 4)
    # The weights stay; first dehaze.json changes, then the scheduler.
    changed = replace(pipeline.description, cross_replace_steps=0.5)
    monkeypatch.setattr(pipeline, "description", changed)
    assert run(source, output, pipeline).status == "done"
    other = DDIMScheduler.from_config(pipeline.scheduler.config, beta_end=0.02)
    monkeypatch.setattr(pipeline, "scheduler", other)
    assert run(source, output, pipeline).status == "done"
    assert run(source, output, pipeline).status == "kept"
    weaker = FrameSettings(strength=0.5)
    assert dehaze_video(source, output, pipeline, weaker).status == "done"
    assert run(source, output, pipeline).status == "done"
    write_clip(source, moving_scene(photo, 5))
    assert run(source, output, pipeline).frames == 5
    assert run(source, output, pipeline, overwrite=True).status == "done"


@pytest.mark.usefixtures("darkened")
def test_repaired_time_stamps_are_noted(
    tmp_path: Path, photo: Array, pipeline: DehazePipeline
) -> None:
    source = write_clip(
        tmp_path / "a.mkv",
        moving_scene(photo, 4),
        codec="ffv1",
        times=[0, 40, 40, 120],
        time_base=Fraction(1, 1000),
    )
    result = run(source, tmp_path / "b.mkv", pipeline)
    assert result.notes == ("1 of its time stamps were missing or out of order",)
    assert [frame.pts for frame in frames_of(open_clip(tmp_path / "b.mkv"))] == [0, 40, 80, 120]


@pytest.mark.usefixtures("darkened")
def test_a_damaged_frame_is_left_out_alone(
    tmp_path: Path, photo: Array, pipeline: DehazePipeline
) -> None:
    source = write_clip(tmp_path / "a.mov", moving_scene(photo, 3), codec="png", pix_fmt="rgb24")
    data = bytearray(source.read_bytes())
    second = data.index(b"\x89PNG", data.index(b"\x89PNG") + 1)
    data[second : second + 200] = bytes(200)
    source.write_bytes(data)
    result = run(source, tmp_path / "b.mov", pipeline)
    assert result.frames == 2
    assert "1 of its frames could not be decoded and are left out" in result.notes
    assert [frame.pts for frame in frames_of(open_clip(tmp_path / "b.mov"))] == [0, 7200]


@pytest.mark.usefixtures("darkened")
@pytest.mark.parametrize(
    ("name", "how"),
    [("a.mp4", {}), ("a.mkv", {"codec": "mjpeg", "pix_fmt": "yuvj420p"})],
)
def test_damage_that_a_decoder_conceals_is_noted(
    tmp_path: Path, photo: Array, pipeline: DehazePipeline, name: str, how: dict[str, Any]
) -> None:
    rng = np.random.default_rng(0)
    frames = [rng.random((48, 64, 3), np.float32) for _ in range(4)]
    source = write_clip(tmp_path / name, frames, **how)
    assert run(source, tmp_path / f"whole-{name}", pipeline).notes == ()
    with av.open(str(source)) as container:
        third = [packet for packet in container.demux(video=0) if packet.size][2]
        place, size = third.pos, third.size
    data = bytearray(source.read_bytes())
    data[place + size // 4 : place + size // 2] = bytes(size // 2 - size // 4)
    source.write_bytes(data)
    result = run(source, tmp_path / f"damaged-{name}", pipeline)
    assert result.frames == 4
    (note,) = result.notes
    assert note.startswith("1 of its frames are damaged: a part of each")


@pytest.mark.usefixtures("darkened")
def test_a_clip_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, photo: Array, pipeline: DehazePipeline
) -> None:
    source = write_clip(tmp_path / "a.mp4", moving_scene(photo, 5))

    def write_again(kept: bool) -> None:
        os.utime(source, (1, 1))

    with pytest.raises(VideoError, match=r"a\.mp4: changed while it was read; run it again"):
        dehaze_video(source, tmp_path / "b.mp4", pipeline, QUICK, on_frame=write_again)
    assert not (tmp_path / "b.mp4").exists()
    # Of the same content, so the frames that were done are kept.
    assert run(source, tmp_path / "b.mp4", pipeline).frames == 5


@pytest.mark.usefixtures("darkened")
def test_frames_of_other_code_are_not_gone_on_with(
    tmp_path: Path, photo: Array, pipeline: DehazePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_clip(tmp_path / "a.mp4", moving_scene(photo, 4))
    output = tmp_path / "b.mp4"
    with pytest.raises(KeyboardInterrupt):
        run(source, output, pipeline, stop=RUN + 1)
    monkeypatch.setattr(module, "digest_of_code", lambda: "of a later commit")
    kept: list[bool] = []
    dehaze_video(source, output, pipeline, QUICK, on_frame=kept.append)
    assert kept == [False] * 4
    assert run(source, output, pipeline).status == "kept"
    monkeypatch.undo()
    assert run(source, output, pipeline).status == "done"


@pytest.mark.parametrize("damaged", ["000001.run", "000001.past.safetensors", "journal.jsonl"])
def test_a_damaged_part_is_done_again(
    tmp_path: Path, photo: Array, pipeline: DehazePipeline, damaged: str
) -> None:
    source = write_clip(tmp_path / "a.mp4", moving_scene(photo, 5))
    output = tmp_path / "b.mp4"
    with pytest.raises(KeyboardInterrupt):
        run(source, output, pipeline, stop=2 * RUN + 1)
    path = work_folder(output) / damaged
    path.write_bytes(path.read_bytes()[:-9])
    kept: list[bool] = []
    dehaze_video(source, output, pipeline, QUICK, on_frame=kept.append)
    assert len(kept) == 5
    assert sum(kept) < 2 * RUN
    assert open_clip(output).frames == 5


def test_a_run_that_was_written_twice_counts_once(
    tmp_path: Path, photo: Array, pipeline: DehazePipeline
) -> None:
    source = write_clip(tmp_path / "a.mp4", moving_scene(photo, 7))
    output = tmp_path / "b.mp4"
    with pytest.raises(KeyboardInterrupt):
        run(source, output, pipeline, stop=3 * RUN + 1)
    journal = work_folder(output) / "journal.jsonl"
    lines = journal.read_bytes().split(b"\n")
    (second,) = (line for line in lines if b"000001.run" in line)
    journal.write_bytes(b"\n".join([*lines[:-2], second, *lines[-2:]]))
    assert run(source, output, pipeline).frames == 7
    times = [frame.pts for frame in frames_of(open_clip(output))]
    assert times == [frame.pts for frame in frames_of(open_clip(source))]


@pytest.mark.usefixtures("darkened")
def test_a_file_that_dehaze_did_not_make_is_left_alone(
    tmp_path: Path, photo: Array, pipeline: DehazePipeline
) -> None:
    source = write_clip(tmp_path / "a.mp4", moving_scene(photo, 2))
    output = tmp_path / "b.mp4"
    output.write_bytes(b"mine")
    with pytest.raises(VideoError, match=r"b.mp4: exists and was not made by dehaze"):
        run(source, output, pipeline)
    assert output.read_bytes() == b"mine"
    assert run(source, output, pipeline, overwrite=True).status == "done"
    with pytest.raises(VideoError, match="is the output as well"):
        run(source, source, pipeline)


@pytest.mark.usefixtures("darkened")
def test_a_container_that_cannot_hold_the_clip_is_refused(
    tmp_path: Path, photo: Array, pipeline: DehazePipeline
) -> None:
    source = write_clip(tmp_path / "a.mp4", moving_scene(photo, 2), sound=True)
    for name, cause in (
        ("b.webm", "does not take the sound of the clip, aac"),
        ("b.txt", "suffix"),
    ):
        with pytest.raises(VideoError, match=cause):
            run(source, tmp_path / name, pipeline)
        assert not work_folder(tmp_path / name).exists()


@pytest.mark.usefixtures("darkened")
def test_two_jobs_cannot_write_one_result(
    tmp_path: Path, photo: Array, pipeline: DehazePipeline
) -> None:
    source = write_clip(tmp_path / "a.mp4", moving_scene(photo, 2))
    output = tmp_path / "b.mp4"

    def second(kept: bool) -> None:
        with pytest.raises(VideoError, match="another dehaze run"):
            dehaze_video(source, output, pipeline, QUICK)

    dehaze_video(source, output, pipeline, QUICK, on_frame=second)


@pytest.mark.skipif(os.name != "posix", reason="the size of a process is read from /proc")
@pytest.mark.slow
def test_memory_does_not_grow_with_the_length(
    tmp_path: Path, photo: Array, pipeline: DehazePipeline
) -> None:
    def megabytes() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

    large = np.repeat(np.repeat(photo, 10, 0), 10, 1)
    source = write_clip(
        tmp_path / "a.mp4", moving_scene(large, 160), options={"preset": "ultrafast"}
    )
    seen: list[float] = []
    dehaze_video(
        source,
        tmp_path / "b.mp4",
        pipeline,
        QUICK,
        on_frame=lambda kept: seen.append(megabytes()),
    )
    # The encoder buffers 40 frames, so its memory is full after the first half. Medians are
    # compared, since memory that is free for a moment varies from frame to frame.
    half = len(seen) // 2
    growth = np.median(seen[-20:]) - np.median(seen[half : half + 20])
    # The limit is a quarter of the size of the frames in between, in float32.
    assert growth < 0.25 * (half - 20) * large.nbytes / 1e6
