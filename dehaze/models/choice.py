"""The choice of a model and of its device, the same for every command and in Python."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from dehaze.errors import DehazeError, first_line

if TYPE_CHECKING:
    import torch

    from dehaze.models.source import ModelSource

Pipeline = TypeVar("Pipeline")

DATA_TYPES = ("float32", "float16", "bfloat16")


class DeviceError(DehazeError, ValueError):
    """The device is not there, or cannot be used."""


@dataclass(frozen=True)
class ModelChoice:
    """A model, and how it is loaded.

    Attributes:
        model: "bundled", a folder in diffusers' format, a hub id, or a .safetensors file.
        revision: of a hub id, or None for its main one.
        device: see ``find_device``.
        dtype: one of ``DATA_TYPES``, or "auto" for the model's own.
        variant: of the weights' files, such as "fp16"; None for those without one.
        local_files_only: never ask the hub, only its cache on this machine.
    """

    model: str = "bundled"
    revision: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    variant: str | None = None
    local_files_only: bool = False

    @property
    def source(self) -> ModelSource:
        """The model's name and which of its files to take."""
        from dehaze.models.source import ModelSource

        return ModelSource(self.model, self.revision, self.variant, self.local_files_only)

    @property
    def torch_dtype(self) -> torch.dtype | None:
        """The precision of the network; None for the model's own."""
        import torch

        dtype: torch.dtype | None = None if self.dtype == "auto" else getattr(torch, self.dtype)
        return dtype

    @property
    def bundled(self) -> bool:
        """Whether it is the model that comes with dehaze."""
        from dehaze.models.source import BUNDLED

        return self.model == BUNDLED and self.revision is None and self.variant is None

    def plain(self) -> bool:
        """Whether it is the bundled model, which dehazes photos without diffusers.

        See ``dehaze.models.plain``. Everything but dehazing takes a pipeline of diffusers.
        """
        if not self.bundled:
            return False
        from dehaze.models.plain.load import is_plain
        from dehaze.models.source import BUNDLED_FOLDER

        return is_plain(BUNDLED_FOLDER)

    def fingerprint(self) -> str:
        """One hash of all the files that decide what the model gives.

        Raises:
            ModelError: the model cannot be found.
        """
        from dehaze.models.source import model_fingerprint

        return model_fingerprint(self.source)

    def load(self, kind: type[Pipeline]) -> Pipeline:
        """A pipeline of this kind on its device; it draws no progress bar.

        Raises:
            ModelError: the model cannot be found or loaded.
            DeviceError: the device cannot be used.
        """
        device = find_device(self.device)
        loading: Any = kind
        pipe = loading.from_pretrained(
            self.model,
            torch_dtype=self.torch_dtype,
            revision=self.revision,
            variant=self.variant,
            local_files_only=self.local_files_only,
        )
        pipe.to(device)
        pipe.set_progress_bar_config(disable=True)
        loaded: Pipeline = pipe
        return loaded


def find_device(name: str) -> torch.device:
    """The device of this name.

    Args:
        name: "cpu", "cuda", "cuda:1", "mps", or "auto" for the fastest that is there.

    Raises:
        DeviceError: it is not there.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise DeviceError(
            f"--device {name} cannot be used ({first_line(error)}); dehaze doctor lists what can"
        ) from error
    return device
