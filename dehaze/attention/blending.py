"""Prompt-to-Prompt's LocalBlend: the picture stays as it was where no chosen word is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor
from torch.nn import functional as F

from dehaze.attention.control import ControlError
from dehaze.attention.maps import attended, grid_of_layer, recorded_layers
from dehaze.attention.probabilities import on_tokens

Span = Sequence[int]

# The published code takes Stable Diffusion 1.5's 16 x 16 maps: a quarter of its 64 x 64 latents.
_QUARTER = 4


def layers_near_a_quarter(
    record: Mapping[str, Tensor], latent_size: tuple[int, int]
) -> dict[str, tuple[int, int]]:
    """The recorded cross-attention layers of the size nearest to a quarter of the latents'.

    Returns:
        (height, width) of each layer's map, by name.

    Raises:
        ControlError: nothing was recorded.
    """
    grids = {}
    for layer, steps in recorded_layers(record).items():
        grids[layer] = grid_of_layer(record, layer, steps[0], latent_size)
    if not grids:
        raise ControlError("no cross-attention was recorded: invert with attention recording on")
    wanted = max(latent_size) / _QUARTER
    nearest = min(grids.values(), key=lambda grid: (abs(max(grid) - wanted), grid))
    return {layer: grid for layer, grid in grids.items() if grid == nearest}


@dataclass
class LocalBlend:
    """Holds an edit to where chosen words of the source or the target are attended to.

    It observes an ``AttentionSession`` while the target is denoised, and is called on the latents
    after each step. A word's map is averaged over heads and summed over tokens, layers and the
    steps so far.

    Attributes:
        record: the source's queries and keys.
        latent_size: (H, W) of the latent.
        steps: n, the number of denoising steps.
        source_span: token positions of the words in the source prompt.
        target_span: likewise in the target prompt.
        source_excluded: token positions of words in the source prompt: where these are attended to,
            nothing changes. Empty for none.
        target_excluded: likewise in the target prompt.
        threshold: a word is where its map exceeds this share, in [0, 1], of the map's maximum.
        start: share of the steps, in [0, 1], before the first blend.

    Source: Prompt-to-Prompt, arXiv 2208.01626, section 3.2; the settings of its published code,
    which calls the excluded words "substruct".
    """

    record: Mapping[str, Tensor]
    latent_size: tuple[int, int]
    steps: int
    source_span: Span
    target_span: Span
    source_excluded: Span = ()
    target_excluded: Span = ()
    threshold: float = 0.3
    start: float = 0.2
    mask: Tensor | None = field(default=None, init=False)
    """(B, 1, H, W), 0 or 1: where the edit was let through at the last step; None before."""

    def __post_init__(self) -> None:
        self._layers = layers_near_a_quarter(self.record, self.latent_size)
        # BDIA's first step back takes no evaluation, and leaves the source as it is.
        steps = recorded_layers(self.record)
        self._recorded = set[int]().union(*(steps[layer] for layer in self._layers))
        self._sums: dict[str, Tensor] = {}

    def observe(self, layer: str, used: Tensor) -> None:
        """Adds the map (B, heads, P, L) that the target used in a layer at the current step."""
        if layer in self._layers:
            for whose, span in (
                ("target", self.target_span),
                ("target excluded", self.target_excluded),
            ):
                self._add(whose, layer, on_tokens(used, span).mean(1))

    def __call__(self, i: int, latents: Tensor, source: Tensor) -> Tensor:
        """The latents after step i, put back to the source's (B, C, H, W) outside of the mask."""
        if i not in self._recorded:
            return latents
        for layer in self._layers:
            spans = (self.source_span, self.source_excluded)
            on_words, excluded = attended(self.record, layer, i, spans, latents.device)
            self._add("source", layer, on_words)
            self._add("source excluded", layer, excluded)
        # At strength 0 the network does not run, and nothing changes.
        if self.steps - i < int(self.start * self.steps) or "target" not in self._sums:
            return latents
        mask = self._covered("source", pooled=True) | self._covered("target", pooled=True)
        if self.source_excluded or self.target_excluded:
            mask = mask & ~(
                self._covered("source excluded", pooled=False)
                | self._covered("target excluded", pooled=False)
            )
        self.mask = mask.to(latents)
        return self.put_back(latents, source)

    def put_back(self, latents: Tensor, source: Tensor) -> Tensor:
        """Latents put back to their source outside of the last mask; as they are before it."""
        return latents if self.mask is None else source + self.mask * (latents - source)

    def _add(self, whose: str, layer: str, on_words: Tensor) -> None:
        """Adds the probability on some words, (B, P), to their sum."""
        grid = on_words.float().unflatten(1, self._layers[layer])
        self._sums[whose] = self._sums[whose] + grid if whose in self._sums else grid

    def _covered(self, whose: str, *, pooled: bool) -> Tensor:
        """Where the summed map is above the threshold, bool (B, 1, H, W)."""
        heat = self._sums[whose][:, None]
        if pooled:
            heat = F.max_pool2d(heat, 3, stride=1, padding=1)
        heat = F.interpolate(heat, size=self.latent_size)
        peak = heat.amax((2, 3), keepdim=True)
        return (heat > self.threshold * peak) & (peak > 0.0)
