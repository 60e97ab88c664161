"""Text encoder and tokenizer against transformers'."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTextConfig, CLIPTextModel

from dehaze.models.load import load_parts
from dehaze.models.plain.text import PlainTextEncoder, why_not
from dehaze.models.plain.tokenizer import PlainTokenizer
from dehaze.models.source import BUNDLED_FOLDER, ModelSource
from dehaze.prompts import WordError, tokenize

SETTINGS = {
    "vocab_size": 40,
    "hidden_size": 24,
    "intermediate_size": 37,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 16,
}


def config_of(encoder: CLIPTextModel) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(encoder.config.to_json_string(use_diff=False))
    return {
        name: config[name] for name in (*SETTINGS, "hidden_act", "layer_norm_eps", "model_type")
    }


@torch.no_grad()
def test_the_embedding_is_that_of_transformers() -> None:
    torch.manual_seed(0)
    theirs = CLIPTextModel(CLIPTextConfig(**SETTINGS)).eval()
    assert why_not(config_of(theirs)) is None
    ours = PlainTextEncoder(config_of(theirs)).eval()
    weights = {
        name.removeprefix("text_model."): value for name, value in theirs.state_dict().items()
    }
    weights.pop("embeddings.position_ids", None)
    ours.load_state_dict(weights, strict=True)
    ids = torch.randint(0, 40, (2, 16))
    assert torch.equal(ours(ids).last_hidden_state, theirs(ids).last_hidden_state)


def test_another_activation_is_named() -> None:
    config = json.loads((BUNDLED_FOLDER / "text_encoder" / "config.json").read_text())
    assert why_not(config) is None
    assert why_not(config | {"hidden_act": "gelu"}) == "hidden_act"
    assert why_not(config | {"a_setting_of_tomorrow": 1}) == "a_setting_of_tomorrow"


@pytest.fixture(scope="module")
def tokenizers() -> tuple[Any, PlainTokenizer]:
    return load_parts(ModelSource()).tokenizer, PlainTokenizer(BUNDLED_FOLDER / "tokenizer")


@settings(max_examples=200)
@given(text=st.text(max_size=8) | st.sampled_from(["a photo with haze", "A  Foggy\tstreet, d'or"]))
def test_tokens_are_those_of_transformers(
    tokenizers: tuple[Any, PlainTokenizer], text: str
) -> None:
    theirs, ours = tokenizers
    try:
        expected = tokenize(theirs, text)
    except WordError:
        with pytest.raises(WordError):
            tokenize(ours, text)
        return
    found = tokenize(ours, text)
    assert torch.equal(found.ids, expected.ids)
    assert (found.count, found.offsets) == (expected.count, expected.offsets)
    assert len(ours) == len(theirs)
