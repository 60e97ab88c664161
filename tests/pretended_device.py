"""An accelerator that is pretended: the CPU computes, and what a real device waits for is counted.

Tensors of the device and of the host cannot meet in an operation, as with a real one.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

# PyTorch knows this device without a driver.
DEVICE = torch.device("meta")
_CPU = torch.device("cpu")

_aten = torch.ops.aten
# They return a number, or something whose size depends on numbers.
_READS = frozenset(
    {
        _aten._local_scalar_dense.default,
        _aten.equal.default,
        _aten.nonzero.default,
        _aten.masked_select.default,
        _aten.bincount.default,
        _aten._linalg_check_errors.default,
    }
)
_INDEXED = frozenset(
    {
        _aten.index.Tensor,
        _aten.index_put.default,
        _aten.index_put_.default,
        _aten._index_put_impl_.default,
    }
)


class OnDevice(Tensor):
    """A tensor of the pretended device.

    Attributes:
        held: its values, on the CPU.
    """

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnDevice:
        made: OnDevice = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _aten.detach.default:
            return OnDevice(args[0].held)
        raise RuntimeError(f"{func} without a PretendedDevice")


class PretendedDevice(TorchDispatchMode):
    """Inside, the pretended device computes.

    A copy to the host that is not waited for arrives with the next wait, and is NaN until then.

    Attributes:
        waits: how often the host waited for the device, or the device for the host: ``read`` of
            numbers, and copies ``to device`` and ``to host`` that are waited for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self._lists = _Lists()
        # By the address on the host: where it goes, and what.
        self._under_way: dict[int, tuple[Tensor, Tensor]] = {}

    def __enter__(self) -> PretendedDevice:
        self._lists.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._lists.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        originals: dict[int, OnDevice] = {}
        others: list[Tensor] = []

        def taken(value: Tensor) -> Tensor:
            if not isinstance(value, OnDevice):
                others.append(value)
                return value
            originals[id(value.held)] = value
            return value.held

        plain = tree_map_only(Tensor, taken, (list(args), kwargs))
        target = None if kwargs.get("device") is None else torch.device(kwargs["device"])
        waited = self.waits.total()
        self._watch(func, args, kwargs, others, target, bool(originals))
        if self.waits.total() > waited:
            for here, there in self._under_way.values():
                here.copy_(there)
            self._under_way.clear()
        if target is not None:
            plain[1]["device"] = _CPU
        plain[1].pop("pin_memory", None)
        if func is _aten.copy_.default and _leaves(args):
            here, there = plain[0][:2]
            self._under_way[here.untyped_storage().data_ptr()] = here, there.to(here.dtype).clone()
            here.fill_(torch.nan)
            return args[0]
        if func is _aten._to_copy.default and target == DEVICE and others:
            # The device itself copies one after the other.
            place = others[0].untyped_storage().data_ptr()
            plain[0][0] = self._under_way.get(place, (None, others[0]))[1]
        result = func(*plain[0], **plain[1])
        if func is _aten.copy_.default:
            return args[0]
        if target == _CPU or not (originals or target == DEVICE):
            return result
        return tree_map_only(
            Tensor,
            lambda value: originals[id(value)] if id(value) in originals else OnDevice(value),
            result,
        )

    def _watch(
        self,
        func: Any,
        args: Any,
        kwargs: dict[str, Any],
        others: list[Tensor],
        target: torch.device | None,
        here: bool,
    ) -> None:
        """Counts what is waited for; ``here``: whether a tensor of the device takes part."""
        if any(value.device == DEVICE for value in others):
            raise RuntimeError(f"{func} of a tensor that was made past this mode")
        if func is _aten._to_copy.default:
            moved = here if target == _CPU else target == DEVICE and bool(others)
            if moved and not kwargs.get("non_blocking"):
                self.waits["to host" if here else "to device"] += 1
        elif func is _aten.copy_.default:
            if here and others and not (len(args) > 2 and args[2]):
                self.waits["to device" if isinstance(args[0], OnDevice) else "to host"] += 1
        elif here and func in _INDEXED:
            for index in args[1]:
                if index is not None and not isinstance(index, OnDevice):
                    self.waits["to device"] += 1
                elif index is not None and index.dtype == torch.bool:
                    self.waits["read"] += 1
        elif here:
            self.waits["read"] += func in _READS
            if any(value.dim() for value in others):
                raise RuntimeError(f"{func} of a tensor of the device and one of the host")


def _leaves(args: Any) -> bool:
    """Whether these arguments of ``copy_`` copy to the host, and nobody waits for it."""
    to_host = isinstance(args[1], OnDevice) and not isinstance(args[0], OnDevice)
    return to_host and len(args) > 2 and bool(args[2])


class _Lists(TorchFunctionMode):
    """Makes tensors of lists on the host, where PyTorch would make them past every mode."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            index = tuple(torch.tensor(each) if isinstance(each, list) else each for each in index)
            return func(args[0], index, *args[2:])
        if func is torch.tensor and kwargs.get("device") is not None:
            place = kwargs.pop("device")
            return func(*args, **kwargs).to(place)
        return func(*args, **kwargs)


def put_on_device(*modules: nn.Module) -> None:
    """Moves networks' weights and buffers to the pretended device."""
    for module in modules:
        for part in module.modules():
            for name, weight in part._parameters.items():
                if weight is not None:
                    moved = OnDevice(weight.detach())
                    part._parameters[name] = nn.Parameter(moved, requires_grad=False)
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = OnDevice(buffer)
