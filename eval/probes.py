"""Experiments on one inversion: its error, the convergence of its steps, the codec's loss."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dehaze.eval.metrics import peak_signal_noise_ratio
from dehaze.inversion import InversionResult, InversionSettings, InversionTrace, denoise
from dehaze.inversion.denoising import unrevised
from dehaze.inversion.inverter import trace_of
from dehaze.inversion.reconstruction import Anchors, holds
from dehaze.inversion.step import StepMap, noised, solve_step
from dehaze.pipelines.pictures import as_pixels

if TYPE_CHECKING:
    from dehaze.pipelines.base import InversionPipeline

Array = NDArray[np.float32]


@torch.no_grad()
def codec_roundtrip(pipeline: InversionPipeline, image: Any) -> Array:
    """The photo encoded and decoded, at the working size: float32 (h, w, 3) in [0, 1]."""
    photo, codec = as_pixels(image), pipeline.codec
    return codec.decode(codec.encode(photo), codec.working_size(photo))


@torch.no_grad()
def retrace(
    pipeline: InversionPipeline,
    inversion: InversionResult,
    *,
    guidance_scale: float = 1.0,
    anchors: Anchors | None = None,
) -> Tensor:
    """Denoises an inversion under its own prompt with the network run anew.

    The result differs from ``inversion.trajectory[0]`` by the inversion's error.

    Args:
        pipeline: that made the inversion.
        inversion: from ``pipeline.invert``, or from ``EditPipeline.generate``.
        guidance_scale: classifier-free guidance g.
        anchors: what holds a guided way back to an inversion at guidance 1, from
            ``pipeline.anchor``; None for nothing.

    Returns:
        z_0, float32 (B, C, h, w).

    Raises:
        NonFiniteError: the network returned values that are not finite.
    """
    network = pipeline.prompted_network(
        inversion.table,
        inversion.own_prompt(),
        guidance_scale=guidance_scale,
        unconditional=None if anchors is None else anchors.unconditional,
    )
    return denoise(inversion, network, revise=unrevised if anchors is None else anchors.held)


def seconds_once(computed: Tensor) -> float:
    """The time in seconds, once the device has computed a tensor."""
    # An accelerator still computes when a call returns; a copy to the host waits for it.
    computed.flatten()[-1:].cpu()
    return time.perf_counter()


@dataclass(frozen=True)
class RoundTrip:
    """A photo, and the picture denoised from its inversion, both at the working size.

    Attributes:
        photo: float32 (h, w, 3) in [0, 1].
        back: likewise.
        latents: z_0 of ``back``, float32 (1, C, h, w).
        nfe: network evaluations that the mode took to prepare the way back.
        seconds: that the mode took for it.
    """

    photo: Array
    back: Array
    latents: Tensor
    nfe: int
    seconds: float

    @property
    def psnr(self) -> float:
        """PSNR of ``back`` against ``photo``, unrounded, in dB."""
        return peak_signal_noise_ratio(self.back, self.photo, data_range=1.0)


def come_back(
    pipeline: InversionPipeline,
    image: Any,
    inversion: InversionResult,
    *,
    guidance_scale: float = 1.0,
    mode: str | None = None,
) -> RoundTrip:
    """Denoises a photo's inversion under its own prompt with the network run anew.

    Args:
        pipeline: that made the inversion.
        image: the photo.
        inversion: of the photo; at guidance 1 where a mode is given.
        guidance_scale: classifier-free guidance g of the way back.
        mode: what holds the way back, see ``dehaze.inversion.reconstruction``; None or ``plain``
            for nothing.

    Raises:
        ValueError: there is no such mode, or it cannot hold the way back of this inversion.
        NonFiniteError: the network returned values that are not finite.
    """
    photo, codec = as_pixels(image), pipeline.codec
    anchors, seconds = None, 0.0
    if holds(mode):
        started = seconds_once(inversion.latents)
        anchors = pipeline.anchor(inversion, mode, guidance_scale=guidance_scale)
        seconds = seconds_once(anchors.unconditional) - started
    latents = retrace(pipeline, inversion, guidance_scale=guidance_scale, anchors=anchors)
    return RoundTrip(
        codec.reduced(photo),
        codec.decode(latents, codec.working_size(photo)),
        latents,
        0 if anchors is None else anchors.nfe,
        seconds,
    )


def reconstruct(
    pipeline: InversionPipeline,
    image: Any,
    prompt: str | None = None,
    *,
    guidance_scale: float = 1.0,
    mode: str | None = None,
    **settings: Any,
) -> tuple[Array, Array]:
    """A photo at the working size, and the picture denoised from its inversion.

    The network runs anew on the way back, under the same prompt: the two pictures differ by the
    error of the inversion and of the codec.

    Args:
        pipeline: with the model.
        image: as for ``pipeline.invert``, as are ``prompt`` and ``settings``.
        guidance_scale: classifier-free guidance g, of both ways; with a mode, of the way back.
        mode: a reconstruction mode, see ``dehaze.inversion.reconstruction``, or ``plain`` for none.
            The inversion is then at guidance 1. None for guidance on both ways.

    Returns:
        two pictures, float32 (h, w, 3) in [0, 1].
    """
    there = guidance_scale if mode is None else 1.0
    inversion = pipeline.invert(image, prompt, guidance_scale=there, **settings)
    trip = come_back(pipeline, image, inversion, guidance_scale=guidance_scale, mode=mode)
    return trip.photo, trip.back


@torch.no_grad()
def solve_steps(
    pipeline: InversionPipeline, inversion: InversionResult, settings: InversionSettings
) -> tuple[Tensor, InversionTrace]:
    """Solves each step of an inversion anew, from the z_{i-1} that the inversion has there.

    The error of a step does not reach the next one, so each step shows by itself how good a solver,
    a criterion or a bound is.

    Args:
        pipeline: that made the inversion.
        inversion: by a solver of DDIM's implicit steps.
        settings: of every step.

    Returns:
        the solutions of the steps 1 .. n, float32 (n, B, C, h, w), and how the solver fared.
    """
    network = pipeline.prompted_network(
        inversion.table, inversion.own_prompt(), guidance_scale=inversion.settings.guidance_scale
    )
    trajectory, noise = list(inversion.trajectory), list(inversion.noise)
    solutions = [
        solve_step(network, i, trajectory[:i], noise[: i - 1], settings)
        for i in range(1, inversion.steps + 1)
    ]
    trace = trace_of(solutions, network, settings)
    return torch.stack([solution.z for solution in solutions]), trace


@torch.no_grad()
def picard_paths(
    pipeline: InversionPipeline,
    inversion: InversionResult,
    i: int,
    *,
    starts: int = 5,
    iterations: int = 12,
) -> Tensor:
    """Picard iterates of step i from several starts. They meet in one point if f contracts.

    The first start is z_{i-1}; each of the others is z_0 under another draw of noise.

    Args:
        pipeline: that made the inversion.
        inversion: of one sample, by a solver of DDIM's implicit steps.
        i: the step, 1 .. n.
        starts: how many.
        iterations: how often f is applied to each.

    Returns:
        float32 (iterations + 1, starts, C, h, w), the starts first.
    """
    network = pipeline.prompted_network(
        inversion.table, inversion.own_prompt(), guidance_scale=inversion.settings.guidance_scale
    )
    clean, previous = inversion.trajectory[0], inversion.trajectory[i - 1]
    others = [noised(inversion.table, clean, i, seed=seed) for seed in range(1, starts)]
    path = [torch.cat([previous, *others])]
    f = StepMap(network, i, previous)
    # Every start is a path of the one sample.
    sample = torch.zeros(starts, dtype=torch.int64, device=previous.device)
    for _ in range(iterations):
        path.append(f(path[-1], sample))
    return torch.stack(path)
