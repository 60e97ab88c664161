"""An inversion: its settings, its origin, its latents and noises, and how the solver fared."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from typing_extensions import TypedDict, Unpack

from dehaze import ranges
from dehaze.errors import DehazeError
from dehaze.inversion.flow import FlowTable
from dehaze.inversion.schedule import DDIMTable, StepTable
from dehaze.inversion.solvers import idle_settings
from dehaze.inversion.tensor_file import write_tensors

_FORMAT = "dehaze-inversion-3"
_OLDER_FORMATS = ("dehaze-inversion-1", "dehaze-inversion-2")


class InversionFileError(DehazeError, ValueError):
    """A file is no saved inversion, or a broken one."""


class InversionMismatchError(DehazeError, ValueError):
    """An inversion is used with another photo, prompt, model or setting than it was made with."""


class NoiseNetwork(Protocol):
    """A network under one prompt, as an inversion sees it: ``dehaze.network.PromptedNetwork``.

    Attributes:
        table: the schedule.
        cost: network evaluations of one call, 2 under guidance.
    """

    @property
    def table(self) -> StepTable: ...

    @property
    def cost(self) -> int: ...

    def __call__(self, latents: Tensor, i: int, index: Tensor) -> Tensor:
        """p(z, i) of some samples of a batch: the noise, or, of a flow, the velocity.

        Args:
            latents: z, (b, C, H, W).
            i: the step.
            index: int64 (b,), the samples' positions in the batch. A criterion that follows two
                paths has a batch of 2B: position B + b is the second path of sample b.
        """


class InversionOptions(TypedDict, total=False):
    """Settings of an inversion as keywords; None, or no keyword, for the model's own."""

    spacing: str | None
    solver: str | None
    predictor: str | None
    relaxation: str | None
    criterion: str | None
    max_iterations: int | None
    tolerance: float | None
    depth: int | None
    adjustment: str | None
    adjustment_repeats: int | None
    checked: bool | None


@dataclass(frozen=True)
class InversionSettings:
    """How a photo is inverted.

    The defaults need no fit to a network: a step has converged where its residual, evaluated at the
    latent that is returned, is below the tolerance, and where it has not, the trace says so.

    Attributes:
        steps: N, DDIM steps.
        spacing: of the timesteps, see ``dehaze.inversion.schedule.SPACINGS``; None for the
            scheduler's own.
        solver: see ``dehaze.inversion.SOLVERS``.
        predictor: makes the solver's start, see ``dehaze.inversion.PREDICTORS``.
        relaxation: lengthens the solver's updates, see ``dehaze.inversion.RELAXATIONS``.
        criterion: says when a step is done, see ``dehaze.inversion.CRITERIA``.
        max_iterations: the most iterations of a step; at least 1.
        tolerance: below which the criterion's number must fall; above 0 and at most 1.
        depth: how many of the N steps to invert; all when None.
        guidance_scale: classifier-free guidance g, 0 to 50.
        adjustment: brings the photo nearer to the prompt before it is inverted, and changes it, see
            ``dehaze.inversion.ADJUSTMENTS``; None for none.
        adjustment_repeats: how often it is made; at least 1.
        checked: whether f(z) - z is evaluated at the solution of every step, whatever the
            criterion, for one more evaluation a step.

    Example:
        >>> InversionSettings(steps=20).changed(solver="edict").solver
        'edict'
    """

    steps: int = 50
    spacing: str | None = None
    solver: str = "anderson"
    predictor: str = "ife"
    relaxation: str = "none"
    criterion: str = "residual"
    max_iterations: int = 10
    tolerance: float = 1e-4
    depth: int | None = None
    guidance_scale: float = 1.0
    adjustment: str | None = None
    adjustment_repeats: int = 1
    checked: bool = False

    def __post_init__(self) -> None:
        ranges.TOLERANCE.check(self.tolerance)
        ranges.GUIDANCE_SCALE.check(self.guidance_scale)
        for name in ("steps", "max_iterations", "adjustment_repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.depth is not None and not 1 <= self.depth <= self.steps:
            raise ValueError(f"depth is {self.depth}: it must be 1 to {self.steps}, the steps")
        if self.adjustment is None and self.adjustment_repeats != 1:
            raise ValueError("adjustment_repeats has no effect without an adjustment: name one")

    @property
    def inverted_steps(self) -> int:
        """n, how many steps are inverted."""
        return self.steps if self.depth is None else self.depth

    def changed(
        self,
        *,
        steps: int | None = None,
        guidance_scale: float | None = None,
        **options: Unpack[InversionOptions],
    ) -> InversionSettings:
        """These settings with the given ones changed; a setting that is None stays.

        A solver that is named runs as it was published: from z_{i-1}, with its own updates, and
        with the criterion ``intra-path``, unless these are named too.

        Raises:
            ValueError: there is no such solver, a value is out of range, or the solver does not use
                a setting that is given.
        """
        given: dict[str, Any] = {"steps": steps, "guidance_scale": guidance_scale, **options}
        given = {name: value for name, value in given.items() if value is not None}
        published = PUBLISHED if "solver" in given else {}
        changed = replace(self, **(published | given))
        for name in idle_settings(changed.solver):
            if name in given:
                raise ValueError(
                    f"{name} has no effect with the solver {changed.solver!r}: leave it out"
                )
        return changed

    def generated(self) -> InversionSettings:
        """Those of a picture that was made from noise on this schedule: nothing was solved."""
        return InversionSettings(
            steps=self.steps, spacing=self.spacing, guidance_scale=self.guidance_scale
        ).changed(solver="ddim")


PUBLISHED: dict[str, Any] = {
    "predictor": "previous", "relaxation": "none", "criterion": "intra-path"
}  # fmt: skip
"""The settings of a solver as it was published: DDIM's start, and its own updates."""


@dataclass(frozen=True)
class Origin:
    """What an inversion was made of.

    Attributes:
        photos: SHA-256 of each photo's pixels; empty for a generated picture.
        sizes: (height, width) of each photo, in pixels.
        prompt: that it was inverted under.
        model: fingerprint of the model's weights.
    """

    photos: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    prompt: str
    model: str

    def sample(self, b: int) -> Origin:
        """Of sample b alone."""
        return replace(self, photos=self.photos[b : b + 1], sizes=self.sizes[b : b + 1])


@dataclass(frozen=True)
class InversionTrace:
    """How the solver fared at each of n steps, for each of B samples.

    Attributes:
        residuals: (n, K, B), norm(f(z_k) - z_k) / norm(f(z_k)) at each iteration; NaN where not
            measured.
        inter: (n, K, B), the inter-path residual likewise; NaN where one path was followed.
        bounds: (n, K, B), Banach's bound of the relative error after each iteration; infinite
            where it says nothing, NaN where not measured.
        iterations: int64 (n, B).
        nfe: int64 (n, B), network evaluations; a guided evaluation counts twice.
        contraction: (n, B), estimate of the contraction constant; NaN where unknown. 1 or above:
            not contractive here.
        stopped: bool (n, B), whether the criterion was met, whatever it watches.
        remaining: (n, B), norm(f(z) - z) / norm(z) at the z_i that the inversion holds; NaN where
            it was not evaluated.
        converged: bool (n, B), whether ``remaining`` is known and below the tolerance.
    """

    residuals: Tensor
    inter: Tensor
    bounds: Tensor
    iterations: Tensor
    nfe: Tensor
    contraction: Tensor
    stopped: Tensor
    remaining: Tensor
    converged: Tensor

    @classmethod
    def unmeasured(cls, depth: int, latents: Tensor, *, evaluations: int) -> InversionTrace:
        """That of steps that were not iterated or measured: nothing was solved.

        Args:
            depth: n.
            latents: z_0, (B, C, H, W).
            evaluations: of the network, a step.
        """
        shape = (depth, latents.shape[0])
        once = torch.ones(shape, dtype=torch.int64)

        def unknown(*dimensions: int) -> Tensor:
            return torch.full(dimensions, torch.nan, dtype=latents.dtype)

        return cls(
            residuals=unknown(depth, 1, shape[1]),
            inter=unknown(depth, 1, shape[1]),
            bounds=unknown(depth, 1, shape[1]),
            iterations=once,
            nfe=evaluations * once,
            contraction=unknown(*shape),
            stopped=once.bool(),
            remaining=unknown(*shape),
            converged=torch.zeros_like(once, dtype=torch.bool),
        )

    @property
    def last_residuals(self) -> Tensor:
        """(n, B), the last residual measured at each step; NaN where none was."""
        known = ~self.residuals.isnan()
        last = (known * torch.arange(1, known.shape[1] + 1)[None, :, None]).amax(1) - 1
        values = self.residuals.gather(1, last.clamp(min=0)[:, None])[:, 0]
        return torch.where(last >= 0, values, torch.nan)

    @property
    def worst_residual(self) -> float:
        """The largest last residual of any step and sample; NaN when none was measured."""
        known = self.last_residuals[~self.last_residuals.isnan()]
        return float(known.max()) if known.numel() else float("nan")

    def sample(self, b: int) -> InversionTrace:
        """The trace of sample b alone."""
        return InversionTrace(**{name: each[..., b : b + 1] for name, each in vars(self).items()})

    def to_dict(self) -> dict[str, Any]:
        """The trace as plain lists, ready for JSON; None for what is unknown or infinite."""
        return {name: _plain(tensor.tolist()) for name, tensor in vars(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class InversionResult:
    """An inverted batch: from here it can be reconstructed exactly, or edited any number of times.

    Attributes:
        trajectory: float32 (n + 1, B, C, H, W): z_0 .. z_n. n < N after a partial inversion.
        noise: float32 (n, B, C, H, W): ``noise[i - 1]`` leads from z_{i-1} to z_i, and back. Of a
            flow it is the velocity.
        table: the schedule of all N steps.
        trace: how the solver fared.
        settings: how it was inverted.
        origin: what was inverted, and by which model; None where no pipeline made it.
        attention: what the network's attention layers computed on the way, by name, for
            Prompt-to-Prompt control and for maps; empty when it was not recorded.
        companion: ``trajectory`` and ``noise`` of a second latent, shaped as those of the first;
            empty where the solver has one latent.
        adjustment: (B,), how far the adjustment moved z_0 before it was inverted: the norm of the
            change over that of z_0; None where nothing was moved.
    """

    trajectory: Tensor
    noise: Tensor
    table: StepTable
    trace: InversionTrace
    settings: InversionSettings
    origin: Origin | None = None
    attention: dict[str, Tensor] = field(default_factory=dict)
    companion: dict[str, Tensor] = field(default_factory=dict)
    adjustment: Tensor | None = None

    @property
    def latents(self) -> Tensor:
        """z_n, (B, C, H, W): where denoising starts."""
        return self.trajectory[-1]

    @property
    def latent_size(self) -> tuple[int, int]:
        """(H, W) of the latents."""
        height, width = self.trajectory.shape[-2:]
        return int(height), int(width)

    @property
    def steps(self) -> int:
        """n, the number of steps that were inverted."""
        return self.noise.shape[0]

    def sample(self, b: int) -> InversionResult:
        """Sample b alone, a batch of one; nothing is copied."""
        only = slice(b, b + 1)
        return replace(
            self,
            trajectory=self.trajectory[:, only],
            noise=self.noise[:, only],
            trace=self.trace.sample(b),
            origin=None if self.origin is None else self.origin.sample(b),
            attention={name: rows[only] for name, rows in self.attention.items()},
            companion={name: each[:, only] for name, each in self.companion.items()},
            adjustment=None if self.adjustment is None else self.adjustment[only],
        )

    def require(
        self,
        *,
        photos: tuple[str, ...] | None = None,
        sizes: tuple[tuple[int, int], ...] | None = None,
        prompt: str | None = None,
        model: str | None = None,
        **settings: Any,
    ) -> None:
        """Checks that an inversion is used with what it was made with; None is not checked.

        Args:
            photos, sizes, prompt, model: see ``Origin``.
            settings: fields of ``InversionSettings``.

        Raises:
            InversionMismatchError: something differs; the message names it.
        """
        made: dict[str, Any] = asdict(self.settings)
        wanted: dict[str, Any] = dict(settings)
        if self.origin is not None:
            made |= vars(self.origin)
            wanted |= {"model": model, "sizes": sizes, "photos": photos, "prompt": prompt}
        for name, value in wanted.items():
            if value is not None and made[name] != value:
                raise InversionMismatchError(_mismatch(name, made[name], value))

    def own_prompt(self, named: str | None = None) -> str | None:
        """The prompt that it was made under; ``named`` where it does not know its origin.

        Raises:
            InversionMismatchError: another one is named.
        """
        self.require(prompt=named)
        return named if self.origin is None else self.origin.prompt

    def save(self, path: str | Path, *, attention: bool = False) -> None:
        """Writes one safetensors file that ``load`` reads.

        Args:
            path: of the file; made or replaced.
            attention: write what the attention layers computed as well. It is most of a file, and a
                pipeline records it again, for one network evaluation a step, where it is missing.

        Raises:
            OSError: the file cannot be written.
        """
        with open(path, "wb") as file:
            self.write(file, attention=attention)

    def write(self, file: BinaryIO, *, attention: bool = False) -> None:
        """Writes what ``save`` does to a file that is open; one tensor at a time is copied."""
        tensors = {"trajectory": self.trajectory, "noise": self.noise}
        tensors.update({f"trace.{name}": value for name, value in vars(self.trace).items()})
        if attention:
            tensors.update({f"attention.{name}": each for name, each in self.attention.items()})
        tensors.update({f"companion.{name}": value for name, value in self.companion.items()})
        if self.adjustment is not None:
            tensors["adjustment"] = self.adjustment
        metadata = {
            "format": _FORMAT,
            "table": json.dumps(vars(self.table)),
            "settings": json.dumps(asdict(self.settings)),
            "origin": json.dumps(None if self.origin is None else vars(self.origin)),
        }
        write_tensors(file, tensors, metadata)

    @classmethod
    def load(cls, path: str | Path) -> InversionResult:
        """Reads what ``save`` wrote.

        Raises:
            InversionFileError: the file cannot be read, is no saved inversion, or a broken one.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise InversionFileError(
                f"{path} is not a safetensors file, or it was cut short ({error}): invert the "
                "photo again"
            ) from error
        except OSError as error:
            raise InversionFileError(f"{path} cannot be read: {error}") from error
        if metadata.get("format") in _OLDER_FORMATS:
            raise InversionFileError(
                f"{path} was written by an older version, which did not say of which photo and "
                "model it is: invert the photo again"
            )
        if metadata.get("format") != _FORMAT:
            raise InversionFileError(
                f"{path} is no saved inversion: write one with `dehaze invert`"
            )
        try:
            return _assembled(tensors, metadata)
        except (KeyError, TypeError, ValueError) as error:
            cause = f"no {error.args[0]!r}" if isinstance(error, KeyError) else str(error)
            raise InversionFileError(
                f"{path} is a broken inversion ({cause}): invert the photo again"
            ) from error


def _assembled(tensors: dict[str, Tensor], metadata: dict[str, str]) -> InversionResult:
    """An inversion of a file's contents; ``ValueError`` or its kin where they do not fit."""
    table = json.loads(metadata["table"])
    origin = json.loads(metadata["origin"])
    if origin is not None:
        origin = Origin(
            tuple(origin["photos"]),
            tuple((int(height), int(width)) for height, width in origin["sizes"]),
            str(origin["prompt"]),
            str(origin["model"]),
        )
    found = InversionResult(
        tensors["trajectory"],
        tensors["noise"],
        _table(table),
        InversionTrace(
            **{each.name: tensors[f"trace.{each.name}"] for each in fields(InversionTrace)}
        ),
        InversionSettings(**json.loads(metadata["settings"])),
        origin,
        _under("attention.", tensors),
        _under("companion.", tensors),
        tensors.get("adjustment"),
    )
    _check_shapes(found)
    return found


def _table(fields_of: dict[str, Any]) -> StepTable:
    timesteps = tuple(fields_of["timesteps"])
    if "sigmas" in fields_of:
        return FlowTable(timesteps, tuple(fields_of["sigmas"]))
    return DDIMTable(timesteps, tuple(fields_of["alphas"]), str(fields_of["prediction_type"]))


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _check_shapes(found: InversionResult) -> None:
    trajectory, noise = found.trajectory, found.noise
    if trajectory.ndim != 5 or noise.shape != (trajectory.shape[0] - 1, *trajectory.shape[1:]):
        raise ValueError(
            f"its latents are {tuple(trajectory.shape)} and its noises {tuple(noise.shape)}"
        )
    n, B = noise.shape[:2]
    N = found.table.steps
    if found.table.levels != N + 1 or found.settings.steps != N:
        raise ValueError(f"its table is not of {found.settings.steps} steps")
    if n != found.settings.inverted_steps:
        raise ValueError(f"{n} steps were inverted and not {found.settings.inverted_steps}")
    for name, value in vars(found.trace).items():
        if value.shape[0] != n or value.shape[-1] != B:
            raise ValueError(f"its trace's {name} is {tuple(value.shape)}")
    for name, value in found.attention.items():
        if value.shape[0] != B:
            raise ValueError(f"its attention {name} is of {value.shape[0]} samples")
    if found.companion and {name: each.shape for name, each in found.companion.items()} != {
        "trajectory": trajectory.shape,
        "noise": noise.shape,
    }:
        raise ValueError("its second latent is not shaped as the first")
    for name, value in (("latents", trajectory), ("noises", noise)):
        if not (value.is_floating_point() and bool(torch.isfinite(value).all())):
            raise ValueError(f"its {name} are not finite numbers")


def _mismatch(name: str, made: Any, wanted: Any) -> str:
    if name == "photos":
        return "the inversion is of another photo: invert this one"
    if name == "model":
        return "the inversion was made by another model: use that one, or invert the photo again"
    if name == "sizes":
        sizes = [", ".join(f"{w} x {h}" for h, w in value) for value in (made, wanted)]
        return (
            f"the inversion is of a photo of {sizes[0] or 'no'} pixels and this one has "
            f"{sizes[1]}: it is of another photo"
        )
    return (
        f"the inversion was made with {name} {made!r}, not {wanted!r}: leave that out, or invert "
        "the photo again"
    )
