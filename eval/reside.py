"""Scores methods on RESIDE and its kin.

Runnable by itself from a checkout, as the same command as ``dehaze evaluate reside``::

    python eval/reside.py --root data --subset sots-indoor,sots-outdoor
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path

if __name__ == "__main__":
    # Python puts this folder first on its path, where eval's modules would be top-level ones.
    _HERE = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != _HERE]

from dehaze.datasets import open_dataset
from dehaze.eval.runner import EvaluationSet


def open_subsets(
    root: Path, subsets: tuple[str, ...], limit: int | None, *, results: Collection[Path] = ()
) -> tuple[EvaluationSet, ...]:
    """Open data sets below one folder.

    Args:
        root: the folder that holds them.
        subsets: registered names.
        limit: at most so many images of each, evenly spread; None for all.
        results: folders that the results go to, which are not searched.

    Raises:
        UnknownNameError: a name is not registered.
        DatasetNotFoundError: a data set is not there, or its folder is one of ``results``.
    """
    datasets = [open_dataset(name, root, results=results) for name in subsets]
    return tuple(EvaluationSet(dataset, dataset.spread(limit)) for dataset in datasets)


def main() -> None:
    """Run the command line."""
    from dehaze.commands.evaluate.reside import reside

    reside(prog_name="python eval/reside.py")


if __name__ == "__main__":
    main()
