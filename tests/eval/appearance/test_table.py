from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dehaze.eval.appearance.methods import METHODS, get_methods
from dehaze.eval.appearance.scores import (
    UNTOUCHED,
    AppearanceScore,
)
from dehaze.eval.appearance.table import AppearanceError, AppearanceTable, evaluate_appearance
from dehaze.pipelines.edit import EditPipeline
from dehaze.registry import UnknownNameError

Array = NDArray[np.float32]


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
