"""The works of a job: small descriptions of the work on photos, which any process can start."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dehaze.batch.item import Item, is_out_of_memory, write_result
from dehaze.imports import uncollected
from dehaze.models.choice import ModelChoice
from dehaze.photos import Encoding, Photo, write_bytes, write_photo

if TYPE_CHECKING:
    from dehaze.pipelines.dehaze import DehazePipeline
    from dehaze.pipelines.plain import PlainDehazer

# How many photos share the network's evaluations by default. On a CPU the last bits of a result
# depend on that number, and a resumed job must end with the bytes of an undisturbed one.
BATCH_ON_CPU = 1
BATCH_ON_ACCELERATOR = 4

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DiffusionWork:
    """Dehazing by a text-to-image model.

    Attributes:
        recipe: arguments of ``DehazePipeline.__call__``; None leaves one to the model.
        model: which model, and where it runs.
        beside: what is written beside a photo ("attention", "transmission", "airlight", "depth",
            "trace"), and what its file appends to the photo's name.
        batch_size: how many photos of one working size share the network's evaluations; None for
            ``BATCH_ON_CPU`` or ``BATCH_ON_ACCELERATOR``.
    """

    recipe: Mapping[str, Any] = field(default_factory=dict)
    model: ModelChoice = field(default_factory=ModelChoice)
    beside: Mapping[str, str] = field(default_factory=dict)
    batch_size: int | None = None

    def photos_at_once(self, *, accelerated: bool) -> int:
        """See ``dehaze.batch.Work``."""
        return self.batch_size or (BATCH_ON_ACCELERATOR if accelerated else BATCH_ON_CPU)

    def start(self) -> DiffusionWorker:
        """Load the model.

        Raises:
            ModelError: the model cannot be used.
            DeviceError: the device cannot be used.
            WordError: the word is not in the prompt.
            ScheduleError: the solver is not made for the model, or its schedule has fewer
                steps.
            SettingError: a setting of the inversion has no effect.
        """
        from dehaze.inversion import InversionOptions

        pipe = _load(self.model)
        pipe.check_prompt(self.recipe.get("prompt"), self.recipe.get("word"))
        given = {name: self.recipe.get(name) for name in InversionOptions.__annotations__}
        pipe.check_settings(num_inference_steps=self.recipe.get("num_inference_steps"), **given)
        return DiffusionWorker(pipe, self)

    def on_cpu(self) -> DiffusionWork:
        """See ``dehaze.batch.Work``."""
        return replace(self, model=replace(self.model, device="cpu"))

    @property
    def may_be_parallel(self) -> bool:
        """See ``dehaze.batch.Work``."""
        on_cpu = self.model.device in ("auto", "cpu")
        return self.model.bundled and on_cpu and self.photos_at_once(accelerated=False) == 1

    def fingerprint(self) -> str:
        """See ``dehaze.batch.Work``; errors as of ``ModelChoice.fingerprint``."""
        return self.model.fingerprint()


class DiffusionWorker:
    """Dehazes by a loaded pipeline; see ``dehaze.batch.Worker``.

    Attributes:
        pipe: the pipeline, on its device.
    """

    def __init__(self, pipe: DehazePipeline | PlainDehazer, work: DiffusionWork) -> None:
        self.pipe = pipe
        self._work = work
        self._recipe = {name: value for name, value in work.recipe.items() if value is not None}
        # How many photos of a kind are tried at once, where more did not fit in memory.
        self._fitting: dict[tuple[int, int], int] = {}

    @property
    def batch_size(self) -> int:
        """How many photos share the network's evaluations."""
        return self._work.photos_at_once(accelerated=self.pipe.device.type != "cpu")

    @property
    def parallel(self) -> bool:
        """Whether a photo takes one core: the bundled model's on the CPU, without batches.

        Another model takes all cores for one photo. Photos that share the network's evaluations
        are brought together in one process.
        """
        return self._work.model.plain() and self.pipe.device.type == "cpu" and self.batch_size == 1

    def kind(self, photo: Photo) -> tuple[int, int]:
        """Photos that the model sees at one size can share its evaluations."""
        return self.pipe.codec.padded_size(photo.pixels)

    def process(self, items: Sequence[Item]) -> None:
        """Dehaze photos of one kind together.

        A batch that fails is halved until the failing photo is alone. A photo alone is done in
        another way if memory or precision do not suffice. Where memory did not suffice, later
        batches of that kind are at most half as large.
        """
        if len(items) == 1:
            try:
                self._process_alone(items[0])
            except Exception as error:  # noqa: BLE001
                items[0].fail(error)
            return
        kind = self.kind(items[0].decoded())
        half = (len(items) + 1) // 2
        if len(items) <= self._fitting.get(kind, len(items)):
            try:
                self._dehaze(items)
                return
            except Exception as error:  # noqa: BLE001
                logger.info("a batch of %d photos fails (%s) and is halved", len(items), error)
                if is_out_of_memory(error):
                    self._fitting[kind] = half
        # Outside of the handler: the error's traceback holds on to the tensors of the attempt.
        self.process(items[:half])
        self.process(items[half:])

    def _process_alone(self, item: Item) -> None:
        """Dehaze a photo, in another way if memory or precision do not suffice.

        Raises:
            NonFiniteError: the network's values are not finite, in float32 as well.
        """
        import torch

        from dehaze.network import NonFiniteError

        try:
            self._dehaze([item])
            return
        except (RuntimeError, MemoryError, NonFiniteError) as error:
            if isinstance(error, NonFiniteError):
                device, note = None, "done in float32: its values overflowed in half precision"
                helps = self.pipe.denoiser.dtype != torch.float32
            else:
                device, note = "cpu", "done on the CPU: it did not fit in the device's memory"
                helps = is_out_of_memory(error) and self.pipe.device.type != "cpu"
            if not helps:
                raise
            logger.info("%s", note)
        # Outside of the handler: the error's traceback holds on to the tensors of the attempt.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        with in_single_precision(self.pipe, device):
            self._dehaze([item])
        item.notes += (note,)

    def save(self, item: Item) -> list[Path]:
        """Write the photo and the files beside it."""
        from dehaze.attention.maps import overlay
        from dehaze.recovery.depth import as_levels, relative_depth

        photo, dehazed = item.decoded(), item.result
        beside = {
            kind: item.output.with_name(item.output.name + ending)
            for kind, ending in self._work.beside.items()
        }
        if "attention" in beside:
            write_photo(beside["attention"], overlay(photo.pixels, dehazed.attention_normalised()))
        if "transmission" in beside and dehazed.transmission is not None:
            _write_grey(beside["transmission"], dehazed.transmission)
        if "airlight" in beside and dehazed.airlight is not None:
            write_bytes(beside["airlight"], json.dumps(dehazed.airlight.tolist()).encode())
        if "depth" in beside and dehazed.transmission is not None:
            levels = as_levels(relative_depth(dehazed.transmission))
            _write_grey(beside["depth"], levels, bits=16)
        if "trace" in beside:
            write_bytes(beside["trace"], json.dumps(dehazed.trace.to_dict(), indent=1).encode())
        # The photo comes last: where it is, the files beside it are.
        write_result(item, dehazed.image, strength=self._recipe.get("strength", 1.0))
        return [item.output, *beside.values()]

    def stop(self) -> None:
        """Let the network's next evaluation raise ``KeyboardInterrupt``."""
        self.pipe.denoiser.register_forward_pre_hook(_interrupt)

    def _dehaze(self, items: Sequence[Item]) -> None:
        results = self.pipe([item.decoded().pixels for item in items], **self._recipe)
        for item, result in zip(items, results, strict=True):
            item.result = result
            item.evaluations = result.nfe
            item.residual = result.trace.worst_residual


@dataclass(frozen=True)
class ClassicalWork:
    """Dehazing by one of ``dehaze.priors``, for comparison."""

    name: str

    def start(self) -> ClassicalWorker:
        """Look up the method."""
        from dehaze.priors import PRIORS

        return ClassicalWorker(PRIORS.get(self.name).run)

    def on_cpu(self) -> ClassicalWork:
        """See ``dehaze.batch.Work``."""
        return self

    def photos_at_once(self, *, accelerated: bool) -> int:
        """One: there is nothing to share."""
        return 1

    @property
    def may_be_parallel(self) -> bool:
        """Its workers are."""
        return True

    def fingerprint(self) -> str:
        """Nothing: the code decides alone."""
        return ""


class ClassicalWorker:
    """Dehazes by a function of pixels; see ``dehaze.batch.Worker``."""

    batch_size = 1
    parallel = True

    def __init__(self, dehaze: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> None:
        self._dehaze = dehaze

    def kind(self, photo: Photo) -> None:
        """All photos are alike."""

    def process(self, items: Sequence[Item]) -> None:
        """Dehaze one photo after the other."""
        for item in items:
            item.result = self._dehaze(item.decoded().pixels)

    def save(self, item: Item) -> list[Path]:
        """Write the photo."""
        write_result(item, item.result)
        return [item.output]

    def stop(self) -> None:
        """Nothing: a photo takes too little time to be interrupted."""


def _interrupt(network: Any, arguments: Any) -> None:
    raise KeyboardInterrupt


def _write_grey(path: Path, values: NDArray[np.float32], *, bits: int = 8) -> None:
    """A map in [0, 1] as a grey picture."""
    grey = np.repeat(values[..., None], 3, axis=2)
    write_photo(path, grey, like=Photo(grey, encoding=Encoding(bits=bits, grey=True)))


def _load(model: ModelChoice) -> DehazePipeline | PlainDehazer:
    with uncollected():
        if model.plain():
            import torch

            from dehaze.pipelines.plain import load_plain_dehazer

            # Several threads round a sum differently, and a result must not depend on the number of
            # cores. The bundled networks gain little by more threads.
            torch.set_num_threads(1)
            return load_plain_dehazer(model)
        from dehaze.pipelines.dehaze import DehazePipeline

        return model.load(DehazePipeline)


@contextmanager
def in_single_precision(pipe: DehazePipeline | PlainDehazer, device: str | None) -> Iterator[None]:
    """Puts all networks into float32, and on another device if one is named, and then back."""
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
