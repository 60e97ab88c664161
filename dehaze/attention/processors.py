"""Attention processors: they record the source's queries and keys, and inject them into the target.

Prompt-to-Prompt applies the source's map to the target's values. Where each token follows the map
at its own position, that is attention with the source's queries and keys,
softmax(Q_src K_src^T / sqrt(d)) V_tgt. Then no map of (heads, HW, HW) is computed, the memory grows
with HW rather than with its square, and fused kernels can be used. A cross-attention map is
computed only where tokens follow other tokens, where words are weighted, or for an observer.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional as F

from dehaze.attention.control import AttentionControl, ControlError
from dehaze.attention.probabilities import attention_map
from dehaze.attention.session import (
    AttentionSession,
    record_name,
)


@dataclass(eq=False)
class _Installation:
    """The processors that ``controlled_attention`` put into one network.

    Attributes:
        replaced: the processors that were there before, by name.
        sessions: calls, of any thread, that use them now.
    """

    replaced: Mapping[str, Any]
    sessions: int = 0


_installations: WeakKeyDictionary[Any, _Installation] = WeakKeyDictionary()
_installing = threading.Lock()

# Each thread has a context of its own, so an evaluation finds its own thread's session.
_active: ContextVar[tuple[_Installation, AttentionSession] | None] = ContextVar(
    "attention_session", default=None
)

# Processors that compute plain attention, as the ones here do. Other processors add something to
# it, such as an image prompt, that a session would leave out.
_PLAIN = frozenset(
    {
        "AttentionProcessor",
        "AttnProcessor",
        "AttnProcessor2_0",
        "FusedAttnProcessor2_0",
        "SlicedAttnProcessor",
        "XFormersAttnProcessor",
    }
)
# Those of joint attention, see ``dehaze.attention.joint``.
_JOINT = frozenset({"FluxAttnProcessor", "JointAttnProcessor2_0"})
_PLAIN_LIBRARIES = ("diffusers.", "dehaze.")


@dataclass(eq=False)
class ControlledAttention:
    """A diffusers attention processor that follows the calling thread's session.

    Attributes:
        layer: the attention layer's name in the network.
        installation: of which it is a part.
        replaced: the layer's own processor, which runs in threads without a session.
    """

    layer: str
    installation: _Installation
    replaced: Any

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        return self._run(attn, hidden_states, encoder_hidden_states, attention_mask, temb)

    def __post_init__(self) -> None:
        # torch.compile cannot trace a session, which changes from one evaluation to the next, so
        # the layer is not compiled. torch.compiler.disable would load torch._dynamo, which is slow,
        # even where nothing is compiled.
        run = self._computed
        self._run: Any = torch.compiler.disable(run) if "torch._dynamo" in sys.modules else run

    def _computed(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None,
        attention_mask: Tensor | None,
        temb: Tensor | None,
    ) -> Tensor:
        session = self.session()
        if session is None:
            attended: Tensor = self.replaced(
                attn, hidden_states, encoder_hidden_states, attention_mask, temb
            )
            return attended
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
        attended = self._attend(session, kind, query, key, value, attention_mask, attn.scale)

        hidden_states = attended.transpose(1, 2).flatten(2).to(query.dtype)
        hidden_states = attn.to_out[1](attn.to_out[0](hidden_states))
        if grid is not None:
            hidden_states = hidden_states.transpose(1, 2).unflatten(2, grid)
        if attn.residual_connection:
            hidden_states = hidden_states + residual
        return hidden_states / attn.rescale_output_factor

    def session(self) -> AttentionSession | None:
        """The calling thread's session on this network; None where it has none."""
        active = _active.get()
        return None if active is None or active[0] is not self.installation else active[1]

    def _attend(
        self,
        session: AttentionSession,
        kind: str,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scale: float,
    ) -> Tensor:
        control, rows = session.control, session.rows
        if session.recording and rows != 0:
            self._record(session, kind, self._of_picture(session, kind, query[:rows]), key[:rows])
        if control is None or rows == 0:
            return F.scaled_dot_product_attention(query, key, value, mask, scale=scale)
        if rows is None:
            return self._attend_under(session, control, kind, query, key, value, mask, scale)
        followed = self._attend_under(
            session,
            control,
            kind,
            query[:rows],
            key[:rows],
            value[:rows],
            None if mask is None else mask[:rows],
            scale,
        )
        own = F.scaled_dot_product_attention(
            query[rows:],
            key[rows:],
            value[rows:],
            None if mask is None else mask[rows:],
            scale=scale,
        )
        return torch.cat([followed, own])

    def _of_picture(self, session: AttentionSession, kind: str, query: Tensor) -> Tensor:
        """The picture's queries."""
        return query

    def _record(self, session: AttentionSession, kind: str, query: Tensor, key: Tensor) -> None:
        positions = query.shape[2]
        if session.plan.keeps(self.layer, kind, session.step, positions, session.latent_size):
            session.keep(self._name(session, kind, "query"), query)
            session.keep(self._name(session, kind, "key"), key)

    def _attend_under(
        self,
        session: AttentionSession,
        control: AttentionControl,
        kind: str,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scale: float,
    ) -> Tensor:
        if kind != "self":
            return self._attend_to_prompt(session, control, query, key, value, mask, scale)
        if session.replaces_self(query.shape[2]):
            query, key = self._source(session, kind, value)
        return F.scaled_dot_product_attention(query, key, value, mask, scale=scale)

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
        alpha = control.cross_weight(session.step, session.steps)
        follows = isinstance(alpha, Tensor) or alpha > 0.0
        if not isinstance(alpha, Tensor) and (control.keeps_maps or not follows):
            if follows:
                query, key = self._source(session, "cross", value)
            if session.observer is None:
                return F.scaled_dot_product_attention(query, key, value, mask, scale=scale)
            used = attention_map(query, key, scale, mask)
        else:
            source = attention_map(*self._source(session, "cross", value), scale, mask)
            used = control.mixed(source, attention_map(query, key, scale, mask), alpha)
        if session.observer is not None:
            session.observer(self.layer, used)
        return used @ value

    def _source(self, session: AttentionSession, kind: str, like: Tensor) -> tuple[Tensor, Tensor]:
        """The source's queries and keys at this step, on the device and in the type of ``like``."""
        query, key = (
            session.recall(self._name(session, kind, tensor)).to(like, non_blocking=True)
            for tensor in ("query", "key")
        )
        return query, key

    def _name(self, session: AttentionSession, kind: str, tensor: str) -> str:
        constant = kind == "cross" and tensor == "key"
        return record_name(self.layer, kind, tensor, 0 if constant else session.step)


@contextmanager
def controlled_attention(network: Any, session: AttentionSession) -> Iterator[AttentionSession]:
    """Puts the network's attention layers under a session, for the calling thread alone.

    Several threads may do so at once on one network, each with a session of its own. Threads
    without a session get what the network's own processors compute. These processors return when
    the last session ends, on any exit. What was recorded may be read from then on.

    Raises:
        ControlError: the network has no attention layer that takes a processor, or its processors
            compute more than attention.
    """
    # torch.compile returns a wrapper around the network that has the layers.
    network = getattr(network, "_orig_mod", network)
    installation = _install(network)
    token = _active.set((installation, session))
    try:
        yield session
    finally:
        _active.reset(token)
        _release(network, installation)
        session.settle()


def _install(network: Any) -> _Installation:
    with _installing:
        installation = _installations.get(network)
        if installation is None:
            before = dict(network.attn_processors)
            _check_replaceable(network, before)
            installation = _installations[network] = _Installation(before)
            network.set_attn_processor(
                {
                    name: _controlled(name.removesuffix(".processor"), installation, processor)
                    for name, processor in before.items()
                }
            )
        installation.sessions += 1
        return installation


def _controlled(layer: str, installation: _Installation, replaced: Any) -> ControlledAttention:
    if type(replaced).__name__ not in _JOINT:
        return ControlledAttention(layer, installation, replaced)
    # Only transformers need it. It needs diffusers, which the bundled model does not.
    from dehaze.attention.joint import ControlledJointAttention

    return ControlledJointAttention(layer, installation, replaced)


def _release(network: Any, installation: _Installation) -> None:
    with _installing:
        installation.sessions -= 1
        if installation.sessions == 0:
            del _installations[network]
            network.set_attn_processor(dict(installation.replaced))


def _check_replaceable(network: Any, processors: Mapping[str, Any]) -> None:
    if not processors:
        raise ControlError(f"{type(network).__name__} has no attention layer to control")
    for name, processor in processors.items():
        kind = type(processor)
        if kind.__name__ not in _PLAIN | _JOINT or not kind.__module__.startswith(_PLAIN_LIBRARIES):
            raise ControlError(
                f"{name} is a {kind.__name__}, whose effect would be lost under "
                "attention control: unload it (pipe.unload_ip_adapter(), say), or call "
                "unet.set_default_attn_processor()"
            )
