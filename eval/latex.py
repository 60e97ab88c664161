"""The table of a finished evaluation in LaTeX, for a paper."""

from __future__ import annotations

import math
from collections.abc import Iterable

from dehaze.eval.records import Evaluation, Row, versions
from dehaze.eval.runner import Runner
from dehaze.eval.tables import column_of, row_label

_HIGHER_IS_BETTER = {
    "psnr": True,
    "ssim": True,
    "ciede2000": False,
    "mse": False,
    "attention_spearman": True,
    "transmission_mae": False,
    "airlight_mae": False,
    "airlight_angle": False,
}
_ESCAPED = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}


def latex_table(runner: Runner, evaluation: Evaluation) -> str:
    """A table environment of the means, for the package booktabs; the command as a comment.

    The best mean of each data set is bold. Ceilings and oracles do not count, nor do rows with
    failed images, whose means are over other images. A metric whose better direction is unknown has
    no bold mean. An infinite PSNR on every image is the best; no PSNR is bold beside one that is
    infinite on some images only, whose mean is over the others.
    """
    metrics = evaluation.metrics
    packages = ", ".join(f"{name} {version}" for name, version in versions().items())
    lines = [
        *_comment(f"Made by: {runner.command}" if runner.command else "Made by dehaze"),
        *_comment(f"Seed {runner.seed}; {packages}."),
        *_comment(r"Needs \usepackage{booktabs}."),
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{escaped(runner.protocol.label)}. Means over the images.}}",
        rf"  \begin{{tabular}}{{lll{'r' * len(metrics)}}}",
        r"    \toprule",
        _line(["data", "method", "images", *(escaped(column_of(name)[0]) for name in metrics)]),
    ]
    better = _directions(runner)
    before = ""
    for row in evaluation.rows:
        if row.subset != before:
            lines.append(r"    \midrule")
        alike = [other for other in evaluation.rows if other.subset == row.subset]
        cells = [
            escaped(row.subset) if row.subset != before else "",
            escaped(row_label(row)),
            str(row.images) if not row.failed else f"{row.images - row.failed} of {row.images}",
        ]
        lines.append(_line([*cells, *(_cell(row, name, alike, better) for name in metrics)]))
        before = row.subset
    return "\n".join([*lines, r"    \bottomrule", r"  \end{tabular}", r"\end{table}", ""])


def escaped(text: str) -> str:
    """The text with all signs escaped that mean something to LaTeX."""
    return "".join(_ESCAPED.get(sign, sign) for sign in text)


def _comment(text: str) -> Iterable[str]:
    return [f"% {line}" for line in text.splitlines()]


def _line(cells: Iterable[str]) -> str:
    return rf"    {' & '.join(cells)} \\"


def _directions(runner: Runner) -> dict[str, bool]:
    """Whether higher is better, by metric."""
    return _HIGHER_IS_BETTER | {
        metric.name: not metric.lower_is_better for metric in runner.perceptual
    }


def _cell(row: Row, name: str, alike: Iterable[Row], better: dict[str, bool]) -> str:
    text = _mean(row, name)
    rivals = [other for other in alike if _competes(other)]
    values = [value for other in rivals if (value := _value(other, name)) is not None]
    if not _competes(row) or name not in better or len(values) < 2:
        return text
    if name == "psnr" and any(0 < other.identical < other.images for other in rivals):
        return text
    best = max(values) if better[name] else min(values)
    # Equal as printed counts as equally good.
    if text != _number(best, name):
        return text
    # Mathematics needs a command of its own to be bold.
    return rf"\textbf{{{text}}}" if math.isfinite(best) else rf"\textbf{{\boldmath{text}}}"


def _competes(row: Row) -> bool:
    """Whether a row may be the best: a method that was scored on every image of its data set."""
    return not (row.is_ceiling or row.is_oracle or row.failed)


def _value(row: Row, name: str) -> float | None:
    """The mean of a metric, infinite where every PSNR is; None where there is none."""
    found = row.statistics.get(name)
    if found is None or found.mean is None:
        return math.inf if name == "psnr" and row.identical else None
    return found.mean


def _mean(row: Row, name: str) -> str:
    value = _value(row, name)
    return "--" if value is None else _number(value, name)


def _number(value: float, metric: str) -> str:
    if math.isinf(value):
        return r"$\infty$"
    return f"{value:.{column_of(metric)[1]}f}"
