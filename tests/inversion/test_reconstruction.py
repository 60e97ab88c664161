from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dehaze.inversion import InversionResult, denoise
from dehaze.inversion.reconstruction import RECONSTRUCTION_MODES, Anchors
from dehaze.network import NonFiniteError, PromptedNetwork
from dehaze.pipelines.dehaze import DehazePipeline

GUIDANCE = 3.0


@dataclass(frozen=True)
class Case:
    """A converged inversion at guidance 1, and what is needed to come back under guidance."""

    inversion: InversionResult
    pipeline: DehazePipeline

    def network(
        self, guidance_scale: float = GUIDANCE, anchors: Anchors | None = None
    ) -> PromptedNetwork:
        return self.pipeline.prompted_network(
            self.inversion.table,
            guidance_scale=guidance_scale,
            unconditional=None if anchors is None else anchors.unconditional,
        )

    def error(self, anchors: Anchors | None = None, guidance_scale: float = GUIDANCE) -> float:
        network = self.network(guidance_scale, anchors)
        with torch.no_grad():
            if anchors is None:
                back = denoise(self.inversion, network)
            else:
                back = denoise(self.inversion, network, revise=anchors.held)
        return float((back - self.inversion.trajectory[0]).square().mean().sqrt())

    def prepared(self, name: str, guidance_scale: float = GUIDANCE) -> Anchors:
        network = self.network(guidance_scale)
        return RECONSTRUCTION_MODES.get(name).prepare(self.inversion, network)


@pytest.fixture(scope="module")
def case(random_model: Path) -> Case:
    pipeline = DehazePipeline.from_pretrained(random_model)
    pipeline.set_progress_bar_config(disable=True)
    # A random network hardly depends on its prompt, so the embedding is replaced.
    with torch.no_grad():
        for name, weight in pipeline.unet.named_parameters():
            if "attn2.to_v" in name or "attn2.to_out.0.weight" in name:
                weight.mul_(4.0)
    photo = np.random.default_rng(0).uniform(size=(16, 16, 3)).astype(np.float32)
    inversion = pipeline.invert(photo, num_inference_steps=4, tolerance=1e-5, max_iterations=40)
    return Case(inversion, pipeline)


def test_null_text_recovers_what_guidance_loses(case: Case) -> None:
    lost = case.error()
    kept = case.error(case.prepared("null-text"))
    assert lost > 0.01
    # Ten gradient steps on a random network regain two thirds, more or less with its weights.
    assert kept < 0.5 * lost


def test_null_text_stops_where_there_is_nothing_to_gain(case: Case) -> None:
    idle = case.prepared("null-text", guidance_scale=1.0)
    busy = case.prepared("null-text")
    steps = case.inversion.steps
    # One look, the conditional and the final evaluation: the loss is below its bound at once.
    assert idle.nfe == 3 * steps
    assert idle.nfe < busy.nfe <= 12 * steps


def test_negative_prompt_is_the_way_back_of_guidance_one(case: Case) -> None:
    anchors = case.prepared("negative-prompt")
    assert anchors.nfe == 0
    assert case.error(anchors) == pytest.approx(case.error(guidance_scale=1.0), abs=1e-5)
    assert case.error(anchors) < 0.1 * case.error()


def test_direct_comes_back_exactly(case: Case) -> None:
    anchors = case.prepared("direct")
    assert anchors.nfe == 2 * case.inversion.steps
    assert case.error(anchors) < 1e-4
    # Only under the guidance that the offsets were made for.
    assert case.error(anchors, 1.5) > 100 * case.error(anchors)


@pytest.mark.parametrize("name", RECONSTRUCTION_MODES.names())
def test_every_mode_anchors_each_step(case: Case, name: str) -> None:
    anchors = case.prepared(name)
    steps = case.inversion.steps
    assert anchors.unconditional.shape == (steps, *case.network().conditional.shape)
    assert anchors.offsets.shape == case.inversion.noise.shape
    assert not anchors.unconditional.requires_grad


def test_values_that_are_not_finite_are_an_error(case: Case) -> None:
    network = case.network()
    network.conditional = torch.full_like(network.conditional, torch.nan)
    with pytest.raises(NonFiniteError, match="step 4"):
        denoise(case.inversion, network)


@pytest.mark.parametrize(
    ("settings", "cause"),
    [({"solver": "edict"}, r"edict inverts another.*fixed-point"), ({"guidance_scale": 2.0}, "1")],
)
def test_only_an_unguided_ddim_trajectory_can_be_held(
    case: Case, settings: dict[str, Any], cause: str
) -> None:
    made = replace(case.inversion.settings, **settings)
    other = replace(case, inversion=replace(case.inversion, settings=made))
    with pytest.raises(ValueError, match=cause):
        other.prepared("direct")


def test_an_unknown_mode_is_named_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"magic.*null-text"):
        RECONSTRUCTION_MODES.get("magic")
