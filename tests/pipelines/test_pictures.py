"""Photos as callers give them, and pictures as callers want them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from dehaze.pipelines.dehaze import DehazePipeline
from dehaze.pipelines.pictures import OUTPUT_TYPES, as_photos, as_pixels

Array = NDArray[np.float32]


@pytest.mark.parametrize("kind", ["pil", "uint8", "uint16", "float64", "grey", "rgba"])
def test_photos_are_read_from_every_usual_type(photo: Array, kind: str) -> None:
    eight = np.round(photo * 255).astype(np.uint8)
    picture = Image.fromarray(eight)
    given_ = {
        "pil": picture,
        "uint8": eight,
        "uint16": np.round(photo * 65535).astype(np.uint16),
        "float64": photo.astype(np.float64),
        "grey": picture.convert("L"),
        "rgba": picture.convert("RGBA"),
    }[kind]
    pixels = as_pixels(given_)
    assert pixels.shape == photo.shape
    assert pixels.dtype == np.float32
    if kind != "grey":
        np.testing.assert_allclose(pixels, photo, atol=0.5 / 255 + 1e-6)


def test_sixteen_bits_are_told_by_type_and_never_by_value() -> None:
    dark = np.full((4, 4, 3), 200, np.uint16)
    np.testing.assert_allclose(as_pixels(dark), 200 / 65535, rtol=1e-6)


@pytest.mark.parametrize(
    ("bad", "cause"),
    [
        (np.zeros((4, 4), np.uint8), r"\(4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
        (np.zeros((4, 4, 3), np.int64), "int64"),
        (np.full((4, 4, 3), np.nan, np.float32), "not finite"),
        (np.full((4, 4, 3), 200.0, np.float32), r"\[0, 1\]"),
    ],
)
def test_an_input_that_is_no_photo_is_refused(bad: Any, cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        as_pixels(bad)


def test_a_tensor_is_read_as_diffusers_reads_it(photo: Array) -> None:
    from diffusers.image_processor import VaeImageProcessor

    tensor = torch.from_numpy(photo).permute(2, 0, 1)
    np.testing.assert_array_equal(as_pixels(tensor), photo)
    theirs = VaeImageProcessor(vae_scale_factor=2).preprocess(tensor[None])
    ours = 2.0 * torch.from_numpy(as_pixels(tensor)).permute(2, 0, 1)[None] - 1.0
    torch.testing.assert_close(ours, theirs)
    half = as_pixels(tensor.to(torch.bfloat16))
    np.testing.assert_allclose(half, photo, atol=4e-3)


@pytest.mark.parametrize(
    ("bad", "cause"),
    [
        (torch.zeros(4, 4, 3), r"float \(3, H, W\), not torch.float32 \(4, 4, 3\)"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), "torch.uint8"),
        (torch.full((3, 4, 4), -1.0), r"\[0, 1\]"),
        ([], "no photo"),
        (torch.zeros(0, 3, 4, 4), "no photo"),
    ],
)
def test_tensors_that_are_no_photo_are_refused(bad: Any, cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        as_photos(bad)


def test_several_photos_are_told_from_one(photo: Array) -> None:
    tensor = torch.from_numpy(photo).permute(2, 0, 1)
    for one in (photo, tensor, Image.fromarray((255 * photo).astype(np.uint8))):
        photos, several = as_photos(one)
        assert (len(photos), several) == (1, False)
    for two in ([photo, tensor], torch.stack([tensor, tensor])):
        photos, several = as_photos(two)
        assert (len(photos), several) == (2, True)
        np.testing.assert_array_equal(photos[1], photo)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_exif_orientation_is_applied(photo: Array, orientation: int) -> None:
    upright = np.round(photo * 255).astype(np.uint8)
    # As a camera stores what it took in this orientation.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    picture = Image.fromarray(np.ascontiguousarray(stored))
    picture.getexif()[0x0112] = orientation
    np.testing.assert_array_equal(as_pixels(picture), as_pixels(upright))


@pytest.mark.parametrize("output_type", OUTPUT_TYPES.names())
def test_pictures_are_returned_in_diffusers_types(
    pipeline: DehazePipeline, photo: Array, output_type: str
) -> None:
    array = pipeline(photo, max_iterations=1).image
    picture = pipeline(photo, max_iterations=1, output_type=output_type).image
    if output_type == "np":
        np.testing.assert_array_equal(picture, array)
    elif output_type == "pt":
        assert isinstance(picture, torch.Tensor)
        assert picture.shape == (3, 40, 60)
        np.testing.assert_array_equal(picture.permute(1, 2, 0).numpy(), array)
        # What goes out comes in again.
        np.testing.assert_array_equal(as_pixels(picture), array)
    else:
        assert isinstance(picture, Image.Image)
        assert picture.size == (60, 40)
        np.testing.assert_allclose(np.asarray(picture) / 255.0, array, atol=0.5 / 255 + 1e-6)


def test_a_batch_of_tensors_gives_a_list(pipeline: DehazePipeline, photo: Array) -> None:
    batch = torch.from_numpy(photo).permute(2, 0, 1)[None].repeat(2, 1, 1, 1)
    results = pipeline(batch, max_iterations=1, output_type="pt")
    assert isinstance(results, list)
    assert torch.stack([result.image for result in results]).shape == batch.shape


def test_without_return_dict_a_tuple_comes_back(pipeline: DehazePipeline, photo: Array) -> None:
    (image,) = pipeline(photo, max_iterations=1, return_dict=False)
    np.testing.assert_array_equal(image, pipeline(photo, max_iterations=1).image)
    (images,) = pipeline([photo, photo], max_iterations=1, return_dict=False)
    assert len(images) == 2


@pytest.mark.parametrize("mode", ["I", "I;16", "F"])
def test_a_pil_photo_of_more_than_eight_bits_is_refused(mode: str) -> None:
    with pytest.raises(ValueError, match=f"not the mode {mode}: read the file"):
        as_pixels(Image.new(mode, (8, 6)))
