"""One way to invert, over several photos: how well they come back, and at what cost.

Each photo is inverted, then denoised under the same prompt with the network run anew. Cost is
counted in network evaluations (NFE), of which a guided one takes two, never in iterations.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dehaze.eval.inversion.methods import InversionMethod, family
from dehaze.eval.metrics import peak_signal_noise_ratio
from dehaze.eval.perceptual import PerceptualMetric
from dehaze.eval.probes import codec_roundtrip, come_back
from dehaze.inversion import InversionResult, InversionSettings
from dehaze.inversion.criteria import root_mean_square

if TYPE_CHECKING:
    from dehaze.pipelines.base import InversionPipeline

Array = NDArray[np.float32]


@dataclass(frozen=True)
class InversionScore:
    """One method at one number of steps and one guidance scale: means over the photos.

    Attributes:
        method: the row.
        settings: how it inverted.
        guidance_scale: g of the way back, and of the inversion where the method has no mode.
        nfe_per_step: network evaluations of the inversion, a step. What a reconstruction mode takes
            to prepare the way back is counted to them.
        psnr: of the reconstruction at the working size, unrounded, in dB.
        psnr_worst: the lowest of any photo, in dB.
        lpips: LPIPS of the reconstruction; NaN where it was not asked for.
        latent_error: error of z_0, as rms(z_0' - z_0) / rms(z_0).
        converged: share, in [0, 1], of the steps at which f(z) - z was evaluated and found below
            the tolerance; NaN where it was evaluated at none.
        contractive: share, in [0, 1], of the steps of known contraction constant at which it was
            below 1; NaN where it is known at none.
        seconds: time of the inversion, a photo.
    """

    method: InversionMethod
    settings: InversionSettings
    guidance_scale: float
    nfe_per_step: float
    psnr: float
    psnr_worst: float
    lpips: float
    latent_error: float
    converged: float
    contractive: float
    seconds: float

    @property
    def family(self) -> str:
        """The curve of the plot that it belongs to."""
        return family(self.settings, self.method.mode)


@dataclass(frozen=True)
class _PhotoScore:
    """What one photo gave; names and units as in ``InversionScore``.

    ``converged`` and ``below_one`` have an entry for each step where the answer is known.
    """

    nfe_per_step: float
    psnr: float
    lpips: float
    latent_error: float
    converged: list[bool]
    below_one: list[bool]
    seconds: float


def score_inversion(
    pipeline: InversionPipeline,
    photos: Sequence[Array],
    method: InversionMethod,
    *,
    steps: int,
    guidance_scale: float = 1.0,
    lpips: PerceptualMetric | None = None,
) -> InversionScore:
    """Inverts and reconstructs every photo.

    Args:
        pipeline: with the model.
        photos: float32 (H, W, 3) RGB in [0, 1].
        method: how.
        steps: N.
        guidance_scale: classifier-free guidance g.
        lpips: the loaded metric; None to leave it out.

    Raises:
        NonFiniteError: the network returned values that are not finite.
        ValueError: the method's mode cannot hold the way back of this inversion.
    """
    settings = method.settings(pipeline.description, steps=steps, guidance_scale=guidance_scale)
    seen = [
        _score_photo(pipeline, photo, settings, method.mode, guidance_scale, lpips)
        for photo in photos
    ]
    return InversionScore(
        method,
        settings,
        guidance_scale,
        nfe_per_step=_mean(one.nfe_per_step for one in seen),
        psnr=_mean(one.psnr for one in seen),
        psnr_worst=min(one.psnr for one in seen),
        lpips=_mean(one.lpips for one in seen),
        latent_error=_mean(one.latent_error for one in seen),
        converged=_mean(step for one in seen for step in one.converged),
        contractive=_mean(step for one in seen for step in one.below_one),
        seconds=_mean(one.seconds for one in seen),
    )


def _score_photo(
    pipeline: InversionPipeline,
    photo: Array,
    settings: InversionSettings,
    mode: str,
    guidance_scale: float,
    lpips: PerceptualMetric | None,
) -> _PhotoScore:
    started = time.perf_counter()
    inversion = pipeline.invert(photo, settings=settings, record_attention=False)
    seconds = time.perf_counter() - started
    trip = come_back(pipeline, photo, inversion, guidance_scale=guidance_scale, mode=mode or None)
    start = inversion.trajectory[0]
    return _PhotoScore(
        nfe_per_step=float(inversion.trace.nfe.double().mean()) + trip.nfe / inversion.steps,
        psnr=trip.psnr,
        lpips=nan if lpips is None else lpips(255.0 * trip.back, 255.0 * trip.photo),
        latent_error=float(root_mean_square(trip.latents - start) / root_mean_square(start)),
        converged=_converged(inversion),
        below_one=_below_one(inversion),
        seconds=seconds,
    )


def _converged(inversion: InversionResult) -> list[bool]:
    """Whether a step converged, for each step where f(z) - z was evaluated."""
    trace = inversion.trace
    return [bool(step) for step in trace.converged[~trace.remaining.isnan()]]


def _below_one(inversion: InversionResult) -> list[bool]:
    """Whether f contracted, for each step where the contraction constant is known."""
    constants = inversion.trace.contraction
    return [bool(constant < 1.0) for constant in constants[~constants.isnan()]]


def codec_ceiling(pipeline: InversionPipeline, photos: Iterable[Array]) -> float:
    """Mean PSNR in dB of photos that were only encoded and decoded; infinite without any loss."""
    return _mean(
        peak_signal_noise_ratio(
            codec_roundtrip(pipeline, photo), pipeline.codec.reduced(photo), data_range=1.0
        )
        for photo in photos
    )


def _mean(values: Iterable[float]) -> float:
    """The arithmetic mean; NaN of no values."""
    known = list(values)
    return float(np.mean(known)) if known else nan
