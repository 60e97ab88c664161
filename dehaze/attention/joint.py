"""Joint attention (MM-DiT) of Stable Diffusion 3 and FLUX under Prompt-to-Prompt's control.

Picture and prompt are one sequence, and each position attends to all of it. A row of the picture in
the map has two blocks. The block of the prompt's tokens corresponds to cross-attention, the block
of the picture to self-attention. The whole row sums to 1.

Under control a row of the target's picture takes the source's block of the prompt in the steps of
``cross_replace_steps``, and the source's block of the picture in those of ``self_replace_steps``.
Blocks are taken unscaled, so a row may then not sum to 1, as with a weighted word. The rows of the
prompt are the target's own.

Source: this project, after Prompt-to-Prompt, arXiv 2208.01626; Esser et al., arXiv 2403.03206, for
the attention.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor
from torch.nn import functional as F

from dehaze.attention.control import AttentionControl, ControlError
from dehaze.attention.probabilities import text_attention
from dehaze.attention.processors import ControlledAttention
from dehaze.attention.session import AttentionSession


class ControlledJointAttention(ControlledAttention):
    """A processor of joint attention that follows the calling thread's session.

    It serves the layers of Stable Diffusion 3, which take picture and prompt as two tensors; in
    some layers of 3.5 the picture attends to itself alone. It serves the layers of FLUX, too: the
    first take two tensors, the later ones a single tensor, prompt first.
    """

    # A transformer calls its layers with other arguments than a U-Net.
    def __call__(  # type: ignore[override]
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Any:
        return self._run(
            attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb
        )

    def _computed(  # type: ignore[override]
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None,
        attention_mask: Tensor | None,
        image_rotary_emb: tuple[Tensor, Tensor] | None,
    ) -> Any:
        session = self.session()
        if session is None:
            return self.replaced(
                attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb
            )
        if attention_mask is not None:
            raise ControlError(
                f"{self.layer} has an attention mask, which control has no place for"
            )

        # 1. Queries, keys and values, the prompt's before the picture's: (B, heads, L + P, d).
        projected = [layer(hidden_states) for layer in (attn.to_q, attn.to_k, attn.to_v)]
        query, key, value = (_by_head(attn, each) for each in projected)
        if attn.norm_q is not None:
            query, key = attn.norm_q(query), attn.norm_k(key)
        if encoder_hidden_states is not None:
            layers = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
            words = [_by_head(attn, layer(encoder_hidden_states)) for layer in layers]
            if attn.norm_added_q is not None:
                words[:2] = attn.norm_added_q(words[0]), attn.norm_added_k(words[1])
            query, key, value = (
                torch.cat(pair, dim=2) for pair in zip(words, (query, key, value), strict=True)
            )
        if image_rotary_emb is not None:
            query, key = (apply_rotary_emb(each, image_rotary_emb) for each in (query, key))

        # 2. Attention.
        kind = "joint" if query.shape[2] > _positions(session) else "self"
        attended = self._attend(session, kind, query, key, value, None, query.shape[-1] ** -0.5)
        attended = attended.transpose(1, 2).flatten(2).to(query.dtype)

        # 3. Back to the layer's own tensors.
        if encoder_hidden_states is None:
            out = getattr(attn, "to_out", None)
            return attended if out is None else out[1](out[0](attended))
        tokens = encoder_hidden_states.shape[1]
        prompt, picture = attended[:, :tokens], attended[:, tokens:]
        if not attn.context_pre_only:
            prompt = attn.to_add_out(prompt)
        return attn.to_out[1](attn.to_out[0](picture)), prompt

    def _of_picture(self, session: AttentionSession, kind: str, query: Tensor) -> Tensor:
        return query[:, :, query.shape[2] - _positions(session) :]

    def _attend_to_prompt(
        self,
        session: AttentionSession,
        control: AttentionControl,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scale: float,
    ) -> Tensor:
        tokens = query.shape[2] - _positions(session)
        prompt = F.scaled_dot_product_attention(query[:, :, :tokens], key, value)
        picture = self._picture_under(session, control, query[:, :, tokens:], key, value, tokens)
        return torch.cat([prompt, picture], dim=2)

    def _picture_under(
        self,
        session: AttentionSession,
        control: AttentionControl,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        tokens: int,
    ) -> Tensor:
        """The picture's rows, (B, heads, P, d), of keys and values (B, heads, L + P, d)."""
        alpha = control.cross_weight(session.step, session.steps)
        follows_words = isinstance(alpha, Tensor) or alpha > 0.0
        follows_itself = session.replaces_self(query.shape[2])
        own = source = (query, key)
        if follows_words or follows_itself:
            source = self._source(session, "joint", value)
        formed = session.observer is not None or (
            follows_words and (isinstance(alpha, Tensor) or not control.keeps_maps)
        )
        if follows_words == follows_itself and not formed:
            return F.scaled_dot_product_attention(*(source if follows_words else own), value)

        # One block at a time: the softmax is over the whole row, with 0 for the other values.
        words, rest = value.clone(), value.clone()
        words[:, :, tokens:] = 0.0
        rest[:, :, :tokens] = 0.0
        of_itself = F.scaled_dot_product_attention(*(source if follows_itself else own), rest)
        if not formed:
            return of_itself + F.scaled_dot_product_attention(
                *(source if follows_words else own), words
            )
        unit = torch.eye(key.shape[2], tokens, device=key.device)
        used = text_attention(*own, unit)
        if follows_words:
            used = control.mixed(text_attention(*source, unit), used, alpha)
        if session.observer is not None:
            session.observer(self.layer, used)
        return of_itself + used @ value[:, :, :tokens]


def _by_head(attn: Any, projection: Tensor) -> Tensor:
    """(B, positions, heads d) -> (B, heads, positions, d)."""
    return projection.unflatten(-1, (attn.heads, -1)).transpose(1, 2)


def _positions(session: AttentionSession) -> int:
    """P, the number of the picture's positions; each is a square of 2 x 2 latents."""
    height, width = session.latent_size
    return (height // 2) * (width // 2)
