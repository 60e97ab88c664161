"""CLIP as a judge: loading in the real format, and the similarity by hand."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPProcessor

from dehaze.models import ModelError
from dehaze.models.clip import load_clip

PICTURE = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)


def test_the_similarity_is_a_hundred_times_the_cosine(clip_model: Path) -> None:
    clip = load_clip(str(clip_model))
    model = CLIPModel.from_pretrained(clip_model)
    processor = CLIPProcessor.from_pretrained(clip_model)
    given = processor(text=["a photo"], images=[PICTURE], return_tensors="pt")
    with torch.no_grad():
        output = model(**given)
    cosine = torch.cosine_similarity(output.image_embeds, output.text_embeds)
    assert clip(PICTURE, "a photo") == pytest.approx(100.0 * float(cosine), abs=1e-3)
    assert clip(PICTURE, "a city") != clip(PICTURE, "a photo")
    assert clip(PICTURE[::-1], "a photo") != clip(PICTURE, "a photo")
    # Three rows are no three channels.
    assert -100.0 <= clip(PICTURE[:3], "a photo") <= 100.0


def test_a_prompt_that_is_too_long_is_cut_and_named(
    clip_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = load_clip(str(clip_model))
    with caplog.at_level(logging.WARNING):
        clip(PICTURE, " ".join(["haze"] * 14))
        assert not caplog.records
        same = clip(PICTURE, " ".join(["haze"] * 40))
    (record,) = caplog.records
    assert "CLIP reads 16 tokens" in record.getMessage()
    assert same == pytest.approx(clip(PICTURE, " ".join(["haze"] * 50)))


def test_what_is_missing_is_named(clip_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"CLIP \(.*nowhere\) is not on this machine"):
        load_clip(str(tmp_path / "nowhere"))
    copy = shutil.copytree(clip_model, tmp_path / "copy")
    weights = load_file(copy / "model.safetensors")
    weights.pop("text_projection.weight")
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks the weight text_projection\.weight"):
        load_clip(str(copy))
    (copy / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(ModelError, match="get its files again"):
        load_clip(str(copy))
