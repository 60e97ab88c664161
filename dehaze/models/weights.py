"""Fills a network with weights that fit it: none missing, none left over, all finite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from dehaze.errors import first_line
from dehaze.models import ModelError

Weights = Mapping[str, Tensor]

# Whole numbers are quantised weights, which mean nothing without their scales.
_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_POINTER = b"version https://git-lfs"
_CURE = "get the weights and the config.json of one model"


def read_weights(file: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file, by name.

    Raises:
        ModelError: the file is torn or of another format.
    """
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise _torn(file, error) from error


def read_shapes(file: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file, by name, without its values: on the meta device.

    Raises:
        ModelError: the file is torn or of another format.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            return {
                name: torch.empty(opened.get_slice(name).get_shape(), device="meta")
                for name in opened.keys()  # noqa: SIM118 (it is no mapping)
            }
    except (SafetensorError, OSError) as error:
        raise _torn(file, error) from error


def fill(network: Any, weights: Weights, file: Path, dtype: torch.dtype) -> None:
    """Puts copies of weights, on the CPU and without gradient, into a network that has none yet.

    Args:
        network: a module on the meta device, where it takes no memory.
        weights: by the network's own names.
        file: where they come from, for the messages.
        dtype: of the network afterwards.

    Raises:
        ModelError: a weight is missing, not of the network, of another shape or type, or not
            finite; the message names the file and the weight.
    """
    expected = network.state_dict()
    kind = type(network).__name__
    _refuse(file, f"lacks {{}} of its {kind}", expected.keys() - weights.keys())
    _refuse(file, f"holds {{}}, which its {kind} has not", weights.keys() - expected.keys())
    for name, value in weights.items():
        if value.shape != expected[name].shape:
            raise ModelError(
                f"{file}: the weight {name} is {tuple(value.shape)}, its {kind} asks for "
                f"{tuple(expected[name].shape)}: {_CURE}"
            )
        if value.dtype not in _TYPES:
            kind = str(value.dtype).removeprefix("torch.")
            raise ModelError(
                f"{file}: the weight {name} is {kind}, and only float16, bfloat16, float32 and "
                "float64 are read: get the weights in one of these"
            )
        if not torch.isfinite(value).all():
            raise ModelError(f"{file}: the weight {name} is not finite: get the file again")
    # Copies, so that replacing the file does not change a network in use.
    copies = {name: value.to(dtype, copy=True) for name, value in weights.items()}
    network.load_state_dict(copies, strict=True, assign=True)
    network.eval().requires_grad_(False)


def _refuse(file: Path, what: str, names: Iterable[str]) -> None:
    found = sorted(names)
    if found:
        named = "the weight" if len(found) == 1 else f"{len(found)} weights, the first"
        raise ModelError(f"{file} {what.format(f'{named} {found[0]}')}: {_CURE}")


def _torn(file: Path, error: Exception) -> ModelError:
    if file.is_file() and file.stat().st_size < 1024 and file.read_bytes().startswith(_POINTER):
        return ModelError(f"{file} is a pointer of git-lfs, not the weights: run git lfs pull")
    return ModelError(f"{file} is no whole safetensors file ({first_line(error)}): get it again")
