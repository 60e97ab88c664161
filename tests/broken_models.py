"""Faults for a copy of a model, and the message when it is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dehaze.models import ModelError
from dehaze.models.load import load_parts
from dehaze.models.source import ModelSource

FAULTS = ("missing", "left over", "other shape", "other type", "not finite")


def spoil(file: Path, fault: str) -> str:
    """Gives a file of weights one of ``FAULTS``; returns the name of the weight that is wrong."""
    weights = load_file(file)
    name = sorted(weights)[len(weights) // 2]
    if fault == "missing":
        del weights[name]
    elif fault == "left over":
        name = "adapter.weight"
        weights[name] = torch.zeros(3)
    elif fault == "other shape":
        weights[name] = torch.zeros(*weights[name].shape, 2)
    elif fault == "other type":
        weights[name] = (weights[name] * 100).to(torch.int8)
    else:
        weights[name].flatten()[-1] = torch.inf
    save_file(weights, file)
    return name


def change(path: Path, **settings: Any) -> None:
    """Changes settings of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def refusal(model: Path) -> str:
    """The one line that says why a model is not loaded."""
    with pytest.raises(ModelError) as caught:
        load_parts(ModelSource(model))
    assert "\n" not in str(caught.value)
    return str(caught.value)
