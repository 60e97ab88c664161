"""Imports a torchvision that was built for another torch, for the tests of pyiqa.

A package index may offer torchvision for CUDA only and torch for the CPU. Then torchvision's
operators are not registered, and it cannot be imported, nor can transformers and diffusers. pyiqa's
metrics in pure Python do not need these operators.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any


def import_torchvision() -> None:
    """Import torchvision, where it is installed, whether it fits torch or not."""
    if find_spec("torchvision") is None:
        return
    import torch

    try:
        import_module("torchvision")
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        register = torch.library.register_fake
        torch.library.register_fake = _leave_unregistered  # type: ignore[assignment]
        try:
            import_module("torchvision")
        finally:
            torch.library.register_fake = register


def _leave_unregistered(*arguments: Any, **keywords: Any) -> Any:
    return lambda function: function
