"""Ways to make classifier-free guidance come back to the picture that was inverted.

An inversion under the source prompt alone (guidance 1) is undone under guidance g > 1 only by
accident: eps = eps_u + g (eps_c - eps_u) is not the noise that made the step. Each mode prepares
something that pulls the guided path back: other unconditional embeddings, or an offset a step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from dehaze.inversion.result import InversionResult
from dehaze.inversion.solvers import SOLVERS, Solver
from dehaze.registry import Registry


class GuidedNetwork(Protocol):
    """A guided network whose embeddings can be exchanged: ``dehaze.network.PromptedNetwork``."""

    conditional: Tensor
    unconditional: Tensor
    guidance_scale: float | Tensor
    evaluations: int

    def __call__(self, latents: Tensor, i: int, index: Tensor) -> Tensor:
        """The guided noise at step i of the samples at the positions ``index``."""

    def noise_under(self, embedding: Tensor, latents: Tensor, i: int) -> Tensor:
        """The noise at step i under an embedding (1, L, D), without guidance."""


PLAIN = "plain"
"""The way back that nothing holds: what every mode is measured against."""

_INNER_STEPS = 10


@dataclass(frozen=True)
class Anchors:
    """What keeps n guided denoising steps of B samples on the inverted path.

    Attributes:
        unconditional: (n, B, L, D), the unconditional embedding at each step;
            ``unconditional[i - 1]`` belongs to step i.
        offsets: (n, B, C, H, W), added to z_{i-1} after step i of the source: of a way back under
            the source prompt, never of an edit.
        nfe: network evaluations a sample that the preparation took, gradients not counted.
        attention: what the attention layers computed for the source at the inverted latents, as in
            ``InversionResult.attention``; empty where the mode does not look there.
    """

    unconditional: Tensor
    offsets: Tensor
    nfe: int = 0
    attention: dict[str, Tensor] = field(default_factory=dict)

    def held(self, i: int, latents: Tensor, noise: Tensor) -> Tensor:
        """z_{i-1} with the offset of step i, as ``dehaze.inversion.denoise`` takes it."""
        return latents + self.offsets[i - 1]


@dataclass(frozen=True)
class ReconstructionMode:
    """A registered mode.

    Attributes:
        anchor: the function.
        cost: of the preparation, in network evaluations (NFE).
        source: where it was published.
    """

    anchor: Callable[[InversionResult, GuidedNetwork], Anchors]
    cost: str
    source: str

    def prepare(self, inversion: InversionResult, network: GuidedNetwork) -> Anchors:
        """The anchors of an inversion.

        Args:
            inversion: at guidance 1, along DDIM's trajectory.
            network: under the source prompt, at the guidance of the way back.

        Raises:
            ValueError: the inversion has a trajectory of another sampler, or was guided.
            NonFiniteError: the network returned a value that is not finite.
        """
        settings = inversion.settings
        if not isinstance(SOLVERS.get(settings.solver), Solver):
            known = ", ".join(
                name for name in SOLVERS.names() if isinstance(SOLVERS.get(name), Solver)
            )
            raise ValueError(
                f"a reconstruction mode holds DDIM's trajectory, and {settings.solver} inverts "
                f"another: choose one of {known}"
            )
        if settings.guidance_scale != 1.0:
            raise ValueError(
                "a reconstruction mode holds an inversion at guidance 1, and this one is at "
                f"{settings.guidance_scale:g}: invert at guidance 1"
            )
        before = network.evaluations
        anchors = self.anchor(inversion, network)
        return replace(anchors, nfe=network.evaluations - before)


def null_text(inversion: InversionResult, network: GuidedNetwork) -> Anchors:
    """Null-text inversion: one unconditional embedding a step, fitted to the inverted path.

    From i = N down, with j = N - i and z the guided path so far, Adam with learning rate
    1e-2 (1 - j / 100) minimises the mean square of D_i(z, e) - z_{i-1} over e, at most 10 times,
    and stops below 1e-5 + 2e-5 j. D_i is DDIM's guided step, z_{i-1} the inverted latent. The next
    step starts from the embedding found.

    Source: NTI, arXiv 2211.09794, section 3.2, with the settings of its published code.
    """
    table, guided, g = inversion.table, network.unconditional, network.guidance_scale
    z = inversion.latents
    found: list[Tensor] = []
    for i in range(inversion.steps, 0, -1):
        j = inversion.steps - i
        target = inversion.trajectory[i - 1]
        with torch.no_grad():
            noise = network.noise_under(network.conditional, z, i)
        embedding = guided.detach().clone().requires_grad_()
        optimiser = torch.optim.Adam([embedding], lr=1e-2 * max(0.0, 1.0 - j / 100.0))
        for _ in range(_INNER_STEPS):
            with torch.enable_grad():
                null = network.noise_under(embedding, z, i)
                back = table.denoise_step(z, null + g * (noise - null), i)
                loss = F.mse_loss(back, target)
                (embedding.grad,) = torch.autograd.grad(loss, [embedding])
            optimiser.step()
            if float(loss.detach()) < 1e-5 + 2e-5 * j:
                break
        guided = embedding.detach()
        found.insert(0, guided)
        with torch.no_grad():
            null = network.noise_under(guided, z, i)
        z = table.denoise_step(z, null + g * (noise - null), i)
    return Anchors(torch.stack(found), torch.zeros_like(inversion.noise))


def negative_prompt(inversion: InversionResult, network: GuidedNetwork) -> Anchors:
    """Negative-prompt inversion: the source prompt takes the empty prompt's place, at no cost.

    Under the source prompt eps_u = eps_c, and guidance has no effect: the way back is that of
    guidance 1.

    Source: NPI, arXiv 2305.16807.
    """
    steps = inversion.steps
    return Anchors(network.conditional.expand(steps, -1, -1, -1), torch.zeros_like(inversion.noise))


@torch.no_grad()
def direct(inversion: InversionResult, network: GuidedNetwork) -> Anchors:
    """Direct inversion: what guidance loses at each step of the inverted path is added again.

    offset_i = z_{i-1} - D_i(z_i) with the inverted z, D_i DDIM's guided step under the source
    prompt. 2 NFE a step. As in the published code the offset goes to the source alone, which so
    runs along the inverted path; an edit takes the source's attention from there and no offset.

    Source: Direct Inversion (PnP Inversion), arXiv 2310.01506, algorithm 1, and its code.
    """
    table, path = inversion.table, inversion.trajectory
    everyone = torch.arange(path.shape[1], device=path.device)
    offsets = [
        path[i - 1] - table.denoise_step(path[i], network(path[i], i, everyone), i)
        for i in range(1, inversion.steps + 1)
    ]
    empty = network.unconditional.expand(inversion.steps, -1, -1, -1)
    return Anchors(empty, torch.stack(offsets))


RECONSTRUCTION_MODES: Registry[ReconstructionMode] = Registry("reconstruction mode")
RECONSTRUCTION_MODES.register(
    "null-text",
    ReconstructionMode(
        null_text, "up to 12 NFE a step, 10 of them with gradients", "NTI, arXiv 2211.09794"
    ),
)
RECONSTRUCTION_MODES.register(
    "negative-prompt", ReconstructionMode(negative_prompt, "0 NFE", "NPI, arXiv 2305.16807")
)
RECONSTRUCTION_MODES.register(
    "direct", ReconstructionMode(direct, "2 NFE a step", "Direct Inversion, arXiv 2310.01506")
)
