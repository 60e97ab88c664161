"""Every kind of stored samples is read correctly and written back, or refused by name."""

from __future__ import annotations

import io
import itertools
import struct
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from photo_files import (
    LONG,
    SHORT,
    Labels,
    TiffKind,
    Tree,
    chunk,
    png_by_hand,
    png_chunks,
    png_file,
    tiff_file,
)
from PIL import Image

from dehaze.photos import Photo, PhotoError, read_photo, write_photo

HEIGHT, WIDTH = 11, 21
NO_PALETTE = "TIFF without its palette"


def noise(channels: int, bits: int) -> np.ndarray:
    random = np.random.default_rng(channels * bits)
    return random.integers(0, 2**bits, (HEIGHT, WIDTH, channels)).astype(f"uint{bits}")


def read(tmp_path: Path, data: bytes) -> Photo:
    (tmp_path / "photo").write_bytes(data)
    return read_photo(tmp_path / "photo")


def stored(photo: Photo) -> np.ndarray:
    """A photo's values as (H, W, C) whole numbers of its own depth."""
    colours = photo.pixels[..., :1] if photo.encoding.grey else photo.pixels
    values = colours if photo.alpha is None else np.dstack([colours, photo.alpha])
    return np.rint(values * (2**photo.encoding.bits - 1)).astype(int)


def assert_comes_back(tmp_path: Path, photo: Photo, expected: np.ndarray) -> bytes:
    write_photo(tmp_path / "result", photo.pixels, like=photo)
    np.testing.assert_array_equal(stored(read_photo(tmp_path / "result")), expected)
    return (tmp_path / "result").read_bytes()


@pytest.mark.parametrize("compression", [None, "lzw", "deflate", "packbits", "zstd", "lzma"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_tiff_layouts(tmp_path: Path, channels: int, bits: int, compression: str | None) -> None:
    samples = noise(channels, bits)
    # The packing of strips does not depend on their compression.
    bigs = [False] if compression in ("zstd", "lzma") else [False, True]
    for planar, tile, order, big in itertools.product([False, True], [None, (16, 16)], "<>", bigs):
        kind = TiffKind(order, big, planar, compression, tile)
        photo = read(tmp_path, tiff_file(samples, kind))
        np.testing.assert_array_equal(stored(photo), samples, str(kind))
        assert photo.notes == ()
    result = assert_comes_back(tmp_path, photo, samples)
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(result)), samples.squeeze())


@pytest.mark.parametrize("bits", [8, 16])
def test_a_tiff_whose_white_is_0(tmp_path: Path, bits: int) -> None:
    samples = noise(1, bits)
    for order in "<>":
        kind = TiffKind(order, photometric="miniswhite")
        photo = read(tmp_path, tiff_file(samples, kind))
        np.testing.assert_array_equal(stored(photo), 2**bits - 1 - samples.astype(int))


@pytest.mark.parametrize("compression", [None, "lzw"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [2, 4])
def test_premultiplied_colours_are_divided(
    tmp_path: Path, channels: int, bits: int, compression: str | None
) -> None:
    top = 2**bits - 1
    samples = noise(channels, bits).astype(int)
    samples[..., :-1] = samples[..., :-1] * samples[..., -1:] // top
    samples[0, :3, -1] = 0
    samples[0, :3, :-1] = 0
    for planar, order in itertools.product([False, True], "<>"):
        kind = TiffKind(order, planar=planar, compression=compression, extra=1)
        photo = read(tmp_path, tiff_file(samples.astype(f"uint{bits}"), kind))
        assert photo.alpha is not None
        np.testing.assert_array_equal(np.rint(photo.alpha * top), samples[..., -1])
        seen = photo.alpha > 0
        expected = samples[..., :-1][seen] / samples[..., -1:][seen]
        colours = photo.pixels[seen][:, : channels - 1]
        np.testing.assert_allclose(colours, expected, atol=1e-6)
        assert photo.pixels[~seen].max() == 0
        write_photo(tmp_path / "result", photo.pixels, like=photo)
        with tifffile.TiffFile(tmp_path / "result") as file:
            np.testing.assert_array_equal(file.asarray(), samples)
            assert file.pages.first.extrasamples == (1,)


@pytest.mark.parametrize("extra", [0, 2])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_channel_beside_the_colours_is_kept(tmp_path: Path, bits: int, extra: int) -> None:
    samples = noise(4, bits)
    photo = read(tmp_path, tiff_file(samples, TiffKind(extra=extra)))
    assert_comes_back(tmp_path, photo, samples)
    with tifffile.TiffFile(tmp_path / "result") as file:
        assert file.pages.first.extrasamples == (extra,)


@pytest.mark.parametrize("bits", [8, 16])
def test_more_channels_than_alpha_are_noted(tmp_path: Path, bits: int) -> None:
    samples = noise(5, bits)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, photometric="rgb", extrasamples=[2, 0])
    photo = read(tmp_path, buffer.getvalue())
    np.testing.assert_array_equal(stored(photo), samples[..., :4])
    assert photo.notes == ("1 of its channels beside the colours are left out",)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("photometric", [0, 1])
def test_a_tiff_of_few_bits(tmp_path: Path, photometric: int, order: str, bits: int) -> None:
    levels = np.arange(2**bits)
    codes = np.resize(levels, 16)
    packed = np.packbits(
        ((codes[:, None] >> np.arange(bits)[::-1]) & 1).astype(np.uint8).ravel()
    ).tobytes()
    tree = Tree(order)
    strip = tree.put(packed)
    data = tree.finished(
        tree.directory(
            [
                tree.tag(256, SHORT, 16),
                tree.tag(257, SHORT, 1),
                tree.tag(258, SHORT, bits),
                tree.tag(262, SHORT, photometric),
                tree.tag(273, LONG, strip),
                tree.tag(279, LONG, len(packed)),
            ]
        )
    )
    expected = codes * 255 // (2**bits - 1)
    expected = 255 - expected if photometric == 0 else expected
    photo = read(tmp_path, data)
    assert photo.encoding.grey
    np.testing.assert_array_equal(stored(photo)[0, :, 0], expected)
    assert_comes_back(tmp_path, photo, stored(photo))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_palette_of_few_bits(tmp_path: Path, order: str, bits: int) -> None:
    colours = np.random.default_rng(bits).integers(0, 256, (2**bits, 3))
    codes = np.arange(2**bits)
    packed = np.packbits(
        ((codes[:, None] >> np.arange(bits)[::-1]) & 1).astype(np.uint8).ravel()
    ).tobytes()
    tree = Tree(order)
    strip = tree.put(packed)
    tags = {256: len(codes), 257: 1, 258: bits, 262: 3, 273: strip, 278: 1, 279: len(packed)}
    data = tree.finished(
        tree.directory(
            [
                *(tree.tag(tag, LONG if tag == 273 else SHORT, n) for tag, n in tags.items()),
                tree.tag(320, SHORT, *(257 * colours.T).ravel().tolist()),
            ]
        )
    )
    photo = read(tmp_path, data)
    np.testing.assert_array_equal(stored(photo)[0], colours)
    assert_comes_back(tmp_path, photo, stored(photo))


@pytest.mark.parametrize(
    ("mode", "compression"),
    [
        *itertools.product(["P", "L", "1", "CMYK"], [None, "tiff_lzw"]),
        ("1", "group3"),
        ("1", "group4"),
        ("YCbCr", "jpeg"),
        ("CMYK", "jpeg"),
        ("L", "jpeg"),
    ],
)
def test_tiffs_of_other_colours(tmp_path: Path, mode: str, compression: str | None) -> None:
    rows, columns = np.mgrid[0:32, 0:48]
    picture = np.stack([rows * 7, columns * 5, rows + columns], axis=2).astype(np.uint8)
    image = Image.fromarray(picture).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, "TIFF", compression=compression)
    photo = read(tmp_path, buffer.getvalue())
    expected = np.asarray(image.convert("RGB"), int)
    difference = np.abs(np.rint(photo.pixels * 255) - expected)
    assert difference.mean() < (3 if compression == "jpeg" else 1e-9)
    assert photo.notes == (("converted from CMYK to sRGB",) if mode == "CMYK" else ())


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("key", [0, 1])
def test_grey_colour_keys_at_every_depth(tmp_path: Path, bits: int, key: int) -> None:
    levels = [0, 1, 2**bits - 1, key]
    if bits == 16:
        row = struct.pack(">4H", *levels)
    else:
        joined = 0
        for level in levels:
            joined = joined << bits | level
        row = (joined << (-4 * bits % 8)).to_bytes(-(-4 * bits // 8), "big")
    data = png_by_hand((4, 1, bits, 0), [row], (b"tRNS", struct.pack(">H", key)))
    photo = read(tmp_path, data)
    assert photo.encoding.bits == max(bits, 8)
    assert photo.alpha is not None
    assert photo.alpha[0].tolist() == [float(level != key) for level in levels]
    scale = 1 if bits > 8 else 255 // (2**bits - 1)
    np.testing.assert_array_equal(stored(photo)[0, :, 0], np.array(levels) * scale)
    assert_comes_back(tmp_path, photo, stored(photo))


@pytest.mark.parametrize("bits", [8, 16])
def test_colour_keys_in_colour(tmp_path: Path, bits: int) -> None:
    high = 2**bits - 1
    pixels = [(1, 2, 3), (1, 2, high), (high, 2, 3), (1, 2, 3)]
    row = b"".join(struct.pack(">3H" if bits == 16 else "3B", *pixel) for pixel in pixels)
    data = png_by_hand((4, 1, bits, 2), [row], (b"tRNS", struct.pack(">3H", 1, 2, 3)))
    photo = read(tmp_path, data)
    assert photo.alpha is not None
    assert photo.alpha[0].tolist() == [0, 1, 1, 0]
    np.testing.assert_array_equal(stored(photo)[0, :, :3], pixels)


def test_a_colour_key_after_the_pixels_is_ignored(tmp_path: Path) -> None:
    plain = png_by_hand((2, 1, 8, 0), [b"\1\2"])
    photo = read(tmp_path, plain[:-12] + chunk(b"tRNS", b"\0\1") + plain[-12:])
    assert photo.alpha is None
    assert photo.notes == ("its chunk tRNS stands where readers pass over it, and is left out",)


def test_the_first_of_two_colour_keys_counts(tmp_path: Path) -> None:
    keys = ((b"tRNS", b"\0\2"), (b"tRNS", b"\0\1"))
    photo = read(tmp_path, png_by_hand((2, 1, 8, 0), [b"\1\2"], *keys))
    assert photo.alpha is not None
    assert photo.alpha[0].tolist() == [1, 0]
    assert len(photo.notes) == 1


@pytest.mark.parametrize("name", [b"tRNS", b"gAMA", b"tEXt"])
def test_a_chunk_of_a_wrong_checksum_is_left_out(tmp_path: Path, name: bytes) -> None:
    """A new checksum would make readers use a chunk that they ignore now."""
    body = {b"tRNS": b"\0\1", b"gAMA": b"\0\1\x86\xa0", b"tEXt": b"Title\0a"}[name]
    data = png_by_hand((2, 1, 8, 0), [b"\1\2"], (name, body))
    place = data.index(name) + 4 + len(body)
    photo = read(tmp_path, data[:place] + b"\0\0\0\0" + data[place + 4 :])
    assert photo.alpha is None
    assert photo.notes == (f"its chunk {name.decode()} is damaged and left out",)
    write_photo(tmp_path / "back.png", photo.pixels, like=photo)
    assert name not in dict(png_chunks((tmp_path / "back.png").read_bytes()))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_with_transparency(tmp_path: Path, bits: int) -> None:
    row = (0b01 << (8 - 2 * bits) if bits < 8 else 1).to_bytes(1, "big")
    row = bytes([0, 1]) if bits == 8 else row
    palette = (b"PLTE", bytes([10, 20, 30, 200, 100, 50]))
    data = png_by_hand((2, 1, bits, 3), [row], palette, (b"tRNS", b"\x80"))
    photo = read(tmp_path, data)
    np.testing.assert_array_equal(stored(photo)[0], [[10, 20, 30, 128], [200, 100, 50, 255]])


@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize("compression", [None, "lzw", "zstd"])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_a_tiff_decoder_that_is_wrong_is_found(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    channels: int,
    planar: bool,
    compression: str | None,
    tile: tuple[int, int] | None,
) -> None:
    samples = noise(channels, 16)
    data = tiff_file(samples, TiffKind(planar=planar, compression=compression, tile=tile))
    np.testing.assert_array_equal(stored(read(tmp_path, data)), samples[..., :4])
    decode = tifffile.TiffPage.asarray

    def wrong(*arguments: Any, **options: Any) -> np.ndarray:
        return decode(*arguments, **options) ^ 0x0100

    monkeypatch.setattr(tifffile.TiffPage, "asarray", wrong)
    with pytest.raises(PhotoError, match="decoded in two ways"):
        read(tmp_path, data)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_png_decoder_that_is_wrong_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int
) -> None:
    samples = noise(channels, 16)
    data = png_file(samples, Labels())
    np.testing.assert_array_equal(stored(read(tmp_path, data)), samples)
    monkeypatch.setattr(imagecodecs, "png_decode", lambda data: samples.squeeze() ^ 0x0100)
    with pytest.raises(PhotoError, match="decoded in two ways"):
        read(tmp_path, data)


def tiff_with(**changed: Any) -> bytes:
    """A TIFF of 2 by 2 grey values, with other tags, and without those that are None."""
    tree = Tree()
    strip = tree.put(bytes(64))
    tags = {256: 2, 257: 2, 258: 8, 259: 1, 262: 1, 273: strip, 277: 1, 278: 2, 279: 64}
    tags |= {int(tag.removeprefix("t")): value for tag, value in changed.items()}
    return tree.finished(
        tree.directory([tree.tag(tag, LONG, n) for tag, n in tags.items() if n is not None])
    )


def sample_array(dtype: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    options = {"photometric": "minisblack"} | options
    tifffile.imwrite(buffer, np.ones((8, 8), dtype), **options)
    return buffer.getvalue()


def coded(codec: str) -> bytes:
    buffer = io.BytesIO()
    samples = np.full((32, 32, 3), 99, np.uint8)
    tifffile.imwrite(buffer, samples, photometric="rgb", compression=codec)
    return buffer.getvalue()


def jpeg_of_kind(marker: int, bits: int = 8, channels: int = 3) -> bytes:
    frame = struct.pack(">BHHB", bits, 8, 8, channels) + bytes(3 * channels)
    return b"\xff\xd8\xff" + bytes([marker]) + struct.pack(">H", len(frame) + 2) + frame


def bmp_with_masks() -> bytes:
    masks = struct.pack("<3I", 0xFF000000, 0xFF0, 0xFF0000)
    header = struct.pack("<IiiHHIIiiII", 40, 2, 2, 1, 32, 3, 16, 2835, 2835, 0, 0)
    return struct.pack("<2sIII", b"BM", 82, 0, 66) + header + masks + bytes(16)


def bmp_with_long_palette() -> bytes:
    """Of 300 colours, which eight bits cannot name."""
    header = struct.pack("<IiiHHIIiiII", 40, 4, 2, 1, 8, 0, 8, 2835, 2835, 300, 0)
    return struct.pack("<2sIII", b"BM", 1262, 0, 1254) + header + bytes(1200) + bytes(8)


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (sample_array("int8"), "TIFF of signed samples"),
        (sample_array("int16"), "TIFF of signed samples"),
        (sample_array("float32"), "TIFF of floating-point samples"),
        (sample_array("float16"), "TIFF of floating-point samples"),
        (sample_array("complex64"), "TIFF of complex samples"),
        (sample_array("uint32"), "TIFF of 32 bits a sample"),
        (tiff_with(t258=12), "TIFF of 12 bits a sample"),
        (tiff_with(t262=8), "TIFF whose colours are Lab"),
        (tiff_with(t262=32845), "TIFF whose colours are LogLuv"),
        (tiff_with(t262=32803), "TIFF whose colours are a sensor's"),
        (tiff_with(t262=4), "TIFF whose colours are a transparency mask"),
        (tiff_with(t262=2), "TIFF of 1 channels"),
        (tiff_with(t262=3), NO_PALETTE),
        (tiff_with(t259=12345), "TIFF compressed with method 12345"),
        (tiff_with(t259=7, t258=16), "TIFF compressed with JPEG of more than 8 bits"),
        (tiff_with(t254=1), "first picture is a preview"),
        (tiff_with(t50706=1), r"camera raw \(DNG\)"),
        (tiff_with(t279=10**6), "is cut short"),
        (tiff_with(t279=0), "strips or tiles are not stored"),
        (tiff_with(t273=0), "strips or tiles are not stored"),
        (tiff_with(t278=1), "1 strips or tiles, where its size needs 2"),
        (tiff_with(t322=16, t323=16), "no TileOffsets and TileByteCounts"),
        (tiff_with(t279=None), "no StripByteCounts"),
        (tiff_with(t339=4), "TIFF of untyped samples"),
        (tiff_with(t262=5, t277=4, t258=16), "CMYK TIFF of 16 bits a sample"),
        (tiff_with(t262=6, t277=3, t258=16), "YCbCr TIFF of 16 bits a sample"),
        (coded("webp"), "TIFF compressed with WebP"),
        (coded("jpegxl"), "TIFF compressed with JPEG XL"),
        (coded("jpeg2000"), "TIFF compressed with JPEG 2000"),
        (coded("lerc"), "TIFF compressed with LERC"),
        (coded("png"), "TIFF compressed with PNG"),
        (coded("jpegxr"), "TIFF compressed with JPEG XR"),
        (jpeg_of_kind(0xC3), "JPEG of the lossless kind"),
        (jpeg_of_kind(0xCB), "JPEG of the lossless kind"),
        (jpeg_of_kind(0xC5), "JPEG of the hierarchical kind"),
        (jpeg_of_kind(0xF7), "JPEG of the JPEG-LS kind"),
        (jpeg_of_kind(0xC1, bits=12), "JPEG of 12 bits"),
        (jpeg_of_kind(0xC0, channels=2), "JPEG of 2 channels"),
        (bmp_with_masks(), "BMP of a kind that is not supported"),
        (bmp_with_long_palette(), "BMP of a kind that is not supported"),
        (png_by_hand((1, 1, 8, 2), [b"abc"])[:8] + b"\0\0\0\4CgBIabcd1234", "PNG for Apple's"),
        (png_by_hand((1, 1, 8, 2), [b"abc"], (b"ABCd", b"")), r"chunk that is not .*ABCd"),
        (b"II*\0\x10\0\0\0CR\x02\0" + bytes(40), "camera raw .CR2."),
        (b"IIU\0" + bytes(40), "camera raw .RW2."),
        (b"IIRO" + bytes(40), "camera raw .ORF."),
        (b"FUJIFILMCCD-RAW " + bytes(40), "camera raw .RAF."),
        (b"8BPS\0\1" + bytes(40), "Photoshop file"),
        (b"\0\0\0\x18ftypmp42" + bytes(40), "a film"),
        (b"\x76\x2f\x31\x01" + bytes(40), "OpenEXR"),
        (b"P6\n1 1\n255\nabc", "PNM"),
        (b"II\xbc\1" + bytes(40), "JPEG XR"),
    ],
)
def test_unsupported_kinds_are_refused_by_name(tmp_path: Path, data: bytes, cause: str) -> None:
    with pytest.raises(PhotoError, match=cause) as caught:
        read(tmp_path, data)
    assert str(tmp_path / "photo") in str(caught.value)
    assert caught.value.cure
    # A complete file needs no new copy.
    assert ("copy it again" in caught.value.cure) == (cause in ("is cut short", NO_PALETTE))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("compression", [None, "lzw", "deflate"])
def test_a_tiff_cut_short_is_refused(tmp_path: Path, compression: str | None, bits: int) -> None:
    data = tiff_file(noise(3, bits), TiffKind(compression=compression))
    for share in (0.3, 0.7, 0.95):
        with pytest.raises(PhotoError):
            read(tmp_path, data[: int(len(data) * share)])


@pytest.mark.parametrize("tables", [[1] * 64, [255] * 64, [300] * 64])
def test_unusual_quantisation_tables(tmp_path: Path, tables: list[int]) -> None:
    buffer = io.BytesIO()
    Image.fromarray(noise(3, 8)).save(buffer, "JPEG", qtables=[tables, tables])
    photo = read(tmp_path, buffer.getvalue())
    write_photo(tmp_path / "result", photo.pixels, like=photo)
    with Image.open(buffer) as before, Image.open(tmp_path / "result") as after:
        assert after.quantization == before.quantization


@pytest.mark.parametrize("number", [0, 1, 3])
def test_a_grey_jpeg_whose_table_has_any_number(tmp_path: Path, number: int) -> None:
    buffer = io.BytesIO()
    Image.fromarray(noise(1, 8)[..., 0]).save(buffer, "JPEG", quality=77)
    data = buffer.getvalue()
    with Image.open(buffer) as image:
        (table,) = image.quantization.values()
    # The table's number stands before its values, and at the end of the frame's channel.
    assert (data.count(b"\xff\xdb\0C\0"), data.count(b"\1\1\x11\0")) == (1, 1)
    data = data.replace(b"\xff\xdb\0C\0", b"\xff\xdb\0C" + bytes([number]))
    data = data.replace(b"\1\1\x11\0", b"\1\1\x11" + bytes([number]))
    photo = read(tmp_path, data)
    write_photo(tmp_path / "result", photo.pixels, like=photo)
    with Image.open(tmp_path / "result") as image:
        assert list(image.quantization.values()) == [table]
