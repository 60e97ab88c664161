"""The appearance benchmark: its answers, its baseline, its tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dehaze.datasets.appearance import APPEARANCES
from dehaze.eval import appearance
from dehaze.eval.appearance import (
    METHODS,
    UNTOUCHED,
    AppearanceError,
    AppearanceScore,
    AppearanceTable,
    EditMethod,
    evaluate_appearance,
    get_methods,
    score_photo,
)
from dehaze.eval.metrics import psnr_rgb, ssim_wang
from dehaze.pipelines.edit import EditPipeline, EditSettings
from dehaze.registry import UnknownNameError

Array = NDArray[np.float32]


@pytest.fixture(scope="module")
def pipe(random_model: Path) -> EditPipeline:
    loaded = EditPipeline.from_pretrained(random_model)
    loaded.set_progress_bar_config(disable=True)
    return loaded


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

    monkeypatch.setattr(appearance, "apply_method", edit)
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
    generator = appearance.rendering_generator(5, 3, "night")
    night = appearance.render_appearance(photo, "night", generator).picture
    given, clear = (np.round(255.0 * picture).astype(float) for picture in (night, photo))
    assert alone.psnr == psnr_rgb(given, clear)
    assert alone.ssim == ssim_wang(given, clear)
    assert alone.background == 100.0
    change = np.abs(night - photo).mean(2)
    quarter = change <= np.quantile(change, 0.25)
    error = np.square(given[quarter] - clear[quarter]).mean()
    assert rows["remove", "perfect"].background == pytest.approx(10.0 * np.log10(255.0**2 / error))
    generator = appearance.rendering_generator(5, 3, "sunset")
    sunset = appearance.render_appearance(photo, "sunset", generator).picture
    truth = np.round(255.0 * sunset).astype(float)
    assert rows["replace", "other"].psnr == psnr_rgb(clear, truth)


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


def test_a_phrase_and_prompts_of_other_lengths_are_replaced(
    pipe: EditPipeline, photo: Array
) -> None:
    table = evaluate_appearance(
        pipe, [photo], words=["rain", "black and white"], methods=get_methods(["replace"]), seed=0,
        recovery="none", command="c",
    )  # fmt: skip
    assert {score.word for score in table.scores} == {"rain", "black and white"}
    assert {score.task for score in table.scores} == {"replace"}


def score(word: str, method: str, psnr: float, photo: int = 0) -> AppearanceScore:
    return AppearanceScore(word, "remove", method, photo, psnr, 0.5, 30.0, 10)


def test_means_and_wins_by_hand(tmp_path: Path) -> None:
    scores = (
        score("haze", UNTOUCHED, 10.0), score("haze", UNTOUCHED, 20.0, 1),
        score("haze", "swap", 30.0), score("haze", "swap", 10.0, 1),
        score("rain", UNTOUCHED, 20.0), score("rain", "swap", 19.0),
    )  # fmt: skip
    table = AppearanceTable("dehaze evaluate appearance x", 2, "affine", scores)
    assert table.means()["remove", "haze", "swap"]["psnr"] == 20.0
    assert table.beaten() == {"swap": ["haze"]}
    text = table.markdown()
    assert "| swap | 10 | 20.00 / 0.500, 30.0 | 19.00 / 0.500, 30.0 | 1 of 2 |" in text
    assert "| left alone | 10 | 15.00 / 0.500, 30.0 | 20.00 / 0.500, 30.0 |  |" in text
    assert "`dehaze evaluate appearance x`" in text
    written = table.write(tmp_path / "out")
    assert [path.name for path in written] == [
        "appearance.json", "appearance.csv", "appearance.md"
    ]  # fmt: skip
    assert written[1].read_text().splitlines()[1] == "haze,remove,left alone,0,10.0,0.5,30.0,10"


def test_unknown_words_and_methods_are_named(pipe: EditPipeline, photo: Array) -> None:
    with pytest.raises(UnknownNameError, match=r"magic.*swap, swap, no control, refine"):
        get_methods(["magic"])
    assert get_methods([]) == list(METHODS)
    settings: dict[str, Any] = {"methods": [], "seed": 0, "recovery": "none", "command": "c"}
    with pytest.raises(UnknownNameError, match=r"hail.*haze, night"):
        evaluate_appearance(pipe, [photo], words=["hail"], **settings)
    with pytest.raises(AppearanceError, match="no photo"):
        evaluate_appearance(pipe, [], words=["haze"], **settings)
