"""From photos to their inversion, and to the attention map of a word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import Unpack

from dehaze import ranges
from dehaze.attention.control import AttentionControl
from dehaze.attention.maps import word_map
from dehaze.attention.processors import controlled_attention
from dehaze.attention.session import RecordingPlan
from dehaze.inversion import (
    CRITERIA,
    InversionMismatchError,
    InversionOptions,
    InversionResult,
    InversionSettings,
    adjust,
    check_served,
    invert,
)
from dehaze.pipelines.pictures import as_photos, as_pixels
from dehaze.pipelines.prompted import PromptedModel
from dehaze.prompts import TokenizedPrompt, WordError

Array = NDArray[np.float32]

# Whether a schedule of N steps exists does not depend on the picture's size.
_ANY_LATENTS = (64, 64)
_NOTHING_FOLLOWED = AttentionControl(cross_replace_steps=0.0, self_replace_steps=0.0)


class Inverting(PromptedModel):
    """Inverts photos under a prompt."""

    @torch.no_grad()
    def invert(
        self,
        image: Any,
        prompt: str | None = None,
        word: str | None = None,
        *,
        settings: InversionSettings | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        record_attention: bool | RecordingPlan = True,
        start: InversionResult | None = None,
        **options: Unpack[InversionOptions],
    ) -> InversionResult:
        """Inverts a photo under a prompt, at the model's working size; or several as one batch.

        Args:
            image: the photo: PIL, uint8 (H, W, 3) in [0, 255], or float (H, W, 3) in [0, 1], RGB;
                or a list of photos of one ``codec.padded_size``: the samples of the result, in
                this order. See ``InversionResult.sample``.
            prompt: what the photo shows; the model's own when None.
            word: a word that the prompt must hold.
            settings: how; the model's own when None.
            num_inference_steps: N, DDIM steps, in place of those of the settings.
            guidance_scale: classifier-free guidance g, likewise; 1 never runs the unconditional
                pass.
            record_attention: whether to keep what the attention layers computed, which edits and
                attention maps need: all that they may need, nothing, or what a plan says. It takes
                most of an inversion's memory.
            start: the inversion of a nearly equal photo, such as the frame before it in a clip,
                from which every step starts. It saves evaluations where a step takes several. The
                result changes within the tolerance, or by more where the iterations end before
                that.
            options: fields of ``InversionSettings`` by name, likewise. A solver that is named runs
                as it was published, see ``InversionSettings.changed``.

        Returns:
            the inversion, which knows the photo, the prompt, the model and the settings.

        Raises:
            WordError: the word is not in the prompt, or the prompt is too long.
            ValueError: a setting is unknown or out of range; the message lists what there is. Or
                the photos cannot be one batch.
            NonFiniteError: the network returned values that are not finite.
        """
        photos, _ = as_photos(image)
        source, _ = self.prompt_and_span(prompt, word)
        if start is not None:
            InversionResult.checked(start)
        chosen = ranges.check_settings(settings, self.description.inversion).changed(
            steps=num_inference_steps, guidance_scale=guidance_scale, **options
        )
        plan = RecordingPlan.asked(record_attention, chosen.inverted_steps)
        inversion = self._inverted(photos, source, chosen, plan, start)
        self.maybe_free_model_hooks()
        return replace(inversion, origin=self.provenance.origin(photos, source))

    def check_settings(
        self, *, num_inference_steps: int | None = None, **options: Unpack[InversionOptions]
    ) -> None:
        """Raises ``ValueError`` where settings are wrong, or not possible with this model."""
        settings = self.description.inversion.changed(steps=num_inference_steps, **options)
        check_served(self.kind.process, settings)
        self.step_table(settings, _ANY_LATENTS)

    @torch.no_grad()
    def _inverted(
        self,
        photos: Sequence[Array],
        source: TokenizedPrompt,
        settings: InversionSettings,
        plan: RecordingPlan | None,
        start: InversionResult | None = None,
    ) -> InversionResult:
        """The inversion of photos, without its origin.

        ``plan`` says which attention is recorded; None for none. ``start`` as for ``invert``.
        """
        check_served(self.kind.process, settings)
        latents = self.codec.encode_batch(photos)
        table = self.step_table(settings, (int(latents.shape[-2]), int(latents.shape[-1])))
        context, distance, prepared = self.prompts.embed(source), None, 0
        if settings.adjustment is not None:
            adjusting = self._network(table, context, guidance_scale=settings.guidance_scale)
            latents, distance = adjust(
                settings.adjustment, adjusting, latents, repeats=settings.adjustment_repeats
            )
            prepared = adjusting.evaluations
        batch = latents.shape[0]
        paths = CRITERIA.get(settings.criterion).paths
        session = self.recording_session(batch * paths, plan)
        network = self._network(
            table, context, session=session, guidance_scale=settings.guidance_scale
        )
        with (
            controlled_attention(self.denoiser, session),
            self.progress_bar(total=settings.inverted_steps) as bar,
        ):
            result = invert(network, latents, settings, start=start, on_step=lambda i: bar.update())
        # A second path only checks the first, and is not recorded.
        result.attention.update({name: rows[:batch] for name, rows in session.record.items()})
        # The evaluations of an adjustment count to step 1.
        result.trace.nfe[0] += prepared
        return replace(result, adjustment=None if distance is None else distance.cpu())

    @torch.no_grad()
    def with_attention(
        self,
        inversion: InversionResult,
        prompt: str | None = None,
        plan: RecordingPlan | None = None,
    ) -> tuple[InversionResult, int]:
        """An inversion with its attention, as recorded or recorded now.

        A loaded inversion may have none, see ``InversionResult.save``. The network is then
        evaluated at z_i in each step that the plan needs. Attention recorded while inverting is
        from the solver's last evaluation, which is at z_i to within the tolerance, and with
        ``ddim`` at z_{i-1}.

        Args:
            inversion: on the pipeline's device, see ``placed``.
            prompt: that it was made under; may be left out.
            plan: what is recorded; all that an edit may ask for when None.

        Returns:
            the inversion, and the network evaluations that it took.

        Raises:
            InversionMismatchError: the inversion is of another prompt.
            NonFiniteError: the network returned values that are not finite.
        """
        if inversion.attention:
            return inversion, 0
        plan = replace(plan or RecordingPlan(), steps=inversion.steps)
        session = self.recording_session(inversion.latents.shape[0], plan)
        network = self.prompted_network(
            inversion.table,
            inversion.own_prompt(prompt),
            guidance_scale=inversion.settings.guidance_scale,
            session=session,
        )
        with controlled_attention(self.denoiser, session):
            for i in range(1, inversion.steps + 1):
                if plan.needs(i):
                    network.recorded_noise(inversion.trajectory[i], i)
        return replace(inversion, attention=session.record), network.evaluations

    def word_attention(
        self,
        image: Any,
        inversion: InversionResult,
        prompt: str | None = None,
        word: str | None = None,
        *,
        layers: Mapping[str, float] | None = None,
        steps: Sequence[int] | None = None,
    ) -> Array:
        """The attention map of a word at the photo's size, float32 (H, W), from its inversion.

        ``layers`` and ``steps`` choose what is averaged, see ``dehaze.attention.maps.word_map``;
        when None, the layers of the model's description and all steps.

        Raises:
            WordError: the word is not in the prompt.
            InversionMismatchError: the inversion is of another prompt, of a photo of another size,
                or of several photos.
        """
        photo = as_pixels(image)
        InversionResult.checked(inversion)
        if inversion.latents.shape[0] != 1:
            raise InversionMismatchError("the inversion is of several photos: take one by sample")
        if inversion.latent_size != self.codec.latent_size(photo):
            raise InversionMismatchError(
                "the inversion is of a photo of another size: invert this one"
            )
        prompt = inversion.own_prompt(prompt)
        tokens, span = self.prompt_and_span(prompt, word)
        if not span:
            raise WordError(f"name a word of the prompt {tokens.text!r}")
        layers = self.description.map_layers if layers is None else layers
        shown = RecordingPlan(_NOTHING_FOLLOWED, map_layers=None if layers is None else [*layers])
        inversion, evaluations = self.with_attention(self.placed(inversion), prompt, shown)
        heat = word_map(
            inversion.attention,
            span,
            inversion.latent_size,
            layers=layers,
            steps=steps,
            device=self._execution_device,
        )
        if evaluations:
            self.maybe_free_model_hooks()
        return self.codec.enlarged(heat[0].cpu().numpy(), photo)
