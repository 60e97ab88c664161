"""Adds pages of the root, pictures and the API reference to the site."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from runpy import run_path
from tempfile import TemporaryDirectory
from typing import Any

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

# A copy of the installed layout, with dehaze.datasets and dehaze.eval; deleted after the build.
LAYOUT = TemporaryDirectory()
ROOT = Path(__file__).resolve().parents[1]

# From a file of the repository to its place in the site.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "dehaze/models/bundled/MODEL_CARD.md": "model-card.md",
    "benchmarks/README.md": "benchmarks.md",
    "examples/README.md": "examples/index.md",
}
FILES = ["CITATION.cff"] + [
    f"examples/{path.name}"
    for path in (ROOT / "examples").iterdir()
    if path.suffix in (".jpg", ".ipynb")
]
# The packages in the API reference, and their folders; --help describes commands.
ROOMS = {
    f"dehaze.{path.stem}": path
    for path in sorted((ROOT / "dehaze").iterdir())
    if path.stem not in ("commands", "webui") and (path / "__init__.py").is_file()
} | {"dehaze.datasets": ROOT / "datasets", "dehaze.eval": ROOT / "eval"}
SINGLE_FILES = [
    f"dehaze.{path.stem}" for path in sorted((ROOT / "dehaze").glob("*.py")) if path.stem[0] != "_"
]
_LINK = re.compile(r"(\]\()([^)#\s:]+)(#[^)\s]*)?(\))")


def reference_pages() -> dict[str, str]:
    """The text of each page of the API reference, by its place in the site."""
    pages = {}
    for room, folder in ROOMS.items():
        names = [room]
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            if not any(part.startswith("_") for part in parts):
                names.append(".".join((room, *parts)))
        pages[f"api/{room.removeprefix('dehaze.')}.md"] = _reference(room, names)
    pages["api/files.md"] = _reference("Single files", SINGLE_FILES)
    return pages


def _reference(title: str, modules: list[str]) -> str:
    return "\n\n".join([f"# {title}", *(f"::: {module}" for module in modules)]) + "\n"


@event_priority(100)  # Before mkdocstrings reads its own.
def on_config(config: Any) -> Any:
    """List the pages of the API reference, and say where their docstrings are read."""
    run_path(str(ROOT / ".ci" / "layout.py"))["lay_out"](Path(LAYOUT.name))
    config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [LAYOUT.name]
    pages = [{_title(place): place} for place in reference_pages()]
    where = next(i for i, entry in enumerate(config.nav) if "Notes" in entry)
    config.nav.insert(where, {"API": pages})
    return config


def _title(place: str) -> str:
    name = PurePosixPath(place).stem
    return "single files" if name == "files" else name


def place_of(source: str) -> str:
    """The place in the site of a file of the repository.

    Args:
        source: its path below the root, with forward slashes.
    """
    if source in PAGES:
        return PAGES[source]
    return source.removeprefix("docs/")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages and files of the root, and the API reference."""
    for place, text in reference_pages().items():
        files.append(File.generated(config, place, content=text))
    for source, place in PAGES.items():
        files.append(File.generated(config, place, content=(ROOT / source).read_text("utf-8")))
    for place in FILES:
        files.append(File.generated(config, place, abs_src_path=str(ROOT / place)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn links between files of the repository into links between pages of the site."""
    place = page.file.src_uri
    source = next((key for key, value in PAGES.items() if value == place), f"docs/{place}")

    def follow(match: re.Match[str]) -> str:
        start, target, anchor, end = match.groups()
        meant = os.path.normpath(PurePosixPath(source).parent / target)
        relative = os.path.relpath(place_of(meant), PurePosixPath(place).parent)
        return f"{start}{relative}{anchor or ''}{end}"

    return _LINK.sub(follow, markdown)
