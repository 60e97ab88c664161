"""What every pipeline here does with a model's parts: prompts, inversion and the way back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import Unpack

from dehaze.attention.control import AttentionControl
from dehaze.attention.maps import word_map
from dehaze.attention.processors import (
    AttentionSession,
    RecordingPlan,
    controlled_attention,
)
from dehaze.inversion import (
    CRITERIA,
    SOLVERS,
    DDIMTable,
    FlowTable,
    InversionOptions,
    InversionResult,
    InversionSettings,
    Sampler,
    StepTable,
    adjust,
    check_served,
    denoise,
    invert,
)
from dehaze.inversion.denoising import unrevised
from dehaze.inversion.reconstruction import RECONSTRUCTION_MODES, Anchors
from dehaze.models.kinds import FLUX, ModelKind, has_distilled_guidance, kind_of, t5_tokens
from dehaze.models.needs import ModelDescription
from dehaze.network import PromptedNetwork, is_guided
from dehaze.pipelines.callback import StepCallback, StepEnd
from dehaze.pipelines.latents import PhotoCodec
from dehaze.pipelines.pictures import as_photos, as_pixels
from dehaze.pipelines.prompting import FlowPromptEncoder, PromptEncoder
from dehaze.pipelines.provenance import Provenance
from dehaze.prompts import TokenizedPrompt, WordError, word_span

Array = NDArray[np.float32]

# Recorded attention takes one part in so many of an accelerator's memory by default.
_ATTENTION_SHARE = 3
_NOTHING_FOLLOWED = AttentionControl(cross_replace_steps=0.0, self_replace_steps=0.0)


class Inverting:
    """Inverts photos, and denoises them under control, by the parts that it is given.

    ``dehaze.pipelines.base`` makes a pipeline of diffusers of it, ``dehaze.pipelines.plain`` one
    that starts without that library.

    Attributes:
        vae, text_encoder, tokenizer, unet, scheduler: the parts, see ``InversionPipeline``.
        text_encoder_2, tokenizer_2: those of a model with two text encoders or three.
        text_encoder_3, tokenizer_3: those of a model with three.
        transformer: a flow's network, in the place of ``unet``.
        description: the model's needs and defaults.
        guidance_in_two_calls: evaluate the network under the prompt and without it one after the
            other, which takes half the memory and more time, rather than as one batch.
        attention_memory: bytes of an accelerator's memory that recorded attention may take; what is
            beyond goes to the host's. None for a third of the memory of a CUDA device, and for no
            limit elsewhere.
    """

    guidance_in_two_calls: bool = False
    attention_memory: int | None = None
    vae: Any
    text_encoder: Any
    tokenizer: Any
    unet: Any
    transformer: Any
    text_encoder_3: Any
    tokenizer_3: Any
    scheduler: Any
    text_encoder_2: Any
    tokenizer_2: Any
    description: ModelDescription

    if TYPE_CHECKING:

        @property
        def _execution_device(self) -> torch.device:
            """The device that the networks run on."""

        def progress_bar(self, iterable: Any = None, total: int | None = None) -> Any:
            """tqdm's bar, as the pipeline is set to draw it."""

        def maybe_free_model_hooks(self) -> None:
            """Brings the parts back to where they wait, if they are moved during a call."""

    @property
    def default_prompt(self) -> str:
        """The prompt that is used when none is given."""
        return self.description.prompt

    @property
    def codec(self) -> PhotoCodec:
        """Photos to latents, and back to pictures, on the pipeline's device."""
        return PhotoCodec(self.vae, self.description, self._execution_device)

    @property
    def prompts(self) -> PromptEncoder:
        """Prompts to tokens, and to the embeddings that the network takes."""
        own = (
            self.description,
            self.tokenizer,
            self.text_encoder,
            self.tokenizer_2,
            self.text_encoder_2,
            self._execution_device,
            self.denoiser.dtype,
        )
        if self.kind.process == "ddim":
            return PromptEncoder(*own)
        return FlowPromptEncoder(
            *own, self.kind, t5_tokens(self.denoiser), self.tokenizer_3, self.text_encoder_3
        )

    @property
    def denoiser(self) -> Any:
        """The network that denoises: the U-Net, or the transformer."""
        return self.unet if self.transformer is None else self.transformer

    @property
    def kind(self) -> ModelKind:
        """Which kind of model it is."""
        return kind_of(self.denoiser)

    @property
    def latent_channels(self) -> int:
        """C, of the latents."""
        if self.transformer is None:
            return int(self.unet.config.in_channels)
        return int(self.vae.config.latent_channels)

    def step_table(self, settings: InversionSettings, latent_size: tuple[int, int]) -> StepTable:
        """The schedule of an inversion with these settings, of latents of this (h, w).

        Raises:
            ScheduleError: the scheduler cannot be followed with these settings.
        """
        if self.kind.process == "ddim":
            return DDIMTable.from_scheduler(self.scheduler, settings.steps, settings.spacing)
        height, width = latent_size
        return FlowTable.from_scheduler(
            self.scheduler,
            settings.steps,
            settings.spacing,
            positions=(height // 2) * (width // 2),
            even=self.kind is FLUX,
        )

    @property
    def provenance(self) -> Provenance:
        """What inversions by this model are of, to be written down and checked."""
        encoders = (self.text_encoder, self.text_encoder_2, self.text_encoder_3)
        parts = (self.denoiser, self.vae, *encoders)
        return Provenance(
            tuple(part for part in parts if part is not None),
            self.codec,
            self.latent_channels,
        )

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
            record_attention: keep what the attention layers computed, which edits and attention
                maps need: all that any of them may ask for, nothing, or what a plan says, for so
                many steps as are inverted. It is most of an inversion's memory.
            start: the inversion of a photo nearly the same, such as the frame before it in a film,
                that every step starts from. It saves evaluations where a step takes several. The
                result changes within the tolerance, and by more where the iterations end before it.
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
        chosen = (settings or self.description.inversion).changed(
            steps=num_inference_steps, guidance_scale=guidance_scale, **options
        )
        plan = RecordingPlan.asked(record_attention, chosen.inverted_steps)
        inversion = self._inverted(photos, source, chosen, plan, start)
        self.maybe_free_model_hooks()
        return replace(inversion, origin=self.provenance.origin(photos, source))

    def check_settings(self, **options: Unpack[InversionOptions]) -> None:
        """Raises ``ValueError`` where settings of an inversion cannot be, or not of this model."""
        check_served(self.kind.process, self.description.inversion.changed(**options))

    @torch.no_grad()
    def _inverted(
        self,
        photos: Sequence[Array],
        source: TokenizedPrompt,
        settings: InversionSettings,
        plan: RecordingPlan | None,
        start: InversionResult | None = None,
    ) -> InversionResult:
        """The inversion of photos, without the hashes of where it is from.

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
        # A second path only checks the first.
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
        """An inversion with what the network attends to along it: as recorded, or recorded now.

        A loaded inversion may have none, see ``InversionResult.save``. Then the network is
        evaluated at z_i in each step that the plan needs. What is recorded while inverting is of
        the solver's last evaluation, which was at z_i to within the tolerance; with ``ddim``, at
        z_{i-1}.

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
            inversion.table, inversion.own_prompt(prompt), session=session
        )
        with controlled_attention(self.denoiser, session):
            for i in range(1, inversion.steps + 1):
                if plan.needs(i):
                    network.recorded_noise(inversion.trajectory[i], i)
        return replace(inversion, attention=session.record), network.evaluations

    def recording_session(self, batch: int, plan: RecordingPlan | None) -> AttentionSession:
        """A session that records what a plan keeps, within ``attention_memory``; None: nothing."""
        budget, device = self.attention_memory, self._execution_device
        if budget is None and device.type == "cuda":
            budget = torch.cuda.get_device_properties(device).total_memory // _ATTENTION_SHARE
        return AttentionSession(
            batch=batch,
            recording=plan is not None,
            plan=plan or RecordingPlan(),
            budget=budget,
        )

    def anchor(
        self,
        inversion: InversionResult,
        mode: str,
        prompt: str | None = None,
        *,
        guidance_scale: float,
        plan: RecordingPlan | None = None,
    ) -> Anchors:
        """What holds a guided way back to the path of an inversion at guidance 1.

        Args:
            inversion: from ``invert``, under the same prompt.
            mode: see ``dehaze.inversion.reconstruction.RECONSTRUCTION_MODES``.
            prompt: that the photo was inverted under; may be left out.
            guidance_scale: g, of the way back.
            plan: which of the source's attention is recorded, where the mode does so; None for
                none.

        Raises:
            InversionMismatchError: the inversion is of another prompt or model.
            ValueError: there is no such mode, the inversion is not along DDIM's trajectory, or the
                model has no unconditional prediction, see ``check_classifier_free``.
            NonFiniteError: the network returned values that are not finite.
        """
        self.check_classifier_free(f"mode {mode}")
        prompt = inversion.own_prompt(prompt)
        self.provenance.check(inversion)
        session = self.recording_session(inversion.latents.shape[0], plan)
        network = self.prompted_network(
            inversion.table, prompt, session=session, guidance_scale=guidance_scale
        )
        with controlled_attention(self.denoiser, session):
            anchors = RECONSTRUCTION_MODES.get(mode).prepare(inversion, network)
        return replace(anchors, attention=session.record)

    def check_classifier_free(self, what: str) -> None:
        """Refuses what works on two predictions where guidance is distilled into the network.

        Args:
            what: that needs them, in words.

        Raises:
            ValueError: the network takes guidance as a number, as FLUX.1-dev's does.
        """
        if has_distilled_guidance(self.denoiser):
            raise ValueError(
                f"{what} is of classifier-free guidance, and this model's guidance is distilled "
                "into it: leave it out"
            )

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
            InversionMismatchError: the inversion is of another prompt.
        """
        photo = as_pixels(image)
        prompt = inversion.own_prompt(prompt)
        tokens, span = self.prompt_and_span(prompt, word)
        if not span:
            raise WordError(f"name a word of the prompt {tokens.text!r}")
        layers = self.description.map_layers if layers is None else layers
        shown = RecordingPlan(_NOTHING_FOLLOWED, map_layers=None if layers is None else [*layers])
        inversion, _ = self.with_attention(self.placed(inversion), prompt, shown)
        heat = word_map(
            inversion.attention,
            span,
            inversion.latent_size,
            layers=layers,
            steps=steps,
            device=self._execution_device,
        )
        return self.codec.enlarged(heat[0].cpu().numpy(), photo)

    def placed(self, inversion: InversionResult) -> InversionResult:
        """An inversion on the pipeline's device, where a loaded one may not be; else not copied.

        Its attention stays where it is: layers take what they need when they need it.
        """
        device = self._execution_device
        return replace(
            inversion,
            trajectory=inversion.trajectory.to(device),
            noise=inversion.noise.to(device),
            companion={name: value.to(device) for name, value in inversion.companion.items()},
        )

    def steps_back(self, inversion: InversionResult, *, held: bool = False) -> int:
        """How many steps of the way back are taken: what the model asks for, N at most.

        A sampler such as EDICT takes all N, since it goes back by its own steps; so does a way back
        that a reconstruction mode has ``held``, since it was held step by step.
        """
        asked = self.description.denoising_steps
        if held or asked is None or isinstance(SOLVERS.get(inversion.settings.solver), Sampler):
            return inversion.steps
        return min(asked, inversion.steps)

    @torch.no_grad()
    def denoise_under(
        self,
        inversion: InversionResult,
        context: Tensor,
        session: AttentionSession,
        *,
        strength: float | Tensor = 1.0,
        guidance_scale: float | Tensor = 1.0,
        unconditional: Tensor | None = None,
        source: Tensor | None = None,
        revise: Callable[[int, Tensor, Tensor], Tensor] = unrevised,
        callback_on_step_end: StepCallback | None = None,
    ) -> tuple[Tensor, int]:
        """Denoises an inversion under another prompt, held to the source by attention control.

        Args:
            inversion: with recorded attention.
            context: the target's text embedding, (1, L, D).
            session: its control and observer are used; what the inversion recorded is put into it.
            strength: w, one number, or a map that broadcasts to the latents (B, C, h, w).
            guidance_scale: classifier-free guidance g, one number or such a map; 1 never runs the
                unconditional pass.
            unconditional: (n, 1, L, D) or (n, B, L, D), the unconditional embedding of each step,
                step 1 first; the empty prompt's when None.
            source: the source's embedding. If it is given, w goes from the noise that the source
                has at the target's latents, for an evaluation more a step, rather than from the
                noise of the inversion.
            revise: as in ``dehaze.inversion.denoise``.
            callback_on_step_end: called after each step, as in diffusers; see ``StepCallback``.

        Returns:
            z_0, float32 (B, C, h, w), and the number of network evaluations.
        """
        inversion = self.placed(inversion)
        session.record = inversion.attention
        session.batch = inversion.latents.shape[0]
        session.steps = inversion.steps
        table = inversion.table
        network = self._network(
            table,
            context,
            session=session,
            guidance_scale=guidance_scale,
            unconditional=unconditional,
        )
        own = None
        if source is not None:
            own = self._network(table, source, session=session, controlled=False)

        taken = self.steps_back(inversion, held=unconditional is not None)
        with controlled_attention(self.denoiser, session), self.progress_bar(total=taken) as bar:
            latents = denoise(
                inversion,
                network,
                source_network=own,
                strength=strength,
                steps=taken,
                revise=StepEnd(self, inversion, bar, revise, callback_on_step_end),
            )
        return latents, network.evaluations + (0 if own is None else own.evaluations)

    def prompted_network(
        self,
        table: StepTable,
        prompt: str | None = None,
        *,
        guidance_scale: float = 1.0,
        unconditional: Tensor | None = None,
        session: AttentionSession | None = None,
    ) -> PromptedNetwork:
        """The network under a prompt, to be evaluated directly.

        Args:
            table: the schedule, of an inversion for instance.
            prompt: the model's own when None.
            guidance_scale: classifier-free guidance g.
            unconditional: (n, 1, L, D) or (n, B, L, D), the unconditional embedding of each step,
                step 1 first; the empty prompt's when None.
            session: of attention control, that is told of each evaluation; see
                ``dehaze.attention.processors.controlled_attention``.

        Raises:
            WordError: the prompt is too long, or the model never learned one of its words.
        """
        return self._network(
            table,
            self.prompts.embed(self.prompts.tokens(prompt)),
            session=session,
            guidance_scale=guidance_scale,
            unconditional=unconditional,
        )

    def _network(
        self,
        table: StepTable,
        conditional: Tensor,
        *,
        session: AttentionSession | None = None,
        controlled: bool = True,
        guidance_scale: float | Tensor = 1.0,
        unconditional: Tensor | None = None,
    ) -> PromptedNetwork:
        """The network under an embedding; ``unconditional`` has a row for a step."""
        guided = is_guided(guidance_scale)
        return PromptedNetwork(
            self.denoiser,
            table,
            conditional,
            self.prompts.null_text() if guided else conditional,
            guidance_scale=guidance_scale,
            unconditional_of_steps=unconditional,
            max_tokens=self.prompts.length,
            pixels_per_latent=self.description.pixels_per_latent,
            session=session,
            controlled=controlled,
            in_two_calls=self.guidance_in_two_calls,
        )

    def prompt_and_span(
        self, prompt: str | None = None, word: str | None = None
    ) -> tuple[TokenizedPrompt, tuple[int, ...]]:
        """The prompt as tokens, and where in it the word stands: nowhere when none is named.

        Raises:
            WordError: the word is not in the prompt, the prompt is too long, or the model never
                learned one of its words.
        """
        tokens = self.prompts.tokens(prompt)
        return tokens, () if word is None else word_span(tokens, word)
