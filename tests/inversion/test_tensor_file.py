"""Tensors written as a stream: the bytes of safetensors' own file, without copies."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save

from dehaze.inversion.tensor_file import write_tensors

TYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool
)  # fmt: skip


@pytest.mark.parametrize("dtype", TYPES)
def test_the_file_equals_the_librarys(dtype: torch.dtype) -> None:
    tensors = {name: torch.arange(6).reshape(2, 3).to(dtype) for name in ("b ü", "a")}
    metadata = {"format": 'with "quotes" and a \n'}
    file = io.BytesIO()
    write_tensors(file, tensors, metadata)
    assert file.getvalue() == save(tensors, metadata)


def test_the_library_reads_types_of_all_sizes_and_any_strides(tmp_path: Path) -> None:
    tensors = {str(dtype): torch.arange(3).to(dtype) for dtype in TYPES}
    tensors |= {"none": torch.zeros(0, 3), "number": torch.tensor(2.0)}
    tensors["turned"] = torch.randn(3, 4).T
    with open(tmp_path / "a.safetensors", "wb") as file:
        write_tensors(file, tensors, {"of": "all"})
    with safe_open(tmp_path / "a.safetensors", framework="pt") as read:
        assert read.metadata() == {"of": "all"}
        assert set(read.keys()) == set(tensors)
        assert all(torch.equal(read.get_tensor(name), each) for name, each in tensors.items())


class _Watched(io.BytesIO):
    """A file that records the memory addresses of the bytes written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[int] = []

    def write(self, data: bytes | memoryview) -> int:  # type: ignore[override]
        self.addresses.append(np.frombuffer(data, dtype=np.uint8).ctypes.data)
        return super().write(data)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tensor_is_written_from_where_it_lies(dtype: torch.dtype) -> None:
    tensors = {name: torch.randn(3, 4).to(dtype) for name in ("a", "b")}
    file = _Watched()
    write_tensors(file, tensors, {})
    assert file.addresses[2:] == [tensors[name].data_ptr() for name in ("a", "b")]
