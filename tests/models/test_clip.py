"""CLIP as a judge: loading in the real format, and the similarity by hand."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessor, CLIPModel, CLIPProcessor

from dehaze.models import ModelError
from dehaze.models.clip import ClipImageEncoder, load_clip

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


def test_a_similarity_that_is_not_finite_is_no_score(clip_model: Path) -> None:
    clip = load_clip(str(clip_model))
    with torch.no_grad():
        clip.model.visual_projection.weight[0, 0] = torch.nan
    with pytest.raises(ModelError, match="similarity is not finite"):
        clip(PICTURE, "haze")


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


@pytest.fixture(scope="module")
def encoder(clip_model: Path) -> ClipImageEncoder:
    return load_clip(str(clip_model)).image_encoder


@pytest.mark.parametrize("size", [(33, 47), (32, 32), (20, 19)])
def test_pictures_are_seen_as_clips_own_processor_sees_them(
    clip_model: Path, encoder: ClipImageEncoder, size: tuple[int, int]
) -> None:
    picture = np.random.default_rng(0).integers(60, 196, (*size, 3)).astype(np.uint8)
    processor = CLIPImageProcessor.from_pretrained(clip_model)
    expected = processor(images=[picture], return_tensors="pt")["pixel_values"]
    tensor = torch.from_numpy(picture).permute(2, 0, 1)[None] / 255.0
    # The processor rounds to 8 bits on the way, which its deviation enlarges.
    assert float((encoder.pixels(tensor) - expected).abs().max()) < 1.1 / 255.0 / 0.26
    network = CLIPModel.from_pretrained(clip_model)
    with torch.no_grad():
        embedding = network.visual_projection(network.vision_model(expected).pooler_output)
        assert float((encoder(tensor) - embedding).abs().max()) < 0.02 * float(embedding.norm())


def test_embeddings_have_a_gradient_and_weights_have_none(encoder: ClipImageEncoder) -> None:
    picture = torch.rand(2, 3, 20, 60, requires_grad=True)
    encoder(picture).square().sum().backward()
    assert picture.grad is not None
    # Only the middle square is seen.
    assert float(picture.grad[..., 30].abs().sum()) > 0.0
    assert float(picture.grad[..., 0].abs().sum()) == 0.0
    assert encoder.projection.weight.grad is None


def test_a_network_of_another_kind_is_no_clip(classifier_folder: Path) -> None:
    with pytest.raises(ModelError, match="is no CLIP, but a resnet"):
        load_clip(str(classifier_folder))


def test_a_weight_of_another_shape_is_never_a_random_one(clip_model: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(clip_model, tmp_path / "copy")
    weights = load_file(copy / "model.safetensors")
    weights["visual_projection.weight"] = torch.zeros(3, 16)
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks the weight visual_projection\.weight"):
        load_clip(str(copy))
