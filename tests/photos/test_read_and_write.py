"""Photos come back as they came: format, depth, mode, metadata; failures have names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, JpegImagePlugin

from dehaze.photos import Encoding, Photo, PhotoError, read_photo, write_bytes, write_photo

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LOSSLESS = [
    ("PNG", 8, False, False),
    ("PNG", 8, False, True),
    ("PNG", 8, True, False),
    ("PNG", 8, True, True),
    ("PNG", 16, False, False),
    ("PNG", 16, False, True),
    ("PNG", 16, True, False),
    ("PNG", 16, True, True),
    ("TIFF", 8, False, False),
    ("TIFF", 8, False, True),
    ("TIFF", 8, True, False),
    ("TIFF", 8, True, True),
    ("TIFF", 16, False, False),
    ("TIFF", 16, False, True),
    ("TIFF", 16, True, False),
    ("TIFF", 16, True, True),
    ("BMP", 8, False, False),
    ("BMP", 8, False, True),
    ("BMP", 8, True, False),
    ("WEBP", 8, False, False),
    ("WEBP", 8, False, True),
]


def smooth(height: int = 24, width: int = 33) -> np.ndarray:
    """A gentle colour ramp, (H, W, 3) uint8, that JPEG barely changes."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 5, columns * 4, rows + columns], axis=2).astype(np.uint8)


def save(path: Path, image: Image.Image, file_format: str | None = None, **options: Any) -> Path:
    image.save(path, file_format, **options)
    return path


@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    kind=st.sampled_from(LOSSLESS),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    seed=st.integers(0, 2**32 - 1),
)
def test_lossless_kinds_come_back_to_the_last_bit(
    tmp_path: Path, kind: tuple[str, int, bool, bool], height: int, width: int, seed: int
) -> None:
    file_format, bits, grey, with_alpha = kind
    top = 2**bits - 1
    random = np.random.default_rng(seed)
    samples = random.integers(0, top + 1, (height, width, 3))
    if grey:
        samples[:] = samples[..., :1]
    opacity = random.integers(0, top + 1, (height, width)) if with_alpha else None
    photo = Photo(
        (samples / top).astype(np.float32),
        None if opacity is None else (opacity / top).astype(np.float32),
        Encoding(format=file_format, bits=bits, grey=grey),
    )
    path = tmp_path / "photo"
    write_photo(path, photo.pixels, like=photo)
    back = read_photo(path)

    assert back.encoding.format == file_format
    assert back.encoding.bits == bits
    assert back.encoding.grey == grey
    assert back.pixels.dtype == np.float32
    assert back.size == (width, height)
    np.testing.assert_array_equal(np.rint(back.pixels * top), samples)
    if opacity is None:
        assert back.alpha is None
    else:
        assert back.alpha is not None
        np.testing.assert_array_equal(np.rint(back.alpha * top), opacity)


@pytest.mark.parametrize(
    ("file_format", "bits", "grey", "with_alpha"), [kind for kind in LOSSLESS if kind[1] == 8]
)
def test_other_programs_see_the_same_8_bit_pixels(
    tmp_path: Path, file_format: str, bits: int, grey: bool, with_alpha: bool
) -> None:
    samples = smooth()
    if grey:
        samples[:] = samples[..., :1]
    opacity = np.linspace(0, 1, samples[..., 0].size, dtype=np.float32).reshape(24, 33)
    photo = Photo(
        samples / np.float32(255),
        opacity if with_alpha else None,
        Encoding(format=file_format, bits=bits, grey=grey),
    )
    write_photo(tmp_path / "photo", photo.pixels, like=photo)
    with Image.open(tmp_path / "photo") as image:
        assert image.mode == ("L" if grey else "RGB") + ("A" * with_alpha)
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), samples)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_dark_16_bit_photo_stays_one(tmp_path: Path, suffix: str) -> None:
    pixels = np.full((3, 5, 3), 200 / 65535, np.float32)
    encoding = Encoding(format="PNG" if suffix == ".png" else "TIFF", bits=16)
    path = tmp_path / f"dark{suffix}"
    write_photo(path, pixels, like=Photo(pixels, encoding=encoding))
    back = read_photo(path)
    assert back.encoding.bits == 16
    np.testing.assert_array_equal(np.rint(back.pixels * 65535), 200)


def test_values_are_clipped_and_rounded_half_to_even(tmp_path: Path) -> None:
    # 1/6 and 1/10 of 255 are 42.5 and 25.5.
    pixels = np.array([[[-0.3, 1 / 6, 0.1], [1.7, 1.0, 0.0]]], np.float32)
    write_photo(tmp_path / "a.png", pixels)
    with Image.open(tmp_path / "a.png") as image:
        assert np.asarray(image).tolist() == [[[0, 42, 26], [255, 255, 0]]]


def test_a_grey_photo_gets_the_luma_of_coloured_pixels(tmp_path: Path) -> None:
    red = np.zeros((2, 2, 3), np.float32)
    red[..., 0] = 1
    write_photo(tmp_path / "a.png", red, like=Photo(red, encoding=Encoding(grey=True)))
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "L"
        assert image.getpixel((0, 0)) == round(0.299 * 255)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("quality", [40, 93])
def test_jpeg_keeps_its_tables_and_subsampling(
    tmp_path: Path, subsampling: int, quality: int
) -> None:
    source = save(
        tmp_path / "a.jpg",
        Image.fromarray(smooth()),
        quality=quality,
        subsampling=subsampling,
        progressive=True,
    )
    photo = read_photo(source)
    write_photo(tmp_path / "b.jpg", photo.pixels, like=photo)
    with Image.open(source) as before, Image.open(tmp_path / "b.jpg") as after:
        assert after.format == "JPEG"
        assert after.quantization == before.quantization
        assert JpegImagePlugin.get_sampling(after) == subsampling
        assert after.info["progressive"]
        assert np.abs(np.asarray(after, int) - np.asarray(before, int)).mean() < 2


def test_a_grey_jpeg_stays_grey(tmp_path: Path) -> None:
    source = save(tmp_path / "a.jpg", Image.fromarray(smooth()[..., 0]))
    photo = read_photo(source)
    write_photo(tmp_path / "b.jpg", photo.pixels, like=photo)
    with Image.open(tmp_path / "b.jpg") as image:
        assert image.mode == "L"
        assert np.abs(np.asarray(image, int) - smooth()[..., 0]).max() < 6


@pytest.mark.parametrize("lossless", [True, False])
def test_webp_keeps_its_kind_of_compression(tmp_path: Path, lossless: bool) -> None:
    source = save(
        tmp_path / "a.webp", Image.fromarray(smooth()), lossless=lossless, icc_profile=ICC
    )
    photo = read_photo(source)
    write_photo(tmp_path / "b.webp", photo.pixels, like=photo)
    assert (b"VP8L" in (tmp_path / "b.webp").read_bytes()) is lossless


def test_palette_bilevel_and_colour_key(tmp_path: Path) -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putdata([0, 1])
    opaque = read_photo(save(tmp_path / "p.png", palette))
    assert opaque.alpha is None
    assert np.rint(opaque.pixels * 255).tolist() == [[[10, 20, 30], [200, 100, 50]]]

    keyed = read_photo(save(tmp_path / "k.png", palette, transparency=1))
    assert keyed.alpha is not None
    assert keyed.alpha.tolist() == [[1.0, 0.0]]

    bilevel = read_photo(save(tmp_path / "b.png", Image.new("1", (3, 2), 1)))
    assert bilevel.encoding.grey
    assert bilevel.pixels.min() == 1.0


def test_cmyk_becomes_srgb_and_says_so(tmp_path: Path) -> None:
    source = save(tmp_path / "a.jpg", Image.new("CMYK", (4, 4), (0, 255, 255, 0)), quality=95)
    photo = read_photo(source)
    assert photo.notes == ("converted from CMYK to sRGB",)
    np.testing.assert_allclose(photo.pixels[0, 0], [1, 0, 0], atol=0.02)
    write_photo(tmp_path / "b.jpg", photo.pixels, like=photo)
    with Image.open(tmp_path / "b.jpg") as image:
        assert image.mode == "RGB"


def test_a_wrong_suffix_is_noted(tmp_path: Path) -> None:
    photo = read_photo(save(tmp_path / "a.jpg", Image.fromarray(smooth()), "PNG"))
    assert photo.encoding.format == "PNG"
    assert photo.notes == ("holds PNG in spite of its name, and comes back as PNG",)


def test_further_pages_are_noted_and_animations_refused(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (10, 200)]
    pages = save(tmp_path / "a.tif", frames[0], save_all=True, append_images=frames[1:])
    photo = read_photo(pages)
    assert photo.notes == ("only the first of its 2 pictures is kept",)
    assert np.rint(photo.pixels[0, 0] * 255).tolist() == [10, 0, 0]
    for name in ("a.png", "a.webp"):
        moving = save(tmp_path / name, frames[0], save_all=True, append_images=frames[1:])
        with pytest.raises(PhotoError, match="is an animation of 2 frames"):
            read_photo(moving)


@pytest.mark.parametrize(
    ("name", "content", "cause"),
    [
        ("zero.jpg", b"", "is empty"),
        ("text.png", b"This is a letter, not a photo.", "is not a photo"),
        ("moving.gif", b"GIF89a" + bytes(40), "GIF is not supported"),
        ("phone.jpg", b"\0\0\0\x18ftypheic" + bytes(40), "HEIC is not supported"),
        ("web.png", b"\0\0\0\x18ftypavif" + bytes(40), "AVIF is not supported"),
        ("camera.NEF", b"II*\0" + bytes(40), r"camera raw \(\.NEF\) is not supported"),
        ("odd.tif", b"II*\0" + bytes(40), "damaged TIFF"),
    ],
)
def test_files_that_cannot_be_read_are_named(
    tmp_path: Path, name: str, content: bytes, cause: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PhotoError, match=cause) as caught:
        read_photo(tmp_path / name)
    assert caught.value.path == tmp_path / name
    assert caught.value.cure


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match="does not exist"):
        read_photo(tmp_path / "nowhere.jpg")
    with pytest.raises(PhotoError, match="is not a file"):
        read_photo(tmp_path)


def test_the_message_is_one_line_whatever_the_name(tmp_path: Path) -> None:
    (tmp_path / "new\nline.jpg").write_bytes(b"")
    with pytest.raises(PhotoError) as caught:
        read_photo(tmp_path / "new\nline.jpg")
    assert "\n" not in str(caught.value)
    assert "new\\nline.jpg" in str(caught.value)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "WEBP", "BMP"])
@pytest.mark.parametrize("share", [0.4, 0.9])
def test_a_photo_cut_short_is_refused(tmp_path: Path, file_format: str, share: float) -> None:
    noise = np.random.default_rng(5).integers(0, 256, (64, 64, 3), np.uint8)
    whole = save(tmp_path / "whole", Image.fromarray(noise), file_format).read_bytes()
    (tmp_path / "cut").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(PhotoError, match="is cut short"):
        read_photo(tmp_path / "cut")


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_a_16_bit_photo_cut_short_is_refused(tmp_path: Path, file_format: str) -> None:
    pixels = np.random.default_rng(5).random((32, 32, 3), np.float32)
    encoding = Encoding(format=file_format, bits=16)
    write_photo(tmp_path / "whole", pixels, like=Photo(pixels, encoding=encoding))
    whole = (tmp_path / "whole").read_bytes()
    (tmp_path / "cut").write_bytes(whole[: len(whole) * 3 // 4])
    with pytest.raises(PhotoError):
        read_photo(tmp_path / "cut")


@settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    kind=st.sampled_from([*LOSSLESS, ("JPEG", 8, False, False)]),
    changes=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=6),
)
@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_give_a_photo_or_a_named_error(
    tmp_path: Path, kind: tuple[str, int, bool, bool], changes: list[tuple[float, int]]
) -> None:
    file_format, bits, grey, with_alpha = kind
    pixels = smooth(8, 8) / np.float32(255)
    encoding = Encoding(format=file_format, bits=bits, grey=grey)
    alpha = pixels[..., 0] if with_alpha else None
    write_photo(tmp_path / "photo", pixels, like=Photo(pixels, alpha, encoding))
    data = bytearray((tmp_path / "photo").read_bytes())
    for place, value in changes:
        data[int(place * len(data))] = value
    (tmp_path / "photo").write_bytes(data)
    try:
        photo = read_photo(tmp_path / "photo", max_megapixels=1)
    except PhotoError:
        return
    assert photo.pixels.shape == (*photo.size[::-1], 3)
    assert np.isfinite(photo.pixels).all()


def test_the_size_limit_is_its_own_and_leaves_pillows_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save(tmp_path / "a.png", Image.new("RGB", (2000, 1000)))
    with pytest.raises(PhotoError, match=r"has 2 megapixels where at most 1\.5 are read"):
        read_photo(source, max_megapixels=1.5)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert read_photo(source, max_megapixels=2).size == (2000, 1000)
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_not_numbers_are_never_written(tmp_path: Path, value: float) -> None:
    pixels = np.zeros((2, 2, 3), np.float32)
    pixels[1, 1, 2] = value
    with pytest.raises(PhotoError, match="not numbers"):
        write_photo(tmp_path / "a.png", pixels)
    assert list(tmp_path.iterdir()) == []


def test_shapes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\(H, W, 3\), not \(4, 4\)"):
        write_photo(tmp_path / "a.png", np.zeros((4, 4), np.float32))
    pixels = np.zeros((4, 4, 3), np.float32)
    other = Photo(pixels, np.ones((4, 5), np.float32))
    with pytest.raises(ValueError, match=r"\(4, 4, 3\) do not fit alpha \(4, 5\)"):
        write_photo(tmp_path / "a.png", pixels, like=other)


@pytest.mark.parametrize("suffix", [".doc", ""])
def test_without_a_source_the_suffix_must_be_a_photos(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(PhotoError, match="has no photo's suffix"):
        write_photo(tmp_path / f"a{suffix}", np.zeros((2, 2, 3), np.float32))


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a.png"
    target.write_bytes(b"old")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(PhotoError, match="No space left on device"):
        write_photo(target, np.zeros((2, 2, 3), np.float32))
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_an_interrupted_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(source: object, target: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(tmp_path / "a.json", b"{}")
    assert list(tmp_path.iterdir()) == []


def test_a_name_of_255_bytes_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 251 + ".png")
    write_photo(path, np.zeros((2, 2, 3), np.float32))
    assert read_photo(path).size == (2, 2)


@pytest.mark.parametrize(
    "pixels", [np.full((4, 5, 3), 128, np.uint8), np.ones((4, 5, 3), bool), [[[0.5] * 3]]]
)
def test_pixels_that_are_no_floats_are_refused(tmp_path: Path, pixels: Any) -> None:
    with pytest.raises(ValueError, match="pixels are an array of floats in"):
        write_photo(tmp_path / "a.png", pixels)
    assert not (tmp_path / "a.png").exists()
