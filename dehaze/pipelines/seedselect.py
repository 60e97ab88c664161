"""The pipeline for rare concepts: makes new pictures that resemble a few photos."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import Unpack

from dehaze import ranges
from dehaze.inversion import InversionOptions, InversionResult
from dehaze.inversion.interpolation import centroid, points_between
from dehaze.inversion.seedselect import (
    FROM_NOISE,
    SeedSelectSettings,
    SeedTarget,
    SelectedSeed,
    select_seed,
)
from dehaze.pipelines.base import InversionPipeline
from dehaze.pipelines.interpolate import common_prompt
from dehaze.pipelines.latents import PhotoCodec
from dehaze.pipelines.pictures import OUTPUT_TYPES, as_photos
from dehaze.registry import Registry

ImageEncoder = Callable[[Tensor], Tensor]
"""Takes pictures (B, 3, H, W) in [0, 1]; returns embeddings (B, D), with a gradient."""

STARTS: Registry[SeedSelectSettings] = Registry("start")
"""The starts of SeedSelect, with the published numbers for each."""

STARTS.register("nao", SeedSelectSettings())
STARTS.register("noise", FROM_NOISE)


@dataclass(frozen=True)
class SeedSelectResult:
    """New pictures that resemble photos.

    Attributes:
        pictures: at the size that the model works at: float32 (h, w, 3) RGB in [0, 1]; with
            ``output_type`` of ``pil`` PIL images, of ``pt`` float32 tensors (3, h, w) in [0, 1].
        seeds: how each was found.
        norms: of their z_N, over the likely norm sqrt(d), d being the dimension of z_N.
        nfe: network evaluations of the inversions and of the fits, those that gradients repeat
            included.
    """

    pictures: tuple[Any, ...]
    seeds: tuple[SelectedSeed, ...]
    norms: tuple[float, ...]
    nfe: int


class SeedSelectPipeline(InversionPipeline):
    """Makes new pictures that resemble a few photos, by fitting their initial noise.

    Its parts are those of ``InversionPipeline``.

    Example:
        >>> from dehaze.models.clip import load_clip
        >>> pipe = SeedSelectPipeline.from_pretrained("stable-diffusion")  # doctest: +SKIP
        >>> clip = load_clip("clip-vit").image_encoder  # doctest: +SKIP
        >>> made = pipe(photos, "a photo of an oxcart", clip, pictures=4)  # doctest: +SKIP
    """

    @torch.no_grad()
    def __call__(
        self,
        image: Any,
        prompt: str | None,
        image_encoder: ImageEncoder,
        *,
        pictures: int = 1,
        start: str = "nao",
        settings: SeedSelectSettings | None = None,
        inversions: Sequence[InversionResult] | None = None,
        guidance_scale: float = 1.0,
        generator: torch.Generator | None = None,
        num_inference_steps: int | None = None,
        output_type: str = "np",
        **options: Unpack[InversionOptions],
    ) -> SeedSelectResult:
        """Fits a seed for each picture, see ``dehaze.inversion.seedselect.select_seed``.

        Args:
            image: the photos, all of one size, see ``invert``.
            prompt: what they show; the model's own when None.
            image_encoder: of CLIP, see ``dehaze.models.clip.load_clip``.
            pictures: how many.
            start: ``nao`` starts the first picture from the NAO centroid of the photos' inversions,
                others from points on NAO's paths between it and them; it needs two photos or more.
                ``noise`` starts each from normal noise.
            settings: of the fit; when None the published ones for the start, see ``STARTS``.
            inversions: of the photos under the prompt, from ``invert``; made when None. Only for
                ``nao``.
            guidance_scale: classifier-free guidance g of the pictures. The published code takes 1
                from NAO's points, 7.5 from noise.
            generator: of the noise; PyTorch's own when None. One of the CPU draws the same on every
                device. Only for ``noise``.
            num_inference_steps: N, DDIM steps; the model's own when None.
            output_type: ``np``, ``pil`` or ``pt``, see ``SeedSelectResult.pictures``.
            options: of the inversions, see ``invert``. The schedule holds for the pictures as well;
                with ``noise`` only it has an effect.

        Raises:
            WordError: the prompt is too long, or the model never learned one of its words.
            InversionMismatchError: an inversion is of another prompt, photo or model.
            ValueError: the photos differ in size, there are too few, or an argument is out of
                range or without effect.
            NonFiniteError, SeedSelectError: the network or a gradient is not finite.
        """
        published = STARTS.get(start)
        chosen = ranges.check_settings(settings, published)
        output = OUTPUT_TYPES.get(output_type)
        ranges.GUIDANCE_SCALE.check(guidance_scale)
        photos, _ = as_photos(image)
        ranges.check_count("pictures", pictures)
        _check_start(start, len(photos), generator, inversions, options)
        z_0 = self.codec.encode_batch(photos)
        sizes = {self.codec.working_size(photo) for photo in photos}
        if len(sizes) != 1:
            raise ValueError("the photos differ in size: cut them to one shape")
        (size,) = sizes
        embed = _Embedding(self.codec, size, image_encoder)
        target = SeedTarget.of(torch.cat([embed(one[None]) for one in z_0]), z_0)
        evaluations = 0
        if start == "noise":
            table = self.step_table(
                self.description.inversion.changed(steps=num_inference_steps, **options),
                (int(z_0.shape[-2]), int(z_0.shape[-1])),
            )
            noise = randn_tensor((pictures, *z_0.shape[1:]), generator, z_0.device)
            starts = list(noise[:, None])
        else:
            if inversions is None:
                inversions = self._inversions(photos, prompt, num_inference_steps, options)
                evaluations = sum(int(inversion.trace.nfe.sum()) for inversion in inversions)
            for photo, inversion in zip(photos, inversions, strict=True):
                self.provenance.check(
                    inversion, [photo], num_inference_steps=num_inference_steps, **options
                )
            prompt = common_prompt(inversions, prompt, self.provenance)
            table, starts = inversions[0].table, points_around(inversions, pictures)
        network = self.prompted_network(table, prompt, guidance_scale=guidance_scale)
        with self.progress_bar(total=pictures * (chosen.iterations + 1)) as bar:
            seeds = [
                select_seed(
                    network,
                    point.to(z_0),
                    embed,
                    target,
                    chosen,
                    on_iteration=lambda loss: bar.update(),
                )
                for point in starts
            ]
        made = tuple(output(self.codec.decode(seed.picture, size)) for seed in seeds)
        expected = math.sqrt(z_0[0].numel())
        norms = tuple(float(seed.latents.norm()) / expected for seed in seeds)
        self.maybe_free_model_hooks()
        return SeedSelectResult(made, tuple(seeds), norms, evaluations + network.evaluations)

    def _inversions(
        self,
        photos: Sequence[NDArray[Any]],
        prompt: str | None,
        steps: int | None,
        options: InversionOptions,
    ) -> list[InversionResult]:
        """The inversion of each photo, without its attention."""
        return [
            self.invert(photo, prompt, record_attention=False, num_inference_steps=steps, **options)
            for photo in photos
        ]


def _check_start(
    start: str,
    photos: int,
    generator: torch.Generator | None,
    inversions: Sequence[InversionResult] | None,
    options: InversionOptions,
) -> None:
    """Checks what is given for a start; arguments as of the pipeline's call, photos by number.

    Raises:
        ValueError: a number does not fit, or an argument has no effect.
    """
    if start == "noise":
        if inversions is not None:
            raise ValueError("start='noise' takes no inversions: leave them out")
        idle = sorted(set(options) - {"spacing"})
        if idle:
            raise ValueError(f"start='noise' inverts no photo: leave {', '.join(idle)} out")
        return
    if photos < 2:
        raise ValueError("a centroid needs two photos or more; one photo takes start='noise'")
    if generator is not None:
        raise ValueError("generator draws noise, and start='nao' takes none: leave it out")
    if inversions is not None and len(inversions) != photos:
        raise ValueError(
            f"there are {len(inversions)} inversions of {photos} photos: give one of each"
        )


def points_around(inversions: Sequence[InversionResult], count: int) -> list[Tensor]:
    """NAO's centroid of inversions, and points on NAO's paths between it and each of them.

    Args:
        inversions: two or more, of one shape.
        count: of points, the centroid included.

    Returns:
        z_N, (1, C, h, w) each, the centroid first.

    Source: NAO, arXiv 2306.08687, section 4.2, and its code, which starts SeedSelect there.
    """
    ends = [inversion.latents for inversion in inversions]
    middle = centroid(ends)
    return [middle, *points_between([(middle, end) for end in ends], count - 1)]


@dataclass(frozen=True)
class _Embedding:
    """The embedding of the picture that latents stand for, with a gradient.

    Attributes:
        codec: latents to pictures.
        size: (height, width) of the picture, without padding.
        image_encoder: pictures to embeddings.
    """

    codec: PhotoCodec
    size: tuple[int, int]
    image_encoder: ImageEncoder

    def __call__(self, latents: Tensor) -> Tensor:
        """(1, C, h, w) -> (1, D)."""
        height, width = self.size
        picture = self.codec.decode_tensor(latents)[:, :3, :height, :width].clamp(0.0, 1.0)
        return self.image_encoder(picture).to(latents.device)
