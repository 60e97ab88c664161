"""The task of ``dehaze run``: the work on each photo, its settings, its executor."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dehaze import __version__
from dehaze.commands.reporting import quiet_libraries, quiet_photo_libraries
from dehaze.digests import digest_of_code

if TYPE_CHECKING:
    from dehaze.batch import Executor, Work
    from dehaze.models.choice import ModelChoice
    from dehaze.photos import ResultFile

DIFFUSION = "diffusion"


@dataclass(frozen=True)
class Task:
    """The work on each photo, and all settings that decide its result.

    Attributes:
        work: what is done.
        settings: what decides a result, as JSON values.
        gpu: whether a GPU is of use.
        files: the work's ``fingerprint``.
    """

    work: Work
    settings: dict[str, Any]
    gpu: bool
    files: str


def task_of(
    method: str,
    model: ModelChoice,
    recipe: dict[str, Any],
    beside: dict[str, str],
    batch_size: int | None,
    result_file: ResultFile,
) -> Task:
    """The task that the options describe.

    Args:
        method: ``DIFFUSION``, or one of ``dehaze.priors``.
        model: which model, and where it runs.
        recipe: arguments of ``DehazePipeline.__call__``.
        beside: as for ``DiffusionWork``.
        batch_size: as for ``DiffusionWork``.
        result_file: how a result's coding differs from its photo's.
    """
    if method == DIFFUSION:
        task = _by_model(model, recipe, beside, batch_size)
    else:
        task = _by_prior(method)
    coding = {"format": result_file.suffix, "quality": result_file.quality}
    chosen = {name: value for name, value in coding.items() if value is not None}
    code = {"version": __version__, "code": digest_of_code()}
    return replace(task, settings=task.settings | chosen | code)


def _by_prior(name: str) -> Task:
    from dehaze.batch.worker import ClassicalWork

    quiet_photo_libraries()
    work = ClassicalWork(name)
    return Task(work, {"method": name}, gpu=False, files=work.fingerprint())


def _by_model(
    model: ModelChoice, recipe: dict[str, Any], beside: dict[str, str], batch_size: int | None
) -> Task:
    from dehaze.batch.worker import DiffusionWork

    # Told by its name alone, since the networks' libraries are not to be imported yet.
    if model.bundled:
        quiet_photo_libraries()
    else:
        quiet_libraries()
    if os.path.isdir(model.model):
        # An absolute path, since a worker may have another working folder.
        model = replace(model, model=os.path.abspath(model.model))
    work = DiffusionWork(recipe, model, beside, batch_size)
    # A large model takes seconds, so its files are hashed here and nowhere else in this process.
    files = work.fingerprint()
    settings = {
        **recipe,
        "method": DIFFUSION,
        "model": model.model,
        "revision": model.revision,
        "dtype": model.dtype,
        "weights": files,
        "save": list(beside),
    }
    return Task(work, settings, gpu=model.device in ("auto", "cuda"), files=files)


def with_cards(task: Task, output: Path) -> Task:
    """The task, which also keeps the data of a report in the output folder."""
    from dehaze.report import CardingWork

    return replace(task, work=CardingWork(task.work, output.absolute()))


def executor_of(
    task: Task, name: str, address: str | None, workers: int | None, sizes: Sequence[int]
) -> Executor:
    """The executor, once the work is known to start.

    Args:
        task: what it is to do.
        name: "local" or "ray".
        address: of a running Ray cluster; None for one of this machine alone.
        workers: how many photos are done at a time, at most; None for as many as the machine, or a
            Ray cluster, has cores or GPUs for.
        sizes: of the photos' files that are likely to be done, bytes.

    Raises:
        UsageError: ``workers`` has no effect on this task.
    """
    if name == "local":
        from dehaze.batch.local import LocalExecutor

        executor = LocalExecutor.load(task.work, workers, sizes, task.files)
        if workers not in (None, 1) and not executor.worker.parallel:
            raise click.UsageError(
                "--workers has an effect only with the bundled model on the CPU, no --batch-size, "
                "with --method dcp or cap, or with --executor ray; leave it out."
            )
        return executor
    from dehaze.batch.ray import RayExecutor

    # Started here only to find errors before the cluster is asked.
    task.work.on_cpu().start()
    return RayExecutor(task.work, address=address, workers=workers, gpu=task.gpu, files=task.files)
