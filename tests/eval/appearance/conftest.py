"""What the tests of edited appearances share."""

from __future__ import annotations

from pathlib import Path

import pytest

from dehaze.pipelines.edit import EditPipeline


@pytest.fixture(scope="module")
def pipe(random_model: Path) -> EditPipeline:
    """A pipeline of edits with the small random model."""
    loaded = EditPipeline.from_pretrained(random_model)
    loaded.set_progress_bar_config(disable=True)
    return loaded
