"""The benchmark's known answers, and its baseline."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dehaze.datasets.appearance import APPEARANCES, render_appearance
from dehaze.eval.appearance import scores as scoring
from dehaze.eval.appearance.methods import METHODS, EditMethod
from dehaze.eval.appearance.scores import (
    UNTOUCHED,
    rendering_generator,
    score_photo,
)
from dehaze.eval.metrics import psnr_rgb, ssim_wang
from dehaze.pipelines.edit import EditPipeline
from dehaze.pipelines.edit_settings import EditSettings

Array = NDArray[np.float32]


def test_every_method_is_scored_against_the_right_answer(
    pipe: EditPipeline, photo: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = [EditMethod("perfect", "remove"), EditMethod("other", "replace")]
    edited: list[str] = []

    def edit(
        pipeline: Any, given: Array, inversion: Any, word: str, target: str, *unused: Any
    ) -> tuple[Array, int]:
        edited.append(target)
        return photo, 7

    monkeypatch.setattr(scoring, "apply_method", edit)
    scores = score_photo(
        pipe, photo, "night", "sunset", methods, photo=3, seed=5, recovery="affine"
    )
    assert edited == ["a photo", APPEARANCES.get("sunset").prompt]
    rows = {(score.task, score.method): score for score in scores}
    assert list(rows) == [
        ("remove", UNTOUCHED), ("replace", UNTOUCHED), ("remove", "perfect"), ("replace", "other")
    ]  # fmt: skip
    assert rows["remove", "perfect"].psnr == np.inf
    assert rows["remove", "perfect"].ssim == pytest.approx(1.0)
    assert rows["remove", "perfect"].nfe == 7
    # Left alone, the night is what it is: dark against the photo, and its own background.
    alone = rows["remove", UNTOUCHED]
    generator = rendering_generator(5, 3, "night")
    night = render_appearance(photo, "night", generator).picture
    given, clear = (np.round(255.0 * picture).astype(float) for picture in (night, photo))
    assert alone.psnr == psnr_rgb(given, clear)
    assert alone.ssim == ssim_wang(given, clear)
    assert alone.background == 100.0
    change = np.abs(night - photo).mean(2)
    quarter = change <= np.quantile(change, 0.25)
    error = np.square(given[quarter] - clear[quarter]).mean()
    assert rows["remove", "perfect"].background == pytest.approx(10.0 * np.log10(255.0**2 / error))
    generator = rendering_generator(5, 3, "sunset")
    sunset = render_appearance(photo, "sunset", generator).picture
    truth = np.round(255.0 * sunset).astype(float)
    assert rows["replace", "other"].psnr == psnr_rgb(clear, truth)


@pytest.mark.slow
def test_every_method_edits(pipe: EditPipeline, photo: Array) -> None:
    methods = list(METHODS)
    scores = score_photo(pipe, photo, "snow", "rain", methods, photo=0, seed=0, recovery="affine")
    alone = {score.task: score.psnr for score in scores if score.method == UNTOUCHED}
    edited = [score for score in scores if score.method != UNTOUCHED]
    assert [score.method for score in edited] == METHODS.names()
    for score in edited:
        assert score.psnr != alone[score.task]
        method = METHODS.get(score.method)
        plain = method.swap is not None or method.settings == EditSettings(control="refine")
        assert score.nfe == 4 if plain else score.nfe >= 4
    # Without control nothing holds the result to the photo.
    by_method = {score.method: score.psnr for score in edited}
    assert by_method["swap"] != by_method["swap, no control"]
