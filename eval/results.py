"""Files of a finished evaluation: results.json, scores.csv, table.md, table.tex and sheet.png."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

from dehaze.eval.latex import latex_table
from dehaze.eval.records import Evaluation, records_as_csv, versions
from dehaze.eval.runner import RESULT_NAMES, Runner
from dehaze.eval.sheet import picture_sheet
from dehaze.eval.tables import markdown_table
from dehaze.photos import write_bytes


def write_results(runner: Runner, evaluation: Evaluation) -> None:
    """Write the result files into the run's folder, each whole or not at all.

    A picture of an earlier run there, of which this one has none, is removed: it would look like
    this one's.
    """
    write_bytes(runner.out / "results.json", _results_json(runner, evaluation))
    write_bytes(runner.out / "scores.csv", records_as_csv(evaluation.records).encode())
    write_bytes(runner.out / "table.md", markdown_table(runner, evaluation).encode())
    write_bytes(runner.out / "table.tex", latex_table(runner, evaluation).encode())
    sheet = picture_sheet(runner, evaluation)
    if sheet is None:
        (runner.out / "sheet.png").unlink(missing_ok=True)
    else:
        buffer = io.BytesIO()
        sheet.save(buffer, format="PNG")
        write_bytes(runner.out / "sheet.png", buffer.getvalue())


def _results_json(runner: Runner, evaluation: Evaluation) -> bytes:
    content = {
        "protocol": {"label": runner.protocol.label, **runner.protocol.settings()},
        "command": runner.command,
        "seed": runner.seed,
        "versions": versions(),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "methods": {method.name: method.settings() for method in runner.methods},
        "subsets": {
            part.name: {
                "scored": len(part.samples),
                "present": len(part.dataset),
                "oddities": {kind.meaning: count for kind, count in part.dataset.counts().items()},
                "messages": [oddity.message for oddity in part.dataset.oddities],
            }
            for part in runner.sets
        },
        "rows": [asdict(row) for row in evaluation.rows],
        "failures": evaluation.failures,
        "images": [asdict(record) for record in evaluation.records],
    }
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


def result_files(out: Path) -> list[Path]:
    """The files that ``write_results`` makes, as far as they exist."""
    return [out / name for name in RESULT_NAMES if (out / name).is_file()]
