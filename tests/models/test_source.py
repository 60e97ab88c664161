"""Where a model is found, and one line with the cure where it is not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors.torch import load_file, save_file

from dehaze.models import ModelError, hub
from dehaze.models.load import load_parts
from dehaze.models.source import BUNDLED_FOLDER, ModelSource, find_model, model_fingerprint

NAME = "diffusion_pytorch_model"


@pytest.fixture
def model(random_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(random_model, tmp_path / "model"))


def refusal(given: ModelSource) -> str:
    with pytest.raises(ModelError) as caught:
        load_parts(given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (RepositoryNotFoundError, "the hub knows no such public model: check the spelling"),
        (GatedRepoError, "its terms to be accepted"),
        (RevisionNotFoundError, "has no revision 'v9'"),
        (HFValidationError, "no hub id is written so"),
        (LocalEntryNotFoundError, "no way to the hub"),
        (HfHubHTTPError, "the hub did not give it (HfHubHTTPError)"),
    ],
)
def test_every_answer_of_the_hub_is_one_line(
    kind: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*unused: object, **settings: object) -> str:
        raise kind.__new__(kind)

    monkeypatch.setattr(hub, "snapshot_download", download)
    line = refusal(ModelSource("fog/diffusion", revision="v9"))
    assert line.startswith("fog/diffusion: ")
    assert said in line


@pytest.mark.parametrize("misspelt", ["bundeld", "Bundled"])
def test_a_misspelt_bundled_is_guessed(misspelt: str) -> None:
    line = refusal(ModelSource(misspelt, local_files_only=True))
    assert "did you mean 'bundled'?" in line
    assert "leave --local-files-only out once" in line


def test_a_revision_of_a_folder_is_refused(model: Path) -> None:
    assert "has no revisions" in refusal(ModelSource(model, revision="main"))
    assert "has no revisions" in refusal(ModelSource(revision="main"))


def rename_as_variant(model: Path, part: str = "unet") -> None:
    weights = model / part / f"{NAME}.safetensors"
    weights.rename(model / part / f"{NAME}.fp16.safetensors")


def test_a_variant_alone_is_named_with_the_option(model: Path) -> None:
    rename_as_variant(model)
    line = refusal(ModelSource(model))
    assert "only variants: fp16; choose --variant fp16 (variant='fp16' in Python)" in line
    assert load_parts(ModelSource(model, variant="fp16")).unet is not None


def test_a_variant_that_nothing_has_is_refused(model: Path) -> None:
    assert "no weights of the variant 'fp16'" in refusal(ModelSource(model, variant="fp16"))
    assert "no weights of the variant 'fp16'" in refusal(ModelSource(variant="fp16"))


def test_the_chosen_variant_is_read(model: Path) -> None:
    weights = load_file(model / "unet" / f"{NAME}.safetensors")
    weights["conv_out.bias"] = torch.full_like(weights["conv_out.bias"], 7.0)
    save_file(weights, model / "unet" / f"{NAME}.ema.safetensors")
    chosen = load_parts(ModelSource(model, variant="ema")).unet.conv_out.bias
    assert chosen.tolist() == [7.0] * len(chosen)
    assert load_parts(ModelSource(model)).unet.conv_out.bias[0] != 7.0


def test_weights_in_several_files_are_read(model: Path) -> None:
    whole = model / "unet" / f"{NAME}.safetensors"
    weights = {name: value.clone() for name, value in load_file(whole).items()}
    names = sorted(weights)
    shards = {f"{NAME}-0000{n + 1}-of-00002.safetensors": names[n::2] for n in range(2)}
    for shard, held in shards.items():
        save_file({name: weights[name] for name in held}, model / "unet" / shard)
    index = {"weight_map": {name: shard for shard, held in shards.items() for name in held}}
    (model / "unet" / f"{NAME}.safetensors.index.json").write_text(json.dumps(index))
    whole.unlink()
    loaded = load_parts(ModelSource(model)).unet.state_dict()
    assert all(torch.equal(loaded[name], weights[name]) for name in names)
    (model / "unet" / f"{NAME}-00002-of-00002.safetensors").unlink()
    assert f"{NAME}-00002-of-00002.safetensors is no whole" in refusal(ModelSource(model))


def test_old_names_of_a_codecs_attention_are_read(stable_diffusion: Path, tmp_path: Path) -> None:
    old = Path(shutil.copytree(stable_diffusion, tmp_path / "old"))
    file = old / "vae" / f"{NAME}.safetensors"
    before = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = load_file(file)
    for new, name in before.items():
        weights = {key.replace(f".{new}.", f".{name}."): value for key, value in weights.items()}
    assert any(".proj_attn." in name for name in weights)
    save_file(weights, file)
    loaded = load_parts(ModelSource(old)).vae.state_dict()
    reference = load_parts(ModelSource(stable_diffusion)).vae.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in reference.items())


@pytest.mark.parametrize("inside", ["", "text_model."])
def test_both_names_of_a_text_encoders_weights_are_read(model: Path, inside: str) -> None:
    """transformers 5.6 dropped a level of the names; other versions would load random weights."""
    file = model / "text_encoder" / "model.safetensors"
    # Clones: what is loaded may be a view of the file, which is written anew here.
    weights = {
        name.removeprefix("text_model."): value.clone() for name, value in load_file(file).items()
    }
    save_file({inside + name: value for name, value in weights.items()}, file)
    loaded = load_parts(ModelSource(model)).text_encoder.state_dict()
    assert {name.removeprefix("text_model.") for name in loaded} == set(weights)
    for name, value in loaded.items():
        assert torch.equal(value, weights[name.removeprefix("text_model.")])


def test_the_bundled_text_encoder_has_the_older_names() -> None:
    names = load_file(BUNDLED_FOLDER / "text_encoder" / "model.safetensors")
    assert all(name.startswith("text_model.") for name in names)


def test_a_hubs_model_takes_plain_weights_where_no_variant_is(
    random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the codec has no fp16 file, so plain weights are downloaded for it alone."""
    hub = Path(shutil.copytree(random_model, tmp_path / "hub"))
    cache = tmp_path / "cache"
    for part in ("unet", "text_encoder"):
        stem = NAME if part == "unet" else "model"
        shutil.copy(hub / part / f"{stem}.safetensors", hub / part / f"{stem}.fp16.safetensors")

    def download(name: str, *, allow_patterns: list[str], **settings: object) -> str:
        assert (name, settings["revision"]) == ("fog/diffusion", "v1")
        for pattern in allow_patterns:
            for file in hub.glob(pattern):
                place = cache / file.relative_to(hub)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, place)
        return str(cache)

    monkeypatch.setattr("dehaze.models.hub.snapshot_download", download)
    given = ModelSource("fog/diffusion", revision="v1", variant="fp16")
    assert load_parts(given).unet is not None
    found = {path.relative_to(cache).as_posix() for path in cache.rglob("*.safetensors")}
    assert found == {
        f"unet/{NAME}.fp16.safetensors",
        "text_encoder/model.fp16.safetensors",
        f"vae/{NAME}.safetensors",
    }


def test_pickled_weights_on_the_hub_are_named(
    random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Path(shutil.copytree(random_model, tmp_path / "cache"))
    (cache / "unet" / f"{NAME}.safetensors").unlink()
    monkeypatch.setattr(hub, "snapshot_download", lambda *unused, **settings: str(cache))
    remote = ["model_index.json", f"unet/{NAME}.bin", "unet/config.json"]
    monkeypatch.setattr(hub, "list_repo_files", lambda *unused, **settings: remote)
    line = refusal(ModelSource("fog/diffusion"))
    assert f"only {NAME}.bin, and files of that format can run code" in line
    assert "safetensors first" in line


def test_the_fingerprint_is_the_contents(model: Path, tmp_path: Path) -> None:
    before = model_fingerprint(ModelSource(model))
    moved = model.rename(tmp_path / "moved")
    assert model_fingerprint(ModelSource(moved)) == before
    assert find_model(ModelSource()) == BUNDLED_FOLDER
