"""One pipeline, several threads: each call's results are those that it has alone."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dehaze.attention.processors import controlled_attention
from dehaze.attention.session import AttentionSession
from dehaze.pipelines.dehaze import DehazePipeline
from dehaze.pipelines.edit import EditPipeline
from dehaze.pipelines.edit_settings import EditSettings
from dehaze.prompts import tokenize

Array = NDArray[np.float32]
THREADS = 4
QUICK: dict[str, Any] = {"num_inference_steps": 2, "max_iterations": 1, "recovery": "none"}


@pytest.fixture
def photos(photo: Array) -> list[Array]:
    return [photo, photo[::-1].copy(), photo[:, ::-1].copy(), 0.2 + 0.5 * photo]


def test_calls_in_threads_give_what_each_gives_alone(
    pipeline: DehazePipeline, photos: list[Array]
) -> None:
    alone = [pipeline(photo, **QUICK) for photo in photos]
    start = Barrier(THREADS)

    def call(photo: Array) -> list[tuple[Array, Array]]:
        start.wait()
        results = [pipeline(photo, **QUICK) for _ in range(2)]
        return [(result.image, result.attention) for result in results]

    with ThreadPoolExecutor(THREADS) as pool:
        together = list(pool.map(call, photos))
    for own, repeats in zip(alone, together, strict=True):
        for image, attention in repeats:
            np.testing.assert_array_equal(image, own.image)
            np.testing.assert_array_equal(attention, own.attention)
    assert not any(
        type(processor).__module__.startswith("dehaze")
        for processor in pipeline.unet.attn_processors.values()
    )


def test_two_pipelines_on_the_same_parts_run_side_by_side(
    pipeline: DehazePipeline, photo: Array
) -> None:
    editor = EditPipeline.from_pipe(pipeline)
    settings = EditSettings(guidance_scale=2.0, blend=("street",))
    prompts = ("a street with haze", "a street with snow")
    alone = pipeline(photo, **QUICK).image, editor(photo, *prompts, settings, **QUICK).image
    start = Barrier(2)

    def dehaze() -> list[Array]:
        start.wait()
        return [pipeline(photo, **QUICK).image for _ in range(3)]

    def edit() -> list[Array]:
        start.wait()
        return [editor(photo, *prompts, settings, **QUICK).image for _ in range(3)]

    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(dehaze), pool.submit(edit)]
    for own, future in zip(alone, futures, strict=True):
        for image in future.result():
            np.testing.assert_array_equal(image, own)


def test_a_thread_without_a_session_gets_the_networks_own_result(pipeline: DehazePipeline) -> None:
    z, context = torch.randn(1, 12, 8, 12), torch.randn(1, 32, 128)

    def evaluate() -> torch.Tensor:
        with torch.no_grad():
            output: torch.Tensor = pipeline.unet(z, 500, encoder_hidden_states=context).sample
        return output

    plain = evaluate()
    session = AttentionSession(recording=True)
    with controlled_attention(pipeline.unet, session), ThreadPoolExecutor(1) as pool:
        beside = pool.submit(evaluate).result()
        assert session.record == {}
        evaluate()
    assert torch.equal(beside, plain)
    assert session.record != {}


def test_sessions_may_end_in_any_order(pipeline: DehazePipeline) -> None:
    before = dict(pipeline.unet.attn_processors)
    first, second = (
        controlled_attention(pipeline.unet, AttentionSession(recording=True)) for _ in range(2)
    )
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        one.submit(first.__enter__).result()
        other.submit(second.__enter__).result()
        assert pipeline.unet.attn_processors != before
        one.submit(first.__exit__, None, None, None).result()
        assert pipeline.unet.attn_processors != before
        other.submit(second.__exit__, None, None, None).result()
    assert pipeline.unet.attn_processors == before


def test_prompts_are_tokenized_in_threads(pipeline: DehazePipeline) -> None:
    texts = [" ".join(["a photo with haze"] * n) for n in (1, 2, 3, 4)]
    alone = [tokenize(pipeline.tokenizer, text) for text in texts]
    with ThreadPoolExecutor(THREADS) as pool:
        together = list(
            pool.map(lambda text: tokenize(pipeline.tokenizer, text), 50 * texts, chunksize=1)
        )
    for number, prompt in enumerate(together):
        assert torch.equal(prompt.ids, alone[number % 4].ids)
        assert prompt.offsets == alone[number % 4].offsets


def test_one_thread_tokenizes_at_a_time(pipeline: DehazePipeline) -> None:
    inside, most = 0, 0

    class Watched:
        model_max_length = pipeline.tokenizer.model_max_length

        def __call__(self, *arguments: Any, **settings: Any) -> Any:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            # Long enough for the others to come in, where nothing keeps them out.
            time.sleep(0.01)
            encoded = pipeline.tokenizer(*arguments, **settings)
            inside -= 1
            return encoded

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda text: tokenize(Watched(), text), ["haze"] * 2 * THREADS))
    assert most == 1


def test_half_precision_overflow_leaves_other_threads_alone(
    random_model: Path, photos: list[Array]
) -> None:
    half = DehazePipeline.from_pretrained(random_model, torch_dtype=torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    evaluate = half.unet.forward

    def overflowing(latents: torch.Tensor, *arguments: Any, **keywords: Any) -> Any:
        output = evaluate(latents, *arguments, **keywords)
        if half.unet.dtype == torch.bfloat16:
            output.sample[:] = torch.inf
        return output

    half.unet.forward = overflowing
    alone = [half(photo, **QUICK).image for photo in photos[:2]]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda photo: half(photo, **QUICK).image, photos[:2]))
    for own, image in zip(alone, together, strict=True):
        np.testing.assert_array_equal(image, own)
    assert half.unet.dtype == torch.bfloat16
