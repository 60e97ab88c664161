"""A user's own pictures, with or without ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dehaze.commands import options
from dehaze.commands.command import option, several, with_any
from dehaze.commands.reporting import CommandError, problem
from dehaze.errors import DehazeError

if TYPE_CHECKING:
    from dehaze.datasets import Dataset, PhotoFiles
    from dehaze.datasets.readable import Check

# The options that say where the ground truth of a folder is.
truth_options = several(
    option(
        "--gt",
        type=click.Path(path_type=Path),
        metavar="FOLDER",
        help="The ground truth of the pictures in FOLDER.",
    ),
    options.render(),
    options.seed(effect=with_any("render"), help="Seed of the rendered haze."),
)


def open_pictures(
    pictures: Path,
    output: Path,
    *,
    gt: Path | None,
    render: str | None,
    seed: int,
    limit: int | None,
) -> Dataset:
    """The set that a folder is, with ``hazy/`` and ``gt/`` in it or with ``truth_options``.

    Args:
        pictures: the folder.
        output: of the run; what is rendered goes into ``rendered_folder``.
        gt, render, seed: ``truth_options``.
        limit: how many pictures are rendered over; None for all.

    Raises:
        click.UsageError: truth is named and rendered.
        CommandError: the folder is no such set.
    """
    from dehaze.datasets import (
        open_folder,
        open_paired_folder,
        open_photo_folder,
        render_dataset,
    )

    if gt is not None and render is not None:
        raise click.UsageError("--gt names the truth of hazy pictures, --render makes hazy ones.")
    try:
        if render is not None:
            return render_dataset(
                open_photo_folder(pictures, results=[output]),
                rendered_folder(output, render, seed),
                kind=render,
                seed=seed,
                limit=limit,
            )
        if gt is not None:
            return open_paired_folder(pictures, gt, results=[output])
        return open_folder(pictures, results=[output])
    except DehazeError as error:
        raise CommandError(str(error)) from error


def rendered_folder(output: Path, kind: str, seed: int) -> Path:
    """Where pictures with rendered haze are written.

    Each kind and seed has a folder, so that a folder never holds two runs' haze.
    """
    return output / "rendered" / f"{kind}-{seed}"


def open_photos(pictures: Path, output: Path) -> Dataset:
    """The photos of a folder and its subfolders, none of them left out.

    Args:
        pictures: the folder.
        output: of the run, which is not searched.

    Raises:
        DatasetNotFoundError: the folder is missing or holds no picture, or is the output as well,
            or lies in it.
        CommandError: two of its files have one name.
    """
    from dehaze.datasets import open_photo_folder

    dataset = open_photo_folder(pictures, results=[output])
    if dataset.failures:
        more = f" (and {len(dataset.failures) - 1} more)" if len(dataset.failures) > 1 else ""
        raise CommandError(f"{dataset.failures[0].message}{more}")
    return dataset


def readable_photos(
    pictures: Path, output: Path, limit: int | None, check: Check | None = None
) -> tuple[PhotoFiles, list[str]]:
    """The photos of a folder that can be evaluated, and one line about each of the others.

    Args:
        pictures, output: as for ``open_photos``, with its errors.
        limit: how many are looked at, evenly spread; None for all.
        check: as of ``split_readable``.

    Raises:
        DatasetNotFoundError: none can be evaluated.
    """
    from dehaze.datasets import PhotoFiles, split_readable

    files = (sample.hazy for sample in open_photos(pictures, output).spread(limit))
    readable, left_out = split_readable(files, check)
    return PhotoFiles(readable), left_out


def exit_naming(context: click.Context, left_out: Sequence[str]) -> None:
    """End the command: with exit code 1 where photos were left out, which are named."""
    for line in left_out:
        problem(f"left out: {line}")
    context.exit(1 if left_out else 0)
