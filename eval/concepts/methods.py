"""The rows of the table of concepts: where the noise of a picture comes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from numpy.typing import NDArray
from torch import Tensor

from dehaze.inversion import InversionResult, InversionSettings, generate
from dehaze.inversion.interpolation import PATHS, centroid, points_between
from dehaze.pipelines.seedselect import ImageEncoder, SeedSelectPipeline
from dehaze.registry import Registry

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Concept:
    """A class of photos, of which pictures are to be made.

    Attributes:
        pipeline: with the model.
        photos: float32 (H, W, 3) RGB in [0, 1], two or more of one size.
        inversions: of each; empty for a method that needs none.
        prompt: what they show.
        pictures: how many are made.
        guidance_scale: classifier-free guidance g, of the pictures.
        steps: N, DDIM steps; the model's own when None.
        seed: of the noise.
        image_encoder: of CLIP; None for a method that needs none.
        inverting: seconds that the inversions took.
    """

    pipeline: SeedSelectPipeline
    photos: Sequence[Array]
    inversions: Sequence[InversionResult]
    prompt: str
    pictures: int
    guidance_scale: float
    steps: int | None
    seed: int
    image_encoder: ImageEncoder | None
    inverting: float = 0.0

    def painted(self, points: Sequence[Tensor]) -> list[Array]:
        """The pictures that noise z_N leads to, (1, C, h, w) each: float32 (h', w', 3)."""
        pipe = self.pipeline
        size = pipe.codec.working_size(self.photos[0])
        if self.inversions:
            table = self.inversions[0].table
        else:
            settings = pipe.description.inversion.changed(steps=self.steps)
            table = pipe.step_table(settings, pipe.codec.latent_size(self.photos[0]))
        network = pipe.prompted_network(table, self.prompt, guidance_scale=self.guidance_scale)
        generated = InversionSettings(steps=table.steps).generated()
        # One at a time, so that memory does not grow with their number.
        return [
            pipe.codec.decode(generate(network, point, generated).trajectory[0], size)
            for point in points
        ]

    def selected(self, start: str) -> list[Array]:
        """The pictures that SeedSelect makes from this start.

        Raises:
            ValueError: there is no image encoder.
        """
        if self.image_encoder is None:
            raise ValueError("SeedSelect compares pictures by CLIP, and there is none")
        noisy = start == "noise"
        made = self.pipeline(
            list(self.photos),
            self.prompt,
            self.image_encoder,
            pictures=self.pictures,
            start=start,
            inversions=None if noisy else self.inversions,
            guidance_scale=self.guidance_scale,
            generator=self.generator if noisy else None,
            num_inference_steps=self.steps if noisy else None,
        )
        return list(made.pictures)

    @property
    def generator(self) -> torch.Generator:
        """The generator of the noise, the same for every method that draws some."""
        return torch.Generator().manual_seed(self.seed)


@dataclass(frozen=True)
class SeedMethod:
    """A row of the table.

    Attributes:
        paint: makes the pictures of a class, float32 (h, w, 3) RGB in [0, 1].
        inverts: whether it starts from the photos' inversions.
        fits: whether it needs CLIP.
    """

    paint: Callable[[Concept], list[Array]]
    inverts: bool
    fits: bool = False


def from_noise(concept: Concept) -> list[Array]:
    """Pictures of the prompt, from normal noise."""
    codec = concept.pipeline.codec
    shape = (concept.pictures, concept.pipeline.latent_channels)
    size = codec.latent_size(concept.photos[0])
    noise = randn_tensor((*shape, *size), concept.generator, codec.device)
    return concept.painted(list(noise[:, None]))


def along_slerp(concept: Concept) -> list[Array]:
    """Pictures on the great arcs from each photo to the next."""
    return _along(concept, "slerp")


def along_nao(concept: Concept) -> list[Array]:
    """Pictures on NAO's paths from each photo to the next."""
    return _along(concept, "nao")


def _along(concept: Concept, path: str) -> list[Array]:
    ends = [inversion.latents for inversion in concept.inversions]
    pairs = list(pairwise(ends))
    return concept.painted(points_between(pairs, concept.pictures, PATHS.get(path)))


def at_centroid(concept: Concept) -> list[Array]:
    """The one picture at the NAO centroid of the photos."""
    return concept.painted([centroid([inversion.latents for inversion in concept.inversions])])


def by_seedselect(concept: Concept) -> list[Array]:
    """SeedSelect from the NAO centroid and from NAO's paths around it."""
    return concept.selected("nao")


def by_seedselect_from_noise(concept: Concept) -> list[Array]:
    """SeedSelect from normal noise."""
    return concept.selected("noise")


SEED_METHODS: Registry[SeedMethod] = Registry("method")
"""The rows of the table, by name."""

SEED_METHODS.register("noise", SeedMethod(from_noise, inverts=False))
SEED_METHODS.register("slerp", SeedMethod(along_slerp, inverts=True))
SEED_METHODS.register("nao", SeedMethod(along_nao, inverts=True))
SEED_METHODS.register("centroid", SeedMethod(at_centroid, inverts=True))
SEED_METHODS.register(
    "seedselect-noise", SeedMethod(by_seedselect_from_noise, inverts=False, fits=True)
)
SEED_METHODS.register("seedselect", SeedMethod(by_seedselect, inverts=True, fits=True))
