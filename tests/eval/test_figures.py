"""Figures of attention maps: every file type, one scale, reproducible bytes."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from PIL import Image

from dehaze.eval.figures import MAX_PICTURES, Attended, draw_attention, draw_attention_grid
from dehaze.eval.plots import FIGURES

BEGINNINGS = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}
# The two ends of matplotlib's inferno.
LOW, HIGH = (0, 0, 4), (252, 255, 164)
# A hundredth of a square inch at 300 pixels an inch.
SEEN = 900


def attended(
    low: float, high: float, name: str = "a.jpg", shape: tuple[int, int] = (40, 60)
) -> Attended:
    """A grey photo whose map is low on its left and high on its right half."""
    heat = np.full(shape, low, np.float32)
    heat[:, shape[1] // 2 :] = high
    return Attended(name, np.full((*shape, 3), 0.5, np.float32), heat)


def pixels_of(png: bytes, colour: tuple[int, int, int]) -> int:
    """How many pixels have this colour, to within rounding."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    return int((np.abs(pixels - colour) <= 1).all(axis=2).sum())


@pytest.mark.parametrize("kind", FIGURES)
def test_a_figure_of_each_kind_has_the_same_bytes_again(kind: str) -> None:
    first = draw_attention(attended(0.1, 0.3), "haze", kind)
    grid = draw_attention_grid([attended(0.1, 0.3)] * 2, "haze", kind)
    assert first.startswith(BEGINNINGS[kind])
    assert grid.startswith(BEGINNINGS[kind])
    assert draw_attention(attended(0.1, 0.3), "haze", kind) == first
    # Neither says when it was drawn.
    assert not re.search(rb"CreationDate|<dc:date|tEXtDate", first + grid)


def test_a_map_has_the_colours_of_its_bar() -> None:
    png = draw_attention(attended(0.1, 0.3), "haze", "png")
    assert pixels_of(png, LOW) > SEEN
    assert pixels_of(png, HIGH) > SEEN
    assert pixels_of(png, (128, 128, 128)) > SEEN


def test_the_maps_of_a_grid_have_one_scale() -> None:
    alone = [attended(0.2, 0.2), attended(0.4, 0.4)]
    png = draw_attention_grid(alone, "haze", "png")
    assert pixels_of(png, LOW) > SEEN
    assert pixels_of(png, HIGH) > SEEN
    # Beside a third map with a wider range they are neither lowest nor highest.
    png = draw_attention_grid([*alone, attended(0.0, 1.0, shape=(2, 60))], "haze", "png")
    assert pixels_of(png, LOW) < pixels_of(draw_attention_grid(alone, "haze", "png"), LOW) / 4


@pytest.mark.parametrize("count", [1, 5, MAX_PICTURES])
def test_a_grid_has_every_photo_on_a_page(count: int) -> None:
    svg = draw_attention_grid([attended(0.1, 0.3)] * count, "haze", "svg").decode()
    # A photo and a map each, and the bar.
    assert svg.count("<image ") == 2 * count + 1
    height = float(svg.split('height="')[1].split("pt")[0])
    assert height < 72 * 9.5


@pytest.mark.parametrize("count", [0, MAX_PICTURES + 1])
def test_a_grid_of_too_many_or_none_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"1 to {MAX_PICTURES} photos, not {count}"):
        draw_attention_grid([attended(0.1, 0.3)] * count, "haze", "png")


def test_a_name_is_no_formula_and_never_pushes_the_photo_away() -> None:
    for name in ("$\\frac{$", "_^{", "a" * 300):
        assert draw_attention(attended(0.1, 0.3, name), "$haze$", "svg").startswith(b"<?xml")
    assert draw_attention(attended(0.1, 0.3, "a" * 300), "haze", "png") == draw_attention(
        attended(0.1, 0.3, "a" * 200), "haze", "png"
    )


def test_a_large_photo_makes_no_large_figure() -> None:
    shrunk = attended(0.1, 0.3, shape=(2000, 3000)).shrunk()
    assert shrunk.photo.shape == (667, 1000, 3)
    assert shrunk.heat.shape == (667, 1000)
    assert len(draw_attention(attended(0.1, 0.3, shape=(2000, 3000)), "haze", "pdf")) < 500_000
