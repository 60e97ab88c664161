from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dehaze.models import ModelError
from dehaze.models.codec import CellsCodec, PixelUnshuffleCodec
from dehaze.models.load import ModelParts
from dehaze.models.load import load_parts as load
from dehaze.models.source import BUNDLED_FOLDER, ModelSource


def load_parts(model: Path | str, **settings: Any) -> ModelParts:
    return load(ModelSource(model, **settings))


def test_every_weight_is_the_saved_one(stable_diffusion: Path) -> None:
    parts = load_parts(stable_diffusion)
    saved = load_file(stable_diffusion / "unet" / "diffusion_pytorch_model.safetensors")
    for name, value in parts.unet.state_dict().items():
        assert torch.equal(value, saved[name])
    assert not any(weight.requires_grad for weight in parts.unet.parameters())
    assert not parts.unet.training


def test_the_schedulers_settings_survive_its_class(stable_diffusion: Path) -> None:
    parts = load_parts(stable_diffusion)
    saved = json.loads((stable_diffusion / "scheduler" / "scheduler_config.json").read_text())
    for name in ("prediction_type", "set_alpha_to_one", "beta_end", "steps_offset"):
        if name in saved:
            assert parts.scheduler.config[name] == saved[name]


def copy_of(model: Path, folder: Path) -> Path:
    return Path(shutil.copytree(model, folder / "copy"))


def test_no_such_model_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match=r"no such folder or file.*bundled") as caught:
        load_parts("nobody/no such model")
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model_index\.json"):
        load_parts(tmp_path)


@pytest.mark.parametrize("part", ["unet", "vae", "tokenizer"])
def test_a_missing_part_is_named(random_model: Path, tmp_path: Path, part: str) -> None:
    model = copy_of(random_model, tmp_path)
    shutil.rmtree(model / part)
    with pytest.raises(ModelError, match=f"has no {part}"):
        load_parts(model)


def test_pickled_weights_are_never_read(random_model: Path, tmp_path: Path) -> None:
    model = copy_of(random_model, tmp_path)
    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), model / "unet" / "diffusion_pytorch_model.bin")
    weights.unlink()
    with pytest.raises(ModelError, match=r"only diffusion_pytorch_model\.bin.* safetensors first"):
        load_parts(model)


def test_two_text_encoders_need_both_tokenizers(stable_diffusion_xl: Path, tmp_path: Path) -> None:
    parts = load_parts(stable_diffusion_xl)
    assert parts.text_encoder_2 is not None
    assert parts.tokenizer_2.pad_token == "!"
    assert not any(weight.requires_grad for weight in parts.text_encoder_2.parameters())
    assert parts.description.zero_null_text
    model = copy_of(stable_diffusion_xl, tmp_path)
    shutil.rmtree(model / "tokenizer_2")
    with pytest.raises(ModelError, match="has no tokenizer_2"):
        load_parts(model)


def test_a_refiner_without_a_first_text_encoder_is_refused(
    stable_diffusion_xl: Path, tmp_path: Path
) -> None:
    model = copy_of(stable_diffusion_xl, tmp_path)
    index = json.loads((model / "model_index.json").read_text())
    index["text_encoder"] = [None, None]
    (model / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="has no text_encoder"):
        load_parts(model)


def test_another_codec_is_refused_by_name(random_model: Path, tmp_path: Path) -> None:
    model = copy_of(random_model, tmp_path)
    (model / "vae" / "config.json").write_text(json.dumps({"_class_name": "AutoencoderTiny"}))
    with pytest.raises(ModelError, match="AutoencoderTiny"):
        load_parts(model)


@pytest.mark.parametrize(
    ("codec", "channels"), [(PixelUnshuffleCodec(patch_size=4), 48), (CellsCodec(), 36)]
)
def test_a_codec_of_other_latents_is_refused(
    random_model: Path, tmp_path: Path, codec: Any, channels: int
) -> None:
    model = copy_of(random_model, tmp_path)
    codec.save_pretrained(model / "vae")
    index = json.loads((model / "model_index.json").read_text())
    index["vae"] = ["dehaze.models.codec", type(codec).__name__]
    (model / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=f"in_channels=12, and only {channels} can be used"):
        load_parts(model)


def test_the_bundled_model_ships_within_its_limit() -> None:
    files = [file for file in BUNDLED_FOLDER.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 25 * 2**20
    weights = {file.suffix for file in files}
    assert ".safetensors" in weights
    assert not weights & {".bin", ".pt", ".ckpt", ".pkl"}
    assert (BUNDLED_FOLDER / "MODEL_CARD.md").is_file()


def with_scheduler(model: Path, folder: Path, **settings: object) -> Path:
    """A copy of a model, its scheduler's configuration replaced."""
    made = copy_of(model, folder)
    (made / "scheduler" / "scheduler_config.json").write_text(json.dumps(settings))
    index = json.loads((made / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", settings["_class_name"]]
    (made / "model_index.json").write_text(json.dumps(index))
    return made


@pytest.mark.parametrize("name", ["FlowMatchEulerDiscreteScheduler", "EDMEulerScheduler"])
def test_a_scheduler_of_another_process_is_refused(
    stable_diffusion: Path, tmp_path: Path, name: str
) -> None:
    model = with_scheduler(stable_diffusion, tmp_path, _class_name=name)
    with pytest.raises(ModelError, match=f"{name} is of another process") as caught:
        load_parts(model)
    assert str(caught.value).startswith(str(model))


def test_a_setting_of_another_process_is_refused(stable_diffusion: Path, tmp_path: Path) -> None:
    model = with_scheduler(
        stable_diffusion, tmp_path, _class_name="DDIMScheduler", clip_sample=True
    )
    with pytest.raises(ModelError, match="DDIMScheduler has clip_sample=True"):
        load_parts(model)


def test_a_setting_that_is_left_out_has_its_own_classs_default(
    stable_diffusion: Path, tmp_path: Path
) -> None:
    model = with_scheduler(stable_diffusion, tmp_path, _class_name="EulerDiscreteScheduler")
    assert load_parts(model).scheduler.config.timestep_spacing == "linspace"
