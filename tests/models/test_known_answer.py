"""A model's known answer is given by the exported weights alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dehaze.models import ModelError
from dehaze.models.known_answer import (
    ANSWER_FILE,
    TOLERANCE,
    check_known_answer,
    write_known_answer,
)
from dehaze.models.load import load_parts
from dehaze.models.source import BUNDLED_FOLDER, ModelSource


@pytest.fixture
def model(random_model: Path, tmp_path: Path) -> Path:
    made = Path(shutil.copytree(random_model, tmp_path / "model"))
    write_known_answer(made, load_parts(ModelSource(made)))
    return made


def test_the_bundled_model_gives_its_answer() -> None:
    assert check_known_answer(BUNDLED_FOLDER, load_parts(ModelSource()))


def test_a_model_without_one_is_told_apart(random_model: Path) -> None:
    assert not check_known_answer(random_model, load_parts(ModelSource(random_model)))


@pytest.mark.parametrize(
    ("part", "file", "weight"),
    [
        ("text_encoder", "model", "embeddings.token_embedding.weight"),
        ("unet", "diffusion_pytorch_model", "conv_in.weight"),
    ],
)
def test_random_weights_are_far_from_it(model: Path, part: str, file: str, weight: str) -> None:
    path = model / part / f"{file}.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if name.endswith(weight))
    weights[name] = weights[name].flip(0).contiguous()
    save_file(weights, path)
    named = "embedding" if part == "text_encoder" else "noise"
    with pytest.raises(ModelError, match=f"does not give its known answer: {named} is"):
        check_known_answer(model, load_parts(ModelSource(model)))


def test_a_number_that_is_not_finite_is_no_answer(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of the kept numbers alone, and not the first."""
    parts = load_parts(ModelSource(model))
    decode = parts.vae.decode

    def spoilt(latents: torch.Tensor) -> Any:
        decoded = decode(latents)
        decoded.sample.flatten()[-1] = torch.nan
        return decoded

    monkeypatch.setattr(parts.vae, "decode", spoilt)
    with pytest.raises(ModelError, match="known answer: picture is inf apart"):
        check_known_answer(model, parts)


def test_another_tokenizer_is_told_first(model: Path) -> None:
    parts = load_parts(ModelSource(model))
    known = json.loads((model / ANSWER_FILE).read_text())
    known["ids"][1] += 1
    (model / ANSWER_FILE).write_text(json.dumps(known))
    with pytest.raises(ModelError, match="known answer: ids is"):
        check_known_answer(model, parts)


@pytest.mark.parametrize("text", ["{", "{}", '{"ids": []}'])
def test_a_torn_answer_is_one_line(model: Path, text: str) -> None:
    (model / ANSWER_FILE).write_text(text)
    with pytest.raises(ModelError, match="is no known answer") as caught:
        check_known_answer(model, load_parts(ModelSource(model)))
    assert "\n" not in str(caught.value)


def test_rounding_alone_stays_far_below_the_tolerance(model: Path) -> None:
    """Another processor adds the products of a convolution in another order."""
    parts = load_parts(ModelSource(model))
    with torch.no_grad():
        for weight in parts.unet.parameters():
            weight.mul_(1.0 + 1e-6)
    assert check_known_answer(model, parts)
    assert TOLERANCE < 1e-2
