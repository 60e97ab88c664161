"""Recording and injection of a network's attention during one call: a plan, and a session."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from dehaze.attention.control import AttentionControl, ControlError
from dehaze.ranges import check_switch


@dataclass(frozen=True)
class RecordingPlan:
    """Which of a source's queries and keys are recorded.

    Attributes:
        control: the control of the way back; None where it is not known yet.
        steps: n, the number of denoising steps; it is used only with a control.
        map_layers: the cross-attention layers whose maps will be looked at, by name; None for all.
    """

    control: AttentionControl | None = None
    steps: int = 0
    map_layers: Collection[str] | None = None

    @classmethod
    def asked(cls, record_attention: bool | RecordingPlan, steps: int) -> RecordingPlan | None:
        """The plan that ``record_attention`` asks for, with this number of steps; None for nothing.

        Raises:
            RangeError: it is neither a plan nor True or False.
        """
        if isinstance(record_attention, RecordingPlan):
            return replace(record_attention, steps=steps)
        return cls() if check_switch("record_attention", record_attention) else None

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
    """Whether a self-attention layer with this many positions ever follows the source's maps.

    See ``AttentionControl.self_replace_steps``.
    """
    height, width = latent_size
    return positions <= ((height + 1) // 2) * ((width + 1) // 2)


@dataclass
class AttentionSession:
    """The state of one call: the attention to record and to inject, and the recording.

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
        observer: takes a layer's name and each cross-attention map, (B, heads, P, L), that is used
            under a control; None for nobody.
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
    observer: Callable[[str, Tensor], None] | None = None
    latent_size: tuple[int, int] = (0, 0)
    step: int = 0
    steps: int = 0
    index: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.int64))
    rows: int | None = None
    _kept_here: int = field(default=0, init=False)
    # The device whose copies to the host nobody has waited for yet.
    _under_way: torch.device | None = field(default=None, init=False)

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
        """Inside, only these rows of the current evaluation are evaluated, in ascending order."""
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
        """Whether a self-attention layer with this many positions follows the source's maps now."""
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
            # Copying to page-locked memory needs no copy in between, and no layer waits for it.
            elsewhere = kept.device != value.device
            kept.copy_(value, non_blocking=elsewhere)
            if elsewhere:
                self._under_way = value.device
        else:
            self.settle()
            kept[self.index.to(kept.device)] = value.to(kept.device, kept.dtype)

    def settle(self) -> None:
        """Waits until all that was recorded in the host's memory is there."""
        if self._under_way is not None:
            # What is read comes after all that was asked of the device before.
            torch.zeros((), device=self._under_way).cpu()
            self._under_way = None

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
        if len(self.index) == self.batch:
            # The device copies it back after what is under way.
            return kept
        self.settle()
        # Indexing makes a copy, which is not in page-locked memory.
        return kept[self.index.to(kept.device)]


def record_name(layer: str, kind: str, tensor: str, step: int) -> str:
    """Name of a recorded tensor: kind is cross, self or joint, tensor is query or key."""
    return f"{layer}|{kind}|{tensor}|{step}"
