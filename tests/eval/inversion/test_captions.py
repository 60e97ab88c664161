"""Which captioned photos a model can read."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from dehaze.eval.inversion.captions import CaptionError, choose_captioned
from dehaze.models.needs import ModelDescription
from dehaze.pipelines.edit import EditPipeline

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


@pytest.fixture(scope="module")
def pipe(random_model: Path) -> EditPipeline:
    return EditPipeline.from_pretrained(random_model)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "photos"
    made.mkdir()
    for name in "abcdefgh":
        Image.new("RGB", (4, 4)).save(made / f"{name}.png")
    return made


def captions(folder: Path, *texts: str) -> Path:
    file = folder.parent / "captions.tsv"
    lines = [f"{name}.png\t{text}" for name, text in zip("abcdefgh", texts, strict=False)]
    file.write_text("\n".join(lines))
    return file


def test_captions_that_cannot_be_read_are_counted_by_name(pipe: EditPipeline, folder: Path) -> None:
    known = pipe.description
    vocabulary = frozenset({"a", "street", "haze"})
    pipe.description = ModelDescription(**vars(known) | {"vocabulary": vocabulary})
    texts = ("a street", "a zebra", "haze", " ".join(["haze"] * 60), "a unicorn, a zebra")
    choice = choose_captioned(pipe, folder, captions(folder, *texts), limit=1)
    assert [photo.name for photo in choice.photos] == ["a.png"]
    assert choice.readable == 2
    assert list(choice.unreadable) == ["b.png", "d.png", "e.png"]
    assert choice.unreadable["e.png"] == "the model never learned 'unicorn', 'zebra'"
    assert "takes 62 tokens" in choice.unreadable["d.png"]
    unreadable, uncaptioned = choice.failures
    assert unreadable.startswith("3 photos whose caption the model cannot read: b.png (the model ")
    assert uncaptioned == "3 photos without a caption: f.png, g.png, h.png"
    assert choice.notes == []
    content = choice.content()
    assert content["photos"] == {"a.png": "a street"}
    assert content["unreadable"] == choice.unreadable
    with pytest.raises(CaptionError, match=r"can read none of the captions: a\.png"):
        choose_captioned(pipe, folder, captions(folder, *["a zebra"] * 8))
    pipe.description = known


def test_at_most_five_names_are_said_at_once(pipe: EditPipeline, folder: Path) -> None:
    choice = choose_captioned(pipe, folder, captions(folder, "a street"))
    assert choice.failures == [
        "7 photos without a caption: b.png, c.png, d.png, e.png, f.png and 2 more"
    ]
    assert len(choice.uncaptioned) == 7


def test_the_bundled_model_reads_every_example_caption(tmp_path: Path) -> None:
    for number in range(1, 25):
        Image.new("RGB", (4, 4)).save(tmp_path / f"kodim{number:02}.png")
    bundled = EditPipeline.from_pretrained("bundled")
    choice = choose_captioned(bundled, tmp_path, EXAMPLES / "kodak24.tsv")
    assert len(choice.photos) == 24
    assert choice.failures == choice.notes == []
