"""SeedSelect against the published code's loop, written again from what it computes."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from schedules import FunctionNetwork, flow_table_of, mild, table_of
from torch import Tensor
from torch.nn import functional as F

from dehaze.inversion import StepTable
from dehaze.inversion.seedselect import (
    FROM_NOISE,
    SeedSelectError,
    SeedSelectSettings,
    SeedTarget,
    appearance_loss,
    last_latents,
    select_seed,
    semantic_loss,
)
from dehaze.ranges import RangeError

SHAPE = (1, 2, 3, 3)


def normal(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


MATRIX = normal(1, 18, 5)


def embed(latents: Tensor) -> Tensor:
    return torch.tanh(latents.flatten(1) @ MATRIX)


@pytest.fixture
def target() -> SeedTarget:
    return SeedTarget.of(normal(2, 4, 5), normal(3, 4, *SHAPE[1:]))


def textbook(
    table: StepTable, start: Tensor, target: SeedTarget, settings: SeedSelectSettings
) -> tuple[list[Tensor], list[float]]:
    """The seeds that are visited and their losses, with one graph of all steps."""
    seed = torch.nn.Parameter(start.clone())
    optimiser = torch.optim.AdamW([seed], lr=settings.learning_rate)
    visited, losses = [], []
    network = FunctionNetwork(table, mild)
    for iteration in range(settings.iterations):
        if iteration == 3:
            for group in optimiser.param_groups:
                group["lr"] = settings.learning_rate / 10
        optimiser.zero_grad()
        z, cosines = seed, []
        for i in range(table.steps, 0, -1):
            z = table.denoise_step(z, network(z, i, torch.arange(1)), i)
            if i <= 3:
                feature = embed(z) / embed(z).norm()
                cosines.append(1 - (feature @ target.embedding.T).squeeze())
        weights = torch.tensor([0.05, 0.25, 0.7], dtype=torch.float64)
        semantic = weights @ torch.stack(cosines)
        loss = 10 * semantic + F.mse_loss(z, target.latents, reduction="none").mean()
        visited.append(seed.detach().clone())
        losses.append(float(loss.detach()))
        loss.backward()
        optimiser.step()
    return visited, losses


@pytest.mark.parametrize("table", [table_of(5), flow_table_of(5)], ids=["ddim", "flow"])
def test_the_seeds_are_those_of_the_published_loop(table: StepTable, target: SeedTarget) -> None:
    start, settings = normal(4, *SHAPE), SeedSelectSettings(iterations=6, learning_rate=0.2)
    visited, losses = textbook(table, start, target, settings)
    network = FunctionNetwork(table, mild)
    selected = select_seed(network, start, embed, target, settings)
    assert selected.losses[:-1] == pytest.approx(losses, rel=1e-9)
    assert selected.losses[-1] < selected.losses[3] < selected.losses[0]
    # One iteration fewer ends where the published loop began its last one.
    shorter = select_seed(
        network, start, embed, target, SeedSelectSettings(iterations=5, learning_rate=0.2)
    )
    torch.testing.assert_close(shorter.latents, visited[5], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        shorter.picture, last_latents(network, shorter.latents, 1)[0], rtol=1e-9, atol=1e-9
    )


def test_the_seed_of_the_smallest_loss_is_kept(target: SeedTarget) -> None:
    """Steps far too long leave the start the best."""
    start = normal(4, *SHAPE)
    selected = select_seed(
        FunctionNetwork(table_of(3), mild), start, embed, target,
        SeedSelectSettings(iterations=2, learning_rate=50.0),
    )  # fmt: skip
    assert selected.losses[0] == min(selected.losses)
    assert torch.equal(selected.latents, start)


def test_only_the_last_latents_are_returned_latest_first() -> None:
    network, seed = FunctionNetwork(table_of(4), mild), normal(4, *SHAPE)
    path = [seed]
    for i in range(4, 0, -1):
        path.append(network.table.denoise_step(path[-1], network(path[-1], i, torch.arange(1)), i))
    found = last_latents(network, seed, 3)
    assert all(torch.equal(a, b) for a, b in zip(found, path[:1:-1], strict=True))
    short = last_latents(FunctionNetwork(table_of(2), mild), seed, 3)
    assert len(short) == 2


def test_the_inner_values_of_a_step_are_not_kept() -> None:
    kept: list[int] = []

    def deep(z: Tensor, i: int, index: Tensor) -> Tensor:
        for _ in range(100):
            z = torch.tanh(z)
        return z

    seed = normal(4, *SHAPE).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(
        lambda value: kept.append(value.numel()) or value, lambda value: value
    ):
        last_latents(FunctionNetwork(table_of(6), deep), seed, 3)
    assert sum(kept) < 6 * 10 * seed.numel()


def test_losses_by_hand() -> None:
    centroid = torch.tensor([[1.0, 0.0]])
    across, along = torch.tensor([[0.0, 3.0]]), torch.tensor([[2.0, 0.0]])
    loss = semantic_loss([across, along, along], centroid)
    assert float(loss) == pytest.approx(0.7)
    # Of fewer pictures the weights are 0.7 and 0.25 of 0.95, or 1.
    assert float(semantic_loss([along, across], centroid)) == pytest.approx(0.25 / 0.95)
    assert float(semantic_loss([across], centroid)) == pytest.approx(1.0)
    assert float(appearance_loss(torch.ones(SHAPE), torch.full(SHAPE, 3.0))) == 4.0


def test_the_target_is_the_mean_and_the_mean_direction() -> None:
    target = SeedTarget.of(torch.tensor([[3.0, 0.0], [3.0, 8.0]]), torch.stack(
        [torch.zeros(SHAPE[1:]), torch.ones(SHAPE[1:])]))  # fmt: skip
    torch.testing.assert_close(target.embedding, torch.tensor([[0.6, 0.8]]))
    torch.testing.assert_close(target.latents, torch.full(SHAPE, 0.5))


def test_a_loss_without_a_number_is_refused(target: SeedTarget) -> None:
    def lost(latents: Tensor) -> Tensor:
        return embed(latents) * math.nan

    def flat(z: Tensor, i: int, index: Tensor) -> Tensor:
        return z / 0.0

    for network, embedding in ((mild, lost), (flat, embed)):
        with pytest.raises(SeedSelectError, match="float32"):
            select_seed(FunctionNetwork(table_of(2), network), normal(4, *SHAPE), embedding, target)


def test_a_loss_without_a_gradient_is_refused(target: SeedTarget) -> None:
    """As where half precision loses it."""

    class Severed:
        cost = 1
        table = SimpleNamespace(steps=1, denoise_step=lambda z, noise, i: 0.0 * z + 1.0)

        def __call__(self, latents: Tensor, i: int, index: Tensor) -> Tensor:
            return latents

    network: Any = Severed()
    with pytest.raises(SeedSelectError, match="no gradient"):
        select_seed(network, normal(4, *SHAPE), embed, target)


def test_numbers_are_the_published_ones_and_in_range() -> None:
    assert (SeedSelectSettings().iterations, SeedSelectSettings().learning_rate) == (5, 0.05)
    assert (FROM_NOISE.iterations, FROM_NOISE.learning_rate) == (30, 0.1)
    for wrong in ({"learning_rate": 0.0}, {"semantic_weight": -1.0}):
        with pytest.raises(RangeError, match=next(iter(wrong))):
            SeedSelectSettings(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="iterations is 0"):
        SeedSelectSettings(iterations=0)
