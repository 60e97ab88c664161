"""PIE-Bench's seven metrics, as its published script computes them.

Four metrics compare the pixels outside of the mask, which are to stay. Both pictures are multiplied
by 1 - mask, and the mean is over all pixels, black ones included. Structure distance compares whole
pictures by DINO's keys. CLIP's two similarities compare the result with the target prompt.

Source: Ju et al., arXiv 2310.01506, and its evaluation script; Splice, arXiv 2201.00424, for the
structure distance; CLIPScore, arXiv 2104.08718.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from dehaze.eval.metrics import mean_squared_error, peak_signal_noise_ratio, ssim_wang
from dehaze.models import ModelError
from dehaze.models.clip import CLIP, load_clip
from dehaze.models.pretrained import load_network

Picture = NDArray[np.uint8]
Mask = NDArray[np.float64]
# (source, result, mask, target prompt) -> value; NaN where there is nothing to compare.
Metric = Callable[[Picture, Picture, Mask, str], float]

DINO = "facebook/dino-vitb8"
_DINO_LAYER = 11
_DINO_SIDE = 224
_IMAGENET_MEAN, _IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

METRIC_NAMES = (
    "structure_distance",
    "psnr_unedit_part",
    "lpips_unedit_part",
    "mse_unedit_part",
    "ssim_unedit_part",
    "clip_similarity_target_image",
    "clip_similarity_target_image_edit_part",
)


def _outside(picture: Picture, mask: Mask) -> NDArray[np.float64]:
    return picture * (1.0 - mask)[..., None]


def _nothing_stays(mask: Mask) -> bool:
    return bool((1.0 - mask).sum() == 0.0)


def psnr_outside(source: Picture, result: Picture, mask: Mask, prompt: str = "") -> float:
    """PSNR in dB over all pixels, of both pictures times 1 - mask.

    Args:
        source: uint8 (H, W, 3).
        result: the same shape.
        mask: (H, W), 1 where the picture was to change.
        prompt: not used; all metrics have the same arguments.
    """
    if _nothing_stays(mask):
        return math.nan
    return peak_signal_noise_ratio(_outside(result, mask), _outside(source, mask))


def mse_outside(source: Picture, result: Picture, mask: Mask, prompt: str = "") -> float:
    """Mean squared error of pictures in [0, 1], otherwise as ``psnr_outside``."""
    if _nothing_stays(mask):
        return math.nan
    return mean_squared_error(_outside(result, mask), _outside(source, mask)) / 255.0**2


def ssim_outside(source: Picture, result: Picture, mask: Mask, prompt: str = "") -> float:
    """SSIM, 11x11 Gaussian, mean of its map over all pixels, otherwise as ``psnr_outside``.

    torchmetrics' SSIM, which the published script calls, is the same where its window fits.
    """
    if _nothing_stays(mask):
        return math.nan
    return ssim_wang(_outside(result, mask), _outside(source, mask))


def key_similarity(keys: Tensor) -> Tensor:
    """Cosine of every two positions' keys, (N, D) -> (N, N).

    Norms are at least a small number above 0, as in Splice's code, so that a zero key has
    similarity 0.
    """
    norms = keys.norm(dim=1, keepdim=True)
    return (keys @ keys.T) / (norms @ norms.T).clamp(min=1e-8)


@dataclass(frozen=True)
class StructureDistance:
    """Mean square difference of two pictures' self-similarities in DINO's keys.

    Attributes:
        vision: a ViTModel, ViT-B/8 of DINO.
        corrected: whether pictures are brought to [0, 1] before they are normalised; the published
            script and numbers leave them in [0, 255].
    """

    vision: Any
    corrected: bool = False

    def __call__(self, source: Picture, result: Picture, mask: Mask, prompt: str = "") -> float:
        first, second = (key_similarity(self.keys(picture)) for picture in (result, source))
        return float(F.mse_loss(first, second))

    @torch.no_grad()
    def keys(self, picture: Picture) -> Tensor:
        """(N, D), the keys of layer 11, heads side by side, the class token first."""
        found: list[Tensor] = []
        projection = self.vision.get_submodule(f"layers.{_DINO_LAYER}.attention.k_proj")
        hook = projection.register_forward_hook(lambda module, given, keys: found.append(keys))
        try:
            self.vision(pixel_values=self.pixels(picture), interpolate_pos_encoding=True)
        finally:
            hook.remove()
        return found[0][0]

    def pixels(self, picture: Picture) -> Tensor:
        """The network's input, float32 (1, 3, h, w), short side 224."""
        image = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float()
        if self.corrected:
            image = image / 255.0
        scale = _DINO_SIDE / min(image.shape[-2:])
        size = [round(side * scale) for side in image.shape[-2:]]
        image = F.interpolate(image, size, mode="bilinear", antialias=True, align_corners=False)
        mean, deviation = (
            torch.tensor(values)[:, None, None] for values in (_IMAGENET_MEAN, _IMAGENET_DEVIATION)
        )
        return (image - mean) / deviation


@dataclass(frozen=True)
class ClipSimilarity:
    """CLIPScore, 100 max(cos, 0), of the result and the whole target prompt.

    Attributes:
        clip: of ViT-L/14.
        edited: whether the result is multiplied by the mask first, all else black.
    """

    clip: Callable[[Picture, str], float]
    edited: bool

    def __call__(self, source: Picture, result: Picture, mask: Mask, prompt: str) -> float:
        if self.edited:
            if mask.sum() == 0.0:
                return math.nan
            result = (result * mask[..., None]).astype(np.uint8)
        return max(self.clip(result, prompt), 0.0)


@dataclass(frozen=True)
class LpipsOutside:
    """LPIPS of both pictures times 1 - mask, in [-1, 1] afterwards.

    Attributes:
        distance: takes two float32 (1, 3, H, W) in [-1, 1]; the published numbers are SqueezeNet's.
    """

    distance: Callable[[Tensor, Tensor], Any]

    @torch.no_grad()
    def __call__(self, source: Picture, result: Picture, mask: Mask, prompt: str = "") -> float:
        if _nothing_stays(mask):
            return math.nan
        first, second = (
            torch.from_numpy(_outside(picture, mask) / 255.0).permute(2, 0, 1)[None].float() * 2 - 1
            for picture in (result, source)
        )
        return float(self.distance(first, second))


@dataclass(frozen=True)
class MetricSet:
    """The metrics that can be computed here, and why the others cannot.

    Attributes:
        metrics: by the published names.
        missing: a sentence for each of the others.
    """

    metrics: dict[str, Metric]
    missing: dict[str, str]


def load_metrics(dino: str = DINO, clip: str = CLIP, *, corrected: bool = False) -> MetricSet:
    """All seven metrics, as far as their weights are on this machine: nothing is downloaded.

    Args:
        dino: folder or hub id, in the hub's cache, of DINO's ViT-B/8.
        clip: likewise of CLIP's ViT-L/14.
        corrected: see ``StructureDistance``.
    """
    metrics: dict[str, Metric] = {
        "psnr_unedit_part": psnr_outside,
        "mse_unedit_part": mse_outside,
        "ssim_unedit_part": ssim_outside,
    }
    missing: dict[str, str] = {}
    for names, load in (
        (("structure_distance",), lambda: [_load_structure(dino, corrected)]),
        (("lpips_unedit_part",), lambda: [_load_lpips()]),
        (METRIC_NAMES[5:], lambda: _load_clip(clip)),
    ):
        try:
            metrics.update(zip(names, load(), strict=True))
        except ModelError as error:
            missing.update(dict.fromkeys(names, str(error)))
    return MetricSet({name: metrics[name] for name in METRIC_NAMES if name in metrics}, missing)


def _load_structure(name: str, corrected: bool) -> Metric:
    from transformers import ViTModel

    vision = load_network(name, ViTModel, "DINO ViT-B/8", add_pooling_layer=False)
    return StructureDistance(vision, corrected)


def _load_clip(name: str) -> list[Metric]:
    clip = load_clip(name)
    return [ClipSimilarity(clip, edited) for edited in (False, True)]


def _load_lpips() -> Metric:
    try:
        import lpips

        return LpipsOutside(lpips.LPIPS(net="squeeze", verbose=False).eval())
    except (ImportError, OSError, RuntimeError) as error:
        raise ModelError(
            f"LPIPS with SqueezeNet is not on this machine ({type(error).__name__}): pip install "
            "lpips, which downloads SqueezeNet on its first use"
        ) from error
