"""An inversion: its latents and noises, what was inverted and how, in memory or in a file."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dehaze.errors import DehazeError
from dehaze.inversion.ddim import DDIMTable
from dehaze.inversion.flow import FlowTable
from dehaze.inversion.schedule import StepTable
from dehaze.inversion.settings import InversionSettings
from dehaze.inversion.tensor_file import write_tensors
from dehaze.inversion.trace import InversionTrace

_FORMAT = "dehaze-inversion-3"
_OLDER_FORMATS = ("dehaze-inversion-1", "dehaze-inversion-2")


class InversionFileError(DehazeError, ValueError):
    """A file is no saved inversion, or a broken one."""


class InversionMismatchError(DehazeError, ValueError):
    """An inversion is used with another photo, prompt, model or setting than it was made with."""


@dataclass(frozen=True)
class Origin:
    """The origin of an inversion: photos, prompt and model.

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
        """The origin of sample b alone."""
        return replace(self, photos=self.photos[b : b + 1], sizes=self.sizes[b : b + 1])


@dataclass(frozen=True)
class InversionResult:
    """An inverted batch, ready to be reconstructed exactly, or edited any number of times.

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
        adjustment: (B,), the norm of the adjustment's change of z_0 over the norm of z_0; None
            without an adjustment.
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

    @classmethod
    def checked(cls, value: InversionResult) -> InversionResult:
        """The value, if it is an inversion.

        Raises:
            InversionMismatchError: it is no inversion.
        """
        if not isinstance(value, cls):
            raise InversionMismatchError(
                f"inversion is {value!r:.80}: it must be what invert or InversionResult.load "
                "returned"
            )
        return value

    def require(
        self,
        *,
        photos: tuple[str, ...] | None = None,
        sizes: tuple[tuple[int, int], ...] | None = None,
        prompt: str | None = None,
        model: str | None = None,
        **settings: Any,
    ) -> None:
        """Checks that an inversion was made with these values; None is not checked.

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
        """The prompt that it was made under, or ``named`` where its origin is unknown.

        Raises:
            InversionMismatchError: another one is named.
        """
        self.require(prompt=named)
        return named if self.origin is None else self.origin.prompt

    def save(self, path: str | Path, *, attention: bool = False) -> None:
        """Writes one safetensors file that ``load`` reads.

        Args:
            path: of the file; made, or replaced once the new one is whole.
            attention: write what the attention layers computed as well. It is most of a file, and a
                pipeline records it again, for one network evaluation a step, where it is missing.

        Raises:
            OSError: the file cannot be written.
        """
        path = Path(path)
        temporary = path.with_name(f".{secrets.token_hex(8)}.part")
        try:
            with open(temporary, "xb") as file:
                self.write(file, attention=attention)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

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
                # Copied, since what the file gives changes with the file.
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
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
        except (IndexError, KeyError, TypeError, ValueError) as error:
            cause = f"no {error.args[0]!r}" if isinstance(error, KeyError) else str(error)
            raise InversionFileError(
                f"{path} is a broken inversion ({cause}): invert the photo again"
            ) from error


def _assembled(tensors: dict[str, Tensor], metadata: dict[str, str]) -> InversionResult:
    """The inversion that a file holds; raises ``ValueError`` or its kin if it does not fit."""
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
