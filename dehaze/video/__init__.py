"""Clips in, clips out: every frame without its haze, without flicker, and all else as it was."""

from dehaze.video.clip import (
    CLIP_SUFFIXES,
    Clip,
    VideoError,
    VideoLibraryError,
    is_clip,
    load_av,
    open_clip,
)
from dehaze.video.encoding import CONTAINERS
from dehaze.video.frames import FrameDehazer, FrameResult, FrameSettings
from dehaze.video.job import ClipResult, dehaze_video

__all__ = [
    "CLIP_SUFFIXES",
    "CONTAINERS",
    "Clip",
    "ClipResult",
    "FrameDehazer",
    "FrameResult",
    "FrameSettings",
    "VideoError",
    "VideoLibraryError",
    "dehaze_video",
    "is_clip",
    "load_av",
    "open_clip",
]
