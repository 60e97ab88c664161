"""Small random networks that look at pictures, saved in the real format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import (
    ConvNextImageProcessor,
    ResNetConfig,
    ResNetForImageClassification,
)

SIDE = 16


def save_classifier(folder: Path, labels: Sequence[str]) -> Path:
    """A classifier of two blocks, which reads pictures whose short side is 16 pixels."""
    torch.manual_seed(0)
    numbered = dict(enumerate(labels))
    network = ResNetForImageClassification(
        ResNetConfig(
            embedding_size=8,
            hidden_sizes=[8, 8],
            depths=[1, 1],
            layer_type="basic",
            id2label=numbered,
            label2id={label: number for number, label in numbered.items()},
        )
    )
    network.save_pretrained(folder)
    ConvNextImageProcessor(size={"shortest_edge": SIDE}, crop_pct=1.0).save_pretrained(folder)
    return folder
