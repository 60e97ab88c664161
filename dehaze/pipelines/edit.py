"""The editing pipeline: a photo and two prompts in, the photo under the second prompt out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, overload

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import Unpack

from dehaze import ranges
from dehaze.attention.blending import LocalBlend
from dehaze.attention.control import AttentionControl, prompt_to_prompt
from dehaze.attention.maps import word_map
from dehaze.attention.processors import (
    AttentionSession,
    RecordingPlan,
    controlled_attention,
)
from dehaze.inversion import (
    DDIMTable,
    InversionOptions,
    InversionResult,
    InversionTrace,
    generate,
)
from dehaze.inversion.reconstruction import PLAIN, RECONSTRUCTION_MODES, Anchors
from dehaze.inversion.stochastic import localisation, step_deviation, stochastic_step
from dehaze.pipelines.base import InversionPipeline
from dehaze.pipelines.callback import StepCallback
from dehaze.pipelines.pictures import OUTPUT_TYPES, Photo, as_pixels
from dehaze.pipelines.strength import check_strength, latent_strength
from dehaze.prompts import TokenizedPrompt, WordError, changed_words, either_span, word_span
from dehaze.recovery.recover import RECOVERIES

Array = NDArray[np.float32]


@dataclass(frozen=True)
class EditSettings:
    """How an edit goes; the defaults are Prompt-to-Prompt's, at strength 1, without guidance.

    Attributes:
        control: ``replace``, ``refine`` or ``reweight``, see ``dehaze.attention.control.CONTROLS``;
            None for what fits the prompts.
        cross_replace_steps: share of the steps with the source's cross-attention maps, [0, 1]; or a
            share for each of some words of the target, ``default`` for all others.
        self_replace_steps: share of the steps with the source's self-attention maps, [0, 1].
        word_weights: what the attention to words of the target is multiplied by.
        blend: words, of either prompt, that the change is held to (LocalBlend).
        exclude: words, of either prompt; nothing changes where they are. Needs ``blend``.
        blend_threshold: of LocalBlend, relative to a map's maximum.
        mode: ``plain``, or a reconstruction mode, see ``dehaze.inversion.reconstruction``.
        guidance_scale: classifier-free guidance g; 1 never runs the unconditional pass.
        guidance_outside: AIDI's blended guidance: g is ``guidance_scale`` where ``focus`` is
            attended to, this where it is not, and between them in between; None for one g.
        strength: w, 0 for the photo as it was, 1 for the target prompt; or a map (H, W) of it.
        fresh_source: w goes from the noise of the source prompt at the edited latents, for an
            evaluation more a step, rather than from the noise of the inversion.
        focus: words of the source that are being edited, for ``guidance_outside`` and for the score
            of ``samples``; None for the words that the target lacks or weighs.
        eta: noise of the denoising steps, 0 for DDIM, 1 for DDPM.
        samples: how many draws with ``eta`` the best is chosen of.
    """

    control: str | None = None
    cross_replace_steps: float | Mapping[str, float] = 0.8
    self_replace_steps: float = 0.4
    word_weights: Mapping[str, float] = field(default_factory=dict)
    blend: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    blend_threshold: float = 0.3
    mode: str = PLAIN
    guidance_scale: float = 1.0
    guidance_outside: float | None = None
    strength: float | Array = 1.0
    fresh_source: bool = False
    focus: str | None = None
    eta: float = 0.0
    samples: int = 1

    def __post_init__(self) -> None:
        ranges.GUIDANCE_SCALE.check(self.guidance_scale)
        if self.guidance_outside is not None:
            replace(ranges.GUIDANCE_SCALE, name="guidance_outside").check(self.guidance_outside)
        replace(ranges.SHARE, name="blend_threshold").check(self.blend_threshold)
        ranges.ETA.check(self.eta)
        check_strength(self.strength)
        for word, weight in self.word_weights.items():
            if not math.isfinite(weight):
                raise ValueError(f"the weight of {word!r} is {weight}: it must be a finite number")
        if self.mode != PLAIN:
            RECONSTRUCTION_MODES.get(self.mode)
            if self.guidance_scale == 1.0:
                raise ValueError(
                    f"mode {self.mode} undoes what guidance breaks: give a guidance_scale above 1"
                )
            if self.guidance_outside is not None:
                raise ValueError(f"guidance_outside needs mode {PLAIN}, not {self.mode}")
        if self.exclude and not self.blend:
            raise ValueError("exclude takes words out of a blend: name the words to blend too")
        if self.samples < 1 or (self.samples > 1 and self.eta == 0.0):
            raise ValueError(
                f"{self.samples} samples need at least 1, and an eta above 0 to differ"
            )


@dataclass(frozen=True)
class EditedLatents:
    """What ``EditPipeline.edit`` returns.

    Attributes:
        latents: z_0, float32 (1, C, h, w).
        mask: float32 (1, 1, h, w), 0 or 1, where LocalBlend let the change through at the last
            step; None without a blend.
        scores: of each sample, see ``dehaze.inversion.stochastic.localisation``; the latents are
            the best one's. Empty where there was one sample only.
        nfe: network evaluations.
    """

    latents: Tensor
    mask: Tensor | None
    scores: tuple[float, ...]
    nfe: int


@dataclass(frozen=True)
class EditResult:
    """An edited picture, and what was learned on the way.

    Attributes:
        image: RGB at the photo's own size, or at the working size where there was none: float32
            (H, W, 3) in [0, 1]; with ``output_type`` of ``pil`` a PIL image, of ``pt`` a float32
            tensor (3, H, W) in [0, 1].
        source: float32 (h, w, 3), the picture as it was, at the working size.
        mask: float32 (h', w') at the latents' size, where LocalBlend let the change through; None
            without a blend.
        scores: of each sample where there were several; the image is the best one.
        trace: how the inversion went.
        nfe: network evaluations that this call took, inversion and denoising together.
    """

    image: Any
    source: Array
    mask: Array | None
    scores: tuple[float, ...]
    trace: InversionTrace
    nfe: int


class EditOptions(InversionOptions, total=False):
    """The keyword arguments of ``EditPipeline``'s call, as type checkers see them."""

    inversion: InversionResult | None
    recovery: str | None
    generator: torch.Generator | None
    output_type: str
    callback_on_step_end: StepCallback | None
    num_inference_steps: int | None
    inversion_guidance_scale: float | None


class EditPipeline(InversionPipeline):
    """Edits photos and generated pictures by their prompts, under Prompt-to-Prompt control.

    Its parts are those of ``InversionPipeline``.

    Example:
        >>> pipe = EditPipeline.from_pretrained("bundled")
        >>> inversion = pipe.invert(photo, "a photo with haze")
        >>> less = pipe(photo, "a photo with haze", inversion=inversion,
        ...             settings=EditSettings(word_weights={"haze": -1}))
    """

    @overload
    def __call__(
        self,
        image: Photo | None,
        source: str,
        target: str | None = None,
        settings: EditSettings | None = None,
        *,
        return_dict: Literal[True] = True,
        **options: Unpack[EditOptions],
    ) -> EditResult: ...

    @overload
    def __call__(
        self,
        image: Photo | None,
        source: str,
        target: str | None = None,
        settings: EditSettings | None = None,
        *,
        return_dict: Literal[False],
        **options: Unpack[EditOptions],
    ) -> tuple[Any]: ...

    @torch.no_grad()
    def __call__(
        self,
        image: Any | None,
        source: str,
        target: str | None = None,
        settings: EditSettings | None = None,
        *,
        inversion: InversionResult | None = None,
        recovery: str | None = None,
        generator: torch.Generator | None = None,
        output_type: str = "np",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        num_inference_steps: int | None = None,
        inversion_guidance_scale: float | None = None,
        **options: Unpack[InversionOptions],
    ) -> EditResult | tuple[Any]:
        """Edits one picture.

        Args:
            image: the photo: PIL, uint8 (H, W, 3) in [0, 255], or float (H, W, 3) in [0, 1], RGB;
                None for the generated picture that ``inversion`` stands for.
            source: what it shows.
            target: what it shall show; the source where only words are weighed.
            settings: how; the defaults when None.
            inversion: what ``invert`` returned for this photo and prompt, or ``generate`` for none.
            recovery: ``affine`` carries the change of light and colour to the photo's own size and
                keeps its details, ``none`` enlarges what the model made, which may be a new thing;
                see ``dehaze.recovery.recover.RECOVERIES``; ``affine`` when None. Only for a photo.
            generator: of the noise that ``eta`` adds; PyTorch's own when None. One of the CPU draws
                the same on every device.
            output_type: ``np``, ``pil`` or ``pt``, see ``EditResult.image``.
            return_dict: with False, a tuple of the image alone.
            callback_on_step_end: called after each denoising step, as in diffusers.
            num_inference_steps: N, DDIM steps; the model's own when None.
            inversion_guidance_scale: classifier-free guidance of the inversion, where there is none
                yet; 1 when None. FPI's published code inverts with the guidance of the edit.
            options: of the inversion, see ``invert``. Where the inversion is given, it is refused
                if it was made with others.

        Raises:
            WordError: a prompt is too long, or lacks a word that a setting names.
            ControlError: the control does not fit the prompts.
            ValueError: a setting is unknown or out of range; the message lists what there is.
            NonFiniteError: the network returned values that are not finite.
        """
        if recovery is not None and image is None:
            raise ValueError("recovery is of a photo's own size, and there is no photo")
        recovery = "affine" if recovery is None else recovery
        recover = RECOVERIES.get(recovery)
        output = OUTPUT_TYPES.get(output_type)
        photo = None if image is None else as_pixels(image)
        self.check_prompts(source, target, settings)
        evaluations = 0
        if inversion is None:
            if photo is None:
                raise ValueError("there is neither a photo nor an inversion to edit")
            inversion = self.invert(
                photo,
                source,
                num_inference_steps=num_inference_steps,
                guidance_scale=1.0
                if inversion_guidance_scale is None
                else inversion_guidance_scale,
                record_attention=self._plan(source, target, settings or EditSettings()),
                **options,
            )
            evaluations = int(inversion.trace.nfe.sum())
        elif inversion_guidance_scale is not None:
            raise ValueError("inversion_guidance_scale was chosen when the inversion was made")
        else:
            self.check_inversion(
                inversion,
                None if photo is None else [photo],
                source,
                num_inference_steps=num_inference_steps,
                **options,
            )
        edited = self.edit(
            inversion,
            source,
            target,
            settings,
            photo=photo,
            generator=generator,
            callback_on_step_end=callback_on_step_end,
        )
        codec = self.codec
        size = (
            codec.pixels_of(inversion.latent_size) if photo is None else codec.working_size(photo)
        )
        before, after = (
            codec.decode(latents, size) for latents in (inversion.trajectory[0], edited.latents)
        )
        result = output(after if photo is None else recover(photo, before, after, 1.0).image)
        self.maybe_free_model_hooks()
        if not return_dict:
            return (result,)
        return EditResult(
            image=result,
            source=before,
            mask=None if edited.mask is None else edited.mask[0, 0].cpu().numpy(),
            scores=edited.scores,
            trace=inversion.trace,
            nfe=evaluations + edited.nfe,
        )

    def check_prompts(
        self, source: str, target: str | None = None, settings: EditSettings | None = None
    ) -> None:
        """Raises ``WordError`` or ``ControlError`` where prompts, words and control do not fit."""
        settings = settings or EditSettings()
        before, after = self._prompts(source, target)
        for word in (*settings.blend, *settings.exclude):
            either_span(before, after, word)
        if settings.guidance_outside is not None or settings.samples > 1:
            self._focus(before, after, settings)
        self._control(before, after, settings)

    @torch.no_grad()
    def edit(
        self,
        inversion: InversionResult,
        source: str,
        target: str | None = None,
        settings: EditSettings | None = None,
        *,
        photo: Array | None = None,
        generator: torch.Generator | None = None,
        callback_on_step_end: StepCallback | None = None,
    ) -> EditedLatents:
        """Denoises an inversion, or a generated picture's path, under the target prompt.

        The source prompt is not evaluated again (unless ``fresh_source`` or a reconstruction mode
        asks for it): its attention and its noise are those of the inversion.

        Args:
            inversion: of one picture, with recorded attention.
            photo: float32 (H, W, 3) in [0, 1], the size that a strength map has; else not needed.
            generator: of the noise that ``eta`` adds.

        Raises:
            ValueError: as ``__call__`` raises it.
        """
        settings = settings or EditSettings()
        inversion.require(prompt=source)
        inversion = self.placed(inversion)
        before, after = self._prompts(source, target)
        last = step_deviation(inversion.table, 1, settings.eta)
        if settings.eta > 0.0 and last == 0.0 and self.steps_back(inversion) == 1:
            raise ValueError(
                "eta adds noise between the steps of the way back, and this one has a single step: "
                "leave it out"
            )
        control = self._control(before, after, settings)
        strength = latent_strength(settings.strength, photo, inversion)
        guidance: float | Tensor = settings.guidance_scale
        focus = None
        if settings.guidance_outside is not None or settings.samples > 1:
            focus = self._focus_map(inversion, self._focus(before, after, settings))
        if settings.guidance_outside is not None and focus is not None:
            outside = settings.guidance_outside
            guidance = outside + focus * (settings.guidance_scale - outside)
        context = self.embed(after)
        anchors = self._anchors(inversion, before, settings)
        if anchors is not None and anchors.attention:
            inversion = replace(inversion, attention=anchors.attention)
        samples: list[tuple[float, Tensor, Tensor | None]] = []
        evaluations = 0 if anchors is None else anchors.nfe
        for _ in range(settings.samples):
            blend = self._blend(inversion, before, after, settings)
            latents, nfe = self.denoise_under(
                inversion,
                context,
                AttentionSession(
                    control=control, observer=None if blend is None else blend.observe
                ),
                strength=strength,
                guidance_scale=guidance,
                unconditional=None if anchors is None else anchors.unconditional[:, :1],
                source=self.embed(before) if settings.fresh_source else None,
                revise=_revision(inversion, settings, generator, blend),
                callback_on_step_end=callback_on_step_end,
            )
            evaluations += nfe
            score = 0.0
            if focus is not None:
                score = localisation(latents, inversion.trajectory[0], focus)
            samples.append((score, latents, None if blend is None else blend.mask))
        _, latents, mask = max(samples, key=lambda sample: sample[0])
        scores = tuple(score for score, _, _ in samples) if settings.samples > 1 else ()
        return EditedLatents(latents, mask, scores, evaluations)

    @torch.no_grad()
    def generate(
        self,
        prompt: str,
        *,
        generator: torch.Generator | None = None,
        size: tuple[int, int] | None = None,
        num_inference_steps: int | None = None,
        spacing: str | None = None,
        guidance_scale: float = 1.0,
    ) -> InversionResult:
        """Makes a picture from noise and keeps its path: an inversion without error, to be edited.

        Args:
            prompt: what it shall show.
            generator: of the noise; PyTorch's own when None. One of the CPU draws the same on every
                device.
            size: (height, width) in pixels, multiples of the model's size multiple; the model's
                own short side, square, when None.
            num_inference_steps: N, DDIM steps.
            spacing: of the timesteps, see ``dehaze.inversion.schedule.SPACINGS``.
            guidance_scale: classifier-free guidance g.

        Raises:
            WordError: the prompt is too long.
            ValueError: a setting is out of range.
            NonFiniteError: the network returned values that are not finite.
        """
        needs = self.description
        ranges.GUIDANCE_SCALE.check(guidance_scale)
        height, width = size or (needs.short_side, needs.short_side)
        if height % needs.size_multiple or width % needs.size_multiple or min(height, width) < 1:
            raise ValueError(
                f"size is {(height, width)}: this model needs multiples of {needs.size_multiple}"
            )
        settings = needs.inversion.changed(
            steps=num_inference_steps, spacing=spacing, guidance_scale=guidance_scale
        )
        table = DDIMTable.from_scheduler(self.scheduler, settings.steps, settings.spacing)
        scale = needs.pixels_per_latent
        noise = randn_tensor(
            (1, int(self.unet.config.in_channels), height // scale, width // scale),
            generator,
            self._execution_device,
        )
        tokens = self.tokens_of(prompt)
        session = self.recording_session(1, RecordingPlan())
        network = self.prompted_network(
            table, prompt, session=session, guidance_scale=guidance_scale
        )
        with controlled_attention(self.unet, session):
            made = generate(network, noise, settings.generated())
        self.maybe_free_model_hooks()
        return replace(made, attention=session.record, origin=self._origin((), tokens))

    def _prompts(self, source: str, target: str | None) -> tuple[TokenizedPrompt, TokenizedPrompt]:
        return self.tokens_of(source), self.tokens_of(source if target is None else target)

    def _control(
        self, before: TokenizedPrompt, after: TokenizedPrompt, settings: EditSettings
    ) -> AttentionControl:
        return prompt_to_prompt(
            before,
            after,
            settings.control,
            cross_replace_steps=settings.cross_replace_steps,
            self_replace_steps=settings.self_replace_steps,
            word_weights=settings.word_weights,
        )

    def _plan(self, source: str, target: str | None, settings: EditSettings) -> RecordingPlan:
        """What an edit with these settings asks of the source's attention."""
        control = self._control(*self._prompts(source, target), settings)
        shown = settings.blend or settings.guidance_outside is not None or settings.samples > 1
        return RecordingPlan(control, map_layers=None if shown else ())

    def _blend(
        self,
        inversion: InversionResult,
        before: TokenizedPrompt,
        after: TokenizedPrompt,
        settings: EditSettings,
    ) -> LocalBlend | None:
        if not settings.blend:
            return None
        return LocalBlend(
            inversion.attention,
            inversion.latent_size,
            inversion.steps,
            *_either_spans(before, after, settings.blend),
            *_either_spans(before, after, settings.exclude),
            threshold=settings.blend_threshold,
        )

    def _focus(
        self, before: TokenizedPrompt, after: TokenizedPrompt, settings: EditSettings
    ) -> tuple[int, ...]:
        """Positions in the source of the words that are being edited."""
        if settings.focus is not None:
            return word_span(before, settings.focus)
        spans = changed_words(before, after) or [
            word_span(before, word) for word in settings.word_weights
        ]
        if not spans:
            raise WordError(
                f"no word of {before.text!r} is being edited: name one that is attended to where "
                "the change belongs (focus)"
            )
        return tuple(sorted({position for span in spans for position in span}))

    def _focus_map(self, inversion: InversionResult, span: Sequence[int]) -> Tensor:
        """(1, 1, h, w) in [0, 1]: where the source attends to the span, stretched."""
        heat = word_map(
            inversion.attention, span, inversion.latent_size, layers=self.description.map_layers
        )[:, None]
        low, high = heat.amin((2, 3), keepdim=True), heat.amax((2, 3), keepdim=True)
        return (heat - low) / (high - low).clamp(min=1e-12)

    def _anchors(
        self, inversion: InversionResult, before: TokenizedPrompt, settings: EditSettings
    ) -> Anchors | None:
        if settings.mode == PLAIN:
            return None
        return self.anchor(
            inversion, settings.mode, before.text, guidance_scale=settings.guidance_scale
        )


def _revision(
    inversion: InversionResult,
    settings: EditSettings,
    generator: torch.Generator | None,
    blend: LocalBlend | None,
) -> Callable[[int, Tensor, Tensor], Tensor]:
    """What becomes of the latents after a step: noised, then blended."""

    def revise(i: int, latents: Tensor, noise: Tensor) -> Tensor:
        if settings.eta > 0.0:
            latents = stochastic_step(inversion.table, i, latents, noise, settings.eta, generator)
        if blend is not None:
            latents = blend(i, latents, inversion.trajectory[i - 1])
        return latents

    return revise


def _either_spans(
    before: TokenizedPrompt, after: TokenizedPrompt, words: Sequence[str]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Where any of these words stand in the source, and in the target."""
    pairs = [either_span(before, after, word) for word in words]
    source = tuple(position for span, _ in pairs for position in span)
    return source, tuple(position for _, span in pairs for position in span)
