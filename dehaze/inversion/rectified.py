"""RF-Solver, FireFlow and RF-Inversion: flows inverted without solving an implicit step.

All take explicit steps to noise, and steps of their own on the way back. None comes back exactly.
RF-Solver's and FireFlow's steps are of second order, RF-Inversion's are drawn to the picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from dehaze.inversion.denoising import WayBack, take_steps_back
from dehaze.inversion.flow import FlowTable
from dehaze.inversion.noise_network import NoiseNetwork
from dehaze.inversion.result import InversionResult
from dehaze.inversion.settings import InversionSettings
from dehaze.inversion.solvers import SOLVERS, Sampler
from dehaze.inversion.trace import InversionTrace

# Gamma, eta and the share of controlled steps on the way back, of RF-Inversion's published code.
_GAMMA, _ETA, _CONTROLLED = 0.5, 1.0, 0.25
_TARGET_SEED = 0


@runtime_checkable
class FlowNetwork(NoiseNetwork, Protocol):
    """A network of a flow under one prompt: ``dehaze.network.PromptedNetwork``."""

    def at(self, latents: Tensor, i: int, index: Tensor, sigma: float) -> Tensor:
        """v(z, sigma) at any sigma in [0, 1] during step i; other arguments as for a call."""


def rf_solver_invert(
    network: NoiseNetwork,
    latents: Tensor,
    depth: int,
    on_step: Callable[[int], None] = lambda i: None,
) -> InversionResult:
    """RF-Solver's inversion: the explicit midpoint rule, from the picture to noise.

    With h = sigma_i - sigma_{i-1}, the second-order Taylor step
    z_i = z_{i-1} + h v + h^2 / 2 v', whose derivative along the path is the difference quotient
    v' = (v_half - v) / (h / 2) of v = v(z_{i-1}, sigma_{i-1}) and
    v_half = v(z_{i-1} + h / 2 v, sigma_{i-1} + h / 2). That is z_i = z_{i-1} + h v_half.

    Args:
        network: under the source prompt.
        latents: z_0, (B, C, H, W).
        depth: steps to invert.
        on_step: called with i after each step.

    Source: RF-Solver, arXiv 2411.04746, eq. 9 to 11, and its code.
    """
    flow, table = _of_flow(network)
    everyone = torch.arange(latents.shape[0], device=latents.device)
    trajectory = [latents]
    for i in range(1, depth + 1):
        z, low, high = trajectory[-1], table.sigma(i - 1), table.sigma(i)
        half = (high - low) / 2.0
        v = flow.at(z, i, everyone, low)
        trajectory.append(z + (high - low) * flow.at(z + half * v, i, everyone, low + half))
        on_step(i)
    return _result("rf-solver", network, trajectory, [2] * depth)


@dataclass
class _OverFlow:
    """A velocity that is made of a network's; see ``NoiseNetwork``."""

    network: FlowNetwork

    @property
    def table(self) -> FlowTable:
        """The schedule."""
        return _of_flow(self.network)[1]

    @property
    def cost(self) -> int:
        """Network evaluations of one call."""
        return self.network.cost


@dataclass
class Midpoint(_OverFlow):
    """RF-Solver's step back as the velocity of an Euler step: v at the middle of the step.

    Attributes:
        network: that is evaluated, twice a step.
    """

    @property
    def cost(self) -> int:
        """Network evaluations of one call."""
        return 2 * self.network.cost

    def __call__(self, latents: Tensor, i: int, index: Tensor) -> Tensor:
        """v(z - h / 2 v(z, sigma_i), sigma_i - h / 2), with h = sigma_i - sigma_{i-1}."""
        high = self.table.sigma(i)
        half = (high - self.table.sigma(i - 1)) / 2.0
        v = self.network.at(latents, i, index, high)
        return self.network.at(latents - half * v, i, index, high - half)


def rf_solver_denoise(inversion: InversionResult, way: WayBack) -> Tensor:
    """The way back of ``rf_solver_invert``: z_0, by the same rule from noise to the picture."""
    return take_steps_back(inversion, _by_rule(way, Midpoint), inversion.steps)


def fireflow_invert(
    network: NoiseNetwork,
    latents: Tensor,
    depth: int,
    on_step: Callable[[int], None] = lambda i: None,
) -> InversionResult:
    """FireFlow's inversion: RF-Solver's midpoint rule at one evaluation a step.

    Each step z_i = z_{i-1} + h v_half takes the v_half of the step before for its
    v(z_{i-1}, sigma_{i-1}), see ``rf_solver_invert``. Only the first step evaluates that.

    Args:
        network: under the source prompt.
        latents: z_0, (B, C, H, W).
        depth: steps to invert.
        on_step: called with i after each step.

    Source: FireFlow, arXiv 2412.07517, algorithm 1, and its code.
    """
    flow, table = _of_flow(network)
    everyone = torch.arange(latents.shape[0], device=latents.device)
    trajectory, v = [latents], flow.at(latents, 1, everyone, table.sigma(0))
    for i in range(1, depth + 1):
        z, low, high = trajectory[-1], table.sigma(i - 1), table.sigma(i)
        half = (high - low) / 2.0
        v = flow.at(z + half * v, i, everyone, low + half)
        trajectory.append(z + (high - low) * v)
        on_step(i)
    return _result("fireflow", network, trajectory, [2] + [1] * (depth - 1))


@dataclass
class ReusedMidpoint(_OverFlow):
    """FireFlow's step back as the velocity of an Euler step: v at the middle of the step.

    Its calls are those of one way back, in their order.

    Attributes:
        network: that is evaluated, once a step, and once more where there is no ``last``.
        last: the velocity of the step before, (B, C, H, W); None before the first, and after
            latents were revised.
    """

    last: Tensor | None = None

    def __call__(self, latents: Tensor, i: int, index: Tensor) -> Tensor:
        """As ``Midpoint``, with the velocity of the step before for v(z, sigma_i)."""
        high = self.table.sigma(i)
        half = (high - self.table.sigma(i - 1)) / 2.0
        v = self.network.at(latents, i, index, high) if self.last is None else self.last
        self.last = self.network.at(latents - half * v, i, index, high - half)
        return self.last


@dataclass(frozen=True)
class _Forgetting:
    """What follows each step of FireFlow; latents that it changes are not those of the velocity.

    Attributes:
        revise: as of ``WayBack``.
        rules: whose velocities are dropped, so that the next step evaluates them.
    """

    revise: Callable[[int, Tensor, Tensor], Tensor]
    rules: Sequence[NoiseNetwork | None]

    def __call__(self, i: int, latents: Tensor, noise: Tensor) -> Tensor:
        revised = self.revise(i, latents, noise)
        if not torch.equal(revised, latents):
            for rule in self.rules:
                if isinstance(rule, ReusedMidpoint):
                    rule.last = None
        return revised


def fireflow_denoise(inversion: InversionResult, way: WayBack) -> Tensor:
    """The way back of ``fireflow_invert``: z_0, by the same rule from noise to the picture.

    A step after latents were revised, as by a callback or a blend, takes two evaluations.
    """
    by_rule = _by_rule(way, ReusedMidpoint)
    revise = _Forgetting(way.revise, (by_rule.network, by_rule.source_network))
    return take_steps_back(inversion, replace(by_rule, revise=revise), inversion.steps)


def _by_rule(way: WayBack, rule: type[Midpoint] | type[ReusedMidpoint]) -> WayBack:
    source = way.source_network
    return replace(
        way,
        network=rule(_of_flow(way.network)[0]),
        source_network=None if source is None else rule(_of_flow(source)[0]),
    )


def rf_inversion_invert(
    network: NoiseNetwork,
    latents: Tensor,
    depth: int,
    on_step: Callable[[int], None] = lambda i: None,
    *,
    gamma: float = _GAMMA,
) -> InversionResult:
    """RF-Inversion's controlled forward ODE, as its published code discretises it.

    dY_t = [u(Y_t, t) + g (u(Y_t, t | y) - u(Y_t, t))] dt, with u(Y_t, t | y) = (y - Y_t) / (1 - t)
    and a drawn noise y. The paper takes even steps. Its code takes t_j = j / (n + 1) for step j = 0
    .. n - 1, and for dt the widths of the schedule's steps from the noisy end, so the sigma told to
    the network is not the schedule's.

    Args:
        network: under the source prompt; the code's default is the empty one.
        latents: z_0, (B, C, H, W).
        depth: n, steps to invert.
        on_step: called with i after each step.
        gamma: g, 0 for the network alone, 1 for the line to y.

    Source: RF-Inversion, arXiv 2410.10792, eq. 8 and algorithm 1, and its code.
    """
    flow, table = _of_flow(network)
    everyone = torch.arange(latents.shape[0], device=latents.device)
    generator = torch.Generator().manual_seed(_TARGET_SEED)
    drawn = torch.randn(latents.shape[1:], generator=generator, dtype=latents.dtype)
    target, trajectory = drawn.to(latents.device), [latents]
    for j in range(depth):
        z, t = trajectory[-1], j / (depth + 1)
        width = table.sigma(depth - j) - table.sigma(depth - j - 1)
        u = flow.at(z, j + 1, everyone, t)
        trajectory.append(z + width * (u + gamma * ((target - z) / (1.0 - t) - u)))
        on_step(j + 1)
    return _result("rf-inversion", network, trajectory, [1] * depth)


@dataclass
class Controlled(_OverFlow):
    """RF-Inversion's controlled velocity of the way back.

    It is v + e ((z - z_0) / sigma_i - v) in the first quarter of the steps, and v in the others.
    With e = 1, as in the published code, it leads straight to the picture.

    Attributes:
        network: gives v.
        clean: z_0, the inverted picture, (B, C, H, W).
        first: n, the step that the way back starts with.
        eta: e.
    """

    clean: Tensor
    first: int
    eta: float = _ETA

    def __call__(self, latents: Tensor, i: int, index: Tensor) -> Tensor:
        v = self.network(latents, i, index)
        if self.first - i >= int(_CONTROLLED * self.table.steps):
            return v
        straight = (latents - self.clean[index]) / self.table.sigma(i)
        return v + self.eta * (straight - v)


def rf_inversion_denoise(inversion: InversionResult, way: WayBack) -> Tensor:
    """RF-Inversion's controlled reverse ODE: z_0.

    Source: RF-Inversion, arXiv 2410.10792, eq. 13 and algorithm 2, and its code.
    """
    network = Controlled(_of_flow(way.network)[0], inversion.trajectory[0], inversion.steps)
    return take_steps_back(inversion, replace(way, network=network), inversion.steps)


def _of_flow(network: NoiseNetwork) -> tuple[FlowNetwork, FlowTable]:
    """The network and its schedule, typed as a flow's.

    Raises:
        TypeError: they are of another process, which ``check_served`` refuses before.
    """
    if not isinstance(network, FlowNetwork) or not isinstance(network.table, FlowTable):
        raise TypeError("RF-Solver, FireFlow and RF-Inversion are of flow matching")
    return network, network.table


def _result(
    name: str, network: NoiseNetwork, trajectory: list[Tensor], evaluations: Sequence[int]
) -> InversionResult:
    """The result of an explicit inversion.

    Args:
        name: of the solver.
        network: under the source prompt.
        trajectory: z_0 to z_n, each (B, C, H, W).
        evaluations: calls of the network in each of the n steps.
    """
    table, depth = network.table, len(trajectory) - 1
    trace = InversionTrace.unmeasured(depth, trajectory[0], evaluations=network.cost)
    trace = replace(trace, nfe=trace.nfe * torch.tensor(evaluations)[:, None])
    noise = [table.noise_of_step(trajectory[i], trajectory[i - 1], i) for i in range(1, depth + 1)]
    return InversionResult(
        torch.stack(trajectory),
        torch.stack(noise),
        table,
        trace,
        InversionSettings(steps=table.steps, depth=depth).changed(solver=name),
    )


SOLVERS.register(
    "rf-solver",
    Sampler(
        rf_solver_invert,
        rf_solver_denoise,
        "2 NFE a step",
        "RF-Solver, arXiv 2411.04746",
        process="flow",
    ),
)
SOLVERS.register(
    "fireflow",
    Sampler(
        fireflow_invert,
        fireflow_denoise,
        "1 NFE a step, and 1",
        "FireFlow, arXiv 2412.07517",
        process="flow",
    ),
)
SOLVERS.register(
    "rf-inversion",
    Sampler(
        rf_inversion_invert,
        rf_inversion_denoise,
        "1 NFE a step",
        "RF-Inversion, arXiv 2410.10792, as its published code runs",
        process="flow",
    ),
)
