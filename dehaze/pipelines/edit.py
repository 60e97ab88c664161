"""The editing pipeline: from a photo and two prompts to the photo under the second one."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, overload

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import Unpack

from dehaze import ranges
from dehaze.attention.processors import controlled_attention
from dehaze.attention.session import AttentionSession, RecordingPlan
from dehaze.inversion import (
    InversionOptions,
    InversionResult,
    InversionTrace,
    generate,
)
from dehaze.inversion.reconstruction import Anchors, holds, records_attention
from dehaze.inversion.stochastic import check_eta, localisation, step_deviation
from dehaze.levels import to_levels
from dehaze.network import NonFiniteError
from dehaze.pipelines.base import InversionPipeline
from dehaze.pipelines.callback import StepCallback, check_callback
from dehaze.pipelines.edit_plan import EditPlan, EditStep
from dehaze.pipelines.edit_settings import EditSettings, PictureScore
from dehaze.pipelines.pictures import OUTPUT_TYPES, Photo, as_pixels
from dehaze.pipelines.strength import latent_strength
from dehaze.recovery.recover import RECOVERIES

Array = NDArray[np.float32]


@dataclass(frozen=True)
class EditedLatents:
    """What ``EditPipeline.edit`` returns.

    Attributes:
        latents: z_0, float32 (1, C, h, w).
        mask: float32 (1, 1, h, w), 0 or 1, where LocalBlend let the change through at the last
            step; None without a blend.
        scores: of each sample, see ``EditSettings.score``; the latents are the best one's. Empty
            where there was one sample only.
        nfe: network evaluations.
    """

    latents: Tensor
    mask: Tensor | None
    scores: tuple[float, ...]
    nfe: int


@dataclass(frozen=True)
class EditResult:
    """An edited picture, and how the edit went.

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
            target: what it shall show; the source prompt where only words are weighted.
            settings: how; the defaults when None.
            inversion: from ``invert`` for this photo and prompt, or from ``generate`` without a
                photo.
            recovery: ``affine`` carries the change of light and colour to the photo's own size and
                keeps its details, ``none`` enlarges the model's picture, which may show new things;
                see ``dehaze.recovery.recover.RECOVERIES``; ``affine`` when None. Only for a photo.
            generator: of the noise that ``eta`` adds; PyTorch's own when None. One of the CPU draws
                the same on every device.
            output_type: ``np``, ``pil`` or ``pt``, see ``EditResult.image``.
            return_dict: with False, a tuple of the image alone.
            callback_on_step_end: called after each denoising step, as in diffusers.
            num_inference_steps: N, DDIM steps; the model's own when None.
            inversion_guidance_scale: classifier-free guidance of the inversion, if it is made here;
                1 when None. FPI's published code inverts with the guidance of the edit.
            options: of the inversion, see ``invert``. A given inversion is refused if it was made
                with others.

        Raises:
            WordError: a prompt is too long, or lacks a word that a setting names.
            ControlError: the control does not fit the prompts.
            ValueError: a setting is unknown or out of range; the message lists what there is.
            NonFiniteError: the network returned values that are not finite.
        """
        if recovery is not None and image is None:
            raise ValueError("recovery is of a photo's own size, and there is no photo")
        recover = RECOVERIES.get("affine" if recovery is None else recovery)
        output = OUTPUT_TYPES.get(output_type)
        photo = None if image is None else as_pixels(image)
        check_callback(callback_on_step_end)
        plan = self._plan(source, target, settings)
        _check_generator(generator, plan.settings)
        check_eta(self.kind.process, plan.settings.eta, options.get("solver"))
        # 1. The inversion, given or made here.
        evaluations = 0
        if inversion is None:
            inversion = self._own_inversion(
                photo, plan, inversion_guidance_scale, num_inference_steps, options
            )
            evaluations = int(inversion.trace.nfe.sum())
        elif inversion_guidance_scale is not None:
            raise ValueError("inversion_guidance_scale was chosen when the inversion was made")
        else:
            self.provenance.check(
                inversion,
                None if photo is None else [photo],
                source,
                num_inference_steps=num_inference_steps,
                **options,
            )
        # 2. The way back under the target prompt.
        edited = self.edit(
            inversion,
            source,
            target,
            settings,
            photo=photo,
            generator=generator,
            callback_on_step_end=callback_on_step_end,
        )
        # 3. The result, at the photo's own size.
        before, after = (
            self._decoded(latents, photo) for latents in (inversion.trajectory[0], edited.latents)
        )
        result = output(after if photo is None else recover(photo, before, after).image)
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

    def _own_inversion(
        self,
        photo: Array | None,
        plan: EditPlan,
        guidance_scale: float | None,
        steps: int | None,
        options: InversionOptions,
    ) -> InversionResult:
        """The inversion of a photo, with the attention that its edit asks for.

        Raises:
            ValueError: there is no photo.
        """
        if photo is None:
            raise ValueError("there is neither a photo nor an inversion to edit")
        # A mode that records attention does so on the way back.
        recording = False if records_attention(plan.settings.mode) else plan.recording()
        return self.invert(
            photo,
            plan.before.text,
            num_inference_steps=steps,
            guidance_scale=1.0 if guidance_scale is None else guidance_scale,
            record_attention=recording,
            **options,
        )

    def check_prompts(
        self, source: str, target: str | None = None, settings: EditSettings | None = None
    ) -> None:
        """Raises ``WordError`` or ``ControlError`` where prompts, words and control do not fit."""
        self._plan(source, target, settings)

    def recording(
        self, source: str, target: str | None = None, settings: EditSettings | None = None
    ) -> RecordingPlan:
        """The source's attention that an edit needs, for ``record_attention`` of ``invert``.

        Arguments and errors as for ``check_prompts``.
        """
        return self._plan(source, target, settings).recording()

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
            inversion: of one picture; its attention is recorded anew where it has none.
            source, target, settings, callback_on_step_end: as for ``__call__``.
            photo: float32 (H, W, 3) in [0, 1]. A strength map has its size, and a score sees the
                picture without the codec's padding. Not needed otherwise.
            generator: of the noise that ``eta`` adds.

        Raises:
            ValueError: as ``__call__`` raises it.
            NonFiniteError: a score is not finite, or as ``__call__`` raises it.
        """
        plan = self._plan(source, target, settings)
        settings = plan.settings
        check_callback(callback_on_step_end)
        _check_generator(generator, settings)
        InversionResult.checked(inversion).require(prompt=source)
        if inversion.latents.shape[0] != 1:
            raise ValueError("the inversion is of several photos: take one by sample")
        inversion = self.placed(inversion)
        self._check_noise(inversion, settings)
        anchors = self._anchors(inversion, plan)
        if anchors is not None and anchors.attention:
            inversion = replace(inversion, attention=anchors.attention)
        inversion, evaluations = self.with_attention(inversion, source, plan.recording())
        strength = latent_strength(settings.strength, photo, inversion)
        focus = plan.focus_map(inversion, self.description.map_layers)
        prompts = self.prompts
        context = prompts.embed(plan.after)
        own = prompts.embed(plan.before) if settings.fresh_source else None
        samples: list[tuple[Tensor, Tensor | None]] = []
        scores: list[float] = []
        evaluations += 0 if anchors is None else anchors.nfe
        for _ in range(settings.samples):
            blend = plan.blend(inversion)
            step = EditStep(inversion, settings.eta, generator, blend)
            latents, nfe = self.denoise_under(
                inversion,
                context,
                AttentionSession(
                    control=plan.control(), observer=None if blend is None else blend.observe
                ),
                strength=strength,
                guidance_scale=plan.guidance(focus),
                unconditional=None if anchors is None else anchors.unconditional,
                source=own,
                revise=step,
                hold_second=step.hold_second,
                callback_on_step_end=callback_on_step_end,
            )
            evaluations += nfe
            samples.append((latents, None if blend is None else blend.mask))
            if settings.score is not None:
                picture = self._decoded(latents, photo)
                scores.append(_score(settings.score, picture, plan.after.text))
            elif focus is not None:
                scores.append(localisation(latents, inversion.trajectory[0], focus))
        if settings.samples == 1:
            return EditedLatents(*samples[0], (), evaluations)
        best = max(range(settings.samples), key=scores.__getitem__)
        return EditedLatents(*samples[best], tuple(scores), evaluations)

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
        record_attention: bool | RecordingPlan = True,
    ) -> InversionResult:
        """Makes a picture from noise and keeps its path, which is an inversion without error.

        Args:
            prompt: what it shall show.
            generator: of the noise; PyTorch's own when None. One of the CPU draws the same on every
                device.
            size: (height, width) in pixels, multiples of the model's size multiple; the model's
                own short side, square, when None.
            num_inference_steps: N, DDIM steps.
            spacing: of the timesteps, see ``dehaze.inversion.spacings.SPACINGS``.
            guidance_scale: classifier-free guidance g.
            record_attention: as for ``invert``.

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
        if needs.long_side is not None and max(height, width) > needs.long_side:
            raise ValueError(
                f"size is {(height, width)}: this model takes {needs.long_side} pixels a side at "
                "most"
            )
        settings = needs.inversion.changed(
            steps=num_inference_steps, spacing=spacing, guidance_scale=guidance_scale
        )
        scale = needs.pixels_per_latent
        latent_size = height // scale, width // scale
        table = self.step_table(settings, latent_size)
        noise = randn_tensor(
            (1, self.latent_channels, *latent_size), generator, self._execution_device
        )
        tokens = self.prompts.tokens(prompt)
        plan = RecordingPlan.asked(record_attention, settings.steps)
        session = self.recording_session(1, plan)
        network = self.prompted_network(
            table, prompt, session=session, guidance_scale=guidance_scale
        )
        with controlled_attention(self.denoiser, session):
            made = generate(network, noise, settings.generated())
        self.maybe_free_model_hooks()
        return replace(made, attention=session.record, origin=self.provenance.origin((), tokens))

    def _decoded(self, latents: Tensor, photo: Array | None) -> Array:
        """A picture at the working size, float32 (h, w, 3) in [0, 1]."""
        codec = self.codec
        if photo is not None:
            return codec.decode(latents, codec.working_size(photo))
        height, width = (int(side) for side in latents.shape[-2:])
        return codec.decode(latents, codec.pixels_of((height, width)))

    def _plan(self, source: str, target: str | None, settings: EditSettings | None) -> EditPlan:
        prompts = self.prompts
        before = prompts.tokens(source)
        after = before if target is None else prompts.tokens(target)
        settings = ranges.check_settings(settings, EditSettings())
        check_eta(self.kind.process, settings.eta)
        if holds(settings.mode):
            self.check_classifier_free(f"mode {settings.mode}")
        if settings.guidance_outside is not None:
            self.check_classifier_free("guidance_outside")
        return EditPlan(before, after, settings)

    def _check_noise(self, inversion: InversionResult, settings: EditSettings) -> None:
        """Raises ``ValueError`` where there is no place for the noise that the settings add."""
        check_eta(self.kind.process, settings.eta, inversion.settings.solver)
        taken = self.steps_back(inversion, held=holds(settings.mode))
        last = step_deviation(inversion.table, 1, settings.eta)
        if settings.eta > 0.0 and last == 0.0 and taken == 1:
            raise ValueError(
                "eta adds noise between the steps of the way back, and this one has a single step: "
                "leave it out"
            )

    def _anchors(self, inversion: InversionResult, plan: EditPlan) -> Anchors | None:
        if not holds(plan.settings.mode):
            return None
        return self.anchor(
            inversion,
            plan.settings.mode,
            plan.before.text,
            guidance_scale=plan.settings.guidance_scale,
            plan=replace(plan.recording(), steps=inversion.steps),
        )


def _check_generator(generator: torch.Generator | None, settings: EditSettings) -> None:
    """Raises ``ValueError`` where a generator has nothing to draw."""
    if generator is not None and settings.eta == 0.0:
        raise ValueError("generator draws the noise of eta, which is 0: leave it out")


def _score(score: PictureScore, picture: Array, prompt: str) -> float:
    """The score of a picture, float32 (h, w, 3) in [0, 1], as it would be saved."""
    found = score(to_levels(picture), prompt)
    if not math.isfinite(found):
        raise NonFiniteError(f"the score of a sample is {found}: choose by another one")
    return found
