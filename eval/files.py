"""The files of a benchmark's table: JSON, CSV, Markdown, and pictures beside them."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dehaze.photos import write_bytes


def write_table(
    folder: Path,
    name: str,
    *,
    content: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    markdown: str,
    plot: bytes | None = None,
) -> list[Path]:
    """Writes name.json, .csv, .md and, with a plot, .png, each whole or not at all.

    Args:
        folder: made if missing.
        name: of the files, without suffix.
        content: of the JSON file. Numbers that are not finite become null.
        rows: of the CSV file.
        columns: the keys of a row, in order.
        markdown: the table as it is printed.
        plot: a PNG file.

    Returns:
        the paths, in this order.

    Raises:
        PhotoError: a file cannot be written.
    """
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files = {
        f"{name}.json": json.dumps(finite(content), indent=1, allow_nan=False).encode(),
        f"{name}.csv": buffer.getvalue().encode(),
        f"{name}.md": markdown.encode(),
    }
    if plot is not None:
        files[f"{name}.png"] = plot
    folder.mkdir(parents=True, exist_ok=True)
    for file, data in files.items():
        write_bytes(folder / file, data)
    return [folder / file for file in files]


def told_left_out(lines: Sequence[str]) -> list[str]:
    """What a table leaves out, as a list in Markdown after an empty line; nothing for nothing."""
    return ["", *(f"- left out: {line}" for line in lines)] if lines else []


def finite(value: Any) -> Any:
    """A value for JSON, with None for numbers that are infinite or NaN, at any depth."""
    if isinstance(value, Mapping):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
