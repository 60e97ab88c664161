"""A model's parts, and everything that all pipelines derive from them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dehaze.attention.session import AttentionSession, RecordingPlan
from dehaze.inversion import DDIMTable, FlowTable, InversionResult, InversionSettings, StepTable
from dehaze.models.kinds import FLUX, ModelKind, kind_of, t5_tokens
from dehaze.models.needs import ModelDescription
from dehaze.network import PromptedNetwork, is_guided
from dehaze.pipelines.latents import PhotoCodec
from dehaze.pipelines.prompting import FlowPromptEncoder, PromptEncoder
from dehaze.pipelines.provenance import Provenance
from dehaze.prompts import TokenizedPrompt, word_span

# By default recorded attention takes a third of an accelerator's memory.
_ATTENTION_DIVISOR = 3


class PromptedModel:
    """The parts of a model, and their products: latents, embeddings, schedule, network.

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
        attention_memory: bytes of an accelerator's memory for recorded attention; the rest goes to
            the host's memory. None for a third of the memory of a CUDA device, and for no limit
            elsewhere.
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
            """Moves the parts back after a call, if they are moved for it."""

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
            self.denoiser,
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

    @property
    def provenance(self) -> Provenance:
        """Records and checks what inversions by this model are of."""
        encoders = (self.text_encoder, self.text_encoder_2, self.text_encoder_3)
        parts = (self.denoiser, self.vae, *encoders)
        return Provenance(
            tuple(part for part in parts if part is not None),
            self.codec,
            self.latent_channels,
        )

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

    def recording_session(self, batch: int, plan: RecordingPlan | None) -> AttentionSession:
        """A session that records what a plan keeps, or nothing, within ``attention_memory``."""
        budget, device = self.attention_memory, self._execution_device
        if budget is None and device.type == "cuda":
            budget = torch.cuda.get_device_properties(device).total_memory // _ATTENTION_DIVISOR
        return AttentionSession(
            batch=batch,
            recording=plan is not None,
            plan=plan or RecordingPlan(),
            budget=budget,
        )

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
            session: of attention control, which is told of each evaluation; see
                ``dehaze.attention.processors.controlled_attention``.

        Raises:
            WordError: the prompt is too long, or the model never learned one of its words.
        """
        prompts = self.prompts
        return self._network(
            table,
            prompts.embed(prompts.tokens(prompt)),
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
        """The network under an embedding; ``unconditional`` has a row for each step."""
        guided, prompts = is_guided(guidance_scale), self.prompts
        return PromptedNetwork(
            self.denoiser,
            table,
            conditional,
            prompts.null_text() if guided else conditional,
            guidance_scale=guidance_scale,
            unconditional_of_steps=unconditional,
            max_tokens=prompts.length,
            pixels_per_latent=self.description.pixels_per_latent,
            session=session,
            controlled=controlled,
            in_two_calls=self.guidance_in_two_calls,
        )

    def prompt_and_span(
        self, prompt: str | None = None, word: str | None = None
    ) -> tuple[TokenizedPrompt, tuple[int, ...]]:
        """The prompt as tokens, and the word's positions; none when no word is named.

        Raises:
            WordError: the word is not in the prompt, the prompt is too long, or the model never
                learned one of its words.
        """
        tokens = self.prompts.tokens(prompt)
        return tokens, () if word is None else word_span(tokens, word)

    def placed(self, inversion: InversionResult) -> InversionResult:
        """An inversion, moved to the pipeline's device if it is elsewhere.

        Its attention stays where it is; layers copy what they need.
        """
        device = self._execution_device
        return replace(
            inversion,
            trajectory=inversion.trajectory.to(device),
            noise=inversion.noise.to(device),
            companion={name: value.to(device) for name, value in inversion.companion.items()},
        )
