"""Results in another format or quality: pixels, metadata, and a note on all that is lost."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from photo_files import (
    COMMENT,
    MAKER_NOTE,
    PHOTOSHOP,
    PROFILE,
    TEXT,
    Labels,
    Tag,
    exif_block,
    jpeg_file,
    jpeg_segments,
    labelled_tiff,
    png_chunks,
    png_file,
    segment,
    tiff_tags,
    webp_file,
    xmp_packet,
)
from PIL import Image

from dehaze.photos import (
    Photo,
    PhotoError,
    ResultFile,
    encode_photo,
    open_bytes,
    read_photo,
    write_photo,
)

# Stored lying on its side: upright it is 12 wide and 20 high.
TURNED = {"orientation": 6, "width": 20, "height": 12}
LABELS = Labels(exif_block(**TURNED), xmp_packet(**TURNED), PROFILE)
TARGETS = {"jpg": "JPEG", "png": "PNG", "tif": "TIFF", "webp": "WEBP", "bmp": "BMP"}


def samples(channels: int = 3, bits: int = 8) -> np.ndarray:
    random = np.random.default_rng(0)
    return random.integers(0, 2**bits, (12, 20, channels)).astype(f"uint{bits}")


# Another EXIF block, a tag with a value for each of 256 levels, and one with a number of 64 bits.
TWICE = segment(0xE1, b"Exif\0\0" + exif_block(**TURNED))
CURVE = (301, 3, 256, bytes(512))
WIDE = (50000, 16, 1, bytes(8))


def tiff(order: str, *, big: bool, others: Sequence[Tag] = ()) -> bytes:
    return labelled_tiff(samples(), LABELS, orientation=6, order=order, big=big, others=others)


SOURCES: dict[str, Callable[[], bytes]] = {
    "JPEG": lambda: jpeg_file(samples(), LABELS),
    "PNG": lambda: png_file(samples(), LABELS),
    "WEBP": lambda: webp_file(samples(), LABELS),
    "TIFF": lambda: tiff("<", big=False),
    "big-endian BigTIFF": lambda: tiff(">", big=True),
}


def converted(data: bytes, file: ResultFile) -> tuple[bytes, Photo]:
    """The file that a photo's own pixels are written to, and the photo that it was made from."""
    path = Path("photo")
    photo = file.applied_to(open_bytes(data, path).decode(), path)
    return encode_photo(Path("result"), photo.pixels, photo), photo


@pytest.mark.parametrize(
    ("source", "suffix"),
    [
        (source, suffix)
        for source in SOURCES
        for suffix, target in TARGETS.items()
        if target not in source
    ],
)
def test_metadata_go_from_every_format_to_every_other(source: str, suffix: str) -> None:
    data = SOURCES[source]()
    coded, photo = converted(data, ResultFile(f".{suffix}"))
    with Image.open(io.BytesIO(coded)) as image:
        assert image.format == TARGETS[suffix]
        assert image.size == (12, 20)
        found = image.getexif()
        details, gps = found.get_ifd(0x8769), found.get_ifd(0x8825)
        xmp = image.info.get("xmp", b"")
    if suffix == "bmp":
        assert coded.endswith(PROFILE)
        assert photo.notes[-1].endswith("EXIF, XMP")
        return
    assert image.info["icc_profile"] == PROFILE
    # Pillow gives the text of ASCII tags as Latin-1.
    assert found[0x010E].encode("latin-1") == TEXT[:-1]
    assert found.get(0x0112, 1) == 1
    assert details[0x9003] == "2024:11:02 07:31:00"
    assert (details[0xA002], details[0xA003]) == (12, 20)
    assert gps[2] == (54.0, 27.0, 16.0)
    assert found.get_ifd(0xA005)[1] == "R98"
    assert b'dc:title="\xe9\x9c\xa7' in xmp
    assert b'tiff:Orientation="1"' in xmp
    assert b"<exif:PixelXDimension>12<" in xmp


@pytest.mark.parametrize("source", ["JPEG", "PNG", "WEBP"])
def test_maker_notes_keep_their_place_in_a_tiff(source: str) -> None:
    coded, photo = converted(SOURCES[source](), ResultFile(".tif"))
    assert tiff_tags(coded).exif[0x927C] == MAKER_NOTE
    assert LABELS.exif is not None
    assert tiff_tags(coded).places[0x927C] == LABELS.exif.index(MAKER_NOTE)
    assert photo.notes == ()


@pytest.mark.parametrize(
    ("data", "suffix", "lost"),
    [
        (lambda: jpeg_file(samples(), Labels(), segment(0xED, PHOTOSHOP)), "png", "IPTC and"),
        (lambda: jpeg_file(samples(), Labels(), segment(0xFE, COMMENT)), "tif", "comments"),
        (lambda: jpeg_file(samples(), Labels(), segment(0xE5, b"a lens")), "webp", "APP5"),
        (lambda: png_file(samples(), Labels(), (b"tEXt", b"Title\0Fog")), "jpg", "tEXt"),
        (lambda: png_file(samples(), Labels(), (b"gAMA", b"\0\0\xb1\x8f")), "jpg", "gAMA"),
        (lambda: tiff("<", big=False), "png", "IPTC, maker notes"),
        (lambda: png_file(samples(), Labels(xmp=b"x" * 70_000)), "jpg", "XMP"),
        (lambda: png_file(samples(), Labels(exif=LABELS.exif)), "bmp", "EXIF"),
        (lambda: jpeg_file(samples(), LABELS, TWICE), "png", "a second block of EXIF"),
        (lambda: tiff("<", big=False, others=[CURVE]), "png", "TransferFunction, IPTC, maker"),
        (lambda: tiff("<", big=True, others=[WIDE]), "png", "IPTC, tag 50000, maker notes"),
    ],
)
def test_metadata_without_a_place_are_noted(
    data: Callable[[], bytes], suffix: str, lost: str
) -> None:
    _, photo = converted(data(), ResultFile(f".{suffix}"))
    assert f"of its metadata {TARGETS[suffix]} has no place for: {lost}" in photo.notes[-1]


def test_a_long_profile_goes_through_several_segments() -> None:
    profile = PROFILE + bytes(150_000)
    coded, photo = converted(png_file(samples(), Labels(profile=profile)), ResultFile(".jpg"))
    parts = [body for marker, body in jpeg_segments(coded) if marker == 0xE2]
    assert [part[12:14] for part in parts] == [b"\1\3", b"\2\3", b"\3\3"]
    assert b"".join(part[14:] for part in parts) == profile
    assert photo.notes == ()


@pytest.mark.parametrize(("source", "suffix"), [("png", "tif"), ("tif", "png"), ("png", "bmp")])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_values_stay_where_nothing_is_coded_with_loss(
    tmp_path: Path, source: str, suffix: str, channels: int
) -> None:
    bits = 8 if suffix == "bmp" else 16
    stored = samples(channels, bits)
    make = {"png": png_file, "tif": lambda s, _: labelled_tiff(s, Labels(), orientation=1)}[source]
    coded, photo = converted(make(stored, Labels()), ResultFile(f".{suffix}"))
    (tmp_path / f"a.{suffix}").write_bytes(coded)
    back = read_photo(tmp_path / f"a.{suffix}")
    assert back.encoding.bits == bits
    np.testing.assert_array_equal(back.pixels, photo.pixels)
    assert back.encoding.grey == (channels < 3 and (suffix, channels) != ("bmp", 2))
    assert (back.alpha is None) == (channels in (1, 3))
    if back.alpha is not None:
        np.testing.assert_array_equal(back.alpha, photo.alpha)


@pytest.mark.parametrize("suffix", ["jpg", "webp", "bmp"])
def test_sixteen_bits_that_become_eight_are_noted(suffix: str) -> None:
    coded, photo = converted(png_file(samples(3, 16), Labels()), ResultFile(f".{suffix}"))
    assert open_bytes(coded, Path("a")).decode().encoding.bits == 8
    assert photo.notes == (f"its 16 bits a channel become 8: {TARGETS[suffix]} has no more",)


def test_transparency_without_a_place_is_refused() -> None:
    with pytest.raises(PhotoError, match=r"photo: is transparent in places, and JPEG has no"):
        converted(png_file(samples(4), Labels()), ResultFile(".jpg"))
    opaque = samples(4)
    opaque[..., 3] = 255
    coded, photo = converted(png_file(opaque, Labels()), ResultFile(".jpg"))
    assert photo.notes == ()
    assert open_bytes(coded, Path("a")).decode().alpha is None


def test_grey_becomes_colour_where_a_format_has_no_grey() -> None:
    grey = PROFILE[:16] + b"GRAY" + PROFILE[20:]
    data = png_file(samples(1), Labels(profile=grey))
    coded, photo = converted(data, ResultFile(".webp"))
    with Image.open(io.BytesIO(coded)) as image:
        assert image.mode == "RGB"
        assert "icc_profile" not in image.info
    assert photo.notes[-1].endswith("has no place for: a colour profile of grey")
    assert dict(png_chunks(data))[b"iCCP"]


def test_quality_decides_the_size_of_jpeg_and_lossy_webp() -> None:
    scene = np.kron(samples(), np.ones((8, 8, 1), np.uint8))
    buffer = io.BytesIO()
    Image.fromarray(scene).save(buffer, "WEBP", quality=70)
    for data, suffix in (
        (jpeg_file(scene, Labels()), None),
        (png_file(scene, Labels()), ".jpeg"),
        (png_file(scene, Labels()), ".webp"),
        (buffer.getvalue(), None),
    ):
        coarse, photo = converted(data, ResultFile(suffix, quality=20))
        fine, _ = converted(data, ResultFile(suffix, quality=98))
        usual, _ = converted(data, ResultFile(suffix))
        assert len(coarse) < len(usual) < len(fine)
        assert photo.notes == ()


def test_quality_leaves_a_lossless_webp_alone_and_says_so() -> None:
    data = webp_file(samples(), Labels())
    coded, photo = converted(data, ResultFile(quality=20))
    assert coded == converted(data, ResultFile())[0]
    assert photo.notes == ("is a lossless WebP and stays one: without --quality",)


def test_a_photo_without_conversion_is_the_same_object() -> None:
    photo = open_bytes(SOURCES["TIFF"](), Path("a.tif")).decode()
    for file in (ResultFile(), ResultFile(".tiff"), ResultFile(quality=5)):
        assert file.applied_to(photo, Path("a.tif")) is photo


def test_a_wrong_suffix_is_not_noted_when_the_format_changes(tmp_path: Path) -> None:
    write_photo(tmp_path / "a.png", np.zeros((4, 4, 3), np.float32))
    path = (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    photo = read_photo(path)
    assert photo.notes == ("holds PNG in spite of its name, and comes back as PNG",)
    assert ResultFile(".jpg").applied_to(photo, path).notes == ()


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".bmp"])
def test_a_results_size_is_near_the_estimate(suffix: str) -> None:
    data = (Path(__file__).parents[2] / "examples" / "kodim19_haze.jpg").read_bytes()
    coded, _ = converted(data, ResultFile(suffix))
    expected = len(data) * ResultFile(suffix).growth(Path("a.jpg"))
    assert expected / 3 < len(coded) < 3 * expected


@pytest.mark.parametrize(
    ("name", "file"),
    [("a.jpg", ResultFile(quality=20)), ("a.JPEG", ResultFile(".jpg")), ("a", ResultFile(".png"))],
)
def test_a_format_that_stays_or_is_unknown_keeps_the_size(name: str, file: ResultFile) -> None:
    assert file.growth(Path(name)) == 1.0


@pytest.mark.parametrize(
    ("name", "file", "result"),
    [
        ("sub/a.JPG", ResultFile(), "sub/a.JPG"),
        ("sub/a.JPG", ResultFile(".jpeg"), "sub/a.JPG"),
        ("sub/a.JPG", ResultFile(".png"), "sub/a.png"),
        ("a.b.jpg", ResultFile(".tif", addition="_clear"), "a.b_clear.tif"),
        ("a", ResultFile(".png", addition=" 2"), "a 2.png"),
        ("fog.2024", ResultFile(addition="_clear"), "fog.2024_clear"),
    ],
)
def test_a_results_name(name: str, file: ResultFile, result: str) -> None:
    assert file.name(Path(name)) == Path(result)
