"""Dehazing: from a photo to the photo without its haze."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor
from typing_extensions import Unpack

from dehaze import ranges
from dehaze.attention.control import AttentionControl, TokenMapper, mapped, refine_mapper
from dehaze.attention.maps import normalised
from dehaze.attention.session import AttentionSession, RecordingPlan
from dehaze.inversion import (
    InversionOptions,
    InversionResult,
    InversionSettings,
    InversionTrace,
)
from dehaze.inversion.reconstruction import (
    Anchors,
    check_mode,
    check_solver,
    holds,
    records_attention,
)
from dehaze.pipelines.callback import StepCallback, check_callback
from dehaze.pipelines.denoising import Denoising
from dehaze.pipelines.inverting import Inverting
from dehaze.pipelines.pictures import OUTPUT_TYPES, AlikePhotos, Photo, as_photos
from dehaze.pipelines.prompted import PromptedModel
from dehaze.pipelines.strength import check_strength, latent_strengths
from dehaze.prompts import (
    TokenizedPrompt,
    WordError,
    without_word,
    word_span,
)
from dehaze.recovery.exposure import keep_exposure
from dehaze.recovery.recover import RECOVERIES
from dehaze.registry import Registry

Array = NDArray[np.float32]


@dataclass(frozen=True)
class DehazeResult:
    """A photo without its haze, its maps, and how the inversion went.

    Attributes:
        image: RGB at the photo's own size: float32 (H, W, 3) in [0, 1]; with ``output_type`` of
            ``pil`` a PIL image, of ``pt`` a float32 tensor (3, H, W) in [0, 1].
        attention: float32 (H, W), the haze attention map: mean attention probability on the word.
        transmission: t, float32 (H, W) in (0, 1], or None where the recovery has none; it gives the
            relative depth, see ``dehaze.recovery.depth``.
        airlight: A, float32 (3,) RGB in [0, 1], or None likewise.
        trace: how the inversion went.
        nfe: network evaluations that this call took, inversion and denoising together.
    """

    image: Any
    attention: Array
    transmission: Array | None
    airlight: Array | None
    trace: InversionTrace
    nfe: int

    def attention_normalised(self) -> Array:
        """The attention map stretched to [0, 1], for pictures."""
        return normalised(self.attention)


class DehazeOptions(InversionOptions, total=False):
    """The keyword arguments of ``DehazePipeline``'s call, as type checkers see them."""

    inversion: InversionResult | None
    null_text: str
    mode: str | None
    strength: float | Array | list[float | Array]
    num_inference_steps: int | None
    guidance_scale: float | None
    cross_replace_steps: float | None
    self_replace_steps: float | None
    recovery: str
    exposure: float
    output_type: str
    callback_on_step_end: StepCallback | None


class Dehazing(Inverting, Denoising):
    """Removes haze by inverting a photo under a prompt and swapping the haze word for null text.

    Where a method takes a word, None means the model's own haze word.
    """

    @property
    def default_word(self) -> str:
        """The word that is swapped for null text when none is given."""
        return self.description.word

    def check_prompt(self, prompt: str | None = None, word: str | None = None) -> None:
        """Raises ``WordError`` where the word is not in the prompt or the prompt is too long."""
        self.prompt_and_span(prompt, word)

    @overload
    def __call__(
        self,
        image: list[Photo],
        prompt: str | None = None,
        word: str | None = None,
        *,
        return_dict: Literal[True] = True,
        **options: Unpack[DehazeOptions],
    ) -> list[DehazeResult]: ...

    @overload
    def __call__(
        self,
        image: AlikePhotos,
        prompt: str | None = None,
        word: str | None = None,
        *,
        return_dict: Literal[True] = True,
        **options: Unpack[DehazeOptions],
    ) -> list[DehazeResult]: ...

    @overload
    def __call__(
        self,
        image: Image | NDArray[Any],
        prompt: str | None = None,
        word: str | None = None,
        *,
        return_dict: Literal[True] = True,
        **options: Unpack[DehazeOptions],
    ) -> DehazeResult: ...

    @overload
    def __call__(
        self,
        image: Tensor,
        prompt: str | None = None,
        word: str | None = None,
        *,
        return_dict: Literal[True] = True,
        **options: Unpack[DehazeOptions],
    ) -> DehazeResult | list[DehazeResult]: ...

    @overload
    def __call__(
        self,
        image: Photo | list[Photo] | AlikePhotos,
        prompt: str | None = None,
        word: str | None = None,
        *,
        return_dict: Literal[False],
        **options: Unpack[DehazeOptions],
    ) -> tuple[Any]: ...

    @torch.no_grad()
    def __call__(
        self,
        image: Any,
        prompt: str | None = None,
        word: str | None = None,
        *,
        inversion: InversionResult | None = None,
        null_text: str = "embedding",
        mode: str | None = None,
        strength: float | Array | list[float | Array] = 1.0,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        cross_replace_steps: float | None = None,
        self_replace_steps: float | None = None,
        recovery: str = "physics",
        exposure: float = 0.0,
        output_type: str = "np",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        **options: Unpack[InversionOptions],
    ) -> DehazeResult | list[DehazeResult] | tuple[Any]:
        """Removes the haze from a photo, or from several, which then share every evaluation.

        None stands for the value in the model's description.

        Args:
            image: the photo, RGB: PIL, turned upright by its EXIF orientation; an array (H, W, 3),
                uint8 in [0, 255] or float in [0, 1]; or a float tensor (3, H, W) in [0, 1]. Or a
                list of photos of one ``codec.padded_size``, or a tensor (B, 3, H, W), which gives a
                list of results: those of each photo alone to within rounding, not to the last bit.
            prompt: what the photo shows, with the haze word in it.
            word: the word (or phrase) of the prompt to swap for null text.
            inversion: from ``invert`` for this photo and prompt, to try several settings without
                inverting again. An inversion of another photo, prompt or model, or with other
                settings than those given here, is refused.
            null_text: ``embedding`` puts null text at the word's token positions; ``delete``
                removes the word from the text and aligns the rest.
            mode: where guidance acts. None guides both ways. ``plain`` inverts at guidance 1 and
                guides only the way back. So do ``null-text``, ``negative-prompt`` and ``direct``,
                which also hold the way back to the inversion, see
                ``dehaze.inversion.reconstruction.RECONSTRUCTION_MODES``. With the solver ``ddim``,
                ``null-text`` is null-text inversion as published; otherwise it is null-text on a
                fixed-point inversion.
            strength: w, 0 for the photo as it was, 1 for the swap; a number, a map (H, W), or, for
                a list of photos, a list of these.
            num_inference_steps: N, DDIM steps.
            guidance_scale: classifier-free guidance g, of both ways unless a mode is given; 1 never
                runs the unconditional pass.
            cross_replace_steps: share of the steps with the source's cross-attention maps.
            self_replace_steps: share of the steps with the source's self-attention maps.
            recovery: how the result reaches the photo's own size: ``physics``, ``affine`` or
                ``none``; see ``dehaze.recovery.recover.RECOVERIES``.
            exposure: how far the result is lightened, 0 for the scene as it is, 1 for the photo's
                own lightness; see ``dehaze.recovery.exposure``.
            output_type: ``np``, ``pil`` or ``pt``, see ``DehazeResult.image``.
            return_dict: with False, a tuple of the image (or the list of images) alone.
            callback_on_step_end: called as ``callback(pipeline, step, timestep,
                {"latents": latents})`` after each denoising step, as in diffusers. It may return
                other latents in such a dict.
            options: of the inversion, see ``InversionPipeline.invert``.

        Raises:
            WordError: the word is not in the prompt, or the model never learned it.
            InversionMismatchError: the inversion is of another photo, prompt, model or setting.
            ValueError: a setting is unknown or out of range; the message lists what there is. Or
                the mode has nothing to hold at guidance 1, or cannot hold the solver's path. Or
                the photos cannot be one batch, or are not as many as the inversion has samples.
            NonFiniteError: the network returned values that are not finite.
        """
        recover, output = RECOVERIES.get(recovery), OUTPUT_TYPES.get(output_type)
        ranges.EXPOSURE.check(exposure)
        NULL_TEXTS.get(null_text)
        check_callback(callback_on_step_end)
        control = self._control(cross_replace_steps, self_replace_steps)
        inverting, returning = self._guidances(mode, guidance_scale)
        photos, several = as_photos(image)
        strengths = _strength_of_each(strength, photos, inversion)
        # 1. The inversion, given or made here.
        evaluations = [0] * len(photos)
        if inversion is None:
            settings = self.description.inversion.changed(
                steps=num_inference_steps, guidance_scale=inverting, **options
            )
            inversion = self._own_inversion(photos, prompt, word, settings, mode, control)
            evaluations = inversion.trace.nfe.sum(0).tolist()
        else:
            self.provenance.check(
                inversion,
                photos,
                prompt,
                num_inference_steps=num_inference_steps,
                guidance_scale=inverting,
                **options,
            )
            prompt = inversion.own_prompt(prompt)
        if returning is None:
            returning = inversion.settings.guidance_scale
        # 2. What the way back needs: the mode's anchors, and the source's attention.
        plan = self._plan(control, inversion.steps)
        anchors = self._anchors(inversion, mode, prompt, returning, plan)
        held = Anchors.of_batch(anchors) if anchors else None
        if held is not None and held.attention:
            inversion = replace(inversion, attention=held.attention)
        inversion, recorded = self.with_attention(self.placed(inversion), prompt, plan)
        # 3. The way back, with the word swapped for null text.
        latents, swapping = self.swap_word(
            inversion,
            prompt,
            word,
            null_text=null_text,
            strength=latent_strengths(strengths, photos, inversion),
            guidance_scale=returning,
            unconditional=None if held is None else held.unconditional,
            control=control,
            callback_on_step_end=callback_on_step_end,
        )
        # 4. The results, at the photos' own sizes.
        results = []
        for b, photo in enumerate(photos):
            own = inversion.sample(b)
            recovered = recover(photo, *self._decoded(photo, own, latents[b : b + 1]))
            results.append(
                DehazeResult(
                    image=output(keep_exposure(recovered.image, photo, exposure)),
                    attention=self.word_attention(photo, own, prompt, word),
                    transmission=recovered.transmission,
                    airlight=recovered.airlight,
                    trace=own.trace,
                    nfe=evaluations[b] + recorded + swapping + (anchors[b].nfe if anchors else 0),
                )
            )
        self.maybe_free_model_hooks()
        return _returned(results, several=several, return_dict=return_dict)

    def _guidances(
        self, mode: str | None, guidance_scale: float | None
    ) -> tuple[float | None, float | None]:
        """The g of the inversion, None for the model's; and of the way back, None for the same.

        Raises:
            ValueError: the mode is unknown, has no effect, or needs another kind of model.
        """
        if mode is None:
            return guidance_scale, None
        guidance_scale = 1.0 if guidance_scale is None else guidance_scale
        check_mode(mode, ranges.GUIDANCE_SCALE.check(guidance_scale))
        if holds(mode):
            self.check_classifier_free(f"mode {mode}")
        return 1.0, guidance_scale

    def _own_inversion(
        self,
        photos: Sequence[Array],
        prompt: str | None,
        word: str | None,
        settings: InversionSettings,
        mode: str | None,
        control: AttentionControl,
    ) -> InversionResult:
        """The inversion of photos, with the attention that their way back asks for."""
        source, _ = self.prompt_and_span(prompt, word)
        if holds(mode):
            check_solver(settings.solver)
        # A mode that records attention does so on the way back.
        plan = None if records_attention(mode) else self._plan(control, settings.inverted_steps)
        return self._inverted(photos, source, settings, plan)

    def _decoded(
        self, photo: Array, inversion: InversionResult, latents: Tensor
    ) -> tuple[Array, Array]:
        """The photo as the model saw it, and the model's result, float32 (h, w, 3 or 9)."""
        size = self.codec.working_size(photo)
        return (
            self.codec.decode_all(inversion.trajectory[0], size),
            self.codec.decode_all(latents, size),
        )

    def _control(self, cross: float | None = None, self_: float | None = None) -> AttentionControl:
        """Prompt-to-Prompt with these shares of the steps, or the model's own for None."""
        return AttentionControl(
            self.description.cross_replace_steps if cross is None else cross,
            self.description.self_replace_steps if self_ is None else self_,
        )

    def _anchors(
        self,
        inversion: InversionResult,
        mode: str | None,
        prompt: str | None,
        guidance_scale: float,
        plan: RecordingPlan,
    ) -> list[Anchors]:
        """The mode's anchors of each photo, such as unconditional embeddings of its own.

        Empty where the mode holds nothing.
        """
        if not holds(mode):
            return []
        return [
            self.anchor(inversion.sample(b), mode, prompt, guidance_scale=guidance_scale, plan=plan)
            for b in range(inversion.latents.shape[0])
        ]

    def _plan(self, control: AttentionControl, steps: int) -> RecordingPlan:
        """The source's attention that the swap and the haze attention map need."""
        layers = self.description.map_layers
        return RecordingPlan(control, steps, None if layers is None else list(layers))

    @torch.no_grad()
    def swap_word(
        self,
        inversion: InversionResult,
        prompt: str | None = None,
        word: str | None = None,
        *,
        null_text: str = "embedding",
        strength: float | Tensor = 1.0,
        guidance_scale: float = 1.0,
        unconditional: Tensor | None = None,
        control: AttentionControl | None = None,
        callback_on_step_end: StepCallback | None = None,
    ) -> tuple[Tensor, int]:
        """Denoises an inversion with the word swapped for null text; see ``__call__``.

        Args:
            prompt, word, null_text, guidance_scale, callback_on_step_end: as for ``__call__``.
            strength: one number, or a map that broadcasts to the latents (B, C, h, w).
            unconditional: of each step and sample, see ``denoise_under``.
            control: Prompt-to-Prompt's settings; the model's own when None.

        Returns:
            z_0, float32 (B, C, h, w), and the number of network evaluations.
        """
        control = control or self._control()
        prompt = inversion.own_prompt(prompt)
        source, span = self.prompt_and_span(prompt, word)
        swap = NULL_TEXTS.get(null_text)
        context, mapper = swap(self, source, word or self.default_word, span)
        if mapper is not None:
            control = replace(control, mapper=mapper)
        return self.denoise_under(
            inversion,
            context,
            AttentionSession(control=control),
            strength=strength,
            guidance_scale=guidance_scale,
            unconditional=unconditional,
            callback_on_step_end=callback_on_step_end,
        )

    def prompt_and_span(
        self, prompt: str | None = None, word: str | None = None
    ) -> tuple[TokenizedPrompt, tuple[int, ...]]:
        """The prompt as tokens, and the positions of the word, by default the model's.

        Raises:
            WordError: the word is not in the prompt, the prompt is too long, or the model never
                learned one of its words.
        """
        tokens = self.prompts.tokens(prompt)
        if word is None and self.default_word not in tokens.text.lower():
            raise WordError(
                f"the prompt {tokens.text!r} has no word {self.default_word!r}: name the word to "
                "remove as well"
            )
        return tokens, word_span(tokens, self.default_word if word is None else word)


def _strength_of_each(
    strength: float | Array | list[float | Array],
    photos: Sequence[Array],
    inversion: InversionResult | None,
) -> list[float | Array]:
    """The strength of each photo.

    Raises:
        RangeError: one is out of range.
        ValueError: photos, strengths and the samples of a given inversion differ in number.
    """
    strengths = strength if isinstance(strength, list) else [strength] * len(photos)
    for one in strengths:
        check_strength(one)
    samples = len(photos)
    if inversion is not None:
        samples = InversionResult.checked(inversion).latents.shape[0]
    if not len(photos) == len(strengths) == samples:
        raise ValueError(
            f"{len(photos)} photos and {len(strengths)} strengths do not fit an inversion of "
            f"{samples} samples"
        )
    return strengths


def _returned(
    results: list[DehazeResult], *, several: bool, return_dict: bool
) -> DehazeResult | list[DehazeResult] | tuple[Any]:
    """The results as ``__call__`` returns them."""
    if not return_dict:
        images = [result.image for result in results]
        return (images if several else images[0],)
    return results if several else results[0]


NullText = Callable[
    [PromptedModel, TokenizedPrompt, str, tuple[int, ...]], tuple[Tensor, TokenMapper | None]
]
"""Takes a pipeline, the source prompt, the word and its token positions.

It returns the target's embedding, (1, L, D), and the mapper of its tokens; None where every token
follows its own position.
"""


def null_embedding(
    pipe: PromptedModel, source: TokenizedPrompt, word: str, span: tuple[int, ...]
) -> tuple[Tensor, None]:
    """The source's embedding with that of the empty prompt at the word's positions."""
    return pipe.prompts.swapped(source, word, span), None


def without_the_word(
    pipe: PromptedModel, source: TokenizedPrompt, word: str, span: tuple[int, ...]
) -> tuple[Tensor, TokenMapper | None]:
    """The embedding of the prompt without the word, and the mapper of its tokens."""
    target = pipe.prompts.tokens(without_word(source.text, word))
    return pipe.prompts.embed(target), mapped(refine_mapper, source, target)


NULL_TEXTS: Registry[NullText] = Registry("null_text")
"""How a word is swapped for null text."""

NULL_TEXTS.register("embedding", null_embedding)
NULL_TEXTS.register("delete", without_the_word)
