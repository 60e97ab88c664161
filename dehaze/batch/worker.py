"""What can be done to the photos of a job: small descriptions that any process can start from."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dehaze.batch.task import Saved, is_out_of_memory
from dehaze.errors import DehazeError
from dehaze.photos import Encoding, Photo, write_bytes, write_photo

if TYPE_CHECKING:
    import torch

    from dehaze.pipelines.dehaze import DehazePipeline, DehazeResult

# Photos that share the network's evaluations by default. On a CPU the last bits of a result depend
# on how many do, and a job that is resumed must end with the bytes of an undisturbed one. On an
# accelerator, where these bits are not promised, no measurement was made: see docs/batch.md.
BATCH_ON_CPU = 1
BATCH_ON_ACCELERATOR = 4

logger = logging.getLogger(__name__)


class WorkError(DehazeError, ValueError):
    """The work cannot start, in one line: what stands in the way, and the cure."""


@dataclass(frozen=True)
class DiffusionWork:
    """Dehazing by a text-to-image model.

    Attributes:
        recipe: arguments of ``DehazePipeline.__call__``; None leaves one to the model.
        model: "bundled", a folder, or a hub id.
        revision: of a hub id, or None for its main one.
        device: "cpu", "cuda", "cuda:1", "mps", or "auto" for the fastest there is.
        dtype: "float32", "float16", "bfloat16", or "auto" for the model's.
        seed: set anew for each batch, so that no result depends on the photos before it.
        beside: what is written beside a photo ("attention", "transmission", "trace"), and what its
            file appends to the photo's name.
        batch_size: how many photos of one working size share the network's evaluations; None for
            ``BATCH_ON_CPU`` or ``BATCH_ON_ACCELERATOR``.
    """

    recipe: Mapping[str, Any] = field(default_factory=dict)
    model: str = "bundled"
    revision: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    seed: int = 0
    beside: Mapping[str, str] = field(default_factory=dict)
    batch_size: int | None = None

    def photos_at_once(self, *, accelerated: bool) -> int:
        """See ``dehaze.batch.task.Work``."""
        return self.batch_size or (BATCH_ON_ACCELERATOR if accelerated else BATCH_ON_CPU)

    def start(self) -> DiffusionWorker:
        """Load the model.

        Raises:
            WorkError: the model or the device cannot be used, or the word is not in the prompt.
        """
        from dehaze.models import ModelError
        from dehaze.prompts import WordError

        device = find_device(self.device)
        try:
            pipe = load_pipeline(self.model, self.revision, self.dtype)
            pipe.check_prompt(self.recipe.get("prompt"), self.recipe.get("word"))
        except (ModelError, WordError) as error:
            raise WorkError(str(error)) from error
        pipe.to(device)
        pipe.set_progress_bar_config(disable=True)
        return DiffusionWorker(pipe, self)

    def fingerprint(self) -> str:
        """A hash of the model's files.

        Raises:
            WorkError: there is no such model.
        """
        from dehaze.models import ModelError
        from dehaze.models.source import ModelSource, model_fingerprint

        try:
            return model_fingerprint(ModelSource(self.model, self.revision))
        except ModelError as error:
            raise WorkError(str(error)) from error


@dataclass(frozen=True)
class Dehazed:
    """A pipeline's result, and what went another way than asked for."""

    result: DehazeResult
    notes: tuple[str, ...] = ()


class DiffusionWorker:
    """Dehazes by a loaded pipeline; see ``dehaze.batch.Worker``."""

    def __init__(self, pipe: DehazePipeline, work: DiffusionWork) -> None:
        self._pipe = pipe
        self._work = work
        self._recipe = {name: value for name, value in work.recipe.items() if value is not None}
        # By kind, how many photos are tried at once where more did not fit.
        self._fitting: dict[tuple[int, int], int] = {}

    @property
    def batch_size(self) -> int:
        """How many photos share the network's evaluations."""
        return self._work.photos_at_once(accelerated=self._pipe.device.type != "cpu")

    def kind(self, photo: Photo) -> tuple[int, int]:
        """Photos that the model sees at one size can share its evaluations."""
        return self._pipe.padded_size(photo.pixels)

    def process(self, photos: Sequence[Photo]) -> list[Dehazed | Exception]:
        """Dehaze photos of one kind together.

        A batch that fails is halved until the photo is alone that it fails for; a photo alone is
        done by another way if memory or precision do not suffice. Where memory did not suffice,
        later batches of that kind are no larger than half.
        """
        if len(photos) == 1:
            try:
                return [self._process_alone(photos[0])]
            except Exception as error:  # noqa: BLE001
                return [error]
        kind = self.kind(photos[0])
        half = (len(photos) + 1) // 2
        if len(photos) <= self._fitting.get(kind, len(photos)):
            try:
                return [Dehazed(result) for result in self._dehaze(photos)]
            except Exception as error:  # noqa: BLE001
                logger.info("a batch of %d photos fails (%s) and is halved", len(photos), error)
                if is_out_of_memory(error):
                    self._fitting[kind] = half
        # Outside of the handler: the error's traceback holds on to the tensors of the attempt.
        return [*self.process(photos[:half]), *self.process(photos[half:])]

    def _process_alone(self, photo: Photo) -> Dehazed:
        """Dehaze a photo, by another way if memory or precision do not suffice.

        Raises:
            NonFiniteError: the network's values are not finite, in float32 as well.
        """
        import torch

        from dehaze.network import NonFiniteError

        try:
            return Dehazed(self._dehaze([photo])[0])
        except (RuntimeError, MemoryError, NonFiniteError) as error:
            if isinstance(error, NonFiniteError):
                device, note = None, "done in float32: its values overflowed in half precision"
                helps = self._pipe.unet.dtype != torch.float32
            else:
                device, note = "cpu", "done on the CPU: it did not fit in the device's memory"
                helps = is_out_of_memory(error) and self._pipe.device.type != "cpu"
            if not helps:
                raise
            logger.info("%s", note)
        # Outside of the handler: the error's traceback holds on to the tensors of the attempt.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        with _moved(self._pipe, device):
            return Dehazed(self._dehaze([photo])[0], (note,))

    def save(self, output: Path, photo: Photo, result: Dehazed) -> Saved:
        """Write the photo and what is asked for beside it."""
        from dehaze.attention.maps import overlay

        dehazed = result.result
        beside = {
            kind: output.with_name(output.name + ending)
            for kind, ending in self._work.beside.items()
        }
        if "attention" in beside:
            write_photo(beside["attention"], overlay(photo.pixels, dehazed.attention_normalised()))
        if "transmission" in beside and dehazed.transmission is not None:
            grey = np.repeat(dehazed.transmission[..., None], 3, axis=2)
            like = Photo(grey, encoding=Encoding(grey=True))
            write_photo(beside["transmission"], grey, like=like)
        if "trace" in beside:
            write_bytes(beside["trace"], json.dumps(dehazed.trace.to_dict(), indent=1).encode())
        # The photo comes last: where it is, the files beside it are.
        write_photo(output, dehazed.image, like=photo)
        return Saved(
            files=(output, *beside.values()),
            nfe=dehazed.nfe,
            residual=dehazed.trace.worst_residual,
            notes=result.notes,
        )

    def _dehaze(self, photos: Sequence[Photo]) -> list[DehazeResult]:
        import torch

        torch.manual_seed(self._work.seed)
        return self._pipe([photo.pixels for photo in photos], **self._recipe)


@dataclass(frozen=True)
class ClassicalWork:
    """Dehazing by one of ``dehaze.priors``, for comparison."""

    name: str

    def start(self) -> ClassicalWorker:
        """Look up the method."""
        from dehaze.priors import PRIORS

        return ClassicalWorker(PRIORS.get(self.name).run)

    def photos_at_once(self, *, accelerated: bool) -> int:
        """One: there is nothing to share."""
        return 1


class ClassicalWorker:
    """Dehazes by a function of pixels; see ``dehaze.batch.Worker``."""

    def __init__(self, dehaze: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> None:
        self._dehaze = dehaze

    @property
    def batch_size(self) -> int:
        """One: there is nothing to share."""
        return 1

    def kind(self, photo: Photo) -> None:
        """All photos are alike."""

    def process(self, photos: Sequence[Photo]) -> list[NDArray[np.float32]]:
        """The photos without their haze, float32 (H, W, 3) in [0, 1]."""
        return [self._dehaze(photo.pixels) for photo in photos]

    def save(self, output: Path, photo: Photo, result: NDArray[np.float32]) -> Saved:
        """Write the photo."""
        write_photo(output, result, like=photo)
        return Saved(files=(output,), nfe=0, residual=math.nan)


def find_device(name: str) -> torch.device:
    """The device of this name, "auto" being the fastest there is.

    Raises:
        WorkError: it is not there.
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
        reason = (str(error).splitlines() or [""])[0]
        raise WorkError(
            f"--device {name} cannot be used ({reason}); dehaze doctor lists what can"
        ) from error
    return device


def load_pipeline(model: str, revision: str | None, dtype: str) -> DehazePipeline:
    """The pipeline of a model; errors as of ``dehaze.models.load.load_parts``."""
    import torch

    from dehaze.pipelines.dehaze import DehazePipeline

    torch_dtype: torch.dtype | None = None if dtype == "auto" else getattr(torch, dtype)
    return DehazePipeline.from_pretrained(model, torch_dtype=torch_dtype, revision=revision)


@contextmanager
def _moved(pipe: DehazePipeline, device: str | None) -> Iterator[None]:
    """All networks in float32, on another device if one is named, and then back."""
    import torch

    networks: list[Any] = [
        part for part in pipe.components.values() if isinstance(part, torch.nn.Module)
    ]
    before = [(network, network.device, network.dtype) for network in networks]
    try:
        for network in networks:
            network.to(device=device or network.device, dtype=torch.float32)
        yield
    finally:
        for network, old_device, old_dtype in before:
            network.to(device=old_device, dtype=old_dtype)
