"""SeedSelect: fits the initial noise of a picture, so that it resembles a few photos.

A model paints a rare concept rightly from few seeds only. The model is not trained. The seed is
moved by the gradient of two distances between the generated picture and the photos.

Source: Samuel et al., "Generating images of rare concepts using pre-trained diffusion models",
arXiv 2304.14530, AAAI 2024. Where paper and code differ, this follows the published code.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from dehaze.errors import DehazeError
from dehaze.inversion.noise_network import NoiseNetwork
from dehaze.ranges import LEARNING_RATE, SEMANTIC_WEIGHT, check_count, check_settings

# The first iterations take the whole learning rate, the others a tenth of it.
_AT_FULL_RATE = 3
# Weights in the semantic loss of the pictures of z_0, z_1 and z_2.
_PICTURE_WEIGHTS = (0.7, 0.25, 0.05)


class SeedSelectError(DehazeError, ArithmeticError):
    """The seed has no finite gradient; the message says what helps."""


@dataclass(frozen=True)
class SeedSelectSettings:
    """How a seed is fitted: the published code's numbers for a start from NAO's points.

    Attributes:
        iterations: of AdamW. The published code takes 5 from NAO's points, 30 from noise.
        learning_rate: of the first three iterations, a tenth of it for the others. The published
            code takes 0.05 from NAO's points, 0.1 from noise.
        semantic_weight: of the semantic loss, where that of the appearance loss is 1.

    Raises:
        RangeError: a number is out of its range.
    """

    iterations: int = 5
    learning_rate: float = 0.05
    semantic_weight: float = 10.0

    def __post_init__(self) -> None:
        check_count("iterations", self.iterations)
        LEARNING_RATE.check(self.learning_rate)
        SEMANTIC_WEIGHT.check(self.semantic_weight)


FROM_NOISE = SeedSelectSettings(iterations=30, learning_rate=0.1)
"""The published code's numbers for a start from noise."""


@dataclass(frozen=True)
class SeedTarget:
    """The target of the fit: the centroids of the photos.

    Attributes:
        embedding: (1, D), the centroid of the photos' embeddings; its norm is 1.
        latents: (1, C, h, w), the centroid of the photos' latents z_0.
    """

    embedding: Tensor
    latents: Tensor

    @classmethod
    def of(cls, embeddings: Tensor, latents: Tensor) -> SeedTarget:
        """The target of n photos.

        Args:
            embeddings: (n, D), of CLIP's image encoder, not normalised.
            latents: (n, C, h, w), z_0 of each.
        """
        mean = embeddings.mean(dim=0, keepdim=True)
        return cls(F.normalize(mean, dim=-1), latents.mean(dim=0, keepdim=True))


@dataclass(frozen=True)
class SelectedSeed:
    """A seed, and how it was found.

    Attributes:
        latents: z_N, (1, C, h, w): the visited seed with the smallest loss.
        picture: z_0 that it leads to, likewise.
        losses: at the start, then after each iteration.
        semantic, appearance: the two terms, likewise; the loss is ``semantic_weight`` times the
            first, and the second.
    """

    latents: Tensor
    picture: Tensor
    losses: tuple[float, ...]
    semantic: tuple[float, ...]
    appearance: tuple[float, ...]


def semantic_loss(embeddings: list[Tensor], centroid: Tensor) -> Tensor:
    """How far pictures are from the photos in CLIP's space: the sum of w_j (1 - cos_j).

    Args:
        embeddings: (1, D) each, of the pictures of z_0, z_1, z_2, the first one always.
        centroid: (1, D).

    The weights w are 0.7, 0.25 and 0.05; for fewer pictures they are scaled to the sum 1.
    """
    weights = _PICTURE_WEIGHTS[: len(embeddings)]
    terms = [
        weight * (1.0 - F.cosine_similarity(embedding, centroid).mean())
        for weight, embedding in zip(weights, embeddings, strict=True)
    ]
    return torch.stack(terms).sum() / sum(weights)


def appearance_loss(latents: Tensor, centroid: Tensor) -> Tensor:
    """How far z_0 is from the photos in the codec's space: the mean square of their difference."""
    return F.mse_loss(latents, centroid)


def last_latents(network: NoiseNetwork, latents: Tensor, count: int) -> list[Tensor]:
    """Denoises a seed; returns z_0, z_1, ... of the last ``count`` steps, as functions of it.

    Under gradients only the latents of each step are kept, and the step is evaluated again for its
    gradient. Memory then does not grow with the evaluations, and time grows by a half.

    Args:
        network: under the prompt.
        latents: z_N, (1, C, h, w).
        count: of latents, at most the number of steps.

    Raises:
        NonFiniteError: the network returned a value that is not finite.
    """
    path = [latents]
    for i in range(network.table.steps, 0, -1):
        path.append(_repeatable(_denoised, path[-1], i, network))
    return path[:0:-1][:count]


def select_seed(
    network: NoiseNetwork,
    seed: Tensor,
    embed: Callable[[Tensor], Tensor],
    target: SeedTarget,
    settings: SeedSelectSettings | None = None,
    *,
    on_iteration: Callable[[float], None] = lambda loss: None,
) -> SelectedSeed:
    """Moves a seed by AdamW until the picture that it leads to is near a few photos.

    loss = semantic_weight semantic + appearance, see ``semantic_loss`` and ``appearance_loss``. Its
    gradient goes through the codec and through every denoising step. The published code returns
    the picture of each iteration; here the seed of the smallest loss is returned.

    Args:
        network: under the prompt, with the guidance that the picture is generated with.
        seed: z_N, float32 (1, C, h, w): NAO's centroid of the photos' inversions, or noise.
        embed: takes latents (1, C, h, w), returns CLIP's embedding (1, D) of their picture.
        target: of the photos.
        settings: the published ones for a start from NAO's points when None.
        on_iteration: called with each loss.

    Raises:
        NonFiniteError: the network returned a value that is not finite.
        SeedSelectError: the loss or its gradient is not finite.
    """
    settings = check_settings(settings, SeedSelectSettings())
    precise = seed if seed.dtype == torch.float64 else seed.float()
    moving = precise.detach().clone().requires_grad_()
    optimiser = torch.optim.AdamW([moving], lr=settings.learning_rate)
    semantic: list[float] = []
    appearance: list[float] = []
    losses: list[float] = []
    best = seed, seed
    for iteration in range(settings.iterations + 1):
        moves = iteration < settings.iterations
        with torch.set_grad_enabled(moves):
            ends = last_latents(network, moving, len(_PICTURE_WEIGHTS))
            terms = (
                semantic_loss([_repeatable(embed, end) for end in ends], target.embedding),
                appearance_loss(ends[0], target.latents),
            )
            loss = settings.semantic_weight * terms[0] + terms[1]
        losses.append(_finite(float(loss.detach())))
        semantic.append(float(terms[0].detach()))
        appearance.append(float(terms[1].detach()))
        on_iteration(losses[-1])
        if losses[-1] == min(losses):
            best = moving.detach().clone(), ends[0].detach()
        if moves:
            if iteration == _AT_FULL_RATE:
                optimiser.param_groups[0]["lr"] = settings.learning_rate / 10.0
            (moving.grad,) = torch.autograd.grad(loss, [moving])
            if _finite(float(moving.grad.norm())) == 0.0 and losses[-1] > 0.0:
                raise SeedSelectError("the loss has no gradient: run the model in float32")
            optimiser.step()
    return SelectedSeed(*best, tuple(losses), tuple(semantic), tuple(appearance))


def _denoised(z: Tensor, i: int, network: NoiseNetwork) -> Tensor:
    """z_{i-1} of z_i."""
    everyone = torch.arange(z.shape[0], device=z.device)
    return network.table.denoise_step(z, network(z, i, everyone), i)


def _repeatable(function: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """A function's value; its inner values are computed again for the gradient."""
    value: Tensor = checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
    return value


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise SeedSelectError("the loss or its gradient is not finite: run the model in float32")
    return value
