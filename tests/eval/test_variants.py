"""The three variants of null-text inversion and fixed points, and their figure."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from dehaze.eval.figures import MAX_COMPARED, Compared, draw_variants
from dehaze.eval.methods import MethodError, PipelineOptions, parse_method
from dehaze.eval.variants import BOTH, FIXED_POINT, NULL_TEXT, headings, variants

METHODS = (NULL_TEXT, BOTH, FIXED_POINT)
HIGH = (252, 255, 164)


def compared(height: int, width: int, *, failed: bool = False) -> Compared:
    picture = np.full((height, width, 3), 0.5, np.float32)
    heat = np.linspace(0.1, 0.4, width, dtype=np.float32)[None].repeat(height, axis=0)
    return Compared(
        "$a_b$.jpg",
        picture,
        (None if failed else (picture, heat), (picture, heat), (picture, heat)),
    )


def drawn(photos: list[Compared]) -> Image.Image:
    return Image.open(io.BytesIO(draw_variants(photos, METHODS, "haze", "png")))


@pytest.mark.parametrize(("kind", "start"), [("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_the_figure_of_variants_is_a_file_of_each_kind(kind: str, start: bytes) -> None:
    first = draw_variants([compared(4, 6)], METHODS, "haze", kind)
    assert first.startswith(start)
    assert draw_variants([compared(4, 6)], METHODS, "haze", kind) == first
    if kind == "svg":
        for text in (*METHODS, "input", "$a_b$.jpg"):
            assert f"<!-- {text} -->".encode() in first


def test_rows_and_portraits_make_the_figure_taller() -> None:
    one, two = drawn([compared(20, 30)]), drawn([compared(20, 30)] * 2)
    assert 1.8 < two.height / one.height < 2.0
    portrait = drawn([compared(90, 30)])
    assert portrait.height == drawn([compared(30, 30)]).height
    # In the middle of its panel: the first of four, which share the page with the bar.
    grey = np.abs(np.asarray(portrait.convert("L")).astype(int) - 128) <= 1
    places = np.flatnonzero(grey[:, : portrait.width // 5].sum(0) > portrait.height / 5)
    assert 0.09 < places.mean() / portrait.width < 0.13


def test_a_method_that_failed_leaves_its_panel_empty() -> None:
    whole, lacking = (
        np.asarray(drawn([compared(20, 30, failed=failed)]).convert("RGB")).astype(int)
        for failed in (False, True)
    )
    bright, fewer = (
        int((np.abs(pixels - HIGH) <= 12).all(axis=2).sum()) for pixels in (whole, lacking)
    )
    assert 0 < fewer < bright


def test_a_figure_of_no_photo_or_too_many_is_refused() -> None:
    for photos in ([], [compared(4, 6)] * (MAX_COMPARED + 1)):
        with pytest.raises(ValueError, match=f"1 to {MAX_COMPARED} photos"):
            draw_variants(photos, METHODS, "haze", "png")


@pytest.mark.parametrize(("guidance", "held"), [(1.0, "plain"), (3.0, "null-text")])
def test_the_three_variants_equal_the_paper(guidance: float, held: str) -> None:
    options = PipelineOptions(
        guidance_scale=guidance, solver="fixed-point", criterion="inter-path", max_iterations=7
    )
    null_text, both, fixed_point = variants(options)
    shared = {"solver": "fixed-point", "criterion": "inter-path", "max_iterations": 7}
    assert null_text.options.inversion() == {"solver": "ddim"}
    assert both.options.inversion() == shared
    assert fixed_point.options.inversion() == shared
    assert [each.options.guided()["mode"] for each in (null_text, both, fixed_point)] == [
        held,
        held,
        "plain",
    ]
    assert ("nothing to fit" in null_text.title) == (guidance == 1.0)
    unfitted = ["nothing to fit" in each for each in headings((null_text, both, fixed_point))]
    assert unfitted == [guidance == 1.0, guidance == 1.0, False]


def test_a_row_of_an_evaluation_takes_a_mode_and_guidance() -> None:
    row = parse_method("ours:mode=null-text,guidance_scale=3,solver=ddim")
    assert row.settings()["mode"] == "null-text"
    for wrong, cause in (
        ("mode=null-text", "above 1"),
        ("mode=magic", "negative-prompt"),
        ("mode=direct,guidance_scale=2,solver=edict", "edict inverts another"),
        ("criterion=luck", "inter-path"),
    ):
        with pytest.raises(MethodError, match=cause):
            parse_method(f"ours:{wrong}")
