"""Captions of photos: COCO's annotations and tables, matched by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from dehaze.datasets import DatasetNotFoundError, PhotoFiles, open_captioned_photos, read_rgb
from dehaze.photos import PhotoError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "photos"
    for name in ("10.png", "2.png", "more/2.png"):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3), (len(name), 0, 255)).save(made / name)
    (made / "notes.txt").write_text("no photo")
    return made


def coco(path: Path, **changes: object) -> Path:
    images = [{"id": 7, "file_name": "10.png"}, {"id": 8, "file_name": "gone.png"}]
    images.append({"id": 9, "file_name": "more/2.png"})
    captions = [(9, " A cat.\n"), (7, "a dog "), (9, "another"), (8, "nothing"), (7, "a  wolf")]
    annotations = [{"image_id": number, "caption": text} for number, text in captions]
    path.write_text(json.dumps({"images": images, "annotations": annotations} | changes))
    return path


def test_coco_captions_belong_to_the_named_photos(folder: Path, tmp_path: Path) -> None:
    opened = open_captioned_photos(folder, coco(tmp_path / "captions.json"))
    assert [(photo.name, photo.caption) for photo in opened.photos] == [
        ("10.png", "a dog"),
        ("more/2.png", "A cat."),
    ]
    assert [photo.file for photo in opened.photos] == [folder / "10.png", folder / "more/2.png"]
    assert (opened.uncaptioned, opened.missing, opened.further) == (("2.png",), ("gone.png",), 2)


def test_a_table_has_a_photo_and_a_caption_a_line(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "captions.TSV"
    table.write_text("\ufeff2.png\ta street\r\n\n10.png\t   \nmore/2.png\ta café\n", "utf-8")
    opened = open_captioned_photos(folder, table)
    assert {photo.name: photo.caption for photo in opened.photos} == {
        "2.png": "a street",
        "more/2.png": "a café",
    }
    # An empty caption is none.
    assert (opened.uncaptioned, opened.missing, opened.further) == (("10.png",), (), 0)


@pytest.mark.parametrize(
    ("name", "text", "cause"),
    [
        ("a.tsv", "2.png a street", "line 1 has 1 columns"),
        ("a.tsv", "2.png\ta\tb", "line 1 has 3 columns"),
        ("a.tsv", "3.png\ta street", r"none of its 1 names is a photo's path.*'3\.png'"),
        ("a.tsv", "", "none of its 0 names"),
        ("a.json", "{", "JSONDecodeError"),
        ("a.json", '{"images": [], "annotations": [{"image_id": 1}]}', "KeyError"),
        ("a.json", "[1]", "captions_val2017"),
        (
            "a.json",
            '{"images": [{"id": 1, "file_name": "2.png"}], '
            '"annotations": [{"image_id": 1, "caption": null}]}',
            "the caption None is no text",
        ),
        ("a.csv", "2.png,a street", r"no \.json and no \.tsv"),
    ],
)
def test_an_invalid_captions_file_is_named(
    folder: Path, tmp_path: Path, name: str, text: str, cause: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DatasetNotFoundError, match=cause) as raised:
        open_captioned_photos(folder, tmp_path / name)
    assert str(tmp_path / name) in str(raised.value)


def test_missing_files_and_folders_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match=r"gone\.tsv: cannot be read"):
        open_captioned_photos(folder, tmp_path / "gone.tsv")
    (tmp_path / "bytes.tsv").write_bytes(b"2.png\t\xff")
    with pytest.raises(DatasetNotFoundError, match="UnicodeDecodeError"):
        open_captioned_photos(folder, tmp_path / "bytes.tsv")
    with pytest.raises(DatasetNotFoundError, match="none: is no folder"):
        open_captioned_photos(tmp_path / "none", tmp_path / "gone.tsv")


def test_captioned_photos_and_results_lie_apart(folder: Path, tmp_path: Path) -> None:
    captions = coco(tmp_path / "captions.json")
    for output, cause in ((folder, "is the output folder as well"), (tmp_path, "lies in the out")):
        with pytest.raises(DatasetNotFoundError, match=f"photos: {cause}"):
            open_captioned_photos(folder, captions, results=[output])


def test_photos_are_decoded_when_they_are_asked_for(folder: Path) -> None:
    photos = PhotoFiles([folder / "2.png", folder / "notes.txt"])
    assert len(photos) == 2
    one = iter(photos)
    first = next(one)
    assert (first.dtype.name, first.shape) == ("float32", (3, 4, 3))
    assert (255 * first == read_rgb(folder / "2.png").pixels).all()
    with pytest.raises(PhotoError):
        next(one)
    # They can be gone through again.
    assert (next(iter(photos)) == first).all()
