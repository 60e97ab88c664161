from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dehaze.models.codec import PixelUnshuffleCodec


@pytest.mark.parametrize("patch_size", [1, 2, 4])
def test_pixel_unshuffle_round_trip_is_exact(patch_size: int) -> None:
    codec = PixelUnshuffleCodec(patch_size=patch_size)
    image = torch.rand(2, 3, 16, 24) * 2 - 1
    latents = codec.encode(image).latent_dist.mode()
    assert latents.shape == (2, 3 * patch_size**2, 16 // patch_size, 24 // patch_size)
    assert torch.equal(codec.decode(latents).sample, image)


def test_it_is_saved_and_loaded_with_its_settings(tmp_path: Path) -> None:
    PixelUnshuffleCodec(patch_size=4, scaling_factor=1.5).save_pretrained(tmp_path)
    loaded = PixelUnshuffleCodec.from_pretrained(tmp_path, use_safetensors=True)
    assert loaded.config.patch_size == 4
    assert loaded.config.scaling_factor == 1.5
    assert loaded.dtype == torch.float32
