"""Remarks on a result that is nearly equal to its photo, or much darker."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from jobs import do, photo_at

from dehaze.batch import JOURNAL_NAME, plan
from dehaze.batch.effect import DARKER, UNCHANGED, measure
from dehaze.photos import FloatArray, Photo

RANDOM = np.random.default_rng(0).uniform(0.3, 0.7, (20, 30, 3)).astype(np.float32)


def test_the_change_is_the_mean_absolute_difference() -> None:
    other = np.random.default_rng(1).random((20, 30, 3), np.float32)
    expected = float(np.abs(RANDOM.astype(np.float64) - other).mean())
    assert measure(RANDOM, other).change == pytest.approx(expected, rel=1e-6)


def test_the_brightness_is_the_ratio_of_mean_luma() -> None:
    red, green = np.zeros((2, 4, 5, 3), np.float32)
    red[..., 0], green[..., 1] = 0.5, 0.5
    assert measure(red, green).brightness == pytest.approx(0.587 / 0.299)
    assert measure(RANDOM, RANDOM * np.float32(0.8)).brightness == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("moved", "strength", "remarks"),
    [
        (0.0, 1.0, (UNCHANGED,)),
        (0.0199, 1.0, (UNCHANGED,)),
        (0.0201, 1.0, ()),
        # The threshold shrinks with a strength below 1, and does not grow above 1.
        (0.0101, 0.5, ()),
        (0.0099, 0.5, (UNCHANGED,)),
        (0.0201, 2.0, ()),
        (0.0, 0.0, ()),
    ],
)
def test_a_mean_change_below_two_percent_is_remarked(
    moved: float, strength: float, remarks: tuple[str, ...]
) -> None:
    assert measure(RANDOM, RANDOM + np.float32(moved), strength).remarks == remarks


@pytest.mark.parametrize(("left", "remarks"), [(0.66, (DARKER,)), (0.67, ()), (1.2, ())])
def test_a_loss_of_a_third_of_the_brightness_is_remarked(
    left: float, remarks: tuple[str, ...]
) -> None:
    effect = measure(RANDOM, RANDOM * np.float32(left))
    assert effect.remarks == remarks
    assert (
        effect.sentences()
        == [f"much darker: {100 * left:.0f} % of its brightness is left"][: len(remarks)]
    )


def test_a_black_photo_is_no_darker() -> None:
    black = np.zeros((4, 5, 3), np.float32)
    effect = measure(black, black)
    assert effect.remarks == (UNCHANGED,)
    assert np.isnan(effect.brightness)


def test_remarks_are_in_the_journal_and_the_summary(tmp_path: Path) -> None:
    for name, shade in (("a", 0.2), ("b", 0.5), ("c", 0.8)):
        photo_at(tmp_path / f"in/{name}.png", shade)

    def process(photo: Photo) -> FloatArray:
        dim = photo.pixels.mean() < 0.3
        return photo.pixels * np.float32(0.5) if dim else photo.pixels + np.float32(0.001)

    job = plan([tmp_path / "in"], tmp_path / "out")
    for status in ("done", "kept"):
        summary = do(job, process)
        assert {item.status for item in summary.items} == {status}
        assert summary.remarks == {UNCHANGED: 2, DARKER: 1}
        by_name = {item.name.name: item.effect for item in summary.items}
        assert by_name["a.png"].remarks == (DARKER,)
        assert by_name["a.png"].brightness == pytest.approx(0.5)
    lines = (tmp_path / "out" / JOURNAL_NAME).read_text().splitlines()
    (record,) = (
        line
        for line in map(json.loads, lines)
        if (line["status"], line["output"]) == ("done", "b.png")
    )
    assert record["remarks"] == [UNCHANGED]
    assert record["change"] == pytest.approx(0.001, abs=1e-4)
