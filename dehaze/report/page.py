"""One HTML file that holds its own scripts, styles and pictures."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import math
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from dehaze.batch import Status
from dehaze.photos import PhotoError, write_bytes

_GENERATOR = b'<meta name="generator" content="dehaze report">'


@dataclass(frozen=True)
class Layer:
    """One picture of a photo.

    Attributes:
        name: in words: "photo", "result", "transmission".
        picture: the bytes of a WebP file.
    """

    name: str
    picture: bytes


@dataclass(frozen=True)
class Column:
    """A number that each photo has, to show and to sort by.

    Attributes:
        key: in ``Entry.values``.
        name: in words.
        digits: after the point.
        unit: written behind the number.
        factor: what the number is multiplied by before it is shown.
        explanation: one sentence.
    """

    key: str
    name: str
    digits: int = 2
    unit: str = ""
    factor: float = 1.0
    explanation: str = ""


@dataclass(frozen=True)
class Entry:
    """One photo of a report.

    Attributes:
        name: of the photo, as the user knows it.
        status: what became of it.
        layers: its pictures; the first stands left of the slider, the second right of it at first.
        values: numbers by the key of their column; a column may lack some.
        notes: one sentence each.
        error: cause and cure where it failed, or None.
        size: width and height in pixels, or None.
        files: of each layer that has one, the file at full size, as a URL relative to the report.
    """

    name: str
    status: Status = "done"
    layers: tuple[Layer, ...] = ()
    values: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    error: str | None = None
    size: tuple[int, int] | None = None
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """All that a report shows.

    Attributes:
        title: its heading.
        summary: one sentence below it.
        settings: what the results were made with, name and value.
        columns: the numbers.
        entries: the photos, in the order of the job.
        table: headings and rows of a table above the photos, or nothing.
    """

    title: str
    summary: str
    settings: dict[str, str]
    columns: tuple[Column, ...]
    entries: tuple[Entry, ...]
    table: tuple[tuple[str, ...], ...] = ()


def write_report(path: Path, report: Report) -> None:
    """Write a report to a file; all of the file or none of it.

    Raises:
        PhotoError: it cannot be written, or what is there is no report.
    """
    if path.exists() and not (path.is_file() and _is_report(path)):
        raise PhotoError(path, "exists and is not a report of dehaze", "move it elsewhere")
    write_bytes(path, render_report(report))


def render_report(report: Report) -> bytes:
    """A report as an HTML file.

    The pictures stand behind the page's script, one element each. So a browser shows the page
    before it has read them all, and decodes only pictures in sight.
    """
    page = asset("report.html")
    style = asset("compare.css") + asset("report.css")
    script = asset("compare.js") + asset("report.js")
    head, tail = page.split("<!-- pictures -->")
    filled = head.format(
        title=html.escape(report.title),
        style=style,
        style_hash=_content_hash(style),
        script=script,
        script_hash=_content_hash(script),
        data=_script_json(_description(report)),
    )
    buffer = io.BytesIO()
    buffer.write(filled.encode())
    for index, entry in enumerate(report.entries):
        for number, layer in enumerate(entry.layers):
            buffer.write(f'<script type="text/plain" id="p{index}-{number}">'.encode())
            buffer.write(base64.b64encode(layer.picture))
            buffer.write(b"</script>\n")
    buffer.write(tail.encode())
    return buffer.getvalue()


def _is_report(path: Path) -> bool:
    with open(path, "rb") as file:
        return _GENERATOR in file.read(2000)


def asset(name: str) -> str:
    """A file of the page, as text."""
    return (resources.files("dehaze.report") / "assets" / name).read_text(encoding="utf-8")


def _description(report: Report) -> dict[str, object]:
    return {
        "title": report.title,
        "summary": report.summary,
        "settings": list(report.settings.items()),
        "table": report.table,
        "columns": [vars(column) for column in report.columns],
        "entries": [_entry(entry) for entry in report.entries],
    }


def _entry(entry: Entry) -> dict[str, object]:
    return {
        "name": entry.name,
        "status": entry.status,
        "layers": [layer.name for layer in entry.layers],
        "values": {key: value for key, value in entry.values.items() if math.isfinite(value)},
        "notes": entry.notes,
        "error": entry.error,
        "size": entry.size,
        "files": entry.files,
    }


def _script_json(content: object) -> str:
    """JSON that cannot end its script element, whatever a photo's name is."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _content_hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
