"""The default settings on random networks in the four formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from original_format import save_as_one_file

from dehaze.inversion import InversionResult
from dehaze.pipelines.dehaze import DehazePipeline

STEPS = 6


def residuals(pipe: DehazePipeline, inversion: InversionResult) -> torch.Tensor:
    """norm(f(z) - z) / norm(z) of each step, evaluated anew in float32."""
    network = pipe.prompted_network(inversion.table)
    index = torch.arange(1)
    found = []
    for i in range(1, inversion.steps + 1):
        z = inversion.trajectory[i]
        with torch.no_grad():
            noise = network(z, i, index)
        mapped = inversion.table.inverse_step(inversion.trajectory[i - 1], noise, i)
        found.append((mapped - z).norm() / z.norm())
    return torch.stack(found)


@pytest.fixture(params=["folder", "single file"])
def model(request: pytest.FixtureRequest, stable_diffusion: Path, tmp_path: Path) -> Path:
    """A small random model in each of the formats."""
    if request.param == "folder":
        return stable_diffusion
    return save_as_one_file(stable_diffusion, tmp_path / "model.safetensors")


def check_trace(pipe: DehazePipeline, inversion: InversionResult) -> None:
    """The trace's residuals are the true ones, and converged means below the tolerance."""
    settings, trace = inversion.settings, inversion.trace
    assert (settings.solver, settings.predictor, settings.criterion) == (
        "anderson", "ife", "residual"
    )  # fmt: skip
    found = residuals(pipe, inversion)
    torch.testing.assert_close(trace.remaining[:, 0], found, rtol=0.05, atol=2e-6)
    assert torch.equal(trace.converged[:, 0], trace.remaining[:, 0] < settings.tolerance)
    assert not (trace.converged[:, 0] & (found > 1.1 * settings.tolerance)).any()


@pytest.mark.parametrize(
    "sensitivity",
    [
        pytest.param(0.02, id="contractive"),
        pytest.param(1.0, id="hardly", marks=pytest.mark.slow),
        pytest.param(4.0, id="not"),
    ],
)
def test_the_default_converges_or_reports_that_it_did_not(
    model: Path, photo: NDArray[np.float32], sensitivity: float
) -> None:
    """Six long steps of a random network hardly contract; with a damped input they do."""
    pipe = DehazePipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    with torch.no_grad():
        # The normalisation behind it undoes a factor of the output, not one beside a bias.
        pipe.unet.conv_in.weight.mul_(sensitivity)
    inversion = pipe.invert(photo, num_inference_steps=STEPS)
    check_trace(pipe, inversion)
    if sensitivity < 1.0:
        assert inversion.trace.converged.all()


@pytest.mark.parametrize("sensitivity", [0.02, 4.0], ids=["contractive", "hardly"])
def test_on_a_flow_it_converges_or_reports_that_it_did_not(
    flow_model: Path, photo: NDArray[np.float32], sensitivity: float
) -> None:
    pipe = DehazePipeline.from_pretrained(flow_model)
    pipe.set_progress_bar_config(disable=True)
    with torch.no_grad():
        pipe.transformer.proj_out.weight.mul_(sensitivity)
    inversion = pipe.invert(photo, num_inference_steps=3, max_iterations=6)
    check_trace(pipe, inversion)
    if sensitivity < 1.0:
        assert inversion.trace.converged.all()
