"""``dehaze edit``: photos, saved inversions, generated pictures, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from dehaze.commands import main
from dehaze.pipelines.edit import EditPipeline
from dehaze.pipelines.edit_settings import EditSettings

SOURCE = ("--source", "a street with haze")
TARGET = ("--target", "a street with snow")


@pytest.fixture
def picture(tmp_path: Path, photo: NDArray[np.float32]) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray((255 * photo).astype(np.uint8)).save(path)
    return path


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["edit", *map(str, arguments)])


def pixels(path: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(path))


def test_a_photo_is_edited_under_its_own_name(
    picture: Path, any_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(picture.parent)
    before = picture.read_bytes()
    done = call(picture, *SOURCE, *TARGET, "--model", any_model)
    assert done.exit_code == 0, done.output
    result = picture.parent / "edited" / "photo.png"
    assert pixels(result).shape == pixels(picture).shape
    assert not np.array_equal(pixels(result), pixels(picture))
    assert picture.read_bytes() == before
    assert "edited/photo.png" in done.stdout


def test_a_result_is_not_named_as_another_format(picture: Path, any_model: Path) -> None:
    """A photo's format is kept, so a result named .jpg would hold PNG."""
    out = picture.parent / "out.jpg"
    done = call(picture, *SOURCE, *TARGET, "--model", any_model, "-o", out)
    assert done.exit_code == 2
    assert f"{out}: names JPEG, and the result is PNG as its photo is" in done.stderr
    assert "end the name in .png" in done.stderr
    assert not out.exists()


def test_the_edited_file_is_printed_without_its_cost(picture: Path, any_model: Path) -> None:
    out = picture.parent / "out.png"
    plain = call(picture, *SOURCE, *TARGET, "--model", any_model, "-o", out)
    assert plain.stdout == f"edited: {out}\n"
    assert call(picture, *SOURCE, *TARGET, "--model", any_model, "-o", out, "-q").stdout == ""


def test_every_option_reaches_the_edit(
    picture: Path, any_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit, given = EditPipeline.__call__, dict[str, Any]()

    def seen(self: EditPipeline, *arguments: Any, **options: Any) -> Any:
        given.update(options, settings=arguments[3])
        return edit(self, *arguments, **options)

    monkeypatch.setattr(EditPipeline, "__call__", seen)
    out = picture.parent / "out.png"
    done = call(
        picture, *SOURCE, *TARGET, "--model", any_model, "-o", out,
        "--control", "refine", "--cross-replace", "0.9", "--cross-replace", "snow=0.2",
        "--self-replace", 0.2, "--word-weight", "snow=2", "--blend", "street", "--exclude", "a",
        "--blend-threshold", 0.9, "--guidance", 2, "--guidance-outside", 1.5, "--focus", "haze",
        "--strength", 1.2, "--fresh-source", "--eta", 0.2, "--samples", 2, "--seed", 4,
        "--recovery", "none", "--steps", 3, "--depth", 2, "--solver", "anderson",
        "--inversion-guidance", 1.2,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert given.pop("settings") == EditSettings(
        control="refine",
        cross_replace_steps={"default": 0.9, "snow": 0.2},
        self_replace_steps=0.2,
        word_weights={"snow": 2.0},
        blend=("street",),
        exclude=("a",),
        blend_threshold=0.9,
        guidance_scale=2.0,
        guidance_outside=1.5,
        strength=1.2,
        fresh_source=True,
        focus="haze",
        eta=0.2,
        samples=2,
    )
    assert given.pop("generator").initial_seed() == 4
    assert given == {
        "inversion": None,
        "recovery": "none",
        "num_inference_steps": 3,
        "depth": 2,
        "solver": "anderson",
        "inversion_guidance_scale": 1.2,
    }
    assert "best" in done.stdout
    assert "% of the picture changed by the blend" in done.stdout
    guided = call(
        picture, *SOURCE, *TARGET, "--model", any_model, "-o", out, "--mode", "direct",
        "--guidance", 2, "--steps", 2,
    )  # fmt: skip
    assert guided.exit_code == 0, guided.output
    assert given["settings"] == EditSettings(mode="direct", guidance_scale=2.0)


def test_clip_chooses_among_samples(picture: Path, random_model: Path, clip_model: Path) -> None:
    out = picture.parent / "best.png"
    settings = (picture, *SOURCE, *TARGET, "--model", random_model, "--eta", 0.9)
    done = call(*settings, "--samples", 2, "--clip", clip_model, "-o", out)
    assert done.exit_code == 0, done.output
    best, *scores = re.findall(r"-?\d+\.\d\d", done.stdout.partition("best by CLIP ")[2])
    assert float(best) == max(map(float, scores))
    assert len(set(scores)) == 2
    missing = call(
        *settings,
        "--samples",
        2,
        "--clip",
        picture.parent / "none",
        "-o",
        picture.parent / "no.png",
    )
    assert missing.exit_code == 2
    assert "none) is not on this machine" in missing.stderr
    assert not (picture.parent / "no.png").exists()


@pytest.mark.parametrize(
    "target",
    [
        (),
        ("--target", SOURCE[1]),
        ("--target", f" {SOURCE[1].title()}"),
        ("--word-weight", "haze=1"),
    ],
)
def test_an_edit_that_would_be_a_copy_is_refused(
    picture: Path, random_model: Path, target: tuple[str, ...]
) -> None:
    out = picture.parent / "out.png"
    done = call(picture, *SOURCE, *target, "--model", random_model, "-o", out)
    assert done.exit_code == 2
    assert "nothing would be edited: name another --target" in done.stderr
    assert not out.exists()


def test_the_empty_target_is_another_prompt(picture: Path, random_model: Path) -> None:
    settings = ("--model", random_model, "--steps", 1, "-o", picture.parent / "out.png")
    done = call(picture, *SOURCE, "--target", "", *settings)
    assert done.exit_code == 0, done.output
    assert "--target is empty: the model is told nothing" in done.stderr
    assert "--source" not in done.stderr


def test_words_are_weighted_without_a_target(picture: Path, any_model: Path) -> None:
    settings = (*SOURCE, "--model", any_model, "--recovery", "none", "--cross-replace", 1)
    files = [picture.parent / f"{name}.png" for name in ("hardly", "weighted")]
    for file, weight in zip(files, ("haze=0.99", "haze=-5"), strict=True):
        assert call(picture, *settings, "-o", file, "--word-weight", weight).exit_code == 0
    hardly, weighted = map(pixels, files)
    assert np.abs(hardly.astype(int) - weighted).max() >= 1


def test_a_saved_inversion_is_edited_twice_for_a_step_each(picture: Path, any_model: Path) -> None:
    saved = picture.parent / "photo.safetensors"
    inverted = CliRunner().invoke(
        main,
        list(
            map(
                str,
                (
                    *("invert", picture, "-o", saved, "--model", any_model),
                    *("--prompt", SOURCE[1], "--solver", "fixed-point", "--attention"),
                ),
            )
        ),
    )
    assert inverted.exit_code == 0, inverted.output
    whole = picture.parent / "whole.png"
    assert call(picture, *SOURCE, *TARGET, "--model", any_model, "-o", whole).exit_code == 0
    settings = (*SOURCE, "--model", any_model, "--inversion", saved)
    again = picture.parent / "again.png"
    done = call(picture, *settings, *TARGET, "-o", again, "-v")
    assert "4 network evaluations" in done.stdout
    np.testing.assert_array_equal(pixels(again), pixels(whole))
    refused = call(picture, *settings, *TARGET, "-o", again, "--attention-memory", 1)
    assert refused.exit_code == 2
    assert "--attention-memory has no effect" in refused.stderr
    # Without the photo, at the size of the model.
    alone = picture.parent / "alone.png"
    other = call(*settings, "--target", "a street with rain", "-o", alone, "-v")
    assert "4 network evaluations" in other.stdout
    assert pixels(alone).shape == (16, 24, 3)
    assert pixels(picture.parent / "alone.source.png").shape == (16, 24, 3)


def test_a_generated_picture_is_edited(tmp_path: Path, any_model: Path) -> None:
    out = tmp_path / "made.png"
    done = call("--generate", 7, *SOURCE, *TARGET, "--model", any_model, "-o", out, "-v")
    assert done.exit_code == 0, done.output
    assert "8 network evaluations" in done.stdout
    assert not np.array_equal(pixels(out), pixels(tmp_path / "made.source.png"))


def test_guidance_makes_the_generated_source_too(tmp_path: Path, random_model: Path) -> None:
    settings = (*SOURCE, *TARGET, "--model", random_model, "-o", tmp_path / "made.png", "-v")
    done = call("--generate", 7, "--guidance", 6, *settings)
    # Four steps each way, under the prompt and without it.
    assert "16 network evaluations" in done.stdout, done.output


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        ((), "one source"),
        (("PHOTO", "--generate", 1), "one source"),
        (("--generate", 1, "--depth", 2), "only without --generate"),
        (("--inversion", "x.safetensors", "--steps", 2), "only without --inversion"),
        (("PHOTO", "-o", "PHOTO"), "would be replaced; name another file with -o"),
        (("PHOTO", "--control", "swirl"), "replace, refine, reweight"),
        (("PHOTO", "--control", "reweight"), "keeps the prompt"),
        (("PHOTO", "--mode", "magic"), "null-text"),
        (("PHOTO", "--mode", "direct"), "guidance_scale"),
        (("PHOTO", "--word-weight", "haze"), "WORD=NUMBER"),
        (("PHOTO", "--word-weight", "snow=much"), "'much'"),
        (("PHOTO", "--word-weight", "snow=2", "--word-weight", "snow=3"), "twice for 'snow'"),
        (("PHOTO", "--cross-replace", "0.5", "--cross-replace", "1"), "twice for 'default'"),
        (("PHOTO", "--word-weight", "rain=2"), "it has a, street, with, snow"),
        (("PHOTO", "--blend", "rain"), "it has a, street, with, haze"),
        (("PHOTO", "--cross-replace", "snow=2"), "0 to 1"),
        (("PHOTO", "--inversion", "missing.safetensors"), "missing.safetensors"),
        (("missing.jpg",), "missing.jpg"),
        (("PHOTO", "--model", "no/such/model"), "no such folder"),
    ],
)
def test_bad_input_is_refused_and_writes_nothing(
    picture: Path, random_model: Path, arguments: tuple[object, ...], cause: str
) -> None:
    out = picture.parent / "made" / "out.png"
    given = [picture if argument == "PHOTO" else argument for argument in arguments]
    settings = (*SOURCE, *TARGET, "-o", out, "--model", random_model)
    done = call(*settings, *given)
    assert done.exit_code == 2
    assert cause in done.stderr
    assert not out.parent.exists()


def test_the_inversion_of_another_photo_is_refused(
    picture: Path, random_model: Path, tmp_path: Path
) -> None:
    """Of another shape; of the same one, mirrored; and of the same, a pixel larger."""
    photo = pixels(picture)
    larger = np.pad(photo, ((0, 1), (0, 0), (0, 0)), mode="edge")
    for number, other in enumerate((photo[:40, :40], photo[::-1], larger)):
        file, saved = tmp_path / f"{number}.png", tmp_path / f"{number}.safetensors"
        Image.fromarray(np.ascontiguousarray(other)).save(file)
        made = ("invert", file, "-o", saved, "--model", random_model, "--prompt", SOURCE[1])
        inverted = CliRunner().invoke(main, [*map(str, made), "--steps", "1"])
        assert inverted.exit_code == 0, inverted.output
        done = call(picture, *SOURCE, *TARGET, "--model", random_model, "--inversion", saved)
        assert done.exit_code == 2
        assert "another photo" in done.stderr


def test_word_unknown_to_the_bundled_model_lists_the_known(picture: Path) -> None:
    done = call(picture, *SOURCE, "--target", "a street with elephants")
    assert done.exit_code == 2
    assert "never learned 'elephants': " in done.stderr
    assert "\n" not in done.stderr.strip()


def test_attention_memory_is_refused_without_an_accelerator(
    picture: Path, random_model: Path
) -> None:
    done = call(
        picture, *SOURCE, *TARGET, "--model", random_model, "--device", "cpu",
        "--attention-memory", 1, "-o", picture.parent / "out.png",
    )  # fmt: skip
    assert done.exit_code == 2
    assert "--attention-memory has an effect only on an accelerator" in done.stderr
