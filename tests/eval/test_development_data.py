"""On the development pairs of SOTS: the runner against a computation that shares no code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import uniform_filter
from skimage.color import rgb2yiq
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from skimage.morphology import erosion

from dehaze.datasets import open_dataset
from dehaze.eval.methods import parse_method
from dehaze.eval.protocol import BenchProtocol
from dehaze.eval.runner import EvaluationSet, Runner


def independent_scores(output: np.ndarray, clear: np.ndarray) -> tuple[float, float]:
    ssim = structural_similarity(
        clear,
        output,
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
    )
    return peak_signal_noise_ratio(clear, output, data_range=255), ssim


def independent_dark_channel_prior(hazy: np.ndarray) -> np.ndarray:
    """He et al. by scikit-image and SciPy, in float64: patch 15, omega .95, r 60, eps 1e-4."""
    picture = hazy / 255.0
    square = np.ones((15, 15))
    dark = erosion(picture.min(axis=2), square)
    candidates = picture[dark >= np.sort(dark, axis=None)[-(dark.size // 1000)]]
    airlight = max(candidates, key=sum)
    target = 1 - 0.95 * erosion((picture / airlight).min(axis=2), square)
    guide = rgb2yiq(picture)[..., 0]

    def mean(values: np.ndarray) -> np.ndarray:
        return uniform_filter(values, size=121, mode="reflect")

    slope = mean(guide * target) - mean(guide) * mean(target)
    slope /= mean(guide * guide) - mean(guide) ** 2 + 1e-4
    intercept = mean(target) - slope * mean(guide)
    transmission = np.clip(mean(slope) * guide + mean(intercept), 0.1, 1)[..., None]
    restored = (picture - airlight) / transmission + airlight
    return np.rint(255 * np.clip(restored, 0, 1)).astype(np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("subset", ["sots-indoor", "sots-outdoor"])
def test_hazy_and_dark_channel_prior_on_sots(
    data_folder: Path, tmp_path: Path, subset: str
) -> None:
    dataset = open_dataset(subset, data_folder)
    samples = dataset.spread(12)
    runner = Runner(
        sets=(EvaluationSet(dataset, samples),),
        methods=(parse_method("hazy"), parse_method("dcp")),
        protocol=BenchProtocol(),
        out=tmp_path,
    )
    evaluation = runner.run()
    assert evaluation.failures == []
    hazy_scores, prior_scores = [], []
    for sample in samples:
        assert sample.clear is not None
        hazy = np.asarray(Image.open(sample.hazy).convert("RGB"))
        clear = np.asarray(Image.open(sample.clear).convert("RGB"))
        hazy_scores.append(independent_scores(hazy, clear))
        prior_scores.append(independent_scores(independent_dark_channel_prior(hazy), clear))
    for row, scores in zip(evaluation.rows, (hazy_scores, prior_scores), strict=True):
        psnr, ssim = np.mean(scores, axis=0)
        assert row.statistics["psnr"].mean == pytest.approx(psnr, abs=0.05)
        assert row.statistics["ssim"].mean == pytest.approx(ssim, abs=0.001)


def test_the_development_data_are_read_without_oddities(data_folder: Path) -> None:
    expected = {"sots-indoor": 45, "sots-outdoor": 61, "i-haze": 15, "dense-haze": 15}
    for name, count in expected.items():
        dataset = open_dataset(name, data_folder)
        assert len(dataset) == count
        assert dataset.oddities == ()
        assert dataset.samples[0].load().clear is not None
