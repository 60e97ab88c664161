"""The certificate on the model that ships, against a solution run to rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dehaze.inversion import DDIMTable, Inverter
from dehaze.inversion.criteria import get_criterion, root_mean_square
from dehaze.inversion.implicit import step_map
from dehaze.inversion.solvers import get_solver
from dehaze.pipelines.dehaze import DehazePipeline


@pytest.mark.slow
@pytest.mark.parametrize("iterations", [2, 3])
def test_the_bound_holds_for_nineteen_steps_in_twenty(
    bundled: DehazePipeline, photo: NDArray[np.float32], iterations: int
) -> None:
    held, compared, settled = 0, 0, 0
    for steps in (10, 20):
        table = DDIMTable.from_scheduler(bundled.scheduler, steps, bundled.description.spacing)
        network = bundled.prompted_network(table)
        with torch.no_grad():
            latents = torch.cat([bundled.encode(picture) for picture in (photo, photo[::-1])])
            exact = Inverter(
                table, network, solver="anderson", tolerance=3e-7, max_iterations=60
            ).invert(latents)
            for i in range(1, steps + 1):
                previous, solution = exact.trajectory[i - 1], exact.trajectory[i]
                short = get_solver("fixed-point").solve(
                    step_map(table, network, previous, i),
                    previous,
                    tolerance=1e-12,
                    max_iterations=iterations,
                    criterion=get_criterion("certificate"),
                )
                error = root_mean_square(short.z - solution) / root_mean_square(solution)
                # Against what did not come to rest nothing can be said.
                known = exact.trace.converged[i - 1]
                held += int((short.bounds[-1] >= error)[known].sum())
                compared += len(error)
                settled += int(known.sum())
    assert settled >= 0.9 * compared
    assert held >= 0.95 * settled
