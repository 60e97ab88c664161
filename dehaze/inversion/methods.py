"""Every way to invert, in one registry: the implicit solvers are one family, EDICT and BDIA others.

A method is a pair of functions, there and back. The implicit solvers differ in how they solve
DDIM's step, and share DDIM's way back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from dehaze.inversion.exact import bdia_denoise, bdia_invert, edict_denoise, edict_invert
from dehaze.inversion.implicit import StepSettings, ddim_denoise, implicit_invert
from dehaze.inversion.result import AfterStep, BlendedNoise, InversionResult, NoiseNetwork
from dehaze.inversion.schedule import DDIMTable
from dehaze.inversion.solvers import get_solver, list_solvers

Inversion = Callable[
    [DDIMTable, NoiseNetwork, Tensor, int, Callable[[int], None], StepSettings], InversionResult
]
"""(table, network, z_0 (B, C, H, W), depth, called after each step, settings) -> inversion."""

Denoising = Callable[[InversionResult, BlendedNoise, AfterStep], Tensor]
"""(inversion, noise to denoise with, what becomes of each latent) -> z_0 (B, C, H, W)."""


@dataclass(frozen=True)
class InversionMethod:
    """A registered method and what a user should know of it.

    Attributes:
        name: as it is called in settings.
        invert: there.
        denoise: and back, by the same sampler.
        cost: in network evaluations (NFE).
        exact: whether it comes back to rounding whatever the network does.
        needs_grad: whether the network must be differentiable.
        source: where it was published.
        iterates: whether it solves implicit steps, and settings of these have an effect.
    """

    name: str
    invert: Inversion
    denoise: Denoising
    cost: str
    exact: bool
    needs_grad: bool
    source: str
    iterates: bool


def _edict(
    table: DDIMTable,
    network: NoiseNetwork,
    latents: Tensor,
    depth: int,
    on_step: Callable[[int], None],
    settings: StepSettings,
) -> InversionResult:
    return edict_invert(table, network, latents, depth, on_step)


def _bdia(
    table: DDIMTable,
    network: NoiseNetwork,
    latents: Tensor,
    depth: int,
    on_step: Callable[[int], None],
    settings: StepSettings,
) -> InversionResult:
    return bdia_invert(table, network, latents, depth, on_step)


def _implicit(name: str) -> InversionMethod:
    solver = get_solver(name)
    return InversionMethod(
        name,
        partial(implicit_invert, solver=name),
        ddim_denoise,
        solver.cost,
        exact=False,
        needs_grad=False,
        source=solver.source,
        iterates=True,
    )


METHODS: dict[str, InversionMethod] = {
    method.name: method
    for method in (
        *(_implicit(name) for name in list_solvers()),
        InversionMethod(
            "edict",
            _edict,
            edict_denoise,
            "2 NFE a step",
            exact=True,
            needs_grad=False,
            source="EDICT, arXiv 2211.12446",
            iterates=False,
        ),
        InversionMethod(
            "bdia",
            _bdia,
            bdia_denoise,
            "1 NFE a step",
            exact=True,
            needs_grad=False,
            source="BDIA, arXiv 2307.10829",
            iterates=False,
        ),
    )
}


def list_methods() -> list[str]:
    """The names of all inversion methods, those of the implicit solvers among them."""
    return list(METHODS)


def get_method(name: str) -> InversionMethod:
    """The inversion method of that name.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    if name not in METHODS:
        raise ValueError(f"unknown inversion method {name!r}: there are {', '.join(METHODS)}")
    return METHODS[name]
