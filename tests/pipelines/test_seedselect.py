"""New pictures from photos: nearer to the photos than before the fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from dehaze.inversion import InversionMismatchError, InversionResult
from dehaze.inversion.interpolation import PATHS, centroid
from dehaze.inversion.seedselect import SeedSelectSettings, last_latents
from dehaze.models.clip import ClipImageEncoder, load_clip
from dehaze.pipelines.pictures import cut_like
from dehaze.pipelines.seedselect import SeedSelectPipeline, points_around

Array = NDArray[np.float32]
PROMPT = "a photo with haze"
SHORT = SeedSelectSettings(iterations=1)
# Inversions of two steps and one iteration each, since their quality does not matter here.
FAST = {"num_inference_steps": 2, "max_iterations": 1}


@pytest.fixture(scope="module")
def encoder(clip_model: Path) -> ClipImageEncoder:
    return load_clip(str(clip_model)).image_encoder


@pytest.fixture(scope="module")
def photos(scene: Array) -> list[Array]:
    return [scene, np.ascontiguousarray(scene[::-1, ::-1])]


def load(folder: Path) -> SeedSelectPipeline:
    pipe = SeedSelectPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pipe(random_model: Path) -> SeedSelectPipeline:
    return load(random_model)


@pytest.fixture(scope="module")
def inversions(pipe: SeedSelectPipeline, photos: list[Array]) -> list[InversionResult]:
    return [pipe.invert(photo, PROMPT, record_attention=False, **FAST) for photo in photos]


def distance(pipe: SeedSelectPipeline, picture: Array, photos: list[Array], encoder: Any) -> float:
    """The loss of a picture itself, without the two latents before it."""

    def embedded(pixels: Array) -> torch.Tensor:
        small = torch.from_numpy(pipe.codec.reduced(pixels)).permute(2, 0, 1)[None]
        found: torch.Tensor = encoder(small)
        return found

    with torch.no_grad():
        middle = torch.cat([embedded(photo) for photo in photos]).mean(0, keepdim=True)
        semantic = 1.0 - float(F.cosine_similarity(embedded(picture), middle))
    latents = pipe.codec.encode_batch(photos).mean(0, keepdim=True)
    return 10.0 * semantic + float((pipe.codec.encode(picture) - latents).square().mean())


def test_pictures_come_nearer_to_the_photos(
    pipe: SeedSelectPipeline,
    photos: list[Array],
    inversions: list[InversionResult],
    encoder: ClipImageEncoder,
) -> None:
    settings = SeedSelectSettings(iterations=2)
    made = pipe(photos, PROMPT, encoder, pictures=2, settings=settings, inversions=inversions)
    assert [picture.shape for picture in made.pictures] == [(16, 24, 3)] * 2
    # An iteration costs a denoising and its repetition; the last picture costs one denoising.
    assert made.nfe == 2 * (2 * 2 + 1) * 2
    network = pipe.prompted_network(inversions[0].table, PROMPT)
    starts = points_around(inversions, 2)
    for start, picture, seed in zip(starts, made.pictures, made.seeds, strict=True):
        assert seed.losses[2] < seed.losses[0]
        with torch.no_grad():
            before = pipe.codec.decode(last_latents(network, start, 1)[0], (16, 24))
        nearer = distance(pipe, picture, photos, encoder)
        assert nearer < distance(pipe, before, photos, encoder)


def test_seeds_start_at_the_centroid_and_on_its_paths(inversions: list[InversionResult]) -> None:
    points = points_around(inversions, 4)
    middle = centroid([inversion.latents for inversion in inversions])
    first = PATHS.get("nao")(middle, inversions[0].latents, 4)
    last = PATHS.get("nao")(middle, inversions[1].latents, 3)
    torch.testing.assert_close(points, [middle, first[1], first[2], last[1]])


def test_from_noise_a_seed_draws_the_same_again(
    pipe: SeedSelectPipeline, photos: list[Array], encoder: ClipImageEncoder
) -> None:
    first, again, other = (
        pipe(photos[:1], PROMPT, encoder, start="noise", settings=SHORT, num_inference_steps=2,
             generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )  # fmt: skip
    np.testing.assert_array_equal(first.pictures[0], again.pictures[0])
    assert np.abs(first.pictures[0] - other.pictures[0]).max() > 0.01
    assert first.norms[0] == pytest.approx(1.0, abs=0.1)


def test_inversions_that_are_given_are_used_and_checked(
    pipe: SeedSelectPipeline,
    photos: list[Array],
    inversions: list[InversionResult],
    encoder: ClipImageEncoder,
) -> None:
    given = pipe(photos, PROMPT, encoder, settings=SHORT, inversions=inversions)
    made = pipe(photos, PROMPT, encoder, settings=SHORT, **FAST)
    np.testing.assert_array_equal(given.pictures[0], made.pictures[0])
    assert given.nfe == made.nfe - sum(int(one.trace.nfe.sum()) for one in inversions)
    with pytest.raises(InversionMismatchError, match="photo"):
        pipe(photos[::-1], PROMPT, encoder, inversions=inversions)
    with pytest.raises(InversionMismatchError, match="prompt"):
        pipe(photos, "a street", encoder, inversions=inversions)
    with pytest.raises(ValueError, match="2 inversions of 3 photos"):
        pipe([*photos, photos[0]], PROMPT, encoder, inversions=inversions)


@pytest.mark.parametrize("name", ["stable_diffusion_1", "stable_diffusion_3", "flux"])
def test_models_of_every_process_are_fitted(
    name: str, request: pytest.FixtureRequest, photos: list[Array], encoder: ClipImageEncoder
) -> None:
    pipe = load(request.getfixturevalue(name))
    made = pipe(
        photos[:1], "a photo", encoder, start="noise", num_inference_steps=2, guidance_scale=2.0,
        settings=SeedSelectSettings(iterations=1, learning_rate=0.01),
        generator=torch.Generator().manual_seed(0), output_type="pil",
    )  # fmt: skip
    (seed,) = made.seeds
    assert seed.losses[1] < seed.losses[0]
    height, width = pipe.codec.working_size(photos[0])
    assert made.pictures[0].size == (width, height)


@pytest.mark.parametrize(
    ("wrong", "cause"),
    [
        ({"start": "photo"}, "nao, noise"),
        ({"start": "photo", "settings": SHORT}, "nao, noise"),
        ({"pictures": 0}, "pictures is 0"),
        ({"output_type": "jpg"}, "np, pil, pt"),
        ({"guidance_scale": -1.0}, "guidance_scale"),
        ({"generator": torch.Generator()}, "takes none"),
        ({"start": "noise", "inversions": []}, "takes no inversions"),
        ({"start": "noise", "solver": "ddim"}, "leave solver out"),
    ],
)
def test_arguments_without_effect_or_range_are_refused(
    pipe: SeedSelectPipeline,
    photos: list[Array],
    encoder: ClipImageEncoder,
    wrong: dict[str, Any],
    cause: str,
) -> None:
    with pytest.raises(ValueError, match=cause):
        pipe(photos, PROMPT, encoder, **wrong)


def test_photos_that_have_no_middle_are_refused(
    pipe: SeedSelectPipeline, photos: list[Array], encoder: ClipImageEncoder
) -> None:
    with pytest.raises(ValueError, match="two photos or more"):
        pipe(photos[0], PROMPT, encoder)
    with pytest.raises(ValueError, match="padded size"):
        pipe([photos[0], photos[1][:, :30]], PROMPT, encoder)


def test_photos_are_cut_around_the_middle(photo: Array) -> None:
    wide = np.zeros((40, 120, 3), np.float32)
    wide[:, 30:90] = photo
    np.testing.assert_allclose(cut_like(wide, (40, 60)), photo, atol=1e-6)
    assert cut_like(photo, (20, 10)).shape == (20, 10, 3)


def test_photos_of_two_sizes_are_refused(random_model: Path, scene: Array) -> None:
    """They may be of one padded size all the same."""
    with pytest.raises(ValueError, match="the photos differ in size: cut them"):
        load(random_model)([scene, scene[:, 3:]], None, lambda picture: picture.mean((2, 3)))
