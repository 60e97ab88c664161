"""A network that torch.compile wraps: attention is recorded and controlled as without it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dehaze.pipelines.edit import EditPipeline

PROMPTS = ("a street with haze", "a street with snow")


@pytest.mark.slow
def test_a_compiled_network_is_controlled(
    stable_diffusion_xl: Path, photo: NDArray[np.float32]
) -> None:
    pipe = EditPipeline.from_pretrained(stable_diffusion_xl)
    inversion = pipe.invert(photo, PROMPTS[0], num_inference_steps=3, solver="ddim")
    expected = pipe(photo, *PROMPTS, inversion=inversion).image
    # The eager backend has the same graph breaks as any other.
    pipe.unet = torch.compile(pipe.unet, backend="eager")
    found = pipe(photo, *PROMPTS, num_inference_steps=3, solver="ddim").image
    np.testing.assert_array_equal(found, expected)
    # And it is the same model.
    again = pipe(photo, *PROMPTS, inversion=inversion).image
    np.testing.assert_array_equal(again, expected)
