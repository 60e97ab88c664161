"""Metrics against scikit-image and PyTorch as references, and their properties."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage.color import rgb2gray, rgb2ycbcr, rgb2yiq
from skimage.data import astronaut
from skimage.metrics import mean_squared_error as reference_mse
from skimage.metrics import peak_signal_noise_ratio as reference_psnr
from skimage.metrics import structural_similarity as reference_ssim

from dehaze.eval import metrics

Picture = NDArray[np.uint8]
SSIMS = [
    metrics.ssim_wang,
    metrics.ssim_dehazeformer,
    metrics.ssim_ffa,
    metrics.ssim_skimage7,
    metrics.ssim_y,
    metrics.ssim_d4,
]
PSNRS = [metrics.psnr_rgb, metrics.psnr_y601, metrics.psnr_yiq]


@pytest.fixture(params=[(120, 97), (64, 200), (405, 390)])
def pictures(request: pytest.FixtureRequest) -> tuple[Picture, Picture]:
    return hazy_and_clear(*request.param)


def hazy_and_clear(height: int, width: int) -> tuple[Picture, Picture]:
    """A photo's crop and its hazy, noisy version; from 384 px on, DehazeFormer pools by 2."""
    clear = astronaut()[:height, :width]
    noise = np.random.default_rng(0).normal(0, 6, clear.shape)
    hazy = 0.6 * clear + 0.4 * np.array([200.0, 210.0, 220.0]) + noise
    return np.clip(np.rint(hazy), 0, 255).astype(np.uint8), clear


def wang(first: NDArray[Any], second: NDArray[Any], data_range: float = 255) -> float:
    """Wang's SSIM by scikit-image, one channel at a time."""
    if first.ndim == 2:
        first, second = first[..., None], second[..., None]
    return float(
        reference_ssim(
            first.astype(np.float64),
            second.astype(np.float64),
            channel_axis=2,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=data_range,
        )
    )


def test_mse_and_psnr_agree_with_scikit_image(pictures: tuple[Picture, Picture]) -> None:
    output, clear = pictures
    assert metrics.mean_squared_error(output, clear) == pytest.approx(reference_mse(output, clear))
    assert metrics.psnr_rgb(output, clear) == pytest.approx(
        reference_psnr(clear, output, data_range=255), abs=1e-10
    )


def test_psnr_of_luma_agrees_with_scikit_image(
    pictures: tuple[Picture, Picture],
) -> None:
    output, clear = pictures
    y601 = [rgb2ycbcr(picture)[..., 0] for picture in (clear, output)]
    assert metrics.psnr_y601(output, clear) == pytest.approx(
        reference_psnr(*y601, data_range=255), abs=1e-6
    )
    yiq = [rgb2yiq(picture)[..., 0] for picture in (clear, output)]
    assert metrics.psnr_yiq(output, clear) == pytest.approx(
        reference_psnr(*yiq, data_range=1), abs=1e-6
    )


def test_ssim_wang_agrees_with_scikit_image(pictures: tuple[Picture, Picture]) -> None:
    output, clear = pictures
    assert metrics.ssim_wang(output, clear) == pytest.approx(wang(output, clear), abs=1e-9)


def test_ssim_dehazeformer_agrees_with_pytorchs_pooling(
    pictures: tuple[Picture, Picture],
) -> None:
    output, clear = pictures
    height, width = clear.shape[:2]
    ratio = max(1, round(min(height, width) / 256))
    pooled = [
        F.adaptive_avg_pool2d(
            torch.from_numpy(picture.copy()).double().permute(2, 0, 1)[None] / 255,
            (int(height / ratio), int(width / ratio)),
        )[0]
        .permute(1, 2, 0)
        .numpy()
        for picture in (output, clear)
    ]
    expected = wang(*pooled, data_range=1)
    assert metrics.ssim_dehazeformer(output, clear) == pytest.approx(expected, abs=1e-9)
    if ratio > 1:
        assert abs(expected - metrics.ssim_wang(output, clear)) > 1e-3


def test_ssim_ffa_agrees_with_a_zero_padded_convolution(pictures: tuple[Picture, Picture]) -> None:
    output, clear = pictures
    axis = torch.arange(11, dtype=torch.float64) - 5
    gaussian = torch.exp(-(axis**2) / 4.5)
    kernel = torch.outer(gaussian, gaussian)
    kernel = (kernel / kernel.sum()).expand(3, 1, 11, 11)

    def mean(values: torch.Tensor) -> torch.Tensor:
        return F.conv2d(values, kernel, padding=5, groups=3)

    x, y = (
        torch.from_numpy(picture.copy()).double().permute(2, 0, 1)[None] / 255
        for picture in (output, clear)
    )
    mx, my = mean(x), mean(y)
    vx, vy, vxy = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    similarity = (2 * mx * my + 1e-4) * (2 * vxy + 9e-4)
    similarity /= (mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4)
    assert metrics.ssim_ffa(output, clear) == pytest.approx(similarity.mean().item(), abs=1e-9)


def test_ssim_skimage7_agrees_with_scikit_images_defaults(
    pictures: tuple[Picture, Picture],
) -> None:
    output, clear = pictures
    expected = reference_ssim(output, clear, channel_axis=2, data_range=255)
    assert metrics.ssim_skimage7(output, clear) == pytest.approx(expected, abs=1e-9)


def test_ssim_y_agrees_with_scikit_image(pictures: tuple[Picture, Picture]) -> None:
    output, clear = pictures
    expected = wang(rgb2ycbcr(output)[..., 0], rgb2ycbcr(clear)[..., 0])
    assert metrics.ssim_y(output, clear) == pytest.approx(expected, abs=1e-6)


def test_ssim_d4_agrees_with_scikit_image(pictures: tuple[Picture, Picture]) -> None:
    output, clear = pictures
    expected = reference_ssim(rgb2gray(output), rgb2gray(clear), win_size=51, data_range=1)
    assert metrics.ssim_d4(output, clear) == pytest.approx(expected, abs=1e-6)


def test_the_variants_are_told_apart() -> None:
    output, clear = hazy_and_clear(405, 390)
    values = sorted(ssim(output, clear) for ssim in SSIMS)
    assert min(np.diff(values)) > 1e-4


@pytest.mark.parametrize("ssim", SSIMS)
def test_ssim_of_identical_pictures_is_one(ssim: Callable[..., float]) -> None:
    clear = astronaut()[:80, :90]
    assert ssim(clear, clear) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("psnr", PSNRS)
def test_psnr_of_identical_pictures_is_infinite(psnr: Callable[..., float]) -> None:
    clear = astronaut()[:20, :20]
    assert psnr(clear, clear) == math.inf


@pytest.mark.parametrize("metric", [*SSIMS, *PSNRS, metrics.ciede2000, metrics.mean_squared_error])
def test_metrics_are_symmetric_and_refuse_different_shapes(metric: Callable[..., float]) -> None:
    rng = np.random.default_rng(3)
    first, second = rng.integers(0, 256, (2, 60, 64, 3), dtype=np.uint8)
    tolerance = 1e-3 if metric is metrics.ciede2000 else 1e-9
    assert metric(first, second) == pytest.approx(metric(second, first), rel=tolerance)
    with pytest.raises(ValueError, match=r"\(60, 64, 3\).*\(60, 63, 3\)"):
        metric(first, second[:, 1:])


@pytest.mark.parametrize(("ssim", "smallest"), [(metrics.ssim_wang, 11), (metrics.ssim_d4, 51)])
def test_a_picture_smaller_than_the_window_is_refused(
    ssim: Callable[..., float], smallest: int
) -> None:
    large = np.zeros((smallest, smallest, 3), dtype=np.uint8)
    assert ssim(large, large) == pytest.approx(1.0)
    small = large[1:]
    with pytest.raises(ValueError, match=r"does not fit.*: leave the picture out, or take"):
        ssim(small, small)


@pytest.mark.parametrize("shape", [(4, 4, 4), (4, 4, 1, 1), (4,)])
def test_only_grey_and_rgb_are_pictures(shape: tuple[int, ...]) -> None:
    picture = np.zeros(shape, dtype=np.uint8)
    with pytest.raises(ValueError, match="expected"):
        metrics.mean_squared_error(picture, picture)


def test_ciede2000_on_published_test_colours() -> None:
    # Black against white differs by L* = 100 alone, under S_L at the mean lightness of 50: 1.
    black = np.zeros((2, 2, 3), dtype=np.uint8)
    assert metrics.ciede2000(black, black + 255) == pytest.approx(100.0, abs=1e-3)
    assert metrics.ciede2000(black, black) == 0.0


def test_uint8_does_not_wrap_around() -> None:
    dark, bright = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)
    assert metrics.mean_squared_error(dark, bright) == 255.0**2
    assert metrics.psnr_rgb(dark, bright) == 0.0


@settings(max_examples=40)
@given(
    height=st.integers(3, 40),
    width=st.integers(3, 40),
    data=st.data(),
)
def test_adaptive_pooling_is_pytorchs(height: int, width: int, data: st.DataObject) -> None:
    size = (data.draw(st.integers(1, height)), data.draw(st.integers(1, width)))
    picture = np.random.default_rng(height * width).random((height, width, 2))
    expected = F.adaptive_avg_pool2d(torch.from_numpy(picture).permute(2, 0, 1)[None], size)[0]
    np.testing.assert_allclose(
        metrics.adaptive_average_pool(picture, size), expected.permute(1, 2, 0).numpy(), atol=1e-12
    )


@settings(max_examples=25)
@given(offset=st.integers(1, 100))
def test_psnr_falls_as_the_error_grows(offset: int) -> None:
    clear = np.full((6, 6, 3), 50, dtype=np.uint8)
    nearer, farther = clear + np.uint8(offset), clear + np.uint8(offset + 1)
    assert metrics.psnr_rgb(nearer, clear) > metrics.psnr_rgb(farther, clear)


def test_a_grey_picture_where_colours_are_needed_is_named() -> None:
    with pytest.raises(ValueError, match=r"expected \(H, W, 3\), got \(9, 9\)"):
        metrics.ciede2000(np.zeros((9, 9)), np.zeros((9, 9)))
