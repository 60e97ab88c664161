"""``dehaze generate``: new pictures of what a few photos show."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from dehaze.commands import main


@pytest.fixture
def photos(tmp_path: Path, photo: NDArray[np.float32]) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    eight = (255 * photo).astype(np.uint8)
    for name, pixels in {"a.png": eight, "b.png": eight[::-1], "tall.png": eight[:, :30]}.items():
        Image.fromarray(pixels).save(folder / name)
    return folder


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["generate", *map(str, arguments)])


PROMPT = ("--prompt", "a photo with haze")


def test_pictures_and_a_sheet_of_them_are_written(
    photos: Path, random_model: Path, clip_model: Path
) -> None:
    out = photos.parent / "made"
    out.mkdir()
    for number in (2, 11):
        (out / f"picture-{number:02d}.png").touch()
    done = call(
        photos, *PROMPT, "--clip", clip_model, "--model", random_model, "-n", 2, "-o", out,
        "--iterations", 1, "--steps", 1,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in out.iterdir()) == [
        "picture-00.png", "picture-01.png", "picture-02.png", "picture-11.png", "pictures.png",
    ]  # fmt: skip
    assert f"{out / 'picture-02.png'} and 1 more: of an earlier run" in done.stderr
    assert np.asarray(Image.open(out / "picture-01.png")).shape == (16, 24, 3)
    assert "2 pictures, loss " in done.stdout
    cut = f"{photos / 'tall.png'}: cut to the proportions of {photos / 'a.png'}"
    assert [line for line in done.stderr.splitlines() if "cut to" in line] == [f"dehaze: {cut}"]
    assert "is empty" not in done.stderr


def test_an_empty_prompt_is_noted(photos: Path, random_model: Path, clip_model: Path) -> None:
    """A script with an unset variable gives an empty prompt; the pictures are then arbitrary."""
    done = call(
        photos, "--prompt", " ", "--clip", clip_model, "--model", random_model, "-n", 1,
        "-o", photos.parent / "made", "--iterations", 1, "--steps", 1, "--start", "noise",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "--prompt is empty: the model is told nothing" in done.stderr


def test_from_noise_one_photo_is_enough_and_a_seed_counts(
    photos: Path, random_model: Path, clip_model: Path
) -> None:
    made = []
    for seed in (1, 2):
        out = photos.parent / f"made-{len(made)}"
        done = call(
            photos / "a.png", *PROMPT, "--clip", clip_model, "--model", random_model,
            "--start", "noise", "-n", 1, "--iterations", 1, "--steps", 1, "--seed", seed,
            "-o", out, "-q",
        )  # fmt: skip
        assert (done.exit_code, done.output) == (0, "")
        made.append(np.asarray(Image.open(out / "picture-00.png")))
    assert (made[0] != made[1]).any()


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"input": "empty"}, "no photo found"),
        ({"input": "a.png"}, "two photos or more"),
        ({"--clip": "nowhere"}, "nowhere) is not on this machine"),
        ({"--clip": "classifier"}, "is no CLIP, but a resnet"),
        ({"--prompt": "a photo " * 60}, "takes 122 tokens"),
        ({"--start": "photo"}, "nao, noise"),
    ],
)
def test_bad_input_is_refused_by_name(
    photos: Path,
    random_model: Path,
    clip_model: Path,
    classifier_folder: Path,
    changes: dict[str, str],
    cause: str,
) -> None:
    (photos.parent / "empty").mkdir()
    places = {"empty": photos.parent / "empty", "a.png": photos / "a.png",
              "nowhere": photos / "nowhere", "classifier": classifier_folder}  # fmt: skip
    out = photos.parent / "made"
    given: dict[str, object] = {
        "input": photos, "--prompt": PROMPT[1], "--clip": clip_model, "--model": random_model,
        "--output": out,
    }  # fmt: skip
    given |= {name: places.get(value, value) for name, value in changes.items()}
    positional = given.pop("input")
    options = [part for pair in given.items() for part in pair]
    done = call(positional, *options, "--local-files-only")
    assert done.exit_code == 2, done.output
    assert cause in done.stderr
    assert not out.exists()


def test_no_input_is_replaced(photos: Path) -> None:
    (photos / "a.png").rename(photos / "pictures.png")
    done = call(photos / "pictures.png", *PROMPT, "--clip", "none", "-o", photos)
    assert done.exit_code == 2
    assert f"{photos / 'pictures.png'} is an input and would be replaced" in done.stderr


def test_a_folder_that_cannot_be_listed_is_named(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "locked").mkdir()
    listing = Path.iterdir

    def iterdir(self: Path) -> Iterator[Path]:
        if self.name == "locked":
            raise PermissionError(13, "Permission denied")
        return listing(self)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    done = call(photos, *PROMPT, "--clip", "none", "-o", photos.parent / "made")
    assert done.exit_code == 2
    assert "locked: cannot be listed (Permission denied)" in done.stderr
