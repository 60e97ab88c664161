"""``dehaze evaluate concepts`` on a made-up class set: the tables 2 and 3 of FPI."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from broken_models import change
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from dehaze.commands import main
from dehaze.eval.concepts.classifier import load_classifier
from dehaze.eval.concepts.frechet import frechet_distance
from dehaze.eval.concepts.methods import SEED_METHODS
from dehaze.pipelines.pictures import as_pixels
from dehaze.pipelines.seedselect import SeedSelectPipeline

CLASSES = ("haze", "night_sky")


@pytest.fixture(scope="module")
def class_set(tmp_path_factory: pytest.TempPathFactory, scene: NDArray[np.float32]) -> Path:
    root = tmp_path_factory.mktemp("classes")
    eight = (255 * scene).astype(np.uint8)
    turned = (eight, eight[::-1], eight[:, ::-1])
    for name, dark in zip(CLASSES, (1, 3), strict=True):
        (root / name).mkdir()
        for number, pixels in enumerate(turned):
            Image.fromarray(pixels // dark).save(root / name / f"{number}.png")
    return root


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["evaluate", "concepts", *map(str, arguments)])


@pytest.fixture(scope="module")
def evaluated(
    class_set: Path,
    random_model: Path,
    clip_model: Path,
    classifier_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Result, Path]:
    out = tmp_path_factory.mktemp("out")
    done = call(
        class_set, "--classifier", classifier_folder, "--clip", clip_model, "--model", random_model,
        "--method", "noise,slerp,nao,centroid,seedselect", "--solver", "fixed-point",
        "--pictures", 1, "--photos", 2, "--steps", 1, "-o", out,
    )  # fmt: skip
    return done, out


def rows_of(out: Path) -> dict[str, dict[str, str]]:
    with (out / "concepts.csv").open() as file:
        return {row["method"]: row for row in csv.DictReader(file)}


def test_every_method_is_a_row_and_its_pictures_lie_there(evaluated: tuple[Result, Path]) -> None:
    done, out = evaluated
    assert done.exit_code == 0, done.output
    rows = rows_of(out)
    assert list(rows) == [
        "the photos themselves", "noise", "slerp", "nao", "centroid", "seedselect",
    ]  # fmt: skip
    counts = [int(row["pictures"]) for row in rows.values()]
    assert counts == [6, 2, 2, 2, 2, 2]
    for name, row in list(rows.items())[1:]:
        place = out / "pictures" / (f"{name}-{row['solver']}" if row["solver"] else name)
        assert sorted(path.name for path in place.iterdir()) == sorted(CLASSES)
        files = list(place.rglob("*.png"))
        assert len(files) == int(row["pictures"])
        assert Image.open(files[0]).size == (24, 16)
        assert (row["inverting"] != "") is (row["solver"] == "fixed-point")
    assert "2 classes (haze, night sky), 2 photos of each inverted" in done.stdout
    assert "what the last layer reads" in done.stdout
    assert json.loads((out / "concepts.json").read_text())["command"]


def test_the_numbers_are_those_of_the_saved_pictures(
    evaluated: tuple[Result, Path],
    class_set: Path,
    random_model: Path,
    classifier_folder: Path,
) -> None:
    _, out = evaluated
    classifier = load_classifier(str(classifier_folder))
    codec = SeedSelectPipeline.from_pretrained(random_model).codec

    def answers(place: Path, reduce: bool = False) -> list[tuple[str, Any]]:
        found = []
        for name in CLASSES:
            for path in sorted((place / name).glob("*.png")):
                pixels = np.asarray(Image.open(path))
                if reduce:
                    pixels = np.round(255.0 * codec.reduced(as_pixels(pixels))).astype(np.uint8)
                found.append((name, classifier(pixels)))
        return found

    photos = answers(class_set, reduce=True)
    reference = np.stack([answer.features for _, answer in photos])
    rows = rows_of(out)
    for method, place in (("noise", "noise"), ("nao", "nao-fixed-point")):
        found = answers(out / "pictures" / place)
        right = [
            classifier.labels[answer.label] == name.replace("_", " ") for name, answer in found
        ]
        features = np.stack([answer.features for _, answer in found])
        assert float(rows[method]["accuracy"]) == np.mean(right)
        assert float(rows[method]["frechet"]) == pytest.approx(
            frechet_distance(features, reference), rel=1e-6
        )


def test_too_few_pictures_are_named_with_their_rows(evaluated: tuple[Result, Path]) -> None:
    done, out = evaluated
    assert (
        "- noise; slerp, fixed-point; nao, fixed-point; centroid, fixed-point; seedselect, "
        "fixed-point: 2 pictures have no full covariance of 8 features"
    ) in done.stdout
    assert "2 pictures have no full covariance" in rows_of(out)["centroid"]["caveat"]


class Brightness(nn.Module):
    """Tells light pictures from dark ones."""

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        light = pictures.mean([1, 2, 3])[:, None]
        return torch.cat([light - 0.3, 0.3 - light], dim=1), light


def test_a_classifier_in_torchscript_judges_as_well(
    class_set: Path, random_model: Path, tmp_path: Path
) -> None:
    torch.jit.script(Brightness().eval()).save(tmp_path / "light.pt")
    (tmp_path / "light.txt").write_text("haze\nNight Sky\n")
    out = tmp_path / "out"
    done = call(
        class_set, "--classifier", tmp_path / "light.pt", "--model", random_model,
        "--method", "noise,centroid", "--solver", "ddim", "--pictures", 3, "--steps", 1, "-o", out,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    rows = rows_of(out)
    assert float(rows["the photos themselves"]["accuracy"]) == 1.0
    assert [int(row["pictures"]) for row in rows.values()] == [6, 6, 2]
    # Of one number, three pictures have a covariance.
    assert (rows["noise"]["caveat"], rows["centroid"]["caveat"]) == ("", "")
    assert "1 features (the second output of light.pt)" in done.stdout


def test_the_fewest_and_the_most_inverted_photos_are_told(
    class_set: Path, random_model: Path, classifier_folder: Path, tmp_path: Path
) -> None:
    uneven = shutil.copytree(class_set, tmp_path / "uneven")
    (uneven / "haze" / "2.png").unlink()
    done = call(
        uneven, "--classifier", classifier_folder, "--model", random_model,
        "--method", "centroid", "--solver", "ddim", "--steps", 1, "-o", tmp_path / "out",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "2 to 3 photos of each inverted" in done.stdout


def test_a_broken_photo_of_a_class_is_named(
    class_set: Path, random_model: Path, classifier_folder: Path, tmp_path: Path
) -> None:
    broken = shutil.copytree(class_set, tmp_path / "broken")
    (broken / "haze" / "2.png").write_bytes(b"torn")
    settings = (
        "--classifier", classifier_folder, "--model", random_model, "--method", "noise",
        "--pictures", 1, "--steps", 1, "-o", tmp_path / "out",
    )  # fmt: skip
    done = call(broken, *settings)
    assert done.exit_code == 1, done.output
    assert f"left out: {broken}/haze/2.png: " in done.stderr
    assert f"- left out: {broken}/haze/2.png: " in done.stdout
    assert rows_of(tmp_path / "out")["the photos themselves"]["pictures"] == "5"
    (broken / "haze" / "1.png").write_bytes(b"torn")
    done = call(broken, *settings)
    assert done.exit_code == 2
    assert f"{broken}/haze: holds 1 photo ({broken}/haze/1.png: " in done.stderr


def test_pictures_are_kept_until_a_setting_or_the_user_says_no(
    class_set: Path,
    random_model: Path,
    classifier_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def is_made(*more: object) -> bool:
        """Whether a run makes the picture, rather than keeps the one that is there."""
        before = kept.stat().st_mtime_ns if kept.exists() else None
        done = call(
            class_set, "--classifier", classifier_folder, "--model", random_model,
            "--method", "noise", "--pictures", 1, "--steps", 1, "-o", tmp_path, *more,
        )  # fmt: skip
        assert done.exit_code == 0, done.output
        return kept.stat().st_mtime_ns != before

    kept = tmp_path / "pictures" / "noise" / "haze" / "00.png"
    assert is_made()
    first, seconds = np.asarray(Image.open(kept)), rows_of(tmp_path)["noise"]["seconds"]
    assert not is_made()
    assert rows_of(tmp_path)["noise"]["seconds"] == seconds
    # A picture that was replaced by another is made anew.
    Image.fromarray(np.full_like(first, 128)).save(kept)
    assert is_made()
    np.testing.assert_array_equal(np.asarray(Image.open(kept)), first)
    assert rows_of(tmp_path)["noise"]["seconds"] != seconds
    assert is_made("--overwrite")
    assert is_made("--seed", 1)
    kept.unlink()
    assert is_made()
    with monkeypatch.context() as patched:
        patched.setattr("dehaze.eval.concepts.evaluation.digest_of_evaluation", lambda: "another")
        assert is_made()
    # The same weights, seen at another size.
    model = shutil.copytree(random_model, tmp_path / "model")
    change(model / "dehaze.json", short_side=32)
    assert is_made("--model", model)
    assert np.asarray(Image.open(kept)).shape != first.shape


@pytest.mark.slow
def test_all_methods_and_solvers_run_by_default(
    class_set: Path, random_model: Path, clip_model: Path, classifier_folder: Path, tmp_path: Path
) -> None:
    done = call(
        class_set, "--classifier", classifier_folder, "--features", classifier_folder,
        "--clip", clip_model, "--model", random_model, "--steps", 1, "--pictures", 1,
        "-o", tmp_path,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    with (tmp_path / "concepts.csv").open() as file:
        found = [(row["method"], row["solver"]) for row in csv.DictReader(file)]
    solvers = ("ddim", "fixed-point")
    assert sorted(found[1:]) == sorted(
        (name, solver)
        for name in SEED_METHODS.names()
        for solver in (solvers if SEED_METHODS.get(name).inverts else ("",))
    )


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"FOLDER": "empty"}, "holds no subfolder"),
        ({"FOLDER": "one"}, "holds 1 photo, and a class needs 2"),
        ({"FOLDER": "haze"}, "belongs to no class"),
        ({"FOLDER": "twice"}, "a class is called 'night sky' already"),
        ({"FOLDER": "wrong"}, "no label of the classifier is called 'oxcart'"),
        ({"--classifier": "empty"}, "the classifier ("),
        ({"--method": "seedselect"}, "name one with --clip"),
        ({"--method": "lerp"}, "'lerp' is not one of noise, slerp, nao"),
        ({"--solver": "edict"}, "'edict' is not one of"),
    ],
)
def test_bad_input_is_refused_by_name(
    class_set: Path,
    random_model: Path,
    classifier_folder: Path,
    tmp_path: Path,
    changes: dict[str, str],
    cause: str,
) -> None:
    photo = Image.open(class_set / "haze" / "0.png")
    for name in ("empty", "one/haze"):
        (tmp_path / name).mkdir(parents=True)
    photo.save(tmp_path / "one" / "haze" / "0.png")
    for name in ("wrong/oxcart", "twice/night sky", "twice/night_sky"):
        (tmp_path / name).mkdir(parents=True)
        for number in range(2):
            photo.save(tmp_path / name / f"{number}.png")
    places = {name: tmp_path / name for name in ("empty", "one", "twice", "wrong")}
    places["haze"] = class_set / "haze"
    given: dict[str, object] = {
        "FOLDER": class_set, "--classifier": classifier_folder, "--model": random_model,
        "--output": tmp_path / "out",
    }  # fmt: skip
    given |= {name: places.get(value, value) for name, value in changes.items()}
    folder = given.pop("FOLDER")
    done = call(folder, *[part for pair in given.items() for part in pair])
    assert done.exit_code == 2, done.output
    assert cause in done.stderr
    assert not (tmp_path / "out").exists()
