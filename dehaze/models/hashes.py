"""Whether a model's files are the published ones, by the SHA-256 of each file.

A model of this project carries its hashes in ``SHA256SUMS``, in the format of coreutils' sha256sum.
The hub's cache names each file by its hash: SHA-256 for large files, git's own (SHA-1) for others.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dehaze.digests import digest_of_file
from dehaze.errors import DehazeError

if TYPE_CHECKING:
    from torch import Tensor, nn

MANIFEST = "SHA256SUMS"
# Suffixes of the files that a loader reads. dehaze.json is left out, since users edit it.
_SUFFIXES = frozenset({".json", ".safetensors", ".txt"})
_EDITED = "dehaze.json"
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")
_SHA256, _GIT = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")


class ManifestError(DehazeError, ValueError):
    """A model's list of hashes cannot be read."""


@dataclass(frozen=True)
class CheckedFile:
    """A file of a model, and whether it is the published one.

    Attributes:
        name: its path below the model's folder; "weights" for a model of one file.
        state: "unknown" where no hash is recorded for it.
    """

    name: str
    state: Literal["whole", "changed", "missing", "unknown"]


def write_manifest(folder: Path) -> None:
    """Record the hashes of a model's files in its folder."""
    lines = [f"{digest_of_file(path)}  {_name(path, folder)}" for path in _files(folder)]
    (folder / MANIFEST).write_text("\n".join(lines) + "\n")


def verify(folder: Path) -> list[CheckedFile]:
    """Compare the files of a model's folder, or its one file, with their recorded hashes, by name.

    Raises:
        ManifestError: ``SHA256SUMS`` has a line that is not one of sha256sum's.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return [CheckedFile(_name(path, folder), _blob_state(path)) for path in _files(folder)]
    expected: dict[str, str] = {}
    for line in manifest.read_text().splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            raise ManifestError(
                f"{manifest}: {line[:40]!r} is not a hash and a name; get the model again"
            )
        expected[match[2]] = match[1]
    present = {_name(path, folder): path for path in _files(folder)}
    checked = []
    for name in sorted({*expected, *present}):
        state: Literal["whole", "changed", "missing", "unknown"]
        if name not in present:
            state = "missing"
        elif name not in expected:
            state = "unknown"
        else:
            state = "whole" if digest_of_file(present[name]) == expected[name] else "changed"
        checked.append(CheckedFile(name, state))
    return checked


def fingerprint(*places: Path) -> str:
    """One hash of all files that decide what a model gives, wherever they lie.

    Args:
        places: the model's folder; or its one file, and the folder of its layout.
    """
    content = hashlib.sha256()
    for place in places:
        for path in [*_files(place), place / _EDITED]:
            if path.is_file():
                content.update(f"{digest_of_file(path)}  {_name(path, place)}\n".encode())
    return content.hexdigest()


# The most values of a tensor that are hashed; of more, evenly spread ones.
_HASHED_VALUES = 1 << 16
# Tensors whose values are copied from an accelerator together.
_COPIED_AT_ONCE = 128


def weights_fingerprint(modules: Sequence[nn.Module]) -> str:
    """One hash of loaded weights, the same on every device, and another in another precision.

    Args:
        modules: the networks, in a fixed order.
    """
    content = hashlib.sha256()
    weights = [entry for module in modules for entry in module.state_dict().items()]
    for _, entries in itertools.groupby(weights, key=lambda entry: entry[1].device):
        group = list(entries)
        for first in range(0, len(group), _COPIED_AT_ONCE):
            some = group[first : first + _COPIED_AT_ONCE]
            hashed = _hashed_bytes([value for _, value in some])
            for (name, value), values in zip(some, hashed, strict=True):
                # torch.compile wraps a network and computes the same.
                name = name.replace("_orig_mod.", "")
                content.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
                content.update(values)
    return content.hexdigest()


def _hashed_bytes(weights: Sequence[Tensor]) -> list[memoryview]:
    """The bytes of each tensor that are hashed; all come from their device in one copy."""
    import torch

    spread = []
    for value in weights:
        flat = value.detach().flatten()
        chosen = flat[:: max(1, -(-flat.numel() // _HASHED_VALUES))]
        spread.append(chosen.contiguous().view(torch.uint8))
    on_host = torch.cat(spread).cpu().split([len(each) for each in spread])
    return [each.numpy().data for each in on_host]


def _files(folder: Path) -> list[Path]:
    if folder.is_file():
        return [folder]
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix in _SUFFIXES and path.name != _EDITED and path.is_file()
    )


def _name(path: Path, folder: Path) -> str:
    if path == folder:
        return "weights"
    return path.relative_to(folder).as_posix()


def _blob_state(path: Path) -> Literal["whole", "changed", "unknown"]:
    blob = path.resolve()
    if blob.parent.name != "blobs":
        return "unknown"
    if _SHA256.fullmatch(blob.name):
        return "whole" if digest_of_file(blob) == blob.name else "changed"
    if _GIT.fullmatch(blob.name):
        content = blob.read_bytes()
        header = f"blob {len(content)}\0".encode()
        found = hashlib.sha1(header + content, usedforsecurity=False).hexdigest()
        return "whole" if found == blob.name else "changed"
    return "unknown"
