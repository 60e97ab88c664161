"""The network under a prompt: guidance, counting, and half precision that overflows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dehaze.inversion import DDIMTable
from dehaze.network import NonFiniteError
from dehaze.pipelines.dehaze import DehazePipeline

Array = NDArray[np.float32]


def latents(pipeline: DehazePipeline) -> torch.Tensor:
    channels = pipeline.unet.config.in_channels
    return torch.randn(2, channels, 8, 8, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_guidance_mixes_the_noise_of_both_prompts(pipeline: DehazePipeline) -> None:
    table = DDIMTable.from_scheduler(pipeline.scheduler, 4)
    z, everyone = latents(pipeline), torch.arange(2)
    plain = pipeline.prompted_network(table)
    empty = pipeline.prompted_network(table, "")
    guided = pipeline.prompted_network(table, guidance_scale=3.0)
    with_prompt, without = plain(z, 2, everyone), empty(z, 2, everyone)
    torch.testing.assert_close(
        guided(z, 2, everyone), without + 3.0 * (with_prompt - without), rtol=1e-4, atol=1e-5
    )
    assert (plain.cost, guided.cost) == (1, 2)
    assert (plain.evaluations, guided.evaluations) == (1, 2)


@torch.no_grad()
def test_each_step_may_have_its_own_unconditional_embedding(pipeline: DehazePipeline) -> None:
    table = DDIMTable.from_scheduler(pipeline.scheduler, 4)
    z, everyone = latents(pipeline), torch.arange(2)
    plain = pipeline.prompted_network(table)
    # With the prompt as unconditional embedding, guidance has no effect.
    held = pipeline.prompted_network(
        table, guidance_scale=3.0, unconditional=plain.conditional.expand(4, -1, -1, -1)
    )
    torch.testing.assert_close(held(z, 3, everyone), plain(z, 3, everyone), rtol=1e-4, atol=1e-5)


def rows_of_calls(pipeline: DehazePipeline) -> list[int]:
    """A list that grows by the rows of each later call of the network."""
    rows: list[int] = []
    pipeline.unet.register_forward_hook(
        lambda module, arguments, output: rows.append(output.sample.shape[0])
    )
    return rows


@pytest.mark.parametrize("control", [{}, {"cross_replace_steps": 0.8, "self_replace_steps": 0.5}])
def test_guidance_takes_one_call_of_twice_the_rows(
    pipeline: DehazePipeline, photo: Array, control: dict[str, float]
) -> None:
    settings = {"num_inference_steps": 2, "solver": "ddim", "guidance_scale": 3.0, **control}
    photos = [photo, photo[:, ::-1].copy()]
    rows = rows_of_calls(pipeline)
    together = pipeline(photos, **settings)
    assert rows == [4] * 4
    rows.clear()
    pipeline.guidance_in_two_calls = True
    apart = pipeline(photos, **settings)
    assert rows == [2] * 8
    for one, other in zip(together, apart, strict=True):
        assert one.nfe == other.nfe == 8
        np.testing.assert_allclose(one.image, other.image, atol=2e-4)
        np.testing.assert_allclose(one.attention, other.attention, atol=1e-5)


def test_only_the_prompts_rows_are_recorded(pipeline: DehazePipeline, photo: Array) -> None:
    settings = {"num_inference_steps": 2, "solver": "ddim", "guidance_scale": 3.0}
    together = pipeline.invert(photo, **settings).attention
    pipeline.guidance_in_two_calls = True
    apart = pipeline.invert(photo, **settings).attention
    assert set(together) == set(apart)
    for name, value in apart.items():
        torch.testing.assert_close(together[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("row", [0, 1])
def test_either_row_of_guidance_may_overflow(half: DehazePipeline, photo: Array, row: int) -> None:
    settings = {"num_inference_steps": 2, "solver": "ddim", "guidance_scale": 3.0}
    expected = half.invert(photo, **settings)

    def hook(module: Any, arguments: Any, output: Any) -> None:
        if output.sample.dtype == torch.bfloat16:
            output.sample[row, 0, 0, 0] = torch.inf

    half.unet.register_forward_hook(hook)
    found = half.invert(photo, **settings)
    assert {value.shape for value in found.attention.values()} == {
        value.shape for value in expected.attention.values()
    }
    torch.testing.assert_close(found.trajectory, expected.trajectory, rtol=0.1, atol=0.1)


@pytest.fixture
def half(random_model: Path) -> DehazePipeline:
    pipeline = DehazePipeline.from_pretrained(random_model, torch_dtype=torch.bfloat16)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def overflow(pipeline: DehazePipeline, dtypes: tuple[torch.dtype, ...]) -> list[torch.dtype]:
    """Makes the network overflow in these data types; returns those of its evaluations."""
    evaluated: list[torch.dtype] = []

    def hook(module: Any, arguments: Any, output: Any) -> None:
        evaluated.append(output.sample.dtype)
        if output.sample.dtype in dtypes:
            output.sample[0, 0, 0, 0] = torch.inf

    pipeline.unet.register_forward_hook(hook)
    return evaluated


def test_an_overflow_is_evaluated_once_more_in_single_precision(
    half: DehazePipeline, photo: Array, caplog: pytest.LogCaptureFixture
) -> None:
    evaluated = overflow(half, (torch.bfloat16,))
    result = half.invert(photo, num_inference_steps=4, solver="ddim", guidance_scale=3.0)
    assert torch.isfinite(result.trajectory).all()
    assert evaluated == [torch.bfloat16, torch.float32] * 4
    assert half.unet.dtype == torch.bfloat16
    assert "again in float32" in caplog.text


def test_an_overflow_on_the_way_back_keeps_the_attention(
    half: DehazePipeline, photo: Array
) -> None:
    evaluated = overflow(half, (torch.bfloat16,))
    result = half(photo, num_inference_steps=2, solver="ddim", recovery="none")
    assert evaluated == [torch.bfloat16, torch.float32] * 4
    assert np.isfinite(result.image).all()


def test_only_the_sample_that_overflows_is_evaluated_again(
    half: DehazePipeline, photo: Array
) -> None:
    photos = [photo, photo[:, ::-1].copy()]
    untouched = half(photos, num_inference_steps=2, solver="ddim", recovery="none")
    evaluated = overflow(half, (torch.bfloat16,))
    results = half(photos, num_inference_steps=2, solver="ddim", recovery="none")
    assert evaluated == [torch.bfloat16, torch.float32] * 4
    np.testing.assert_array_equal(results[1].image, untouched[1].image)
    assert np.isfinite(results[0].image).all()
    assert np.abs(results[0].image - untouched[0].image).max() > 0


def test_where_single_precision_overflows_too_the_step_is_named(
    half: DehazePipeline, photo: Array
) -> None:
    evaluated = overflow(half, (torch.bfloat16, torch.float32))
    with pytest.raises(NonFiniteError, match=r"step 1 .* run it in float32"):
        half.invert(photo, num_inference_steps=4, solver="ddim")
    assert evaluated == [torch.bfloat16, torch.float32]
    assert half.unet.dtype == torch.bfloat16


def test_single_precision_is_not_tried_twice(pipeline: DehazePipeline, photo: Array) -> None:
    evaluated = overflow(pipeline, (torch.float32,))
    with pytest.raises(NonFiniteError, match=r"step 1 .* try less guidance"):
        pipeline.invert(photo, num_inference_steps=4, solver="ddim")
    assert evaluated == [torch.float32]


@pytest.mark.parametrize("criterion", ["intra-path", "inter-path"])
def test_a_second_path_is_not_part_of_the_recording(
    pipeline: DehazePipeline, photo: Array, criterion: str
) -> None:
    result = pipeline.invert(photo, num_inference_steps=2, criterion=criterion, predictor="ife")
    assert result.attention
    assert {rows.shape[0] for rows in result.attention.values()} == {1}
    assert all(rows.abs().sum() > 0 for rows in result.attention.values())


def test_the_networks_precision_is_not_asked_for_at_each_step(
    pipeline: DehazePipeline, photo: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    own = type(pipeline.unet).dtype

    def counted(unet: Any) -> Any:
        asked[-1] += 1
        return own.fget(unet)

    # diffusers looks at each part of the network for it.
    monkeypatch.setattr(type(pipeline.unet), "dtype", property(counted))
    for steps in (1, 4):
        asked.append(0)
        pipeline.invert(photo, num_inference_steps=steps, solver="ddim")
    assert asked[0] == asked[1]
