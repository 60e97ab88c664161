"""The runner: every image is counted, interrupted runs resume, different runs stay apart."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dehaze.datasets import open_dataset, open_folder
from dehaze.eval.methods import Method, MethodInput, MethodOutput, parse_method
from dehaze.eval.metrics import psnr_rgb
from dehaze.eval.perceptual import PerceptualMetric
from dehaze.eval.protocol import BenchProtocol
from dehaze.eval.records import Evaluation, Record, records_as_csv, statistic
from dehaze.eval.results import write_results
from dehaze.eval.runner import EvaluationError, EvaluationSet, Runner
from dehaze.eval.tables import markdown_table


class Made(Method):
    """A method from a function, which counts its calls."""

    def __init__(self, make: Callable[[MethodInput], Any], name: str = "made") -> None:
        super().__init__(name, "made for a test")
        self.make = make
        self.calls: list[str] = []
        self.version = 1

    def settings(self) -> dict[str, Any]:
        return {"version": self.version}

    def run(self, source: MethodInput) -> MethodOutput:
        self.calls.append(source.name)
        made = self.make(source)
        return made if isinstance(made, MethodOutput) else MethodOutput(image=made)


def unchanged(source: MethodInput) -> Any:
    return source.hazy.astype(np.float32) / np.float32(255)


def runner_over(root: Path, out: Path, *methods: Method, **choices: Any) -> Runner:
    dataset = open_dataset("sots-outdoor", root)
    return Runner(
        sets=(EvaluationSet(dataset, dataset.samples),),
        methods=methods or (parse_method("hazy"), parse_method("dcp")),
        protocol=choices.pop("protocol", BenchProtocol()),
        out=out,
        **choices,
    )


def finish(runner: Runner) -> Evaluation:
    evaluation = runner.run()
    write_results(runner, evaluation)
    return evaluation


def scores_without_time(out: Path) -> list[dict[str, str]]:
    rows = list(csv.DictReader(io.StringIO((out / "scores.csv").read_text())))
    for row in rows:
        del row["seconds"]
    return rows


# --- what is scored -----------------------------------------------------------------------------


def test_the_scores_are_those_of_the_saved_png(sots: Path, tmp_path: Path) -> None:
    runner = runner_over(sots, tmp_path / "out", Made(lambda source: unchanged(source) * 0.7))
    evaluation = finish(runner)
    for record in evaluation.records:
        saved = np.asarray(
            Image.open(tmp_path / f"out/images/sots-outdoor/made/{record.image}.png")
        )
        clear = np.asarray(Image.open(sots / f"SOTS/outdoor/gt/{record.image[:4]}.png"))
        assert saved.dtype == np.uint8
        assert record.values["psnr"] == psnr_rgb(saved, clear)
    (row,) = evaluation.rows
    values = [record.values["psnr"] for record in evaluation.records]
    assert row.statistics["psnr"].mean == pytest.approx(np.mean(values))  # type: ignore[arg-type]
    assert row.statistics["psnr"].deviation == pytest.approx(np.std(values))  # type: ignore[arg-type]


def test_every_record_is_reported_as_it_comes(sots: Path, tmp_path: Path) -> None:
    runner = runner_over(sots, tmp_path / "out")
    told: list[tuple[Record, bool]] = []
    for again in (False, True):
        evaluation = runner.run(on_record=lambda record, kept: told.append((record, kept)))
        assert told == [(record, again) for record in evaluation.records]
        assert len(told) == runner.total > 0
        told.clear()


def test_unrounded_output_is_scored_between_the_levels(sots: Path, tmp_path: Path) -> None:
    third = Made(lambda source: unchanged(source) * 0.7 + np.float32(1 / 765))
    rounded = runner_over(sots, tmp_path / "a", third).run()
    exact = runner_over(sots, tmp_path / "b", third, protocol=BenchProtocol(unrounded=True)).run()
    for first, second in zip(rounded.records, exact.records, strict=True):
        assert first.values["psnr"] != second.values["psnr"]
        assert first.values["psnr"] == pytest.approx(second.values["psnr"], abs=0.05)


def test_identical_pictures_are_counted_and_left_out_of_the_mean(
    sots: Path, tmp_path: Path
) -> None:
    def perfect_once(source: MethodInput) -> Any:
        assert source.clear is not None
        picture = source.clear if source.scene == "0002" else source.hazy
        return picture.astype(np.float32) / np.float32(255)

    runner = runner_over(sots, tmp_path / "out", Made(perfect_once))
    evaluation = finish(runner)
    (row,) = evaluation.rows
    assert row.identical == 1
    assert row.failed == 0
    assert row.statistics["psnr"].count == 3
    assert row.statistics["ssim"].count == 4
    assert math.isfinite(row.statistics["psnr"].mean or math.nan)
    assert "(1 infinite)" in (tmp_path / "out/table.md").read_text()
    assert [line["psnr"] for line in scores_without_time(tmp_path / "out")].count("inf") == 1


def test_statistic_of_nothing_is_undefined() -> None:
    assert statistic([None, None]).mean is None
    assert statistic([1.0, None, 3.0]) == type(statistic([]))(2.0, 1.0, 2)


def test_resized_runs_scale_everything_and_say_so(sots: Path, tmp_path: Path) -> None:
    results = tmp_path / "theirs"
    for path in (sots / "SOTS/outdoor/hazy").iterdir():
        (results / path.name).parent.mkdir(exist_ok=True)
        (results / path.name).write_bytes(path.read_bytes())
    protocol = BenchProtocol(resize=(48, 36))
    methods = (Made(unchanged), parse_method(f"folder:theirs={results}"))
    runner = runner_over(sots, tmp_path / "out", *methods, protocol=protocol)
    evaluation = finish(runner)
    assert {(record.width, record.height) for record in evaluation.records} == {(48, 36)}
    assert evaluation.rows[0].statistics["psnr"].mean == pytest.approx(
        evaluation.rows[1].statistics["psnr"].mean, abs=0.1
    )
    assert "NON-STANDARD: resized to 48x36" in (tmp_path / "out/table.md").read_text()


def test_an_oracle_picks_with_the_truth_and_is_labelled(sots: Path, tmp_path: Path) -> None:
    methods = (parse_method("hazy"), parse_method("dcp"))
    plain = runner_over(sots, tmp_path / "a", *methods).run()
    runner = runner_over(sots, tmp_path / "b", *methods, protocol=BenchProtocol(oracle=True))
    best = finish(runner)
    assert [row.is_oracle for row in best.rows] == [False, True]
    assert best.records[1].candidate in {f"t_min={t}" for t in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)}
    for first, second in zip(plain.records, best.records, strict=True):
        assert (second.values["psnr"] or 0) >= (first.values["psnr"] or 0)
    table = (tmp_path / "b/table.md").read_text()
    assert "dcp (ORACLE)" in table
    assert "hazy (ORACLE)" not in table


def test_ceilings_are_compared_with_their_own_reference(sots: Path, tmp_path: Path) -> None:
    small = np.full((12, 16, 3), 100 / 255, dtype=np.float32)

    def ceiling(source: MethodInput) -> MethodOutput:
        return MethodOutput(image=small, reference=small + np.float32(16 / 255))

    record = runner_over(sots, tmp_path / "out", Made(ceiling)).run().records[0]
    assert (record.width, record.height) == (16, 12)
    assert record.values["psnr"] == pytest.approx(20 * math.log10(255 / 16), abs=1e-6)


def test_haze_maps_are_scored_where_the_truth_is_known(tmp_path: Path) -> None:
    transmission = np.linspace(40, 220, 30 * 40).reshape(30, 40).astype(np.uint8)
    picture = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    for name, content in (
        ("hazy/1_1_0.8.png", picture),
        ("clear/1.png", picture[::-1]),
        ("trans/1_1.png", transmission),
    ):
        path = tmp_path / "ITS" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(content).save(path)

    def estimate(source: MethodInput) -> MethodOutput:
        truth = transmission.astype(np.float32) / np.float32(255)
        return MethodOutput(
            image=unchanged(source),
            attention=1 - truth**2,
            transmission=truth + np.float32(0.1),
            airlight=np.array([0.8, 0.7, 0.9], dtype=np.float32),
        )

    dataset = open_dataset("its", tmp_path)
    runner = Runner(
        (EvaluationSet(dataset, dataset.samples),),
        (Made(estimate),),
        BenchProtocol(),
        tmp_path / "out",
    )
    (record,) = runner.run().records
    assert record.values["attention_spearman"] == pytest.approx(1.0)
    assert record.values["transmission_mae"] == pytest.approx(0.1, abs=1e-6)
    assert record.values["transmission_bias"] == pytest.approx(0.1, abs=1e-6)
    assert record.values["airlight_mae"] == pytest.approx(0.2 / 3, abs=1e-6)
    assert record.values["airlight_angle"] == pytest.approx(
        math.degrees(math.acos(2.4 / math.sqrt(3 * 1.94))), abs=1e-4
    )


def test_photos_without_truth_get_no_reference_scores_only(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/1.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True)
        Image.new("RGB", (40, 30), "grey").save(tmp_path / "photos" / name)
    dataset = open_folder(tmp_path / "photos")
    brightness = PerceptualMetric("bright", False, False, lambda picture: picture.mean())
    runner = Runner(
        (EvaluationSet(dataset, dataset.samples),),
        (parse_method("hazy"), Made(unchanged)),
        BenchProtocol(perceptual=("bright",)),
        tmp_path / "out",
        perceptual=(brightness,),
    )
    evaluation = finish(runner)
    assert [set(record.values) for record in evaluation.records] == [{"bright"}] * 4
    assert evaluation.records[0].values["bright"] == pytest.approx(128 / 255, abs=1e-3)
    for name in ("a/1.png", "b/1.png"):
        assert (tmp_path / "out/images/photos/made" / name).is_file()
    assert (tmp_path / "out/sheet.png").is_file()


def test_perceptual_metrics_see_no_border_that_is_cropped(tmp_path: Path) -> None:
    for part, border in (("hazy", "white"), ("gt", "black")):
        picture = Image.new("RGB", (60, 50), border)
        picture.paste("grey", (8, 8, 52, 42))
        (tmp_path / "pairs" / part).mkdir(parents=True)
        picture.save(tmp_path / "pairs" / part / "1.png")
    dataset = open_folder(tmp_path / "pairs")
    apart = PerceptualMetric("apart", True, True, lambda one, other: (one - other).abs().max())
    runner = Runner(
        (EvaluationSet(dataset, dataset.samples),),
        (parse_method("hazy"),),
        BenchProtocol(perceptual=("apart",), crop_border=8),
        tmp_path / "out",
        perceptual=(apart,),
    )
    (record,) = runner.run().records
    assert record.values["apart"] == 0.0


# --- what fails ---------------------------------------------------------------------------------


def test_failures_are_counted_named_and_do_not_stop_the_rest(sots: Path, tmp_path: Path) -> None:
    folder = sots / "SOTS/outdoor"
    broken = folder / "gt/0000.png"
    broken.write_bytes(broken.read_bytes()[:300])
    Image.new("RGB", (90, 72)).save(folder / "gt/0001.png")
    (folder / "gt/0002.png").unlink()
    grey = Image.open(folder / "hazy/0003_0.8_0.2.png").convert("L")
    grey.save(folder / "hazy/0003_0.8_0.2.png")

    runner = runner_over(sots, tmp_path / "out")
    evaluation = finish(runner)
    hazy = evaluation.rows[0]
    assert (hazy.images, hazy.failed) == (3, 2)
    assert hazy.statistics["psnr"].count == 1
    # One line for the unpaired picture, one for each of two pictures under two methods.
    assert len(evaluation.failures) == 5
    text = "\n".join(evaluation.failures)
    for part in ("0002_0.8_0.2.png: no ground truth with id 0002", "0000.png", "90x72", "96x72"):
        assert part in text
    (scored,) = (record for record in evaluation.records[-2:-1])
    assert any("grey" in note for note in scored.notes)
    rows = scores_without_time(tmp_path / "out")
    assert [row["status"] for row in rows] == ["failed"] * 4 + ["scored"] * 2
    assert all(row["error"] for row in rows[:4])
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["failures"] == evaluation.failures
    assert results["subsets"]["sots-outdoor"]["oddities"] == {"hazy image without ground truth": 1}
    assert "| sots-outdoor | hazy | 3 | 2 |" in (tmp_path / "out/table.md").read_text()


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (lambda source: np.full(source.hazy.shape, np.nan, np.float32), "not finite"),
        (lambda source: np.zeros((5, 7, 3), np.float32), "7x5 where 96x72"),
        (lambda source: (_ for _ in ()).throw(MemoryError()), "MemoryError"),
        (lambda source: (_ for _ in ()).throw(RuntimeError("out of\nmemory")), "out of memory"),
    ],
)
def test_an_invalid_result_is_a_failure(
    sots: Path, tmp_path: Path, make: Callable[[MethodInput], Any], cause: str
) -> None:
    evaluation = finish(runner_over(sots, tmp_path / "out", parse_method("hazy"), Made(make)))
    assert [row.failed for row in evaluation.rows] == [0, 4]
    assert all(cause in failure for failure in evaluation.failures)
    assert evaluation.rows[1].statistics == {}


def test_a_programming_error_is_no_failed_image(sots: Path, tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        runner_over(sots, tmp_path / "out", Made(lambda source: len(3))).run()  # type: ignore[arg-type]


# --- interruption and resume --------------------------------------------------------------------


def test_interrupted_evaluation_ends_with_the_same_table(sots: Path, tmp_path: Path) -> None:
    whole = runner_over(sots, tmp_path / "whole", Made(unchanged), parse_method("dcp"))
    expected = finish(whole)

    def interrupt(source: MethodInput) -> Any:
        if len(made.calls) in (2, 4):
            raise KeyboardInterrupt
        return unchanged(source)

    made = Made(interrupt)
    parts = runner_over(sots, tmp_path / "parts", made, parse_method("dcp"))
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            parts.run()
    evaluation = finish(parts)
    # The two interrupted calls are repeated; nothing else is done twice.
    assert len(made.calls) == 4 + 2
    assert evaluation.rows == expected.rows
    for name in ("table.md", "table.tex", "sheet.png"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert scores_without_time(tmp_path / "parts") == scores_without_time(tmp_path / "whole")
    assert list((tmp_path / "parts").rglob("*.part")) == []


# ``evaluate``, which kills itself when it has written so many records; 0 for never.
KILLED = """
import os, signal, sys
from dehaze.commands.evaluate import evaluate
from dehaze.eval import runner

write, left = runner.write_bytes, int(sys.argv.pop(1))

def counted(path, data):
    global left
    write(path, data)
    left -= "records" in path.parts
    if left == 0 and "records" in path.parts:
        os.kill(os.getpid(), signal.SIGKILL)

runner.write_bytes = counted
evaluate()
"""


@pytest.mark.slow
def test_a_run_killed_twice_and_resumed_gives_the_same_table(sots: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(out: str, records: int = 0) -> int:
        arguments = ["reside", "--root", str(sots), "--subset", "sots-outdoor", "-o", out]
        return subprocess.run(
            [
                *(sys.executable, "-c", KILLED, str(records)),
                *(*arguments, "--method", "cap", "--method", "clahe"),
            ],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            check=False,
        ).returncode

    assert run("whole") == 0
    done = tmp_path / "killed/records"
    for kills in (1, 2):
        assert run("killed", records=5) == -signal.SIGKILL
        assert len(list(done.rglob("*.json"))) == 5 * kills
        assert not (tmp_path / "killed/table.md").exists()
    before = {path: path.stat().st_mtime_ns for path in done.rglob("*.json")}
    assert run("killed") == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    tables = [(tmp_path / out / "table.md").read_text() for out in ("whole", "killed")]
    assert tables[0].replace("-o whole", "-o killed") == tables[1]
    assert scores_without_time(tmp_path / "whole") == scores_without_time(tmp_path / "killed")


def test_failed_images_are_tried_again(sots: Path, tmp_path: Path) -> None:
    picture = sots / "SOTS/outdoor/gt/0000.png"
    content = picture.read_bytes()
    picture.write_bytes(content[:200])
    runner = runner_over(sots, tmp_path / "out")
    assert len(finish(runner).failures) == 2
    picture.write_bytes(content)
    assert finish(runner).failures == []


def test_a_result_that_fails_leaves_no_earlier_picture(sots: Path, tmp_path: Path) -> None:
    def fail(source: MethodInput) -> Any:
        raise ValueError("no result this time")

    finish(runner_over(sots, tmp_path / "out", Made(unchanged)))
    assert list((tmp_path / "out/images").rglob("*.png"))
    again = finish(runner_over(sots, tmp_path / "out", Made(fail), overwrite=True))
    assert again.rows[0].failed == len(again.records)
    assert not list((tmp_path / "out/images").rglob("*.png"))


DAMAGES = ("picture gone", "picture cut", "other picture", "record cut", "other record", "input")


@pytest.mark.parametrize("damage", DAMAGES)
def test_only_valid_records_are_kept(sots: Path, tmp_path: Path, damage: str) -> None:
    made = Made(unchanged)
    runner = runner_over(sots, tmp_path / "out", made)
    expected = finish(runner).rows
    picture = tmp_path / "out/images/sots-outdoor/made/0001_0.8_0.2.png"
    record = tmp_path / "out/records/sots-outdoor/made/0001_0.8_0.2.json"
    if damage == "picture gone":
        picture.unlink()
    elif damage == "picture cut":
        picture.write_bytes(picture.read_bytes()[:400])
    elif damage == "other picture":
        # A picture of another method has the same size.
        Image.open(picture).point(lambda level: level // 2).save(picture)
    elif damage == "record cut":
        record.write_bytes(record.read_bytes()[:100])
    elif damage == "other record":
        record.write_bytes(record.read_bytes().replace(b'"made"', b'"other"'))
    else:
        source = sots / "SOTS/outdoor/hazy/0001_0.8_0.2.png"
        Image.open(sots / "SOTS/outdoor/gt/0001.png").save(source)
    made.calls.clear()
    rows = finish(runner).rows
    assert made.calls == ["0001_0.8_0.2"]
    assert (rows == expected) == (damage != "input")
    Image.open(picture).verify()


@pytest.mark.parametrize("oracle", [False, True])
def test_results_that_another_program_made_anew_are_scored_anew(
    sots: Path, tmp_path: Path, oracle: bool
) -> None:
    results = tmp_path / "results"
    folder = results / "iteration-1" if oracle else results
    folder.mkdir(parents=True)
    hazy = sots / "SOTS/outdoor/hazy"
    for path in hazy.iterdir():
        shutil.copy(sots / f"SOTS/outdoor/gt/{path.stem[:4]}.png", folder / f"{path.stem}.png")

    def identical() -> int:
        theirs = parse_method(f"folder:theirs={results}")
        protocol = BenchProtocol(oracle=oracle)
        found = finish(runner_over(sots, tmp_path / "out", theirs, protocol=protocol))
        return found.rows[0].identical

    count = len(list(hazy.iterdir()))
    assert identical() == count
    (first, *_) = sorted(hazy.iterdir())
    Image.open(first).save(folder / f"{first.stem}.png")
    assert identical() == count - 1


def test_other_settings_are_refused_unless_they_replace(
    sots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    made = Made(unchanged)
    first = finish(runner_over(sots, out, made))
    other = runner_over(sots, out, made, protocol=BenchProtocol(ssim="ffa"))
    with pytest.raises(EvaluationError, match=r'protocol.ssim: "wang" there, "ffa" now'):
        other.run()
    with pytest.raises(EvaluationError, match="seed: 0 there, 5 now"):
        runner_over(sots, out, made, seed=5).run()
    made.version = 2
    with pytest.raises(EvaluationError, match=r"made\.version: 1 there, 2 now"):
        runner_over(sots, out, made).run()
    made.version = 1
    with monkeypatch.context() as patched:
        patched.setattr("dehaze.eval.runner.digest_of_evaluation", lambda: "of a later commit")
        with pytest.raises(EvaluationError, match=r'code: "[0-9a-f]{12}" there, "of a later'):
            runner_over(sots, out, made).run()
    # Refused runs change nothing.
    made.calls.clear()
    assert runner_over(sots, out, made).run().rows == first.rows
    assert made.calls == []
    replaced = finish(
        runner_over(sots, out, made, protocol=BenchProtocol(ssim="ffa"), overwrite=True)
    )
    assert len(made.calls) == 4
    assert replaced.rows[0].statistics["ssim"] != first.rows[0].statistics["ssim"]
    # This holds under equal settings too, since the code of the scores may have changed.
    finish(runner_over(sots, out, made, protocol=BenchProtocol(ssim="ffa"), overwrite=True))
    assert len(made.calls) == 8


@pytest.mark.parametrize(
    "name",
    [
        "table.md",
        "table.tex",
        "scores.csv",
        "results.json",
        "sheet.png",
        "report.html",
        "records/sots-outdoor/made/0000_0.8_0.2.json",
        "images/sots-outdoor/made/0000_0.8_0.2.png",
        "attention/sots-outdoor/made/0000_0.8_0.2.npy",
    ],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_files_of_the_user_is_refused(
    sots: Path, tmp_path: Path, name: str, overwrite: bool
) -> None:
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"the user's own")
    made = Made(unchanged)
    chosen: dict[str, Any] = {"further_files": ("report.html",), "keeps_attention": True}
    runner = runner_over(sots, tmp_path / "out", made, overwrite=overwrite, **chosen)
    with pytest.raises(
        EvaluationError,
        match="exists and was not made by an evaluation; name another folder with --output",
    ):
        runner.run()
    assert made.calls == []
    assert [file for file in (tmp_path / "out").rglob("*") if file.is_file()] == [path]
    assert path.read_bytes() == b"the user's own"


def test_other_files_of_the_user_do_not_stop_a_run(sots: Path, tmp_path: Path) -> None:
    for name in ("notes.txt", "images/sots-outdoor/hazy/mine.png"):
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_bytes(b"the user's own")
    # The hazy input saves no picture, so that its folder is nobody's but the user's.
    for _ in range(2):
        assert not finish(runner_over(sots, tmp_path / "out")).failures
    assert (tmp_path / "out/images/sots-outdoor/hazy/mine.png").read_bytes() == b"the user's own"


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b'{"theme": "dark"}', "was not made by an evaluation"),
        (b'{"common": {}}', "was not made by an evaluation"),
        (b'{"common": {}, "methods": []}', "was not made by an evaluation"),
        (b'["common", "methods"]', "was not made by an evaluation"),
        (b"{torn", "cannot be read as settings"),
        (b"\xff\xfe", "cannot be read as settings"),
        (None, "cannot be read as settings .Is a directory"),
    ],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_settings_of_another_program_are_refused(
    sots: Path, tmp_path: Path, content: bytes | None, cause: str, overwrite: bool
) -> None:
    path = tmp_path / "out/settings.json"
    path.parent.mkdir()
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    runner = runner_over(sots, tmp_path / "out", overwrite=overwrite)
    with pytest.raises(
        EvaluationError, match=f"settings.json: {cause}.*; name another folder with --output"
    ):
        runner.run()
    assert list((tmp_path / "out").iterdir()) == [path]
    assert content is None or path.read_bytes() == content


def test_methods_can_be_added_to_a_run(sots: Path, tmp_path: Path) -> None:
    made = Made(unchanged)
    finish(runner_over(sots, tmp_path / "out", made))
    evaluation = finish(runner_over(sots, tmp_path / "out", parse_method("clahe"), made))
    assert len(made.calls) == 4
    assert [row.method for row in evaluation.rows] == ["clahe", "made"]
    # The settings of a method that is not run this time are remembered, too.
    made.version = 2
    finish(runner_over(sots, tmp_path / "out", parse_method("clahe")))
    with pytest.raises(EvaluationError, match=r"made\.version: 1 there, 2 now"):
        runner_over(sots, tmp_path / "out", made).run()


def test_random_choices_follow_from_names_not_from_order(sots: Path, tmp_path: Path) -> None:
    seeds: dict[str, list[int]] = {}

    def remember(source: MethodInput) -> Any:
        seeds.setdefault(source.name, []).append(source.seed)
        return unchanged(source)

    runner_over(sots, tmp_path / "a", Made(remember)).run()
    (sots / "SOTS/outdoor/hazy/0000_0.8_0.2.png").unlink()
    runner_over(sots, tmp_path / "b", Made(remember)).run()
    runner_over(sots, tmp_path / "c", Made(remember), seed=1).run()
    assert all(first == second for first, second, _ in list(seeds.values())[1:])
    assert all(first != third for first, _, third in list(seeds.values())[1:])
    assert len({values[0] for values in seeds.values()}) == 4


def test_ambiguous_rows_and_oracles_are_refused(sots: Path, tmp_path: Path) -> None:
    twins = (Made(unchanged, "a:b"), Made(unchanged, "a/b"))
    with pytest.raises(EvaluationError, match="share the name a_b"):
        runner_over(sots, tmp_path / "out", *twins).run()
    photos = open_folder(sots / "SOTS/outdoor/hazy")
    runner = Runner(
        (EvaluationSet(photos, photos.samples),),
        (parse_method("hazy"),),
        BenchProtocol(oracle=True),
        tmp_path / "out",
    )
    with pytest.raises(EvaluationError, match="needs ground truth"):
        runner.run()
    assert not (tmp_path / "out").exists()


def test_an_oracle_refuses_a_strength_that_it_would_ignore(sots: Path, tmp_path: Path) -> None:
    chosen = parse_method("ours:strength=0.5")
    runner = runner_over(sots, tmp_path / "out", chosen, protocol=BenchProtocol(oracle=True))
    with pytest.raises(EvaluationError, match=r"ours:strength=0\.5: strength=0\.5 has no"):
        runner.run()
    assert not (tmp_path / "out").exists()


# --- the files of a run -------------------------------------------------------------------------


def test_the_result_files_say_how_to_repeat_them(sots: Path, tmp_path: Path) -> None:
    runner = runner_over(sots, tmp_path / "out", command="dehaze evaluate reside --x", seed=7)
    evaluation = finish(runner)
    table = (tmp_path / "out/table.md").read_text()
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert table == markdown_table(runner, evaluation)
    for part in ("dehaze-bench v1", "dehaze evaluate reside --x", "Seed 7", "libjpeg", "numpy"):
        assert part in table
    assert results["command"] == "dehaze evaluate reside --x"
    assert results["seed"] == 7
    assert results["protocol"]["name"] == "dehaze-bench v1"
    assert "libjpeg" in results["versions"]
    assert len(results["images"]) == 8
    assert records_as_csv(evaluation.records).count("\n") == 9


def test_published_rows_name_their_source_and_protocol(sots: Path, tmp_path: Path) -> None:
    runner = runner_over(sots, tmp_path / "out")
    table = markdown_table(runner, runner.run())
    published = [line for line in table.splitlines() if "https://" in line]
    assert published
    assert all("sots-outdoor" in line for line in published)
    assert any(
        "| FFA-Net | 33.57 | 0.984 | supervised | psnr rgb, ssim ffa" in line for line in published
    )


def test_the_sheet_shows_best_median_and_worst(sots: Path, tmp_path: Path) -> None:
    def fade(source: MethodInput) -> Any:
        assert source.clear is not None
        error = {"0000": 30, "0001": 5, "0002": 60, "0003": 20}[source.scene]
        return np.clip(source.clear.astype(np.float32) + error, 0, 255) / np.float32(255)

    runner = runner_over(sots, tmp_path / "out", parse_method("hazy"), Made(fade))
    finish(runner)
    sheet = Image.open(tmp_path / "out/sheet.png")
    # Three lines of title, hazy, method and truth; the ceilings would have no column.
    assert sheet.size == (4 * 280, 3 * 238)
    pixels = np.asarray(sheet.convert("L"), dtype=np.float64)
    brightening = []
    for line in range(3):
        rows = slice(line * 238 + 60, line * 238 + 150)
        made, truth = (pixels[rows, c * 280 + 60 : c * 280 + 220].mean() for c in (2, 3))
        brightening.append(made - truth)
    assert brightening == sorted(brightening)
    assert brightening[0] < 8
    assert brightening[2] > 30
