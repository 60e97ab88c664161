from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dehaze.attention.control import ControlError
from dehaze.attention.maps import grid_of, normalised, overlay, recorded_layers, word_map
from dehaze.pipelines.dehaze import DehazePipeline


@given(height=st.integers(1, 70), width=st.integers(1, 70), halvings=st.integers(0, 4))
def test_the_grid_of_a_layer_is_found_for_any_shape_and_level(
    height: int, width: int, halvings: int
) -> None:
    h, w = height, width
    for _ in range(halvings):
        h, w = (h + 1) // 2, (w + 1) // 2
    grid = grid_of(h * w, (height, width))
    assert grid[0] * grid[1] == h * w


def test_a_grid_is_not_assumed_to_be_square() -> None:
    assert grid_of(8 * 12, (16, 24)) == (8, 12)
    assert grid_of(9 * 2, (17, 3)) == (9, 2)
    with pytest.raises(ControlError, match="no halving"):
        grid_of(100, (16, 24))


def record_of(query: torch.Tensor, key: torch.Tensor, steps: int = 2) -> dict[str, torch.Tensor]:
    record = {f"layer|cross|query|{i}": query for i in range(1, steps + 1)}
    record["layer|cross|key|0"] = key
    return record


def test_the_map_is_the_probability_on_the_words_tokens() -> None:
    """The expected map is the softmax written out for one head and one layer."""
    query, key = torch.randn(1, 1, 6, 4), torch.randn(1, 1, 5, 4)
    heat = word_map(record_of(query, key), (1, 3), (2, 3))
    scores = (query[0, 0] @ key[0, 0].T / 2.0).exp()
    expected = (scores[:, 1] + scores[:, 3]) / scores.sum(1)
    torch.testing.assert_close(heat[0].flatten(), expected)


def test_probabilities_over_all_tokens_sum_to_one() -> None:
    record = record_of(torch.randn(2, 3, 24, 4), torch.randn(2, 3, 5, 4))
    heat = word_map(record, range(5), (4, 6))
    torch.testing.assert_close(heat, torch.ones(2, 4, 6))


def test_layers_are_weighed_and_steps_chosen() -> None:
    record = record_of(torch.randn(1, 1, 6, 4), torch.randn(1, 1, 5, 4))
    record["other|cross|query|1"] = torch.randn(1, 1, 6, 4)
    record["other|cross|key|0"] = torch.randn(1, 1, 5, 4)
    layer = word_map(record, (2,), (2, 3), layers={"layer": 1.0})
    other = word_map(record, (2,), (2, 3), layers={"other": 1.0})
    both = word_map(record, (2,), (2, 3), layers={"layer": 3.0, "other": -1.0}, steps=[1])
    torch.testing.assert_close(both, 0.75 * layer - 0.25 * other)
    assert recorded_layers(record) == {"layer": [1, 2], "other": [1]}


def test_a_map_of_unrecorded_attention_is_an_error() -> None:
    record = record_of(torch.randn(1, 1, 6, 4), torch.randn(1, 1, 5, 4))
    with pytest.raises(ControlError, match="elsewhere"):
        word_map(record, (1,), (2, 3), layers={"elsewhere": 1.0})
    with pytest.raises(ControlError, match="steps"):
        word_map(record, (1,), (2, 3), steps=[9])
    with pytest.raises(ControlError, match="any layer"):
        word_map({}, (1,), (2, 3))


def test_normalised_maps_span_0_to_1_and_a_flat_one_is_0() -> None:
    heat = normalised(np.float32([[0.2, 0.3], [0.4, 0.6]]))
    assert heat.min() == 0
    assert heat.max() == 1
    assert not normalised(np.full((2, 2), 0.3, np.float32)).any()


def test_an_overlay_keeps_size_and_range_and_shows_the_heat() -> None:
    photo = np.full((4, 6, 3), 0.5, np.float32)
    heat = np.zeros((4, 6), np.float32)
    heat[:, 3:] = 1.0
    picture = overlay(photo, heat)
    assert picture.shape == photo.shape
    assert picture.min() >= 0
    assert picture.max() <= 1
    assert picture[:, 3:].mean() > picture[:, :3].mean() + 0.2
    rising = np.linspace(0, 1, 256, dtype=np.float32)[None]
    colours = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_INFERNO)[
        :, 0, ::-1
    ]
    seen = overlay(np.zeros((1, 256, 3), np.float32), rising - 0.4 / 255.0, opacity=1.0)
    np.testing.assert_allclose(seen[0], colours / 255.0, atol=1e-6)


def test_a_map_has_no_frame_of_the_networks_zero_padding() -> None:
    key = torch.eye(2)[None, None]
    query = torch.zeros(1, 1, 5, 7, 2)
    query[..., 0] = torch.rand(5, 7)
    framed = query.clone()
    inside = torch.zeros(5, 7, dtype=torch.bool)
    inside[1:-1, 1:-1] = True
    framed[..., 0] -= (~inside).float()
    heat, clean = (
        word_map(record_of(each.flatten(2, 3), key), (0,), (5, 7))[0] for each in (framed, query)
    )
    torch.testing.assert_close(heat, clean)
    torch.testing.assert_close(heat[0], heat[1])
    torch.testing.assert_close(heat[:, -1], heat[:, -2])
    assert heat[1:-1, 1:-1].std() > 0.01


@pytest.mark.parametrize("grey", [0.3, 0.5, 0.7, 0.9])
def test_a_grey_picture_has_an_even_border(bundled: DehazePipeline, grey: float) -> None:
    picture = np.full((64, 96, 3), grey, np.float32)
    inversion = bundled.invert(picture)
    _, span = bundled.prompt_and_span()
    size, layers = bundled.codec.latent_size(picture), bundled.description.map_layers
    heat = word_map(inversion.attention, span, size, layers=layers)[0].numpy()
    inside = float(heat[2:-2, 2:-2].mean())
    border = np.concatenate([heat[0], heat[-1], heat[1:-1, 0], heat[1:-1, -1]])
    assert border.mean() == pytest.approx(inside, rel=0.25)
    # A frame of one cell would show as a step from the border cells to the next ones.
    beside = np.concatenate([heat[1], heat[-2], heat[1:-1, 1], heat[1:-1, -2]])
    assert np.abs(border - beside).mean() < 0.01 * inside
