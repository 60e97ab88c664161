"""Settings of the page and the API, and the previews that are kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dehaze.pipelines.dehaze import DehazePipeline
from dehaze.webui.dehazing import Preview, Previews, Settings, SettingsError


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"strength": 3.0}, "strength is 3"),
        ({"strength": float("nan")}, "strength is nan"),
        ({"exposure": -0.5}, "exposure is -0.5"),
        ({"word": "elephant"}, "never learned 'elephant'"),
        # Words that the prompt holds outside of the haze word.
        ({"word": "photo"}, "'photo' is not the haze in 'a photo with haze': name what lies"),
        ({"word": "a fog"}, "'a fog' is not the haze"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    bundled: DehazePipeline, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(SettingsError, match=words):
        Settings(**changes).recipe(bundled)


def test_a_word_takes_the_place_of_the_models_own(bundled: DehazePipeline) -> None:
    assert Settings(word=" Fog ").recipe(bundled)["prompt"] == "a photo with fog"
    assert Settings().recipe(bundled)["word"] == "haze"


class Counting:
    """Counts the inversions of a pipeline."""

    def __init__(self, pipeline: DehazePipeline, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        invert = pipeline.invert

        def counted(*arguments: Any, **options: Any) -> Any:
            self.count += 1
            return invert(*arguments, **options)

        monkeypatch.setattr(pipeline, "invert", counted)


def test_one_inversion_serves_strength_exposure_and_layers(
    pipeline: DehazePipeline, photo: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = Counting(pipeline, monkeypatch)
    preview = Preview(photo)
    pictures = {
        layer: [
            preview.see(pipeline, Settings(strength, exposure), layer).picture
            for strength in (0.5, 1.0)
            for exposure in (0.0, 1.0)
        ]
        for layer in ("result", "attention", "transmission")
    }
    assert counting.count == 1
    assert len({of_layer[0] for of_layer in pictures.values()}) == 3
    # Exposure changes no other layer, and strength does not change attention.
    assert len(set(pictures["attention"])) == 1
    assert pictures["transmission"][::2] == pictures["transmission"][1::2]
    preview.see(pipeline, Settings(word="fog"), "result")
    assert counting.count == 2


def test_an_unknown_layer_is_refused(pipeline: DehazePipeline, photo: Any) -> None:
    with pytest.raises(SettingsError, match="result, attention, transmission"):
        Preview(photo).see(pipeline, Settings(), "depth")


def test_only_the_latest_previews_are_kept(photo: NDArray[np.float32]) -> None:
    made: list[str] = []

    def make(name: str) -> Preview:
        made.append(name)
        return Preview(photo)

    previews = Previews(limit=int(2.5 * photo.nbytes))
    for name in ("a", "b", "a", "c", "a", "b"):
        previews.get(name, lambda name=name: make(name))
    assert made == ["a", "b", "c", "b"]
    # A file that has changed since.
    previews.get("b", lambda: make("b, changed"), version=2)
    previews.get("b", lambda: make("b"), version=2)
    assert made[-1] == "b, changed"
    previews.drop("a")
    previews.get("a", lambda: make("a"))
    assert made[-1] == "a"
