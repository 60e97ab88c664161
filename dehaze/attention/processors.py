"""Attention processors: they record the source's queries and keys, and inject them into the target.

Prompt-to-Prompt applies the source's map to the target's values. Where each token follows the map
at its own position, that is attention with the source's queries and keys,
softmax(Q_src K_src^T / sqrt(d)) V_tgt: no map of (heads, HW, HW) is formed, the memory grows with
HW rather than with its square, and fused kernels can be used. A cross-attention map is formed only
where tokens follow other tokens, where words are weighed, and where an observer looks at it.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional as F

from dehaze.attention.control import AttentionControl, ControlError


@dataclass(frozen=True)
class RecordingPlan:
    """Which of a source's queries and keys are recorded.

    Attributes:
        control: the control of the way back; None where it is not known yet.
        steps: n, the number of denoising steps; it counts only with a control.
        map_layers: the cross-attention layers whose maps will be looked at, by name; None for all.
    """

    control: AttentionControl | None = None
    steps: int = 0
    map_layers: Collection[str] | None = None

    @classmethod
    def asked(cls, record_attention: bool | RecordingPlan, steps: int) -> RecordingPlan | None:
        """The plan that ``record_attention`` asks for, of so many steps; None for nothing."""
        if isinstance(record_attention, RecordingPlan):
            return replace(record_attention, steps=steps)
        return cls() if record_attention else None

    def keeps(
        self, layer: str, kind: str, step: int, positions: int, latent_size: tuple[int, int]
    ) -> bool:
        """Whether a layer's queries and keys at a step are kept.

        Args:
            layer: its name.
            kind: cross or self; or joint, which is both in one.
            step: i.
            positions: of the layer's queries.
            latent_size: (H, W) of the latents.
        """
        follows = self.control is None or self.control.replaces_self(step, self.steps)
        follows = follows and may_replace_self(positions, latent_size)
        if kind == "self":
            return follows
        if self.map_layers is None or layer in self.map_layers:
            return True
        return self._follows_words(step) or (kind == "joint" and follows)

    def needs(self, step: int) -> bool:
        """Whether anything of a step may be kept, of any layer."""
        if self.map_layers is None or self.map_layers or self._follows_words(step):
            return True
        return self.control is None or self.control.replaces_self(step, self.steps)

    def _follows_words(self, step: int) -> bool:
        if self.control is None:
            return True
        return bool(torch.as_tensor(self.control.cross_weight(step, self.steps)).any())


def may_replace_self(positions: int, latent_size: tuple[int, int]) -> bool:
    """Whether a self-attention layer of so many positions ever follows the source's maps.

    See ``AttentionControl.self_replace_steps``.
    """
    height, width = latent_size
    return positions <= ((height + 1) // 2) * ((width + 1) // 2)


Observer = Callable[[str, Tensor], None]
"""Takes a layer's name and the cross-attention map, (B, heads, P, L), that the layer used."""


@dataclass
class AttentionSession:
    """What the processors of a network shall do during one call, and what they recorded.

    Attributes:
        record: by name (see ``record_name``), the source's queries and keys,
            (B, heads, positions, d). A cross-attention key does not depend on the step and is
            recorded once, as step 0. Of joint attention the queries of the picture are recorded,
            and the keys of the prompt followed by those of the picture.
        batch: B of the whole recording.
        plan: says which queries and keys are recorded.
        budget: the most bytes of the recording on the network's device; the rest goes to the host's
            memory. None for no limit.
        recording: whether evaluations are recorded now.
        control: what to inject now; None for nothing.
        observer: sees every cross-attention map that is used under a control; None for nobody.
        latent_size: (H, W) of the latents.
        step: the step i of the current evaluation.
        steps: n, the number of denoising steps.
        index: int64 (b,), the current evaluation's samples in the batch, each once, ascending.
        rows: how many of the current evaluation's first rows are recorded and controlled; None for
            all. The others are samples under another prompt.
    """

    record: dict[str, Tensor] = field(default_factory=dict)
    batch: int = 1
    plan: RecordingPlan = field(default_factory=RecordingPlan)
    budget: int | None = None
    recording: bool = False
    control: AttentionControl | None = None
    observer: Observer | None = None
    latent_size: tuple[int, int] = (0, 0)
    step: int = 0
    steps: int = 0
    index: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.int64))
    rows: int | None = None
    _kept_here: int = field(default=0, init=False)

    @contextmanager
    def leading(self, rows: int) -> Iterator[None]:
        """Lets only the first rows of an evaluation be recorded and controlled."""
        self.rows = rows
        try:
            yield
        finally:
            self.rows = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stops recording and injection, for evaluations under another prompt."""
        recording, control = self.recording, self.control
        self.recording, self.control = False, None
        try:
            yield
        finally:
            self.recording, self.control = recording, control

    @contextmanager
    def narrowed(self, rows: Tensor) -> Iterator[None]:
        """Says that only these rows of the current evaluation are evaluated, in ascending order."""
        index, leading = self.index, self.rows
        if leading is not None:
            rows = rows[rows < leading]
            self.rows = len(rows)
        self.index = index[rows.to(index.device)]
        try:
            yield
        finally:
            self.index, self.rows = index, leading

    def replaces_self(self, positions: int) -> bool:
        """Whether a self-attention layer of so many positions follows the source's maps now."""
        if self.control is None or not self.control.replaces_self(self.step, self.steps):
            return False
        return may_replace_self(positions, self.latent_size)

    def keep(self, name: str, value: Tensor) -> None:
        """Records the current samples' rows, over those of an earlier evaluation of the step."""
        kept = self.record.get(name)
        if kept is None:
            kept = self.record[name] = self.room((self.batch, *value.shape[1:]), value)
        # A step that overflowed in half precision is evaluated again in float32.
        if len(self.index) == self.batch:
            # Copying to page-locked memory needs no copy in between.
            kept.copy_(value)
        else:
            kept[self.index.to(kept.device)] = value.to(kept.device, kept.dtype)

    def room(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Zeros for a recording: on the network's device within the budget, else on the host."""
        size = math.prod(shape) * like.element_size()
        if self.budget is None or self._kept_here + size <= self.budget:
            self._kept_here += size
            return like.new_zeros(shape)
        # Page-locked memory is copied faster; only an accelerator's driver gives it.
        return torch.zeros(shape, dtype=like.dtype, pin_memory=like.is_cuda)

    def recall(self, name: str) -> Tensor:
        """The current samples' rows of what was recorded.

        Raises:
            ControlError: nothing was recorded under that name.
        """
        if name not in self.record:
            raise ControlError(
                f"no attention was recorded for {name}: invert with attention recording on"
            )
        kept = self.record[name]
        # Indexing makes a copy, which is not in page-locked memory.
        return kept if len(self.index) == self.batch else kept[self.index.to(kept.device)]


def record_name(layer: str, kind: str, tensor: str, step: int) -> str:
    """Name of a recorded tensor: kind is cross, self or joint, tensor is query or key."""
    return f"{layer}|{kind}|{tensor}|{step}"


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


def attention_map(query: Tensor, key: Tensor, scale: float, mask: Tensor | None = None) -> Tensor:
    """softmax(scale Q K^T + mask): (B, heads, P, d), (B, heads, L, d) -> (B, heads, P, L)."""
    scores = scale * query @ key.transpose(-1, -2)
    return (scores if mask is None else scores + mask).softmax(-1)


def text_attention(query: Tensor, key: Tensor, chosen: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d)) times a matrix that is the same for all heads.

    With a unit column for a token it gives that token's column of the map, and the map of
    (positions, L + positions) is never formed.

    Args:
        query: (B, heads, P, d).
        key: (B, heads, L + P, d).
        chosen: (L + P, n).

    Returns:
        (B, heads, P, n).
    """
    value = chosen.to(query).expand(*key.shape[:2], -1, -1)
    return F.scaled_dot_product_attention(query, key, value)


@contextmanager
def controlled_attention(network: Any, session: AttentionSession) -> Iterator[AttentionSession]:
    """Puts the network's attention layers under a session, for the calling thread alone.

    Several threads may do so at once on one network, each with a session of its own. Threads
    without a session get what the network's own processors compute. These processors return when
    the last session ends, on any exit.

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
