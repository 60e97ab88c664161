from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dehaze.models.codec import CellsCodec, PixelUnshuffleCodec
from dehaze.models.unshuffling import cells_of


@pytest.mark.parametrize("patch_size", [1, 2, 4])
def test_pixel_unshuffle_round_trip_is_exact(patch_size: int) -> None:
    codec = PixelUnshuffleCodec(patch_size=patch_size)
    image = torch.rand(2, 3, 16, 24) * 2 - 1
    latents = codec.encode(image).latent_dist.mode()
    assert latents.shape == (2, 3 * patch_size**2, 16 // patch_size, 24 // patch_size)
    assert codec.latent_channels == latents.shape[1]
    assert torch.equal(codec.decode(latents).sample, image)


def test_it_is_saved_and_loaded_with_its_settings(tmp_path: Path) -> None:
    PixelUnshuffleCodec(patch_size=4, scaling_factor=1.5).save_pretrained(tmp_path)
    loaded = PixelUnshuffleCodec.from_pretrained(tmp_path, use_safetensors=True)
    assert loaded.config.patch_size == 4
    assert loaded.config.scaling_factor == 1.5
    assert loaded.dtype == torch.float32


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**32 - 1),
    cell=st.integers(2, 7),
    airlight=st.tuples(*[st.floats(0.0, 1.0)] * 3),
)
def test_all_nine_numbers_obey_the_scattering_model(
    seed: int, cell: int, airlight: tuple[float, float, float]
) -> None:
    rng = np.random.default_rng(seed)
    clear = torch.from_numpy(rng.random((1, 3, 4 * cell, 5 * cell)))
    transmission = torch.from_numpy(rng.uniform(0.02, 1.0, (1, 1, 4, 5)))
    within = transmission.repeat_interleave(cell, -1).repeat_interleave(cell, -2)
    colour = torch.tensor(airlight, dtype=torch.float64)[None, :, None, None]
    hazy = clear * within + colour * (1.0 - within)
    expected = cells_of(clear, cell) * transmission + colour.repeat(1, 3, 1, 1) * (
        1.0 - transmission
    )
    torch.testing.assert_close(cells_of(hazy, cell), expected, atol=1e-12, rtol=0.0)


def test_cells_are_means_darkest_and_brightest() -> None:
    image = torch.rand(2, 3, 12, 24) * 2 - 1
    cells = CellsCodec(cell_size=6, patch_size=2)
    latents = cells.encode(image).latent_dist.mode()
    assert latents.shape == (2, 36, 1, 2)
    assert cells.latent_channels == 36
    decoded = cells.decode(latents).sample
    assert decoded.shape == (2, 9, 2, 4)
    corner = image[:, :, 6:, :6].flatten(2)
    torch.testing.assert_close(decoded[:, :3, 1, 0], corner.mean(2))
    assert torch.equal(decoded[:, 3:6, 1, 0], corner.amin(2))
    assert torch.equal(decoded[:, 6:, 1, 0], corner.amax(2))


def test_pixels_that_fill_no_cell_are_refused() -> None:
    with pytest.raises(ValueError, match="cells of 6 pixels"):
        CellsCodec().encode(torch.zeros(1, 3, 12, 20))


def test_a_codec_of_cells_keeps_its_settings(tmp_path: Path) -> None:
    CellsCodec(cell_size=4, scaling_factor=1.5).save_pretrained(tmp_path)
    loaded = CellsCodec.from_pretrained(tmp_path, use_safetensors=True)
    assert (loaded.config.cell_size, loaded.config.patch_size) == (4, 2)
    assert loaded.config.scaling_factor == 1.5
