"""Writes tensors to a safetensors file one by one, so that writing takes the memory of one tensor.

The library's own ``save_file`` needs all tensors in the host's memory at once, so a recording on an
accelerator would be copied there whole. The library reads the files.

Source: the description of the format, https://huggingface.co/docs/safetensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import BinaryIO

import torch
from torch import Tensor

# The format's names of the types that an inversion may hold.
_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.bool: "BOOL",
}
# Readers map the file into memory, where a number must begin at a multiple of its size.
_ALIGNMENT = 8


def write_tensors(
    file: BinaryIO, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Writes a safetensors file.

    Args:
        file: open for writing, at its beginning.
        tensors: by name, on any device.
        metadata: texts by name.

    Raises:
        OSError: the file cannot be written.
    """
    # Larger types come first, so that all tensors begin where they are aligned.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name in names:
        tensor = tensors[name]
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _TYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    described = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    described += b" " * (-len(described) % _ALIGNMENT)
    file.write(len(described).to_bytes(8, "little"))
    file.write(described)
    for name in names:
        # As bytes, since NumPy has no bfloat16.
        flat = tensors[name].detach().cpu().contiguous().flatten()
        file.write(flat.view(torch.uint8).numpy().data)
