"""Full-reference metrics: PSNR, SSIM in every variant that dehazing papers print, CIEDE2000, MSE.

All functions take two pictures of one shape, uint8 or floating point, on one scale: [0, 255] where
``data_range`` is 255. They compute in float64 and average over pixels and channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from dehaze.errors import DehazeError
from dehaze.luma import luma

Picture = NDArray[Any]
Float = NDArray[np.float64]

# The constants K1 and K2 of Wang et al. 2004.
_K1, _K2 = 0.01, 0.03


def _float64(output: Picture, reference: Picture, channels: tuple[int, ...]) -> tuple[Float, Float]:
    if output.shape != reference.shape:
        raise ValueError(
            f"the pictures differ in shape: output {output.shape}, reference {reference.shape}"
        )
    found = output.shape[2] if output.ndim == 3 else 1
    if output.ndim not in (2, 3) or found not in channels:
        wanted = "(H, W) or (H, W, 3)" if 1 in channels else "(H, W, 3)"
        raise ValueError(f"expected {wanted}, got {output.shape}")
    return output.astype(np.float64), reference.astype(np.float64)


def mean_squared_error(output: Picture, reference: Picture) -> float:
    """MSE = mean over pixels and channels of (output - reference)^2, in squared grey levels.

    Args:
        output: (H, W, 3) or (H, W).
        reference: the same shape, on the same scale.

    Raises:
        ValueError: the shapes differ.
    """
    first, second = _float64(output, reference, (1, 3))
    return float(np.mean(np.square(first - second)))


def peak_signal_noise_ratio(
    output: Picture, reference: Picture, data_range: float = 255.0
) -> float:
    """PSNR = 10 log10(data_range^2 / MSE), in dB; infinite for identical pictures.

    Args:
        output: (H, W, 3) or (H, W), in [0, data_range].
        reference: the same shape, on the same scale.
        data_range: the largest possible value.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> import numpy as np
        >>> grey = np.full((4, 4, 3), 100, dtype=np.uint8)
        >>> round(peak_signal_noise_ratio(grey, grey + 16), 2)
        24.05
    """
    error = mean_squared_error(output, reference)
    return math.inf if error == 0 else 10.0 * math.log10(data_range**2 / error)


def luma_y601(picture: Picture) -> Float:
    """Y of ITU-R BT.601 in studio range: 16 + (65.481 R + 128.553 G + 24.966 B) / 255.

    Args:
        picture: (H, W, 3) RGB in [0, 255].

    Returns:
        (H, W) in [16, 235], unrounded, as MATLAB's ``rgb2ycbcr`` has it. PSNR on this range is
        1.3 dB higher than on [0, 255], for its smaller contrast alone.
    """
    weights = np.array([65.481, 128.553, 24.966])
    return np.asarray(16.0 + picture.astype(np.float64) @ weights / 255.0)


def luma_yiq(picture: Picture) -> Float:
    """Y of YIQ in full range: .299 R + .587 G + .114 B.

    Args:
        picture: (H, W, 3) RGB in [0, 255].

    Returns:
        (H, W) in [0, 255].
    """
    return luma(picture.astype(np.float64))


def luma_709(picture: Picture) -> Float:
    """Y of ITU-R BT.709 in full range: .2125 R + .7154 G + .0721 B, scikit-image's grey.

    Args:
        picture: (H, W, 3) RGB in [0, 255].

    Returns:
        (H, W) in [0, 255].
    """
    return np.asarray(picture.astype(np.float64) @ np.array([0.2125, 0.7154, 0.0721]))


class Window(Protocol):
    """A local mean, under which SSIM compares two pictures.

    Attributes:
        size: side of the window, in pixels.
    """

    @property
    def size(self) -> int: ...

    def __call__(self, values: Float) -> Float:
        """The local means of (H, W)."""


@dataclass(frozen=True)
class GaussianWindow:
    """The 11x11 Gaussian of Wang et al., with sigma 1.5.

    Attributes:
        zero_padding: whether the filtered picture keeps its size, with zeros beyond its edge. If
            not, it holds the pixels at which the window lies inside the picture.
    """

    zero_padding: bool = False
    size: int = 11
    sigma: float = 1.5

    def __call__(self, values: Float) -> Float:
        margin = self.size // 2
        kernel = np.exp(-((np.arange(self.size) - margin) ** 2) / (2 * self.sigma**2))
        kernel /= kernel.sum()
        filtered = cv2.sepFilter2D(
            values, cv2.CV_64F, kernel, kernel, borderType=cv2.BORDER_CONSTANT
        )
        return np.asarray(
            filtered if self.zero_padding else filtered[margin:-margin, margin:-margin]
        )


@dataclass(frozen=True)
class UniformWindow:
    """The mean of size x size pixels, at the pixels at which the window lies inside the picture.

    Attributes:
        size: odd, in pixels.
    """

    size: int

    def __call__(self, values: Float) -> Float:
        margin = self.size // 2
        filtered = cv2.blur(values, (self.size, self.size), borderType=cv2.BORDER_CONSTANT)
        return np.asarray(filtered[margin:-margin, margin:-margin])


def structural_similarity(
    output: Picture,
    reference: Picture,
    *,
    window: Window,
    sample_covariance: bool = False,
    data_range: float = 255.0,
) -> float:
    """SSIM, the mean of its map over pixels and channels.

        SSIM = (2 mx my + C1)(2 sxy + C2) / ((mx^2 + my^2 + C1)(sx^2 + sy^2 + C2)),
        C1 = (.01 L)^2, C2 = (.03 L)^2, L the data range

    with means m, variances s^2 and covariance sxy taken under the window.

    Args:
        output: (H, W, 3) or (H, W), in [0, data_range].
        reference: the same shape, on the same scale.
        window: the local mean, ``GaussianWindow()`` or ``UniformWindow(size)``.
        sample_covariance: divide by N - 1 rather than N, the number of pixels in the window.
        data_range: the largest possible value, L.

    Returns:
        SSIM in [-1, 1]; 1 for identical pictures.

    Raises:
        ValueError: the shapes differ, or the picture is smaller than the window.

    Source: Wang, Bovik, Sheikh and Simoncelli, IEEE Transactions on Image Processing 13(4), 2004.
    """
    first, second = _float64(output, reference, (1, 3))
    size = window.size
    if min(first.shape[:2]) < size:
        raise ValueError(
            f"SSIM's window of {size}x{size} does not fit into a picture of "
            f"{first.shape[1]}x{first.shape[0]}: leave the picture out, or take a smaller window"
        )
    count = size**2
    norm = count / (count - 1) if sample_covariance else 1.0
    c1, c2 = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2
    planes = [(first, second)] if first.ndim == 2 else list(_planes(first, second))
    means = []
    for x, y in planes:
        mx, my = window(x), window(y)
        vx = norm * (window(x * x) - mx * mx)
        vy = norm * (window(y * y) - my * my)
        vxy = norm * (window(x * y) - mx * my)
        similarity = (2 * mx * my + c1) * (2 * vxy + c2)
        similarity /= (mx * mx + my * my + c1) * (vx + vy + c2)
        means.append(float(similarity.mean()))
    return float(np.mean(means))


def _planes(first: Float, second: Float) -> list[tuple[Float, Float]]:
    return [
        (np.ascontiguousarray(first[..., channel]), np.ascontiguousarray(second[..., channel]))
        for channel in range(first.shape[2])
    ]


def adaptive_average_pool(picture: Float, size: tuple[int, int]) -> Float:
    """Average pooling to a given size.

    Output row i is the mean of the rows floor(i H / h) to ceil((i + 1) H / h) - 1, and likewise for
    columns.

    Args:
        picture: (H, W) or (H, W, C).
        size: (h, w), no larger than (H, W).

    Returns:
        (h, w) or (h, w, C).
    """
    for axis, target in enumerate(size):
        length = picture.shape[axis]
        starts = np.arange(target) * length // target
        ends = -(-(np.arange(target) + 1) * length // target)
        zero = np.zeros_like(np.take(picture, [0], axis=axis))
        sums = np.concatenate([zero, np.cumsum(picture, axis=axis)], axis=axis)
        totals = np.take(sums, ends, axis=axis) - np.take(sums, starts, axis=axis)
        shape = [1] * picture.ndim
        shape[axis] = target
        picture = totals / (ends - starts).reshape(shape)
    return picture


def ssim_wang(output: Picture, reference: Picture) -> float:
    """SSIM as published: 11x11 Gaussian, population covariance, valid region, mean of channels.

    Equal to scikit-image under ``gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    data_range=255`` and to pyiqa's ``ssimc``.

    Args:
        output: (H, W, 3) RGB in [0, 255], at least 11x11.
        reference: the same shape.

    Raises:
        ValueError: the shapes differ, or the picture is too small.
    """
    return structural_similarity(output, reference, window=GaussianWindow())


def ssim_dehazeformer(output: Picture, reference: Picture) -> float:
    """SSIM after average pooling by max(1, round(min(H, W) / 256)).

    Printed by DehazeFormer, gUNet, MixDehazeNet and ConvIR.

    Args:
        output: (H, W, 3) RGB in [0, 255], at least 11x11; those papers do not round it.
        reference: the same shape.

    Raises:
        ValueError: the shapes differ, or the picture is too small.
    """
    first, second = _float64(output, reference, (1, 3))
    height, width = first.shape[:2]
    ratio = max(1, round(min(height, width) / 256))
    size = (height // ratio, width // ratio)
    return ssim_wang(adaptive_average_pool(first, size), adaptive_average_pool(second, size))


def ssim_ffa(output: Picture, reference: Picture) -> float:
    """SSIM with an 11x11 Gaussian over the whole picture, zeros outside. FFA-Net, DEA-Net.

    Args:
        output: (H, W, 3) RGB in [0, 255], at least 11x11.
        reference: the same shape.

    Raises:
        ValueError: the shapes differ, or the picture is too small.
    """
    return structural_similarity(output, reference, window=GaussianWindow(zero_padding=True))


def ssim_skimage7(output: Picture, reference: Picture) -> float:
    """SSIM with scikit-image's defaults: 7x7 uniform, sample covariance. Dehamer, PromptIR.

    Args:
        output: (H, W, 3) RGB in [0, 255], at least 7x7.
        reference: the same shape.

    Raises:
        ValueError: the shapes differ, or the picture is too small.
    """
    return structural_similarity(output, reference, window=UniformWindow(7), sample_covariance=True)


def ssim_y(output: Picture, reference: Picture) -> float:
    """``ssim_wang`` on the luma of BT.601 in studio range.

    Args:
        output: (H, W, 3) RGB in [0, 255], at least 11x11.
        reference: the same shape.

    Raises:
        ValueError: the shapes differ, or the picture is too small.
    """
    _float64(output, reference, (3,))
    return ssim_wang(luma_y601(output), luma_y601(reference))


def ssim_d4(output: Picture, reference: Picture) -> float:
    """SSIM of BT.709 grey with a uniform 51x51 window and sample covariance. D4's script.

    Args:
        output: (H, W, 3) RGB in [0, 255], at least 51x51.
        reference: the same shape.

    Raises:
        ValueError: the shapes differ, or the picture is too small.
    """
    _float64(output, reference, (3,))
    return structural_similarity(
        luma_709(output),
        luma_709(reference),
        window=UniformWindow(51),
        sample_covariance=True,
    )


def psnr_rgb(output: Picture, reference: Picture) -> float:
    """PSNR over all three channels, in dB.

    Args:
        output: (H, W, 3) RGB in [0, 255].
        reference: the same shape.

    Raises:
        ValueError: the shapes differ.
    """
    return peak_signal_noise_ratio(output, reference)


def psnr_y601(output: Picture, reference: Picture) -> float:
    """PSNR of the luma of BT.601 in studio range with a data range of 255, in dB.

    Args:
        output: (H, W, 3) RGB in [0, 255].
        reference: the same shape.

    Raises:
        ValueError: the shapes differ.
    """
    _float64(output, reference, (3,))
    return peak_signal_noise_ratio(luma_y601(output), luma_y601(reference))


def psnr_yiq(output: Picture, reference: Picture) -> float:
    """PSNR of the luma of YIQ in full range, in dB; pyiqa's ``psnry``.

    Args:
        output: (H, W, 3) RGB in [0, 255].
        reference: the same shape.

    Raises:
        ValueError: the shapes differ.
    """
    _float64(output, reference, (3,))
    return peak_signal_noise_ratio(luma_yiq(output), luma_yiq(reference))


class ColourMissingError(DehazeError, RuntimeError):
    """scikit-image is not installed; the message says how to install it."""


def import_colour() -> Any:
    """scikit-image's module of colour spaces and differences.

    Raises:
        ColourMissingError: it is not installed.
    """
    try:
        from skimage import color
    except ImportError as error:
        raise ColourMissingError(
            "the colour difference CIEDE2000 needs scikit-image: "
            "pip install 'dehaze-diffusion[evaluate]'"
        ) from error
    return color


def ciede2000(output: Picture, reference: Picture) -> float:
    """Mean CIEDE2000 colour difference (kL = kC = kH = 1, sRGB under D65); 0 is identical.

    Args:
        output: (H, W, 3) RGB in [0, 255].
        reference: the same shape.

    Returns:
        The mean over pixels; about 1 is the smallest difference that an eye can see.

    Raises:
        ValueError: the shapes differ.
        ColourMissingError: scikit-image is not installed.

    Source: Sharma, Wu and Dalal, Color Research and Application 30(1), 2005, by scikit-image.
    """
    first, second = _float64(output, reference, (3,))
    color = import_colour()
    first, second = color.rgb2lab(first / 255.0), color.rgb2lab(second / 255.0)
    return float(np.mean(color.deltaE_ciede2000(first, second)))
