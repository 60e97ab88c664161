from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dehaze.pipelines.dehaze import DehazePipeline
from dehaze.pipelines.strength import latent_strength, latent_strengths

Array = NDArray[np.float32]


def test_a_constant_map_is_constant_at_the_latents_size(
    pipeline: DehazePipeline, photo: Array
) -> None:
    inversion = pipeline.invert(photo, max_iterations=1)
    small = latent_strength(np.full(photo.shape[:2], 0.25), photo, inversion)
    assert isinstance(small, torch.Tensor)
    torch.testing.assert_close(small, torch.full((1, 1, *inversion.latent_size), 0.25))
    with pytest.raises(ValueError, match="strength is"):
        latent_strength(np.ones((3, 4)), photo, inversion)
    with pytest.raises(ValueError, match="needs the photo"):
        latent_strength(np.ones(photo.shape[:2]), None, inversion)


def test_strengths_of_a_batch_are_maps_where_they_differ(
    pipeline: DehazePipeline, photo: Array
) -> None:
    inversion = pipeline.invert([photo, photo], max_iterations=1)
    assert latent_strengths([0.5, 0.5], [photo, photo], inversion) == 0.5
    both = latent_strengths([0.5, np.ones(photo.shape[:2])], [photo, photo], inversion)
    assert isinstance(both, torch.Tensor)
    assert both.shape == (2, 1, *inversion.latent_size)
    assert torch.equal(both[0].unique(), torch.tensor([0.5]))
    torch.testing.assert_close(both[1], torch.ones_like(both[1]))
