"""The LaTeX table: every sign escaped, every row whole, the best of each data set bold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dehaze.eval.latex import escaped, latex_table
from dehaze.eval.perceptual import PerceptualMetric
from dehaze.eval.protocol import BenchProtocol
from dehaze.eval.records import Evaluation, Row, Statistic
from dehaze.eval.runner import Runner


def row(
    subset: str, method: str, *, kind: str = "", failed: int = 0, identical: int = 0, **means: float
) -> Row:
    return Row(
        subset=subset,
        method=method,
        title=method,
        is_ceiling=kind == "ceiling",
        is_oracle=kind == "oracle",
        images=15,
        failed=failed,
        identical=identical,
        statistics={name: Statistic(mean, 1.0, 15) for name, mean in means.items()},
    )


def table(
    *rows: Row, perceptual: tuple[PerceptualMetric, ...] = ()
) -> dict[tuple[str, str], list[str]]:
    """Cells of the metrics, by data set and method, from the lines as LaTeX reads them."""
    runner = Runner((), (), BenchProtocol(), Path(), 7, "dehaze evaluate a_b", perceptual)
    text = latex_table(runner, Evaluation(rows, (), ()))
    head, body = text.split(r"\toprule")
    assert r"% Made by: dehaze evaluate a_b" in head
    assert r"\caption{dehaze-bench v1: PSNR rgb, SSIM wang, saved 8-bit PNG. Means" in head
    assert text.endswith("\\bottomrule\n  \\end{tabular}\n\\end{table}\n")
    columns = head.split(r"\begin{tabular}{")[1].split("}")[0]
    found: dict[tuple[str, str], list[str]] = {}
    subset = ""
    for line in body.splitlines():
        if line.endswith(r"\\"):
            cells = [cell.strip() for cell in line.removesuffix(r"\\").split(" & ")]
            assert len(cells) == len(columns)
            subset = cells[0] or subset
            found[subset, cells[1]] = cells[2:]
    return found


def test_the_best_of_each_data_set_is_bold() -> None:
    found = table(
        row("a", "hazy", psnr=10.0, ssim=0.5, mse=9.0),
        row("a", "ours", psnr=20.004, ssim=0.5, mse=8.0),
        row("a", "other", psnr=20.001, ssim=0.4, mse=8.5),
        row("b", "hazy", psnr=30.0, ssim=0.9, mse=1.0),
        row("b", "ours", psnr=29.0, ssim=0.8, mse=2.0),
    )
    assert found["data", "method"] == ["images", "PSNR (dB)", "SSIM", "MSE"]
    assert found["a", "hazy"] == ["15", "10.00", r"\textbf{0.5000}", "9.0"]
    # Two that are printed alike are both best.
    assert found["a", "ours"] == ["15", r"\textbf{20.00}", r"\textbf{0.5000}", r"\textbf{8.0}"]
    assert found["a", "other"] == ["15", r"\textbf{20.00}", "0.4000", "8.5"]
    assert found["b", "hazy"][1:] == [r"\textbf{30.00}", r"\textbf{0.9000}", r"\textbf{1.0}"]


def test_ceilings_and_oracles_are_never_best() -> None:
    found = table(
        row("a", "hazy", psnr=10.0),
        row("a", "ours", psnr=20.0),
        row("a", "chosen", kind="oracle", psnr=25.0),
        row("a", "codec", kind="ceiling", psnr=40.0),
    )
    assert found["a", "ours"] == ["15", r"\textbf{20.00}"]
    assert found["a", "chosen (ORACLE)"] == ["15", "25.00"]
    assert found["a", "codec"] == ["15", "40.00"]


def test_a_mean_over_fewer_images_is_never_best() -> None:
    found = table(
        row("a", "hazy", psnr=10.0), row("a", "ours", psnr=20.0),
        row("a", "torn", failed=3, psnr=30.0),
    )  # fmt: skip
    assert found["a", "ours"] == ["15", r"\textbf{20.00}"]
    assert found["a", "torn"] == ["12 of 15", "30.00"]


def test_failed_infinite_and_missing_values_are_shown() -> None:
    found = table(
        row("a", "hazy", psnr=10.0, niqe=4.0),
        row("a", "torn", failed=3, psnr=9.0),
        Row("a", "same", "", False, False, 15, 0, 15, {"psnr": Statistic(None, None, 0)}),
    )
    assert found["a", "torn"] == ["12 of 15", "9.00", "--"]
    assert found["a", "same"] == ["15", r"\textbf{\boldmath$\infty$}", "--"]


def infinite(method: str, **choices: Any) -> Row:
    same = row("a", method, identical=15, ssim=1.0, **choices)
    return replace(same, statistics=same.statistics | {"psnr": Statistic(None, None, 0)})


def test_an_infinite_psnr_on_every_image_is_the_best() -> None:
    found = table(infinite("same"), infinite("alike"), row("a", "ours", ssim=0.9, psnr=20.0))
    for method in ("same", "alike"):
        assert found["a", method] == ["15", r"\textbf{1.0000}", r"\textbf{\boldmath$\infty$}"]
    assert found["a", "ours"] == ["15", "0.9000", "20.00"]
    # What does not compete is not the best, and does not keep another from it.
    bound = table(
        infinite("codec", kind="ceiling"), row("a", "ours", psnr=20.0), row("a", "dcp", psnr=19.0)
    )
    assert bound["a", "codec"][2] == r"$\infty$"
    assert bound["a", "ours"][2] == r"\textbf{20.00}"


def test_beside_a_partly_infinite_psnr_none_is_bold() -> None:
    found = table(
        row("a", "partly", identical=14, psnr=10.0, ssim=0.99),
        row("a", "ours", psnr=20.0, ssim=0.9),
        infinite("same"),
        row("b", "hazy", psnr=30.0),
        row("b", "ours", psnr=29.0),
    )
    assert [found["a", method][1] for method in ("partly", "ours", "same")] == [
        *("10.00", "20.00", r"$\infty$")
    ]
    assert found["a", "same"][2] == r"\textbf{1.0000}"
    assert found["b", "hazy"][1] == r"\textbf{30.00}"


def test_a_learned_metric_has_its_own_direction() -> None:
    rows = row("a", "x", niqe=4.0), row("a", "y", niqe=5.0)
    assert table(*rows)["a", "x"] == ["15", "4.0000"]
    lower = PerceptualMetric("niqe", full_reference=False, lower_is_better=True, model=None)
    assert table(*rows, perceptual=(lower,))["a", "x"] == ["15", r"\textbf{4.0000}"]


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("50 % & more_", r"50 \% \& more\_"),
        (r"C:\a^b~{c}", r"C:\textbackslash{}a\textasciicircum{}b\textasciitilde{}\{c\}"),
        ("a<b>|#$", r"a\textless{}b\textgreater{}\textbar{}\#\$"),
    ],
)
def test_signs_are_escaped(text: str, latex: str) -> None:
    assert escaped(text) == latex
    assert table(row("s_t", "d_1", psnr=1.0))[r"s\_t", r"d\_1"] == ["15", "1.00"]
