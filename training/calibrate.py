"""Fits how far the darkest pixels are trusted: the exponent of ``dehaze.density``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dehaze.datasets.synthesis import RenderedHaze
from dehaze.density import EXPONENT, veil_ratio
from dehaze.eval.metrics import peak_signal_noise_ratio
from dehaze.physics import TRANSMISSION_MINIMUM, recover_scene
from dehaze.pipeline import DehazePipeline

_SCALES = np.linspace(0.0, 2.5, 26)
_EXPONENTS = np.linspace(0.0, 1.2, 25)


@dataclass(frozen=True)
class Calibration:
    """The best s = rho^k over some renderings; PSNR in dB, over RGB in [0, 1], means.

    Attributes:
        exponent: k.
        uncalibrated: PSNR with the veil as the model found it.
        calibrated: PSNR with the veil scaled by s.
        shipped: likewise, with the exponent of ``dehaze.density``.
        oracle: PSNR with the scale of each photo that the truth would choose.
    """

    exponent: float
    uncalibrated: float
    calibrated: float
    shipped: float
    oracle: float


def calibrate(pipeline: DehazePipeline, rendered: list[RenderedHaze]) -> Calibration:
    """Tries exponents of a grid on renderings that the model has not seen."""
    ratios, curves = [], []
    for haze in rendered:
        result = pipeline(haze.hazy, refine="physics")
        assert result.transmission is not None
        assert result.airlight is not None
        veil = 1.0 - result.transmission
        ratios.append(max(1e-3, veil_ratio(haze.hazy, result.transmission, result.airlight)))
        curve = []
        for scale in _SCALES:
            transmission = np.clip(1.0 - scale * veil, TRANSMISSION_MINIMUM, 1.0)
            image = recover_scene(haze.hazy, transmission.astype(np.float32), result.airlight)
            score = peak_signal_noise_ratio(image, haze.clear, data_range=1.0)
            # A clear photo left alone is exact; no single photo may decide the mean.
            curve.append(min(45.0, score))
        curves.append(curve)

    def mean_at(exponent: float) -> float:
        scales = np.array(ratios) ** exponent
        pairs = zip(scales, curves, strict=True)
        return float(np.mean([np.interp(scale, _SCALES, curve) for scale, curve in pairs]))

    best = max(_EXPONENTS.tolist(), key=mean_at)
    return Calibration(
        exponent=best,
        uncalibrated=mean_at(0.0),
        calibrated=mean_at(best),
        shipped=mean_at(EXPONENT),
        oracle=float(np.max(curves, axis=1).mean()),
    )
