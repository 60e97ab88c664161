"""Kills ``dehaze run`` at random moments and compares the final results with an undisturbed run.

    python benchmarks/kill_job.py --kills 50

After each SIGKILL, which leaves no time to clean up, every file in the output folder must be a
complete photo, every result that the journal calls done must be on the disk as written, and no
input may have changed. The last run is not killed, and must end with the bytes of an undisturbed
run.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from folder_job import ROOT, make_photos
from soundness import check_output, results

from dehaze.batch import JOURNAL_NAME
from dehaze.digests import digest_of_file


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--photos", type=int, default=150)
    parser.add_argument("--megapixels", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    chance = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_photos(folder / "in", given.photos, given.megapixels)
        before = contents(folder / "in")
        started = time.perf_counter()
        start(folder, "undisturbed").communicate()
        whole_run = time.perf_counter() - started
        early, rounds, most_done = 0, 1, 0
        for kill in range(given.kills):
            # Everything is done already, so the job starts anew.
            if most_done == given.photos:
                rounds, most_done = rounds + 1, 0
            job = start(folder, f"out{rounds}")
            try:
                job.communicate(timeout=chance.uniform(0, whole_run / 3))
            except subprocess.TimeoutExpired:
                job.kill()
                job.communicate()
            if contents(folder / "in") != before:
                raise SystemExit(f"kill {kill}: an input has changed")
            output = folder / f"out{rounds}"
            early += not (output / JOURNAL_NAME).is_file()
            most_done = check_output(output)
        for index in range(1, rounds + 1):
            end = start(folder, f"out{index}")
            end.communicate()
            if end.returncode != 0:
                raise SystemExit(f"the last run of out{index} ends with {end.returncode}")
            if contents(folder / f"out{index}") != contents(folder / "undisturbed"):
                raise SystemExit(f"out{index} differs from the undisturbed run")
    print(
        f"{given.kills} kills over {rounds} jobs of {given.photos} photos, {early} of them before "
        "the journal was there: no torn file, no false line, no changed input, and each job ended "
        "with the bytes of an undisturbed one"
    )


def start(folder: Path, output: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(ROOT / "cli.py"), "run", "in", "-o", output, "--method", "dcp"]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def contents(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): digest_of_file(path) for path in results(folder)}


if __name__ == "__main__":
    main()
