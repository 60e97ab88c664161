"""An independent reader, exiftool, finds the same metadata before and after."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from photo_files import (
    COMMENT,
    PHOTOSHOP,
    PROFILE,
    Labels,
    exif_block,
    jpeg_file,
    labelled_tiff,
    png_file,
    segment,
    webp_file,
    xmp_packet,
)

from dehaze.photos import read_photo, write_photo

pytestmark = pytest.mark.skipif(
    shutil.which("exiftool") is None, reason="exiftool is not installed"
)
HEIGHT, WIDTH = 12, 20
# Groups of what exiftool works out itself, and tags of how the pixels lie.
OTHER_GROUPS = ("System:", "File:", "ExifTool:", "Composite:")
LAYOUT = {
    "SourceFile",
    "IFD0:StripOffsets",
    "IFD0:RowsPerStrip",
    "IFD0:StripByteCounts",
    "IFD0:Compression",
    "IFD0:PlanarConfiguration",
}


def found(path: Path) -> dict[str, Any]:
    """All tags, by their groups, their values as numbers or bytes."""
    command = ["exiftool", "-j", "-G1", "-a", "-n", "-b", "-struct", "-u", str(path)]
    done = subprocess.run(command, capture_output=True, check=True)
    (tags,) = json.loads(done.stdout)
    return {
        name: value
        for name, value in tags.items()
        if not name.startswith(OTHER_GROUPS) and name not in LAYOUT
    }


def labels(orientation: int, width: int, height: int) -> Labels:
    size = {"width": width, "height": height}
    return Labels(
        exif=exif_block(">", orientation=orientation, **size),
        xmp=xmp_packet(orientation=orientation, **size),
        profile=PROFILE,
    )


def build(name: str, given: Labels, orientation: int, width: int, height: int) -> bytes:
    random = np.random.default_rng(0)
    deep = random.integers(0, 65536, (height, width, 3)).astype(np.uint16)
    flat = (deep >> 8).astype(np.uint8)
    if name == "a.jpg":
        return jpeg_file(flat, given, segment(0xED, PHOTOSHOP), segment(0xFE, COMMENT))
    if name == "a.png":
        return png_file(deep, given, (b"gAMA", b"\0\0\xb1\x8f"), (b"tEXt", b"Author\0Jane"))
    if name == "a.webp":
        return webp_file(flat, given)
    big = name == "big.tif"
    return labelled_tiff(deep, given, orientation=orientation, order=">" if big else "<", big=big)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif", "big.tif"])
def test_exiftool_finds_the_same(tmp_path: Path, name: str, orientation: int) -> None:
    source = tmp_path / name
    source.write_bytes(build(name, labels(orientation, WIDTH, HEIGHT), orientation, WIDTH, HEIGHT))
    photo = read_photo(source)
    result = tmp_path / f"result-{name}"
    write_photo(result, photo.pixels, like=photo)

    width, height = photo.size
    expected = tmp_path / f"expected-{name}"
    expected.write_bytes(build(name, labels(1, width, height), 1, width, height))
    tags = found(result)
    assert tags == found(expected)
    assert tags.get("IFD0:ImageDescription", "").startswith("Hütte")
    assert any(tag.endswith(":ICC_Profile") or tag.startswith("ICC") for tag in tags)
