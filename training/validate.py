"""Scores a model on haze rendered over validation photos; choices are made by these scores."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch

from dehaze.attention.maps import recorded_layers
from dehaze.datasets.synthesis import RenderedHaze
from dehaze.eval.haze_maps import compare_airlights, compare_transmissions, density_correlation
from dehaze.eval.metrics import peak_signal_noise_ratio
from dehaze.pipelines.dehaze import DehazePipeline
from dehaze.recovery.recover import recover_by_physics
from training.data import PLAIN, Array, as_stored, draw_plain_density, draw_scene, render_over
from training.photos import PhotoCache
from training.yardstick import Yardstick

# Each photo's haze has a random generator of its own, so that all runs see the same haze.
_SEED = 20_000


@dataclass(frozen=True)
class Validation:
    """Means over the photos of a group; PSNR in dB, over RGB in [0, 1], unrounded.

    Attributes:
        photos: how many.
        hazy: PSNR of the hazy photos.
        dehazed: PSNR of the results at the model's default settings.
        yardstick: PSNR of the yardstick's results, after the same recovery; None without one.
        transmission_error: mean absolute error of t.
        airlight_error: mean absolute error of A.
        layer_correlation: Spearman correlation of each cross-attention layer's map of the haze word
            with 1 - t, over the layer's recorded steps.
        map_correlation: likewise, of the model's haze attention map.
    """

    photos: int
    hazy: float
    dehazed: float
    yardstick: float | None
    transmission_error: float
    airlight_error: float
    layer_correlation: dict[str, float]
    map_correlation: float

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


def validation_haze(cache: PhotoCache, count: int) -> dict[str, list[RenderedHaze]]:
    """Photos with rendered haze for the plain prompt, ``count`` in each group.

    The groups are ``depth``, photos with a measured depth map, of 192 x 256 pixels; and
    ``bsds500``, BSDS500's validation photos with invented depth, of 320 x 480 pixels. Densities and
    colours are distributed as in training; one photo in six is clear already.

    Args:
        cache: of the split ``val``.
        count: photos a group.
    """
    chosen = {
        "depth": [entry.depth >= 0 for entry in cache.entries],
        "bsds500": [entry.source == "clean/bsds500" for entry in cache.entries],
    }
    sizes = {"depth": (192, 256), "bsds500": (320, 480)}
    groups: dict[str, list[RenderedHaze]] = {}
    for name, wanted in chosen.items():
        if not any(wanted):
            continue
        weights = np.where(wanted, cache.weights, 0.0)
        groups[name] = []
        for position in range(count):
            rng = np.random.default_rng((_SEED, position))
            scene = draw_scene(cache, sizes[name], rng, weights / weights.sum())
            rendered = render_over(scene, PLAIN, "haze", draw_plain_density(scene.indoor, rng), rng)
            hazy = as_stored(rendered.hazy, rng)
            groups[name].append(
                RenderedHaze(hazy, rendered.clear, rendered.transmission, rendered.airlight)
            )
    return groups


def validate(
    pipeline: DehazePipeline, rendered: list[RenderedHaze], yardstick: Yardstick | None = None
) -> Validation:
    """Scores a pipeline at its default settings, and the yardstick beside it."""
    rows: list[list[float]] = []
    correlations: dict[str, list[float]] = {}
    for haze in rendered:
        inversion = pipeline.invert(haze.hazy)
        result = pipeline(haze.hazy, inversion=inversion)
        assert result.transmission is not None
        assert result.airlight is not None
        beside = None if yardstick is None else regress(yardstick, pipeline, haze.hazy)
        rows.append(
            [
                _psnr(haze.hazy, haze.clear),
                _psnr(result.image, haze.clear),
                0.0 if beside is None else _psnr(beside, haze.clear),
                compare_transmissions(result.transmission, haze.transmission).mean_absolute_error,
                compare_airlights(result.airlight, haze.airlight).mean_absolute_error,
                density_correlation(result.attention, haze.transmission),
            ]
        )
        for layer in recorded_layers(inversion.attention):
            heat = pipeline.word_attention(haze.hazy, inversion, layers={layer: 1.0})
            correlation = density_correlation(heat, haze.transmission)
            correlations.setdefault(layer, []).append(correlation)
    hazy, dehazed, beside_mean, transmission, airlight, heat_mean = np.nanmean(rows, axis=0)
    return Validation(
        photos=len(rendered),
        hazy=float(hazy),
        dehazed=float(dehazed),
        yardstick=None if yardstick is None else float(beside_mean),
        transmission_error=float(transmission),
        airlight_error=float(airlight),
        layer_correlation={layer: float(np.nanmean(at)) for layer, at in correlations.items()},
        map_correlation=float(heat_mean),
    )


@torch.no_grad()
def regress(yardstick: Yardstick, pipeline: DehazePipeline, photo: Array) -> Array:
    """The yardstick's result for a photo, encoded and recovered as in the pipeline."""
    latents = pipeline.codec.encode(photo)
    size = pipeline.codec.working_size(photo)
    found = yardstick.estimate(latents)
    hazy, clear = (pipeline.codec.decode_all(values, size) for values in (latents, found))
    return recover_by_physics(photo, hazy, clear).image


def _psnr(one: Array, other: Array) -> float:
    # A photo that is returned unchanged has infinite PSNR, which would decide the mean.
    return min(45.0, peak_signal_noise_ratio(one, other, data_range=1.0))
