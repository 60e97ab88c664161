"""Which input a result would replace, by where both lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dehaze.photos import InputFiles


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "a.jpg"
    path.parent.mkdir()
    path.write_bytes(b"photo")
    return path


def test_an_input_is_found_by_any_path_to_it(photo: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("in", target_is_directory=True)
    inputs = InputFiles([photo])
    for path in (photo, tmp_path / "in/../in/a.jpg", tmp_path / "link/a.jpg"):
        assert inputs.at(path) == photo
    assert inputs.at(tmp_path / "in/b.jpg") is None
    assert inputs.at(tmp_path / "out/a.jpg") is None


def test_a_linked_input_stands_at_both_of_its_places(photo: Path, tmp_path: Path) -> None:
    link = tmp_path / "named.jpg"
    link.symlink_to(photo)
    assert InputFiles([link]).at(link) == link
    assert InputFiles([link]).at(photo) == link
    # A result replaces the link, and not the photo behind it.
    assert InputFiles([photo]).at(link) is None


def test_names_of_other_case_are_one_where_the_file_is(photo: Path, tmp_path: Path) -> None:
    # A second name of one file looks as it does on a disk that ignores case.
    os.link(photo, photo.with_name("A.JPG"))
    assert InputFiles([photo]).at(photo.with_name("A.JPG")) == photo
    (tmp_path / "backup").mkdir()
    os.link(photo, tmp_path / "backup" / "a.jpg")
    assert InputFiles([photo]).at(tmp_path / "backup" / "a.jpg") is None
    photo.with_name("A.JPEG").write_bytes(b"another")
    assert InputFiles([photo]).at(photo.with_name("a.jpeg")) is None
