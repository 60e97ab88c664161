"""The origin of an inversion: photos, prompt and model, recorded and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn
from typing_extensions import Unpack

from dehaze.inversion import InversionMismatchError, InversionOptions, InversionResult, Origin
from dehaze.models.hashes import weights_fingerprint
from dehaze.pipelines.latents import PhotoCodec
from dehaze.pipelines.pictures import photo_hash
from dehaze.prompts import TokenizedPrompt

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Provenance:
    """A model, as its inversions know it.

    Attributes:
        parts: the networks whose weights make the model what it is.
        codec: photos to its latents.
        channels: of its latents.
    """

    parts: tuple[nn.Module, ...]
    codec: PhotoCodec
    channels: int

    def fingerprint(self) -> str:
        """A hash of the present weights; it depends on their precision, not on their folder.

        See ``dehaze.models.hashes.weights_fingerprint``.
        """
        return weights_fingerprint(self.parts)

    def origin(self, photos: Sequence[Array], prompt: TokenizedPrompt) -> Origin:
        """The origin of an inversion of these photos, float32 (H, W, 3), under this prompt."""
        return Origin(
            photos=tuple(photo_hash(photo) for photo in photos),
            sizes=tuple((photo.shape[0], photo.shape[1]) for photo in photos),
            prompt=prompt.text,
            model=self.fingerprint(),
        )

    def check(
        self,
        inversion: InversionResult,
        photos: Sequence[Array] | None = None,
        prompt: str | None = None,
        *,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        **options: Unpack[InversionOptions],
    ) -> None:
        """Checks that an inversion is of these photos, this prompt and this model.

        Args:
            inversion: from ``invert``, ``generate`` or a file.
            photos: float32 (H, W, 3) RGB in [0, 1]; None where there is none to compare.
            prompt: None where it is not said.
            num_inference_steps, guidance_scale, options: what was asked for, as for ``invert``;
                None is not checked.

        Raises:
            InversionMismatchError: something differs; the message names it.
        """
        inversion = InversionResult.checked(inversion)
        channels, found = inversion.trajectory.shape[2], inversion.latent_size
        if channels != self.channels:
            raise InversionMismatchError(
                f"the inversion has {channels} channels and the model {self.channels}: it was "
                "made by another model"
            )
        for photo in photos or ():
            wanted = self.codec.latent_size(photo)
            if found != wanted:
                raise InversionMismatchError(
                    f"the inversion's latents are {found} and the photo's {wanted}: it was made "
                    "of another photo"
                )
        known = inversion.origin is not None
        inversion.require(
            model=self.fingerprint() if known else None,
            sizes=None if photos is None else tuple(photo.shape[:2] for photo in photos),
            photos=None
            if photos is None or not known
            else tuple(photo_hash(photo) for photo in photos),
            prompt=prompt,
            steps=num_inference_steps,
            guidance_scale=guidance_scale,
            **options,
        )
