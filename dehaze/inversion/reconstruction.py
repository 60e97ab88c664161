"""Reconstruction modes: ways back under guidance from an inversion at guidance 1.

Under guidance g > 1 a step's noise eps_u + g (eps_c - eps_u) is not the noise that the inversion
found, and the way back ends at another picture. A mode holds the way back to the inverted path by
an unconditional embedding, or an offset, for each step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeGuard

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

    def recorded_noise(self, latents: Tensor, i: int) -> Tensor:
        """The noise at step i under the prompt, without guidance; its attention is recorded."""


PLAIN = "plain"
"""The name of the mode that holds nothing."""


def mode_names() -> list[str]:
    """``PLAIN`` and the names of ``RECONSTRUCTION_MODES``."""
    return [PLAIN, *RECONSTRUCTION_MODES.names()]


def holds(mode: str | None) -> TypeGuard[str]:
    """Whether this mode holds denoising to the inverted path."""
    return mode is not None and mode != PLAIN


def check_mode(mode: str | None, guidance_scale: float) -> None:
    """Checks that the mode exists and has an effect.

    Args:
        mode: ``PLAIN``, one of ``RECONSTRUCTION_MODES``, or None for no mode.
        guidance_scale: g, of the way back.

    Raises:
        UnknownNameError: there is no such mode.
        ValueError: g is 1, and the mode would change nothing.
    """
    if not holds(mode):
        return
    RECONSTRUCTION_MODES.get(mode)
    if guidance_scale == 1.0:
        raise ValueError(f"mode {mode} undoes what guidance breaks: give a guidance_scale above 1")


def records_attention(mode: str | None) -> bool:
    """Whether a mode records the source's attention on the way back, in place of the inversion's.

    Raises:
        UnknownNameError: there is no such mode.
    """
    return holds(mode) and RECONSTRUCTION_MODES.get(mode).records


_INNER_STEPS = 10


@dataclass(frozen=True)
class Anchors:
    """Embeddings or offsets that keep n guided denoising steps of B samples on the inverted path.

    Attributes:
        unconditional: (n, B, L, D), the unconditional embedding at each step, or (n, 1, L, D) where
            all samples have the same; ``unconditional[i - 1]`` belongs to step i.
        offsets: (n, B, C, H, W), added to z_{i-1} after step i of a way back under the source
            prompt. An edit gets none.
        nfe: network evaluations of the preparation, for each sample, the most where they differ;
            gradients are not counted.
        attention: the source's attention at the inverted latents, as in
            ``InversionResult.attention``; empty where the mode does not record it.
    """

    unconditional: Tensor
    offsets: Tensor
    nfe: int = 0
    attention: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of_batch(cls, samples: Sequence[Anchors]) -> Anchors:
        """The anchors of one batch, from those of its samples, (n, 1, ...) each."""
        return cls(
            torch.cat([one.unconditional for one in samples], dim=1),
            torch.cat([one.offsets for one in samples], dim=1),
            max(one.nfe for one in samples),
            {
                name: torch.cat([one.attention[name] for one in samples])
                for name in samples[0].attention
            },
        )

    def held(self, i: int, latents: Tensor, noise: Tensor) -> Tensor:
        """z_{i-1} with the offset of step i, as ``dehaze.inversion.denoise`` takes it."""
        return latents + self.offsets[i - 1]


@dataclass(frozen=True)
class ReconstructionMode:
    """A registered mode.

    Attributes:
        anchor: prepares the anchors.
        cost: of the preparation, in words, in network evaluations (NFE).
        source: where it was published.
        records: whether the preparation takes the source's way back, and records its attention
            there.
    """

    anchor: Callable[[InversionResult, GuidedNetwork], Anchors]
    cost: str
    source: str
    records: bool = False

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
        check_solver(settings.solver)
        if settings.guidance_scale != 1.0:
            raise ValueError(
                "a reconstruction mode holds an inversion at guidance 1, and this one is at "
                f"{settings.guidance_scale:g}: invert at guidance 1"
            )
        before = network.evaluations
        anchors = self.anchor(inversion, network)
        return replace(anchors, nfe=network.evaluations - before)


def check_solver(solver: str) -> None:
    """Raises ``ValueError`` where no mode can hold the solver's trajectory."""
    if not isinstance(SOLVERS.get(solver), Solver):
        known = ", ".join(name for name in SOLVERS.names() if isinstance(SOLVERS.get(name), Solver))
        raise ValueError(
            f"a reconstruction mode holds DDIM's trajectory, and {solver} inverts another: choose "
            f"one of {known}"
        )


def null_text(inversion: InversionResult, network: GuidedNetwork) -> Anchors:
    """Null-text inversion: an unconditional embedding for each step, fitted to the inverted path.

    From i = N down to 1, with z the latent that the guided way back has reached, Adam minimises the
    mean square of D_i(z, e) - z_{i-1} over the embedding e. D_i is DDIM's guided step, z_{i-1} the
    inverted latent. With j = N - i, the learning rate is 1e-2 (1 - j / 100); there are at most 10
    iterations, and none after a loss below 1e-5 + 2e-5 j. The next step starts from the embedding
    found. The source's attention is recorded at z, as in the published code.

    An embedding is fitted to one picture: the samples of a batch are fitted one by one.

    Raises:
        ValueError: the inversion is of several samples.

    Source: NTI, arXiv 2211.09794, section 3.2, with the settings of its published code.
    """
    if inversion.latents.shape[0] != 1:
        raise ValueError("null-text fits an embedding to one picture: give one sample of the batch")
    table, g = inversion.table, network.guidance_scale
    # In float32 whatever the network's precision: half precision would lose Adam's steps.
    guided = network.unconditional.float()
    z = inversion.latents
    found: list[Tensor] = []
    for i in range(inversion.steps, 0, -1):
        j = inversion.steps - i
        target = inversion.trajectory[i - 1]
        with torch.no_grad():
            noise = network.recorded_noise(z, i)
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
    """Negative-prompt inversion: the source prompt replaces the empty prompt, at no cost.

    Under the source prompt eps_u = eps_c, so guidance has no effect.

    Source: NPI, arXiv 2305.16807.
    """
    steps = inversion.steps
    return Anchors(network.conditional.expand(steps, -1, -1, -1), torch.zeros_like(inversion.noise))


@torch.no_grad()
def direct(inversion: InversionResult, network: GuidedNetwork) -> Anchors:
    """Direct inversion: the error of guidance at each step of the inverted path is added back.

    offset_i = z_{i-1} - D_i(z_i), with the inverted latents z and DDIM's guided step D_i under the
    source prompt. A step takes 2 NFE. As in the published code, only the source gets the offset,
    and so keeps to the inverted path; an edit gets the source's attention there, and no offset.

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
        null_text, "up to 12 NFE a step, 10 of them with gradients", "NTI, arXiv 2211.09794", True
    ),
)
RECONSTRUCTION_MODES.register(
    "negative-prompt", ReconstructionMode(negative_prompt, "0 NFE", "NPI, arXiv 2305.16807")
)
RECONSTRUCTION_MODES.register(
    "direct", ReconstructionMode(direct, "2 NFE a step", "Direct Inversion, arXiv 2310.01506", True)
)
