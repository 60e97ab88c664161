"""pyiqa through the extra: what is asked of it, and what a user is told when it fails.

pyiqa itself is not installed where the main tests run: a stand-in with its interface is. The last
test runs against the real one where it imports.
"""

from __future__ import annotations

import builtins
import sys
import urllib.error
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from skimage.data import astronaut

from dehaze.eval import metrics
from dehaze.eval.perceptual import PerceptualMetricError, load_perceptual_metric


class Model:
    """A pyiqa metric that remembers what it was given."""

    lower_better = True

    def __init__(self, mode: str) -> None:
        self.metric_mode = mode
        self.given: list[torch.Tensor] = []

    def __call__(self, *pictures: torch.Tensor) -> torch.Tensor:
        self.given = list(pictures)
        return torch.tensor([[0.25]])


def install(monkeypatch: pytest.MonkeyPatch, create: Any) -> None:
    names = ["lpips", "niqe", "musiq"]
    fake = SimpleNamespace(list_models=lambda: names, create_metric=create)
    monkeypatch.setitem(sys.modules, "pyiqa", fake)


def test_pictures_become_planes_between_0_and_1(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model("FR")
    install(monkeypatch, lambda name, device, as_loss: model)
    metric = load_perceptual_metric("lpips")
    output = np.zeros((4, 6, 3), dtype=np.uint8)
    output[..., 0] = 255
    assert metric(output, output[::-1]) == 0.25
    assert metric.full_reference
    assert metric.lower_is_better
    assert [tuple(picture.shape) for picture in model.given] == [(1, 3, 4, 6)] * 2
    assert model.given[0][0, :, 0, 0].tolist() == [1.0, 0.0, 0.0]


def test_no_reference_metrics_see_the_output_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model("NR")
    install(monkeypatch, lambda name, device, as_loss: model)
    metric = load_perceptual_metric("niqe")
    picture = np.zeros((4, 6, 3), dtype=np.uint8)
    metric(picture, picture)
    assert len(model.given) == 1


def test_a_full_reference_metric_needs_ground_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, lambda name, device, as_loss: Model("FR"))
    with pytest.raises(ValueError, match="compares with ground truth"):
        load_perceptual_metric("lpips")(np.zeros((4, 4, 3), np.uint8))


def test_missing_pyiqa_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    with pytest.raises(PerceptualMetricError, match=r"pip install 'dehaze-diffusion\[iqa\]'"):
        load_perceptual_metric("niqe")


@pytest.mark.parametrize(
    ("error", "cure"),
    [
        (RuntimeError("operator torchvision::nms does not exist"), "does not fit torch"),
        (AttributeError("partially initialized module 'torchvision'"), "does not fit torch"),
        (RuntimeError("something else"), "reinstall"),
        (ModuleNotFoundError("No module named 'timm'", name="timm"), "timm"),
    ],
)
def test_an_import_that_fails_names_cause_and_cure(
    monkeypatch: pytest.MonkeyPatch, error: Exception, cure: str
) -> None:
    original = builtins.__import__

    def failing(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name == "pyiqa":
            raise error
        return original(name, *arguments, **keywords)

    monkeypatch.delitem(sys.modules, "pyiqa", raising=False)
    monkeypatch.setattr(builtins, "__import__", failing)
    with pytest.raises(PerceptualMetricError, match=cure) as caught:
        load_perceptual_metric("niqe")
    assert "pip install" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [urllib.error.URLError("no route"), FileNotFoundError("x.pth")])
def test_missing_weights_name_a_metric_without_weights(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def create(name: str, device: Any, as_loss: bool) -> Any:
        raise error

    install(monkeypatch, create)
    with pytest.raises(PerceptualMetricError, match=r"weights of musiq.*entropy"):
        load_perceptual_metric("musiq")


def test_an_unknown_metric_lists_the_known(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, lambda name, device, as_loss: Model("NR"))
    with pytest.raises(PerceptualMetricError, match="lpips, musiq, niqe"):
        load_perceptual_metric("nikwe")


def test_the_real_one_agrees_with_this_projects_metrics() -> None:
    try:
        ssim = load_perceptual_metric("ssimc")
        luma = load_perceptual_metric("psnry")
    except PerceptualMetricError as error:
        pytest.skip(str(error))
    clear = astronaut()[:120, :130]
    noise = np.random.default_rng(0).normal(0, 9, clear.shape)
    output = np.clip(np.rint(0.8 * clear + 30 + noise), 0, 255).astype(np.uint8)
    assert ssim(output, clear) == pytest.approx(metrics.ssim_wang(output, clear), abs=1e-4)
    assert luma(output, clear) == pytest.approx(metrics.psnr_yiq(output, clear), abs=1e-3)
