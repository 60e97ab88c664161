"""Samples to RGB and back: the standards' own numbers, round trips, odd sizes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dehaze.video.colour import ColourCoding, sample_format


@pytest.mark.parametrize(
    ("name", "bits", "chroma"),
    [
        ("yuv420p", 8, (2, 2)),
        ("yuvj422p", 8, (2, 1)),
        ("yuv444p10le", 10, (1, 1)),
        ("p010le", 10, (2, 2)),
        ("nv12", 8, (2, 2)),
        ("gray12le", 12, None),
        ("rgb24", 8, None),
    ],
)
def test_a_format_is_known_by_its_name(
    name: str, bits: int, chroma: tuple[int, int] | None
) -> None:
    samples = sample_format(name)
    assert samples is not None
    assert (samples.bits, samples.chroma) == (bits, chroma)
    assert samples.is_rgb is (name == "rgb24")


@pytest.mark.parametrize("name", ["yuva420p", "bayer_bggr8", "yuv420p10be", "vaapi"])
def test_a_format_that_is_not_supported_is_none(name: str) -> None:
    assert sample_format(name) is None


@pytest.mark.parametrize(
    ("matrix", "full", "bits", "stored"),
    [
        # Pure red, by the formulas of the standards.
        (1, False, 8, (63, 102, 240)),
        (6, False, 8, (81, 90, 240)),
        (6, True, 8, (76, 85, 255)),
        (9, False, 10, (294, 387, 960)),
        # Where nothing is stated, a small film is BT.601.
        (2, False, 8, (81, 90, 240)),
    ],
)
def test_red_is_stored_as_the_standards_say(
    matrix: int, full: bool, bits: int, stored: tuple[int, int, int]
) -> None:
    samples = sample_format("yuv444p" if bits == 8 else f"yuv444p{bits}le")
    assert samples is not None
    coding = ColourCoding(matrix, full)
    red = np.broadcast_to(np.float32([1.0, 0.0, 0.0]), (4, 6, 3)).copy()
    planes = coding.from_rgb(red, samples)
    assert tuple(int(plane[0, 0]) for plane in planes) == stored
    np.testing.assert_allclose(coding.to_rgb(planes, samples), red, atol=0.01)


def test_a_high_film_without_a_matrix_is_bt_709() -> None:
    samples = sample_format("yuv444p")
    assert samples is not None
    red = np.broadcast_to(np.float32([1.0, 0.0, 0.0]), (720, 4, 3)).copy()
    assert int(ColourCoding(2, False).from_rgb(red, samples)[0][0, 0]) == 63


@settings(max_examples=20)
@given(
    name=st.sampled_from(["yuv444p10le", "yuv444p16le", "gbrp", "gbrp12le"]),
    matrix=st.sampled_from([1, 4, 5, 6, 7, 9]),
    full=st.booleans(),
    seed=st.integers(0, 9),
)
def test_colours_come_back_to_within_a_step(name: str, matrix: int, full: bool, seed: int) -> None:
    samples = sample_format(name)
    assert samples is not None
    pixels = np.random.default_rng(seed).random((5, 7, 3), np.float32)
    coding = ColourCoding(matrix, full)
    back = coding.to_rgb(coding.from_rgb(pixels, samples), samples)
    assert np.abs(back - pixels).max() < 2.0 / 2.0 ** (samples.bits - 1)


@pytest.mark.parametrize("name", ["yuv420p", "yuv422p", "yuv440p", "yuv411p", "gray"])
@pytest.mark.parametrize("size", [(9, 13), (8, 16)])
def test_planes_come_back_as_they_were(name: str, size: tuple[int, int]) -> None:
    samples = sample_format(name)
    assert samples is not None
    rng = np.random.default_rng(0)
    planes = [
        rng.integers(100, 140, shape).astype(np.uint8) for shape in samples.plane_sizes(*size)
    ]
    back = ColourCoding(6, False)
    again = back.from_rgb(back.to_rgb(planes, samples), samples)
    assert [plane.shape for plane in again] == [plane.shape for plane in planes]
    assert np.abs(again[0].astype(int) - planes[0]).max() <= 1
    for after, before in zip(again[1:], planes[1:], strict=True):
        assert np.corrcoef(after.ravel(), before.ravel())[0, 1] > 0.9
