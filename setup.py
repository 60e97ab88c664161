"""The README as PyPI shows it: its pictures and links lead to the repository."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import setup

REPOSITORY = "https://github.com/dehaze-diffusion/dehaze"
RAW = "https://raw.githubusercontent.com/dehaze-diffusion/dehaze"


def with_addresses(text: str) -> str:
    """The README with absolute addresses: of a file's page, or of a picture."""

    def absolute(match: re.Match[str]) -> str:
        mark, label, target = match.groups()
        base = f"{RAW}/main" if mark else f"{REPOSITORY}/blob/main"
        return f"{mark}[{label}]({base}/{target})"

    return re.sub(r"(!?)\[([^\]]*)\]\((?!https?://|#)([^)]+)\)", absolute, text)


if __name__ == "__main__":
    setup(
        long_description=with_addresses(Path("README.md").read_text(encoding="utf-8")),
        long_description_content_type="text/markdown",
    )
