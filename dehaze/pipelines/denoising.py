"""From an inversion back to a picture, under another prompt and attention control."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from dehaze.attention.processors import controlled_attention
from dehaze.attention.session import AttentionSession, RecordingPlan
from dehaze.inversion import SOLVERS, InversionResult, Sampler, denoise
from dehaze.inversion.denoising import unheld, unrevised
from dehaze.inversion.reconstruction import RECONSTRUCTION_MODES, Anchors
from dehaze.models.kinds import has_distilled_guidance
from dehaze.pipelines.callback import StepCallback, StepEnd
from dehaze.pipelines.prompted import PromptedModel


class Denoising(PromptedModel):
    """Denoises inversions, held to the source by attention control and reconstruction modes."""

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
        hold_second: Callable[[int, Tensor], Tensor] = unheld,
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
            source: the source's embedding. If it is given, the source's noise is evaluated at the
                target's latents, one more evaluation a step, instead of taken from the inversion.
            revise, hold_second: as in ``dehaze.inversion.denoise``.
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
                hold_second=hold_second,
            )
        return latents, network.evaluations + (0 if own is None else own.evaluations)

    def steps_back(self, inversion: InversionResult, *, held: bool = False) -> int:
        """How many steps of the way back are taken: the model's own number, at most N.

        A sampler such as EDICT takes all N, since it goes back by its own steps. So does a way back
        that is ``held`` by a reconstruction mode, since it is held step by step.
        """
        asked = self.description.denoising_steps
        if held or asked is None or isinstance(SOLVERS.get(inversion.settings.solver), Sampler):
            return inversion.steps
        return min(asked, inversion.steps)

    def anchor(
        self,
        inversion: InversionResult,
        mode: str,
        prompt: str | None = None,
        *,
        guidance_scale: float,
        plan: RecordingPlan | None = None,
    ) -> Anchors:
        """The anchors that hold guided denoising to the path of an inversion at guidance 1.

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
        """Refuses what needs two predictions where guidance is distilled into the network.

        Args:
            what: the thing that needs them, in words.

        Raises:
            ValueError: the network takes guidance as a number, as FLUX.1-dev's does.
        """
        if has_distilled_guidance(self.denoiser):
            raise ValueError(
                f"{what} is of classifier-free guidance, and this model's guidance is distilled "
                "into it: leave it out"
            )
