"""Time and peak memory of ``dehaze run`` by number of photos, photo size and number of workers.

    python benchmarks/folder_job.py length --counts 10,100,1000 --method dcp
    python benchmarks/folder_job.py size --megapixels 0.2,1,6,12,24
    python benchmarks/folder_job.py workers --counts 2,8,200 --workers 1,2 --rounds 3
    python benchmarks/folder_job.py ray --counts 40,200 --workers 1,2 --rounds 3

Every case is a process of its own, over photos made from one of the examples. Processor time is
that of all its processes, and depends less on other programs than wall time does. Peak memory is
that of the largest process. On Linux it is the sum over all processes, measured ten times a second,
with shared memory counted once. Numbers of workers take turns, round after round, each on as many
cores where the system allows that. The best round of each counts, and all rounds must give the same
bytes. On Ray each worker has a node of its own, of one core, on this machine. Its time does not
include the nodes' start; its processor time and memory do not include the nodes.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2

ROOT = Path(__file__).resolve().parents[1]
SECONDS_OF_NODES = 5.0
EXAMPLE = ROOT / "examples" / "kodim19_haze.jpg"


@dataclass(frozen=True)
class Cost:
    """The cost of a process: wall and processor seconds, and peak memory in MB."""

    wall: float
    processor: float
    megabytes: float


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("length", "size", "workers", "ray"))
    parser.add_argument("--counts", default="10,100,1000", help="photos in a folder")
    parser.add_argument("--megapixels", default="0.2,1,6,12,24", help="of a photo")
    parser.add_argument("--photos", type=int, default=3, help="in a folder, for size")
    parser.add_argument("--method", default="diffusion")
    parser.add_argument("--batch-size", help="photos that share the network; the command's default")
    parser.add_argument("--workers", help="photos at a time; several numbers for workers, ray")
    parser.add_argument("--rounds", type=int, default=3, help="for workers, ray")
    given = parser.parse_args(arguments)
    options = ["--method", given.method]
    if given.batch_size is not None:
        options += ["--batch-size", given.batch_size]
    if given.what in ("workers", "ray"):
        counts = [int(count) for count in given.counts.split(",")]
        numbers = [int(number) for number in (given.workers or "1,2").split(",")]
        megapixels = float(given.megapixels.split(",")[0])
        place = ray_nodes if given.what == "ray" else this_machine
        compare_workers(numbers, counts, megapixels, given.rounds, options, place)
        return
    if given.workers is not None:
        options += ["--workers", given.workers]
    if given.what == "length":
        cases = [
            (int(count), float(given.megapixels.split(",")[0])) for count in given.counts.split(",")
        ]
    else:
        cases = [
            (count, float(size))
            for size in given.megapixels.split(",")
            for count in (1, given.photos)
        ]
    print("| photos | megapixels each | photos a minute | wall s | processor s | peak MB |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    costs = []
    for count, megapixels in cases:
        cost = measure(count, megapixels, options)
        costs.append(((count, megapixels), cost))
        print(
            f"| {count} | {megapixels:g} | {60 * count / cost.wall:.1f} | {cost.wall:.1f} | "
            f"{cost.processor:.1f} | {cost.megabytes:.0f} |",
            flush=True,
        )
    for ((fewer, size), before), ((more, same), after) in pairwise(costs):
        if size == same:
            each = (after.processor - before.processor) / (more - fewer)
            print(
                f"from {fewer} to {more} photos of {size:g} megapixels: {each:.3f} processor s for "
                "each more"
            )
    alone = [(size, cost.megabytes) for (count, size), cost in costs if count == 1]
    for (small, before_mb), (large, after_mb) in pairwise(alone):
        each = (after_mb - before_mb) / (large - small)
        print(f"one photo, from {small:g} to {large:g} megapixels: {each:.0f} MB a megapixel")


def compare_workers(
    numbers: Sequence[int],
    counts: Sequence[int],
    megapixels: float,
    rounds: int,
    options: Sequence[str],
    place: Place,
) -> None:
    """Print the cost of folders by number of workers, with and without the command's start.

    Args:
        numbers: of workers.
        counts: of photos in a folder.
        megapixels: of each photo.
        rounds: how often each case is run.
        options: of the command.
        place: where it runs.
    """
    costs: dict[tuple[int, int], list[Cost]] = {}
    starts: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for count in counts:
            make_photos(folder / f"in{count}", count, megapixels)
        for _ in range(rounds):
            with place(1) as given:
                starts.append(run(folder, f"in{counts[0]}/00000.jpg", [*options, *given]).wall)
            for count in counts:
                contents = set()
                for number in numbers:
                    with place(number) as given:
                        cost = run(folder, f"in{count}", [*options, *given])
                    costs.setdefault((count, number), []).append(cost)
                    contents.add(content_of(folder / "out"))
                    shutil.rmtree(folder / "out")
                if len(contents) > 1:
                    raise SystemExit("the results depend on the number of workers")
    start = min(starts)
    print(f"photos of {megapixels:g} megapixels, best of {rounds} rounds, equal bytes;")
    print(f"a command for one photo alone takes {start:.1f} s")
    print(
        "| photos | workers | wall s | times as fast | without the start | processor s | peak MB |"
    )
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for (count, number), those in costs.items():
        wall, first = (
            min(cost.wall for cost in costs[count, which]) for which in (number, min(numbers))
        )
        without = (first - start) / (wall - start)
        processor = min(cost.processor for cost in those)
        megabytes = max(cost.megabytes for cost in those)
        print(
            f"| {count} | {number} | {wall:.1f} | {first / wall:.2f} | {without:.2f} | "
            f"{processor:.1f} | {megabytes:.0f} |"
        )


def content_of(folder: Path) -> str:
    """One hash of all results."""
    content = hashlib.sha256()
    for path in sorted(folder.glob("*.jpg")):
        content.update(path.read_bytes())
    return content.hexdigest()


def measure(count: int, megapixels: float, options: Sequence[str]) -> Cost:
    """Run the command on ``count`` photos of this size, as a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        make_photos(Path(folder) / "in", count, megapixels)
        return run(Path(folder), "in", options)


def run(folder: Path, photos: str, options: Sequence[str]) -> Cost:
    """Run the command on photos of a folder into an empty output folder, as a process of its own.

    Args:
        folder: the working folder.
        photos: the input, relative to the folder; results go to ``out`` in it.
        options: of the command.
    """
    command = [sys.executable, str(ROOT / "cli.py"), "run", photos, "-o", "out", *options]
    started = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--overwrite"], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    together = Together(process.pid)
    assert process.stderr is not None
    said = process.stderr.read()
    largest = together.largest()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(said.decode())
    # Linux counts ru_maxrss in KiB, macOS in bytes.
    unit = 1e6 if sys.platform == "darwin" else 1e6 / 1024
    megabytes = max(usage.ru_maxrss / unit, largest)
    return Cost(wall, usage.ru_utime + usage.ru_stime, megabytes)


@contextmanager
def this_machine(workers: int) -> Iterator[list[str]]:
    """The command's options for this number of workers; inside, as many cores are used."""
    with only_on(workers):
        yield ["--workers", str(workers)]


@contextmanager
def ray_nodes(workers: int) -> Iterator[list[str]]:
    """The command's options for this number of Ray nodes, of one core and one worker each."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    with only_on(workers):
        head = {"num_cpus": 1, "include_dashboard": False}
        nodes = Cluster(initialize_head=True, head_node_args=head)
        try:
            for _ in range(workers - 1):
                nodes.add_node(num_cpus=1)
            # Each node has agents that load for some seconds.
            time.sleep(SECONDS_OF_NODES)
            address = ["--ray-address", nodes.address]
            yield ["--executor", "ray", *address, "--workers", str(workers)]
        finally:
            nodes.shutdown()


Place = Callable[[int], AbstractContextManager[list[str]]]


@contextmanager
def only_on(cores: int) -> Iterator[None]:
    """Inside, processes that are started run on this number of cores; on Linux alone."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


class Together:
    """Measures the memory of a process and its descendants again and again; on Linux alone."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._largest = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def largest(self) -> float:
        """Ends the measurement; returns the largest memory, in MB."""
        self._ended.set()
        self._thread.join()
        return self._largest

    def _look(self) -> None:
        while not self._ended.wait(0.1):
            self._largest = max(self._largest, memory_of(self._pid))


def memory_of(pid: int) -> float:
    """Memory of a process and its descendants in MB, with shared memory counted once."""
    process = Path("/proc") / str(pid)
    try:
        lines = (process / "smaps_rollup").read_text().splitlines()
        started = [
            int(other)
            for children in process.glob("task/*/children")
            for other in children.read_text().split()
        ]
    except OSError:
        # It has ended, or the system has no such files.
        return 0.0
    own = sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return own * 1024 / 1e6 + sum(memory_of(other) for other in started)


def make_photos(folder: Path, count: int, megapixels: float) -> None:
    """JPEG photos of the example, each turned and shifted so that no two are the same."""
    folder.mkdir()
    example = cv2.imread(str(EXAMPLE))
    assert example is not None
    scale = (megapixels * 1e6 / (example.shape[0] * example.shape[1])) ** 0.5
    photo = cv2.resize(example, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    for index in range(count):
        shifted = photo.copy()
        shifted[: 1 + index % photo.shape[0]] //= 2
        cv2.imwrite(str(folder / f"{index:05d}.jpg"), shifted, [cv2.IMWRITE_JPEG_QUALITY, 90])


if __name__ == "__main__":
    main()
