"""Scores and costs of an inversion."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from dehaze.datasets import read_rgb
from dehaze.eval import probes
from dehaze.eval.inversion import scores
from dehaze.eval.inversion.methods import (
    InversionMethod,
    parse_inversion_method,
)
from dehaze.eval.inversion.scores import codec_ceiling, score_inversion
from dehaze.pipelines.dehaze import DehazePipeline
from dehaze.pipelines.latents import PhotoCodec
from dehaze.pipelines.pictures import as_pixels

Array = NDArray[np.float32]


def test_a_solved_inversion_scores_higher_and_costs_more(
    pipeline: DehazePipeline, photo: Array
) -> None:
    plain = score_inversion(pipeline, [photo], InversionMethod("ddim"), steps=4)
    solved = score_inversion(
        pipeline,
        [photo, photo[:, ::-1]],
        InversionMethod("anderson", {"max_iterations": 30}),
        steps=4,
    )
    assert plain.nfe_per_step == 1.0
    assert np.isnan(plain.converged)
    assert np.isnan(plain.contractive)
    assert solved.psnr > plain.psnr + 20
    assert solved.latent_error < 0.1 * plain.latent_error
    assert solved.psnr_worst <= solved.psnr
    assert solved.nfe_per_step > 2
    assert np.isnan(solved.converged)
    checked = InversionMethod(
        "anderson", {"max_iterations": 30, "criterion": "residual", "tolerance": 1e-5}
    )
    assert score_inversion(pipeline, [photo], checked, steps=4).converged == 1.0


def test_guidance_costs_twice_and_is_undone_by_guidance(
    pipeline: DehazePipeline, photo: Array
) -> None:
    method = InversionMethod("fixed-point", {"max_iterations": 3})
    once, twice = (
        score_inversion(pipeline, [photo], method, steps=4, guidance_scale=guidance)
        for guidance in (1.0, 2.0)
    )
    assert twice.nfe_per_step == 2 * once.nfe_per_step == 6.0
    solved = InversionMethod("anderson", {"max_iterations": 30})
    assert score_inversion(pipeline, [photo], solved, steps=4, guidance_scale=2.0).psnr > 60


def test_codec_loss_bounds_every_solver(
    pipeline: DehazePipeline, photo: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = PhotoCodec.encode
    monkeypatch.setattr(
        PhotoCodec, "encode", lambda codec, pixels: encode(codec, pixels).mul(8).round() / 8
    )
    ceiling = codec_ceiling(pipeline, [photo]).psnr
    assert 20 < ceiling < 60
    solved = InversionMethod("anderson", {"max_iterations": 30})
    assert score_inversion(pipeline, [photo], solved, steps=4).psnr == pytest.approx(ceiling, abs=1)


@pytest.mark.slow
def test_a_mode_inverts_unguided_and_counts_its_preparation(
    pipeline: DehazePipeline, photo: Array
) -> None:
    settings = {"steps": 4, "guidance_scale": 3.0}
    rows = {
        mode: score_inversion(
            pipeline,
            [photo],
            InversionMethod("anderson", {"max_iterations": 30}, mode=mode),
            **settings,
        )
        for mode in ("plain", "negative-prompt", "direct")
    }
    assert rows["plain"].psnr < 40 < rows["negative-prompt"].psnr
    assert rows["direct"].psnr > 60
    assert rows["plain"].nfe_per_step == rows["negative-prompt"].nfe_per_step
    assert rows["direct"].nfe_per_step == pytest.approx(rows["plain"].nfe_per_step + 2)


def test_the_clock_and_the_count_include_the_fitting(
    pipeline: DehazePipeline, photo: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every reading of the clock is a second after the one before."""
    seconds = itertools.count()
    clock = SimpleNamespace(perf_counter=lambda: float(next(seconds)))
    monkeypatch.setattr(scores, "time", clock)
    monkeypatch.setattr(probes, "time", clock)
    plain, held = (
        score_inversion(
            pipeline, [photo], InversionMethod("ddim", mode=mode), steps=1, guidance_scale=3.0
        )
        for mode in ("plain", "null-text")
    )
    assert (plain.seconds, held.seconds) == (1.0, 2.0)
    assert plain.nfe_per_step == 1.0
    assert 1.0 + 3.0 <= held.nfe_per_step <= 1.0 + 12.0


@pytest.fixture(scope="module")
def examples() -> list[Array]:
    folder = Path(__file__).resolve().parents[3] / "examples"
    return [as_pixels(read_rgb(path).pixels) for path in sorted(folder.glob("*_haze.jpg"))]


@pytest.mark.slow
def test_best_equals_ten_picard_iterations_for_a_sixth(
    bundled: DehazePipeline, examples: list[Array]
) -> None:
    best, picard = (
        score_inversion(bundled, examples, parse_inversion_method(method), steps=10)
        for method in ("best", "fixed-point:iterations=10")
    )
    assert picard.nfe_per_step > 9.0
    assert best.nfe_per_step <= 1.6
    assert best.psnr >= picard.psnr


@pytest.mark.slow
def test_null_text_helps_on_the_bundled_model(
    bundled: DehazePipeline, examples: list[Array]
) -> None:
    plain, held = (
        score_inversion(
            bundled,
            examples[:1],
            parse_inversion_method(f"best:mode={mode}"),
            steps=10,
            guidance_scale=3.0,
        )
        for mode in ("plain", "null-text")
    )
    assert plain.psnr < 20.0
    assert held.psnr > plain.psnr + 3.0
