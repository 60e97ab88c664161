"""An edit's use of attention: control, recording, and where the picture may change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dehaze.attention.blending import LocalBlend
from dehaze.attention.control import AttentionControl, prompt_to_prompt
from dehaze.attention.maps import word_map
from dehaze.attention.session import RecordingPlan
from dehaze.inversion import InversionResult
from dehaze.inversion.stochastic import stochastic_step
from dehaze.pipelines.edit_settings import EditSettings
from dehaze.prompts import TokenizedPrompt, WordError, changed_words, either_span, word_span


@dataclass(frozen=True)
class EditPlan:
    """An edit from one prompt to another with given settings.

    Attributes:
        before: the source prompt.
        after: the target prompt.
        settings: how the edit goes.

    Raises:
        WordError: a word that the settings name is in neither prompt, or no word is being edited
            where the settings need one.
        ControlError: the control does not fit the prompts.
    """

    before: TokenizedPrompt
    after: TokenizedPrompt
    settings: EditSettings

    def __post_init__(self) -> None:
        for word in (*self.settings.blend, *self.settings.exclude):
            either_span(self.before, self.after, word)
        if self.settings.needs_focus:
            self.focus_span()
        self.control()

    def control(self) -> AttentionControl:
        """Prompt-to-Prompt's control between the two prompts."""
        return prompt_to_prompt(
            self.before,
            self.after,
            self.settings.control,
            cross_replace_steps=self.settings.cross_replace_steps,
            self_replace_steps=self.settings.self_replace_steps,
            word_weights=self.settings.word_weights,
        )

    def recording(self) -> RecordingPlan:
        """The source's attention that the edit needs."""
        shown = self.settings.blend or self.settings.needs_focus
        return RecordingPlan(self.control(), map_layers=None if shown else ())

    def focus_span(self) -> tuple[int, ...]:
        """Token positions in the source of the edited words.

        Raises:
            WordError: no word of the source is edited, or ``focus`` is not in it.
        """
        if self.settings.focus is not None:
            return word_span(self.before, self.settings.focus)
        spans = changed_words(self.before, self.after) or [
            word_span(self.before, word) for word in self.settings.word_weights
        ]
        if not spans:
            raise WordError(
                f"no word of {self.before.text!r} is being edited: name one that is attended to "
                "where the change belongs (focus)"
            )
        return tuple(sorted({position for span in spans for position in span}))

    def focus_map(
        self, inversion: InversionResult, layers: Mapping[str, float] | None
    ) -> Tensor | None:
        """(1, 1, h, w): where the source attends to the edited words, stretched to [0, 1].

        ``layers`` are averaged, see ``dehaze.attention.maps.word_map``. None where the settings
        need no such map.
        """
        if not self.settings.needs_focus:
            return None
        # Attention may be in the host's memory while the latents are not.
        heat = word_map(
            inversion.attention,
            self.focus_span(),
            inversion.latent_size,
            layers=layers,
            device=inversion.latents.device,
        )[:, None]
        low, high = heat.amin((2, 3), keepdim=True), heat.amax((2, 3), keepdim=True)
        return (heat - low) / (high - low).clamp(min=1e-12)

    def guidance(self, focus: Tensor | None) -> float | Tensor:
        """g, one number, or a map (1, 1, h, w) where focus and surroundings differ."""
        inside, outside = self.settings.guidance_scale, self.settings.guidance_outside
        if outside is None or focus is None:
            return inside
        return outside + focus * (inside - outside)

    def blend(self, inversion: InversionResult) -> LocalBlend | None:
        """The blend that holds the change to its words; None without one."""
        if not self.settings.blend:
            return None
        return LocalBlend(
            inversion.attention,
            inversion.latent_size,
            inversion.steps,
            *self._either_spans(self.settings.blend),
            *self._either_spans(self.settings.exclude),
            threshold=self.settings.blend_threshold,
        )

    def _either_spans(self, words: Sequence[str]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Where any of these words stand in the source, and in the target."""
        pairs = [either_span(self.before, self.after, word) for word in words]
        source = tuple(position for span, _ in pairs for position in span)
        return source, tuple(position for _, span in pairs for position in span)


@dataclass(frozen=True)
class EditStep:
    """Changes the latents after a step of an edit: noise, then blending.

    Attributes:
        inversion: the inversion that is edited.
        eta: noise of the denoising steps, 0 for DDIM, 1 for DDPM.
        generator: of that noise; PyTorch's own when None.
        blend: holds the change to some words; None without one.
    """

    inversion: InversionResult
    eta: float
    generator: torch.Generator | None
    blend: LocalBlend | None

    def __call__(self, i: int, latents: Tensor, noise: Tensor) -> Tensor:
        """The z_{i-1} to go on with, (1, C, h, w), from the sampler's and the step's noise."""
        if self.eta > 0.0:
            latents = stochastic_step(
                self.inversion.table, i, latents, noise, self.eta, self.generator
            )
        if self.blend is not None:
            latents = self.blend(i, latents, self.inversion.trajectory[i - 1])
        return latents

    def hold_second(self, i: int, latents: Tensor) -> Tensor:
        """The same of the second latent of a sampler that has two, (1, C, h, w), as blended."""
        if self.blend is None:
            return latents
        return self.blend.put_back(latents, self.inversion.companion["trajectory"][i - 1])
