"""The protocol: its label names every deviation, and its choices decide the scores."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.data import astronaut
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from skimage.transform import downscale_local_mean

from dehaze.eval import metrics
from dehaze.eval.protocol import PSNR_VARIANTS, SSIM_VARIANTS, BenchProtocol

CLEAR = astronaut()[:120, :140]
OUTPUT = np.rint(0.8 * CLEAR + 30).astype(np.uint8)


def test_the_default_is_dehaze_bench_v1() -> None:
    scores = BenchProtocol().score(OUTPUT, CLEAR)
    assert scores.psnr == pytest.approx(peak_signal_noise_ratio(CLEAR, OUTPUT), abs=1e-9)
    expected = structural_similarity(
        CLEAR,
        OUTPUT,
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
    )
    assert scores.ssim == pytest.approx(expected, abs=1e-9)
    assert BenchProtocol().label == "dehaze-bench v1: PSNR rgb, SSIM wang, saved 8-bit PNG"


@pytest.mark.parametrize("name", SSIM_VARIANTS.names())
def test_every_ssim_variant_is_named_and_used(name: str) -> None:
    protocol = BenchProtocol(ssim=name)
    assert f"SSIM {name}" in protocol.label
    function = getattr(metrics, f"ssim_{name}")
    assert protocol.score(OUTPUT, CLEAR).ssim == function(OUTPUT, CLEAR)


@pytest.mark.parametrize("name", PSNR_VARIANTS.names())
def test_every_psnr_variant_is_named_and_used(name: str) -> None:
    protocol = BenchProtocol(psnr=name)
    assert f"PSNR {name}" in protocol.label
    function = getattr(metrics, f"psnr_{name}")
    assert protocol.score(OUTPUT, CLEAR).psnr == function(OUTPUT, CLEAR)


def test_labels_name_non_standard_choices() -> None:
    protocol = BenchProtocol(unrounded=True, crop_border=4, resize=(512, 256), oracle=True)
    for part in (
        "unrounded output",
        "border of 4 px",
        "NON-STANDARD: resized to 512x256",
        "ORACLE",
    ):
        assert part in protocol.label
    assert "unrounded" in BenchProtocol(ssim="dehazeformer").label


def test_the_border_is_cut_off_before_scoring() -> None:
    spoiled = OUTPUT.copy()
    spoiled[:5], spoiled[:, -5:] = 0, 255
    protocol = BenchProtocol(crop_border=5)
    expected = BenchProtocol().score(OUTPUT[5:-5, 5:-5], CLEAR[5:-5, 5:-5])
    assert protocol.score(spoiled, CLEAR) == expected
    with pytest.raises(ValueError, match="leaves nothing"):
        BenchProtocol(crop_border=60).score(OUTPUT, CLEAR)


def test_resizing_averages_areas_and_leaves_the_right_size_alone() -> None:
    fitted = BenchProtocol(resize=(70, 60)).fit(CLEAR.astype(np.float32))
    np.testing.assert_allclose(fitted, downscale_local_mean(CLEAR, (2, 2, 1)), atol=1e-3)
    assert BenchProtocol().fit(CLEAR) is CLEAR
    assert BenchProtocol(resize=(140, 120)).fit(CLEAR) is CLEAR


@pytest.mark.parametrize(
    "choices", [{"ssim": "best"}, {"psnr": "ycbcr"}, {"crop_border": -1}, {"resize": (0, 4)}]
)
def test_impossible_choices_are_refused(choices: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"unknown way|must be"):
        BenchProtocol(**choices)  # type: ignore[arg-type]
