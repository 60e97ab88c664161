"""Offloading: parts are moved to the device during a call and back after it."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.hooks import apply_group_offloading
from numpy.typing import NDArray

from dehaze.inversion.seedselect import SeedSelectSettings
from dehaze.models import ModelError
from dehaze.pipelines.base import InversionPipeline
from dehaze.pipelines.dehaze import DehazePipeline
from dehaze.pipelines.edit import EditPipeline
from dehaze.pipelines.interpolate import InterpolatePipeline
from dehaze.pipelines.seedselect import SeedSelectPipeline

Array = NDArray[np.float32]
PROMPTS = ("a street with haze", "a street with snow")


def test_parts_are_offloaded_after_every_call(
    pipeline: DehazePipeline, photo: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in diffusers, whose own ``maybe_free_model_hooks`` sets the hooks anew."""
    reset: list[object] = []
    monkeypatch.setattr(
        InversionPipeline,
        "enable_model_cpu_offload",
        lambda self, **where: reset.append(where["device"]),
    )

    def offloaded(pipe: Any) -> Any:
        pipe._all_hooks, pipe._offload_device = [object()], "the accelerator"
        return pipe

    dehazer = offloaded(pipeline)
    editor, between, selecting = (
        offloaded(kind.from_pipe(pipeline))
        for kind in (EditPipeline, InterpolatePipeline, SeedSelectPipeline)
    )
    inversion = dehazer.invert(photo, PROMPTS[0])
    bare = replace(inversion, attention={})
    calls = [
        lambda: dehazer.invert(photo, PROMPTS[0]),
        lambda: dehazer(photo, max_iterations=1),
        lambda: dehazer(photo, PROMPTS[0], inversion=inversion),
        lambda: dehazer.word_attention(photo, bare, word="haze"),
        lambda: editor(photo, *PROMPTS, inversion=inversion),
        lambda: editor.generate(PROMPTS[0], generator=torch.Generator().manual_seed(0)),
        lambda: between(inversion, inversion, pictures=2),
        lambda: between.centre([inversion, inversion]),
        lambda: selecting(
            photo,
            PROMPTS[0],
            lambda seen: seen.mean((2, 3)),
            start="noise",
            settings=SeedSelectSettings(iterations=1),
            num_inference_steps=1,
        ),
    ]
    for number, call in enumerate(calls):
        reset.clear()
        call()
        assert reset == ["the accelerator"], number


def test_the_device_is_the_one_that_diffusers_finds(pipeline: DehazePipeline) -> None:
    def found() -> tuple[torch.device, torch.device]:
        theirs = DiffusionPipeline._execution_device.fget(pipeline)
        return pipeline._execution_device, theirs

    cpu, elsewhere = torch.device("cpu"), torch.device("meta")
    assert found() == (cpu, cpu)
    pipeline.unet.to(elsewhere)
    assert found() == (cpu, cpu)
    for part in (pipeline.vae, pipeline.text_encoder, pipeline.unet):
        part._hf_hook = SimpleNamespace(execution_device="cuda:1")
    assert found() == (torch.device("cuda:1"),) * 2


def test_the_device_of_groups_of_layers_is_theirs(pipeline: DehazePipeline) -> None:
    # The same device by another name, which stands for an accelerator.
    named, cpu = torch.device("cpu:0"), torch.device("cpu")
    apply_group_offloading(pipeline.unet, named, cpu, offload_type="leaf_level")
    assert pipeline._execution_device == named


def test_offloading_layer_by_layer_is_refused(pipeline: DehazePipeline) -> None:
    with pytest.raises(ModelError, match="use enable_model_cpu_offload"):
        pipeline.enable_sequential_cpu_offload()


def test_offloading_without_accelerate_is_refused(
    pipeline: DehazePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    monkeypatch.setattr("diffusers.pipelines.pipeline_utils.is_accelerate_available", lambda: False)
    with pytest.raises(ImportError, match="requires `accelerate"):
        pipeline.enable_model_cpu_offload(device="cuda")
