"""The settings of an edit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from dehaze import ranges
from dehaze.inversion.reconstruction import PLAIN, check_mode, holds
from dehaze.pipelines.strength import check_strength
from dehaze.prompts import check_texts

Array = NDArray[np.float32]
PictureScore = Callable[[NDArray[np.uint8], str], float]
"""Takes a picture, uint8 (H, W, 3) RGB, and a prompt; returns how well the picture fits it."""


DEFAULT_THRESHOLD = 0.3
"""LocalBlend's threshold, relative to a map's maximum."""


@dataclass(frozen=True)
class EditSettings:
    """The settings of an edit; the defaults are Prompt-to-Prompt's, at strength 1, unguided.

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
            attended to, and this where it is not; None for one g.
        strength: w, 0 for the photo as it was, 1 for the target prompt; or a map (H, W) of it.
        fresh_source: whether the source's noise is evaluated at the edited latents, one more
            evaluation a step, instead of taken from the inversion.
        focus: words of the source that are being edited, for ``guidance_outside`` and where no
            ``score`` chooses among ``samples``; None for the words that the target lacks, or else
            those of ``word_weights``.
        eta: noise of the denoising steps, 0 for DDIM, 1 for DDPM.
        samples: how many samples are drawn with ``eta``; the best one is kept.
        score: by which the best is chosen, from the edited picture at the working size and the
            target prompt, such as ``dehaze.models.clip.load_clip``'s. None for how well the change
            keeps to ``focus``, see ``dehaze.inversion.stochastic.localisation``.
    """

    control: str | None = None
    cross_replace_steps: float | Mapping[str, float] = 0.8
    self_replace_steps: float = 0.4
    word_weights: Mapping[str, float] = field(default_factory=dict)
    blend: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    blend_threshold: float = DEFAULT_THRESHOLD
    mode: str = PLAIN
    guidance_scale: float = 1.0
    guidance_outside: float | None = None
    strength: float | Array = 1.0
    fresh_source: bool = False
    focus: str | None = None
    eta: float = 0.0
    samples: int = 1
    score: PictureScore | None = None

    def __post_init__(self) -> None:
        ranges.GUIDANCE_SCALE.check(self.guidance_scale)
        if self.guidance_outside is not None:
            replace(ranges.GUIDANCE_SCALE, name="guidance_outside").check(self.guidance_outside)
        replace(ranges.SHARE, name="blend_threshold").check(self.blend_threshold)
        ranges.ETA.check(self.eta)
        check_strength(self.strength)
        check_texts("blend", self.blend)
        check_texts("exclude", self.exclude)
        ranges.check_switch("fresh_source", self.fresh_source)
        if not isinstance(self.word_weights, Mapping):
            raise ValueError(
                f"word_weights is {self.word_weights!r:.80}: it must be a dict of numbers by word"
            )
        for word, weight in self.word_weights.items():
            replace(ranges.WORD_WEIGHT, name=f"the weight of {word!r}").check(weight)
        check_mode(self.mode, self.guidance_scale)
        if holds(self.mode) and self.guidance_outside is not None:
            raise ValueError(f"guidance_outside needs mode {PLAIN}, not {self.mode}")
        if self.blend_threshold != DEFAULT_THRESHOLD and not self.blend:
            raise ValueError("blend_threshold has no effect without a blend: leave it out")
        if self.exclude and not self.blend:
            raise ValueError("exclude takes words out of a blend: name the words to blend too")
        if ranges.check_count("samples", self.samples) > 1 and self.eta == 0.0:
            raise ValueError(f"{self.samples} samples are one without noise: give an eta above 0")
        if self.score is not None and self.samples == 1:
            raise ValueError("score chooses among several samples, and there is 1: leave it out")
        if self.focus is not None and not self.needs_focus:
            raise ValueError(
                "focus has no effect without guidance_outside, or several samples and no score: "
                "leave it out"
            )

    @property
    def needs_focus(self) -> bool:
        """Whether the map of the source's attention to the edited words is needed."""
        chosen_by_focus = self.samples > 1 and self.score is None
        return self.guidance_outside is not None or chosen_by_focus
