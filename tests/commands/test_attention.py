"""``dehaze attention``: five files a photo, each what it says, and figures."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from dehaze.attention.maps import recorded_layers
from dehaze.commands import main
from dehaze.pipelines.edit import EditPipeline


@pytest.fixture
def picture(tmp_path: Path, photo: NDArray[np.float32]) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray((255 * photo).astype(np.uint8)).save(path)
    return path


def call(picture: Path, *arguments: object) -> Result:
    settings = ["attention", picture, "-o", picture.parent / "maps", *arguments]
    return CliRunner().invoke(main, list(map(str, settings)))


def test_the_maps_of_a_phrase(picture: Path, any_model: Path) -> None:
    prompt = "a city, in dense haze"
    done = call(
        picture, "--prompt", prompt, "--word", "dense haze", "--model", any_model, "--steps", 3
    )
    assert done.exit_code == 0, done.output
    folder = picture.parent / "maps"
    names = sorted(path.name for path in folder.iterdir())
    start = "photo.png.dense haze"
    kinds = (".grid.npy", ".grid.png", ".npy", ".png")
    assert names == [*(f"{start}{kind}" for kind in kinds), "photo.png.words.png"]
    heat = np.load(folder / f"{start}.npy")
    assert (heat.dtype, heat.shape) == (np.float32, (40, 60))
    # The map equals the library's, and the mean of the grid's maps.
    pipe = EditPipeline.from_pretrained(any_model)
    pipe.set_progress_bar_config(disable=True)
    pixels = np.asarray(Image.open(picture))
    inversion = pipe.invert(pixels, prompt, num_inference_steps=3)
    expected = pipe.word_attention(pixels, inversion, prompt, "dense haze")
    np.testing.assert_allclose(heat, expected, atol=1e-6)
    grid = np.load(folder / f"{start}.grid.npy")
    assert grid.shape == (len(recorded_layers(inversion.attention)), 3, 8, 12)
    assert grid.mean() == pytest.approx(float(heat.mean()), rel=0.02)
    assert Image.open(folder / f"{start}.png").size == (60, 40)
    # Photo, phrase, and a, city, in, dense, haze.
    sheet = Image.open(folder / "photo.png.words.png")
    assert sheet.size == (7 * (288 + 6) + 6, 192 + 14 + 6 + 6)
    assert "dense haze: mean probability" in done.stdout


def test_a_folder_has_maps_and_figures_of_every_photo(picture: Path, random_model: Path) -> None:
    photos = picture.parent / "photos"
    (photos / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.png"):
        (photos / name).write_bytes(picture.read_bytes())
    (photos / "torn.png").write_bytes(picture.read_bytes()[:100])
    (photos / "notes.txt").touch()
    done = call(picture, photos, "--model", random_model, "--steps", 2, "--figure", "svg,png")
    assert done.exit_code == 1
    assert f"dehaze: {photos / 'torn.png'}: is cut short; " in done.stderr
    maps = picture.parent / "maps"
    for name in ("photo.png", "a.png", "sub/b.png"):
        for ending in (".haze.npy", ".haze.figure.png", ".haze.figure.svg", ".words.png"):
            assert (maps / f"{name}{ending}").is_file()
    assert not (maps / "torn.png.haze.npy").exists()
    # Three photos with their maps, and the bar.
    assert (maps / "haze.figure.svg").read_text().count("<image ") == 7
    assert f"3 of 4 photos side by side: {maps / 'haze.figure.png'}" in done.stderr


def test_the_files_may_lie_beside_the_photo(picture: Path, random_model: Path) -> None:
    before = picture.read_bytes()
    settings = ("--model", random_model, "--steps", 2, "-o", picture.parent)
    assert call(picture, *settings).exit_code == 0
    assert (picture.parent / "photo.png.haze.png").is_file()
    assert picture.read_bytes() == before
    again = call(picture, picture.parent / "photo.png.haze.png", *settings)
    assert again.exit_code == 2
    assert "would replace the input" in again.stderr


def test_one_photo_has_no_grid_of_photos(picture: Path, random_model: Path) -> None:
    assert call(picture, "--model", random_model, "--figure", "pdf").exit_code == 0
    assert [path.name for path in (picture.parent / "maps").glob("*figure*")] == [
        "photo.png.haze.figure.pdf"
    ]


def test_figures_without_matplotlib_are_refused(
    picture: Path, random_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = call(picture, "--model", random_model, "--figure", "pdf")
    assert done.exit_code == 2
    assert "plots need matplotlib: pip install 'dehaze-diffusion[plots]'" in done.stderr
    assert not (picture.parent / "maps").exists()


def test_quiet_says_nothing(picture: Path, any_model: Path) -> None:
    done = call(picture, "--model", any_model, "--steps", 3, "-q")
    assert (done.exit_code, done.output) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (("--word", "rain"), "it has a, photo, with, haze"),
        (("--prompt", "a city in fog"), "it has a, city, in, fog"),
        (("--model", "no/such/model"), "no such folder"),
        (("--figure", "gif"), "'gif' is not one of png, pdf, svg."),
        (("nowhere.jpg",), "'nowhere.jpg' does not exist"),
    ],
)
def test_bad_input_is_refused_by_name(
    picture: Path, any_model: Path, arguments: tuple[object, ...], cause: str
) -> None:
    done = call(picture, "--model", any_model, *arguments)
    assert done.exit_code == 2
    assert cause in done.stderr
    assert not (picture.parent / "maps").exists()


def test_a_word_that_the_bundled_model_never_learned_is_refused(picture: Path) -> None:
    done = call(picture, "--prompt", "a photo of elephants", "--word", "elephants")
    assert done.exit_code == 2
    assert "never learned 'elephants': " in done.stderr
