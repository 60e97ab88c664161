"""Rows that run a model: ``DehazePipeline``, and the ceilings of its codec and inversion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cached_property, lru_cache
from typing import Any, ClassVar

from dehaze.eval.methods.base import Method, MethodError, MethodInput, MethodOutput
from dehaze.eval.methods.options import PipelineOptions
from dehaze.eval.probes import codec_roundtrip, reconstruct
from dehaze.levels import from_levels
from dehaze.models import ModelError
from dehaze.models.choice import ModelChoice


class ModelMethod(Method):
    """A row that runs a model.

    Attributes:
        options: what it runs with.
    """

    def __init__(self, name: str, title: str, options: PipelineOptions) -> None:
        super().__init__(name, title)
        self.options = options

    def settings(self) -> dict[str, Any]:
        return {**asdict(self.options), "weights": self.weights}

    @cached_property
    def weights(self) -> str:
        """The model's fingerprint, so that a run is not resumed with other weights.

        Raises:
            MethodError: the model cannot be found.
        """
        try:
            return self.options.model.fingerprint()
        except ModelError as error:
            raise MethodError(str(error)) from error


class PipelineMethod(ModelMethod):
    """``DehazePipeline``; its oracle chooses among strengths."""

    _STRENGTHS: ClassVar[tuple[float, ...]] = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
    has_candidates = True

    def __init__(
        self,
        name: str,
        options: PipelineOptions,
        title: str = "haze removal by diffusion inversion, the method of this project",
    ) -> None:
        super().__init__(name, title, options)

    def run(self, source: MethodInput) -> MethodOutput:
        return self._run(source, self.options.strength)

    def candidates(self, source: MethodInput) -> Iterator[tuple[str, MethodOutput]]:
        for strength in self._STRENGTHS:
            yield f"strength={strength}", self._run(source, strength)

    def _run(self, source: MethodInput, strength: float) -> MethodOutput:
        pipeline = load_pipeline(self.options)
        _seed(source.seed)
        result = pipeline(
            from_levels(source.hazy),
            strength=strength,
            **self.options.inversion(),
            **self.options.guided(),
            **self.options.swap(),
        )
        return MethodOutput(
            image=result.image,
            attention=result.attention,
            transmission=result.transmission,
            airlight=result.airlight,
            nfe=result.nfe,
        )


class CodecCeiling(ModelMethod):
    """What the model's codec keeps of the ground truth, at the model's working size."""

    is_ceiling = True

    def __init__(self, name: str, options: PipelineOptions) -> None:
        title = "codec ceiling at the working size: encode and decode the truth"
        super().__init__(name, title, options)

    def settings(self) -> dict[str, Any]:
        chosen = asdict(self.options)
        return {
            "model": chosen["model"],
            "short_side": chosen["short_side"],
            "weights": self.weights,
        }

    def run(self, source: MethodInput) -> MethodOutput:
        if source.clear is None:
            raise ValueError("the codec ceiling needs a ground truth")
        pipeline = load_pipeline(self.options)
        clear = from_levels(source.clear)
        return MethodOutput(
            image=codec_roundtrip(pipeline, clear), reference=pipeline.codec.reduced(clear)
        )


class InversionCeiling(ModelMethod):
    """What inversion and reconstruction keep of the hazy picture, at the model's working size."""

    is_ceiling = True

    def __init__(self, name: str, options: PipelineOptions) -> None:
        title = "inversion ceiling at the working size: reconstruct the hazy picture"
        super().__init__(name, title, options)

    def run(self, source: MethodInput) -> MethodOutput:
        pipeline = load_pipeline(self.options)
        _seed(source.seed)
        working, reconstruction = reconstruct(
            pipeline,
            from_levels(source.hazy),
            **self.options.inversion(),
            **self.options.guided(),
        )
        return MethodOutput(image=reconstruction, reference=working)


def load_pipeline(options: PipelineOptions) -> Any:
    """The pipeline on its device, with a prompt that it can work with.

    Raises:
        MethodError: the model does not load, the prompt lacks the word, or a setting of the
            inversion does not fit the model.
    """
    pipeline = _load_model(options.model, options.short_side)
    settings = options.inversion()
    prompt, word = (settings.pop(name, None) for name in ("prompt", "word"))
    try:
        pipeline.check_prompt(prompt, word)
        pipeline.check_settings(**settings)
    except ValueError as error:
        raise MethodError(str(error)) from error
    return pipeline


@lru_cache(maxsize=2)
def _load_model(model: ModelChoice, short_side: int | None) -> Any:
    from dehaze.pipelines.dehaze import DehazePipeline

    try:
        pipeline = model.load(DehazePipeline)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise MethodError(
            f"the model {model.model!r} does not load on {model.device}: {error}"
        ) from error
    if short_side is not None:
        pipeline.description = replace(pipeline.description, short_side=short_side)
    return pipeline


def _seed(seed: int) -> None:
    """Fix every random choice of a picture, whatever pictures came before it."""
    import torch

    torch.manual_seed(seed)
