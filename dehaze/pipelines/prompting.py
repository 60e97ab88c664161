"""Prompts to the tokens and embeddings that a model takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dehaze.models.conditioning import embed_one, embed_two
from dehaze.models.needs import ModelDescription
from dehaze.prompts import TokenizedPrompt, WordError, check_vocabulary, tokenize


@dataclass(frozen=True)
class PromptEncoder:
    """A model's tokenizers and text encoders.

    Attributes:
        description: the model's needs and defaults.
        tokenizer, text_encoder: CLIP's.
        tokenizer_2, text_encoder_2: of Stable Diffusion XL, or None.
        device: that the encoders run on.
        dtype: of the network, which takes the embeddings.
    """

    description: ModelDescription
    tokenizer: Any
    text_encoder: Any
    tokenizer_2: Any
    text_encoder_2: Any
    device: torch.device
    dtype: torch.dtype

    def tokens(self, prompt: str | None = None) -> TokenizedPrompt:
        """A prompt as tokens; the model's own when None.

        Raises:
            WordError: the prompt is too long, or the model never learned one of its words.
        """
        text = self.description.prompt if prompt is None else prompt
        check_vocabulary(text, self.description.vocabulary)
        return tokenize(self.tokenizer, text)

    @torch.no_grad()
    def embed(self, prompt: TokenizedPrompt) -> Tensor:
        """(1, L, D), the text embedding; with further rows where the model needs more than that.

        See ``dehaze.models.conditioning``.
        """
        ids = prompt.ids[None].to(self.device)
        if self.text_encoder_2 is None:
            embedding = embed_one(self.text_encoder, ids)
        else:
            again = tokenize(self.tokenizer_2, prompt.text)
            # Its padding may be another token; a word must stand at the same positions.
            if again.offsets != prompt.offsets:
                raise WordError(f"the model's two tokenizers cut {prompt.text!r} differently")
            ids_2 = again.ids[None].to(self.device)
            embedding = embed_two(self.text_encoder, ids, self.text_encoder_2, ids_2)
        if self.description.zero_null_text and not prompt.text:
            embedding = torch.zeros_like(embedding)
        return embedding.to(self.dtype)

    def null_text(self) -> Tensor:
        """(1, L, D), the embedding of the empty prompt, with further rows as in ``embed``."""
        return self.embed(tokenize(self.tokenizer, ""))
