from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from dehaze.pipelines.interpolate import InterpolatePipeline

Array = NDArray[np.float32]


@pytest.fixture
def pipe(random_model: Path) -> InterpolatePipeline:
    loaded = InterpolatePipeline.from_pretrained(random_model)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.mark.parametrize("path", ["nao", "slerp"])
def test_each_picture_is_nearer_to_its_own_end(
    pipe: InterpolatePipeline, photo: Array, path: str
) -> None:
    ends = pipe.invert(photo), pipe.invert(np.ascontiguousarray(photo[::-1, ::-1]))
    made = pipe(*ends, pictures=4, path=path).pictures
    distance = [np.abs(picture - made[0]).mean() for picture in made]
    assert distance == sorted(distance)
    assert distance[-1] > 0.1


def test_pictures_have_the_guidance_of_their_inversions(
    pipe: InterpolatePipeline, photo: Array
) -> None:
    guided = pipe.invert(photo, guidance_scale=2.0, max_iterations=20, tolerance=1e-7)
    size = pipe.codec.pixels_of(guided.latent_size)
    source = pipe.codec.decode(guided.trajectory[0], size)
    np.testing.assert_allclose(pipe.centre([guided, guided]).pictures[0], source, atol=5e-3)
    with pytest.raises(ValueError, match="guidance 2 and 1"):
        pipe.centre([guided, pipe.invert(photo)])


def test_pictures_come_in_the_type_that_is_asked_for(
    pipe: InterpolatePipeline, photo: Array
) -> None:
    inversion = pipe.invert(photo)
    plain, pil, tensor = (
        pipe.centre([inversion, inversion], output_type=kind).pictures[0]
        for kind in ("np", "pil", "pt")
    )
    assert plain.shape == (16, 24, 3)
    assert isinstance(pil, Image.Image)
    assert torch.equal(tensor, torch.from_numpy(plain).permute(2, 0, 1))
    with pytest.raises(ValueError, match="np, pil, pt"):
        pipe(inversion, inversion, output_type="jpg")


def test_inversions_that_cannot_be_mixed_are_refused(
    pipe: InterpolatePipeline, photo: Array
) -> None:
    whole, part = pipe.invert(photo), pipe.invert(photo, depth=2)
    with pytest.raises(ValueError, match="2 of 4 steps"):
        pipe(part, part)
    with pytest.raises(ValueError, match="size or schedule"):
        pipe.centre([whole, pipe.invert(photo[:20])])
    sampled = pipe.invert(photo, solver="edict")
    for ends in ((sampled, sampled), (whole, sampled)):
        with pytest.raises(ValueError, match="edict goes back by steps of its own"):
            pipe(*ends)
    with pytest.raises(ValueError, match="nao, slerp"):
        pipe(whole, whole, path="straight")


def test_an_inversion_of_several_photos_is_refused(pipe: InterpolatePipeline, photo: Array) -> None:
    both = pipe.invert([photo, photo[::-1]])
    for mix in (lambda: pipe(both, both, pictures=2), lambda: pipe.centre([both, both])):
        with pytest.raises(ValueError, match="is of several photos"):
            mix()
