"""The certificate on the model that ships, against steps solved to rounding."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from dehaze.eval.convergence import study_steps
from dehaze.pipelines.dehaze import DehazePipeline


@pytest.mark.slow
@pytest.mark.parametrize("steps", [10, 20])
def test_the_bound_holds_for_nineteen_steps_in_twenty(
    bundled: DehazePipeline, photo: NDArray[np.float32], steps: int
) -> None:
    study = study_steps(bundled, [photo, photo[::-1].copy()], steps=steps)
    assert study.settled >= 0.9
    for name in ("Picard 2", "Picard 3"):
        assert study.certified[name] >= 0.95
