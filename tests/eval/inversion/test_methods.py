from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from dehaze.eval.inversion.methods import (
    InversionMethod,
    family,
    parse_inversion_method,
)
from dehaze.eval.inversion.scores import score_inversion
from dehaze.eval.methods import MethodError
from dehaze.inversion import best_at_equal_cost
from dehaze.models.needs import ModelDescription
from dehaze.pipelines.dehaze import DehazePipeline

Array = NDArray[np.float32]


MODEL = ModelDescription(pixels_per_latent=8, size_multiple=8, short_side=64)


def test_best_uses_the_settings_fitted_on_the_model(
    pipeline: DehazePipeline, bundled: DehazePipeline, photo: Array
) -> None:
    best = parse_inversion_method("best")
    for steps in (10, 50):
        fitted = best.settings(bundled.description, steps=steps, guidance_scale=1.0)
        assert fitted == replace(best_at_equal_cost(steps), spacing="noisy-end")
    # Nothing was fitted on the random model.
    own = best.settings(pipeline.description, steps=4, guidance_scale=1.0)
    assert own == pipeline.description.inversion.changed(steps=4)
    few = parse_inversion_method("best:iterations=3")
    assert few.settings(bundled.description, steps=4, guidance_scale=2.0).max_iterations == 3
    assert score_inversion(bundled, [photo], best, steps=4).nfe_per_step <= 7


def test_a_method_is_read_with_its_settings() -> None:
    method = parse_inversion_method(
        "anderson:predictor=ife,criterion=certificate,iterations=7,tolerance=1e-3"
    )
    assert method == InversionMethod(
        "anderson",
        {
            "predictor": "ife",
            "criterion": "certificate",
            "max_iterations": 7,
            "tolerance": 1e-3,
        },
    )
    settings = method.settings(MODEL, steps=9, guidance_scale=2.0)
    assert (settings.steps, settings.guidance_scale, settings.max_iterations) == (9, 2.0, 7)
    assert family(settings, "") == "ife + anderson, until certificate"
    assert parse_inversion_method("ddim") == InversionMethod("ddim")
    held = parse_inversion_method("ddim:mode=direct")
    assert held.settings(MODEL, steps=9, guidance_scale=2.0).guidance_scale == 1.0


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("newton", r"newton.*fixed-point"),
        ("ddim:predictor=oracle", r"oracle.*ife"),
        ("ddim:criterion=luck", r"luck.*certificate"),
        ("ddim:colour=red", r"colour.*iterations"),
        ("ddim:relaxation=yoga", r"yoga.*wiener"),
        ("ddim:mode=magic", r"magic.*plain, null-text"),
        ("ddim:iterations=many", "no number"),
        ("anderson:iterations", "key=value"),
        ("anderson:iterations=3,iterations=4", "iterations twice"),
        ("ddim:iterations=0", "at least 1"),
        ("ddim:tolerance=0", "tolerance is 0"),
        ("ddim:iterations=3", "no effect with the solver 'ddim'"),
        ("edict:predictor=ife", "no effect with the solver 'edict'"),
    ],
)
def test_a_wrong_method_is_named(text: str, cause: str) -> None:
    with pytest.raises(MethodError, match=cause):
        parse_inversion_method(text)
