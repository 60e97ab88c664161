"""docs/formats.md, line by line: kinds are kept, noted, left out or refused as it says."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from photo_files import (
    COMMENT,
    IPTC,
    MAKER_NOTE,
    OLYMPUS_ELSEWHERE,
    PHOTOSHOP,
    PROFILE,
    RATIONAL,
    SHORT,
    TEXT,
    Labels,
    TiffKind,
    Tree,
    exif_block,
    jpeg_file,
    labelled_tiff,
    olympus_tiff,
    png_by_hand,
    png_file,
    segment,
    tiff_file,
    tiff_tags,
    webp_file,
    xmp_packet,
)
from PIL import Image, JpegImagePlugin

from dehaze.photos import Photo, PhotoError, read_photo, write_photo

REFUSED = r"supported|is an animation|not stored|does not say where"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "formats.md"
SIZE = {"width": 20, "height": 12}
EXIF = exif_block(**SIZE)
XMP = xmp_packet(orientation=1, **SIZE)
ALL = Labels(EXIF, XMP, PROFILE)
NONE = Labels()


def samples(channels: int = 3, bits: int = 8) -> np.ndarray:
    random = np.random.default_rng(0)
    return random.integers(0, 2**bits, (12, 20, channels)).astype(f"uint{bits}")


def pillow(file_format: str, mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(samples()).convert(mode).save(buffer, file_format, **options)
    return buffer.getvalue()


def moving(file_format: str) -> bytes:
    frames = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (10, 200)]
    buffer = io.BytesIO()
    frames[0].save(buffer, file_format, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def tiff(array: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **({"photometric": "rgb"} | options))
    return buffer.getvalue()


def pages(**second: object) -> bytes:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(samples(), photometric="rgb", metadata=None)
        writer.write(samples(), photometric="rgb", metadata=None, **second)
    return buffer.getvalue()


def few_bits(bits: int, photometric: int = 1, **changed: int | None) -> bytes:
    tree = Tree()
    numbers = {
        256: 8,
        257: 1,
        258: bits,
        259: 1,
        262: photometric,
        273: tree.put(bytes(8)),
        279: bits,
    }
    tags = numbers | {int(tag.removeprefix("t")): number for tag, number in changed.items()}
    return tree.finished(
        tree.directory([tree.tag(tag, SHORT, n) for tag, n in tags.items() if n is not None])
    )


def below_the_first(**second: object) -> bytes:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(samples(), photometric="rgb", metadata=None, subifds=1)
        writer.write(samples(), photometric="rgb", metadata=None, **second)
    return buffer.getvalue()


def rarely_sampled_jpeg(sampling: str) -> bytes:
    coded = imagecodecs.jpeg8_encode(samples(), level=80, subsampling=sampling)
    with Image.open(io.BytesIO(coded)) as image:
        assert JpegImagePlugin.get_sampling(image) == -1
    return coded


def lossless_jpeg(marker: int, bits: int = 8) -> bytes:
    frame = struct.pack(">BHHB", bits, 8, 8, 3) + bytes(9)
    return b"\xff\xd8\xff" + bytes([marker]) + struct.pack(">H", len(frame) + 2) + frame


def masked_bmp() -> bytes:
    masks = struct.pack("<3I", 0xFF000000, 0xFF0, 0xFF0000)
    header = struct.pack("<IiiHHIIiiII", 40, 2, 2, 1, 32, 3, 16, 2835, 2835, 0, 0)
    return struct.pack("<2sIII", b"BM", 82, 0, 66) + header + masks + bytes(16)


def bmp_of_32_bits() -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, 2, 2, 1, 32, 0, 16, 2835, 2835, 0, 0)
    return struct.pack("<2sIII", b"BM", 70, 0, 54) + header + bytes(range(16))


def profiled_bmp() -> bytes:
    plain = pillow("BMP", dpi=(96, 96))
    pixels = plain[54:]
    header = struct.pack("<I", 124) + plain[18:54] + bytes(16) + b"DEBM" + bytes(48)
    header += struct.pack("<III", 4, 124 + len(pixels), len(PROFILE)) + bytes(4)
    start = struct.pack("<III", 138 + len(pixels) + len(PROFILE), 0, 138)
    return plain[:2] + start + header + pixels + PROFILE


def webp_with(name: bytes, body: bytes) -> bytes:
    data = webp_file(samples(), ALL)
    data += name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)
    return data[:4] + struct.pack("<I", len(data) - 8) + data[8:]


def same_values(source: bytes, result: bytes, photo: Photo) -> None:
    """Nothing is lost: what came back, read again, is the same photo."""
    assert photo.notes == ()


def shares(*pieces: bytes) -> Callable[[bytes, bytes, Photo], None]:
    def check(source: bytes, result: bytes, photo: Photo) -> None:
        assert photo.notes == ()
        for piece in pieces:
            assert piece in source
            assert piece in result

    return check


def lacks(*pieces: bytes) -> Callable[[bytes, bytes, Photo], None]:
    def check(source: bytes, result: bytes, photo: Photo) -> None:
        assert photo.notes == ()
        for piece in pieces:
            assert piece in source
            assert piece not in result

    return check


def jpeg_settings(source: bytes, result: bytes, photo: Photo) -> None:
    with Image.open(io.BytesIO(source)) as before, Image.open(io.BytesIO(result)) as after:
        assert after.quantization == before.quantization
        assert after.layer == before.layer
        assert after.info.get("progressive") == before.info.get("progressive")


def full_chroma(source: bytes, result: bytes, photo: Photo) -> None:
    with Image.open(io.BytesIO(result)) as image:
        assert JpegImagePlugin.get_sampling(image) == 0


def compression(source: bytes, result: bytes, photo: Photo) -> None:
    with tifffile.TiffFile(io.BytesIO(source)) as a, tifffile.TiffFile(io.BytesIO(result)) as b:
        assert a.pages.first.compression == b.pages.first.compression


@dataclass(frozen=True)
class Case:
    """Files for one line of the page, and how to tell that it holds."""

    files: tuple[bytes, ...]
    check: Callable[[bytes, bytes, Photo], None] = same_values


FILM = b"\0\0\0\x18ftypmp42" + bytes(20)
C2PA_JPEG = segment(0xEB, b"JP\0\1\0\0\0\1\0\0\0\x20jumbc2pa")
RESOLUTION = Tree().tag(282, RATIONAL, 300, 1), Tree().tag(283, RATIONAL, 300, 1)
CHUNKS = {
    b"gAMA": struct.pack(">I", 45455),
    b"cHRM": bytes(range(32)),
    b"sRGB": b"\0",
    b"cICP": bytes([1, 13, 0, 1]),
    b"mDCV": bytes(24),
    b"cLLI": bytes(8),
}
OTHERS = {
    b"pHYs": struct.pack(">IIB", 3, 3, 1),
    b"sBIT": b"\5\5\5",
    b"bKGD": bytes(6),
    b"tIME": bytes([7, 232, 11, 2, 7, 31, 0]),
    b"sCAL": b"\x011\x001",
}
TEXTS = {
    b"tEXt": b"Author\0Jane",
    b"zTXt": b"A\0\0x\x9c\x03\0\0\0\0\1",
    b"iTXt": b"T\0\0\0\0\0" + TEXT,
}
RAW = b"Raw profile type exif\0\nexif\n%8d\n%s\n" % (
    len(EXIF) + 6,
    (b"Exif\0\0" + EXIF).hex().encode(),
)
STRUCTURED = labelled_tiff(samples(), ALL, orientation=1)

CASES = {
    "JPEG: 8 bits, grey or colour, baseline or progressive": Case(
        (pillow("JPEG"), pillow("JPEG", "L"), pillow("JPEG", progressive=True)), jpeg_settings
    ),
    "JPEG: quantisation tables, chroma subsampling of 4:4:4, 4:2:2 and 4:2:0": Case(
        tuple(pillow("JPEG", quality=q, subsampling=s) for q in (30, 92) for s in (0, 1, 2)),
        jpeg_settings,
    ),
    "JPEG: rarer chroma subsampling, which becomes 4:4:4": Case(
        tuple(rarely_sampled_jpeg(sampling) for sampling in ("440", "411")), full_chroma
    ),
    "JPEG: CMYK, which becomes sRGB": Case((pillow("JPEG", "CMYK"),)),
    "JPEG: lossless, hierarchical, JPEG-LS": Case(tuple(map(lossless_jpeg, (0xC3, 0xC5, 0xF7)))),
    "JPEG: 12 bits": Case((lossless_jpeg(0xC1, 12),)),
    "PNG: 8 and 16 bits, grey or RGB, with and without alpha": Case(
        tuple(png_file(samples(c, b), NONE) for c in (1, 2, 3, 4) for b in (8, 16))
    ),
    "PNG: 1, 2 and 4 bits, which become 8": Case(
        tuple(png_by_hand((8, 1, b, 0), [bytes(b)]) for b in (1, 2, 4))
    ),
    "PNG: palettes, which become RGB": Case(
        (png_by_hand((1, 1, 8, 3), [b"\0"], (b"PLTE", b"\1\2\3")),)
    ),
    "PNG: a transparent colour (tRNS), which becomes alpha": Case(
        tuple(png_by_hand((1, 1, b, 0), [bytes(b // 8)], (b"tRNS", b"\0\0")) for b in (8, 16))
    ),
    "PNG: animations": Case((moving("PNG"),)),
    "TIFF: 8 and 16 bits, grey or RGB, planes, tiles, BigTIFF, either byte order": Case(
        tuple(
            tiff_file(samples(c, b), TiffKind(o, big, planar, tile=tile))
            for c, b, o, big, planar, tile in (
                (1, 8, "<", False, False, None),
                (3, 16, ">", True, True, None),
                (3, 16, "<", False, False, (16, 16)),
                (3, 8, ">", False, True, (16, 16)),
            )
        )
    ),
    "TIFF: 1, 2 and 4 bits, which become 8": Case(tuple(map(few_bits, (1, 2, 4)))),
    "TIFF: alpha, multiplied into the colours or not": Case(
        tuple(
            tiff_file(np.full((9, 9, 4), 200, f"uint{b}"), TiffKind(extra=e))
            for b in (8, 16)
            for e in (1, 2)
        )
    ),
    "TIFF: colours larger than the alpha that they are multiplied by": Case(
        (tiff(np.full((9, 9, 4), (90, 91, 89, 90), np.uint8), extrasamples=[1]),)
    ),
    "TIFF: a second channel beside the colours": Case((tiff(samples(5), extrasamples=[2, 0]),)),
    "TIFF: CMYK, which becomes sRGB": Case((pillow("TIFF", "CMYK"),)),
    "TIFF: further pages, pictures of full size in sub-directories": Case(
        (pages(), below_the_first(subfiletype=0))
    ),
    "TIFF: signed, untyped, floating-point, 10, 12, 24 and 32-bit samples": Case(
        (
            few_bits(8, t339=4),
            *(tiff(samples().astype(t)) for t in ("int8", "int16", "float32", "uint32")),
            *map(few_bits, (10, 12, 24)),
        )
    ),
    "TIFF: palettes, CMYK and YCbCr of 16 bits": Case(
        tuple(few_bits(16, p, t277=c) for p, c in ((3, 1), (5, 4), (6, 3)))
    ),
    "TIFF: strips or tiles that are not stored, or of which the tags do not say where they lie": (
        Case((few_bits(8, t279=0), few_bits(8, t279=None), few_bits(8, t322=16, t323=16)))
    ),
    "TIFF: Lab, LogLuv, samples of a sensor": Case(
        tuple(few_bits(8, photometric) for photometric in (8, 32845, 32803))
    ),
    "TIFF: WebP, JPEG 2000, JPEG XL, LERC inside of it": Case(
        tuple(tiff(samples(), compression=c) for c in ("webp", "jpeg2000", "jpegxl", "lerc"))
    ),
    "WebP: with and without loss (a lossy one is written at quality 90)": Case(
        (pillow("WEBP", lossless=True), pillow("WEBP", quality=50))
    ),
    "WebP: alpha": Case((webp_file(samples(4), NONE),)),
    "WebP: animations": Case((moving("WEBP"),)),
    "BMP: grey, RGB, alpha": Case((pillow("BMP", "L"), pillow("BMP"))),
    "BMP: a fourth byte beside the colours that no bit field gives a meaning": Case(
        (bmp_of_32_bits(),)
    ),
    "BMP: unusual bit fields": Case((masked_bmp(),)),
    "JPEG: EXIF, maker notes": Case((jpeg_file(samples(), ALL),), shares(EXIF, MAKER_NOTE)),
    "JPEG: XMP, extended XMP": Case(
        (jpeg_file(samples(), ALL, segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + XMP)),),
        shares(XMP, b"xmp/extension/\0" + XMP),
    ),
    "JPEG: colour profile": Case((jpeg_file(samples(), ALL),), shares(PROFILE)),
    "JPEG: IPTC and other Photoshop resources": Case(
        (jpeg_file(samples(), ALL, segment(0xED, PHOTOSHOP)),), shares(segment(0xED, PHOTOSHOP))
    ),
    "JPEG: comments": Case(
        (jpeg_file(samples(), ALL, segment(0xFE, COMMENT)),), shares(segment(0xFE, COMMENT))
    ),
    "JPEG: segments of cameras (FLIR, FPXR and others)": Case(
        (
            jpeg_file(samples(), ALL, segment(0xE1, b"FLIR\0\1" + TEXT)),
            jpeg_file(samples(), ALL, segment(0xE2, b"FPXR\0\1" + TEXT)),
        ),
        shares(b"R\0\1" + TEXT),
    ),
    "JPEG: print density": Case((pillow("JPEG", dpi=(123, 77)),), shares(b"\1\0\x7b\0\x4d")),
    "JPEG: thumbnails in EXIF and JFIF": Case(
        (pillow("JPEG")[:2] + segment(0xE0, b"JFXX\0\x10 thumbnail") + pillow("JPEG")[2:],),
        lacks(b" thumbnail"),
    ),
    "JPEG: HDR gain map (Ultra HDR, ISO 21496-1)": Case(
        (jpeg_file(samples(), ALL, segment(0xE2, b"urn:iso:std:iso:ts:21496:-1\0\0\0")),)
    ),
    "JPEG: film of a motion photo": Case((jpeg_file(samples(), ALL, behind=FILM),)),
    "JPEG: further pictures, other data behind the end": Case(
        (pillow("JPEG") + pillow("JPEG"), pillow("JPEG") + b"else")
    ),
    "JPEG: content credentials (C2PA)": Case((jpeg_file(samples(), ALL, C2PA_JPEG),)),
    "PNG: EXIF, XMP, also in a text as ImageMagick writes it": Case(
        (png_file(samples(), ALL, (b"tEXt", RAW)),), shares(b"eXIf" + EXIF, RAW, XMP)
    ),
    "PNG: colour profile, gAMA, cHRM, sRGB, cICP, mDCV, cLLI": Case(
        (png_file(samples(), ALL, *CHUNKS.items()),),
        shares(b"iCCPname", *map(b"".join, CHUNKS.items())),
    ),
    "PNG: text of every kind": Case(
        (png_file(samples(), ALL, *TEXTS.items()),), shares(*map(b"".join, TEXTS.items()))
    ),
    "PNG: pHYs, sBIT, bKGD, tIME, sCAL": Case(
        (png_file(samples(), ALL, *OTHERS.items()),), shares(*map(b"".join, OTHERS.items()))
    ),
    "PNG: unknown chunks that are safe to copy by their name": Case(
        (png_file(samples(), ALL, (b"abCd", b"safe")),), shares(b"abCdsafe")
    ),
    "PNG: unknown chunks that are not": Case((png_file(samples(), ALL, (b"abCD", b"")),)),
    "PNG: chunks that readers pass over: a wrong checksum, a misplaced tRNS": Case(
        (
            png_file(samples(), ALL, (b"tEXt", b"Title\0a")).replace(b"Title\0a", b"Title\0b"),
            png_file(samples(), ALL, (b"tRNS", bytes(6)), (b"tRNS", bytes(6))),
            png_file(samples(), ALL, after=[(b"tRNS", bytes(6))]),
        )
    ),
    "PNG: values that are linear, PQ, HLG or of narrow range, dehazed as if they were sRGB": Case(
        tuple(
            png_file(samples(), NONE, (b"cICP", bytes([9, transfer, 0, full])))
            for transfer, full in ((8, 1), (16, 1), (18, 1), (13, 0))
        )
    ),
    "PNG: content credentials (C2PA), data behind the end": Case(
        (png_file(samples(), ALL, (b"caBX", b"")), png_file(samples(), ALL) + b"else")
    ),
    "TIFF: all tags, with EXIF, GPS and Interoperability where they lay": Case(
        (STRUCTURED,),
        lambda source, result, photo: (
            shares(TEXT, MAKER_NOTE, b"R98\0")(source, result, photo),
            np.testing.assert_equal(result.find(MAKER_NOTE), source.find(MAKER_NOTE)),
        ),
    ),
    "TIFF: tags of how the old pixels lay, and of their range (MinSampleValue, HalftoneHints)": (
        Case(
            (few_bits(8, t280=3, t321=5),),
            lambda source, result, photo: np.testing.assert_equal(
                {280, 321} & tiff_tags(result).first.keys(), set()
            ),
        )
    ),
    "TIFF: curves of levels (TransferFunction, GrayResponseCurve, ReferenceBlackWhite)": Case(
        (few_bits(8, t291=7),),
        lambda source, result, photo: np.testing.assert_equal(
            tiff_tags(result).first[291], tiff_tags(source).first[291]
        ),
    ),
    "TIFF: the same, of palettes, CMYK, few bits, or where 0 is white": Case(
        (few_bits(8, 0, t291=7), few_bits(4, 1, t301=7))
    ),
    "TIFF: values of maker notes elsewhere in the file": Case(
        (olympus_tiff(samples()),),
        lambda source, result, photo: np.testing.assert_equal(
            result.find(OLYMPUS_ELSEWHERE), source.find(OLYMPUS_ELSEWHERE)
        ),
    ),
    "TIFF: values of maker notes among the pixels": Case(
        (olympus_tiff(samples(), among_pixels=True),)
    ),
    "TIFF: tags of an unknown type, tags whose values lie outside of the file": Case(
        tuple(
            labelled_tiff(samples(), ALL, orientation=1, **{where: [tag]})
            for tag in ((50000, 99, 4, b"lost"), (50000, 7, 10**6, b"outside"))
            for where in ("others", "details")
        )
    ),
    "TIFF: XMP, IPTC, Photoshop resources, colour profile": Case(
        (labelled_tiff(samples(), ALL, orientation=1, others=[(34377, 7, 40, PHOTOSHOP[:40])]),),
        shares(XMP, IPTC, PHOTOSHOP[:40], PROFILE),
    ),
    "TIFF: print density, or that there is none": Case(
        (
            labelled_tiff(samples(), ALL, orientation=1, others=RESOLUTION),
            STRUCTURED,
        ),
        lambda source, result, photo: np.testing.assert_equal(
            struct.pack("<II", 300, 1) in result, struct.pack("<II", 300, 1) in source
        ),
    ),
    "TIFF: no compression, LZW (others become ZIP)": Case(
        tuple(
            tiff_file(samples(), TiffKind(compression=c)) for c in (None, "lzw", "adobe_deflate")
        ),
        compression,
    ),
    "TIFF: previews in further directories and sub-directories": Case(
        (pages(subfiletype=1), below_the_first(subfiletype=1))
    ),
    "TIFF: Photoshop layers": Case(
        (labelled_tiff(samples(), ALL, orientation=1, others=[(37724, 7, 8, b"8BIMLayr")]),)
    ),
    "WebP: EXIF, XMP, colour profile": Case(
        (webp_file(samples(), ALL), webp_file(samples(4), ALL)), shares(EXIF, XMP, PROFILE)
    ),
    "WebP: unknown chunks": Case((webp_with(b"abcd", TEXT),), shares(b"abcd", TEXT)),
    "WebP: content credentials (C2PA), data behind the end": Case(
        (webp_with(b"C2PA", b"jumb"), webp_file(samples(), ALL) + b"else")
    ),
    "BMP: print density, rendering intent": Case(
        (pillow("BMP", dpi=(300, 72)),), shares(pillow("BMP", dpi=(300, 72))[38:46])
    ),
    "BMP: embedded colour profile": Case((profiled_bmp(),), shares(PROFILE)),
    "BMP: colour profile in a file of its own, data behind the end": Case(
        (profiled_bmp().replace(b"DEBM", b"KNIL"), pillow("BMP") + b"else")
    ),
}


def rows() -> list[tuple[str, str]]:
    found = re.findall(r"^\| (\w+) \| (.+?) \| ([\w ]+) \|$", PAGE.read_text(), re.MULTILINE)
    return [(f"{name}: {what}", fate) for name, what, fate in found if name != "format"]


def test_every_row_has_a_case_and_every_case_a_row() -> None:
    assert [name for name, _ in rows()] == list(CASES)


@pytest.mark.parametrize(("name", "fate"), rows(), ids=lambda value: str(value)[:40])
def test_a_row_holds(tmp_path: Path, name: str, fate: str) -> None:
    for data in CASES[name].files:
        source, result = tmp_path / "source", tmp_path / "result"
        source.write_bytes(data)
        if fate == "refused":
            with pytest.raises(PhotoError, match=REFUSED):
                read_photo(source)
            continue
        photo = read_photo(source)
        assert bool(photo.notes) == (fate == "noted"), photo.notes
        write_photo(result, photo.pixels, like=photo)
        if fate != "noted":
            CASES[name].check(data, result.read_bytes(), photo)
        back = read_photo(result)
        # These notes hold for the result as well.
        said = str(photo.notes)
        lasting = any(each in said for each in ("dehazed as if", "EXIF tags", "maker notes"))
        assert back.notes == (photo.notes if lasting else ())
        assert (back.encoding.bits, back.encoding.grey) == (
            photo.encoding.bits,
            photo.encoding.grey,
        )
        if photo.encoding.format != "JPEG" and "loss" not in name:
            np.testing.assert_array_equal(back.pixels, photo.pixels)
            np.testing.assert_array_equal(back.alpha, photo.alpha)
