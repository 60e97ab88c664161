"""Models of the four formats with one thing broken in each: refused by name, never loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from broken_models import FAULTS, change, refusal, spoil
from original_format import save_as_one_file
from safetensors.torch import load_file, save_file

from dehaze.models.load import load_parts
from dehaze.models.source import ModelSource

WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
    "text_encoder_2": "model.safetensors",
}


@pytest.fixture
def folder(stable_diffusion: Path, tmp_path: Path) -> Path:
    """A copy of a model of 1.x, 2.x or XL, to be broken."""
    return Path(shutil.copytree(stable_diffusion, tmp_path / "model"))


@pytest.fixture(params=["folder", "file"])
def layout(request: pytest.FixtureRequest, folder: Path) -> tuple[Path, Path]:
    """A model and the folder of its configurations: 1.x, 2.x, XL, and each of them in one file."""
    if request.param == "folder":
        return folder, folder
    file = save_as_one_file(folder, folder.parent / "one.safetensors")
    return file, file.with_suffix("")


@pytest.mark.parametrize("part", WEIGHTS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_weight(folder: Path, part: str, fault: str) -> None:
    file = folder / part / WEIGHTS[part]
    if not file.is_file():
        pytest.skip("only XL has a second text encoder")
    name = spoil(file, fault)
    said = refusal(folder)
    assert str(file) in said
    assert name.removeprefix("text_model.") in said


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_a_whole_block_of_weights_missing(folder: Path, part: str) -> None:
    file = folder / part / WEIGHTS[part]
    left_out = ("mid_block.", "embeddings.", "text_model.embeddings.")
    weights = {k: v for k, v in load_file(file).items() if not k.startswith(left_out)}
    save_file(weights, file)
    assert "weights, the first" in refusal(folder)


@pytest.mark.parametrize("part", WEIGHTS)
def test_a_torn_file_of_weights(folder: Path, part: str) -> None:
    file = folder / part / WEIGHTS[part]
    if not file.is_file():
        pytest.skip("only XL has a second text encoder")
    file.write_bytes(file.read_bytes()[:-100])
    assert f"{file} is no whole safetensors file" in refusal(folder)


def test_a_pointer_in_place_of_weights(folder: Path) -> None:
    file = folder / "vae" / WEIGHTS["vae"]
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert f"{file} is a pointer of git-lfs" in refusal(folder)


BROKEN: list[tuple[str, Callable[[Path], object], str]] = [
    ("scheduler/scheduler_config.json", lambda path: path.unlink(), "has no scheduler_config.json"),
    ("scheduler/scheduler_config.json", lambda path: path.write_text("{"), "no whole JSON file"),
    (
        "scheduler/scheduler_config.json",
        lambda path: change(path, _class_name="FlowMatchEulerDiscreteScheduler"),
        "FlowMatchEulerDiscreteScheduler is of another process",
    ),
    (
        "scheduler/scheduler_config.json",
        lambda path: change(path, prediction_type="flow_prediction"),
        "prediction type 'flow_prediction' is unknown",
    ),
    (
        "scheduler/scheduler_config.json",
        lambda path: change(path, beta_schedule="no such"),
        "no such",
    ),
    *(
        (
            "scheduler/scheduler_config.json",
            lambda path, setting=setting, value=value: change(path, **{setting: value}),
            cause,
        )
        for setting, value, cause in (
            ("num_train_timesteps", 0, "scheduler_config.json: "),
            ("num_train_timesteps", -5, "scheduler_config.json: "),
            ("num_train_timesteps", "many", "scheduler_config.json: "),
            ("trained_betas", [0.1, 0.2], "the schedule has 2 betas"),
            ("beta_start", -0.01, "scheduler_config.json: "),
            ("beta_end", 2.0, "must lie between 0 and 1"),
            ("steps_offset", -3, "steps_offset is -3"),
            ("steps_offset", "a", "steps_offset is 'a'"),
            ("timestep_spacing", "foo", "timestep_spacing is 'foo'"),
        )
    ),
    ("unet/config.json", lambda path: path.unlink(), "has no config.json"),
    ("unet/config.json", lambda path: change(path, sample_size=0), "sample_size=0"),
    ("unet/config.json", lambda path: change(path, sample_size=[8, -8]), "sample_size=[8, -8]"),
    (
        "unet/config.json",
        lambda path: change(path, center_input_sample="maybe"),
        "center_input_sample='maybe'",
    ),
    ("vae/config.json", lambda path: change(path, scaling_factor=None), "scaling_factor=None"),
    ("vae/config.json", lambda path: change(path, scaling_factor=0), "scaling_factor=0"),
    ("vae/config.json", lambda path: change(path, scaling_factor="x"), "scaling_factor='x'"),
    ("vae/config.json", lambda path: change(path, shift_factor="x"), "shift_factor='x'"),
    ("unet/config.json", lambda path: path.write_text("[]"), "no JSON object"),
    ("unet/config.json", lambda path: change(path, _class_name="UNet3D"), "unet is a UNet3D"),
    ("unet/config.json", lambda path: change(path, in_channels=9), "in_channels=9"),
    ("unet/config.json", lambda path: change(path, layers_per_block=2), "lacks"),
    ("unet/config.json", lambda path: change(path, layers_per_block="two"), "makes no UNet"),
    ("vae/config.json", lambda path: change(path, latents_mean=[1, 1, 1, 1]), "latents_mean"),
    ("vae/config.json", lambda path: change(path, _class_name="VQModel"), "vae is a VQModel"),
    ("text_encoder/config.json", lambda path: change(path, model_type="bert"), "kind bert"),
    (
        "text_encoder/config.json",
        lambda path: change(path, architectures=["BertModel"]),
        "clip_text_model, BertModel",
    ),
    ("text_encoder/config.json", lambda path: path.write_text(""), "no whole JSON file"),
    ("text_encoder/config.json", lambda path: change(path, hidden_size=48), "cross_attention_dim"),
    ("text_encoder/config.json", lambda path: change(path, num_hidden_layers=3), "lacks"),
    ("tokenizer/tokenizer.json", lambda path: path.write_text("{}"), "tokenizer"),
    ("tokenizer/tokenizer.json", lambda path: path.unlink(), "tokens, and its text encoder"),
    (
        "tokenizer/tokenizer_config.json",
        lambda path: change(path, model_max_length=0),
        "model_max_length=0",
    ),
    ("model_index.json", lambda path: path.write_text("{"), "no whole JSON file"),
    ("model_index.json", lambda path: change(path, _class_name=None), "names no pipeline"),
    *(
        (
            "model_index.json",
            lambda path, name=name: change(path, _class_name=name),
            "for another task",
        )
        for name in (
            "KandinskyPipeline",
            "StableVideoDiffusionPipeline",
            "StableDiffusionUpscalePipeline",
            "StableDiffusionInstructPix2PixPipeline",
        )
    ),
    ("model_index.json", lambda path: change(path, unet=[None, None]), "has no unet"),
    (
        "model_index.json",
        lambda path: change(path, text_encoder=["transformers", "T5EncoderModel"]),
        "text_encoder is a T5EncoderModel",
    ),
    ("dehaze.json", lambda path: path.write_text("{"), "no whole JSON file"),
    ("dehaze.json", lambda path: path.write_text('{"steps": "many"}'), "steps is 'many'"),
    ("dehaze.json", lambda path: path.write_text('{"solver": "magic"}'), "solver is 'magic'"),
]


# XL has all files of 1.x.
@pytest.mark.parametrize(
    "stable_diffusion", [pytest.param("epsilon", marks=pytest.mark.slow), "xl"], indirect=True
)
@pytest.mark.parametrize(
    ("name", "break_it", "cause"), BROKEN, ids=[f"{name}-{cause[:20]}" for name, _, cause in BROKEN]
)
def test_a_broken_file_is_named(
    layout: tuple[Path, Path], name: str, break_it: Callable[[Path], object], cause: str
) -> None:
    model, folder = layout
    break_it(folder / name)
    said = refusal(model)
    assert cause in said
    assert str(folder) in said or str(model) in said


def test_null_for_false_is_read(folder: Path) -> None:
    change(folder / "unet" / "config.json", upcast_attention=None)
    assert load_parts(ModelSource(folder)).unet is not None


def test_an_end_that_the_tokenizer_does_not_write(folder: Path) -> None:
    second = folder / "text_encoder_2" / "config.json"
    if not second.is_file():
        pytest.skip("only XL sums a text up at its end")
    change(second, eos_token_id=7)
    assert "eos_token_id=7" in refusal(folder)


@pytest.mark.parametrize("listed", [[], {}, ["a.safetensors"], None])
def test_an_index_that_lists_no_files(folder: Path, listed: object) -> None:
    file = folder / "unet" / WEIGHTS["unet"]
    file.unlink()
    index = file.with_name(f"{file.name}.index.json")
    index.write_text(json.dumps({"weight_map": listed}))
    assert f"{index} lists no files of weights" in refusal(folder)
