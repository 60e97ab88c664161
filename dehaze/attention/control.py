"""Prompt-to-Prompt control: which steps and tokens of the target follow the source's attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dehaze.errors import DehazeError
from dehaze.prompts import TokenizedPrompt, WordError, align_tokens, prompt_words, word_span
from dehaze.ranges import SHARE, RangeError
from dehaze.registry import Registry


class ControlError(DehazeError, ValueError):
    """The control cannot be applied with these settings, or to this network."""


@dataclass(frozen=True)
class TokenMapper:
    """The source's attention maps that each target token follows.

    Attributes:
        matrix: float (L, L): target token j takes the sum over i of ``matrix[i, j]`` times the map
            of source token i.
        weight: float (L,): 1 where a target token takes that map, 0 where it keeps its own.
    """

    matrix: Tensor
    weight: Tensor


@dataclass(frozen=True)
class AttentionControl:
    """Prompt-to-Prompt's settings for one edit, on tokens.

    Attributes:
        cross_replace_steps: share of the denoising steps, from the first, in which the target uses
            the source's cross-attention maps, in [0, 1]; or float (L,), a share for each target
            token.
        self_replace_steps: share of the steps in which the target uses the source's self-attention
            maps, in the layers of at most half the latent's height and width: the published code's
            32 x 32 of Stable Diffusion 1.5's 64 x 64.
        mapper: how target tokens follow source tokens; None when every position follows its own.
        equalizer: float (L,), what each target token's followed map is multiplied by; None for 1.

    Source: Prompt-to-Prompt, arXiv 2208.01626, section 3.2.
    """

    cross_replace_steps: float | Tensor = 0.8
    self_replace_steps: float = 0.4
    mapper: TokenMapper | None = None
    equalizer: Tensor | None = None
    _copies: dict[tuple[int, torch.device, torch.dtype], tuple[Tensor, Tensor]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _weights: dict[tuple[int, int], float | Tensor] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        for name in ("cross_replace_steps", "self_replace_steps"):
            _check_shares(name, getattr(self, name))

    def cross_weight(self, i: int, steps: int) -> float | Tensor:
        """alpha at step i of ``steps`` (N first, 1 last): 1 where source maps are followed, else 0.

        One number where all target tokens are alike, else (L,).
        """
        shares = self.cross_replace_steps
        if not isinstance(shares, Tensor):
            return float(steps - i < int(shares * steps))
        if (i, steps) not in self._weights:
            # In double precision, so that .8 of 5 steps is 4 steps.
            follows = steps - i < (shares.double() * steps + 1e-9).floor()
            alike = bool((follows == follows[0]).all())
            self._weights[i, steps] = float(follows[0]) if alike else follows.float()
        return self._weights[i, steps]

    def replaces_self(self, i: int, steps: int) -> bool:
        """Whether step i of ``steps`` (N first, 1 last) injects self-attention."""
        return steps - i < int(self.self_replace_steps * steps)

    @property
    def keeps_maps(self) -> bool:
        """Whether each token follows the source's map at its own position, unchanged.

        The source's queries and keys then suffice, and no map needs to be formed.
        """
        return self.mapper is None and self.equalizer is None

    def mixed(self, source: Tensor, own: Tensor, alpha: float | Tensor) -> Tensor:
        """The target's cross-attention map, (..., P, L), from the source's and its own.

        alpha c (w S M + (1 - w) T) + (1 - alpha) T with source map S, own map T, mapper (M, w) and
        equalizer c.
        """
        followed = source
        if self.mapper is not None:
            weight = self._like(self.mapper.weight, own)
            matrix = self._like(self.mapper.matrix, own)
            followed = weight * (source @ matrix) + (1.0 - weight) * own
        if self.equalizer is not None:
            followed = followed * self._like(self.equalizer, own)
        if isinstance(alpha, Tensor):
            alpha = self._like(alpha, own)
        return alpha * followed + (1.0 - alpha) * own

    def _like(self, value: Tensor, like: Tensor) -> Tensor:
        """A tensor of the control on the device and in the type of ``like``, copied there once.

        Each layer needs it in each step, and a copy to an accelerator waits for it.
        """
        if value.device == like.device and value.dtype == like.dtype:
            return value
        place = (id(value), like.device, like.dtype)
        if place not in self._copies:
            # The original is kept as well, so that its id stays its own.
            self._copies[place] = (value, value.to(like))
        return self._copies[place][1]


def _check_shares(name: str, shares: float | Tensor) -> None:
    """Raises ``ControlError`` where shares of the steps are out of range, or no numbers."""
    if not isinstance(shares, Tensor):
        try:
            SHARE.check(shares)
        except RangeError as error:
            raise ControlError(
                f"{name} is {shares!r:.80}: it is a share of the steps, 0 to 1"
            ) from error
    elif not ((shares >= 0.0) & (shares <= 1.0)).all():
        worst = float(shares.flatten()[(shares.flatten() - 0.5).abs().argmax()])
        raise ControlError(f"{name} is {worst:g}: it is a share of the steps, 0 to 1")


def replace_mapper(source: TokenizedPrompt, target: TokenizedPrompt) -> TokenMapper:
    """P2P's Replace: word by word, each target word takes the maps of the word in its place.

    Where a word and its counterpart have different numbers of tokens, each token of the target's
    word takes the sum of the source word's maps, divided by the target word's number of tokens:
    so the sum of their attention is that of the source's word.

    Raises:
        WordError: the prompts have different numbers of words.

    Source: Prompt-to-Prompt, arXiv 2208.01626, section 3.2, "Word Swap". The published code shifts
    the tokens before the last word of unequal length only; here those behind it are shifted, too.
    """
    words, others = prompt_words(source), prompt_words(target)
    if len(words) != len(others):
        raise WordError(
            f"replace goes word by word, and {source.text!r} has {len(words)} words where "
            f"{target.text!r} has {len(others)}: use refine, or as many words"
        )
    length = len(target.ids)
    matrix = torch.zeros(length, length)
    matrix[0, 0] = 1.0
    for (_, before), (_, after) in zip(words, others, strict=True):
        if len(before) == len(after):
            matrix[list(before), list(after)] = 1.0
        else:
            matrix[torch.tensor(before)[:, None], torch.tensor(after)] = 1.0 / len(after)
    _pad(matrix, source, target)
    return TokenMapper(matrix, torch.ones(length))


def refine_mapper(source: TokenizedPrompt, target: TokenizedPrompt) -> TokenMapper:
    """P2P's Refine: aligned tokens follow the source's maps, new tokens keep their own.

    Source: Prompt-to-Prompt, arXiv 2208.01626, section 3.2, "Adding a New Phrase". The published
    code lets padding follow the same position, even where a longer source still has words there.
    Here padding follows padding.
    """
    aligned = align_tokens(source.ids[: source.count].tolist(), target.ids[: target.count].tolist())
    length = len(target.ids)
    matrix = torch.zeros(length, length)
    weight = torch.ones(length)
    for index, follows in enumerate(aligned):
        if follows < 0:
            weight[index] = 0.0
        else:
            matrix[follows, index] = 1.0
    _pad(matrix, source, target)
    return TokenMapper(matrix, weight)


def _pad(matrix: Tensor, source: TokenizedPrompt, target: TokenizedPrompt) -> None:
    """Lets the target's end token and padding follow the source's, at most its last position."""
    length = len(matrix)
    for distance, index in enumerate(range(target.count - 1, length)):
        matrix[:, index] = 0.0
        matrix[min(source.count - 1 + distance, length - 1), index] = 1.0


CONTROLS: Registry[Callable[[TokenizedPrompt, TokenizedPrompt], TokenMapper | None]] = Registry(
    "control"
)
"""How target tokens follow source tokens, by the names of Prompt-to-Prompt's edits.

Each takes the source prompt and the target prompt, and returns a mapper; None means that every
token follows its own position.
"""

CONTROLS.register("replace", replace_mapper)
CONTROLS.register("refine", refine_mapper)
CONTROLS.register("reweight", lambda source, target: None)


def choose_control(source: TokenizedPrompt, target: TokenizedPrompt) -> str:
    """Reweight for equal prompts, replace for prompts of as many words, else refine."""
    if torch.equal(source.ids, target.ids):
        return "reweight"
    same = len(prompt_words(source)) == len(prompt_words(target))
    return "replace" if same else "refine"


def prompt_to_prompt(
    source: TokenizedPrompt,
    target: TokenizedPrompt,
    control: str | None = None,
    *,
    cross_replace_steps: float | Mapping[str, float] = 0.8,
    self_replace_steps: float = 0.4,
    word_weights: Mapping[str, float] | None = None,
) -> AttentionControl:
    """Prompt-to-Prompt's settings for two prompts, words turned into tokens.

    Args:
        source, target: the two prompts as tokens.
        control: one of ``CONTROLS``; ``choose_control``'s when None.
        cross_replace_steps: a share of the steps, or a share for each of some words of the target;
            ``default`` stands for all others, 0.8 where it is not given.
        self_replace_steps: a share of the steps.
        word_weights: what the maps of some words of the target are multiplied by, wherever they
            are followed.

    Raises:
        UnknownNameError: there is no such control.
        ControlError: a share is out of range, or prompts that differ are to be reweighted.
        WordError: a word is not in the target prompt, or the prompts do not fit the control.
    """
    name = control or choose_control(source, target)
    if name == "reweight" and not torch.equal(source.ids, target.ids):
        raise ControlError(
            f"reweight keeps the prompt, and {source.text!r} is not {target.text!r}: use replace "
            "or refine, which take word weights as well"
        )
    equalizer = None
    if word_weights:
        equalizer = torch.ones(len(target.ids))
        for word, weight in word_weights.items():
            equalizer[list(word_span(target, word))] = weight
    shares: float | Tensor
    if isinstance(cross_replace_steps, Mapping):
        by_word = dict(cross_replace_steps)
        shares = torch.full((len(target.ids),), by_word.pop("default", 0.8), dtype=torch.float64)
        for word, share in cross_replace_steps.items():
            _check_shares(f"cross_replace_steps of {word!r}", share)
        for word, share in by_word.items():
            shares[list(word_span(target, word))] = share
    else:
        shares = cross_replace_steps
    return AttentionControl(
        shares,
        self_replace_steps,
        mapper=mapped(CONTROLS.get(name), source, target),
        equalizer=equalizer,
    )


def mapped(
    mapper: Callable[[TokenizedPrompt, TokenizedPrompt], TokenMapper | None],
    source: TokenizedPrompt,
    target: TokenizedPrompt,
) -> TokenMapper | None:
    """The mapper of a whole prompt, made for each tokenizer's tokens separately.

    Raises:
        WordError: the prompts do not fit the mapper.
    """
    pairs = zip(source.sequences, target.sequences, strict=True)
    found = [mapper(before, after) for before, after in pairs]
    mappers = [each for each in found if each is not None]
    if not mappers:
        return None
    return TokenMapper(
        torch.block_diag(*(each.matrix for each in mappers)),
        torch.cat([each.weight for each in mappers]),
    )
