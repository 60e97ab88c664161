"""Stable Diffusion from one file: every weight is found, and what is missing is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from original_format import save_as_one_file
from safetensors.torch import load_file, save_file

from dehaze.models import ModelError, hub, source
from dehaze.models.hashes import fingerprint
from dehaze.models.load import ModelParts
from dehaze.models.load import load_parts as load
from dehaze.models.source import ModelSource

NETWORKS = ("unet", "vae", "text_encoder", "text_encoder_2")


def load_parts(file: Path, torch_dtype: torch.dtype | None = None) -> ModelParts:
    return load(ModelSource(file), torch_dtype)


def find_layout(file: Path) -> Path:
    return source.find_layout(ModelSource(file), file)


@pytest.fixture
def file(stable_diffusion: Path, tmp_path: Path) -> Path:
    return save_as_one_file(stable_diffusion, tmp_path / "model.safetensors")


def changed(file: Path, name: str | tuple[str, ...], value: torch.Tensor | None) -> None:
    weights = load_file(file)
    found = next(key for key in sorted(weights) if key.endswith(name))
    if value is None:
        del weights[found]
    else:
        weights[found] = value
    save_file(weights, file)


def test_the_file_is_the_folders_model(stable_diffusion: Path, file: Path) -> None:
    parts, saved = load_parts(file), load_parts(stable_diffusion)
    for name in NETWORKS:
        network, original = getattr(parts, name), getattr(saved, name)
        if original is None:
            assert network is None
            continue
        weights = network.state_dict()
        assert set(weights) == set(original.state_dict())
        for key, value in original.state_dict().items():
            assert torch.equal(weights[key], value), key
        assert not network.training
        assert not any(weight.requires_grad for weight in network.parameters())
    assert parts.description == saved.description
    assert parts.scheduler.config == saved.scheduler.config
    assert parts.tokenizer("a photo with haze") == saved.tokenizer("a photo with haze")


def test_half_precision_spares_the_codec(file: Path) -> None:
    parts = load_parts(file, torch_dtype=torch.bfloat16)
    assert parts.unet.dtype == parts.text_encoder.dtype == torch.bfloat16
    assert parts.vae.dtype == torch.float32


def test_single_file_without_layout_takes_the_published_one(
    stable_diffusion: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(file.with_suffix(""))
    asked: list[str] = []

    def download(name: str, *, allow_patterns: list[str], **unused: object) -> str:
        asked.append(name)
        assert not any(pattern.endswith(".safetensors") for pattern in allow_patterns)
        return str(stable_diffusion)

    monkeypatch.setattr(hub, "snapshot_download", download)
    assert find_layout(file) == stable_diffusion
    assert load_parts(file).unet is not None
    assert set(asked) == {"stable-diffusion-v1-5/stable-diffusion-v1-5"}


@pytest.mark.parametrize(
    ("key", "shape", "name"),
    [
        (
            "model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight",
            (8, 1024), "stabilityai/stable-diffusion-2-1",
        ),
        (
            "conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias",
            (8,), "stabilityai/stable-diffusion-xl-base-1.0",
        ),
    ],
)  # fmt: skip
def test_the_published_models_are_told_apart(
    key: str, shape: tuple[int, ...], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "model.safetensors"
    other = "model.diffusion_model.out.2.bias"
    save_file({key: torch.zeros(shape), other: torch.zeros(1)}, file)

    def download(asked: str, **unused: object) -> str:
        raise LocalEntryNotFoundError(asked)

    monkeypatch.setattr(hub, "snapshot_download", download)
    with pytest.raises(ModelError, match=f"layout of {name} .*into .*/model/") as caught:
        find_layout(file)
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match=name):
        load_parts(file)


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("input_blocks.1.0.in_layers.2.weight", r"lacks the weight down_blocks\.\S+ of its UNet"),
        ("time_embed.0.bias", r"lacks the weight time_embedding\S+ of its UNet"),
        ("encoder.down.0.block.0.conv1.bias", r"lacks the weight encoder\.\S+ of its Auto"),
        (
            (".0.ln_1.weight", ".0.layer_norm1.weight"),
            r"lacks the weight \S+norm1\.weight of its CLIP",
        ),
    ],
)
def test_a_missing_weight_is_named_and_never_left_to_chance(
    file: Path, name: str | tuple[str, ...], cause: str
) -> None:
    changed(file, name, None)
    with pytest.raises(ModelError, match=cause) as caught:
        load_parts(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "first_stage_model.", "con"])
def test_a_weight_that_is_not_finite_is_refused(file: Path, prefix: str) -> None:
    weights = load_file(file)
    spoilt = max(name for name in weights if name.startswith(prefix) and "position_ids" not in name)
    weights[spoilt].flatten()[-1] = torch.nan
    save_file(weights, file)
    with pytest.raises(ModelError, match="is not finite: get the file again") as caught:
        load_parts(file)
    assert "\n" not in str(caught.value)


def test_another_shape_than_the_layouts_is_named(file: Path) -> None:
    changed(file, "out.2.bias", torch.zeros(9))
    with pytest.raises(
        ModelError, match=r"the weight conv_out\.bias is \(9,\), its UNet\S+ asks for \(4,\)"
    ):
        load_parts(file)


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "first_stage_model.", "con"])
def test_a_missing_network_is_named(file: Path, prefix: str) -> None:
    weights = {k: v for k, v in load_file(file).items() if not k.startswith(prefix)}
    save_file(weights, file)
    with pytest.raises(ModelError, match=r"has no weights|lacks \d+ weights, the first decoder"):
        load_parts(file)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    pickled = tmp_path / "model.ckpt"
    torch.save({"state_dict": {}}, pickled)
    with pytest.raises(ModelError, match=r"no \.safetensors file"):
        load_parts(pickled)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no weights")
    for call in (load_parts, find_layout):
        with pytest.raises(ModelError, match="no whole safetensors file"):
            call(broken)
    save_file({"weight": torch.zeros(1)}, tmp_path / "lora.safetensors")
    with pytest.raises(ModelError, match="no Stable Diffusion in one file"):
        load_parts(tmp_path / "lora.safetensors")


@pytest.mark.parametrize(
    "name", ["v_pred", "control_model.out.weight", "model.diffusion_model.out.4.weight"]
)
def test_a_weight_that_nothing_takes_is_named(file: Path, name: str) -> None:
    """Some files say by such a weight that they are of another prediction type."""
    save_file(load_file(file) | {name: torch.zeros(1)}, file)
    with pytest.raises(ModelError, match=f"no place for, {name}"):
        load_parts(file)


def test_extra_keys_of_the_original_format_are_ignored(file: Path) -> None:
    beside = ("model_ema.decay", "alphas_cumprod", "cond_stage_model.model.logit_scale")
    save_file(load_file(file) | {name: torch.ones(1) for name in beside}, file)
    assert load_parts(file).unet is not None


def test_a_part_that_the_layout_lacks_is_named(file: Path) -> None:
    shutil.rmtree(file.with_suffix("") / "tokenizer")
    with pytest.raises(ModelError, match="has no tokenizer"):
        load_parts(file)


def test_the_fingerprint_is_of_file_and_layout(file: Path) -> None:
    layout = file.with_suffix("")
    whole = fingerprint(file, layout)
    moved = file.rename(file.with_name("other.safetensors"))
    assert fingerprint(moved, layout) == whole
    (layout / "dehaze.json").write_text('{"steps": 4}')
    settings = fingerprint(moved, layout)
    changed(moved, "out.2.bias", torch.ones(4))
    assert len({whole, settings, fingerprint(moved, layout)}) == 3
