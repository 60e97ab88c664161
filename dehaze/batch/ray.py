"""Runs a job on a Ray cluster by Ray Data: a pool of actors, each with the model loaded once.

The folders must lie under the same paths on every machine. The driver keeps the journal; an actor
that dies is started again, and its photos are done again.
"""

from __future__ import annotations

import logging
import math
import os
import pickle
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from dehaze.batch.item import RETRIES, Item, Work, worker_died
from dehaze.batch.local import LocalExecutor
from dehaze.batch.machine import cores, opencv_on_one_core
from dehaze.batch.sent import SentWork
from dehaze.errors import DehazeError, first_line

# Where photos share a batch, an actor gets this many batches' worth of them at a time, so that
# photos of several sizes still form batches.
_BATCHES_A_TURN = 2


class ClusterError(DehazeError, ValueError):
    """The cluster cannot do the job, in one line: what stands in the way, and the cure."""


class _Actor:
    """One worker of the pool; a turn's items come in and go out, pickled."""

    def __init__(self, sent: SentWork, on_one_core: bool) -> None:
        self._executor = LocalExecutor(sent.start())
        self._cores = opencv_on_one_core if on_one_core else nullcontext

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        done: list[Item] = []
        with self._cores():
            for items in batch["items"]:
                self._executor.run(pickle.loads(items), done.append)
        return {"item": [pickle.dumps(item) for item in done]}


@dataclass(frozen=True)
class RayExecutor:
    """Runs items on the actors of a Ray cluster.

    Attributes:
        work: what is done to each photo.
        address: of a running cluster, as for ``ray.init``; None for ``$RAY_ADDRESS``, or else a
            cluster of this machine alone, which ends with the job.
        workers: how many actors; None for one for each GPU of the cluster, or each CPU if it has
            no GPU.
        gpu: whether an actor takes a GPU where the cluster has one.
        files: the work's ``fingerprint``, where it is known.
    """

    work: Work
    address: str | None = None
    workers: int | None = None
    gpu: bool = True
    files: str | None = None

    def run(self, items: Iterable[Item], report: Callable[[Item], None]) -> None:
        """See ``dehaze.batch.Executor``.

        Raises:
            ClusterError: Ray is not installed, the cluster cannot be reached, or no worker starts.
        """
        ray = _quiet_ray()
        ours = not ray.is_initialized()
        if ours:
            self.connect(ray)
        try:
            self._run(ray, list(items), report)
        except ray.exceptions.RayError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise ClusterError(
                f"the workers on the Ray cluster cannot work ({(lines or [''])[-1]}); dehaze, the "
                "model and the folders must be on every machine, under the same paths"
            ) from error
        finally:
            if ours:
                ray.shutdown()

    def close(self) -> None:
        """Nothing: a run ends what it started."""

    def connect(self, ray: Any) -> None:
        """Joins the cluster, or starts one here; the handler of SIGTERM stays the caller's.

        Raises:
            ClusterError: the cluster cannot be reached.
        """
        address = self.address or os.environ.get("RAY_ADDRESS") or "local"
        options: dict[str, Any] = {"logging_level": logging.CRITICAL, "log_to_driver": False}
        if address == "local":
            options |= {"num_cpus": max(cores(), self.workers or 1), "include_dashboard": False}
        on_termination = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(address=address, **options)
        # Ray raises no special error where a node does not start in time.
        except Exception as error:
            reason = first_line(error)
            raise ClusterError(
                f"the Ray cluster at {address} cannot be reached ({reason}); check the address and "
                "that ray start ran there"
            ) from error
        finally:
            # Ray's own handler would end this process at once.
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, on_termination)

    def _run(self, ray: Any, items: list[Item], report: Callable[[Item], None]) -> None:
        if not items:
            return
        size, each = pool(ray.cluster_resources(), len(items), self.workers, gpu=self.gpu)
        at_once = self.work.photos_at_once(accelerated="num_gpus" in each)
        turn = 1
        if at_once > 1:
            turn = min(_BATCHES_A_TURN * at_once, math.ceil(len(items) / size))
        sent = SentWork.of(self.work, self.files)
        left = self._do(ray, sent, items, turn, size, each, report)
        for item in self._do(ray, sent, left, None, size, each, report):
            item.fail(worker_died(item.source, RETRIES + 1, "do it with --executor local"))
            report(item)

    def _do(
        self,
        ray: Any,
        sent_work: SentWork,
        items: list[Item],
        turn: int | None,
        size: int,
        each: dict[str, int],
        report: Callable[[Item], None],
    ) -> list[Item]:
        """Do items on ``size`` actors: those whose actor died.

        An actor has ``turn`` items at a time, and as many wait for it, so that it does not wait for
        this process. With None it has one alone, which takes no other with it if it kills its
        actor, and which is then tried again: of ``RETRIES``, one has been.
        """
        if not items:
            return []
        alone = turn is None
        turn = turn or 1
        sent = [item.sendable() for item in items]
        turns = [sent[first : first + turn] for first in range(0, len(sent), turn)]
        # One block for each turn; the next one goes to the actor that is free first.
        pickled = [{"items": pickle.dumps(those)} for those in turns]
        with warnings.catch_warnings():
            # No named parameter says how often a turn is tried again.
            warnings.simplefilter("ignore")
            done = ray.data.from_items(pickled, override_num_blocks=len(turns)).map_batches(
                _Actor,
                fn_constructor_args=(sent_work, "num_cpus" in each),
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(
                    size=min(size, len(turns)), max_tasks_in_flight_per_actor=1 if alone else 2
                ),
                max_task_retries=RETRIES - 1 if alone else 0,
                **each,
            )
        left = {item.name: item for item in items}
        for row in done.iter_rows():
            back: Item = pickle.loads(row["item"])
            item = left.pop(back.name)
            item.take(back)
            report(item)
        return list(left.values())


def pool(
    resources: Mapping[str, float], items: int, workers: int | None, *, gpu: bool
) -> tuple[int, dict[str, int]]:
    """The number of actors of a cluster, and the resources of each.

    Args:
        resources: "CPU" and "GPU" of the whole cluster, as Ray counts them.
        items: how many there are; more actors than items are of no use.
        workers: how many actors were asked for, or None for all that fit.
        gpu: whether an actor takes a GPU where there is one.

    Returns:
        the number of actors, and the arguments for Ray that say what one takes.
    """
    gpus = int(resources.get("GPU", 0)) if gpu else 0
    if gpus:
        return min(workers or gpus, gpus, items), {"num_gpus": 1}
    return min(workers or max(int(resources.get("CPU", 1)), 1), items), {"num_cpus": 1}


def _quiet_ray() -> Any:
    """Ray, without usage statistics, and with its logs in its own files."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ClusterError(
            f'--executor ray needs Ray ({error}); pip install "dehaze-diffusion[ray]"'
        ) from error
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    for name in ("ray.data", "ray.data._internal"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # A photo that cannot be done is reported by name; it must not end the job.
    context.max_errored_blocks = -1
    return ray
