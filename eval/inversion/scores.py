"""One way to invert, over several photos: how well they come back, and at what cost.

Each photo is inverted, then denoised under the same prompt with the network run anew. Cost is
counted in network evaluations (NFE), two for a guided one, and in seconds. Both include the
preparation of a reconstruction mode, such as null-text's fitting, but not the way back itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from dehaze.eval.inversion.methods import InversionMethod, family
from dehaze.eval.metrics import peak_signal_noise_ratio
from dehaze.eval.perceptual import PerceptualMetric
from dehaze.eval.probes import codec_roundtrip, come_back, seconds_once
from dehaze.inversion import InversionResult, InversionSettings
from dehaze.inversion.criteria import root_mean_square
from dehaze.levels import to_levels

if TYPE_CHECKING:
    from dehaze.pipelines.base import InversionPipeline

Array = NDArray[np.float32]


class Photos(Protocol):
    """Photos, float32 (H, W, 3) RGB in [0, 1] each: a list, or files that are read one by one."""

    def __len__(self) -> int:
        """How many there are."""

    def __iter__(self) -> Iterator[Array]:
        """One photo after the other; may be repeated."""


@dataclass(frozen=True)
class Judges:
    """Judges of a reconstruction beside PSNR; None for one that is left out.

    Attributes:
        lpips: the loaded metric.
        clip: CLIP's similarity of a picture, uint8 (H, W, 3), and its prompt, see
            ``dehaze.models.clip``.
    """

    lpips: PerceptualMetric | None = None
    clip: Callable[[NDArray[np.uint8], str], float] | None = None

    def distance(self, back: Array, photo: Array) -> float:
        """LPIPS of two pictures, float32 (H, W, 3) in [0, 1]; NaN where it is left out."""
        return nan if self.lpips is None else self.lpips(255.0 * back, 255.0 * photo)

    def agreement(self, picture: Array, prompt: str) -> float:
        """CLIPScore, 100 max(cos, 0), of such a picture; NaN where it is left out."""
        if self.clip is None:
            return nan
        return max(self.clip(to_levels(picture), prompt), 0.0)


NO_JUDGES = Judges()


@dataclass(frozen=True)
class InversionScore:
    """One method at one number of steps and one guidance scale: means over the photos.

    Attributes:
        method: the row.
        settings: how it inverted.
        guidance_scale: g of the way back, and of the inversion where the method has no mode.
        nfe_per_step: network evaluations a step, of the inversion and of a reconstruction mode's
            preparation; gradients are not counted.
        psnr: of the reconstruction at the working size, unrounded, in dB.
        psnr_worst: the lowest of any photo, in dB.
        lpips: LPIPS of the reconstruction; NaN where it was not asked for.
        clip: CLIPScore of the reconstruction and its prompt; NaN likewise.
        latent_error: error of z_0, as rms(z_0' - z_0) / rms(z_0).
        converged: share, in [0, 1], of the steps at which f(z) - z was evaluated and found below
            the tolerance; NaN where it was evaluated at none.
        contractive: share, in [0, 1], of the steps of known contraction constant at which it was
            below 1; NaN where it is known at none.
        seconds: time of the inversion and of a mode's preparation, gradients included, a photo.
    """

    method: InversionMethod
    settings: InversionSettings
    guidance_scale: float
    nfe_per_step: float
    psnr: float
    psnr_worst: float
    lpips: float
    clip: float
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
    """The scores of one photo; names and units as in ``InversionScore``.

    ``converged`` and ``below_one`` have an entry for each step where the answer is known.
    """

    nfe_per_step: float
    psnr: float
    lpips: float
    clip: float
    latent_error: float
    converged: list[bool]
    below_one: list[bool]
    seconds: float


def score_inversion(
    pipeline: InversionPipeline,
    photos: Photos,
    method: InversionMethod,
    *,
    steps: int,
    guidance_scale: float = 1.0,
    prompts: Sequence[str] | None = None,
    judges: Judges = NO_JUDGES,
) -> InversionScore:
    """Inverts and reconstructs every photo.

    Args:
        pipeline: with the model.
        photos: float32 (H, W, 3) RGB in [0, 1].
        method: how.
        steps: N.
        guidance_scale: classifier-free guidance g.
        prompts: what each photo shows; the model's own prompt for all when None.
        judges: what is measured beside PSNR.

    Raises:
        NonFiniteError: the network returned values that are not finite.
        ValueError: the method's mode cannot hold the way back of this inversion.
    """
    settings = method.settings(pipeline.description, steps=steps, guidance_scale=guidance_scale)
    seen = [
        _score_photo(pipeline, photo, prompt, settings, method.mode, guidance_scale, judges)
        for photo, prompt in zip(photos, own_prompts(pipeline, photos, prompts), strict=True)
    ]
    return InversionScore(
        method,
        settings,
        guidance_scale,
        nfe_per_step=_mean(one.nfe_per_step for one in seen),
        psnr=_mean(one.psnr for one in seen),
        psnr_worst=min(one.psnr for one in seen),
        lpips=_mean(one.lpips for one in seen),
        clip=_mean(one.clip for one in seen),
        latent_error=_mean(one.latent_error for one in seen),
        converged=_mean(step for one in seen for step in one.converged),
        contractive=_mean(step for one in seen for step in one.below_one),
        seconds=_mean(one.seconds for one in seen),
    )


def own_prompts(
    pipeline: InversionPipeline, photos: Photos, prompts: Sequence[str] | None
) -> Sequence[str]:
    """The prompt of each photo: the model's own where none are given."""
    return [pipeline.description.prompt] * len(photos) if prompts is None else prompts


def _score_photo(
    pipeline: InversionPipeline,
    photo: Array,
    prompt: str,
    settings: InversionSettings,
    mode: str,
    guidance_scale: float,
    judges: Judges,
) -> _PhotoScore:
    started = time.perf_counter()
    inversion = pipeline.invert(photo, prompt, settings=settings, record_attention=False)
    seconds = seconds_once(inversion.latents) - started
    trip = come_back(pipeline, photo, inversion, guidance_scale=guidance_scale, mode=mode or None)
    start = inversion.trajectory[0]
    return _PhotoScore(
        nfe_per_step=float(inversion.trace.nfe.double().mean()) + trip.nfe / inversion.steps,
        psnr=trip.psnr,
        lpips=judges.distance(trip.back, trip.photo),
        clip=judges.agreement(trip.back, prompt),
        latent_error=float(root_mean_square(trip.latents - start) / root_mean_square(start)),
        converged=_converged(inversion),
        below_one=_below_one(inversion),
        seconds=seconds + trip.seconds,
    )


def _converged(inversion: InversionResult) -> list[bool]:
    """Whether a step converged, for each step where f(z) - z was evaluated."""
    trace = inversion.trace
    return [bool(step) for step in trace.converged[~trace.remaining.isnan()]]


def _below_one(inversion: InversionResult) -> list[bool]:
    """Whether f contracted, for each step where the contraction constant is known."""
    constants = inversion.trace.contraction
    return [bool(constant < 1.0) for constant in constants[~constants.isnan()]]


@dataclass(frozen=True)
class CodecCeiling:
    """The scores of photos that were only encoded and decoded, which no inversion can exceed.

    Attributes:
        psnr: mean in dB; infinite without any loss.
        lpips, clip: means of what judges measure, as in ``InversionScore``.
    """

    psnr: float
    lpips: float
    clip: float


def codec_ceiling(
    pipeline: InversionPipeline,
    photos: Photos,
    *,
    prompts: Sequence[str] | None = None,
    judges: Judges = NO_JUDGES,
) -> CodecCeiling:
    """The codec's ceiling over photos; arguments as for ``score_inversion``."""
    found = []
    for photo, prompt in zip(photos, own_prompts(pipeline, photos, prompts), strict=True):
        back, small = codec_roundtrip(pipeline, photo), pipeline.codec.reduced(photo)
        found.append(
            CodecCeiling(
                peak_signal_noise_ratio(back, small, data_range=1.0),
                judges.distance(back, small),
                judges.agreement(back, prompt),
            )
        )
    return CodecCeiling(
        _mean(one.psnr for one in found),
        _mean(one.lpips for one in found),
        _mean(one.clip for one in found),
    )


def _mean(values: Iterable[float]) -> float:
    """The arithmetic mean; NaN of no values."""
    known = list(values)
    return float(np.mean(known)) if known else nan
