"""``dehaze.eval.predictors``: the errors of the first guesses, by hand."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dehaze.eval import predictors
from dehaze.eval.predictors import GuessErrors, PredictorStudy, study_predictors
from dehaze.inversion import PREDICTORS, InversionResult
from dehaze.models.needs import ModelDescription
from dehaze.pipelines.dehaze import DehazePipeline

Array = NDArray[np.float32]
STEPS = 2
SOLVED = 1e-3


@dataclass
class Recorder:
    """A pipeline that keeps what it inverted."""

    pipeline: DehazePipeline
    made: list[InversionResult] = field(default_factory=list)

    @property
    def description(self) -> ModelDescription:
        return self.pipeline.description

    def invert(self, photo: Array, **options: Any) -> InversionResult:
        self.made.append(self.pipeline.invert(photo, **options))
        return self.made[-1]


@pytest.fixture(scope="module")
def recorder(loaded_pipeline: DehazePipeline) -> Recorder:
    return Recorder(loaded_pipeline)


@pytest.fixture(scope="module")
def study(recorder: Any, scene: Array) -> PredictorStudy:
    photos = [scene, scene[:, ::-1].copy()]
    with pytest.MonkeyPatch.context() as patch:
        # A random network takes long to more.
        patch.setattr(predictors, "SOLVED", SOLVED)
        return study_predictors(recorder, photos, steps=STEPS, command="dehaze evaluate it")


def test_the_errors_are_those_of_the_guesses_by_hand(
    study: PredictorStudy, recorder: Recorder
) -> None:
    errors, sizes, explicit = [], [], []
    assert len(recorder.made) == 2
    for solved in recorder.made:
        assert bool((solved.trace.remaining < SOLVED).all())
        path = solved.trajectory.double().numpy()
        errors.append(path[1] - path[2])
        sizes.append(path[2])
        # IFE: the clean picture that step 1 predicted is taken for that of step 2.
        (c1, s1), (c2, s2) = ((math.sqrt(a), math.sqrt(1 - a)) for a in solved.table.alphas[1:])
        clean = (path[1] - s1 * solved.noise[0].double().numpy()) / c1
        explicit.append(s2 / s1 * (path[1] - c1 * clean) + c2 * clean - path[2])
    error = np.stack(errors)
    one = study.of_predictor("previous")[1]
    assert (one.step, one.solved) == (2, 2)
    assert one.mean == pytest.approx(error.mean(), rel=1e-3)
    assert one.variance == pytest.approx(error.var(), rel=1e-3)
    expected = math.sqrt((error**2).mean() / (np.stack(sizes) ** 2).mean())
    assert one.relative == pytest.approx(expected, rel=1e-3)
    ife = study.of_predictor("ife")[1]
    assert ife.mean == pytest.approx(np.mean(explicit), rel=1e-3)
    assert ife.variance == pytest.approx(np.var(explicit), rel=1e-3)
    # Every entry of both photos' latents lies in a bin.
    assert sum(one.counts) == error.size
    assert one.edges[0] == pytest.approx(-one.edges[-1])
    middles = (np.array(one.edges[1:]) + np.array(one.edges[:-1])) / 2
    assert (middles * one.counts).sum() / error.size == pytest.approx(
        error.mean(), abs=one.edges[1] - one.edges[0]
    )


def test_every_predictor_has_a_row_a_step(study: PredictorStudy) -> None:
    names = PREDICTORS.names()
    assert [(one.step, one.predictor) for one in study.errors] == [
        (step, name) for step in range(1, STEPS + 1) for name in names
    ]
    first = study.errors[: len(names)]
    # At step 1 all guess z_0.
    assert len({one.variance for one in first}) == 1
    assert len({one.variance for one in study.errors}) > 2


def test_bias_is_the_squared_means_share() -> None:
    def at(step: int, mean: float, variance: float) -> GuessErrors:
        return GuessErrors("ife", step, 1.0, 1, mean, variance, 0.1, (1,), (-1.0, 1.0))

    made = PredictorStudy("", 1, (at(1, 9.0, 0.0), at(2, 1.0, 2.0), at(3, 2.0, 3.0)))
    assert made.bias("ife") == pytest.approx(5 / 10)
    assert math.isnan(PredictorStudy("", 1, (at(1, 9.0, 0.0),)).bias("ife"))


def test_unsolved_steps_are_left_out_and_counted(
    loaded_pipeline: DehazePipeline, photo: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictors, "SOLVED", 1e-30)
    monkeypatch.setattr(predictors, "_LONGEST", 2)
    unsolved = study_predictors(loaded_pipeline, [photo], steps=1, command="")
    assert {one.solved for one in unsolved.errors} == {0}
    assert all(math.isnan(one.mean) for one in unsolved.errors)


def test_four_files_say_the_same(study: PredictorStudy, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    written = study.write(tmp_path / "out")
    assert [path.name for path in written] == [
        f"predictors.{suffix}" for suffix in ("json", "csv", "md", "png")
    ]
    content = json.loads(written[0].read_text())
    with written[1].open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(content["errors"]) == len(lines) == len(study.errors)
    for row, line, one in zip(content["errors"], lines, study.errors, strict=True):
        assert row["variance"] == float(line["variance"]) == one.variance
        assert len(row["counts"]) == len(row["edges"]) - 1 == len(one.counts)
    text = written[2].read_text()
    columns = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(columns) == 1
    assert "`dehaze evaluate it`" in text
    assert np.asarray(Image.open(written[3]).convert("L")).std() > 5
