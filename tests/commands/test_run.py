"""dehaze run: files written, messages printed, exit codes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

import dehaze
from dehaze.batch import JOURNAL_NAME, LOCK_NAME, Item, local, worker
from dehaze.batch.journal import Journal
from dehaze.batch.worker import DiffusionWorker
from dehaze.commands import main
from dehaze.commands import run as module
from dehaze.commands.run_options import SIDE_FILES
from dehaze.inversion import SOLVERS
from dehaze.models.choice import ModelChoice
from dehaze.models.source import BUNDLED_FOLDER
from dehaze.photos import MAX_MEGAPIXELS, FloatArray, read_photo, write_photo
from dehaze.pipelines.dehazing import NULL_TEXTS
from dehaze.priors import PRIORS
from dehaze.prompts import WordError
from dehaze.recovery.recover import RECOVERIES

ROOT = Path(dehaze.__file__).resolve().parents[1]
Invoke = Callable[..., Result]


class FakeTrace:
    worst_residual = 0.01

    def to_dict(self) -> dict[str, Any]:
        return {"residuals": [0.01, None]}


@dataclass
class FakeResult:
    image: FloatArray
    transmission: FloatArray | None
    airlight: FloatArray = field(default_factory=lambda: np.float32([0.5, 0.75, 1.0]))
    nfe: int = 80
    trace: FakeTrace = field(default_factory=FakeTrace)

    def attention_normalised(self) -> FloatArray:
        return np.linspace(0, 1, self.image[..., 0].size, dtype=np.float32).reshape(
            self.image.shape[:2]
        )


class FakePipeline:
    """Darkens a photo to three quarters, and remembers how it was called."""

    darkens = 0.75

    def __init__(self) -> None:
        self.settings: list[dict[str, Any]] = []
        self.batches: list[int] = []
        self.interrupt_at: int | None = None

    device = torch.device("cpu")
    denoiser = torch.nn.Identity()

    @property
    def codec(self) -> FakePipeline:
        return self

    def padded_size(self, pixels: FloatArray) -> tuple[int, ...]:
        return pixels.shape[:2]

    def check_prompt(self, prompt: str | None, word: str | None) -> None:
        if prompt is not None and (word or "haze") not in prompt:
            raise WordError(f"{word!r} is not in {prompt!r}")

    def check_settings(self, **options: Any) -> None:
        """Accepts every setting."""

    def __call__(self, photos: list[FloatArray], **settings: Any) -> list[FakeResult]:
        if self.interrupt_at == len(self.settings):
            raise KeyboardInterrupt
        self.settings.append(settings)
        self.batches.append(len(photos))
        transmission = np.full(photos[0].shape[:2], 0.6, np.float32)
        transmission[3:4, 4:5] = 0.5
        known = transmission if settings["recovery"] == "physics" else None
        return [FakeResult(pixels * np.float32(self.darkens), known) for pixels in photos]


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> FakePipeline:
    fake = FakePipeline()
    monkeypatch.setattr(ModelChoice, "plain", lambda choice: False)
    monkeypatch.setattr(ModelChoice, "load", lambda choice, kind: fake)
    return fake


@pytest.fixture
def invoke(pipeline: FakePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["run", *arguments])

    return call


def photo_at(path: str | Path, shade: float = 0.5, shape: tuple[int, int] = (6, 9)) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_photo(path, np.full((*shape, 3), shade, np.float32))
    return path


def shade(path: str) -> float:
    return float(read_photo(path).pixels.mean())


def test_a_folder_comes_out_as_it_went_in(invoke: Invoke) -> None:
    photo_at("in/a.jpg", 0.8)
    photo_at("in/sub/b.png", 0.4, shape=(5, 3))
    Path("in/notes.txt").write_text("fog")
    result = invoke("in", "-o", "out")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert re.fullmatch(
        r"2 done, 1 passed over as no photo or hidden; \d+\.\d\d s a photo; in out\n",
        result.stdout,
    )
    assert shade("out/a.jpg") == pytest.approx(0.6, abs=0.01)
    assert shade("out/sub/b.png") == pytest.approx(0.3, abs=0.003)
    assert read_photo("out/sub/b.png").size == (3, 5)
    assert sorted(path.name for path in Path("out").iterdir()) == [
        JOURNAL_NAME,
        LOCK_NAME,
        "a.jpg",
        "sub",
    ]


def test_the_default_output_is_a_folder_named_dehazed(invoke: Invoke) -> None:
    photo_at("a.png")
    assert invoke("a.png").exit_code == 0
    assert Path("dehazed/a.png").is_file()
    assert invoke(".").exit_code == 0
    assert not Path("dehazed/dehazed").exists()


def test_a_corrupt_photo_is_one_line_and_exit_code_1(invoke: Invoke) -> None:
    photo_at("in/a.png")
    Path("in/b.jpg").write_bytes(b"")
    photo_at("in/c.png")
    result = invoke("in", "-o", "out")
    assert result.exit_code == 1
    assert (
        result.stderr == "dehaze: in/b.jpg: is empty (0 bytes); copy it again from where it came\n"
    )
    assert result.stdout.startswith("2 done, 1 failed; ")
    assert shade("out/c.png") == pytest.approx(0.375, abs=0.003)


def test_notes_are_printed(invoke: Invoke) -> None:
    Image.new("CMYK", (4, 4)).save("a.jpg")
    result = invoke("a.jpg")
    assert result.exit_code == 0
    assert result.stderr == "dehaze: a.jpg: note: converted from CMYK to sRGB\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing argument 'INPUT...'"),
        (["nowhere"], "'nowhere' does not exist"),
        (["in", "--save", "attention,colour"], "'colour' is not one of attention, transmission"),
        (["in", "--solver", "guess"], f"'guess' is not one of {', '.join(SOLVERS.names())}"),
        (["in", "--recovery", "guess"], f"'guess' is not one of {', '.join(RECOVERIES.names())}"),
        (
            ["in", "--save", "transmission", "--recovery", "affine"],
            "only with --recovery physics",
        ),
        (["in", "--steps", "0"], "0 is not in the range x>=1"),
        (["in", "-o", "in"], "is the output folder as well"),
        (["empty"], "dehaze: no photo found among 1 file; photos end in .bmp"),
        (["in", "--prompt", "a photo"], "'haze' is not in 'a photo'"),
    ],
)
def test_a_wrong_command_is_exit_code_2_before_any_work(
    invoke: Invoke, pipeline: FakePipeline, arguments: list[str], message: str
) -> None:
    photo_at("in/a.png")
    Path("empty").mkdir()
    Path("empty/notes.txt").touch()
    if "--prompt" in arguments:
        arguments = [*arguments, "--word", "haze"]
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert result.stdout == ""
    assert pipeline.settings == []
    assert not Path("dehazed").exists()


def test_a_model_that_cannot_be_loaded_is_one_line(tmp_path: Path) -> None:
    photo = photo_at(tmp_path / "a.png")
    arguments = ["run", str(photo), "-o", str(tmp_path / "out"), "--model", str(tmp_path)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("dehaze: ")
    assert result.stderr.count("\n") == 1
    assert str(tmp_path) in result.stderr


def test_a_device_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    photo = photo_at(tmp_path / "a.png")
    for device in ("cuda:99", "abacus"):
        result = CliRunner().invoke(main, ["run", str(photo), "--device", device])
        assert result.exit_code == 2
        assert result.stderr.startswith(f"dehaze: --device {device} cannot be used")
        assert result.stderr.count("\n") == 1


def test_only_given_options_reach_the_pipeline(invoke: Invoke, pipeline: FakePipeline) -> None:
    photo_at("a.png")
    invoke("a.png")
    given = {"null_text": "embedding", "strength": 1.0, "exposure": 0.0, "recovery": "physics"}
    assert pipeline.settings == [given | {"mode": "plain", "guidance_scale": 1.0}]
    solver = "fixed-point"
    result = invoke(
        *("a.png", "--prompt", "a street in fog", "--word", "fog", "--null-text", "delete"),
        *("--strength", "0.5", "--solver", solver, "--steps", "7", "--tolerance", "0.01"),
        *("--recovery", "none", "--exposure", "keep", "--mode", "direct", "--guidance", "3"),
        *("--predictor", "ife", "--criterion", "inter-path", "--iterations", "8"),
    )
    assert result.exit_code == 0, result.output
    assert pipeline.settings[1] == {
        "mode": "direct",
        "guidance_scale": 3.0,
        "predictor": "ife",
        "criterion": "inter-path",
        "max_iterations": 8,
        "prompt": "a street in fog",
        "word": "fog",
        "null_text": "delete",
        "strength": 0.5,
        "exposure": 1.0,
        "solver": solver,
        "num_inference_steps": 7,
        "tolerance": 0.01,
        "recovery": "none",
    }


def test_photos_share_the_network_where_that_is_asked_for(
    invoke: Invoke, pipeline: FakePipeline
) -> None:
    for index in range(5):
        photo_at(f"in/{index}.png")
    photo_at("in/other.png", shape=(9, 6))
    assert invoke("in", "-o", "alone").exit_code == 0
    assert pipeline.batches == [1] * 6
    pipeline.batches.clear()
    result = invoke("in", "-o", "together", "--batch-size", "4")
    assert result.exit_code == 0, result.output
    assert sorted(pipeline.batches) == [1, 1, 4]
    assert sorted(os.listdir("together")) == sorted(os.listdir("alone"))
    # The batch size is no setting of a result, so the job continues.
    assert invoke("in", "-o", "alone", "--batch-size", "2").stdout.startswith("0 done, 6 kept")
    assert invoke("in", "--batch-size", "0").exit_code == 2
    assert "only with --method" in invoke("in", "--method", "dcp", "--batch-size", "2").output


def test_help_written_without_imports_matches_the_library() -> None:
    options = {option.name: option for option in module.run.params}
    null_text = options["null_text"].type
    assert isinstance(null_text, click.Choice)
    assert tuple(null_text.choices) == tuple(NULL_TEXTS.names())
    assert options["max_megapixels"].default == MAX_MEGAPIXELS
    assert options["recovery"].default in RECOVERIES.names()
    assert worker.BATCH_ON_CPU == 1
    assert f"and {worker.BATCH_ON_ACCELERATOR} on an accel" in str(options["batch_size"].help)


def test_a_second_run_does_the_remaining_photos(invoke: Invoke, pipeline: FakePipeline) -> None:
    photo_at("in/a.png")
    photo_at("in/b.png")
    invoke("in")
    photo_at("in/c.png")
    again = invoke("in")
    assert len(pipeline.settings) == 3
    assert again.stdout.startswith("1 done, 2 kept from an earlier run; ")
    assert invoke("in").stdout == "0 done, 3 kept from an earlier run; in dehazed\n"
    assert invoke("in", "--overwrite").stdout.startswith("3 done; ")
    assert invoke("in", "--strength", "0.5").stdout.startswith("3 done; ")
    assert invoke("in", "--strength", "0.5", "--device", "cpu").stdout.startswith("0 done, 3 kept")


def test_side_files_stand_beside_their_photo(invoke: Invoke) -> None:
    photo_at("in/sub/a.jpg", 0.5)
    photo_at("in/sub/a.png", 0.5)
    result = invoke("in", "--save", "trace,attention,transmission,airlight,depth")
    assert result.exit_code == 0, result.output
    folder = Path("dehazed/sub")
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        f"a.{kind}{ending}" for kind in ("jpg", "png") for ending in ("", *SIDE_FILES.values())
    )
    assert json.loads((folder / "a.jpg.airlight.json").read_text()) == [0.5, 0.75, 1.0]
    with Image.open(folder / "a.jpg.depth.png") as image:
        assert (image.mode, image.size) == ("I;16", (9, 6))
        # The depth -log 0.5 as a share of the largest, -log 0.05, in 65534 levels.
        assert image.getpixel((4, 3)) == pytest.approx(15163, abs=40)
    with Image.open(folder / "a.jpg.transmission.png") as image:
        assert (image.mode, image.size) == ("L", (9, 6))
        assert image.getpixel((0, 0)) == round(0.6 * 255)
    with Image.open(folder / "a.jpg.attention.png") as image:
        assert (image.mode, image.size) == ("RGB", (9, 6))
        # Hot where the attention is highest, at the last pixel.
        assert sum(image.getpixel((8, 5))) > sum(image.getpixel((0, 0)))
    assert json.loads((folder / "a.png.trace.json").read_text()) == {"residuals": [0.01, None]}
    assert invoke("in", "--save", "attention,depth,airlight,trace,transmission").stdout.startswith(
        "0 done, 2 kept"
    )


def test_results_get_another_format_name_and_quality(invoke: Invoke) -> None:
    photo_at("in/a.jpg", 0.5, shape=(60, 90))
    photo_at("in/sub/b.png", 0.4)
    assert invoke("in", "--format", "png", "--suffix", "_clear").exit_code == 0
    assert sorted(map(str, Path("dehazed").rglob("*.*g"))) == [
        "dehazed/a_clear.png",
        "dehazed/sub/b_clear.png",
    ]
    assert shade("dehazed/a_clear.png") == pytest.approx(0.375, abs=0.01)
    with Image.open("dehazed/a_clear.png") as image:
        assert image.format == "PNG"
    assert invoke("in", "--format", "png", "--suffix", "_clear").stdout.startswith("0 done, 2 kept")
    assert invoke("in", "-o", "other", "--format", "JPEG", "--quality", "5").exit_code == 0
    small = Path("other/a.jpg").stat().st_size
    assert Path("other/sub/b.jpeg").is_file()
    # Another quality is another result.
    assert invoke("in", "-o", "other", "--format", "jpeg").stdout.startswith("2 done")
    assert small < Path("other/a.jpg").stat().st_size


def test_photos_that_would_get_one_name_are_refused(invoke: Invoke) -> None:
    photo_at("in/a.jpg")
    photo_at("in/a.png")
    refused = invoke("in", "--format", "png")
    assert refused.exit_code == 2
    assert "in/a.png: would be written to the same file as in/a.jpg" in refused.stderr
    assert "do them in two runs, into two folders" in refused.stderr
    photo_at("one/a.jpg")
    photo_at("two/a.png")
    assert invoke("one", "two", "--format", "png").exit_code == 0
    assert Path("dehazed/one/a.png").is_file()
    assert Path("dehazed/two/a.png").is_file()


def test_with_a_suffix_results_can_lie_beside_their_photos(invoke: Invoke) -> None:
    before = photo_at("a.png").read_bytes()
    assert invoke("a.png", "-o", ".", "--suffix", "_clear").exit_code == 0
    assert Path("a.png").read_bytes() == before
    assert Path("a_clear.png").is_file()


def test_a_photo_without_a_place_in_the_format_fails_alone(invoke: Invoke) -> None:
    photo_at("in/a.png")
    Image.new("RGBA", (5, 4), (100, 120, 140, 90)).save("in/b.png")
    done = invoke("in", "--format", "jpg")
    assert done.exit_code == 1
    assert done.stdout.startswith("1 done, 1 failed")
    assert "dehaze: in/b.png: is transparent in places, and JPEG has no" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "gif"], "'gif' is not one of bmp, jfif, jpe, jpeg, jpg, png, tif, tiff"),
        (["--quality", "0"], "0 is not in the range 1<=x<=100"),
        (["--suffix", "../a"], "'../a' cannot stand in a file's name on every system."),
        (["--suffix", ""], "'' cannot stand in"),
    ],
)
def test_impossible_output_options_are_refused(
    invoke: Invoke, arguments: list[str], message: str
) -> None:
    photo_at("in/a.jpg")
    done = invoke("in", *arguments)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())
    assert not Path("dehazed").exists()


def test_ctrl_c_ends_with_a_summary_and_a_second_run_continues(
    invoke: Invoke, pipeline: FakePipeline
) -> None:
    for name in ("a", "b", "c"):
        photo_at(f"in/{name}.png")
    pipeline.interrupt_at = 1
    result = invoke("in")
    assert result.exit_code == 130
    assert result.stdout.startswith("1 done; ")
    assert result.stdout.endswith("interrupted with 2 to go, run it again to continue\n")
    assert sorted(path.name for path in Path("dehazed").iterdir()) == [
        JOURNAL_NAME,
        LOCK_NAME,
        "a.png",
    ]
    pipeline.interrupt_at = None
    assert invoke("in").stdout.startswith("2 done, 1 kept")


def test_results_of_an_earlier_run_are_not_taken_for_photos(invoke: Invoke) -> None:
    photo_at("in/a.png")
    invoke("in", "-o", "in/first")
    result = invoke("in", "-o", "in/second")
    assert (
        result.stderr == "dehaze: in/first: holds results of an earlier run and is not searched\n"
    )
    assert result.stdout.startswith("1 done; ")


@pytest.mark.skipif(not BUNDLED_FOLDER.is_dir(), reason="the bundled model is not built yet")
def test_a_named_folder_with_results_is_done_and_said(invoke: Invoke) -> None:
    photo_at("in/a.png")
    assert invoke("in/a.png", "-o", "in", "--suffix", "_clear").exit_code == 0
    done = invoke("in", "-o", "out")
    assert "in: holds results of an earlier run, which are done as well" in done.stderr
    assert sorted(path.name for path in Path("out").glob("*.png")) == ["a.png", "a_clear.png"]


def test_a_name_that_stdout_cannot_show_is_escaped(tmp_path: Path) -> None:
    photo_at(tmp_path / "a.png")
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "cli.py",
            "run",
            tmp_path / "a.png",
            "-o",
            tmp_path / "日本",
            "--method",
            "dcp",
        ],
        env=os.environ | {"PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"1 done" in done.stdout
    assert b"\\u65e5\\u672c" in done.stdout


def test_a_pipe_among_the_photos_fails_alone(invoke: Invoke) -> None:
    photo_at("in/b.png")
    os.mkfifo("in/a.jpg")
    done = invoke("in", "-o", "out")
    assert done.exit_code == 1
    assert "in/a.jpg: is not a file" in done.stderr
    assert Path("out/b.png").is_file()


def test_the_main_job_from_a_checkout(tmp_path: Path) -> None:
    """`python cli.py run` on photos of every odd kind, with the real model, in a new process."""
    random = np.random.default_rng(2)
    scene = random.random((40, 61, 3)).astype(np.float32)
    depth = np.linspace(0.3, 0.9, 40, dtype=np.float32)[:, None, None]
    hazy = np.rint((scene * depth + 0.85 * (1 - depth)) * 255).astype(np.uint8)
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    image = Image.fromarray(hazy)
    image.save(folder / "a.jpg")
    image.convert("L").save(folder / "grey.png")
    image.convert("RGBA").save(folder / "sub/alpha.png")
    image.resize((33, 70)).save(folder / "sub/tall.webp")
    (folder / "torn.jpg").write_bytes((folder / "a.jpg").read_bytes()[:900])

    done = subprocess.run(
        [sys.executable, ROOT / "cli.py", "run", "in", "-o", "out", "--save", "attention,trace"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    # A slow machine says how far it is.
    said = [line for line in done.stderr.splitlines() if not line.endswith(" left")]
    assert len(said) == 1
    assert said[0].startswith("dehaze: in/torn.jpg: is cut short; ")
    assert done.stdout.startswith("4 done, 1 failed; ")
    for name, mode, size in (
        ("a.jpg", "RGB", (61, 40)),
        ("grey.png", "L", (61, 40)),
        ("sub/alpha.png", "RGBA", (61, 40)),
        ("sub/tall.webp", "RGB", (33, 70)),
    ):
        with Image.open(tmp_path / "out" / name) as image:
            assert (image.mode, image.size) == (mode, size)
        assert (tmp_path / "out" / f"{name}.attention.png").is_file()
        assert json.loads((tmp_path / "out" / f"{name}.trace.json").read_text())
    # Haze lifts the dark tones: without it the photo is darker.
    assert read_photo(tmp_path / "out/a.jpg").pixels.mean() < hazy.mean() / 255


def test_a_prior_does_the_same_job_without_the_model(
    invoke: Invoke, pipeline: FakePipeline, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).uniform(0.4, 0.9, (30, 40, 3)).astype(np.float32)
    (tmp_path / "in").mkdir()
    write_photo(tmp_path / "in" / "a.png", pixels)
    done = invoke("in", "-o", "out", "--method", "dcp")
    assert done.exit_code == 0, done.output
    assert pipeline.settings == []
    stored = read_photo(tmp_path / "in" / "a.png").pixels
    expected = np.round(PRIORS.get("dcp").run(stored) * 255) / 255
    result = read_photo(tmp_path / "out" / "a.png").pixels
    np.testing.assert_allclose(result, expected, atol=1.01 / 255)
    assert np.abs(result - stored).max() > 0.05


def test_a_prior_has_nothing_else_to_save(invoke: Invoke, tmp_path: Path) -> None:
    write_photo(tmp_path / "a.png", np.full((8, 8, 3), 0.5, np.float32))
    done = invoke("a.png", "--method", "dcp", "--save", "attention")
    assert done.exit_code == 2
    assert "--method diffusion" in done.output
    done = invoke("a.png", "--method", "magic")
    assert done.exit_code == 2
    assert "diffusion, dcp" in done.output


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_dry_run_shows_the_plan_and_does_nothing(invoke: Invoke, pipeline: FakePipeline) -> None:
    photo_at("in/a.jpg")
    photo_at("in/sub/b\n.png")
    photo_at("in/dehazed/b.png")
    Path("in/c.heic").write_bytes(bytes(1000))
    Path("in/notes.txt").touch()
    result = invoke("in", "-o", "in/dehazed", "--dry-run")
    assert result.exit_code == 0
    megabytes = sum(Path("in", name).stat().st_size for name in ("a.jpg", "sub/b\n.png", "c.heic"))
    assert result.stdout.splitlines() == [
        "in/a.jpg -> in/dehazed/a.jpg",
        "in/c.heic -> in/dehazed/c.heic",
        "'in/sub/b\\n.png' -> 'in/dehazed/sub/b\\n.png'",
        f"3 photos of {megabytes / 1e6:.1f} MB; 1 of a kind that cannot be read; 1 file passed "
        "over as no photo or hidden; the output lies inside an input and is not searched; nothing "
        "was done",
    ]
    assert pipeline.settings == []
    assert [path.name for path in Path("in/dehazed").iterdir()] == ["b.png"]

    planned = lines_of(invoke("in", "-o", "out", "--dry-run", "--json").stdout)
    assert [line["event"] for line in planned] == ["planned"] * 4 + ["plan"]
    assert planned[0] == {"event": "planned", "source": "in/a.jpg", "output": "out/a.jpg"}
    assert (planned[-1]["photos"], planned[-1]["existing"]) == (4, 0)
    assert not Path("out").exists()


def test_results_that_the_disk_has_no_room_for_are_not_begun(
    invoke: Invoke, pipeline: FakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo_at("in/a.png", shape=(200, 300))
    size = Path("in/a.png").stat().st_size
    usage = type("Usage", (), {"free": size - 1})
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    result = invoke("in")
    assert result.exit_code == 2
    assert "make room, name another folder with -o" in result.stderr
    assert not Path("dehazed").exists()
    usage.free = size  # type: ignore[attr-defined]
    assert invoke("in").exit_code == 0


@pytest.mark.parametrize(("name", "suffix", "times"), [("a.jpg", "png", 2), ("a.png", "jpg", 0.5)])
def test_the_room_is_that_of_the_format_of_the_results(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, name: str, suffix: str, times: float
) -> None:
    photo_at(f"in/{name}", shape=(200, 300))
    free = int(Path("in", name).stat().st_size * times)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: type("Usage", (), {"free": free}))
    same, other = invoke("in"), invoke("in", "-o", "out", "--format", suffix)
    assert [same.exit_code, other.exit_code] == ([0, 2] if times > 1 else [2, 0])
    refused = other if times > 1 else same
    assert "make room, name another folder with -o" in refused.stderr


def test_json_has_everything_that_text_has(invoke: Invoke) -> None:
    photo_at("in/a.png")
    Image.new("CMYK", (4, 4)).save("in/b.jpg")
    Path("in/c.jpg").write_bytes(b"")
    result = invoke("in", "--json")
    assert result.exit_code == 1
    *photos, summary = lines_of(result.stdout)
    a, b, c = sorted(photos, key=lambda line: line["source"])
    assert {line["event"] for line in photos} == {"photo"}
    assert (a["status"], a["output"], a["network_evaluations"], a["residual"]) == (
        "done", "dehazed/a.png", 80, 0.01,
    )  # fmt: skip
    assert b["notes"] == ["converted from CMYK to sRGB"]
    assert (c["status"], c["output"]) == ("failed", None)
    assert c["error"] == {
        "cause": "is empty (0 bytes)",
        "cure": "copy it again from where it came",
    }
    assert summary | {"seconds": 0} == {
        "event": "summary", "output": "dehazed", "done": 2, "kept": 0, "failed": 1, "remarks": {},
        "passed_over": 0, "left": 0, "seconds": 0, "interrupted": False,
    }  # fmt: skip


def _between_looks(
    monkeypatch: pytest.MonkeyPatch, steps: Sequence[Callable[[], object]]
) -> list[float]:
    """Calls a step at each wait of a watch, and interrupts it after the last; returns the waits."""
    left = list(steps)
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if not left:
            raise KeyboardInterrupt
        left.pop(0)()

    monkeypatch.setattr("time.sleep", sleep)
    return waits


def test_a_watch_does_what_comes_until_it_is_interrupted(
    invoke: Invoke, pipeline: FakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo_at("in/a.png")
    steps = [lambda: photo_at("in/b.png"), lambda: None, lambda: photo_at("in/c.png", 0.2)]
    waits = _between_looks(monkeypatch, steps)
    result = invoke("in", "--watch", "2.5")
    # c.png came at the last look, so it may still be incomplete.
    assert result.exit_code == 0, result.output
    assert waits == [2.5] * 4
    assert [line.split(";")[0] for line in result.stdout.splitlines()] == ["1 done", "1 done"]
    assert Path("dehazed/b.png").is_file()
    assert not Path("dehazed/c.png").exists()
    assert invoke("in", "--watch").stdout.startswith("1 done, 2 kept")
    assert waits[-1] == 5


def test_a_photo_done_again_under_a_watch_counts_once(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It failed first and was done later; its last result counts."""
    Path("in").mkdir()
    Path("in/a.png").write_bytes(b"not whole yet")
    _between_looks(monkeypatch, [lambda: photo_at("in/a.png"), lambda: None])
    result = invoke("in", "--watch", "--report")
    assert result.exit_code == 0, result.output
    page = Path("dehazed/report.html").read_text()
    assert page.count("1 done") == 1
    assert "is not a photo" not in page


def test_a_watch_over_an_empty_folder_waits(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sleep(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", sleep)
    Path("in").mkdir()
    assert invoke("in", "--watch").exit_code == 0
    assert invoke("in").exit_code == 2


def test_names_with_leading_dashes_follow_two_dashes(invoke: Invoke) -> None:
    photo_at("-o.png", 0.8)
    assert invoke("-o", "out", "--", "-o.png").exit_code == 0
    assert shade("out/-o.png") == pytest.approx(0.6, abs=0.003)


def test_quality_follows_the_content_and_not_the_suffix(invoke: Invoke) -> None:
    Image.new("RGB", (6, 5)).save("a.png", "JPEG")
    assert invoke("a.png", "--quality", "80").exit_code == 0
    Image.new("RGB", (6, 5)).save("b.jpg", "PNG")
    refused = invoke("b.jpg", "--quality", "80")
    assert refused.exit_code == 2
    assert "--quality has an effect only" in refused.stderr


def test_the_address_of_a_cluster_needs_ray(invoke: Invoke) -> None:
    photo_at("a.png")
    result = invoke("a.png", "--ray-address=10.0.0.1:6379")
    assert result.exit_code == 2
    assert "has an effect only with --executor ray" in result.stderr


def test_a_model_that_takes_all_cores_has_one_worker(invoke: Invoke) -> None:
    photo_at("a.png")
    result = invoke("a.png", "--workers=2")
    assert result.exit_code == 2
    assert "--workers has an effect only with the bundled model on the CPU" in result.stderr
    assert invoke("a.png", "--workers=1").exit_code == 0


def test_results_do_not_depend_on_the_number_of_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bundled model is used, and every file beside a photo is compared."""
    random = np.random.default_rng(0)
    for index in range(4):
        pixels = random.uniform(0.4, 0.9, (30 + 8 * index, 60, 3)).astype(np.float32)
        write_photo(tmp_path / f"{index}.png", pixels)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(local, "PHOTOS_A_PROCESS", 4)
    process = DiffusionWorker.process

    def waiting(worker: DiffusionWorker, items: Sequence[Item]) -> None:
        # This process does the first photo and has read the second; the other process does the
        # last.
        while items[0].folder.name == "out2" and not Path("out2/3.png").exists():
            time.sleep(0.01)
        process(worker, items)

    monkeypatch.setattr(DiffusionWorker, "process", waiting)
    contents = []
    for workers in (1, 2):
        options = ["--save", ",".join(SIDE_FILES), "--workers", str(workers)]
        photos = [f"{index}.png" for index in range(4)]
        done = CliRunner().invoke(main, ["run", *photos, "-o", f"out{workers}", *options])
        assert done.exit_code == 0, done.output
        files = sorted(Path(f"out{workers}").glob("[!.]*"))
        contents.append({path.name: path.read_bytes() for path in files})
    assert len(contents[0]) == 4 * (1 + len(SIDE_FILES))
    assert contents[0] == contents[1]


def test_without_ray_its_executor_is_named_with_its_cure(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo_at("a.png")
    monkeypatch.setitem(sys.modules, "ray", None)
    result = invoke("a.png", "--method", "dcp", "--executor", "ray")
    assert result.exit_code == 2
    assert 'pip install "dehaze-diffusion[ray]"' in result.stderr
    assert result.stderr.count("\n") == 1


def test_other_weights_or_another_revision_are_other_settings(
    invoke: Invoke, pipeline: FakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo_at("a.png")
    prints = {"before": "1", "after": "2"}
    for when, expected in (("before", "1 done"), ("before", "0 done, 1 kept"), ("after", "1 done")):
        monkeypatch.setattr(ModelChoice, "fingerprint", lambda self, when=when: prints[when])
        assert invoke("a.png").stdout.startswith(expected)


@pytest.mark.parametrize("method", ["diffusion", "dcp"])
def test_results_of_other_code_are_done_again(
    invoke: Invoke, pipeline: FakePipeline, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    photo_at("a.png")
    for code, expected in (("1", "1 done"), ("1", "0 done, 1 kept"), ("2", "1 done")):
        monkeypatch.setattr("dehaze.commands.task.digest_of_code", lambda code=code: code)
        assert invoke("a.png", "--method", method).stdout.startswith(expected)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_ends_the_job_and_the_next_run_continues(
    tmp_path: Path, number: int, code: int
) -> None:
    """The command runs in a process of its own, which gets the signal."""
    for index in range(80):
        photo_at(tmp_path / f"in/{index:03d}.png", index / 80, shape=(40, 60))
    command = [sys.executable, str(ROOT / "cli.py"), "run", "in", "-o", "out", "--method", "dcp"]
    command += ["--workers", "2"]
    job = subprocess.Popen(
        [*command, "--json"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # The job waits until its lines are read, so it cannot end before the signal.
        pipesize=4096,
        # A shell starts background jobs, these tests too, with SIGINT ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert job.stdout is not None
    first = job.stdout.readline()
    job.send_signal(number)
    rest, stderr = job.communicate(timeout=60)
    assert (job.returncode, stderr) == (code, b"")
    *photos, summary = lines_of((first + rest).decode())
    assert summary["interrupted"]
    assert 0 < summary["done"] < 80
    assert summary["left"] == 80 - summary["done"]
    # The signal may come after a photo is written and before it is reported.
    assert abs(len(photos) - summary["done"]) <= 1
    assert list((tmp_path / "out").glob("*.part")) == []
    written = list((tmp_path / "out").glob("*.png"))
    assert abs(len(written) - summary["done"]) <= 1
    for path in written:
        read_photo(path)
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    done, kept = map(int, re.findall(r"(\d+) (?:done|kept)", again.stdout))
    assert done + kept == 80
    assert abs(kept - summary["done"]) <= 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_is_heard_between_network_evaluations(
    tmp_path: Path, random_model: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    from diffusers import UNet2DConditionModel

    forward = UNet2DConditionModel.forward
    evaluations = 0

    def signalled(self: UNet2DConditionModel, *arguments: Any, **named: Any) -> Any:
        nonlocal evaluations
        evaluations += 1
        if evaluations == 2:
            os.kill(os.getpid(), number)
        return forward(self, *arguments, **named)

    monkeypatch.setattr(UNet2DConditionModel, "forward", signalled)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    photo = photo_at(tmp_path / "a.png")
    arguments = ["run", str(photo), "-o", str(tmp_path / "out"), "--model", str(random_model)]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == code, done.output
    # The main thread gets the signal while the network runs in another thread.
    assert 2 <= evaluations < 10
    assert done.stdout.startswith("0 done; ")
    assert "interrupted with 1 to go" in done.stdout


@pytest.mark.parametrize("verbosity", ["-q", None, "-v"])
def test_quiet_says_failures_alone_and_verbose_the_cost(
    invoke: Invoke, verbosity: str | None
) -> None:
    photo_at("in/a.png")
    Image.new("CMYK", (4, 4)).save("in/b.jpg")
    Path("in/c.jpg").write_bytes(b"")
    done = invoke("in", *filter(None, [verbosity]))
    assert done.exit_code == 1
    assert "in/c.jpg: is empty (0 bytes)" in done.stderr
    assert ("note: converted from CMYK" in done.stderr) == (verbosity != "-q")
    assert ("80 network evaluations, residual 1.0e-02" in done.stderr) == (verbosity == "-v")
    assert (done.stdout == "") == (verbosity == "-q")
    assert ("80 network evaluations a photo" in done.stdout) == (verbosity == "-v")


def test_remarks_are_printed_and_counted(invoke: Invoke, pipeline: FakePipeline) -> None:
    photo_at("in/a.png")
    pipeline.darkens = 0.5
    done = invoke("in")
    assert done.exit_code == 0
    assert done.stderr == "dehaze: in/a.png: note: much darker: 50 % of its brightness is left\n"
    assert done.stdout.startswith("1 done; look at 1 much darker; ")
    pipeline.darkens = 1.0
    photo, summary = lines_of(invoke("in", "--overwrite", "--json").stdout)
    assert photo["remarks"] == ["nearly unchanged"]
    assert (photo["change"], photo["brightness"]) == (0.0, 1.0)
    assert summary["remarks"] == {"nearly unchanged": 1}
    assert invoke("in").stdout == (
        "0 done, 1 kept from an earlier run; look at 1 nearly unchanged; in dehazed\n"
    )


@pytest.mark.parametrize("verbose", [False, True])
def test_a_fault_of_the_program_is_one_line_unless_verbose(
    invoke: Invoke, pipeline: FakePipeline, verbose: bool
) -> None:
    def broken(prompt: str | None, word: str | None) -> None:
        raise TypeError("of the program's own")

    pipeline.check_prompt = broken  # type: ignore[method-assign]
    photo_at("a.png")
    done = invoke("a.png", *(["-v"] if verbose else []))
    assert done.exit_code == 1
    if verbose:
        assert isinstance(done.exception, TypeError)
    else:
        assert done.stderr == (
            "dehaze: unexpected TypeError (of the program's own); run it again with -v and report "
            "what it prints: this is a fault of dehaze\n"
        )


def test_two_jobs_on_one_folder_the_second_is_refused(invoke: Invoke) -> None:
    photo_at("a.png")
    Path("dehazed").mkdir()
    with Journal(Path("dehazed")):
        result = invoke("a.png")
    assert result.exit_code == 2
    assert "dehazed: another dehaze run is writing to it" in result.stderr
    assert not Path("dehazed/a.png").exists()
    assert invoke("a.png").exit_code == 0


def test_a_journal_that_cannot_be_written_any_more_ends_the_job(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        photo_at(f"in/{name}.png")
    append = Journal._append

    def full(self: Journal, records: Any) -> None:
        records = list(records)
        if any(record["status"] == "done" for record in records):
            raise OSError(28, "No space left on device")
        append(self, records)

    monkeypatch.setattr(Journal, "_append", full)
    result = invoke("in")
    assert result.exit_code == 1
    assert "cannot be read or written (No space left on device)" in result.stderr
    assert "3 to go" in result.stdout


@pytest.mark.parametrize("command", ["run", "invert"])
def test_a_word_that_the_model_never_learned_is_refused(tmp_path: Path, command: str) -> None:
    photo, output = photo_at(tmp_path / "a.png"), tmp_path / "out"
    named = ["--prompt", "a photo with hase", "--word", "hase"]
    done = CliRunner().invoke(main, [command, str(photo), "-o", str(output), *named])
    assert done.exit_code == 2
    assert "never learned 'hase': did you mean haze" in done.stderr
    assert not output.exists()


def test_steps_that_no_schedule_has_are_refused_before_any_work(
    tmp_path: Path, random_model: Path
) -> None:
    photo, output = photo_at(tmp_path / "a.png"), tmp_path / "out"
    settings = ["--steps", "2000", "--model", str(random_model)]
    done = CliRunner().invoke(main, ["run", str(photo), "-o", str(output), *settings])
    assert done.exit_code == 2
    assert done.stderr == "dehaze: 2000 steps: there must be 1 to 1000\n"
    assert not output.exists()
