"""Inversions as files: their contents, and files that are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from schedules import FunctionNetwork, mild, table_of
from torch import Tensor

from dehaze.inversion import (
    InversionFileError,
    InversionMismatchError,
    InversionOptions,
    InversionResult,
    InversionSettings,
    Origin,
    denoise,
    invert,
)

NETWORK = FunctionNetwork(table_of(6), mild)
ORIGIN = Origin(("a" * 64, "b" * 64), ((4, 5), (4, 5)), "a photo with haze", "c" * 64)


@pytest.fixture
def result() -> InversionResult:
    z_0 = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    made = invert(NETWORK, z_0, InversionSettings(steps=6, guidance_scale=1.5, depth=4))
    made.attention["layer|cross|query|1"] = torch.randn(2, 2, 20, 8)
    return replace(made, origin=ORIGIN, adjustment=torch.tensor([0.1, 0.2]))


@pytest.fixture
def path(result: InversionResult, tmp_path: Path) -> Path:
    result.save(tmp_path / "inversion.safetensors", attention=True)
    return tmp_path / "inversion.safetensors"


def test_a_loaded_inversion_is_the_one_that_was_saved(result: InversionResult, path: Path) -> None:
    loaded = InversionResult.load(path)
    assert loaded.table == result.table
    assert loaded.settings == result.settings
    assert loaded.origin == ORIGIN
    assert torch.equal(loaded.trajectory, result.trajectory)
    assert torch.equal(loaded.noise, result.noise)
    for name, value in result.attention.items():
        assert torch.equal(loaded.attention[name], value)
    for name, value in vars(result.trace).items():
        torch.testing.assert_close(getattr(loaded.trace, name), value, equal_nan=True)
    assert loaded.adjustment is not None
    assert loaded.adjustment.tolist() == pytest.approx([0.1, 0.2])
    back = denoise(loaded, NETWORK, strength=0.0)
    assert (back - result.trajectory[0]).abs().max() < 1e-5


def test_attention_is_written_where_it_is_asked_for(result: InversionResult, path: Path) -> None:
    whole = path.stat().st_size
    result.save(path)
    assert path.stat().st_size < whole
    assert InversionResult.load(path).attention == {}


def test_a_sample_knows_its_own_photo(result: InversionResult) -> None:
    second = result.sample(1)
    assert second.origin is not None
    assert second.origin.photos == ("b" * 64,)
    second.require(photos=("b" * 64,), sizes=((4, 5),), prompt=ORIGIN.prompt, model=ORIGIN.model)


@pytest.mark.parametrize(
    ("wanted", "named"),
    [
        ({"photos": ("a" * 64, "d" * 64)}, "another photo"),
        ({"sizes": ((4, 5), (9, 8))}, "5 x 4, 8 x 9"),
        ({"prompt": "a photo with fog"}, "prompt 'a photo with haze'"),
        ({"model": "d" * 64}, "another model"),
        ({"guidance_scale": 3.0}, "guidance_scale 1.5"),
        ({"solver": "edict"}, "solver 'anderson'"),
        ({"steps": 50}, "steps 6"),
        ({"depth": 2}, "depth 4"),
    ],
)
def test_another_use_is_refused_by_name(
    result: InversionResult, wanted: dict[str, object], named: str
) -> None:
    result.require(**dict.fromkeys(wanted))  # type: ignore[arg-type]
    with pytest.raises(InversionMismatchError, match=named):
        result.require(**wanted)  # type: ignore[arg-type]


def rewritten(path: Path, change: Callable[[dict[str, Tensor], dict[str, str]], None]) -> Path:
    """The file with its tensors and metadata changed."""
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(tensors, metadata)
    save_file(tensors, path, metadata)
    return path


def _set(name: str, **changes: object) -> Callable[[dict[str, Tensor], dict[str, str]], None]:
    def change(tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
        metadata[name] = json.dumps(json.loads(metadata[name]) | changes)

    return change


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda tensors, metadata: metadata.pop("table"), "no 'table'"),
        (lambda tensors, metadata: metadata.pop("settings"), "no 'settings'"),
        (lambda tensors, metadata: metadata.pop("origin"), "no 'origin'"),
        (lambda tensors, metadata: metadata.update(table="{"), "broken"),
        (lambda tensors, metadata: metadata.update(table="[1]"), "broken"),
        (lambda tensors, metadata: metadata.update(format="dehaze-inversion-2"), "older"),
        (lambda tensors, metadata: metadata.clear(), "no saved inversion"),
        (lambda tensors, metadata: metadata.update(format="pt"), "no saved inversion"),
        (lambda tensors, metadata: tensors.pop("noise"), "no 'noise'"),
        (lambda tensors, metadata: tensors.pop("trace.remaining"), "no 'trace.remaining'"),
        (lambda tensors, metadata: tensors.update(noise=torch.zeros(3, 2, 3, 4, 5)), "noises"),
        (lambda tensors, metadata: tensors.update(trajectory=torch.zeros(5)), "latents"),
        (lambda tensors, metadata: tensors["noise"].mul_(torch.nan), "not finite"),
        (
            lambda tensors, metadata: tensors.update(
                {"attention.layer|cross|query|1": torch.zeros(1, 2, 20, 8)}
            ),
            "1 samples",
        ),
        (_set("settings", solver_of_the_future="x"), "solver_of_the_future"),
        (_set("settings", depth=3), "4 steps were inverted and not 3"),
        (_set("settings", steps=50), "not of 50 steps"),
        (_set("settings", tolerance=-1.0), "tolerance"),
        (_set("table", alphas=[1.0, 0.5]), "not of 6 steps"),
    ],
)
def test_a_broken_file_is_refused_by_its_cause(
    path: Path, change: Callable[[dict[str, Tensor], dict[str, str]], None], cause: str
) -> None:
    with pytest.raises(InversionFileError, match=cause) as raised:
        InversionResult.load(rewritten(path, change))
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kept", [0, 4, 200, 4000])
def test_a_file_that_was_cut_short_is_refused(path: Path, kept: int) -> None:
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InversionFileError, match="cut short"):
        InversionResult.load(path)


def test_a_file_that_is_no_inversion_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no inversion")
    save_file({"weight": torch.zeros(3)}, tmp_path / "weights")
    for name, cause in (
        ("text", "not a safetensors file"),
        ("weights", "no saved inversion"),
        ("missing", "cannot be read"),
        (".", "cannot be read|not a safetensors"),
    ):
        with pytest.raises(InversionFileError, match=cause):
            InversionResult.load(tmp_path / name)


def test_every_option_is_a_setting() -> None:
    options = set(InversionOptions.__annotations__)
    assert options == set(vars(InversionSettings())) - {"steps", "guidance_scale"}


def test_a_loaded_inversion_outlives_its_file(result: InversionResult, path: Path) -> None:
    loaded = InversionResult.load(path)
    loaded.save(path)
    shorter = replace(result, trajectory=-result.trajectory, attention={})
    shorter.save(path)
    assert torch.equal(loaded.trajectory, result.trajectory)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_file_stays_where_the_new_one_fails(
    result: InversionResult, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()

    def fails(self: InversionResult, file: object, *, attention: bool) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(InversionResult, "write", fails)
    with pytest.raises(OSError, match="no space"):
        result.save(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_settings_of_numpy_are_saved(tmp_path: Path) -> None:
    settings = InversionSettings(
        steps=np.int64(6),
        depth=np.int64(4),
        max_iterations=np.int32(3),
        tolerance=np.float32(0.5),
        guidance_scale=np.float64(1.5),
    )
    z_0 = torch.randn(1, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    invert(NETWORK, z_0, settings).save(tmp_path / "a.safetensors")
    assert InversionResult.load(tmp_path / "a.safetensors").settings == settings
