"""Pipelines on an accelerator, pretended by the CPU: what is waited for, and equal results."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pretended_device import DEVICE, PretendedDevice, put_on_device

from dehaze.attention.processors import controlled_attention
from dehaze.attention.session import AttentionSession
from dehaze.inversion import InversionResult
from dehaze.models.conditioning import network_output
from dehaze.pipelines.dehaze import DehazePipeline
from dehaze.pipelines.edit import EditPipeline
from dehaze.pipelines.edit_settings import EditSettings

Array = NDArray[np.float32]
SOURCE, TARGET = "a street with haze", "a street with snow"
# Of a network: its timestep, and what Stable Diffusion XL is told of the picture's size.
GIVEN = 2


@pytest.fixture(scope="module")
def on_cpu(any_model: Path) -> EditPipeline:
    loaded = EditPipeline.from_pretrained(any_model)
    loaded.set_progress_bar_config(disable=True)
    return loaded


# Slow, since all of the pretended device passes through Python.
ON_BOTH = pytest.mark.parametrize("any_model", ["bundled", "xl"], indirect=True)


@pytest.fixture(scope="module")
def on_device(any_model: Path) -> EditPipeline:
    loaded = EditPipeline.from_pretrained(any_model)
    loaded.set_progress_bar_config(disable=True)
    move(loaded)
    return loaded


def move(pipe: EditPipeline | DehazePipeline) -> None:
    second = () if pipe.text_encoder_2 is None else (pipe.text_encoder_2,)
    put_on_device(pipe.unet, pipe.vae, pipe.text_encoder, *second)


def a_step(pipe: EditPipeline, photo: Array, settings: EditSettings) -> Counter[str]:
    """What a step of the way back waits for: the difference between 2 steps and 4, half of it.

    What is copied once for a whole edit does not count.
    """
    found = []
    for steps in (2, 4):
        with PretendedDevice() as device:
            inversion = inverted(pipe, photo, steps, settings)
            device.waits.clear()
            pipe.edit(inversion, SOURCE, TARGET, settings)
            found.append(device.waits)
    few, many = found
    return Counter({what: (many[what] - few[what]) / 2 for what in many})


def inverted(
    pipe: EditPipeline, photo: Array, steps: int, settings: EditSettings
) -> InversionResult:
    return pipe.invert(
        photo,
        SOURCE,
        num_inference_steps=steps,
        solver="ddim",
        record_attention=pipe.recording(SOURCE, TARGET, settings),
    )


@pytest.mark.slow
@ON_BOTH
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(EditSettings(), id="plain"),
        pytest.param(EditSettings(guidance_scale=3.0), id="guided"),
        pytest.param(
            EditSettings(cross_replace_steps={"snow": 0.4, "default": 0.9}),
            id="a share for a word",
        ),
        pytest.param(
            EditSettings(word_weights={"snow": 2.0}, blend=("snow",)), id="weighted and blended"
        ),
    ],
)
def test_a_step_of_an_edit_waits_once(
    on_device: EditPipeline, photo: Array, settings: EditSettings
) -> None:
    waits = a_step(on_device, photo, settings)
    # Whether the network's output is finite. Words with shares of their own are copied once, never
    # for each layer.
    assert waits["read"] == 1
    assert waits["to device"] <= GIVEN + 1
    assert waits["to host"] == 0


@pytest.mark.slow
@ON_BOTH
@pytest.mark.parametrize(
    ("solver", "criterion"),
    [
        ("fixed-point", "residual"),
        ("anderson", "expected-error"),
        ("renoise", "inter-path"),
    ],
)
def test_an_iteration_of_an_inversion_waits_twice(
    on_device: EditPipeline, photo: Array, solver: str, criterion: str
) -> None:
    iterations = 3
    found = []
    for steps in (1, 2):
        with PretendedDevice() as device:
            on_device.invert(
                [photo, photo[::-1]],
                SOURCE,
                num_inference_steps=2,
                depth=steps,
                solver=solver,
                criterion=criterion,
                tolerance=1e-9,
                max_iterations=iterations,
            )
            found.append(device.waits)
    few, many = found
    # Whether the network's output is finite, and which samples go on. A second path is drawn once.
    assert many["read"] - few["read"] <= 2 * iterations
    assert many["to device"] - few["to device"] <= iterations * GIVEN + 1
    assert many["to host"] == few["to host"]


@pytest.mark.slow
def test_attention_in_the_hosts_memory_is_waited_for_at_the_end(
    on_cpu: EditPipeline, on_device: EditPipeline, photo: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_device, "attention_memory", 0)
    expected = inverted(on_cpu, photo, 2, EditSettings())
    with PretendedDevice() as device:
        found = inverted(on_device, photo, 2, EditSettings())
        short = device.waits["to host"]
        inverted(on_device, photo, 4, EditSettings())
        assert device.waits["to host"] == 2 * short
        edited = on_device.edit(found, SOURCE, TARGET).latents.cpu()
    # What a device sent without being waited for is there, whoever reads it.
    assert {value.device.type for value in found.attention.values()} == {"cpu"}
    for name, value in expected.attention.items():
        torch.testing.assert_close(found.attention[name], value, rtol=1e-3, atol=1e-3)
    wanted = on_cpu.edit(expected, SOURCE, TARGET).latents
    torch.testing.assert_close(edited, wanted, rtol=1e-3, atol=1e-3)


def test_attention_of_a_bare_network_has_arrived_at_the_end(on_device: EditPipeline) -> None:
    session = AttentionSession(recording=True, budget=0, latent_size=(8, 8), step=1)
    prompts = on_device.prompts
    with PretendedDevice():
        embedding = prompts.embed(prompts.tokens(SOURCE))
        latents = torch.zeros(1, on_device.latent_channels, 8, 8, device=DEVICE)
        with controlled_attention(on_device.unet, session):
            network_output(on_device.unet, latents, 1.0, embedding, prompts.length, (16, 16), 1.0)
    assert session.record
    assert all(torch.isfinite(value).all() for value in session.record.values())


def test_weights_are_hashed_with_few_copies(on_cpu: EditPipeline, on_device: EditPipeline) -> None:
    with PretendedDevice() as device:
        found = on_device.provenance.fingerprint()
    assert found == on_cpu.provenance.fingerprint()
    weights = sum(len(part.state_dict()) for part in on_device.provenance.parts)
    assert device.waits["to host"] <= 1 + weights // 100


@pytest.mark.slow
def test_an_edit_on_a_device_is_that_on_the_cpu(
    on_cpu: EditPipeline, on_device: EditPipeline, photo: Array
) -> None:
    settings = EditSettings(word_weights={"snow": 2.0}, blend=("snow",), guidance_scale=2.0)
    expected = on_cpu(photo, SOURCE, TARGET, settings, max_iterations=3).image
    with PretendedDevice():
        found = on_device(photo, SOURCE, TARGET, settings, max_iterations=3).image
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.slow
def test_photos_dehazed_on_a_device_are_those_on_the_cpu(random_model: Path, photo: Array) -> None:
    pipe = DehazePipeline.from_pretrained(random_model)
    pipe.set_progress_bar_config(disable=True)
    photos = [photo, photo[::-1]]
    expected = [result.image for result in pipe(photos)]
    move(pipe)
    with PretendedDevice():
        found = [result.image for result in pipe(photos)]
    np.testing.assert_allclose(found, expected, atol=1e-3)
