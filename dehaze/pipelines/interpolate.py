"""The interpolation pipeline: makes the pictures between inverted photos."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dehaze.inversion import SOLVERS, InversionResult, InversionSettings, Sampler, generate
from dehaze.inversion.interpolation import PATHS, centroid, path_log_density
from dehaze.pipelines.base import InversionPipeline
from dehaze.pipelines.pictures import OUTPUT_TYPES
from dehaze.pipelines.provenance import Provenance


@dataclass(frozen=True)
class InterpolationResult:
    """Pictures between others.

    Attributes:
        pictures: at the size that the model works at: float32 (h, w, 3) RGB in [0, 1]; with
            ``output_type`` of ``pil`` PIL images, of ``pt`` float32 tensors (3, h, w) in [0, 1].
        norms: of their z_N, over the likely norm sqrt(d), d being the dimension of z_N.
        log_density: of the path, see ``dehaze.inversion.interpolation.path_log_density``; NaN for a
            single picture.
    """

    pictures: tuple[Any, ...]
    norms: tuple[float, ...]
    log_density: float


class InterpolatePipeline(InversionPipeline):
    """Makes the pictures between two inverted photos, or in the middle of several.

    Its parts are those of ``InversionPipeline``.

    Example:
        >>> pipe = InterpolatePipeline.from_pretrained("bundled")
        >>> pipe.set_progress_bar_config(disable=True)
        >>> first, last = pipe.invert(photo), pipe.invert(photo[::-1].copy())
        >>> len(pipe(first, last, pictures=3).pictures)
        3
    """

    @torch.no_grad()
    def __call__(
        self,
        first: InversionResult,
        last: InversionResult,
        prompt: str | None = None,
        *,
        pictures: int = 8,
        path: str = "nao",
        output_type: str = "np",
    ) -> InterpolationResult:
        """Pictures between two inverted ones, denoised from points between their latents.

        Args:
            first: inverted to the last step, under ``prompt``.
            last: likewise, with the same schedule and size.
            prompt: of all pictures; that of the inversions when None.
            pictures: how many, the two included.
            path: one of ``dehaze.inversion.interpolation.PATHS``.
            output_type: ``np``, ``pil`` or ``pt``, see ``InterpolationResult.pictures``.

        Raises:
            InversionMismatchError: an inversion is of another prompt or model.
            ValueError: the path or the output type is unknown, the inversions do not match, or
                have no path.
            NonFiniteError: the network returned values that are not finite.
        """
        connect = PATHS.get(path)
        prompt = common_prompt([first, last], prompt, self.provenance)
        points = connect(first.latents, last.latents, pictures)
        return self._denoised(points, prompt, first, output_type)

    @torch.no_grad()
    def centre(
        self,
        inversions: Sequence[InversionResult],
        prompt: str | None = None,
        *,
        output_type: str = "np",
    ) -> InterpolationResult:
        """The picture in the middle of several inverted ones, see ``centroid``.

        Arguments and errors as for ``__call__``.
        """
        prompt = common_prompt(inversions, prompt, self.provenance)
        point = centroid([inversion.latents for inversion in inversions])
        return self._denoised([point], prompt, inversions[0], output_type)

    def _denoised(
        self,
        points: Sequence[Tensor],
        prompt: str | None,
        like: InversionResult,
        output_type: str,
    ) -> InterpolationResult:
        """The pictures of latents z_N, (1, C, h, w) each, as ``like`` was inverted."""
        output = OUTPUT_TYPES.get(output_type)
        latents = torch.cat(list(points)).to(self._execution_device)
        guidance = like.settings.guidance_scale
        network = self.prompted_network(like.table, prompt, guidance_scale=guidance)
        made = generate(network, latents, InversionSettings(steps=like.table.steps).generated())
        size = self.codec.pixels_of(like.latent_size)
        expected = math.sqrt(points[0].numel())
        decoded = tuple(output(self.codec.decode(one[None], size)) for one in made.trajectory[0])
        self.maybe_free_model_hooks()
        return InterpolationResult(
            decoded,
            tuple(float(point.norm()) / expected for point in points),
            path_log_density(points) if len(points) > 1 else math.nan,
        )


def common_prompt(
    inversions: Sequence[InversionResult], prompt: str | None, provenance: Provenance
) -> str | None:
    """The common prompt of inversions by one model and with one schedule.

    Args:
        inversions: to be mixed.
        prompt: what they should be of; None for their own.
        provenance: of the model.

    Raises:
        InversionMismatchError: an inversion is of another prompt or model.
        ValueError: one is of several photos, they differ in size, schedule or guidance, stop before
            the last step, or are by a sampler, such as EDICT, that goes back by its own steps.
    """
    _check_match(inversions)
    prompt = inversions[0].own_prompt(prompt)
    for inversion in inversions:
        provenance.check(inversion, prompt=prompt)
    return prompt


def _check_match(inversions: Sequence[InversionResult]) -> None:
    """Raises ``ValueError`` where inversions cannot be mixed."""
    first = inversions[0]
    for other in map(InversionResult.checked, inversions):
        if isinstance(SOLVERS.get(other.settings.solver), Sampler):
            raise ValueError(
                f"{other.settings.solver} goes back by steps of its own, from its own noise alone: "
                "invert by another solver"
            )
        if other.latents.shape[0] != 1:
            raise ValueError("an inversion is of several photos: take each of them by sample")
        if other.latents.shape != first.latents.shape or other.table != first.table:
            raise ValueError(
                "the inversions differ in size or schedule: invert photos of one shape alike"
            )
        if other.settings.guidance_scale != first.settings.guidance_scale:
            raise ValueError(
                f"the inversions have guidance {first.settings.guidance_scale:g} and "
                f"{other.settings.guidance_scale:g}: invert all with one"
            )
        if other.steps != other.table.steps:
            raise ValueError(
                f"only {other.steps} of {other.table.steps} steps were inverted: a picture's noise "
                "is reached at the last one"
            )
