"""The examples in docstrings run, and print what they say."""

from __future__ import annotations

import doctest
from importlib import import_module

import numpy as np
import pytest
from test_architecture import modules

WITH_EXAMPLES = [name for name, path in modules() if ">>> " in path.read_text()]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_of(name: str) -> None:
    if name.startswith("dehaze.webui"):
        pytest.importorskip("fastapi", reason="the extra ui is not installed")
    tried = doctest.testmod(
        import_module(name),
        # What an example may take as given: a photo, float32 (H, W, 3) in [0, 1].
        extraglobs={"photo": np.linspace(0, 1, 48 * 64 * 3, dtype=np.float32).reshape(48, 64, 3)},
        optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE,
    )
    assert tried.attempted > 0
    assert tried.failed == 0
