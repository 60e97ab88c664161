"""dehaze run on clips: what is written, what is said, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from clips import moving_scene, write_clip
from numpy.typing import NDArray

from dehaze.commands import main
from dehaze.models.choice import ModelChoice
from dehaze.photos import write_photo
from dehaze.pipelines.dehaze import DehazePipeline
from dehaze.video.clip import open_clip
from dehaze.video.job import ClipResult, dehaze_video, work_folder

Array = NDArray[np.float32]
Invoke = Callable[..., Result]
QUICK = ("--steps", "1", "--solver", "fixed-point", "--iterations", "1")


@pytest.fixture
def invoke(pipeline: DehazePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    monkeypatch.setattr(ModelChoice, "plain", lambda choice: False)
    monkeypatch.setattr(ModelChoice, "load", lambda choice, kind: pipeline)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["run", *arguments])

    return call


@pytest.fixture
def clip(tmp_path: Path, photo: Array) -> Path:
    pytest.importorskip("av", reason="the extra video is not installed")
    return write_clip(tmp_path / "a.mp4", moving_scene(photo, 2), sound=True)


@pytest.mark.usefixtures("clip")
def test_a_clip_comes_out_as_a_file_and_is_kept(invoke: Invoke) -> None:
    result = invoke("a.mp4", "-o", "b.mp4", *QUICK, "-v")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("a.mp4: 2 frames, 1 shot; ")
    assert "network evaluations a frame; in b.mp4" in result.stdout
    assert open_clip(Path("b.mp4")).frames == 2
    again = invoke("a.mp4", "-o", "b.mp4", *QUICK)
    assert again.stdout == "a.mp4: kept from an earlier run; b.mp4\n"


def test_clips_and_photos_go_to_one_folder(invoke: Invoke, clip: Path, photo: Array) -> None:
    clip.rename("a.avi")
    write_photo(Path("p.png"), photo)
    result = invoke("a.avi", "p.png", "-o", "out", "--json", *QUICK, "--batch-size", "1")
    assert result.exit_code == 0, result.output
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["event"] for event in events] == ["photo", "summary", "clip"]
    # AVI is not written; the result is a Matroska file.
    assert events[-1]["output"] == str(Path("out", "a.avi.mkv"))
    assert open_clip(Path("out/a.avi.mkv")).frames == 2
    assert Path("out/p.png").is_file()


def test_a_dry_run_says_where_clips_go(invoke: Invoke, photo: Array) -> None:
    Path("a.mp4").touch()
    write_photo(Path("p.png"), photo)
    assert invoke("a.mp4", "--dry-run").stdout == f"a.mp4 -> {Path('dehazed', 'a.mp4')}\n"
    both = invoke("a.mp4", "p.png", "--dry-run").stdout.splitlines()
    assert both[:2] == [
        f"a.mp4 -> {Path('dehazed', 'a.mp4')}", f"p.png -> {Path('dehazed', 'p.png')}"
    ]  # fmt: skip
    assert not Path("dehazed").exists()


@pytest.mark.usefixtures("clip")
def test_a_clip_that_fails_is_named_and_the_others_are_done(invoke: Invoke) -> None:
    Path("broken.mp4").write_bytes(b"no clip")
    result = invoke("broken.mp4", "a.mp4", "-o", "out", *QUICK)
    assert result.exit_code == 1
    assert result.stderr.startswith("dehaze: broken.mp4: cannot be read as a clip")
    assert Path("out/a.mp4").is_file()
    failed = invoke("broken.mp4", "-o", "out", "--json", *QUICK)
    assert json.loads(failed.stdout)["status"] == "failed"


@pytest.mark.usefixtures("clip")
def test_an_unforeseen_error_ends_one_clip_alone(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("odd.mp4").write_bytes(Path("a.mp4").read_bytes())

    def fail_once(source: Path, *arguments: Any, **named: Any) -> ClipResult:
        if source.name == "odd.mp4":
            raise LookupError("no encoder\nof this name")
        return dehaze_video(source, *arguments, **named)

    monkeypatch.setattr("dehaze.video.job.dehaze_video", fail_once)
    result = invoke("odd.mp4", "a.mp4", "-o", "out", *QUICK)
    assert result.exit_code == 1
    assert result.stderr.startswith(
        "dehaze: odd.mp4: cannot be dehazed (LookupError: no encoder); the other clips are not"
    )
    assert Path("out/a.mp4").is_file()


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        (("--recovery", "affine"), "with photos alone, unless it is physics"),
        (("--method", "dcp"), "--method has an effect only with photos alone;"),
        (("--guidance", "2"), "--guidance has an effect only with photos alone;"),
        (("--guidance", "2", "--mode", "direct"), "--mode has an effect only with photos alone;"),
        (("--solver", "anderson", "--predictor", "ife"), "--predictor has an effect only with p"),
    ],
)
@pytest.mark.parametrize("inputs", [("a.mp4",), ("a.mp4", "p.png")])
def test_options_without_effect_on_clips_are_refused(
    invoke: Invoke, photo: Array, inputs: tuple[str, ...], arguments: tuple[str, ...], where: str
) -> None:
    Path("a.mp4").touch()
    write_photo(Path("p.png"), photo)
    result = invoke(*inputs, *arguments)
    assert result.exit_code == 2
    assert where in " ".join(result.stderr.split())
    assert not Path("dehazed").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("a.mp4", "b.mp4", "-o", "c.mp4"), "c.mp4 is one file and there are 2 inputs"),
        (("a.mp4", "p.png", "-o", "c.mp4"), "c.mp4 is one file and there are 2 inputs"),
        (("a.mp4", "-o", "-"), "-o - takes one photo"),
        (("a.mp4", "-o", "c.avi"), "c.avi names a file that no clip is written to"),
        (("a.mp4", "-o", "c.jpg"), "name one that ends in .mp4, .m4v, .mov, .mkv, .webm"),
        (("a.mp4", "sub/a.mp4", "-o", "out"), "do them in two runs"),
        (("a.mp4", "p.png", "--watch"), "--watch is for photos"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(
    invoke: Invoke, photo: Array, arguments: tuple[str, ...], said: str
) -> None:
    Path("sub").mkdir()
    for name in ("a.mp4", "b.mp4", "sub/a.mp4"):
        Path(name).touch()
    write_photo(Path("p.png"), photo)
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())


def test_clips_in_folders_are_named_and_left_alone(invoke: Invoke, photo: Array) -> None:
    Path("in").mkdir()
    for n in range(5):
        Path(f"in/{n}.mp4").touch()
    refused = invoke("in", "-o", "out")
    assert refused.exit_code == 2
    assert "clips in folders are left alone, in/0.mp4, in/1.mp4" in refused.stderr
    write_photo(Path("in/p.png"), photo)
    done = invoke("in", "-o", "out", "--method", "dcp")
    assert done.exit_code == 0, done.output
    assert "in/2.mp4 and 2 more; name each of them to have it done" in done.stderr
    assert not Path("out/0.mp4").exists()


def test_an_interrupted_clip_can_be_continued(
    invoke: Invoke, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dehaze.video.frames import FrameDehazer

    def interrupt(dehazer: FrameDehazer, frame: Array, time: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FrameDehazer, "__call__", interrupt)
    result = invoke(str(clip), "-o", "b.mp4", *QUICK)
    assert result.exit_code == 130
    assert "interrupted; run it again to continue" in result.stderr
    assert not Path("b.mp4").exists()
    assert work_folder(Path("b.mp4")).is_dir()


def test_the_missing_extra_is_one_line(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    Path("a.mp4").touch()
    result = invoke("a.mp4", "-o", "b.mp4")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert 'pip install "dehaze-diffusion[video]"' in result.stderr
