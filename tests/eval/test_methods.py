"""Methods by name: options, results, refusals."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dehaze.eval.baselines import BASELINES
from dehaze.eval.methods import (
    METHODS,
    MethodError,
    MethodInput,
    PipelineOptions,
    parse_method,
    with_companions,
)
from dehaze.eval.probes import codec_roundtrip
from dehaze.models.choice import ModelChoice
from dehaze.pipelines.dehaze import DehazePipeline
from dehaze.recovery.guided_filter import resize

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
SOURCE = MethodInput(
    hazy=PICTURE, clear=PICTURE[::-1], subset="s", name="a/01_hazy", scene="01", seed=3
)


def test_companion_rows_are_added_once() -> None:
    assert with_companions(["dcp", "cap"], ceilings=True) == ["hazy", "dcp", "cap"]
    assert with_companions(["ours"], ceilings=True) == ["hazy", "dcp", "ours", "codec", "inversion"]
    assert with_companions(["ours"], ceilings=False) == ["hazy", "dcp", "ours"]
    assert with_companions(["ours:model=m,steps=5", "ours:steps=5"], ceilings=True)[4:] == [
        "codec:model=m",
        "inversion:model=m,steps=5",
        "codec",
        "inversion:steps=5",
    ]
    assert with_companions(["ours:short_side=48,steps=5,model=m"], ceilings=True)[3:] == [
        "codec:short_side=48,model=m",
        "inversion:short_side=48,steps=5,model=m",
    ]


@pytest.mark.parametrize(
    ("specification", "cause"),
    [
        ("retinex", "hazy, dcp, cap, clahe, darktable, ours, codec, inversion, folder"),
        ("dcp:patch=3", "takes no options"),
        ("hazy:x", "takes no options"),
        ("ours:speed=3", "key=value"),
        ("ours:steps", "key=value"),
        ("ours:steps=3,steps=4", "steps twice"),
        ("ours:steps=many", "no number"),
        ("ours:steps=0", "'steps=0': steps is 0: it must be a whole number"),
        ("ours:max_iterations=-1", "'max_iterations=-1': max_iterations is -1"),
        ("ours:spacing=even", "'spacing=even': 'even' is not one of leading"),
        ("ours:strength=-1", "0 to 2"),
        ("ours:tolerance=nan", "tolerance"),
        ("ours:solver=guess", "fixed-point"),
        ("ours:recovery=magic", "physics"),
        ("folder:mine", "folder:NAME=PATH"),
        ("folder:mine=/nowhere", "no folder"),
    ],
)
def test_wrong_method_lists_the_right_ones(specification: str, cause: str) -> None:
    with pytest.raises(MethodError, match=cause):
        parse_method(specification)


def test_the_hazy_input_comes_back_as_it_is() -> None:
    output = parse_method("hazy").run(SOURCE)
    np.testing.assert_array_equal(np.rint(output.image * 255), PICTURE)


@pytest.mark.parametrize("name", BASELINES.names())
def test_baselines_run_by_their_names(name: str) -> None:
    method = parse_method(name)
    output = method.run(SOURCE)
    expected = BASELINES.get(name).run(PICTURE.astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(output.image, expected)
    assert (output.transmission is not None) == method.has_candidates
    assert len(list(method.candidates(SOURCE))) == (6 if method.has_candidates else 1)


def test_every_method_has_a_portable_folder_name() -> None:
    assert parse_method("ours:steps=5,recovery=none").slug == "ours_steps=5_recovery=none"
    assert set(METHODS.names()) >= set(BASELINES.names())


# --- results of others --------------------------------------------------------------------------


def save(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (56, 40), (value, value, value)).save(path)


@pytest.mark.parametrize("name", ["a/01_hazy.png", "01_hazy.jpg", "01.png", "s/01_hazy.png"])
def test_a_result_is_found_by_name_or_scene_in_any_format(tmp_path: Path, name: str) -> None:
    save(tmp_path / name, 128)
    method = parse_method(f"folder:theirs={tmp_path}")
    assert method.name == "theirs"
    assert abs(method.run(SOURCE).image.mean() * 255 - 128) < 1.5


def test_a_missing_or_ambiguous_result_is_an_error(tmp_path: Path) -> None:
    method = parse_method(f"folder:theirs={tmp_path}")
    with pytest.raises(OSError, match="no picture named a/01_hazy"):
        method.run(SOURCE)
    other = tmp_path / "other"
    save(other / "01.png", 1)
    save(other / "01.jpg", 1)
    with pytest.raises(ValueError, match="claimed by"):
        parse_method(f"folder:theirs={other}").run(SOURCE)


def test_iterations_of_others_are_candidates(tmp_path: Path) -> None:
    for iteration in (100, 200):
        save(tmp_path / f"iteration_{iteration}" / "01.png", iteration)
    found = dict(parse_method(f"folder:yoly={tmp_path}").candidates(SOURCE))
    assert list(found) == ["iteration_100", "iteration_200"]
    assert round(float(found["iteration_200"].image.mean() * 255)) == 200


# --- the pipeline -------------------------------------------------------------------------------


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tiny networks are faster on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_ours_is_the_pipeline_with_the_options_given(
    random_model: Path, pipeline: DehazePipeline
) -> None:
    options = PipelineOptions(model=ModelChoice(str(random_model), device="cpu"), steps=3)
    method = parse_method("ours:steps=2,recovery=none,solver=ddim,strength=0.5", options)
    output = method.run(SOURCE)
    expected = pipeline(
        PICTURE.astype(np.float32) / np.float32(255),
        num_inference_steps=2,
        recovery="none",
        solver="ddim",
        strength=0.5,
    )
    np.testing.assert_allclose(output.image, expected.image, atol=1e-6)
    assert output.nfe == expected.nfe
    assert output.attention is not None
    assert output.attention.shape == (40, 56)


@pytest.mark.usefixtures("one_thread")
def test_a_row_may_change_what_an_ablation_changes(
    random_model: Path, pipeline: DehazePipeline
) -> None:
    options = PipelineOptions(
        model=ModelChoice(str(random_model), device="cpu"), steps=2, solver="ddim"
    )
    picture = PICTURE.astype(np.float32) / np.float32(255)
    plain = pipeline(picture, num_inference_steps=2, solver="ddim", recovery="none").image
    changed = pipeline(
        picture,
        num_inference_steps=2,
        solver="fixed-point",
        max_iterations=2,
        tolerance=1e-9,
        spacing="noisy-end",
        null_text="delete",
        cross_replace_steps=0.0,
        self_replace_steps=0.0,
        recovery="none",
    ).image
    row = (
        "ours:solver=fixed-point,max_iterations=2,tolerance=1e-9,spacing=noisy-end,null_text=delete,"
        "cross_replace_steps=0,self_replace_steps=0,recovery=none"
    )
    np.testing.assert_allclose(parse_method(row, options).run(SOURCE).image, changed, atol=1e-6)
    assert np.abs(changed - plain).max() > 1e-4
    # The model as it was loaded is not changed by a row with another working size.
    larger = 2 * pipeline.description.short_side
    other = parse_method(f"codec:short_side={larger}", options).run(SOURCE)
    assert other.reference is not None
    assert min(other.reference.shape[:2]) == larger
    same = parse_method("codec", options).run(SOURCE)
    assert same.reference is not None
    assert min(same.reference.shape[:2]) == pipeline.description.short_side


@pytest.mark.usefixtures("one_thread")
def test_the_ceilings_compare_at_the_working_size(
    random_model: Path, pipeline: DehazePipeline
) -> None:
    options = PipelineOptions(model=ModelChoice(str(random_model), device="cpu"), steps=3)
    assert SOURCE.clear is not None
    clear = SOURCE.clear.astype(np.float32) / np.float32(255)
    size = pipeline.codec.working_size(clear)
    codec = parse_method("codec", options).run(SOURCE)
    assert codec.reference is not None
    np.testing.assert_array_equal(codec.reference, resize(clear, size))
    np.testing.assert_array_equal(codec.image, codec_roundtrip(pipeline, clear))
    inversion = parse_method("inversion", options).run(SOURCE)
    assert inversion.reference is not None
    assert inversion.image.shape == inversion.reference.shape == (*size, 3)
    assert not np.array_equal(codec.reference, inversion.reference)


def test_the_codec_ceiling_needs_ground_truth(random_model: Path) -> None:
    method = parse_method(
        "codec", PipelineOptions(model=ModelChoice(str(random_model), device="cpu"))
    )
    source = MethodInput(PICTURE, None, "s", "a", "a", 0)
    with pytest.raises(ValueError, match="needs a ground truth"):
        method.run(source)


def test_a_model_or_prompt_that_cannot_be_used_stops_the_run(
    tmp_path: Path, random_model: Path
) -> None:
    with pytest.raises(MethodError, match="does not load"):
        parse_method(
            f"ours:model={tmp_path}", PipelineOptions(model=ModelChoice(device="cpu"))
        ).run(SOURCE)
    options = PipelineOptions(
        model=ModelChoice(str(random_model), device="cpu"), prompt="a photo", word="haze"
    )
    with pytest.raises(MethodError, match="haze"):
        parse_method("ours", options).run(SOURCE)


def test_a_setting_without_effect_stops_the_run() -> None:
    bundled = PipelineOptions(model=ModelChoice(device="cpu"))
    with pytest.raises(MethodError, match="tolerance has no effect where a step takes one"):
        parse_method("ours:tolerance=1e-5", bundled).run(SOURCE)


def test_settings_of_the_codec_are_all_that_it_depends_on() -> None:
    def settings(row: str, dtype: str = "auto") -> Any:
        return parse_method(row, PipelineOptions(model=ModelChoice(dtype=dtype))).settings()

    assert settings("codec:short_side=48") != settings("codec") != settings("codec:short_side=96")
    assert settings("codec", dtype="float16") != settings("codec")
    assert settings("codec:steps=5") == settings("codec")


def test_settings_tell_new_weights_under_an_old_path(
    tmp_path: Path,
) -> None:
    def digest() -> Any:
        return parse_method("ours", PipelineOptions(model=ModelChoice(str(tmp_path)))).settings()[
            "weights"
        ]

    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "unet.safetensors").write_bytes(b"one")
    before = digest()
    assert digest() == before
    (tmp_path / "unet.safetensors").write_bytes(b"two")
    assert digest() != before
