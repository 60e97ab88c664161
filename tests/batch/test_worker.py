"""What a worker does when memory or precision do not suffice, and how it starts."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dehaze.batch import Item
from dehaze.batch import worker as module
from dehaze.batch.worker import ClassicalWork, DiffusionWork, DiffusionWorker
from dehaze.models import ModelError
from dehaze.models.choice import ModelChoice
from dehaze.network import NonFiniteError
from dehaze.photos import FloatArray, Photo
from dehaze.pipelines.dehaze import DehazePipeline
from dehaze.pipelines.latents import PhotoCodec
from dehaze.priors import PRIORS


class OutOfMemoryError(RuntimeError):
    """An error with the name of PyTorch's own."""


@dataclass
class FakeTrace:
    worst_residual: float = 0.0


@dataclass
class FakeResult:
    image: FloatArray
    nfe: int = 1
    trace: FakeTrace = field(default_factory=FakeTrace)


@dataclass
class FakePipeline:
    """A pipeline of one layer whose calls fail as they are told to."""

    fails: list[Exception | None]
    dtype: torch.dtype = torch.float32
    seen: list[tuple[str, torch.dtype]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.unet = torch.nn.Linear(1, 1, dtype=self.dtype, device="meta")
        self.unet.dtype = self.dtype  # type: ignore[assignment]
        self.denoiser = self.unet
        self.vae = torch.nn.Linear(1, 1)
        self.components = {"unet": self.unet, "vae": self.vae, "tokenizer": object()}
        self.device = torch.device("meta")

    def __call__(self, pixels: list[FloatArray], **recipe: Any) -> list[FakeResult]:
        weight = self.unet.weight
        self.seen.append((weight.device.type, weight.dtype))
        error = self.fails.pop(0)
        if error is not None:
            raise error
        return [FakeResult(one) for one in pixels]


@pytest.fixture
def networks_move_freely(monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device stands for an accelerator; moving networks there and back is a stub."""

    def to(self: torch.nn.Module, *, device: torch.device | str, dtype: torch.dtype) -> Any:
        for name, parameter in list(self.named_parameters()):
            empty = torch.empty_like(parameter, device=device, dtype=dtype)
            setattr(self, name, torch.nn.Parameter(empty))
        self.device, self.dtype = torch.device(device), dtype  # type: ignore[assignment]
        return self

    monkeypatch.setattr(torch.nn.Linear, "to", to)
    monkeypatch.setattr(torch.nn.Linear, "device", torch.device("meta"), raising=False)
    monkeypatch.setattr(torch.nn.Linear, "dtype", torch.float32, raising=False)


# Two evaluations there, and two back.
QUICK = {"num_inference_steps": 2, "solver": "ddim"}


def opened(pixels: FloatArray, folder: Path = Path("out"), name: str = "a.png") -> Item:
    """An item whose photo has been read."""
    return Item(Path("in") / name, folder, Path(name), photo=Photo(pixels))


def worker_of(pipe: Any) -> DiffusionWorker:
    return DiffusionWorker(pipe, DiffusionWork())


def processed(worker: DiffusionWorker) -> Item:
    item = opened(np.full((2, 3, 3), 0.5, np.float32))
    worker.process([item])
    return item


def done(worker: DiffusionWorker) -> Item:
    item = processed(worker)
    assert item.error is None
    assert item.result is not None
    return item


@pytest.mark.usefixtures("networks_move_freely")
def test_photo_too_large_for_the_device_is_done_on_the_cpu() -> None:
    pipe = FakePipeline([OutOfMemoryError("CUDA out of memory"), None, None], torch.float16)
    worker = worker_of(pipe)
    first, second = done(worker), done(worker)
    assert first.notes == ("done on the CPU: it did not fit in the device's memory",)
    assert second.notes == ()
    assert pipe.seen == [
        ("meta", torch.float16),
        ("cpu", torch.float32),
        ("meta", torch.float16),
    ]


@pytest.mark.usefixtures("networks_move_freely")
def test_photo_too_large_for_any_device_fails_alone() -> None:
    pipe = FakePipeline([OutOfMemoryError("CUDA"), MemoryError(), None], torch.float16)
    worker = worker_of(pipe)
    assert "does not fit in memory" in str(processed(worker).error)
    assert done(worker).notes == ()
    assert pipe.seen[-1] == ("meta", torch.float16)


@pytest.mark.usefixtures("networks_move_freely")
def test_an_overflow_in_float16_is_done_in_float32() -> None:
    pipe = FakePipeline([NonFiniteError("step 3"), None], torch.bfloat16)
    result = done(worker_of(pipe))
    assert result.notes == ("done in float32: its values overflowed in half precision",)
    assert pipe.seen == [("meta", torch.bfloat16), ("meta", torch.float32)]


def test_an_overflow_in_float32_fails_at_once() -> None:
    pipe = FakePipeline([NonFiniteError("step 3")])
    assert "NonFiniteError: step 3" in str(processed(worker_of(pipe)).error)
    assert len(pipe.seen) == 1


def test_other_errors_are_not_tried_again() -> None:
    pipe = FakePipeline([RuntimeError("shapes differ")], torch.float16)
    assert "RuntimeError: shapes differ" in str(processed(worker_of(pipe)).error)
    assert len(pipe.seen) == 1


def test_networks_come_back_as_they_were_from_single_precision(random_model: Path) -> None:
    pipe = ModelChoice(str(random_model), dtype="bfloat16").load(DehazePipeline)
    before = {name: p.dtype for name, p in pipe.unet.named_parameters()}
    vae = pipe.vae.dtype
    with module.in_single_precision(pipe, "cpu"):
        assert {pipe.unet.dtype, pipe.text_encoder.dtype, pipe.vae.dtype} == {torch.float32}
    assert {name: p.dtype for name, p in pipe.unet.named_parameters()} == before
    assert set(before.values()) == {torch.bfloat16}
    assert pipe.vae.dtype == vae


def test_a_model_is_loaded_at_the_revision_that_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    def download(
        model: str, *, revision: str | None, allow_patterns: list[str], **others: Any
    ) -> str:
        asked.append((model, revision))
        assert all("bin" not in pattern and ".py" not in pattern for pattern in allow_patterns)
        raise OSError("offline")

    monkeypatch.setattr("dehaze.models.hub.snapshot_download", download)
    work = DiffusionWork(model=ModelChoice("someone/model", "0123abc", device="cpu"))
    for start in (work.start, work.model.fingerprint):
        with pytest.raises(ModelError, match="someone/model"):
            start()
    assert asked == [("someone/model", "0123abc")] * 2


def test_work_and_items_can_be_sent_to_another_process(random_model: Path, tmp_path: Path) -> None:
    model = ModelChoice(str(random_model))
    work = DiffusionWork(
        {"recovery": "affine", "num_inference_steps": 2}, model, beside={"trace": ".json"}
    )
    worker = pickle.loads(pickle.dumps(work)).start()
    item = opened(np.random.default_rng(0).random((20, 30, 3), np.float32), tmp_path)
    worker.process([item])
    assert item.evaluations > 0
    assert np.isfinite(item.residual)
    assert worker.save(item) == [tmp_path / "a.png", tmp_path / "a.png.json"]
    assert json.loads((tmp_path / "a.png.json").read_text())
    item.photo = item.result = None
    back = pickle.loads(pickle.dumps(item))
    assert vars(back) == vars(item)


def test_an_item_comes_back_under_its_given_path() -> None:
    item = Item(Path("in/a.png"), Path("out"), Path("a.png"))
    sent = item.sendable()
    assert sent.source.is_absolute()
    assert sent.output == Path.cwd() / "out/a.png"
    sent.fail(RuntimeError("no"))
    sent.seconds = 3.0
    item.take(sent)
    assert (item.source, item.output) == (Path("in/a.png"), Path("out/a.png"))
    assert (item.status, item.seconds) == ("failed", 3.0)
    assert str(item.error).startswith("in/a.png: cannot be dehazed (RuntimeError: no)")


def test_a_result_does_not_depend_on_the_cores_of_its_worker() -> None:
    """A worker of Ray has one thread, and a job without it one for each core."""
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            (item,) = several(1)
            DiffusionWork().start().process([item])
            assert item.result is not None
            found.append(item.result.image)
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(found[0], found[1])


@pytest.fixture
def worker(random_model: Path) -> DiffusionWorker:
    """A real one, of batches of four, and of few evaluations."""
    model = ModelChoice(str(random_model), device="cpu")
    return DiffusionWork(QUICK, model, batch_size=4).start()


def several(count: int) -> list[Item]:
    random = np.random.default_rng(0)
    return [opened(random.random((20, 30, 3), np.float32)) for _ in range(count)]


def batches_of(worker: DiffusionWorker, refused: Callable[[torch.Tensor], None]) -> list[int]:
    """The number of photos of each call of the network; ``refused`` may reject a call."""
    tried: list[int] = []
    forward = worker.pipe.unet.forward

    def watched(latents: torch.Tensor, *arguments: Any, **named: Any) -> Any:
        # The first evaluation of an attempt has all of its photos.
        if not tried or tried[-1] != latents.shape[0]:
            tried.append(latents.shape[0])
        refused(latents)
        return forward(latents, *arguments, **named)

    worker.pipe.unet.forward = watched
    return tried


def test_batch_too_large_is_halved_for_good(
    worker: DiffusionWorker,
) -> None:
    def refused(latents: torch.Tensor) -> None:
        if latents.shape[0] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    alone = several(4)
    for item in alone:
        worker.process([item])
    tried = batches_of(worker, refused)
    for _ in range(2):
        together = several(4)
        worker.process(together)
        for own, ours in zip(alone, together, strict=True):
            assert ours.notes == ()
            np.testing.assert_allclose(ours.result.image, own.result.image, atol=2e-4)
    assert tried.count(4) == 1
    assert max(tried) == 4


def test_a_photo_that_fits_nowhere_fails_alone_out_of_its_batch(worker: DiffusionWorker) -> None:
    items = several(4)
    large = worker.pipe.codec.encode(items[2].decoded().pixels)

    def refused(latents: torch.Tensor) -> None:
        if any(torch.equal(latent, large[0]) for latent in latents):
            raise torch.OutOfMemoryError("CUDA out of memory")

    batches_of(worker, refused)
    worker.process(items)
    assert [item.error is None for item in items] == [True, True, False, True]
    assert "does not fit in memory" in str(items[2].error)


def test_overflow_of_one_sample_leaves_its_batch_alone(
    random_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ModelChoice(str(random_model), device="cpu", dtype="bfloat16")
    worker = DiffusionWork(QUICK, model, batch_size=4).start()
    before = [several(3)[index] for index in (0, 2)]
    worker.process(before)
    encode = PhotoCodec.encode
    items = several(3)
    large = items[1].decoded().pixels

    def overflows(codec: PhotoCodec, pixels: FloatArray) -> torch.Tensor:
        latents = encode(codec, pixels)
        lacks_range = pixels is large and worker.pipe.unet.dtype == torch.bfloat16
        return latents.fill_(torch.inf) if lacks_range else latents

    monkeypatch.setattr(PhotoCodec, "encode", overflows)
    worker.process(items)
    assert items[1].notes == ("done in float32: its values overflowed in half precision",)
    for ours, own in ((items[0], before[0]), (items[2], before[1])):
        assert ours.notes == ()
        np.testing.assert_allclose(ours.result.image, own.result.image, atol=0.05)


def test_batch_size_on_the_cpu_is_one_by_default(random_model: Path) -> None:
    work = DiffusionWork(model=ModelChoice(str(random_model), device="cpu"))
    assert work.start().batch_size == 1
    assert replace(work, batch_size=3).start().batch_size == 3
    assert work.photos_at_once(accelerated=True) > 1


@pytest.mark.parametrize(("batch_size", "parallel"), [(None, True), (2, False)])
def test_the_bundled_model_takes_one_core_a_photo(batch_size: int | None, parallel: bool) -> None:
    work = DiffusionWork(model=ModelChoice(device="cpu"), batch_size=batch_size)
    assert work.start().parallel is parallel


def test_another_model_takes_all_cores_by_itself(worker: DiffusionWorker) -> None:
    assert not worker.parallel


def test_a_stopped_worker_ends_at_the_next_evaluation(worker: DiffusionWorker) -> None:
    batches_of(worker, lambda latents: worker.stop())
    (item,) = several(1)
    with pytest.raises(KeyboardInterrupt):
        worker.process([item])
    assert item.result is None


def test_a_classical_method_is_the_one_of_that_name() -> None:
    pixels = np.random.default_rng(0).uniform(0.4, 0.9, (30, 40, 3)).astype(np.float32)
    item = opened(pixels)
    ClassicalWork("dcp").start().process([item])
    np.testing.assert_array_equal(item.result, PRIORS.get("dcp").run(pixels))
