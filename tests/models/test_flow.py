"""Stable Diffusion 3 and FLUX in diffusers' folders: loaded whole, or refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from broken_models import FAULTS, change, refusal, spoil
from safetensors.torch import load_file, save_file

from dehaze.models.kinds import FLUX, STABLE_DIFFUSION_3, kind_of, t5_tokens
from dehaze.models.load import load_parts
from dehaze.models.source import ModelSource

T5_OF = {"StableDiffusion3Pipeline": "text_encoder_3", "FluxPipeline": "text_encoder_2"}
TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"


# FLUX goes the same way here.
@pytest.fixture(params=["stable_diffusion_3", pytest.param("flux", marks=pytest.mark.slow)])
def flow_model(request: pytest.FixtureRequest) -> Path:
    """A folder with a tiny random model of flow matching."""
    folder: Path = request.getfixturevalue(request.param)
    return folder


@pytest.fixture
def folder(flow_model: Path, tmp_path: Path) -> Path:
    """A copy of a model, to be broken."""
    return Path(shutil.copytree(flow_model, tmp_path / "model"))


def t5_of(folder: Path) -> str:
    return T5_OF[json.loads((folder / "model_index.json").read_text())["_class_name"]]


def test_every_weight_is_the_saved_one(flow_model: Path) -> None:
    parts = load_parts(ModelSource(flow_model))
    kind = kind_of(parts.transformer)
    assert kind in (STABLE_DIFFUSION_3, FLUX)
    assert parts.unet is None
    for name in kind.classes:
        network = getattr(parts, name)
        (file,) = (flow_model / name).glob("*.safetensors")
        saved = load_file(file)
        own = network.state_dict()
        for weight, value in saved.items():
            assert torch.equal(own.get(weight, own.get(f"text_model.{weight}")), value)
        assert not network.training
        assert not any(weight.requires_grad for weight in network.parameters())
    t5 = getattr(parts, t5_of(flow_model))
    assert t5.shared.weight is t5.encoder.embed_tokens.weight


def test_half_precision_keeps_overflowing_parts_in_float32(flow_model: Path) -> None:
    parts = load_parts(ModelSource(flow_model), torch.float16)
    t5 = getattr(parts, t5_of(flow_model))
    precise = {name for name, weight in t5.named_parameters() if weight.dtype == torch.float32}
    assert precise
    assert all(".wo." in name for name in precise)
    assert parts.vae.dtype == torch.float32
    assert parts.transformer.dtype == torch.float16


def test_weights_in_several_files_are_one_network(folder: Path) -> None:
    part = folder / t5_of(folder)
    weights = load_file(part / "model.safetensors")
    names = sorted(weights)
    shards = {"model-00001-of-00002.safetensors": names[:3],
              "model-00002-of-00002.safetensors": names[3:]}  # fmt: skip
    for shard, held in shards.items():
        save_file({name: weights[name] for name in held}, part / shard)
    listed = {name: shard for shard, held in shards.items() for name in held}
    (part / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))
    (part / "model.safetensors").unlink()
    t5 = getattr(load_parts(ModelSource(folder)), part.name)
    assert torch.equal(t5.shared.weight, weights["shared.weight"])


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("part", [pytest.param("transformer", marks=pytest.mark.slow), "t5"])
def test_a_wrong_weight(folder: Path, part: str, fault: str) -> None:
    file = folder / TRANSFORMER
    if part == "t5":
        file = folder / t5_of(folder) / "model.safetensors"
    name = spoil(file, fault)
    said = refusal(folder)
    assert str(file) in said
    assert name in said


def test_two_tables_of_one_t5_that_differ_are_refused(folder: Path) -> None:
    file = folder / t5_of(folder) / "model.safetensors"
    weights = load_file(file)
    weights["encoder.embed_tokens.weight"] = weights["shared.weight"] + 1.0
    save_file(weights, file)
    assert "which are one, and differ" in refusal(folder)


def no_t5(folder: Path) -> None:
    change(folder / "model_index.json", **{t5_of(folder): [None, None]})


def clip_for_t5(folder: Path) -> None:
    change(folder / "model_index.json", **{t5_of(folder): ["transformers", "CLIPTextModel"]})


def other_tokenizer(folder: Path) -> None:
    part = t5_of(folder).replace("text_encoder", "tokenizer")
    change(folder / "model_index.json", **{part: ["transformers", "LlamaTokenizer"]})


def no_tokens(folder: Path) -> None:
    (folder / t5_of(folder).replace("text_encoder", "tokenizer") / "tokenizer.json").unlink()


SCHEDULER, NETWORK = "scheduler/scheduler_config.json", "transformer/config.json"
BROKEN: list[tuple[str, Callable[[Path], object]]] = [
    ("has no text_encoder", no_t5),
    ("is a CLIPTextModel: there are T5EncoderModel", clip_for_t5),
    ("is a LlamaTokenizer: there is T5Tokenizer", other_tokenizer),
    ("tokens, and its text encoder knows", no_tokens),
    (
        "DDIMScheduler is of another process than flow matching",
        lambda folder: change(folder / SCHEDULER, _class_name="DDIMScheduler"),
    ),
    ("use_karras_sigmas=True", lambda folder: change(folder / SCHEDULER, use_karras_sigmas=True)),
    ("shift_terminal=0.1", lambda folder: change(folder / SCHEDULER, shift_terminal=0.1)),
    ("invert_sigmas=True", lambda folder: change(folder / SCHEDULER, invert_sigmas=True)),
    (
        "transformer is a Flux2Transformer2DModel: there are Flux",
        lambda folder: change(
            folder / "model_index.json", transformer=["diffusers", "Flux2Transformer2DModel"]
        ),
    ),
    (
        "is of a FluxKontextPipeline: it is a model for another task",
        lambda folder: change(folder / "model_index.json", _class_name="FluxKontextPipeline"),
    ),
    ("in_channels=20", lambda folder: change(folder / NETWORK, in_channels=20)),
    ("joint_attention_dim=99", lambda folder: change(folder / NETWORK, joint_attention_dim=99)),
    ("patch_size=4, and only", lambda folder: change(folder / NETWORK, patch_size=4)),
    ("pooled_projection_dim=5", lambda folder: change(folder / NETWORK, pooled_projection_dim=5)),
    ("has no transformer", lambda folder: shutil.rmtree(folder / "transformer")),
    ("lacks", lambda folder: change(folder / NETWORK, num_layers=3)),
    ("latents_mean", lambda folder: change(folder / "vae/config.json", latents_mean=[1] * 4)),
    ("long_side is 'far'", lambda folder: change(folder / "dehaze.json", long_side="far")),
]


@pytest.mark.parametrize(("cause", "break_it"), BROKEN, ids=[cause[:25] for cause, _ in BROKEN])
def test_a_broken_folder_is_named(
    folder: Path, cause: str, break_it: Callable[[Path], object]
) -> None:
    break_it(folder)
    said = refusal(folder)
    assert cause in said
    assert str(folder) in said


def test_published_models_read_their_number_of_t5_tokens() -> None:
    tokens = {
        name: t5_tokens(SimpleNamespace(config=SimpleNamespace(**config)))
        for name, config in {
            "SD 3": {"pos_embed_max_size": 192},
            "FLUX.1 dev": {"axes_dims_rope": (16, 56, 56), "guidance_embeds": True},
            "FLUX.1 schnell": {"axes_dims_rope": (16, 56, 56), "guidance_embeds": False},
        }.items()
    }
    assert tokens == {"SD 3": 256, "FLUX.1 dev": 512, "FLUX.1 schnell": 256}
