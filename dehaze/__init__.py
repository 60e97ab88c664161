"""Removes haze from photographs with nothing but the word *haze*.

``import dehaze`` loads no network library: the names below are resolved on first use, so that the
command line answers at once.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dehaze.errors import DehazeError
    from dehaze.inversion import InversionResult
    from dehaze.models import ModelError
    from dehaze.network import NonFiniteError
    from dehaze.photos import Photo, PhotoError, read_photo, write_photo
    from dehaze.pipelines.dehaze import DehazePipeline
    from dehaze.pipelines.dehazing import DehazeResult
    from dehaze.pipelines.edit import EditPipeline, EditResult
    from dehaze.pipelines.edit_settings import EditSettings
    from dehaze.pipelines.interpolate import InterpolatePipeline, InterpolationResult
    from dehaze.pipelines.seedselect import SeedSelectPipeline, SeedSelectResult
    from dehaze.prompts import WordError
    from dehaze.video.clip import VideoError
    from dehaze.video.frames import FrameDehazer, FrameSettings
    from dehaze.video.job import dehaze_video

__version__ = "0.2.0"
__all__ = [
    "DehazeError",
    "DehazePipeline",
    "DehazeResult",
    "EditPipeline",
    "EditResult",
    "EditSettings",
    "FrameDehazer",
    "FrameSettings",
    "InterpolatePipeline",
    "InterpolationResult",
    "InversionResult",
    "ModelError",
    "NonFiniteError",
    "Photo",
    "PhotoError",
    "SeedSelectPipeline",
    "SeedSelectResult",
    "VideoError",
    "WordError",
    "__version__",
    "dehaze_video",
    "read_photo",
    "write_photo",
]

_HOME = {
    "DehazeError": "dehaze.errors",
    "DehazePipeline": "dehaze.pipelines.dehaze",
    "DehazeResult": "dehaze.pipelines.dehazing",
    "EditPipeline": "dehaze.pipelines.edit",
    "EditResult": "dehaze.pipelines.edit",
    "EditSettings": "dehaze.pipelines.edit_settings",
    "FrameDehazer": "dehaze.video.frames",
    "FrameSettings": "dehaze.video.frames",
    "InterpolatePipeline": "dehaze.pipelines.interpolate",
    "InterpolationResult": "dehaze.pipelines.interpolate",
    "InversionResult": "dehaze.inversion",
    "ModelError": "dehaze.models",
    "NonFiniteError": "dehaze.network",
    "Photo": "dehaze.photos",
    "PhotoError": "dehaze.photos",
    "SeedSelectPipeline": "dehaze.pipelines.seedselect",
    "SeedSelectResult": "dehaze.pipelines.seedselect",
    "VideoError": "dehaze.video.clip",
    "WordError": "dehaze.prompts",
    "dehaze_video": "dehaze.video.job",
    "read_photo": "dehaze.photos",
    "write_photo": "dehaze.photos",
}


# Installed, dehaze.datasets and dehaze.eval lie in this folder; in a checkout they lie beside it.
_ROOT = Path(__file__).resolve().parents[1]
if (_ROOT / "pyproject.toml").is_file() and (_ROOT / "eval" / "__init__.py").is_file():
    __path__.append(str(_ROOT))


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'dehaze' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
