"""One image under one method: the method's best result, saved, and its scores."""

from __future__ import annotations

import io
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dehaze.datasets import LoadedSample, Sample, read_rgb
from dehaze.eval.haze_maps import compare_airlights, compare_transmissions, density_correlation
from dehaze.eval.methods import Method, MethodInput, MethodOutput
from dehaze.eval.perceptual import PerceptualMetric
from dehaze.eval.protocol import BenchProtocol
from dehaze.levels import to_levels
from dehaze.photos import write_bytes


@dataclass(frozen=True)
class Scored:
    """The scores of a result, as a ``Record`` holds them.

    Attributes:
        values: scores by their names; None for one that is not finite.
        identical: whether the result is the ground truth.
        width, height: in pixels.
    """

    values: dict[str, float | None]
    identical: bool
    width: int
    height: int


@dataclass(frozen=True)
class Scorer:
    """Scores results as a protocol says.

    Attributes:
        protocol: how pictures are scored.
        perceptual: loaded metrics of ``protocol.perceptual``.
    """

    protocol: BenchProtocol
    perceptual: tuple[PerceptualMetric, ...] = ()

    def is_oracle(self, method: Method) -> bool:
        """Whether the ground truth chooses among the method's candidates."""
        return self.protocol.oracle and method.has_candidates

    def fit(self, loaded: LoadedSample) -> LoadedSample:
        """The sample at the protocol's size."""
        fit = self.protocol.fit
        return LoadedSample(
            hazy=fit(loaded.hazy),
            clear=None if loaded.clear is None else fit(loaded.clear),
            transmission=None if loaded.transmission is None else fit(loaded.transmission),
            oddities=loaded.oddities,
        )

    def best_output(
        self, method: Method, source: MethodInput, clear: NDArray[np.uint8] | None
    ) -> tuple[str | None, MethodOutput]:
        """The method's result; under an oracle, its candidate of highest PSNR.

        Returns:
            The candidate's name, or None without an oracle, and the output.

        Raises:
            ValueError: there is no candidate, or a result is not finite.
        """
        if not self.is_oracle(method) or clear is None:
            return None, method.run(source)
        best: tuple[float, str, MethodOutput] | None = None
        for name, output in method.candidates(source):
            quality = self.protocol.score(self._levels(output.image), clear).psnr
            if best is None or quality > best[0]:
                best = (quality, name, output)
        if best is None:
            raise ValueError(f"{method.name} offers no candidate")
        return best[1], best[2]

    def score(
        self, sample: Sample, loaded: LoadedSample, output: MethodOutput, path: Path | None
    ) -> Scored:
        """Save a result as PNG and score it.

        Args:
            sample: what is known of the picture.
            loaded: its pictures, at the protocol's size.
            output: the result.
            path: where the PNG goes; None to save none.

        Raises:
            ValueError: the result has another size than the ground truth, or is not finite.
        """
        # Pictures of another program may have another size.
        image = output.image if output.reference is not None else self.protocol.fit(output.image)
        clear: NDArray[Any] | None = loaded.clear
        if output.reference is not None:
            clear = self._levels(output.reference)
        expected = (loaded.hazy if clear is None else clear).shape
        if image.shape != expected:
            raise ValueError(
                f"the result is {image.shape[1]}x{image.shape[0]} where "
                f"{expected[1]}x{expected[0]} is expected"
            )
        scored = self._levels(image)
        if path is not None:
            _save_png(path, to_levels(image))
            if not self.protocol.scores_unrounded:
                scored = read_rgb(path).pixels
        values: dict[str, float] = {}
        identical = False
        if clear is not None:
            scores = self.protocol.score(scored, clear)
            values.update(asdict(scores))
            identical = math.isinf(scores.psnr)
        truth = None if clear is None else self.protocol.cropped(clear)
        for metric in self.perceptual:
            if truth is not None or not metric.full_reference:
                values[metric.name] = metric(self.protocol.cropped(scored), truth)
        values.update(_haze_map_values(sample, loaded, output))
        return Scored(
            {name: value if math.isfinite(value) else None for name, value in values.items()},
            identical,
            width=image.shape[1],
            height=image.shape[0],
        )

    def _levels(self, image: NDArray[np.float32]) -> NDArray[Any]:
        """[0, 1] to [0, 255], rounded to 8 bits unless the protocol scores unrounded output."""
        if not np.isfinite(image).all():
            raise ValueError("the result holds values that are not finite")
        if self.protocol.scores_unrounded:
            return np.clip(image, 0, 1).astype(np.float64) * 255
        return to_levels(image)


def _haze_map_values(
    sample: Sample, loaded: LoadedSample, output: MethodOutput
) -> dict[str, float]:
    """Scores of attention, t and A, where the truth is known."""
    values: dict[str, float] = {}
    truth = loaded.transmission
    if truth is not None and output.attention is not None:
        values["attention_spearman"] = density_correlation(output.attention, truth)
    if truth is not None and output.transmission is not None:
        transmission = compare_transmissions(output.transmission, truth)
        values["transmission_mae"] = transmission.mean_absolute_error
        values["transmission_bias"] = transmission.bias
    if sample.airlight is not None and output.airlight is not None:
        airlight = compare_airlights(output.airlight, np.array(sample.airlight))
        values["airlight_mae"] = airlight.mean_absolute_error
        values["airlight_angle"] = airlight.angle
    return values


def _save_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, buffer.getvalue())
