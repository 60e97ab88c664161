"""Dehazing as a pipeline of diffusers."""

from __future__ import annotations

from dehaze.pipelines.base import InversionPipeline
from dehaze.pipelines.dehazing import Dehazing


class DehazePipeline(Dehazing, InversionPipeline):
    """Removes haze by inverting a photo under a prompt and swapping the haze word for null text.

    Its parts are those of ``InversionPipeline``; see ``Dehazing`` for its call.
    """
