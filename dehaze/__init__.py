"""Removes haze from photographs with nothing but the word *haze*.

``import dehaze`` loads no network library: the names below are resolved on first use, so that the
command line answers at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dehaze.pipelines.dehaze import DehazePipeline, DehazeResult
    from dehaze.pipelines.edit import EditPipeline, EditResult, EditSettings

__version__ = "0.1.0"
__all__ = [
    "DehazePipeline",
    "DehazeResult",
    "EditPipeline",
    "EditResult",
    "EditSettings",
    "__version__",
]

_HOME = {
    "DehazePipeline": "dehaze.pipelines.dehaze",
    "DehazeResult": "dehaze.pipelines.dehaze",
    "EditPipeline": "dehaze.pipelines.edit",
    "EditResult": "dehaze.pipelines.edit",
    "EditSettings": "dehaze.pipelines.edit",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'dehaze' has no attribute {name!r}")
