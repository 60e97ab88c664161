"""Fits how far the darkest pixels are trusted: the three weights of ``dehaze.recovery.density``."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from dehaze.datasets.synthesis import RenderedHaze
from dehaze.eval.metrics import peak_signal_noise_ratio
from dehaze.pipelines.dehaze import DehazePipeline
from dehaze.recovery.density import EXPONENT, REGION_SHARE, SHARE
from dehaze.recovery.recover import Array, calibrated_transmission, subdue_colours
from dehaze.recovery.scattering import TRANSMISSION_MINIMUM, recover_scene

_SHARES = (0.0, 0.2, 0.4, 0.5, 0.7, 1.0)
_REGION_SHARES = (0.0, 0.2, 0.3, 0.4, 0.6)
_EXPONENTS = (0.0, 0.4, 0.8, 1.0)
_SCALES = np.linspace(0.0, 2.5, 26)


@dataclass(frozen=True)
class Calibration:
    """The best weights over some renderings; PSNR in dB, over RGB in [0, 1], means.

    Attributes:
        share: w, the darkest pixels' share in the veil.
        region_share: u, of the ratio of the two over a region.
        exponent: k of the scale s = rho^k.
        uncalibrated: PSNR with the veil as the model found it.
        calibrated: PSNR with the veil weighed by w, u and k, and skies left as they are.
        shipped: likewise, with the weights of ``dehaze.recovery.density``.
        oracle: PSNR with the model's veil times the number that each photo's truth would choose.
        grid: PSNR by "w u k", for all that were tried.
    """

    share: float
    region_share: float
    exponent: float
    uncalibrated: float
    calibrated: float
    shipped: float
    oracle: float
    grid: dict[str, float]


def calibrate(pipeline: DehazePipeline, rendered: list[RenderedHaze]) -> Calibration:
    """Tries the weights of a grid on renderings that the model has not seen."""
    tried = [*product(_SHARES, _REGION_SHARES, _EXPONENTS), (SHARE, REGION_SHARE, EXPONENT)]
    scores, oracles, plain = [], [], []
    for haze in rendered:
        result = pipeline(haze.hazy, recovery="physics")
        assert result.transmission is not None
        assert result.airlight is not None
        veil, airlight = np.asarray(1.0 - result.transmission), result.airlight
        weighed = [
            calibrated_transmission(
                haze.hazy, veil, airlight, share=share, region_share=region, exponent=exponent
            )
            for share, region, exponent in tried
        ]
        scores.append([_score(haze, candidate, airlight) for candidate in weighed])
        scaled = [np.clip(1.0 - scale * veil, TRANSMISSION_MINIMUM, 1.0) for scale in _SCALES]
        oracles.append(max(_score(haze, candidate, airlight) for candidate in scaled))
        plain.append(_score(haze, result.transmission, airlight))
    means = np.mean(scores, axis=0).tolist()
    best = int(np.argmax(means[:-1]))
    return Calibration(
        share=tried[best][0],
        region_share=tried[best][1],
        exponent=tried[best][2],
        uncalibrated=float(np.mean(plain)),
        calibrated=means[best],
        shipped=means[-1],
        oracle=float(np.mean(oracles)),
        grid={
            " ".join(map(str, weights)): mean
            for weights, mean in zip(tried[:-1], means[:-1], strict=True)
        },
    )


def _score(haze: RenderedHaze, transmission: Array, airlight: Array) -> float:
    exact = transmission.astype(np.float32)
    image = subdue_colours(recover_scene(haze.hazy, exact, airlight), exact)
    # A clear photo left alone is exact; no single photo may decide the mean.
    return min(45.0, peak_signal_noise_ratio(image, haze.clear, data_range=1.0))
