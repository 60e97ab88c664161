"""``dehaze.eval.convergence``: the comparison, and its results for the bundled model."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from dehaze.datasets import read_rgb
from dehaze.eval import convergence
from dehaze.eval.convergence import (
    CERTIFIED,
    StepStudy,
    draw_order,
    study_steps,
    study_table,
)
from dehaze.eval.probes import solve_steps
from dehaze.pipelines.dehaze import DehazePipeline
from dehaze.pipelines.pictures import as_pixels

Array = NDArray[np.float32]

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module")
def study(bundled: DehazePipeline) -> StepStudy:
    """The default number of steps on one example."""
    photo = read_rgb(EXAMPLES / "kodim19_haze.jpg")
    return study_steps(
        bundled, [as_pixels(photo.pixels)], steps=bundled.description.inversion.steps
    )


@pytest.fixture
def small() -> StepStudy:
    """An invented study of one photo in two steps."""
    residuals = np.full((1, 2, 10), 0.5)
    shares = dict.fromkeys(CERTIFIED, 0.9)
    counts = np.full((1, 2), 7)
    return StepStudy(2, 1, 1.0, shares, shares, 1.0, counts, counts, residuals, residuals)


def test_a_table_without_a_settled_step_says_so(small: StepStudy) -> None:
    nothing = dict.fromkeys(CERTIFIED, np.nan)
    none = replace(small, settled=0.0, certified=nothing, tightness=nothing)
    assert "| 2 | 0 % | none settled | none settled | none settled | 100 %" in none.markdown()
    assert "90.0 % (0.9)" in small.markdown()


@pytest.mark.slow
def test_the_bound_holds_for_nineteen_default_steps_in_twenty(study: StepStudy) -> None:
    # One of the four steps may not converge in forty iterations, and is then left out.
    assert study.settled >= 0.75
    for name in CERTIFIED:
        assert study.certified[name] >= 0.95


@pytest.mark.slow
def test_anderson_costs_no_more_on_the_bundled_model(
    study: StepStudy,
) -> None:
    assert study.anderson_held == 1.0
    assert study.anderson.sum() < study.picard.sum()


@pytest.mark.slow
def test_the_residuals_of_both_paths_fall(study: StepStudy) -> None:
    later = (slice(None), slice(1, None))
    for values in (study.intra, study.inter):
        assert np.median(values[later][..., -1] / values[later][..., 0]) < 0.15
    # Two starts are farther apart than one iterate is from the next.
    assert np.median(study.inter / study.intra) > 1.0
    assert sum(study.order) == pytest.approx(1.0)


def test_the_order_counts_when_a_residual_stays_below(
    small: StepStudy,
) -> None:
    intra = np.array([[[0.5, 0.001, 0.5, 0.001], [0.5, 0.001, 0.001, 0.001], [1e-3] * 4]])
    inter = np.array([[[0.5, 0.5, 0.001, 0.001], [0.5, 0.5, 0.001, 0.001], [1e-3] * 4]])
    made = replace(small, intra=intra, inter=inter)
    assert made.order == pytest.approx((1 / 3, 1 / 3, 1 / 3))


@pytest.mark.slow
def test_a_bound_below_the_error_is_counted_as_such(
    pipeline: DehazePipeline, photo: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Smaller bounds hold for a smaller share of steps."""

    def lowered(*arguments: object) -> object:
        solutions, trace = solve_steps(*arguments)  # type: ignore[arg-type]
        return solutions, replace(trace, bounds=1e-9 * torch.nan_to_num(trace.bounds, posinf=1.0))

    honest = study_steps(pipeline, [photo], steps=3)
    monkeypatch.setattr(convergence, "solve_steps", lowered)
    broken = study_steps(pipeline, [photo], steps=3)
    for name in CERTIFIED:
        assert honest.certified[name] > 0.9
        assert broken.certified[name] == 0.0


def test_table_and_plot_show_every_number_of_steps(small: StepStudy) -> None:
    pytest.importorskip("matplotlib")
    text = study_table([small, replace(small, steps=11)], "dehaze evaluate convergence photos")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1
    assert [row.split("|")[1].strip() for row in rows[2:]] == [str(small.steps), "11"]
    assert "`dehaze evaluate convergence photos`" in text
    assert np.asarray(Image.open(io.BytesIO(draw_order([small]))).convert("L")).std() > 5
