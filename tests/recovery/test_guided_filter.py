from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dehaze.recovery.guided_filter import solve_positive


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 4), floor=st.sampled_from([1e-4, 1.0]))
def test_systems_are_solved_as_by_numpy(seed: int, size: int, floor: float) -> None:
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(5, 7, size, size))
    matrix = root @ root.swapaxes(-1, -2) + floor * np.eye(size)
    right = rng.normal(size=(5, 7, size))
    before = right.copy()
    found = solve_positive(
        [[matrix[..., i, j] for j in range(i + 1)] for i in range(size)],
        [right[..., i] for i in range(size)],
    )
    expected = np.linalg.solve(matrix, right[..., None])[..., 0]
    np.testing.assert_allclose(np.stack(found, axis=-1), expected, rtol=1e-6, atol=1e-8)
    np.testing.assert_array_equal(right, before)
