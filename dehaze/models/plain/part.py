"""The base of the network, the text encoder and the codecs."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from dehaze.models.plain.settings import Settings


class PlainPart(nn.Module):
    """A part of a model, whose weights are all of one precision and on one device.

    Args:
        config: the whole configuration of that part in diffusers or transformers.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.config: Any = Settings(config)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self._a_weight().dtype

    @property
    def device(self) -> torch.device:
        """Of the weights."""
        return self._a_weight().device

    def _a_weight(self) -> Tensor:
        return next(chain(self.parameters(), self.buffers()))
