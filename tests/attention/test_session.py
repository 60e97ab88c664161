"""Which attention of a source is recorded, on which device, and that edits stay the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dehaze.attention.control import AttentionControl
from dehaze.attention.maps import recorded_layers
from dehaze.attention.session import AttentionSession, RecordingPlan
from dehaze.pipelines.dehaze import DehazePipeline
from dehaze.pipelines.edit import EditPipeline
from dehaze.pipelines.edit_settings import EditSettings

Array = NDArray[np.float32]
SIZE = (8, 12)
WHOLE, QUARTER = 8 * 12, 4 * 6


@pytest.mark.parametrize(
    ("kind", "step", "positions", "kept"),
    [
        # Of 10 steps, steps 10 to 7 take the source's self-attention.
        ("self", 10, QUARTER, True),
        ("self", 7, QUARTER, True),
        ("self", 6, QUARTER, False),
        # No control uses self-attention at the latents' own size.
        ("self", 10, WHOLE, False),
        ("cross", 3, WHOLE, True),
        ("cross", 2, WHOLE, False),
        ("cross", 2, QUARTER, False),
    ],
)
def test_attention_that_the_control_cannot_use_is_not_kept(
    kind: str, step: int, positions: int, kept: bool
) -> None:
    control = AttentionControl(cross_replace_steps=0.8, self_replace_steps=0.4)
    plan = RecordingPlan(control, 10, map_layers=["shown"])
    assert plan.keeps("other", kind, step, positions, SIZE) is kept
    # Layers of the map are kept at every step.
    assert plan.keeps("shown", kind, step, positions, SIZE) is (kept or kind == "cross")


def test_without_a_control_all_usable_attention_is_kept() -> None:
    plan = RecordingPlan()
    for step in (1, 10):
        assert plan.keeps("layer", "self", step, QUARTER, SIZE)
        assert plan.keeps("layer", "cross", step, WHOLE, SIZE)
        assert not plan.keeps("layer", "self", step, WHOLE, SIZE)


def test_large_self_attention_is_not_recorded(pipeline: DehazePipeline, photo: Array) -> None:
    inversion = pipeline.invert(photo, num_inference_steps=2, solver="ddim")
    height, width = inversion.latent_size
    sizes = {
        value.shape[2] for name, value in inversion.attention.items() if "|self|query|" in name
    }
    assert sizes
    assert max(sizes) <= ((height + 1) // 2) * ((width + 1) // 2)
    crossed = {
        value.shape[2] for name, value in inversion.attention.items() if "|cross|query|" in name
    }
    assert max(crossed) == height * width


def test_recording_can_be_left_out(pipeline: DehazePipeline, photo: Array) -> None:
    settings = {"num_inference_steps": 3, "solver": "fixed-point"}
    plain = pipeline.invert(photo, record_attention=False, **settings)
    assert plain.attention == {}
    assert torch.equal(plain.trajectory, pipeline.invert(photo, **settings).trajectory)


@pytest.mark.parametrize(
    "control",
    [
        {"cross_replace_steps": 0.0, "self_replace_steps": 0.0},
        {"cross_replace_steps": 0.7, "self_replace_steps": 0.5},
    ],
)
@pytest.mark.parametrize("null_text", ["embedding", "delete"])
def test_a_call_that_records_less_gives_the_same(
    pipeline: DehazePipeline, photo: Array, control: dict[str, float], null_text: str
) -> None:
    settings = {"num_inference_steps": 4, "solver": "ddim"}
    whole = pipeline.invert(photo, **settings)
    expected = pipeline(photo, inversion=whole, null_text=null_text, **settings, **control)
    found = pipeline(photo, null_text=null_text, **settings, **control)
    np.testing.assert_array_equal(found.image, expected.image)
    np.testing.assert_array_equal(found.attention, expected.attention)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"cross_replace_steps": 0.3, "self_replace_steps": 0.0},
        {"blend": ("haze", "smoke")},
        {"guidance_scale": 2.0, "guidance_outside": 1.0},
        {"depth": 2},
    ],
    ids=lambda settings: ",".join(settings) or "defaults",
)
def test_an_edit_that_records_less_gives_the_same(
    pipeline: DehazePipeline, photo: Array, settings: dict[str, Any]
) -> None:
    editor = EditPipeline.from_pipe(pipeline)
    prompts = ("a photo with haze", "a photo with smoke")
    inverting = {"num_inference_steps": 4, "solver": "ddim"}
    inverting |= {name: settings.pop(name) for name in ("depth",) if name in settings}
    chosen = EditSettings(**settings)
    whole = editor.invert(photo, prompts[0], **inverting)
    expected = editor(photo, *prompts, chosen, inversion=whole)
    found = editor(photo, *prompts, chosen, **inverting)
    np.testing.assert_array_equal(found.image, expected.image)


def test_attention_beyond_the_budget_goes_to_the_host() -> None:
    values = torch.randn(1, 2, 8, 4)
    session = AttentionSession(recording=True, budget=values.nbytes)
    session.keep("first", values)
    # A network on the meta device: what does not fit is not on that device.
    session.record["first"] = session.record["first"].to("meta")
    elsewhere = session.room((1, 2, 8, 4), values.to("meta"))
    assert elsewhere.device.type == "cpu"
    unlimited = AttentionSession(recording=True)
    assert unlimited.room((1, 2, 8, 4), values.to("meta")).device.type == "meta"


def test_an_edit_beyond_the_budget_is_the_same(pipeline: DehazePipeline, photo: Array) -> None:
    editor = EditPipeline.from_pipe(pipeline)
    arguments = ("a photo with haze", "a photo with smoke")
    expected = editor(photo, *arguments, num_inference_steps=3)
    editor.attention_memory = 0
    found = editor(photo, *arguments, num_inference_steps=3)
    np.testing.assert_array_equal(found.image, expected.image)


def test_the_layers_that_are_shown_are_recorded(bundled: DehazePipeline, photo: Array) -> None:
    """The bundled model injects nothing, so only the layer of its haze attention map is kept."""
    result = bundled(photo)
    inversion = bundled.invert(photo)
    assert result.attention.shape == photo.shape[:2]
    assert set(bundled.description.map_layers or ()) <= set(recorded_layers(inversion.attention))
