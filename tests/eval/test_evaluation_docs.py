"""docs/evaluation.md names what the registries hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from dehaze.datasets import DATASETS
from dehaze.eval.methods import METHODS
from dehaze.eval.perceptual import WITHOUT_WEIGHTS
from dehaze.eval.protocol import PSNR_VARIANTS, SSIM_VARIANTS

TEXT = (Path(__file__).resolve().parents[2] / "docs/evaluation.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", DATASETS.names())
def test_every_data_set_stands_with_its_layout(name: str) -> None:
    assert f"| `{name}` | `{DATASETS.get(name).layout}` |" in TEXT


def test_every_variant_method_and_metric_is_named() -> None:
    for name in SSIM_VARIANTS.names():
        assert f"`--ssim {name}`" in TEXT
    for name in PSNR_VARIANTS.names():
        assert f"`--psnr {name}`" in TEXT
    for name in METHODS.names():
        assert f"`{name}" in TEXT
    for name in WITHOUT_WEIGHTS:
        assert name in TEXT
