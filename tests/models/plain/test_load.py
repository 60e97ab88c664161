"""Loading without diffusers gives the same parts, or is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from broken_models import FAULTS, spoil
from diffusers import DDIMScheduler

from dehaze.inversion.ddim import DDIMTable
from dehaze.models import ModelError
from dehaze.models.choice import ModelChoice
from dehaze.models.known_answer import check_known_answer
from dehaze.models.load import load_parts
from dehaze.models.plain import scheduler as schedules
from dehaze.models.plain.load import is_plain, load_plain_parts, why_not
from dehaze.models.source import BUNDLED_FOLDER, ModelSource


def test_the_bundled_model_is_loaded_alike() -> None:
    ours, theirs = load_plain_parts(BUNDLED_FOLDER), load_parts(ModelSource())
    assert ours.description == theirs.description
    for part in ("unet", "vae"):
        expected = getattr(theirs, part).state_dict()
        found = getattr(ours, part).state_dict()
        assert set(found) == set(expected)
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert check_known_answer(BUNDLED_FOLDER, ours)


def test_the_precision_is_the_one_asked_for() -> None:
    parts = load_plain_parts(BUNDLED_FOLDER, torch.bfloat16)
    assert parts.unet.dtype == parts.text_encoder.dtype == torch.bfloat16
    assert parts.vae.dtype == torch.float32


@pytest.mark.parametrize("rescaled", [True, False])
@pytest.mark.parametrize("spacing", ["noisy-end", "leading", "trailing"])
def test_the_schedule_is_that_of_diffusers(rescaled: bool, spacing: str) -> None:
    config = json.loads((BUNDLED_FOLDER / "scheduler" / "scheduler_config.json").read_text())
    config |= {"rescale_betas_zero_snr": rescaled}
    theirs, ours = DDIMScheduler.from_config(config), schedules.DDIMScheduler(config)
    assert schedules.why_not(config) is None
    assert torch.equal(ours.alphas_cumprod, theirs.alphas_cumprod)
    if rescaled and spacing == "trailing":
        # Neither can be inverted, since the last step carries no signal.
        spacing = "leading"
    assert DDIMTable.from_scheduler(ours, 7, spacing) == DDIMTable.from_scheduler(
        theirs, 7, spacing
    )


@pytest.mark.parametrize(
    ("file", "setting", "value"),
    [
        ("unet/config.json", "use_linear_projection", True),
        ("text_encoder/config.json", "hidden_act", "gelu"),
        ("scheduler/scheduler_config.json", "clip_sample", True),
        ("scheduler/scheduler_config.json", "beta_schedule", "linear"),
        ("vae/config.json", "shift_factor", 0.1),
        ("tokenizer/tokenizer_config.json", "pad_token", "!"),
        ("tokenizer/tokenizer_config.json", "do_lower_case", False),
        ("model_index.json", "vae", ["diffusers", "AutoencoderKL"]),
        ("model_index.json", "text_encoder_2", ["transformers", "CLIPTextModelWithProjection"]),
    ],
)
def test_settings_that_are_not_plain_are_named(
    tmp_path: Path, file: str, setting: str, value: object
) -> None:
    folder = Path(shutil.copytree(BUNDLED_FOLDER, tmp_path / "model"))
    assert is_plain(folder)
    config = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(config | {setting: value}))
    said = why_not(folder)
    assert said is not None
    assert said.startswith(file)
    assert not is_plain(folder)


@pytest.mark.parametrize(
    ("file", "setting"),
    [
        ("unet/config.json", "attention_head_dim"),
        ("text_encoder/config.json", "layer_norm_eps"),
        ("vae/config.json", "scaling_factor"),
        # The default of diffusers is another value than the implemented one.
        ("scheduler/scheduler_config.json", "clip_sample"),
        ("tokenizer/tokenizer_config.json", "model_max_length"),
    ],
)
def test_a_missing_setting_is_not_plain(tmp_path: Path, file: str, setting: str) -> None:
    folder = Path(shutil.copytree(BUNDLED_FOLDER, tmp_path / "model"))
    config = json.loads((folder / file).read_text())
    del config[setting]
    (folder / file).write_text(json.dumps(config))
    assert why_not(folder) == f"{file}: {setting}"


def test_a_damaged_folder_is_not_plain(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(BUNDLED_FOLDER, tmp_path / "model"))
    (folder / "unet" / "config.json").write_text("{")
    assert not is_plain(folder)
    assert not is_plain(tmp_path / "nowhere")


def test_damaged_weights_and_tokenizers_are_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(BUNDLED_FOLDER, tmp_path / "model"))
    (folder / "tokenizer" / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="makes no tokenizer"):
        load_plain_parts(folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="no whole safetensors file"):
        load_plain_parts(folder)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_a_wrong_weight(tmp_path: Path, part: str, fault: str) -> None:
    folder = Path(shutil.copytree(BUNDLED_FOLDER, tmp_path / "model"))
    (file,) = (folder / part).glob("*.safetensors")
    name = spoil(file, fault)
    with pytest.raises(ModelError) as caught:
        load_plain_parts(folder)
    assert str(file) in str(caught.value)
    assert name.removeprefix("text_model.") in str(caught.value)


def test_only_the_bundled_model_is_plain(random_model: Path) -> None:
    assert ModelChoice().plain()
    assert not ModelChoice(str(random_model)).plain()
    assert not ModelChoice(revision="main").plain()
    assert not ModelChoice(variant="fp16").plain()
