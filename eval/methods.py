"""What an evaluation compares: methods from a hazy picture to a clear one, by name.

======================  ==========================================================================
``hazy``                the input itself
``dcp``, ``cap``, ...   a baseline of ``dehaze.eval.baselines``
``ours``                ``DehazePipeline``; ``ours:solver=anderson,steps=20`` overrides its options
``codec``               the codec ceiling: encode and decode the ground truth
``inversion``           the inversion ceiling: invert the hazy picture and reconstruct it
``folder:NAME=PATH``    pictures that somebody else's method has made
======================  ==========================================================================
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dehaze.datasets import read_rgb
from dehaze.datasets.pairing import list_images
from dehaze.errors import DehazeError
from dehaze.eval.baselines import BASELINES, BaselineDescription, HazeEstimate, recover
from dehaze.recovery.guided_filter import resize
from dehaze.recovery.recover import REFINEMENTS

Pixels = NDArray[np.uint8]
Array = NDArray[np.float32]


class MethodError(DehazeError):
    """A method that does not exist or cannot start: the run is at fault, not a picture."""


@dataclass(frozen=True)
class MethodInput:
    """One picture for a method.

    Attributes:
        hazy: (H, W, 3) uint8 RGB.
        clear: its ground truth, the same shape, or None. Only the ceilings and oracles read it.
        subset: the data set's name.
        name: the picture's name within the set.
        scene: the id of its scene.
        seed: for the random choices of this picture.
    """

    hazy: Pixels
    clear: Pixels | None
    subset: str
    name: str
    scene: str
    seed: int


@dataclass(frozen=True)
class MethodOutput:
    """What a method made of one picture.

    Attributes:
        image: (h, w, 3) float32 RGB in [0, 1].
        reference: (h, w, 3) float32 RGB in [0, 1] to compare with instead of the ground truth:
            the ceilings are measured at the model's working size.
        attention: the haze word's attention, (H, W) float32, or None.
        transmission: the estimated t, (H, W) float32, or None.
        airlight: the estimated A, (3,) float32, or None.
        nfe: network evaluations, or None.
    """

    image: Array
    reference: Array | None = None
    attention: Array | None = None
    transmission: Array | None = None
    airlight: Array | None = None
    nfe: int | None = None


@dataclass(frozen=True)
class PipelineOptions:
    """Options of ``DehazePipeline``; None leaves the model's own default.

    Attributes:
        model: "bundled", a folder, a hub id, or a .safetensors file.
        prompt: the source prompt.
        word: the haze word in it.
        strength: how much of the swap is applied; 1 is all of it.
        solver: a registered inversion solver.
        steps: DDIM steps.
        spacing: of the timesteps.
        max_iterations: of the solver, a step.
        tolerance: relative residual at which a step has converged.
        reading: "embedding" or "delete".
        cross_replace_steps: share of the steps with the source's cross-attention maps.
        self_replace_steps: share of the steps with the source's self-attention maps.
        refine: "calibrated", "physics", "affine" or "none".
        short_side: the model's working size, pixels.
        device: a torch device; "auto" takes the first GPU, or the CPU.
    """

    model: str = "bundled"
    prompt: str | None = None
    word: str | None = None
    strength: float = 1.0
    solver: str | None = None
    steps: int | None = None
    spacing: str | None = None
    max_iterations: int | None = None
    tolerance: float | None = None
    reading: str | None = None
    cross_replace_steps: float | None = None
    self_replace_steps: float | None = None
    refine: str = "calibrated"
    short_side: int | None = None
    device: str = "auto"

    def inversion(self) -> dict[str, Any]:
        """The options of the inversion that were given; the model has its defaults for others."""
        return self._given(
            "prompt", "word", "solver", "steps", "spacing", "max_iterations", "tolerance"
        )

    def swap(self) -> dict[str, Any]:
        """The options of the way back that were given, apart from the strength."""
        return self._given("reading", "cross_replace_steps", "self_replace_steps", "refine")

    def _given(self, *names: str) -> dict[str, Any]:
        chosen = {name: getattr(self, name) for name in names}
        return {name: value for name, value in chosen.items() if value is not None}


class Method(ABC):
    """One row of the table.

    Attributes:
        name: the row's label, unique within a run.
        title: what it is, in a few words.
        is_ceiling: a bound for the methods rather than one of them.
        saves: whether its pictures are written to the run's folder.
        has_candidates: whether ``candidates`` offers a choice.
    """

    is_ceiling: ClassVar[bool] = False
    saves: ClassVar[bool] = True
    has_candidates: bool = False

    def __init__(self, name: str, title: str) -> None:
        self.name = name
        self.title = title

    @property
    def slug(self) -> str:
        """The name as a folder's name on any system."""
        return re.sub(r"[^A-Za-z0-9._=+-]", "_", self.name)

    def settings(self) -> dict[str, Any]:
        """Everything that its result depends on, apart from the picture and the seed."""
        return {}

    @abstractmethod
    def run(self, source: MethodInput) -> MethodOutput:
        """Make a picture.

        Raises:
            ValueError, RuntimeError, OSError: this picture failed.
        """

    def candidates(self, source: MethodInput) -> Iterator[tuple[str, MethodOutput]]:
        """The named results among which an oracle picks with the ground truth."""
        yield "", self.run(source)


class HazyInput(Method):
    """The hazy picture as it came: what doing nothing scores."""

    saves = False

    def run(self, source: MethodInput) -> MethodOutput:
        return MethodOutput(image=_to_float(source.hazy))


class BaselineMethod(Method):
    """A baseline; its oracle chooses among bounds on t from .05 to .5."""

    _BOUNDS: ClassVar[tuple[float, ...]] = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)

    def __init__(self, description: BaselineDescription) -> None:
        super().__init__(description.name, f"{description.title} ({description.source})")
        self._description = description
        self.has_candidates = description.estimate is not None

    def run(self, source: MethodInput) -> MethodOutput:
        hazy = _to_float(source.hazy)
        estimate = self._estimate(hazy)
        return MethodOutput(
            image=self._description.run(hazy),
            transmission=None if estimate is None else estimate.transmission,
            airlight=None if estimate is None else estimate.airlight,
        )

    def candidates(self, source: MethodInput) -> Iterator[tuple[str, MethodOutput]]:
        hazy = _to_float(source.hazy)
        estimate = self._estimate(hazy)
        if estimate is None:
            yield "", self.run(source)
            return
        for bound in self._BOUNDS:
            image = recover(hazy, estimate, bound)
            yield (
                f"t_min={bound}",
                MethodOutput(image, None, None, estimate.transmission, estimate.airlight),
            )

    def _estimate(self, hazy: Array) -> HazeEstimate | None:
        return self._description.estimate(hazy) if self._description.estimate else None


class PipelineMethod(Method):
    """``DehazePipeline``; its oracle chooses among strengths."""

    _STRENGTHS: ClassVar[tuple[float, ...]] = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
    has_candidates = True

    def __init__(self, name: str, options: PipelineOptions) -> None:
        super().__init__(name, "haze removal by diffusion inversion, the method of this project")
        self._options = options

    def settings(self) -> dict[str, Any]:
        return _pipeline_settings(self._options)

    def run(self, source: MethodInput) -> MethodOutput:
        return self._run(source, self._options.strength)

    def candidates(self, source: MethodInput) -> Iterator[tuple[str, MethodOutput]]:
        for strength in self._STRENGTHS:
            yield f"strength={strength}", self._run(source, strength)

    def _run(self, source: MethodInput, strength: float) -> MethodOutput:
        pipeline = load_pipeline(self._options)
        _seed(source.seed)
        result = pipeline(
            _to_float(source.hazy),
            strength=strength,
            **self._options.inversion(),
            **self._options.swap(),
        )
        return MethodOutput(
            image=result.image,
            attention=result.attention,
            transmission=result.transmission,
            airlight=result.airlight,
            nfe=result.nfe,
        )


class CodecCeiling(Method):
    """What the model's codec keeps of the ground truth, at the model's working size."""

    is_ceiling = True

    def __init__(self, name: str, options: PipelineOptions) -> None:
        super().__init__(name, "codec ceiling at the working size: encode and decode the truth")
        self._options = options

    def settings(self) -> dict[str, Any]:
        return {"model": self._options.model, "weights": _digest_of(self._options.model)}

    def run(self, source: MethodInput) -> MethodOutput:
        if source.clear is None:
            raise ValueError("the codec ceiling needs a ground truth")
        pipeline = load_pipeline(self._options)
        clear = _to_float(source.clear)
        working = resize(clear, pipeline.working_size(clear))
        return MethodOutput(image=pipeline.codec_roundtrip(clear), reference=working)


class InversionCeiling(Method):
    """What inversion and reconstruction keep of the hazy picture, at the model's working size."""

    is_ceiling = True

    def __init__(self, name: str, options: PipelineOptions) -> None:
        super().__init__(
            name, "inversion ceiling at the working size: reconstruct the hazy picture"
        )
        self._options = options

    def settings(self) -> dict[str, Any]:
        return _pipeline_settings(self._options)

    def run(self, source: MethodInput) -> MethodOutput:
        pipeline = load_pipeline(self._options)
        _seed(source.seed)
        working, reconstruction = pipeline.reconstruct(
            _to_float(source.hazy), **self._options.inversion()
        )
        return MethodOutput(image=reconstruction, reference=working)


class ResultFolder(Method):
    """Pictures that somebody else's method has made, found by the hazy picture's name or scene.

    They lie in ``PATH`` or in ``PATH/<subset>``. For an oracle each subfolder there holds one
    iteration's pictures.
    """

    saves = False

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(name, f"results in {folder}")
        if not folder.is_dir():
            raise MethodError(f"{folder} is no folder; expected folder:NAME=PATH with its results")
        self._folder = folder
        self.has_candidates = True

    def settings(self) -> dict[str, Any]:
        return {"folder": str(self._folder)}

    def run(self, source: MethodInput) -> MethodOutput:
        found = self.find(source.subset, source.name, source.scene)
        if found is None:
            folder = self._folder_of(source.subset)
            raise FileNotFoundError(f"{folder} has no picture named {source.name}")
        return MethodOutput(image=_to_float(read_rgb(found).pixels))

    def find(self, subset: str, name: str, scene: str) -> Path | None:
        """The file of a picture, or None.

        Raises:
            ValueError: several files carry the name.
        """
        return _find_result(self._folder_of(subset), name, scene)

    def candidates(self, source: MethodInput) -> Iterator[tuple[str, MethodOutput]]:
        folder = self._folder_of(source.subset)
        iterations = sorted(path for path in folder.iterdir() if path.is_dir())
        found = [(path.name, _find_result(path, source.name, source.scene)) for path in iterations]
        if not any(picture for _, picture in found):
            yield "", self.run(source)
            return
        for label, picture in found:
            if picture is not None:
                yield label, MethodOutput(image=_to_float(read_rgb(picture).pixels))

    def _folder_of(self, subset: str) -> Path:
        below = self._folder / subset
        return below if below.is_dir() else self._folder


def _find_result(folder: Path, name: str, scene: str) -> Path | None:
    """The picture named like the hazy one, or like its scene.

    Raises:
        ValueError: several files carry the name.
    """
    files = _index_of(folder)
    for key in (name, name.rsplit("/", 1)[-1], scene):
        matches = files.get(key, ())
        if len(matches) > 1:
            names = ", ".join(path.name for path in matches)
            raise ValueError(f"{folder}: {key} is claimed by {names}; keep one")
        if matches:
            return matches[0]
    return None


@lru_cache(maxsize=64)
def _index_of(folder: Path) -> dict[str, tuple[Path, ...]]:
    index: dict[str, tuple[Path, ...]] = {}
    for path in list_images(folder, recursive=True)[0]:
        key = path.relative_to(folder).with_name(path.stem).as_posix()
        index[key] = (*index.get(key, ()), path)
    return index


def _to_float(pixels: Pixels) -> Array:
    return pixels.astype(np.float32) / np.float32(255)


def load_pipeline(options: PipelineOptions) -> Any:
    """The pipeline on its device, with a prompt that it can work with.

    Raises:
        MethodError: the model does not load, or the prompt lacks the word.
    """
    pipeline = _load_model(options.model, options.device, options.short_side)
    try:
        pipeline.check_prompt(options.prompt, options.word)
    except ValueError as error:
        raise MethodError(str(error)) from error
    return pipeline


@lru_cache(maxsize=2)
def _load_model(model: str, device: str, short_side: int | None) -> Any:
    import torch

    from dehaze.pipelines.dehaze import DehazePipeline

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        pipeline = DehazePipeline.from_pretrained(model).to(device)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise MethodError(f"the model {model!r} does not load on {device}: {error}") from error
    pipeline.set_progress_bar_config(disable=True)
    if short_side is not None:
        pipeline.description = replace(pipeline.description, short_side=short_side)
    return pipeline


def _seed(seed: int) -> None:
    """Fix every random choice of a picture, whichever pictures came before it."""
    import torch

    torch.manual_seed(seed)


def _pipeline_settings(options: PipelineOptions) -> dict[str, Any]:
    return {**asdict(options), "weights": _digest_of(options.model)}


@lru_cache(maxsize=8)
def _digest_of(model: str) -> str | None:
    """The fingerprint of a bundled or local model; None for a hub id.

    A model that was trained anew under the same path must not resume the old one's run.
    """
    from dehaze.models.hashes import fingerprint
    from dehaze.models.load import BUNDLED, BUNDLED_FOLDER

    place = BUNDLED_FOLDER if model == BUNDLED else Path(model)
    return fingerprint(place) if place.exists() else None


def _hazy(argument: str, options: PipelineOptions) -> Method:
    _refuse_argument("hazy", argument)
    return HazyInput("hazy", "the hazy input")


def _ours(argument: str, options: PipelineOptions) -> Method:
    name = f"ours:{argument}" if argument else "ours"
    return PipelineMethod(name, _override(options, argument))


def _codec(argument: str, options: PipelineOptions) -> Method:
    name = f"codec:{argument}" if argument else "codec"
    return CodecCeiling(name, _override(options, argument))


def _inversion(argument: str, options: PipelineOptions) -> Method:
    name = f"inversion:{argument}" if argument else "inversion"
    return InversionCeiling(name, _override(options, argument))


def _folder(argument: str, options: PipelineOptions) -> Method:
    name, separator, path = argument.partition("=")
    if not (name and separator and path):
        raise MethodError(f"expected folder:NAME=PATH, got folder:{argument}")
    return ResultFolder(name, Path(path))


def _baseline(name: str, argument: str, options: PipelineOptions) -> Method:
    _refuse_argument(name, argument)
    return BaselineMethod(BASELINES[name])


METHODS: dict[str, Callable[[str, PipelineOptions], Method]] = {
    "hazy": _hazy,
    **{name: partial(_baseline, name) for name in BASELINES},
    "ours": _ours,
    "codec": _codec,
    "inversion": _inversion,
    "folder": _folder,
}


def _refuse_argument(name: str, argument: str) -> None:
    if argument:
        raise MethodError(f"{name} takes no options, got {name}:{argument}")


def _solver(value: str) -> str:
    from dehaze.inversion import list_methods

    return _one_of(value, list_methods())


def _refinement(value: str) -> str:
    return _one_of(value, REFINEMENTS)


def _spacing(value: str) -> str:
    from dehaze.inversion.schedule import SPACINGS

    return _one_of(value, SPACINGS)


def _reading(value: str) -> str:
    from dehaze.pipelines.dehaze import READINGS

    return _one_of(value, READINGS)


def _one_of(value: str, names: Iterable[str]) -> str:
    if value not in names:
        raise MethodError(f"{value!r} is not one of {', '.join(names)}")
    return value


# What a row may override; a prompt holds spaces and commas and is common to a run.
_OVERRIDES: dict[str, Callable[[str], Any]] = {
    "model": str,
    "strength": float,
    "solver": _solver,
    "steps": int,
    "spacing": _spacing,
    "max_iterations": int,
    "tolerance": float,
    "reading": _reading,
    "cross_replace_steps": float,
    "self_replace_steps": float,
    "refine": _refinement,
    "short_side": int,
}


def _override(options: PipelineOptions, argument: str) -> PipelineOptions:
    changes: dict[str, Any] = {}
    for part in filter(None, argument.split(",")):
        key, separator, value = part.partition("=")
        if not separator or key not in _OVERRIDES:
            known = ", ".join(_OVERRIDES)
            raise MethodError(f"{part!r} is no option; there are {known}, each as key=value")
        try:
            changes[key] = _OVERRIDES[key](value)
        except ValueError as error:
            raise MethodError(f"{part!r} is no number") from error
    return replace(options, **changes)


def parse_method(specification: str, options: PipelineOptions | None = None) -> Method:
    """A method from its specification on the command line.

    Args:
        specification: a name of ``METHODS``, with ``:`` and its argument where it takes one.
        options: what ``ours`` and the ceilings run with unless the specification overrides it.

    Raises:
        MethodError: there is no such method, or its argument does not fit.
    """
    name, _, argument = specification.partition(":")
    if name not in METHODS:
        raise MethodError(f"no method is named {name!r}; there are {', '.join(METHODS)}")
    return METHODS[name](argument, options or PipelineOptions())


def uses_pipeline(specification: str) -> bool:
    """Whether a specification needs a model to be loaded."""
    return specification.partition(":")[0] in ("ours", "codec", "inversion")


def with_companions(specifications: list[str], *, ceilings: bool) -> list[str]:
    """Add the rows that always stand beside a method.

    The hazy input and the dark channel prior come first; for every way in which ``ours`` is run,
    the codec ceiling and the inversion ceiling follow.

    Args:
        specifications: what was asked for, in order.
        ceilings: whether to add the ceilings.

    Returns:
        The specifications without repetition.
    """
    rows = ["hazy", "dcp", *specifications]
    if ceilings:
        for specification in specifications:
            name, separator, argument = specification.partition(":")
            if name == "ours":
                parts = [part for part in argument.split(",") if part.startswith("model=")]
                rows.append(":".join(filter(None, ["codec", ",".join(parts)])))
                rows.append(f"inversion{separator}{argument}")
    return list(dict.fromkeys(rows))
