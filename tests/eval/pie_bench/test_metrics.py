"""PIE-Bench's metrics against hand computation, including the published script's deviations."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plain_pictures import half, picture
from safetensors.torch import load_file, save_file
from skimage.metrics import structural_similarity
from torch import Tensor
from transformers import ViTConfig, ViTModel

from dehaze.eval.pie_bench.metrics import (
    METRIC_NAMES,
    ClipSimilarity,
    LpipsOutside,
    StructureDistance,
    key_similarity,
    load_metrics,
    mse_outside,
    psnr_outside,
    ssim_outside,
)
from dehaze.models.clip import load_clip


def test_the_mean_of_the_background_goes_over_all_pixels() -> None:
    """Half of the pixels differ by 20 and count; the black half counts as equal."""
    source, result = picture(100), picture(120)
    error = (20.0**2 / 2) / 255.0**2
    assert mse_outside(source, result, half()) == pytest.approx(error)
    assert psnr_outside(source, result, half()) == pytest.approx(10 * math.log10(1 / error))
    # Pixels inside the mask do not count.
    result[:2] = 7
    assert mse_outside(source, result, half()) == pytest.approx(error)


def test_ssim_is_of_both_pictures_blackened() -> None:
    rng = np.random.default_rng(0)
    source, result = rng.integers(0, 256, (2, 20, 24, 3)).astype(np.uint8)
    mask = np.zeros((20, 24))
    mask[:, :9] = 1.0
    kept = (1.0 - mask)[..., None]
    expected, full = structural_similarity(
        source * kept, result * kept, gaussian_weights=True, sigma=1.5, data_range=255.0,
        use_sample_covariance=False, channel_axis=2, full=True,
    )  # fmt: skip
    assert full[5:-5, 5:-5].mean() == pytest.approx(expected)
    assert ssim_outside(source, result, mask) == pytest.approx(expected)


@pytest.mark.parametrize("metric", [psnr_outside, mse_outside, ssim_outside])
def test_whole_mask_leaves_no_background_to_score(metric: Any) -> None:
    assert math.isnan(metric(picture(1, 16), picture(2, 16), np.ones((16, 16))))


def test_the_similarity_of_keys_by_hand() -> None:
    keys = torch.tensor([[3.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    root = 1 / math.sqrt(2)
    expected = torch.tensor([[1.0, root, 0.0], [root, 1.0, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(key_similarity(keys), expected)


@pytest.fixture(scope="module")
def vision() -> ViTModel:
    torch.manual_seed(0)
    settings = ViTConfig(
        hidden_size=16, num_hidden_layers=12, num_attention_heads=2, intermediate_size=16,
        image_size=224, patch_size=32,
    )  # fmt: skip
    return ViTModel(settings, add_pooling_layer=False).eval()


def test_the_structure_distance_compares_the_keys_of_layer_11(vision: ViTModel) -> None:
    rng = np.random.default_rng(1)
    first, second = rng.integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    distance = StructureDistance(vision)
    assert distance(first, first, half(64)) == 0.0
    keys = distance.keys(first)
    assert keys.shape == (1 + 7 * 7, 16)
    # The keys by hand: the input of layer 11 through its norm and key projection.
    with torch.no_grad():
        states = vision(distance.pixels(first), output_hidden_states=True).hidden_states
        layer = vision.layers[11]
        by_hand = layer.attention.k_proj(layer.layernorm_before(states[11]))[0]
    torch.testing.assert_close(keys, by_hand)
    similar = [key_similarity(distance.keys(image)) for image in (first, second)]
    expected = float((similar[0] - similar[1]).square().mean())
    assert distance(first, second, half(64)) == pytest.approx(expected)
    assert expected > 0


def test_pictures_are_not_brought_to_one_unless_corrected(vision: ViTModel) -> None:
    grey = picture(255, 8)
    published = StructureDistance(vision).pixels(grey)
    assert published.shape == (1, 3, 224, 224)
    expected = (255.0 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(published[0, :, 5, 5], expected)
    corrected = StructureDistance(vision, corrected=True).pixels(grey)
    torch.testing.assert_close(corrected[0, :, 5, 5], (expected * 0 + 1.0 - torch.tensor(
        [0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225]))  # fmt: skip


def redness(picture: np.ndarray, prompt: str) -> float:
    """A stand-in for CLIP: the redness of a picture minus a constant, if the prompt is right."""
    assert prompt == "abc"
    return float(picture[..., 0].mean()) - 50.0


def test_clip_sees_the_result_or_its_masked_part() -> None:
    red = picture(0)
    red[..., 0] = 200
    whole, part = (ClipSimilarity(redness, edited) for edited in (False, True))
    assert whole(picture(0), red, half(), "abc") == 150.0
    # Only the masked half is looked at, the rest is black.
    assert part(picture(0), red, half(), "abc") == 50.0
    assert math.isnan(part(picture(0), red, np.zeros((4, 4)), "abc"))
    # The score is never below 0.
    assert whole(red, picture(0), half(), "abc") == 0.0


def test_lpips_gets_blackened_pictures_from_minus_one_to_one() -> None:
    seen: list[Tensor] = []

    def distance(first: Tensor, second: Tensor) -> Tensor:
        seen.extend((first, second))
        return torch.tensor([[[[0.25]]]])

    assert LpipsOutside(distance)(picture(255), picture(51), half()) == 0.25
    assert [tuple(image.shape) for image in seen] == 2 * [(1, 3, 4, 4)]
    # The result first, as the script calls it; black is -1.
    torch.testing.assert_close(seen[0][0, 0, :, 0], torch.tensor([-1.0, -1.0, -0.6, -0.6]))
    torch.testing.assert_close(seen[1][0, 0, :, 0], torch.tensor([-1.0, -1.0, 1.0, 1.0]))
    assert math.isnan(LpipsOutside(distance)(picture(1), picture(2), np.ones((4, 4))))


def test_missing_weights_are_named_and_the_rest_is_there(tmp_path: Path) -> None:
    found = load_metrics(str(tmp_path), str(tmp_path / "clip"))
    assert {"psnr_unedit_part", "mse_unedit_part", "ssim_unedit_part"} <= set(found.metrics)
    assert set(found.metrics) | set(found.missing) == set(METRIC_NAMES)
    assert "DINO ViT-B/8" in found.missing["structure_distance"]
    assert str(tmp_path) in found.missing["structure_distance"]
    assert f"CLIP ({tmp_path / 'clip'})" in found.missing["clip_similarity_target_image_edit_part"]


def test_dino_loads_from_a_folder(tmp_path: Path, vision: ViTModel) -> None:
    vision.save_pretrained(tmp_path)
    found = load_metrics(str(tmp_path), str(tmp_path / "clip"))
    metric = found.metrics["structure_distance"]
    assert metric(picture(1, 32), picture(1, 32), half(32), "") == 0.0


def test_a_weight_of_dino_is_never_a_random_one(tmp_path: Path, vision: ViTModel) -> None:
    vision.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = next(name for name in weights if "layernorm_before.weight" in name)
    del weights[name]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    found = load_metrics(str(tmp_path), str(tmp_path / "clip"))
    assert "lacks the weight" in found.missing["structure_distance"]
    assert "layernorm_before" in found.missing["structure_distance"]
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    found = load_metrics(str(tmp_path), str(tmp_path / "clip"))
    assert "get its files again" in found.missing["structure_distance"]


def test_clip_loads_from_a_folder(tmp_path: Path, clip_model: Path) -> None:
    found = load_metrics(str(tmp_path), str(clip_model))
    clip = load_clip(str(clip_model))
    given = (picture(1, 32), picture(9, 32), half(32), "a photo with haze")
    whole = found.metrics["clip_similarity_target_image"](*given)
    assert whole == pytest.approx(max(0.0, clip(given[1], given[3])))
    assert set(METRIC_NAMES[5:]) <= set(found.metrics)
