"""Scores a model on haze rendered over photos it was not trained on: what choices are made by."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dehaze.attention.maps import recorded_layers
from dehaze.datasets.synthesis import RenderedHaze, render_haze, with_overcast_sky
from dehaze.eval.haze_maps import compare_airlights, compare_transmissions, density_correlation
from dehaze.eval.metrics import peak_signal_noise_ratio
from dehaze.eval.probes import reconstruct
from dehaze.pipelines.dehaze import DehazePipeline
from training.photos import Array, load_photos

# Each photo's haze is drawn from a generator of its own, so that any two runs see the same haze.
_SEED = 20_000
# Solvers of the reconstructions, and their limits.
_RECONSTRUCTING: dict[str, dict[str, Any]] = {
    "fixed-point": {"max_iterations": 5, "tolerance": 1e-3},
    "ddim": {},
}


@dataclass(frozen=True)
class Validation:
    """Means over the photos; PSNR in dB, over RGB in [0, 1], unrounded.

    Attributes:
        photos: how many.
        hazy: PSNR of the hazy photos.
        dehazed: PSNR of the results at the model's default settings.
        transmission_error: mean absolute error of t.
        airlight_error: mean absolute error of A.
        picard: PSNR of the reconstruction, at the working size, after ``fixed-point`` inversion.
        ddim: likewise after plain ``ddim`` inversion.
        layer_correlation: Spearman correlation of each cross-attention layer's map of the haze word
            with 1 - t, over the layer's recorded steps.
        map_correlation: likewise, of the model's haze attention map.
    """

    photos: int
    hazy: float
    dehazed: float
    transmission_error: float
    airlight_error: float
    picard: float
    ddim: float
    layer_correlation: dict[str, float]
    map_correlation: float

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


def validation_haze(data: Path, count: int, *, densities: bool = False) -> list[RenderedHaze]:
    """Haze over the first ``count`` photos of BSDS500's validation split, at their full size.

    With ``densities`` every density from 0 (clear already) to .85 is as frequent as any other,
    every second sky is overcast, and half of the photos, of either kind, have 20 to 60 % more
    contrast; without, densities are the common ones and photos as they are.
    """
    names = (data / "bsds500" / "val.txt").read_text().split()[:count]
    photos = load_photos([data / "bsds500" / name for name in names], short_side=321)
    if densities:
        photos = [_varied(photo, position) for position, photo in enumerate(photos)]
    asked: list[float | None] = [None] * len(photos)
    if densities:
        even = np.linspace(0.0, 0.85, len(photos))
        asked = list(np.random.default_rng(_SEED).permutation(even))
    return [
        render_haze(photo, np.random.default_rng(_SEED + position), density=density)
        for position, (photo, density) in enumerate(zip(photos, asked, strict=True))
    ]


def with_contrast(clear: Array, factor: float) -> Array:
    """The photo's differences from its mean times ``factor``, clipped to [0, 1]."""
    middle = float(clear.mean())
    return np.clip(middle + factor * (clear - middle), 0.0, 1.0).astype(np.float32)


def _varied(photo: Array, position: int) -> Array:
    rng = np.random.default_rng(_SEED + position)
    if position % 4 >= 2:
        photo = with_contrast(photo, float(rng.uniform(1.2, 1.6)))
    return with_overcast_sky(photo, rng) if position % 2 else photo


def validate(pipeline: DehazePipeline, rendered: list[RenderedHaze], steps: int = 20) -> Validation:
    """Scores a pipeline; the reconstructions take ``steps`` steps of the leading spacing."""
    rows: list[list[float]] = []
    correlations: dict[str, list[float]] = {}
    for haze in rendered:
        result = pipeline(haze.hazy)
        assert result.transmission is not None
        assert result.airlight is not None
        reconstructions = [
            peak_signal_noise_ratio(
                *reconstruct(
                    pipeline,
                    haze.hazy,
                    num_inference_steps=steps,
                    spacing="leading",
                    solver=solver,
                    **limits,
                ),
                data_range=1.0,
            )
            for solver, limits in _RECONSTRUCTING.items()
        ]
        rows.append(
            [
                peak_signal_noise_ratio(haze.hazy, haze.clear, data_range=1.0),
                peak_signal_noise_ratio(result.image, haze.clear, data_range=1.0),
                compare_transmissions(result.transmission, haze.transmission).mean_absolute_error,
                compare_airlights(result.airlight, haze.airlight).mean_absolute_error,
                *reconstructions,
                density_correlation(result.attention, haze.transmission),
            ]
        )
        for layer, value in _layer_correlations(pipeline, haze).items():
            correlations.setdefault(layer, []).append(value)
    hazy, dehazed, transmission, airlight, picard, ddim, heat = np.mean(rows, axis=0).tolist()
    return Validation(
        photos=len(rendered),
        hazy=hazy,
        dehazed=dehazed,
        transmission_error=transmission,
        airlight_error=airlight,
        picard=picard,
        ddim=ddim,
        layer_correlation={layer: float(np.mean(at)) for layer, at in correlations.items()},
        map_correlation=heat,
    )


def _layer_correlations(pipeline: DehazePipeline, haze: RenderedHaze) -> dict[str, float]:
    inversion = pipeline.invert(haze.hazy)
    return {
        layer: density_correlation(
            pipeline.word_attention(haze.hazy, inversion, layers={layer: 1.0}), haze.transmission
        )
        for layer in recorded_layers(inversion.attention)
    }
