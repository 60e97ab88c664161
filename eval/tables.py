"""The table of a finished evaluation, in Markdown, with all that is needed to repeat it."""

from __future__ import annotations

from collections.abc import Sequence

from dehaze.eval.published import published_for
from dehaze.eval.records import Evaluation, Row, versions
from dehaze.eval.runner import Runner

_COLUMNS = {
    "psnr": ("PSNR (dB)", 2),
    "ssim": ("SSIM", 4),
    "ciede2000": ("CIEDE2000", 2),
    "mse": ("MSE", 1),
    "attention_spearman": ("attention, Spearman", 3),
    "transmission_mae": ("t, mean abs. error", 3),
    "transmission_bias": ("t, bias", 3),
    "airlight_mae": ("A, mean abs. error", 3),
    "airlight_angle": ("A, angle (degrees)", 1),
}


def column_of(metric: str) -> tuple[str, int]:
    """Heading and number of digits of a metric; its name and 4 by default."""
    return _COLUMNS.get(metric, (metric, 4))


def markdown_table(runner: Runner, evaluation: Evaluation) -> str:
    """The table with everything that is needed to read and to repeat it.

    Nothing in it depends on when or how often the run was interrupted.
    """
    metrics = evaluation.metrics
    headings = ["subset", "method", "images", "failed"]
    headings += [column_of(name)[0] for name in metrics]
    lines = [
        f"**{runner.protocol.label}**",
        "",
        "Mean ± population standard deviation over the images that could be scored.",
        "",
        _line(headings),
        _line(["---", "---", *["---:"] * (len(headings) - 2)]),
    ]
    for row in evaluation.rows:
        cells = [row.subset, row_label(row), str(row.images), str(row.failed)]
        lines.append(_line(cells + [_statistic_cell(row, name) for name in metrics]))
    lines += ["", *_explanations(runner, evaluation), *_published_lines(runner)]
    if runner.command:
        lines += ["", "Command:", "", "```", runner.command, "```"]
    packages = ", ".join(f"{name} {version}" for name, version in versions().items())
    lines += ["", f"Seed {runner.seed}; {packages}.", ""]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def row_label(row: Row) -> str:
    """The label of a row: its method, and whether the ground truth chose."""
    return f"{row.method} (ORACLE)" if row.is_oracle else row.method


def _statistic_cell(row: Row, name: str) -> str:
    found = row.statistics.get(name)
    digits = column_of(name)[1]
    identical = f" ({row.identical} infinite)" if name == "psnr" and row.identical else ""
    if found is None or found.mean is None or found.deviation is None:
        return "infinite" if identical else "-"
    return f"{found.mean:.{digits}f} ± {found.deviation:.{digits}f}{identical}"


def _explanations(runner: Runner, evaluation: Evaluation) -> list[str]:
    lines = [f"- `{method.name}`: {method.title}" for method in runner.methods]
    for part in runner.sets:
        if len(part.samples) < len(part.dataset):
            lines.append(
                f"- {part.name}: {len(part.samples)} of {len(part.dataset)} images, evenly spread"
            )
        lines += [
            f"- {part.name}: {kind.meaning}: {count}"
            for kind, count in part.dataset.counts().items()
        ]
    if evaluation.failures:
        lines.append(f"- {len(evaluation.failures)} failures, listed in results.json")
    return lines


def _published_lines(runner: Runner) -> list[str]:
    rows = [published for part in runner.sets for published in published_for(part.name)]
    if not rows:
        return []
    lines = [
        "",
        "Published on the whole sets, not run here; each under its source's own protocol:",
        "",
        _line(["subset", "method", "PSNR (dB)", "SSIM", "kind", "protocol", "source"]),
        _line(["---", "---", "---:", "---:", "---", "---", "---"]),
    ]
    for row in rows:
        numbers = [f"{row.psnr:.2f}", f"{row.ssim:g}"]
        lines.append(_line([row.subset, row.method, *numbers, row.kind, row.protocol, row.source]))
    return lines
