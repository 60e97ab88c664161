"""docs/inversion.md names what the registries hold."""

from __future__ import annotations

from pathlib import Path

from dehaze.inversion import ADJUSTMENTS, CRITERIA, PREDICTORS, RELAXATIONS, SOLVERS
from dehaze.inversion.reconstruction import RECONSTRUCTION_MODES

DOCS = Path(__file__).resolve().parents[2] / "docs"
TEXT = (DOCS / "inversion.md").read_text(encoding="utf-8")


def test_every_solver_stands_in_the_table() -> None:
    for name in SOLVERS.names():
        assert f"\n| `{name}` | " in TEXT


def test_every_predictor_criterion_and_mode_is_named() -> None:
    for registry in (ADJUSTMENTS, CRITERIA, PREDICTORS, RELAXATIONS, RECONSTRUCTION_MODES):
        for name in registry.names():  # type: ignore[attr-defined]
            assert f"`{name}`" in TEXT


def test_every_picture_and_page_is_there() -> None:
    links = [part.split(")")[0].split("#")[0] for part in TEXT.split("](")[1:]]
    assert len(links) >= 4
    for link in links:
        assert (DOCS / link).is_file()
