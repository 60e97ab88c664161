"""``dehaze invert``: the file, the plots, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from dehaze.commands import main
from dehaze.inversion import InversionResult


@pytest.fixture
def picture(tmp_path: Path, photo: NDArray[np.float32]) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray((255 * photo).astype(np.uint8)).save(path)
    return path


def call(picture: Path, model: Path, *arguments: object) -> Result:
    out = picture.parent / "made" / "photo.safetensors"
    settings = ["invert", picture, "-o", out, "--model", model, *arguments]
    return CliRunner().invoke(main, list(map(str, settings)))


def test_the_file_holds_the_inversion_that_was_asked_for(picture: Path, any_model: Path) -> None:
    done = call(
        picture,
        any_model,
        *("--solver", "anderson", "--predictor", "ife", "--criterion", "certificate"),
        *("--steps", 5, "--depth", 3, "--iterations", 4, "--guidance", 2),
    )
    assert done.exit_code == 0, done.output
    loaded = InversionResult.load(picture.parent / "made" / "photo.safetensors")
    assert (loaded.table.steps, loaded.steps) == (5, 3)
    assert loaded.trace.residuals.shape[1] == 4
    assert loaded.attention == {}
    assert done.stdout.startswith("3 steps, of which ")
    assert "'certificate'; their errors were not measured: --check" in done.stdout
    assert "evaluations" not in done.stdout
    assert int(loaded.trace.nfe.sum()) == 2 * int(loaded.trace.iterations.sum())


def test_attention_is_written_where_it_is_asked_for(picture: Path, random_model: Path) -> None:
    done = call(picture, random_model, "--steps", 2, "--attention")
    assert done.exit_code == 0, done.output
    assert InversionResult.load(picture.parent / "made" / "photo.safetensors").attention


def test_the_default_of_a_model_without_a_fit_is_measured(
    picture: Path, stable_diffusion_xl: Path
) -> None:
    steps = ("--steps", 50, "--depth", 3)
    done = call(picture, stable_diffusion_xl, *steps, "--tolerance", 1e-2)
    assert done.exit_code == 0, done.output
    made = InversionResult.load(picture.parent / "made" / "photo.safetensors")
    assert (made.settings.predictor, made.settings.criterion) == ("ife", "residual")
    assert not made.trace.remaining.isnan().any()
    assert made.trace.converged.all()
    assert "3 steps, all converged to 0.01 of the latent; " in done.stdout
    done = call(picture, stable_diffusion_xl, *steps, "--iterations", 1, "-v")
    assert "0 converged to" in done.stdout
    assert "the others did not: step" in done.stdout
    assert "3 network evaluations" in done.stdout


def test_the_bundled_model_uses_its_fitted_settings(picture: Path) -> None:
    done = CliRunner().invoke(
        main, ["invert", str(picture), "-o", str(picture.parent / "a.safetensors"), "--steps", "5"]
    )
    assert done.exit_code == 0, done.output
    assert "ended by the criterion 'expected-error'; their errors were not" in done.stdout
    made = InversionResult.load(picture.parent / "a.safetensors")
    assert made.settings.relaxation == "fitted"
    assert not made.trace.converged.any()


def test_a_named_solver_runs_as_published(picture: Path, any_model: Path) -> None:
    assert call(picture, any_model, "--steps", 5, "--solver", "ddim").exit_code == 0
    plain = InversionResult.load(picture.parent / "made" / "photo.safetensors")
    explicit = ("--predictor", "previous", "--relaxation", "none")
    assert call(picture, any_model, "--steps", 5, "--solver", "ddim", *explicit).exit_code == 0
    again = InversionResult.load(picture.parent / "made" / "photo.safetensors")
    assert (plain.trajectory == again.trajectory).all()
    done = call(picture, any_model, "--steps", 2, "--solver", "ddim", "--check")
    assert "step 1 is off by" in done.stdout


@pytest.mark.parametrize(("solver", "nfe"), [("edict", 8), ("bdia", 4)])
def test_exact_methods_are_named_as_such(
    picture: Path, any_model: Path, solver: str, nfe: int
) -> None:
    done = call(picture, any_model, "--steps", 4, "--solver", solver, "-v")
    assert done.exit_code == 0, done.output
    assert "4 steps, which are undone exactly whatever the network does" in done.stdout
    assert f"{nfe} network evaluations" in done.stdout
    loaded = InversionResult.load(picture.parent / "made" / "photo.safetensors")
    assert loaded.settings.solver == solver


@pytest.mark.parametrize(
    ("name", "steps", "evaluations"), [("noise-denoise", 4, 4), ("img2img", 20, 1)]
)
def test_an_adjustment_says_how_far_the_photo_moved(
    picture: Path, random_model: Path, name: str, steps: int, evaluations: int
) -> None:
    arguments = ("--steps", steps, "--solver", "ddim", "--adjust", name, "--adjust-repeats", 2)
    done = call(picture, random_model, *arguments)
    assert done.exit_code == 0, done.output
    loaded = InversionResult.load(picture.parent / "made" / "photo.safetensors")
    assert loaded.adjustment is not None
    assert 0.0 < float(loaded.adjustment[0]) < 0.9
    assert (loaded.settings.adjustment, loaded.settings.adjustment_repeats) == (name, 2)
    assert int(loaded.trace.nfe[0]) == 2 * evaluations + 1
    assert (
        f"the photo was changed by {100 * float(loaded.adjustment[0]):.2f} % first" in done.stdout
    )


def test_plots_are_drawn_beside_it(picture: Path, random_model: Path) -> None:
    pytest.importorskip("matplotlib")
    folder = picture.parent / "plots"
    done = call(
        picture, random_model, "--steps", 2, "--plots", folder, "--mode", "direct", "--guidance", 3
    )
    assert done.exit_code == 0, done.output
    names = sorted(path.name for path in folder.iterdir())
    assert names == [
        "contraction.png", "reconstruction.png", "residuals.png", "trajectories.png"
    ]  # fmt: skip
    for name in names:
        assert np.asarray(Image.open(folder / name).convert("L")).std() > 5
        assert name in done.stdout
    # The inversion of a mode is at guidance 1: one evaluation each.
    loaded = InversionResult.load(picture.parent / "made" / "photo.safetensors")
    assert torch.equal(loaded.trace.nfe, loaded.trace.iterations)


def test_a_broken_photo_of_a_folder_is_named(
    picture: Path, any_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    (folder / "far").mkdir(parents=True)
    picture.rename(folder / "a.png")
    shutil.copy(folder / "a.png", folder / "far" / "a.png")
    (folder / "b.png").write_bytes(b"no picture")
    for suffix in ("jpg", "png"):
        shutil.copy(folder / "a.png", folder / f"twice.{suffix}")
    out = tmp_path / "out"
    settings = ["invert", folder, "-o", out, "--model", any_model, "--steps", 2]
    done = CliRunner().invoke(main, list(map(str, settings)))
    assert done.exit_code == 1
    assert f"failed: {folder / 'b.png'}" in done.stderr
    for suffix in ("jpg", "png"):
        assert f"failed: {folder / 'twice'}.{suffix}: the hazy image twice is" in done.stderr
    assert "3 of 5 photos failed" in done.stderr
    made = sorted(str(path.relative_to(out)) for path in out.rglob("*.safetensors"))
    assert made == ["a.safetensors", "far/a.safetensors"]


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (("--solver", "newton"), "fixed-point"),
        (("--predictor", "oracle"), "ife"),
        (("--criterion", "luck"), "certificate"),
        (("--relaxation", "yoga"), "wiener"),
        (("--mode", "magic"), "null-text"),
        (("--mode", "direct"), "--plots"),
        (("--adjust", "magic"), "noise-denoise"),
        (("--adjust", "img2img", "--steps", 4), "20 or more"),
        (("--adjust-repeats", 2), "--adjust"),
        (("--solver", "edict", "--criterion", "residual"), "--criterion has an effect only"),
        (("--solver", "ddim", "--iterations", 3), "--iterations has an effect only"),
        (("--depth", 9, "--steps", 4), "1 to 4"),
        (("--word", "rain"), "rain"),
        (("--model", "no/such/model"), "no such folder"),
    ],
)
def test_bad_input_is_refused_and_writes_nothing(
    picture: Path, random_model: Path, arguments: tuple[object, ...], cause: str
) -> None:
    done = call(picture, random_model, *arguments)
    assert done.exit_code == 2
    assert cause in done.stderr
    assert not (picture.parent / "made").exists()


def test_the_photo_is_not_replaced_by_its_inversion(picture: Path, random_model: Path) -> None:
    before = picture.read_bytes()
    settings = ["invert", picture, "-o", picture, "--model", random_model, "--steps", 1]
    done = CliRunner().invoke(main, list(map(str, settings)))
    assert done.exit_code == 2
    assert f"{picture} is an input and would be replaced" in done.stderr
    assert picture.read_bytes() == before


def test_a_photo_that_is_missing_is_named(tmp_path: Path, random_model: Path) -> None:
    done = call(tmp_path / "missing.jpg", random_model)
    assert done.exit_code == 2
    assert "missing.jpg" in done.stderr
