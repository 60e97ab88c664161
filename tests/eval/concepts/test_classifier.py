"""Classifiers in both formats: outputs by hand, and faults that are named."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoImageProcessor, ResNetForImageClassification

from dehaze.eval.concepts.classifier import (
    ClassifierError,
    class_label,
    class_labels,
    load_classifier,
)
from dehaze.models import ModelError

PICTURE = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
LABELS = ("haze", "street", "night sky")


class Colours(nn.Module):
    """The mean of each channel as logits, and their squares as features."""

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        means = pictures.mean([2, 3])
        return means, means.square()


class Logits(nn.Module):
    """The mean of each channel."""

    def forward(self, pictures: Tensor) -> Tensor:
        return pictures.mean([2, 3])


class Triple(nn.Module):
    """Three outputs, which no classifier may have."""

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return pictures, pictures, pictures


class Infinite(nn.Module):
    """Logits of which one is infinite."""

    def forward(self, pictures: Tensor) -> Tensor:
        means = pictures.mean([2, 3])
        return means / torch.tensor([1.0, 0.0, 1.0])


class Narrow(nn.Module):
    """Pictures of one size alone."""

    def forward(self, pictures: Tensor) -> Tensor:
        return pictures.reshape(1, 3 * 64 * 64)[:, :3]


def scripted(folder: Path, module: nn.Module, labels: str | None = None) -> str:
    path = folder / f"{type(module).__name__.lower()}.pt"
    torch.jit.script(module.eval()).save(path)
    if labels is not None:
        path.with_suffix(".txt").write_text(labels)
    return str(path)


def test_the_features_are_what_the_last_layer_reads(classifier_folder: Path) -> None:
    classifier = load_classifier(str(classifier_folder))
    assert classifier.labels == LABELS
    assert classifier.features == f"what the last layer reads of {classifier_folder.name}"
    network = ResNetForImageClassification.from_pretrained(classifier_folder)
    seen = AutoImageProcessor.from_pretrained(classifier_folder)([PICTURE], return_tensors="pt")
    with torch.no_grad():
        pooled = network.resnet(seen["pixel_values"]).pooler_output.flatten()
        logits = network(**seen).logits[0]
    answer = classifier(PICTURE)
    np.testing.assert_allclose(answer.features, pooled, rtol=1e-5)
    assert answer.label == int(logits.argmax())


def test_a_script_gives_logits_and_features_or_logits_alone(tmp_path: Path) -> None:
    means = PICTURE.reshape(-1, 3).mean(0) / 255.0
    both = load_classifier(scripted(tmp_path, Colours(), "red\ngreen\nblue\n"))
    assert both.labels == ("red", "green", "blue")
    assert both.features == "the second output of colours.pt"
    answer = both(PICTURE)
    assert answer.label == means.argmax()
    np.testing.assert_allclose(answer.features, means**2, rtol=1e-5)
    alone = load_classifier(scripted(tmp_path, Logits()))
    assert alone.features == "the output of logits.pt"
    np.testing.assert_allclose(alone(PICTURE).features, means, rtol=1e-5)


def test_files_that_are_no_classifier_are_named(tmp_path: Path, random_model: Path) -> None:
    (tmp_path / "torn.pt").write_bytes(b"torn")
    for name, cause in (
        (str(tmp_path / "nowhere.pt"), "no such file"),
        (str(tmp_path / "torn.pt"), "no TorchScript file"),
        (scripted(tmp_path, Colours(), "red\n"), "has 1 labels, and colours.pt tells 3 apart"),
        (scripted(tmp_path, Triple()), "neither logits"),
    ):
        with pytest.raises(ClassifierError, match=cause):
            load_classifier(name)
    for folder in (tmp_path / "nowhere", random_model):
        with pytest.raises(ModelError, match="the classifier"):
            load_classifier(str(folder))


def test_a_script_that_fails_on_a_size_is_named(tmp_path: Path) -> None:
    narrow = load_classifier(scripted(tmp_path, Narrow()))
    with pytest.raises(ClassifierError, match="fails on a picture of 30x20"):
        narrow(PICTURE)


def test_values_that_are_not_finite_are_no_answer(tmp_path: Path, classifier_folder: Path) -> None:
    with pytest.raises(ClassifierError, match="gives values that are not finite"):
        load_classifier(scripted(tmp_path, Infinite()))
    classifier = load_classifier(str(classifier_folder))
    with torch.no_grad():
        classifier.network.classifier[1].bias[0] = torch.nan  # type: ignore[attr-defined]
    with pytest.raises(ClassifierError, match="not finite"):
        classifier(PICTURE)


def test_weights_that_are_wrong_or_unused_are_named(
    tmp_path: Path, classifier_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = shutil.copytree(classifier_folder, tmp_path / "copy")
    weights = load_file(folder / "model.safetensors")
    unused = weights | {"other.head.weight": torch.zeros(3)}
    save_file(unused, folder / "model.safetensors", metadata={"format": "pt"})
    load_classifier(str(folder))
    assert "1 weights are not used, the first is other.head.weight" in caplog.text
    weights["classifier.1.bias"][-1] = torch.inf
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"the weight classifier\.1\.bias is not finite"):
        load_classifier(str(folder))


def test_a_class_is_found_by_any_name_of_its_label() -> None:
    labels = ["tench, Tinca tinca", "crane", "crane", "Night Sky"]
    assert class_label(labels, "tinca tinca") == 0
    assert class_label(labels, "tench, Tinca tinca") == 0
    assert class_label(labels, "night_sky") == 3
    with pytest.raises(ClassifierError, match="2 labels of the classifier are called 'crane'"):
        class_label(labels, "crane")
    assert class_labels(labels, ["tench", "night sky"]) == {"tench": 0, "night sky": 3}
    with pytest.raises(ClassifierError, match="'tench' and 'Tinca tinca' are one label"):
        class_labels(labels, ["tench", "Tinca tinca"])
    with pytest.raises(ClassifierError, match="no label of the classifier is called 'tin'"):
        class_label(labels, "tin")
    with pytest.raises(
        ClassifierError, match=r"has no labels: write them, one a line, into a \.txt"
    ):
        class_label([], "crane")
