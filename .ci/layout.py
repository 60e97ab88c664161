"""Arranges the checkout as it is installed: datasets/ and eval/ inside dehaze/.

mypy and mkdocstrings need that, since they read the source without importing it.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def lay_out(folder: Path) -> None:
    """Fill a folder with links: dehaze/ as installed, training/ and cli.py beside it."""
    package = folder / "dehaze"
    package.mkdir(parents=True, exist_ok=True)
    for link in (*folder.iterdir(), *package.iterdir()):
        if link.is_symlink():
            link.unlink()
    for part in (ROOT / "dehaze").iterdir():
        if part.name != "__pycache__":
            (package / part.name).symlink_to(part)
    for name in ("datasets", "eval"):
        (package / name).symlink_to(ROOT / name)
    for name in ("training", "cli.py"):
        (folder / name).symlink_to(ROOT / name)
