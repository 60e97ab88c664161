"""SHA-256 of files and settings, which tells whether they have changed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

_BLOCK = 1 << 20


def digest_of_file(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal; the file is read block by block.

    Raises:
        OSError: the file cannot be read.
    """
    content = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            content.update(block)
    return content.hexdigest()


def digest_of_json(values: Any) -> str:
    """SHA-256 of JSON values, in hexadecimal; the order of their keys does not matter.

    Example:
        >>> digest_of_json({"a": 1, "b": 2}) == digest_of_json({"b": 2, "a": 1})
        True
    """
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
