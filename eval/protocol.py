"""The protocol "dehaze-bench v1", its variants, and the score of one picture under it.

The protocol: RGB at full resolution, the *saved* 8-bit PNG read back, float64, data range 255, one
value an image, arithmetic mean and population standard deviation. Identical pictures have an
infinite PSNR; they are left out of its mean, and counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dehaze.eval import metrics
from dehaze.registry import Registry

PROTOCOL_NAME = "dehaze-bench v1"

Metric = Callable[[NDArray[Any], NDArray[Any]], float]


@dataclass(frozen=True)
class Variant:
    """One way in which papers compute a metric.

    Attributes:
        name: on the command line and in every table.
        title: what it computes.
        compute: from output and ground truth, (H, W, 3) RGB in [0, 255], to the value.
        unrounded: whether it is defined on the network's output before it becomes 8 bits.
    """

    name: str
    title: str
    compute: Metric
    unrounded: bool = False


SSIM_VARIANTS: Registry[Variant] = Registry("way to compute SSIM")
for _variant in (
    Variant(
        "wang",
        "11x11 Gaussian, population covariance, valid region, mean of RGB",
        metrics.ssim_wang,
    ),
    Variant(
        "dehazeformer",
        "unrounded, average-pooled by max(1, round(min(H, W) / 256)), then as wang",
        metrics.ssim_dehazeformer,
        unrounded=True,
    ),
    Variant("ffa", "11x11 Gaussian with zero padding, mean of RGB", metrics.ssim_ffa),
    Variant(
        "skimage7",
        "7x7 uniform window, sample covariance, mean of RGB",
        metrics.ssim_skimage7,
    ),
    Variant(
        "y",
        "as wang on BT.601 luma in [16, 235]",
        metrics.ssim_y,
    ),
    Variant("d4", "BT.709 grey, uniform 51x51 window, sample covariance", metrics.ssim_d4),
):
    SSIM_VARIANTS.register(_variant.name, _variant)

PSNR_VARIANTS: Registry[Variant] = Registry("way to compute PSNR")
for _variant in (
    Variant("rgb", "over RGB", metrics.psnr_rgb),
    Variant(
        "y601",
        "on BT.601 luma in [16, 235]",
        metrics.psnr_y601,
    ),
    Variant("yiq", "on YIQ luma in [0, 255]", metrics.psnr_yiq),
):
    PSNR_VARIANTS.register(_variant.name, _variant)


@dataclass(frozen=True)
class Scores:
    """The full-reference scores of one picture.

    Attributes:
        psnr: in dB, infinite for identical pictures.
        ssim: in [-1, 1].
        ciede2000: mean colour difference, 0 for identical pictures.
        mse: in squared grey levels of [0, 255].
    """

    psnr: float
    ssim: float
    ciede2000: float
    mse: float


@dataclass(frozen=True)
class BenchProtocol:
    """How pictures are scored. The defaults are "dehaze-bench v1"; all else is a named variant.

    Attributes:
        psnr: a name of ``PSNR_VARIANTS``.
        ssim: a name of ``SSIM_VARIANTS``.
        unrounded: score the method's float output rather than the saved 8-bit PNG.
        crop_border: pixels cut off each side before scoring.
        resize: (width, height) that hazy and clear pictures are brought to first, or None.
            Not standard.
        oracle: score the best of a method's candidates, chosen with the ground truth.
        perceptual: names of pyiqa's metrics to add.

    Raises:
        ValueError: an unknown variant, or a size or border that is not possible.
    """

    psnr: str = "rgb"
    ssim: str = "wang"
    unrounded: bool = False
    crop_border: int = 0
    resize: tuple[int, int] | None = None
    oracle: bool = False
    perceptual: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        PSNR_VARIANTS.get(self.psnr)
        SSIM_VARIANTS.get(self.ssim)
        if self.crop_border < 0:
            raise ValueError(f"a border to crop must be 0 or more, not {self.crop_border}")
        if self.resize is not None and min(self.resize) < 1:
            raise ValueError(f"a size must be at least 1x1, not {self.resize}")

    @property
    def scores_unrounded(self) -> bool:
        """Whether values between the 256 levels are scored."""
        return self.unrounded or SSIM_VARIANTS.get(self.ssim).unrounded

    @property
    def label(self) -> str:
        """The protocol's name and, in words, all that a reader must know to repeat it."""
        parts = [
            f"{PROTOCOL_NAME}: PSNR {self.psnr}, SSIM {self.ssim}",
            "unrounded output" if self.scores_unrounded else "saved 8-bit PNG",
        ]
        if self.crop_border:
            parts.append(f"border of {self.crop_border} px cropped")
        if self.resize:
            parts.append(f"NON-STANDARD: resized to {self.resize[0]}x{self.resize[1]}")
        if self.oracle:
            parts.append("ORACLE: the best candidate was chosen with the ground truth")
        return ", ".join(parts)

    def settings(self) -> dict[str, Any]:
        """All choices, for the result file and for telling runs apart."""
        return {"name": PROTOCOL_NAME, **asdict(self)}

    def fit(self, picture: NDArray[Any]) -> NDArray[Any]:
        """Bring a picture to the protocol's size: as it is, unless ``resize`` is set.

        Args:
            picture: (H, W, 3) or (H, W).

        Returns:
            The picture at ``resize``, averaged over areas where it shrinks, bicubic otherwise.
        """
        if self.resize is None or self.resize == (picture.shape[1], picture.shape[0]):
            return picture
        shrinks = self.resize[0] <= picture.shape[1] and self.resize[1] <= picture.shape[0]
        method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(picture, self.resize, interpolation=method))

    def cropped(self, picture: NDArray[Any]) -> NDArray[Any]:
        """A picture (H, W, 3) without the border of ``crop_border`` pixels.

        Raises:
            ValueError: nothing is left of it.
        """
        if not self.crop_border:
            return picture
        if min(picture.shape[:2]) <= 2 * self.crop_border:
            raise ValueError(
                f"a border of {self.crop_border} px leaves nothing of a picture of "
                f"{picture.shape[1]}x{picture.shape[0]}: crop less, or leave the picture out"
            )
        inner = slice(self.crop_border, -self.crop_border)
        return picture[inner, inner]

    def score(self, output: NDArray[Any], clear: NDArray[Any]) -> Scores:
        """Score one picture against its ground truth.

        Args:
            output: (H, W, 3) RGB in [0, 255].
            clear: the same shape.

        Raises:
            ValueError: the shapes differ, or too little is left for SSIM's window.
        """
        output, clear = self.cropped(output), self.cropped(clear)
        return Scores(
            psnr=PSNR_VARIANTS.get(self.psnr).compute(output, clear),
            ssim=SSIM_VARIANTS.get(self.ssim).compute(output, clear),
            ciede2000=metrics.ciede2000(output, clear),
            mse=metrics.mean_squared_error(output, clear),
        )
