"""Processor time of whole commands, compared with another checkout.

    python benchmarks/start.py --beside ../older --rounds 5

Each command runs in a process of its own, round after round, and the checkouts take turns, so other
programs on the machine hardly change the result. Modules are compiled before, as in an
installation. The table has the median of user and system time over the rounds and, with
``--beside``, the ratio of the two medians.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
PHOTO = ROOT / "examples" / "kodim08_haze.jpg"
OTHER_PHOTO = ROOT / "examples" / "kodim22_haze.jpg"


def processor_seconds(command: Sequence[str], folder: Path) -> float:
    """User and system time of one process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {
        name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
    }
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--beside", type=Path, help="another checkout of dehaze")
    given = parser.parse_args(arguments)
    checkouts = [ROOT] if given.beside is None else [ROOT, given.beside.resolve()]
    with tempfile.TemporaryDirectory() as out:
        options = ["-o", out, "--overwrite", "-q"]
        commands = {
            "import torch": ["-c", "import torch"],
            "import torch, collector off": ["-c", "import gc; gc.disable(); import torch"],
            "--help": ["cli.py", "--help"],
            "run --help": ["cli.py", "run", "--help"],
            "models list": ["cli.py", "models", "list"],
            "doctor --quick": ["cli.py", "doctor", "--quick"],
            "run one.jpg": ["cli.py", "run", str(PHOTO), *options],
            "run one.jpg two.jpg": ["cli.py", "run", str(PHOTO), str(OTHER_PHOTO), *options],
        }
        if given.beside is not None:
            # Options that an older checkout may not have.
            del commands["doctor --quick"]
        taken: dict[tuple[str, Path], list[float]] = {}
        # The first round compiles modules and is not counted.
        for counted in range(given.rounds + 1):
            for name, command in commands.items():
                for checkout in checkouts:
                    seconds = processor_seconds([sys.executable, *command], checkout)
                    if counted:
                        taken.setdefault((name, checkout), []).append(seconds)
    beside = " beside | ratio |" if given.beside is not None else ""
    print(f"| command | processor seconds |{beside}")
    print(f"| --- | ---: |{' ---: | ---: |' if beside else ''}")
    for name in commands:
        own, *other = (median(taken[name, checkout]) for checkout in checkouts)
        more = f" {other[0]:.2f} | {own / other[0]:.2f} |" if other else ""
        print(f"| `{name}` | {own:.2f} |{more}")


if __name__ == "__main__":
    main()
