"""A codec in half precision, which may overflow, and one whose values are not finite."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from numpy.typing import NDArray

from dehaze.network import NonFiniteError
from dehaze.pipelines.dehaze import DehazePipeline

Array = NDArray[np.float32]


@pytest.fixture
def overflowing(stable_diffusion_xl: Path) -> DehazePipeline:
    """A float16 pipeline whose codec's activations overflow."""
    theirs = StableDiffusionXLPipeline.from_pretrained(stable_diffusion_xl)
    with torch.no_grad():
        # A normalisation follows the overflow, so that results in float32 hardly change.
        for layer in (theirs.vae.encoder.conv_in, theirs.vae.decoder.conv_in):
            layer.weight *= 6e4 / layer.weight.abs().max()
    pipeline = DehazePipeline.from_pipe(theirs.to(dtype=torch.float16))
    assert pipeline.vae.dtype == torch.float16
    return pipeline


def test_a_half_precision_codec_that_overflows_runs_again(
    overflowing: DehazePipeline, photo: Array, caplog: pytest.LogCaptureFixture
) -> None:
    codec = overflowing.codec
    with caplog.at_level(logging.WARNING, logger="dehaze"):
        latents = codec.encode(photo)
        picture = codec.decode(latents, codec.working_size(photo))
    said = [record.message for record in caplog.records if record.name.startswith("dehaze")]
    assert said == ["the codec is not finite in torch.float16: again in float32"] * 2
    assert overflowing.vae.dtype == torch.float16
    overflowing.vae.float()
    torch.testing.assert_close(codec.encode(photo), latents, atol=0, rtol=0)
    expected = codec.decode(latents, codec.working_size(photo))
    np.testing.assert_array_equal(picture, expected)


def test_with_gradients_an_overflow_is_an_error(overflowing: DehazePipeline) -> None:
    latents = torch.randn(1, 4, 8, 8, requires_grad=True)
    with pytest.raises(NonFiniteError, match="float16: run it in float32"):
        overflowing.codec.decode_tensor(latents)


def test_another_thread_waits_while_the_codec_is_in_float32(
    overflowing: DehazePipeline, photo: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec, encode = overflowing.codec, overflowing.vae.encode
    found: list[torch.Tensor] = []
    other = threading.Thread(target=lambda: found.append(codec.encode(photo)))
    waited: list[bool] = []

    def watched(pixels: torch.Tensor) -> Any:
        if pixels.dtype == torch.float32 and not waited:
            other.start()
            other.join(0.3)
            waited.append(other.is_alive())
        return encode(pixels)

    monkeypatch.setattr(overflowing.vae, "encode", watched)
    latents = codec.encode(photo)
    other.join()
    assert waited == [True]
    assert torch.equal(found[0], latents)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_values_that_are_not_finite_are_an_error(
    stable_diffusion_xl: Path, photo: Array, dtype: torch.dtype
) -> None:
    """And never a black picture."""
    codec = DehazePipeline.from_pretrained(stable_diffusion_xl).codec
    codec.vae.to(dtype)
    with torch.no_grad():
        for part in (codec.vae.encoder, codec.vae.decoder):
            part.conv_out.bias[0] = torch.nan
    with pytest.raises(NonFiniteError, match="weights are damaged"):
        codec.encode(photo)
    with pytest.raises(NonFiniteError, match="weights are damaged"):
        codec.decode(torch.zeros(1, 4, 8, 8), (8, 8))
