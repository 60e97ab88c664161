"""Dehazing with the bundled model and without diffusers, which starts much faster."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from dehaze.models.choice import ModelChoice, find_device
from dehaze.models.parts import ModelParts
from dehaze.models.plain.load import load_plain_parts
from dehaze.models.source import BUNDLED_FOLDER
from dehaze.pipelines.dehazing import Dehazing


class PlainDehazer(Dehazing):
    """``DehazePipeline`` for dehazing alone, on the networks of ``dehaze.models.plain``.

    Args:
        parts: of the model.
    """

    def __init__(self, parts: ModelParts) -> None:
        vars(self).update(vars(parts))

    @property
    def components(self) -> dict[str, Any]:
        """The parts, by their names."""
        return {
            name: part
            for name, part in vars(self).items()
            if name != "description" and part is not None
        }

    @property
    def device(self) -> torch.device:
        """The device that the networks run on."""
        device: torch.device = self.unet.device
        return device

    @property
    def _execution_device(self) -> torch.device:
        return self.device

    def to(self, device: torch.device) -> PlainDehazer:
        """Moves the networks."""
        for part in self.components.values():
            if isinstance(part, nn.Module):
                part.to(device)
        return self

    def maybe_free_model_hooks(self) -> None:
        """Does nothing, since nothing is moved during a call."""

    def progress_bar(self, iterable: Any = None, total: int | None = None) -> Any:
        """A bar that is not drawn."""
        return tqdm(iterable, total=total, disable=True)


def load_plain_dehazer(choice: ModelChoice) -> PlainDehazer:
    """A model that is ``plain``, ready to dehaze on its device.

    Raises:
        ModelError: the model is damaged.
        DeviceError: the device cannot be used.
    """
    device = find_device(choice.device)
    return PlainDehazer(load_plain_parts(BUNDLED_FOLDER, choice.torch_dtype)).to(device)
