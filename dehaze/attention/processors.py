"""Attention processors that record the source's queries and keys, and inject them into the target.

Where every target token follows its own position, "use the source's map" is exactly attention with
the source's queries and keys and the target's values: softmax(Q_src K_src^T / sqrt(d)) V_tgt. So
the (heads, HW, HW) maps of Prompt-to-Prompt are never formed; what is kept is linear in HW, and
fused kernels stay in use. Cross-attention maps are formed where tokens follow other tokens, where
words are weighed, and where somebody looks at them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dehaze.attention.control import AttentionControl, ControlError

Observer = Callable[[str, Tensor], None]
"""Gets a layer's name and the cross-attention map (B, heads, P, L) that the layer has used."""


@dataclass
class AttentionSession:
    """What the processors of one network share: what to do now, and what was recorded.

    Attributes:
        record: by name (see ``record_name``), the source's queries and keys,
            (B, heads, positions, d). A cross-attention key does not depend on the step and is
            recorded once, as step 0.
        batch: B of the whole recording.
        recording: whether evaluations are recorded now.
        control: what to inject now; None for nothing.
        observer: sees every cross-attention map that is used under a control; None for nobody.
        step: the step i of the current evaluation.
        steps: n, the number of denoising steps.
        index: int64 (b,), the current evaluation's samples in the batch.
    """

    record: dict[str, Tensor] = field(default_factory=dict)
    batch: int = 1
    recording: bool = False
    control: AttentionControl | None = None
    observer: Observer | None = None
    step: int = 0
    steps: int = 0
    index: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.int64))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Neither records nor injects inside: for evaluations under another prompt."""
        recording, control = self.recording, self.control
        self.recording, self.control = False, None
        try:
            yield
        finally:
            self.recording, self.control = recording, control

    @contextmanager
    def narrowed(self, rows: Tensor) -> Iterator[None]:
        """Inside, an evaluation is of these rows of the current one alone."""
        index = self.index
        self.index = index[rows.to(index.device)]
        try:
            yield
        finally:
            self.index = index

    def keep(self, name: str, value: Tensor) -> None:
        """Records the current samples' rows; a later evaluation of the same step overwrites."""
        kept = self.record.get(name)
        if kept is None:
            kept = self.record[name] = value.new_zeros((self.batch, *value.shape[1:]))
        # A step that overflowed in half precision is evaluated again in float32.
        kept[self.index] = value.to(kept.dtype)

    def recall(self, name: str) -> Tensor:
        """The current samples' rows of what was recorded.

        Raises:
            ControlError: nothing was recorded under that name.
        """
        if name not in self.record:
            raise ControlError(
                f"no attention was recorded for {name}: invert with attention recording on"
            )
        return self.record[name][self.index]


def record_name(layer: str, kind: str, tensor: str, step: int) -> str:
    """Name of a recorded tensor: kind is cross or self, tensor is query or key."""
    return f"{layer}|{kind}|{tensor}|{step}"


@dataclass
class ControlledAttention:
    """A diffusers attention processor that takes its orders from an ``AttentionSession``."""

    layer: str
    session: AttentionSession

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        residual = hidden_states
        if attn.spatial_norm is not None:
            hidden_states = attn.spatial_norm(hidden_states, temb)
        grid = hidden_states.shape[2:] if hidden_states.ndim == 4 else None
        if grid is not None:
            hidden_states = hidden_states.flatten(2).transpose(1, 2)
        if attention_mask is not None:
            attention_mask = attn.prepare_attention_mask(
                attention_mask,
                (hidden_states if encoder_hidden_states is None else encoder_hidden_states).shape[
                    1
                ],
                hidden_states.shape[0],
            ).unflatten(0, (hidden_states.shape[0], attn.heads))
        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
        kind = "self" if encoder_hidden_states is None else "cross"
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if kind == "cross" and attn.norm_cross:
            context = attn.norm_encoder_hidden_states(context)

        query, key, value = (
            projection.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for projection in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        if attn.norm_q is not None:
            query = attn.norm_q(query)
        if attn.norm_k is not None:
            key = attn.norm_k(key)
        attended = self._attend(kind, query, key, value, attention_mask, attn.scale)

        hidden_states = attended.transpose(1, 2).flatten(2).to(query.dtype)
        hidden_states = attn.to_out[1](attn.to_out[0](hidden_states))
        if grid is not None:
            hidden_states = hidden_states.transpose(1, 2).unflatten(2, grid)
        if attn.residual_connection:
            hidden_states = hidden_states + residual
        return hidden_states / attn.rescale_output_factor

    def _attend(
        self,
        kind: str,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scale: float,
    ) -> Tensor:
        session, control = self.session, self.session.control
        if session.recording:
            session.keep(self._name(kind, "query"), query)
            session.keep(self._name(kind, "key"), key)
        if control is None:
            return F.scaled_dot_product_attention(query, key, value, mask, scale=scale)
        if kind == "cross":
            return self._attend_across(control, query, key, value, mask, scale)
        if self._replaces_self(control, query.shape[2]):
            query, key = self._source(kind, value.dtype)
        return F.scaled_dot_product_attention(query, key, value, mask, scale=scale)

    def _attend_across(
        self,
        control: AttentionControl,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scale: float,
    ) -> Tensor:
        session = self.session
        alpha = control.cross_weight(session.step, session.steps)
        follows = isinstance(alpha, Tensor) or alpha > 0.0
        if not isinstance(alpha, Tensor) and (control.keeps_maps or not follows):
            if follows:
                query, key = self._source("cross", value.dtype)
            if session.observer is None:
                return F.scaled_dot_product_attention(query, key, value, mask, scale=scale)
            used = attention_map(query, key, scale, mask)
        else:
            source = attention_map(*self._source("cross", value.dtype), scale, mask)
            used = control.mixed(source, attention_map(query, key, scale, mask), alpha)
        if session.observer is not None:
            session.observer(self.layer, used)
        return used @ value

    def _replaces_self(self, control: AttentionControl, positions: int) -> bool:
        session = self.session
        return positions <= control.self_replace_positions and control.replaces_self(
            session.step, session.steps
        )

    def _source(self, kind: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The source's queries and keys at this step."""
        query, key = (
            self.session.recall(self._name(kind, tensor)).to(dtype) for tensor in ("query", "key")
        )
        return query, key

    def _name(self, kind: str, tensor: str) -> str:
        constant = kind == "cross" and tensor == "key"
        return record_name(self.layer, kind, tensor, 0 if constant else self.session.step)


def attention_map(query: Tensor, key: Tensor, scale: float, mask: Tensor | None = None) -> Tensor:
    """softmax(scale Q K^T + mask): (B, heads, P, d), (B, heads, L, d) -> (B, heads, P, L)."""
    scores = scale * query @ key.transpose(-1, -2)
    return (scores if mask is None else scores + mask).softmax(-1)


@contextmanager
def controlled_attention(network: Any, session: AttentionSession) -> Iterator[AttentionSession]:
    """Puts the session's processors into every attention layer; restores the old ones on any exit.

    Raises:
        ControlError: the network has no attention layer that takes a processor.
    """
    before = dict(network.attn_processors)
    if not before:
        raise ControlError(f"{type(network).__name__} has no attention layer to control")
    network.set_attn_processor(
        {name: ControlledAttention(name.removesuffix(".processor"), session) for name in before}
    )
    try:
        yield session
    finally:
        network.set_attn_processor(before)
