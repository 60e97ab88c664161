"""From prompts to the tokens and embeddings that a model takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dehaze.models.conditioning import embed_flux, embed_one, embed_three, embed_two
from dehaze.models.kinds import STABLE_DIFFUSION_3, ModelKind
from dehaze.models.needs import ModelDescription
from dehaze.prompts import (
    TokenizedPrompt,
    WordError,
    check_text,
    check_vocabulary,
    joined,
    swap_for_null_text,
    tokenize,
    without_word,
)


@dataclass(frozen=True)
class PromptEncoder:
    """A model's tokenizers and text encoders.

    Attributes:
        description: the model's needs and defaults.
        tokenizer, text_encoder: CLIP's.
        tokenizer_2, text_encoder_2: of Stable Diffusion XL, or None.
        device: that the encoders run on.
        denoiser: the network, which takes the embeddings in its own dtype.
    """

    description: ModelDescription
    tokenizer: Any
    text_encoder: Any
    tokenizer_2: Any
    text_encoder_2: Any
    device: torch.device
    denoiser: Any

    def tokens(self, prompt: str | None = None) -> TokenizedPrompt:
        """A prompt as tokens; the model's own when None.

        Raises:
            WordError: the prompt is no text or too long, or the model never learned one of its
                words.
        """
        text = self.description.prompt if prompt is None else check_text("prompt", prompt)
        check_vocabulary(text, self.description.vocabulary)
        return self._tokens(text)

    @property
    def length(self) -> int:
        """L, how many tokens the network reads."""
        return len(self._tokens("").ids)

    @torch.no_grad()
    def embed(self, prompt: TokenizedPrompt) -> Tensor:
        """(1, L, D), the text embedding, with further rows for models that need them.

        See ``dehaze.models.conditioning``.
        """
        ids = prompt.ids[None].to(self.device)
        if self.text_encoder_2 is None:
            embedding = embed_one(self.text_encoder, ids)
        else:
            ids_2 = _again(self.tokenizer_2, prompt).ids[None].to(self.device)
            embedding = embed_two(self.text_encoder, ids, self.text_encoder_2, ids_2)
        if self.description.zero_null_text and not prompt.text:
            embedding = torch.zeros_like(embedding)
        return embedding.to(self.denoiser.dtype)

    def null_text(self) -> Tensor:
        """(1, L, D), the embedding of the empty prompt, with further rows as in ``embed``."""
        return self.embed(self._tokens(""))

    def swapped(self, prompt: TokenizedPrompt, word: str, span: Sequence[int]) -> Tensor:
        """The prompt's embedding with that of the empty prompt at a word's positions.

        Stable Diffusion XL's pooled embedding has no positions, so it stays the whole prompt's.

        Args:
            prompt: with the word in it.
            word: as it is written in the prompt.
            span: its token positions, see ``dehaze.prompts.word_span``.

        Returns:
            (1, L, D), with further rows as in ``embed``.
        """
        return swap_for_null_text(self.embed(prompt), self.null_text()[0], span)

    def _tokens(self, text: str) -> TokenizedPrompt:
        return tokenize(self.tokenizer, text)


@dataclass(frozen=True)
class FlowPromptEncoder(PromptEncoder):
    """The tokenizers and text encoders of Stable Diffusion 3 or FLUX.

    Stable Diffusion 3 reads CLIP's tokens, for both CLIP encoders, and then T5's, so a word stands
    in both sequences. FLUX reads T5's tokens, and CLIP's pooled embedding.

    Attributes:
        kind: which of the two.
        t5_tokens: how many tokens of T5 the network reads at most.
        tokenizer_2, text_encoder_2: CLIP's again, or T5's in FLUX.
        tokenizer_3, text_encoder_3: T5's in Stable Diffusion 3, or None.
    """

    kind: ModelKind
    t5_tokens: int
    tokenizer_3: Any
    text_encoder_3: Any

    @torch.no_grad()
    def embed(self, prompt: TokenizedPrompt) -> Tensor:
        """(1, L + r, D), the text embedding, with the pooled one in the last r rows."""
        encoders = [getattr(self, name) for name in self.kind.encoders]
        if self.kind is STABLE_DIFFUSION_3:
            clip, t5 = prompt.parts
            ids = self._ids(clip, _again(self.tokenizer_2, clip), t5)
            return embed_three(encoders, ids).to(self.denoiser.dtype)
        ids = self._ids(tokenize(self.tokenizer, prompt.text), prompt)
        return embed_flux(encoders, ids).to(self.denoiser.dtype)

    def _ids(self, *prompts: TokenizedPrompt) -> list[Tensor]:
        return [prompt.ids[None].to(self.device) for prompt in prompts]

    def swapped(self, prompt: TokenizedPrompt, word: str, span: Sequence[int]) -> Tensor:
        """As ``PromptEncoder.swapped``, with the pooled embedding of the text without the word."""
        rows = super().swapped(prompt, word, span)
        without = self.embed(self._tokens(without_word(prompt.text, word)))
        length = len(prompt.ids)
        return torch.cat([rows[:, :length], without[:, length:]], dim=1)

    def _tokens(self, text: str) -> TokenizedPrompt:
        three = self.kind is STABLE_DIFFUSION_3
        t5 = tokenize(self.tokenizer_3 if three else self.tokenizer_2, text, self.t5_tokens)
        # In FLUX, too, whose ``embed`` reads CLIP's tokens, prompts too long for CLIP are refused
        # here.
        clip = tokenize(self.tokenizer, text)
        return joined([clip, t5]) if three else t5


def _again(tokenizer: Any, prompt: TokenizedPrompt) -> TokenizedPrompt:
    """The prompt by a second tokenizer, whose padding may be another token.

    Raises:
        WordError: a word stands at other positions.
    """
    again = tokenize(tokenizer, prompt.text)
    if again.offsets != prompt.offsets:
        raise WordError(f"the model's two tokenizers cut {prompt.text!r} differently")
    return again
