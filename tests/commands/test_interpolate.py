"""``dehaze interpolate``: the pictures between two photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from dehaze.commands import main
from dehaze.eval.probes import retrace
from dehaze.pipelines.interpolate import InterpolatePipeline

ON_BUNDLED = pytest.mark.parametrize(
    "any_model", ["bundled", pytest.param("xl", marks=pytest.mark.slow)], indirect=True
)


@pytest.fixture
def pictures(tmp_path: Path, photo: NDArray[np.float32]) -> list[Path]:
    eight = (255 * photo).astype(np.uint8)
    crops = {"a.png": eight, "b.png": eight[::-1, ::-1], "tall.png": eight[:, :30]}
    for name, pixels in crops.items():
        Image.fromarray(pixels).save(tmp_path / name)
    return [tmp_path / name for name in crops]


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["interpolate", *map(str, arguments)])


@ON_BUNDLED
@pytest.mark.parametrize("path", ["nao", pytest.param("slerp", marks=pytest.mark.slow)])
def test_the_pictures_lead_from_one_photo_to_the_other(
    pictures: list[Path], any_model: Path, path: str
) -> None:
    out = pictures[0].parent / "made"
    done = call(*pictures[:2], "-n", 4, "--path", path, "--model", any_model, "-o", out)
    assert done.exit_code == 0, done.output
    files = [out / f"{path}-{i:02d}.png" for i in range(4)]
    assert sorted(out.iterdir()) == sorted([*files, out / f"{path}.png"])
    made = [np.asarray(Image.open(file), np.float64) for file in files]
    assert made[0].shape == (16, 24, 3)
    pipe = InterpolatePipeline.from_pretrained(any_model)
    pipe.set_progress_bar_config(disable=True)
    for end, picture in ((0, pictures[0]), (3, pictures[1])):
        # Not the photo itself: four steps of a random network may be past inverting.
        inversion = pipe.invert(np.asarray(Image.open(picture)))
        back = pipe.codec.decode(retrace(pipe, inversion), (16, 24))
        assert np.abs(made[end] / 255.0 - back).max() < 0.01
    assert "log density" in done.stdout


@ON_BUNDLED
def test_quiet_says_nothing(pictures: list[Path], any_model: Path) -> None:
    out = pictures[0].parent / "made"
    done = call(*pictures[:2], "-n", 2, "--model", any_model, "-o", out, "-q")
    assert (done.exit_code, done.output) == (0, "")
    empty = call(*pictures[:2], "-n", 2, "--model", any_model, "-o", out, "--prompt", "")
    assert "--prompt is empty: the model is told nothing" in empty.stderr
    replacing = call(out / "nao-01.png", pictures[0], "-o", out)
    assert replacing.exit_code == 2
    assert f"{out / 'nao-01.png'} is an input and would be replaced" in replacing.stderr


def test_pictures_of_an_earlier_run_are_told(pictures: list[Path], random_model: Path) -> None:
    out = pictures[0].parent / "made"
    out.mkdir()
    (out / "slerp-02.png").touch()
    settings = ("-n", 2, "--path", "slerp", "--model", random_model, "--steps", 1, "-o", out)
    done = call(*pictures[:2], *settings)
    assert done.exit_code == 0, done.output
    assert f"{out / 'slerp-02.png'}: of an earlier run, not of this one" in done.stderr


def test_photos_are_cut_to_one_shape_and_have_a_centroid(
    pictures: list[Path], any_model: Path
) -> None:
    out = pictures[0].parent / "made"
    done = call(*pictures[::2], "--centroid", "--model", any_model, "-o", out)
    assert done.exit_code == 0, done.output
    assert [path.name for path in out.iterdir()] == ["centroid.png"]
    assert np.asarray(Image.open(out / "centroid.png")).shape == (16, 24, 3)


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (("A",), "two photos"),
        (("A", "B", "B"), "--centroid"),
        (("A", "A", "--path", "straight"), "nao, slerp"),
        (("A", "missing.jpg"), "missing.jpg"),
    ],
)
def test_bad_input_is_refused_by_name(
    pictures: list[Path], any_model: Path, arguments: tuple[object, ...], cause: str
) -> None:
    named = {"A": pictures[0], "B": pictures[1]}
    out = pictures[0].parent / "made"
    given = [named.get(str(argument), argument) for argument in arguments]
    done = call(*given, "--model", any_model, "-o", out)
    assert done.exit_code == 2
    assert cause in done.stderr
    assert not out.exists()
