"""Metadata of a result: every promised tag, byte for byte."""

from __future__ import annotations

import io
import re
import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from photo_files import (
    ASCII,
    COMMENT,
    IPTC,
    MAKER_NOTE,
    OLYMPUS_ELSEWHERE,
    OLYMPUS_WITHIN,
    PHOTOSHOP,
    PROFILE,
    RATIONAL,
    SHORT,
    TEXT,
    Labels,
    Tree,
    exif_block,
    jpeg_file,
    jpeg_segments,
    labelled_tiff,
    olympus_tiff,
    png_by_hand,
    png_chunks,
    png_file,
    segment,
    tiff_tags,
    webp_file,
    xmp_packet,
)
from PIL import Image

from dehaze.photos import Photo, PhotoError, read_photo, write_photo

HEIGHT, WIDTH = 12, 20
SIDEWAYS = (5, 6, 7, 8)
PREFIX = b"http://ns.adobe.com/xap/1.0/\0"


def samples_of(channels: int = 3, bits: int = 8, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.integers(0, 2**bits, (HEIGHT, WIDTH, channels)).astype(f"uint{bits}")


def smooth() -> np.ndarray:
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([rows * 9, columns * 9, rows + columns], axis=2).astype(np.uint8)


def turned(samples: np.ndarray, orientation: int) -> np.ndarray:
    """The upright picture (EXIF 2.32, 4.6.4 A: what row 0 and column 0 are)."""
    return {
        1: samples,
        2: samples[:, ::-1],
        3: samples[::-1, ::-1],
        4: samples[::-1],
        5: samples.transpose(1, 0, 2),
        6: np.rot90(samples, -1),
        7: samples[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(samples),
    }[orientation]


def upright_size(orientation: int) -> dict[str, int]:
    sideways = orientation in SIDEWAYS
    return {"width": HEIGHT, "height": WIDTH} if sideways else {"width": WIDTH, "height": HEIGHT}


def there_and_back(tmp_path: Path, data: bytes) -> tuple[bytes, Photo]:
    """A file read and written again, and the photo in between."""
    (tmp_path / "source").write_bytes(data)
    photo = read_photo(tmp_path / "source")
    write_photo(tmp_path / "result", photo.pixels, like=photo)
    return (tmp_path / "result").read_bytes(), photo


def labels_for(orientation: int, *, order: str = "<", upright: bool = False) -> Labels:
    """All metadata of a photo as it is stored, or as it must be once the photo is upright."""
    size = upright_size(orientation) if upright else {"width": WIDTH, "height": HEIGHT}
    stated = 1 if upright else orientation
    return Labels(
        exif=exif_block(order, orientation=stated, thumbnail=not upright, **size),
        xmp=xmp_packet(orientation=stated, **size),
        profile=PROFILE,
    )


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpeg_segments_are_kept(tmp_path: Path, orientation: int, order: str) -> None:
    extended = b"http://ns.adobe.com/xmp/extension/\0" + b"A" * 32 + bytes(8) + b"<x/>"
    others = [
        segment(0xE1, extended),
        segment(0xED, PHOTOSHOP),
        segment(0xE1, b"FLIR\0\x01\0\0" + bytes(range(100))),
        segment(0xE4, b"camera's own"),
        segment(0xFE, COMMENT),
    ]
    data = jpeg_file(smooth(), labels_for(orientation, order=order), *others)
    result, photo = there_and_back(tmp_path, data)
    expected = jpeg_file(smooth(), labels_for(orientation, order=order, upright=True), *others)
    assert jpeg_segments(result) == jpeg_segments(expected)
    assert photo.notes == ()
    with Image.open(io.BytesIO(result)) as image:
        difference = np.asarray(image, int) - turned(smooth(), orientation)
        assert np.abs(difference).mean() < 3


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_png_chunks_are_kept(tmp_path: Path, orientation: int, channels: int, bits: int) -> None:
    samples = samples_of(channels, bits)
    before = [
        (b"cICP", bytes([12, 13, 0, 1])),
        (b"gAMA", struct.pack(">I", 45455)),
        (b"cHRM", bytes(range(32))),
        (b"sBIT", bytes([5] * channels)),
        (b"bKGD", bytes(2 if channels < 3 else 6)),
        (b"pHYs", struct.pack(">IIB", 2835, 2835, 1)),
        (b"sCAL", b"\x011.0\x001.0"),
        (b"tIME", bytes([7, 232, 11, 2, 7, 31, 0])),
        (b"tEXt", b"Author\0J\xfcrgen"),
        (b"zTXt", b"Comment\0\0" + zlib.compress(b"fog")),
        (b"prVt", b"an unknown chunk that is safe to copy"),
    ]
    after = [(b"iTXt", b"Title\0\0\0de\0\0" + TEXT[:-1])]
    data = png_file(samples, labels_for(orientation), *before, after=after)
    result, photo = there_and_back(tmp_path, data)
    expected = png_file(samples, labels_for(orientation, upright=True), *before, after=after)
    pixels = {b"IHDR", b"IDAT", b"IEND"}
    kept = [each for each in png_chunks(result) if each[0] not in pixels]
    assert kept == [each for each in png_chunks(expected) if each[0] not in pixels]
    assert photo.notes == ()
    back = imagecodecs.png_decode(result).reshape(*photo.pixels.shape[:2], channels)
    np.testing.assert_array_equal(back, turned(samples, orientation))


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_webp_chunks_are_kept(tmp_path: Path, orientation: int, channels: int) -> None:
    samples = samples_of(channels)
    result, photo = there_and_back(tmp_path, webp_file(samples, labels_for(orientation)))
    expected = labels_for(orientation, upright=True)
    with Image.open(io.BytesIO(result)) as image:
        assert image.info["exif"] == expected.exif
        assert image.info["xmp"] == expected.xmp
        assert image.info["icc_profile"] == expected.profile
        np.testing.assert_array_equal(np.asarray(image), turned(samples, orientation))
    assert photo.notes == ()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiff_tags_are_kept(tmp_path: Path, orientation: int, big: bool, order: str) -> None:
    for channels, bits in ((1, 8), (3, 8), (4, 8), (1, 16), (2, 16), (3, 16)):
        samples = samples_of(channels, bits)
        labels = labels_for(orientation)
        data = labelled_tiff(samples, labels, orientation=orientation, order=order, big=big)
        result, photo = there_and_back(tmp_path, data)
        assert photo.notes == ()
        with tifffile.TiffFile(io.BytesIO(result)) as file:
            assert (file.byteorder, file.is_bigtiff) == (order, big)
            back = file.asarray().reshape(*photo.pixels.shape[:2], channels)
            np.testing.assert_array_equal(back, turned(samples, orientation))
        _assert_same_tags(data, result, orientation, order)


def _assert_same_tags(data: bytes, result: bytes, orientation: int, order: str) -> None:
    before, after = tiff_tags(data), tiff_tags(result)
    size = upright_size(orientation)
    changed = {0xA002: size["width"], 0xA003: size["height"]}
    assert after.places == before.places, "maker notes moved"
    assert after.exif == before.exif | {
        tag: struct.pack(f"{order}I", value) for tag, value in changed.items()
    }
    assert after.gps == before.gps
    assert after.interoperability == before.interoperability
    assert after.exif[0x927C] == MAKER_NOTE
    assert after.first[0x0112] == struct.pack(f"{order}H", 1)
    assert after.first[700] == xmp_packet(orientation=1, **size)
    for tag in (0x010E, 318, 33723, 34675):
        assert after.first[tag] == before.first[tag]


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    file_format=st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF"]),
    orientation=st.integers(1, 8),
    tags=st.dictionaries(
        st.integers(0xC000, 0xEA00).filter(lambda tag: tag != 50706),
        st.binary(min_size=1, max_size=40),
        max_size=5,
    ),
    text=st.text(min_size=1, max_size=30).filter(lambda text: "\0" not in text),
    order=st.sampled_from(["<", ">"]),
)
def test_any_tag_comes_back(
    tmp_path: Path,
    file_format: str,
    orientation: int,
    tags: dict[int, bytes],
    text: str,
    order: str,
) -> None:
    """Arbitrary tags of EXIF's first directory, in every format that has EXIF."""
    encoded = text.encode("utf-8", "surrogatepass") + b"\0"

    def block(stated: int) -> bytes:
        tree = Tree(order)
        entries = [(tag, 7, len(value), value) for tag, value in tags.items()]
        entries += [(0x013B, ASCII, len(encoded), encoded), tree.tag(0x0112, SHORT, stated)]
        return tree.finished(tree.directory(entries))

    samples = samples_of()
    labels = Labels(exif=block(orientation))
    if file_format == "TIFF":
        entries = [(tag, 7, len(value), value) for tag, value in tags.items()]
        entries.append((0x013B, ASCII, len(encoded), encoded))
        data = labelled_tiff(
            samples, Labels(), orientation=orientation, order=order, others=entries
        )
        result, _ = there_and_back(tmp_path, data)
        found = tiff_tags(result).first
        assert all(found[tag] == value for tag, _, _, value in entries)
        return
    write = {"JPEG": jpeg_file, "PNG": png_file, "WEBP": webp_file}[file_format]
    result, _ = there_and_back(tmp_path, write(samples, labels))
    assert block(1) in result


def test_a_density_that_differs_by_axis_is_turned(tmp_path: Path) -> None:
    def block(across: int, down: int, orientation: int) -> bytes:
        tree = Tree(">")
        densities = [tree.tag(0x011A, RATIONAL, across, 1), tree.tag(0x011B, RATIONAL, down, 1)]
        return tree.finished(tree.directory([*densities, tree.tag(0x0112, SHORT, orientation)]))

    data = jpeg_file(smooth(), Labels(exif=block(300, 150, 6)), dpi=(300, 150))
    segments = dict(jpeg_segments(there_and_back(tmp_path, data)[0]))
    assert segments[0xE1] == b"Exif\0\0" + block(150, 300, 1)
    assert segments[0xE0][7:12] == struct.pack(">BHH", 1, 150, 300)

    data = png_file(
        samples_of(), Labels(exif=block(3, 2, 8)), (b"pHYs", struct.pack(">IIB", 3, 2, 1))
    )
    chunks = dict(png_chunks(there_and_back(tmp_path, data)[0]))
    assert chunks[b"pHYs"] == struct.pack(">IIB", 2, 3, 1)
    assert chunks[b"eXIf"] == block(2, 3, 1)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "WEBP", "BMP"])
def test_a_photo_without_density_gets_none(tmp_path: Path, file_format: str) -> None:
    samples = smooth()
    buffer = io.BytesIO()
    Image.fromarray(samples).save(buffer, file_format)
    data = buffer.getvalue()
    if file_format == "BMP":
        data = data[:38] + bytes(8) + data[46:]
    result, _ = there_and_back(tmp_path, data)
    with Image.open(io.BytesIO(data)) as before, Image.open(io.BytesIO(result)) as after:
        assert after.info.get("dpi") == before.info.get("dpi")
    if file_format == "TIFF":
        assert not {282, 283, 296} & tiff_tags(result).first.keys()


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "BMP"])
@pytest.mark.parametrize("dpi", [72, 300, 123.4])
def test_density_is_kept_exactly(tmp_path: Path, file_format: str, dpi: float) -> None:
    buffer = io.BytesIO()
    Image.fromarray(smooth()).save(buffer, file_format, dpi=(dpi, dpi))
    result, _ = there_and_back(tmp_path, buffer.getvalue())
    with Image.open(buffer) as before, Image.open(io.BytesIO(result)) as after:
        assert after.info["dpi"] == before.info["dpi"]


def test_a_bmp_keeps_its_profile(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(smooth()).save(buffer, "BMP", dpi=(96, 96))
    plain = buffer.getvalue()
    pixels = plain[54:]
    place = struct.pack("<II", 124 + len(pixels), len(PROFILE))
    header = struct.pack("<I", 124) + plain[18:54] + bytes(16) + b"DEBM" + bytes(48)
    header += struct.pack("<I", 4) + place + bytes(4)
    data = plain[:2] + struct.pack("<III", 138 + len(pixels) + len(PROFILE), 0, 138)
    data += header + pixels + PROFILE
    result, photo = there_and_back(tmp_path, data)
    assert photo.notes == ()
    assert result == data


def test_a_bmp_of_the_fifth_version_stays_one(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(smooth()).save(buffer, "BMP")
    plain = buffer.getvalue()
    # Four masks, sRGB, its end points and gamma, and the purpose of conversions (intent).
    colours = bytes(16) + b"BGRs" + bytes(48) + struct.pack("<4I", 4, 0, 0, 0)
    header = struct.pack("<I", 124) + plain[18:54] + colours
    data = plain[:2] + struct.pack("<III", 138 + len(plain) - 54, 0, 138) + header + plain[54:]
    assert there_and_back(tmp_path, data)[0] == data


def test_an_orientation_of_two_numbers_is_applied_once(tmp_path: Path) -> None:
    def block(stated: int) -> bytes:
        tree = Tree()
        return tree.finished(tree.directory([tree.tag(0x0112, SHORT, stated, 0)]))

    for write in (jpeg_file, png_file, webp_file):
        result, photo = there_and_back(tmp_path, write(samples_of(), Labels(exif=block(6))))
        assert photo.size == (HEIGHT, WIDTH)
        assert block(1) in result


def test_exif_longer_than_a_segment_is_kept(tmp_path: Path) -> None:
    tree = Tree()
    entries = [(0x927C, 7, 90_000, bytes(90_000)), tree.tag(0x0112, SHORT, 3)]
    exif = tree.finished(tree.directory(entries))
    parts = [exif[:65_000], exif[65_000:]]
    others = [segment(0xE1, b"Exif\0\0" + part) for part in parts]
    result, photo = there_and_back(tmp_path, jpeg_file(smooth(), Labels(), *others))
    kept = [body[6:] for marker, body in jpeg_segments(result) if marker == 0xE1]
    assert [len(part) for part in kept] == [65_000, len(parts[1])]
    difference = np.flatnonzero(np.frombuffer(b"".join(kept), "B") != np.frombuffer(exif, "B"))
    assert len(difference) == 1, "only the orientation"
    assert photo.encoding.format == "JPEG"


@pytest.mark.parametrize("damage", ["header", "directory", "count", "loop"])
def test_damaged_exif_comes_back_as_it_is(tmp_path: Path, damage: str) -> None:
    exif = bytearray(exif_block(width=WIDTH, height=HEIGHT))
    if damage == "header":
        exif[:2] = b"XX"
    elif damage == "directory":
        exif[4:8] = struct.pack("<I", 0xFFFFFF)
    elif damage == "count":
        first = struct.unpack("<I", exif[4:8])[0]
        exif[first : first + 2] = b"\xff\xff"
    else:
        exif[-4:] = exif[4:8]
    for data in (
        jpeg_file(smooth(), Labels(exif=bytes(exif))),
        png_file(samples_of(), Labels(exif=bytes(exif))),
        webp_file(samples_of(), Labels(exif=bytes(exif))),
    ):
        result, photo = there_and_back(tmp_path, data)
        assert bytes(exif[:-4]) in result
        assert photo.size == (WIDTH, HEIGHT)


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("keyword", [b"Raw profile type exif", b"Raw profile type APP1"])
def test_exif_in_a_png_text_is_made_upright(
    tmp_path: Path, keyword: bytes, compressed: bool
) -> None:
    def text(stated: int) -> tuple[bytes, bytes]:
        size = {"width": WIDTH, "height": HEIGHT} if stated == 6 else upright_size(6)
        exif = b"Exif\0\0" + exif_block(orientation=stated, **size)
        digits = exif.hex()
        lines = [digits[place : place + 72] for place in range(0, len(digits), 72)]
        body = "\n".join(["", "exif", f"{len(exif):8}", *lines, ""]).encode()
        if compressed:
            return b"zTXt", keyword + b"\0\0" + zlib.compress(body)
        return b"tEXt", keyword + b"\0" + body

    result, photo = there_and_back(tmp_path, png_file(samples_of(), Labels(), text(6)))
    assert photo.size == (HEIGHT, WIDTH)
    assert text(1) in png_chunks(result)


@pytest.mark.parametrize(
    "packet",
    [
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="6" a="b"/></x:xmpmeta>',
        b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><tiff:Orientation>6</tiff:Orientation></x:xmpmeta>",
        b'<r xmlns:q="http://ns.adobe.com/tiff/1.0/" q:Orientation=\'6\' q:Make="x"/>',
        b'<broken tiff:Orientation="6"',
    ],
)
def test_the_orientation_in_xmp_is_reset(tmp_path: Path, packet: bytes) -> None:
    size = {"width": WIDTH, "height": HEIGHT}
    labels = Labels(exif=exif_block(orientation=6, **size), xmp=packet)
    for data in (jpeg_file(smooth(), labels), png_file(samples_of(), labels)):
        result, photo = there_and_back(tmp_path, data)
        assert photo.size == (HEIGHT, WIDTH)
        assert re.sub(rb"6(?=[\"'<])", b"1", packet) in result


def test_orientation_in_xmp_alone_is_applied(tmp_path: Path) -> None:
    labels = Labels(xmp=xmp_packet(orientation=8, width=WIDTH, height=HEIGHT))
    for data in (
        jpeg_file(smooth(), labels),
        png_file(samples_of(), labels),
        webp_file(samples_of(), labels),
    ):
        result, photo = there_and_back(tmp_path, data)
        assert photo.size == (HEIGHT, WIDTH)
        assert xmp_packet(orientation=1, **upright_size(8)) in result


def test_jpeg_thumbnails_go_with_the_old_pixels(tmp_path: Path) -> None:
    data = jpeg_file(smooth(), Labels())
    thumbnail = segment(0xE0, b"JFIF\0\x01\x02\0\0\x01\0\x01\x02\x01" + bytes(6))
    extension = segment(0xE0, b"JFXX\0\x10" + bytes(20))
    result, _ = there_and_back(tmp_path, data[:2] + thumbnail + extension + data[20:])
    assert jpeg_segments(result) == [(0xE0, b"JFIF\0\x01\x02\0\0\x01\0\x01\0\0")]


def test_each_of_two_exif_blocks_is_made_upright(tmp_path: Path) -> None:
    blocks = [exif_block(order, orientation=6, width=WIDTH, height=HEIGHT) for order in "<>"]
    data = jpeg_file(smooth(), Labels(exif=blocks[0]), segment(0xE1, b"Exif\0\0" + blocks[1]))
    segments = jpeg_segments(there_and_back(tmp_path, data)[0])
    upright = [exif_block(order, width=HEIGHT, height=WIDTH) for order in "><"]
    assert [body[6:] for marker, body in segments if marker == 0xE1] == upright


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("unit", [1, 2, 3])
def test_a_tiffs_density_by_axis_is_turned(tmp_path: Path, order: str, unit: int) -> None:
    def file(orientation: int, across: int, down: int) -> bytes:
        tree = Tree(order)
        density = [tree.tag(282, RATIONAL, across, 7), tree.tag(283, RATIONAL, down, 3)]
        density.append(tree.tag(296, SHORT, unit))
        return labelled_tiff(
            samples_of(), Labels(), orientation=orientation, order=order, others=density
        )

    for orientation in range(1, 9):
        result = tiff_tags(there_and_back(tmp_path, file(orientation, 300, 72))[0]).first
        first, second = struct.pack(f"{order}II", 300, 7), struct.pack(f"{order}II", 72, 3)
        expected = (second, first) if orientation in SIDEWAYS else (first, second)
        assert (result[282], result[283]) == expected


@pytest.mark.parametrize("orientation", [1, 6])
def test_the_scale_of_a_png_is_turned(tmp_path: Path, orientation: int) -> None:
    data = png_file(samples_of(), labels_for(orientation), (b"sCAL", b"\x012.5\x00040"))
    chunks = dict(png_chunks(there_and_back(tmp_path, data)[0]))
    assert chunks[b"sCAL"] == (b"\x012.5\x00040" if orientation == 1 else b"\x01040\x002.5")


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
def test_xmp_of_16_bits_a_character_is_made_upright(tmp_path: Path, codec: str) -> None:
    def packet(orientation: int, width: int, height: int) -> bytes:
        text = xmp_packet(orientation=orientation, width=width, height=height).decode()
        return text.encode(codec)

    data = jpeg_file(smooth(), Labels(xmp=packet(6, WIDTH, HEIGHT)))
    result, photo = there_and_back(tmp_path, data)
    assert photo.size == (HEIGHT, WIDTH)
    assert packet(1, HEIGHT, WIDTH) in result


def test_exif_of_a_png_may_begin_as_a_jpegs(tmp_path: Path) -> None:
    def prefixed(orientation: int, width: int, height: int) -> bytes:
        return b"Exif\0\0" + exif_block(orientation=orientation, width=width, height=height)

    data = png_file(samples_of(), Labels(exif=prefixed(6, WIDTH, HEIGHT)))
    result, photo = there_and_back(tmp_path, data)
    assert photo.size == (HEIGHT, WIDTH)
    assert dict(png_chunks(result))[b"eXIf"] == prefixed(1, HEIGHT, WIDTH)
    assert photo.encoding.container is not None
    assert photo.encoding.container.metadata.exif[:4] == b"II*\0"


@pytest.mark.parametrize("name", [b"tEXt", b"zTXt"])
def test_xmp_in_a_png_text_is_made_upright(tmp_path: Path, name: bytes) -> None:
    def text(data: bytes) -> bytes:
        lines = b"\nxmp\n%8d\n%s\n" % (len(data), data.hex().encode())
        return b"Raw profile type xmp\0" + (
            b"\0" + zlib.compress(lines) if name == b"zTXt" else lines
        )

    packet = xmp_packet(orientation=6, width=WIDTH, height=HEIGHT)
    data = png_file(samples_of(), Labels(), (name, text(packet)))
    result, photo = there_and_back(tmp_path, data)
    assert photo.size == (HEIGHT, WIDTH)
    body = dict(png_chunks(result))[name].partition(b"\0")[2]
    body = zlib.decompress(body[1:]) if name == b"zTXt" else body
    upright = bytes.fromhex(b"".join(body.split()[2:]).decode())
    assert upright == xmp_packet(orientation=1, width=HEIGHT, height=WIDTH)


def test_png_background_and_depths_follow_the_colours(tmp_path: Path) -> None:
    palette = (b"PLTE", bytes([10, 20, 30, 200, 100, 50]))
    data = png_by_hand(
        (2, 1, 8, 3),
        [b"\0\x01"],
        (b"sBIT", b"\5\6\5"),
        palette,
        (b"tRNS", b"\xff\0"),
        (b"bKGD", b"\1"),
    )
    chunks = dict(png_chunks(there_and_back(tmp_path, data)[0]))
    assert chunks[b"bKGD"] == bytes([0, 200, 0, 100, 0, 50])
    assert chunks[b"sBIT"] == b"\5\6\5\x08"
    assert b"PLTE" not in chunks

    grey = png_by_hand(
        (4, 1, 2, 0), [b"\x1b"], (b"bKGD", b"\0\3"), (b"tRNS", b"\0\2"), (b"sBIT", b"\2")
    )
    chunks = dict(png_chunks(there_and_back(tmp_path, grey)[0]))
    assert chunks[b"bKGD"] == b"\0\xff"


def test_png_chunks_of_the_old_pixels_are_noted(tmp_path: Path) -> None:
    data = png_file(samples_of(), Labels(), (b"pCAL", b"x"), (b"caBX", b"jumb"), (b"iDOT", b"x"))
    result, photo = there_and_back(tmp_path, data + b"more")
    assert [name for name, _ in png_chunks(result)] == [b"IHDR", b"IDAT", b"IEND"]
    assert photo.notes == (
        "its chunk pCAL, which belongs to the old pixels, is left out",
        "its content credentials (C2PA) are left out: they vouch for other pixels",
        "4 bytes behind its end are left out",
    )


@pytest.mark.parametrize(
    ("chunks", "name"),
    [
        ([(b"gAMA", struct.pack(">I", 100_000))], "gamma 1"),
        ([(b"cICP", bytes([9, 16, 0, 1]))], "PQ"),
        ([(b"cICP", bytes([9, 18, 0, 1]))], "HLG"),
        ([(b"cICP", bytes([1, 8, 0, 1]))], "linear"),
        ([(b"cICP", bytes([1, 1, 0, 0]))], "the narrow range of video"),
    ],
)
def test_values_far_from_srgb_are_noted(
    tmp_path: Path, chunks: list[tuple[bytes, bytes]], name: str
) -> None:
    result, photo = there_and_back(tmp_path, png_file(samples_of(), Labels(), *chunks))
    assert photo.notes == (f"its values are stored as {name}, and dehazed as if they were sRGB",)
    assert chunks[0] in png_chunks(result)


GAIN_MAP_NOTE = "its HDR gain map is left out: the result is an ordinary photo"
GAIN_MAP = (
    '<Container:Directory xmlns:Container="http://ns.google.com/photos/1.0/container/"'
    ' xmlns:Item="http://ns.google.com/photos/1.0/container/item/"><rdf:Seq><rdf:li'
    ' rdf:parseType="Resource"><Container:Item Item:Semantic="GainMap" Item:Length="9"/></rdf:li>'
    "</rdf:Seq></Container:Directory>"
    '<hdrgm:Version xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/">1.0</hdrgm:Version>'
)
FILM = (
    '<GCamera:MotionPhoto xmlns:GCamera="http://ns.google.com/photos/1.0/camera/">1'
    "</GCamera:MotionPhoto><GCamera:MicroVideoOffset>99</GCamera:MicroVideoOffset>"
)


@pytest.mark.parametrize(
    ("extra", "behind", "note"),
    [
        (GAIN_MAP, b"\xff\xd8\xff\xe0 map", GAIN_MAP_NOTE),
        (FILM, b"\0\0\0\x18ftypmp42", "its film (motion photo) is left out"),
        ("", b"\0\0\0\x18ftypqt  ", "its film (motion photo) is left out"),
        ("", b"\xff\xd8\xff\xe0 preview", "the further pictures behind it are left out"),
        ("", b"some bytes", "10 bytes behind its end are left out"),
    ],
)
def test_data_after_the_end_of_a_jpeg_are_noted(
    tmp_path: Path, extra: str, behind: bytes, note: str
) -> None:
    size = {"width": WIDTH, "height": HEIGHT}
    labels = Labels(xmp=xmp_packet(orientation=1, extra=extra, **size))
    result, photo = there_and_back(tmp_path, jpeg_file(smooth(), labels, behind=behind))
    assert photo.notes == (note,)
    assert behind not in result
    # The XMP no longer mentions it, and is otherwise unchanged.
    assert xmp_packet(orientation=1, **size) in result


def test_a_gain_map_promised_by_attributes_is_taken_out(tmp_path: Path) -> None:
    before = (
        b'<r xmlns:h="http://ns.adobe.com/hdr-gain-map/1.0/" h:Version="1.0" dc:title="kept"'
        b' xmlns:g="http://ns.google.com/photos/1.0/camera/" g:MotionPhoto="1" g:Mode="2"/>'
    )
    iso = segment(0xE2, b"urn:iso:std:iso:ts:21496:-1\0\0\0\0\0")
    mpf = segment(0xE2, b"MPF\0II*\0" + bytes(40))
    data = jpeg_file(smooth(), Labels(xmp=before), iso, mpf, behind=b"\xff\xd8\xff")
    result, photo = there_and_back(tmp_path, data)
    assert set(photo.notes) == {
        "its HDR gain map is left out: the result is an ordinary photo",
        "its film (motion photo) is left out",
    }
    after = before.replace(b' h:Version="1.0"', b"").replace(b' g:MotionPhoto="1"', b"")
    assert jpeg_segments(result)[1:] == [(0xE1, PREFIX + after)]


@pytest.mark.parametrize("extra", [GAIN_MAP, FILM])
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_promise_that_no_format_keeps_is_noted(
    tmp_path: Path, file_format: str, extra: str
) -> None:
    size = {"width": WIDTH, "height": HEIGHT}
    labels = Labels(xmp=xmp_packet(orientation=1, extra=extra, **size))
    if file_format == "TIFF":
        data = labelled_tiff(samples_of(), labels, orientation=1)
    else:
        write = {"JPEG": jpeg_file, "PNG": png_file, "WEBP": webp_file}[file_format]
        data = write(samples_of(), labels)
    result, photo = there_and_back(tmp_path, data)
    assert len(photo.notes) == 1
    assert xmp_packet(orientation=1, **size) in result


def test_each_thing_behind_a_jpeg_is_noted(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(smooth()).save(buffer, "JPEG")
    picture = buffer.getvalue()
    size = {"width": WIDTH, "height": HEIGHT}
    promise = Labels(xmp=xmp_packet(orientation=1, extra=GAIN_MAP, **size))
    credentials = segment(0xEB, b"JP\0\1\0\0\0\1\0\0\0\x20jumbc2pa")
    further = "the further pictures behind it are left out"
    for labels, others, behind, notes in [
        (promise, [], picture, {GAIN_MAP_NOTE}),
        (promise, [], picture + b"\0\0" + picture, {GAIN_MAP_NOTE, further}),
        (promise, [], picture + b"else", {GAIN_MAP_NOTE, "4 bytes behind its end are left out"}),
        (
            Labels(),
            [credentials],
            picture,
            {"its content credentials (C2PA) are left out: they vouch for other pixels", further},
        ),
        (Labels(), [], picture + b"else", {further, "4 bytes behind its end are left out"}),
    ]:
        data = jpeg_file(smooth(), labels, *others, behind=behind)
        assert set(there_and_back(tmp_path, data)[1].notes) == notes


def test_content_credentials_are_noted(tmp_path: Path) -> None:
    data = jpeg_file(smooth(), Labels(), segment(0xEB, b"JP\0\1\0\0\0\1\0\0\0\x20jumbc2pa"))
    result, photo = there_and_back(tmp_path, data)
    assert photo.notes == (
        "its content credentials (C2PA) are left out: they vouch for other pixels",
    )
    assert b"c2pa" not in result


def test_tiff_pages_previews_and_layers(tmp_path: Path) -> None:
    samples = samples_of()
    layers = (37724, 7, 8, b"8BIMLayr")
    result, photo = there_and_back(
        tmp_path, labelled_tiff(samples, Labels(), orientation=1, others=[layers])
    )
    assert photo.notes == ("its Photoshop layers are left out, the flattened picture is kept",)
    assert b"8BIMLayr" not in result

    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(samples, photometric="rgb", metadata=None)
        writer.write(samples[::2, ::2], photometric="rgb", subfiletype=1, metadata=None)
    assert there_and_back(tmp_path, buffer.getvalue())[1].notes == ()
    for kind, notes in ((1, ()), (0, ("only the first of its 2 pictures is kept",))):
        buffer = io.BytesIO()
        with tifffile.TiffWriter(buffer) as writer:
            writer.write(samples, photometric="rgb", metadata=None, subifds=1)
            writer.write(samples, photometric="rgb", metadata=None, subfiletype=kind)
        assert there_and_back(tmp_path, buffer.getvalue())[1].notes == notes
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for _ in range(3):
            writer.write(samples, photometric="rgb", metadata=None)
    result, photo = there_and_back(tmp_path, buffer.getvalue())
    assert photo.notes == ("only the first of its 3 pictures is kept",)
    with tifffile.TiffFile(io.BytesIO(result)) as file:
        assert len(file.pages) == 1


LEVELS = {290: b"\3\0", 291: bytes(512), 301: bytes(512), 342: bytes(12), 532: bytes(48)}


def tiff_with_levels(photometric: int) -> bytes:
    """A TIFF of 8 bits, grey or RGB, with tags about its levels."""
    kinds = {290: (SHORT, 1), 291: (SHORT, 256), 301: (SHORT, 256), 342: (SHORT, 6)}
    kinds[532] = (RATIONAL, 6)
    others = [(tag, *kinds[tag], value) for tag, value in LEVELS.items()]
    samples = samples_of(3 if photometric == 2 else 1)
    data = labelled_tiff(samples, Labels(), orientation=1, others=others)
    stated = struct.pack("<HHIHH", 262, SHORT, 1, 2 if photometric == 2 else 1, 0)
    assert data.count(stated) == 1
    return data.replace(stated, struct.pack("<HHIHH", 262, SHORT, 1, photometric, 0))


@pytest.mark.parametrize("photometric", [1, 2])
def test_tiff_tags_about_levels_are_kept(tmp_path: Path, photometric: int) -> None:
    result, photo = there_and_back(tmp_path, tiff_with_levels(photometric))
    assert photo.notes == ()
    assert {tag: tiff_tags(result).first[tag] for tag in LEVELS} == LEVELS


def test_tiff_tags_about_other_levels_are_noted(tmp_path: Path) -> None:
    result, photo = there_and_back(tmp_path, tiff_with_levels(0))
    assert photo.notes == (
        "its tags about levels that the result does not have are left out (GrayResponseUnit, "
        "GrayResponseCurve, TransferFunction, TransferRange, ReferenceBlackWhite)",
    )
    assert not LEVELS.keys() & tiff_tags(result).first.keys()


def test_tiff_tags_of_an_unknown_type_are_noted(tmp_path: Path) -> None:
    unknown = [(50000, 99, 4, b"lost"), (50001, 200, 40, bytes(40))]
    data = labelled_tiff(samples_of(), Labels(), orientation=1, others=unknown)
    result, photo = there_and_back(tmp_path, data)
    assert photo.notes == (
        "its tags that are damaged or of an unknown type are left out (50000, 50001)",
    )
    assert not {50000, 50001} & tiff_tags(result).first.keys()


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("kind", "count"), [(99, 40), (7, 10**6)])
def test_lost_values_of_exif_tags_are_noted(
    tmp_path: Path, kind: int, count: int, order: str, big: bool
) -> None:
    """How long a value of an unknown type is cannot be known: it may lie anywhere."""
    lost = (0xC4A5, kind, count, bytes(range(40)))
    data = labelled_tiff(
        samples_of(), Labels(), orientation=1, order=order, big=big, details=[lost]
    )
    result, photo = there_and_back(tmp_path, data)
    assert photo.notes == (
        "its EXIF tags that are damaged or of an unknown type may lose their values (50341)",
    )
    assert result.find(MAKER_NOTE) == data.find(MAKER_NOTE) > 0


@pytest.mark.parametrize("order", ["<", ">"])
def test_maker_notes_keep_what_lies_elsewhere_in_a_tiff(tmp_path: Path, order: str) -> None:
    """The offsets of Olympus's notes count from the header of the file."""
    data = olympus_tiff(samples_of(), order=order)
    result, photo = there_and_back(tmp_path, data)
    assert photo.notes == ()
    for value in (b"OLYMP\0\1\0", OLYMPUS_WITHIN, OLYMPUS_ELSEWHERE):
        assert result.find(value) == data.find(value) > 0
    # What the pointer leads to, read anew.
    note = result.find(b"OLYMP\0\1\0")
    length, place = struct.unpack_from(f"{order}II", result, note + 8 + 2 + 12 + 4)
    assert result[place : place + length] == OLYMPUS_ELSEWHERE


def test_maker_notes_that_lie_among_pixels_are_noted(tmp_path: Path) -> None:
    """As where a program moved the note, and not its offsets."""
    _, photo = there_and_back(tmp_path, olympus_tiff(samples_of(), among_pixels=True))
    assert photo.notes == ("its maker notes lose values that lie among its pixels",)


def test_tiff_texts_in_utf8_are_kept(tmp_path: Path) -> None:
    # Type 129 of EXIF 3.0: a byte each.
    artist = (0x013B, 129, len(TEXT), TEXT)
    data = labelled_tiff(samples_of(), Labels(), orientation=1, others=[artist])
    result, photo = there_and_back(tmp_path, data)
    assert photo.notes == ()
    assert struct.pack("<HHI", 0x013B, 129, len(TEXT)) in result
    assert result.count(TEXT) == data.count(TEXT)


def test_a_tiff_does_not_grow_by_being_read_and_written(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    samples = random.integers(0, 65536, (300, 400, 3)).astype(np.uint16)
    data = labelled_tiff(samples, Labels(xmp=b"<x/>"), orientation=1)
    for _ in range(3):
        result, _ = there_and_back(tmp_path, data)
        assert len(result) < len(data) + 1000
        data = result


def test_cmyk_leaves_its_profile_and_keeps_the_rest(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("CMYK", (WIDTH, HEIGHT), (0, 255, 255, 0)).save(buffer, "JPEG", quality=95)
    exif = exif_block(width=WIDTH, height=HEIGHT)
    others = segment(0xE1, b"Exif\0\0" + exif) + segment(0xE2, b"ICC_PROFILE\0\1\1no profile")
    data = buffer.getvalue()
    result, photo = there_and_back(tmp_path, data[:2] + others + data[2:])
    assert photo.notes == ("converted from CMYK to sRGB",)
    assert [body[:6] for _, body in jpeg_segments(result)] == [b"Exif\0\0"]
    np.testing.assert_allclose(photo.pixels[0, 0], [1, 0, 0], atol=0.02)


def test_maker_notes_of_bigtiff_stay_where_they_are(tmp_path: Path) -> None:
    data = labelled_tiff(samples_of(3, 16), Labels(), orientation=1, order=">", big=True)
    result, _ = there_and_back(tmp_path, data)
    assert result.find(MAKER_NOTE) == data.find(MAKER_NOTE) > 0
    assert IPTC in result
    assert tiff_tags(result).first[256] == struct.pack(">I", WIDTH)


def test_xmp_that_fills_its_segment_still_fits(tmp_path: Path) -> None:
    labels = Labels(exif=exif_block(orientation=6, width=5, height=5))
    packet = xmp_packet(orientation=6, width=5, height=5)
    filled = packet.replace(b" " * 50, b" " * (0xFFFF - 2 - len(PREFIX) - len(packet) + 50))
    data = jpeg_file(smooth(), Labels(exif=labels.exif, xmp=filled))
    result, _ = there_and_back(tmp_path, data)
    upright = xmp_packet(orientation=1, **upright_size(6)).replace(b" " * 50, b"\n")
    assert jpeg_segments(result)[2] == (0xE1, PREFIX + upright)


@settings(
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    file_format=st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF", "BigTIFF"]),
    changes=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=5),
)
@pytest.mark.filterwarnings("ignore")
def test_damaged_metadata_give_a_photo_that_can_be_written(
    tmp_path: Path, file_format: str, changes: list[tuple[float, int]]
) -> None:
    """A photo that was read can be written, so no job fails after its work."""
    labels = labels_for(6)
    write = {"JPEG": jpeg_file, "PNG": png_file, "WEBP": webp_file}.get(file_format)
    if write is not None:
        data = bytearray(write(samples_of(), labels))
    else:
        big = file_format == "BigTIFF"
        data = bytearray(labelled_tiff(samples_of(), labels, orientation=6, big=big))
    for place, value in changes:
        data[int(place * len(data))] = value
    try:
        (tmp_path / "source").write_bytes(data)
        photo = read_photo(tmp_path / "source", max_megapixels=1)
    except PhotoError:
        return
    write_photo(tmp_path / "result", photo.pixels, like=photo)
    assert read_photo(tmp_path / "result").size == photo.size
