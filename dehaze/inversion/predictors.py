"""Predictors: first guesses of z_i without an evaluation of the network.

At step i of an inversion, z_0 .. z_{i-1} and the noises of these steps are known. A good guess of
z_i saves iterations, and does not change what the solver converges to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from dehaze.inversion.schedule import StepTable
from dehaze.registry import Registry


@dataclass(frozen=True)
class Predictor:
    """A registered predictor.

    Attributes:
        predict: takes the table, i, z_0 .. z_{i-1} and eps_1 .. eps_{i-1}; returns a guess of z_i.
        source: where it was published.
    """

    predict: Callable[[StepTable, int, Sequence[Tensor], Sequence[Tensor]], Tensor]
    source: str


def explicit_step(table: StepTable, i: int, previous: Tensor, clean: Tensor) -> Tensor:
    """z_i from z_{i-1} and the clean picture x that the network predicts at z_i.

    z_i = s_i / s_{i-1} (z_{i-1} - c_{i-1} x) + c_i x, where x = x0hat(z_i) = (z_i - s_i p) / c_i,
    with p = p(z_i, i) and, for DDIM, c_i = sqrt(a_i). With that x the result is the fixed point
    itself: it solves z_i = A_i z_{i-1} + B_i p with p taken from the definition of x.

    Args:
        table: the schedule.
        i: the step, with s_{i-1} > 0.
        previous: z_{i-1}, (B, C, H, W).
        clean: x, the same shape.

    Source: derived from the abstract of IFE, arXiv 2512.08547, with x = z_0 + e_i.
    """
    before, after = table.picture_scale(i - 1), table.picture_scale(i)
    ratio = table.sigma(i) / table.sigma(i - 1)
    return ratio * (previous - before * clean) + after * clean


def previous_latent(
    table: StepTable, i: int, trajectory: Sequence[Tensor], noise: Sequence[Tensor]
) -> Tensor:
    """The guess of plain DDIM inversion: z_i = z_{i-1}."""
    return trajectory[-1]


def iteration_free_estimate(
    table: StepTable, i: int, trajectory: Sequence[Tensor], noise: Sequence[Tensor]
) -> Tensor:
    """The explicit step, with the clean picture that was predicted at step i - 1.

    IFE writes that picture as z_0 + e_{i-1}, with the error
    e_{i-1} = (z_{i-1} - s_{i-1} p_{i-1}) / c_{i-1} - z_0. At the first step, and where s_{i-1} = 0,
    there is no such error, and the guess is z_{i-1}.
    """
    if not noise or table.sigma(i - 1) == 0.0:
        return trajectory[-1]
    clean = table.predicted_picture(trajectory[-1], noise[-1], i - 1)
    return explicit_step(table, i, trajectory[-1], clean)


def extrapolated_estimate(
    table: StepTable, i: int, trajectory: Sequence[Tensor], noise: Sequence[Tensor]
) -> Tensor:
    """The explicit step, with the predicted clean picture extrapolated from the last two steps.

    x = x_{i-1} + (x_{i-1} - x_{i-2}) (phi_i - phi_{i-1}) / (phi_{i-1} - phi_{i-2}), where
    x_j = x0hat(z_j), and phi_j is the angle between picture and noise: arctan of the noise's
    weight in z_j over the picture's.

    The first step is guessed as z_{i-1}, the second as ``iteration_free_estimate`` does.

    Source: this project.
    """
    if len(noise) < 2 or table.sigma(i - 1) == 0.0:
        return iteration_free_estimate(table, i, trajectory, noise)
    earlier, latest = (
        table.predicted_picture(trajectory[j], noise[j - 1], j) for j in (i - 2, i - 1)
    )
    before, last, now = (math.atan2(table.sigma(j), table.signal(j)) for j in (i - 2, i - 1, i))
    trend = (now - last) / (last - before) * (latest - earlier)
    return explicit_step(table, i, trajectory[-1], latest + trend)


def neighbour_estimate(
    table: StepTable,
    i: int,
    trajectory: Sequence[Tensor],
    neighbour: Sequence[Tensor],
    neighbour_noise: Tensor,
) -> Tensor:
    """The guess from the inversion of a nearly equal picture, such as the frame before in a clip.

    The clean picture that the network predicts at z_i is x_i = z_0 + e_i. The two pictures nearly
    share the error e_i, so the guess is the explicit step with the neighbour's e_i. Where s_{i-1} =
    0 it is A_i z_{i-1} + B_i p_i with the neighbour's p_i.

    Args:
        table: the schedule of both.
        i: the step.
        trajectory: z_0 .. z_{i-1}, (B, C, H, W) each.
        neighbour: the neighbour's z_0 .. z_i, or more of them.
        neighbour_noise: its p_i.

    Source: this project; e_i is that of IFE, arXiv 2512.08547.
    """
    if table.sigma(i - 1) == 0.0:
        return table.inverse_step(trajectory[-1], neighbour_noise, i)
    error = table.predicted_picture(neighbour[i], neighbour_noise, i) - neighbour[0]
    return explicit_step(table, i, trajectory[-1], trajectory[0] + error)


PREDICTORS: Registry[Predictor] = Registry("predictor")
PREDICTORS.register("previous", Predictor(previous_latent, "Song et al. 2021, arXiv 2010.02502"))
PREDICTORS.register("ife", Predictor(iteration_free_estimate, "IFE, arXiv 2512.08547"))
PREDICTORS.register("extrapolated", Predictor(extrapolated_estimate, "this project"))
