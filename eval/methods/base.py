"""A method: a hazy picture in, a clear one out."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dehaze.errors import DehazeError

Pixels = NDArray[np.uint8]
Array = NDArray[np.float32]


class MethodError(DehazeError):
    """A method does not exist or cannot start; no single picture is at fault."""


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
        reference: (h, w, 3) float32 RGB in [0, 1], compared with instead of the ground truth, for
            ceilings, which are measured at the model's working size.
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


class Method(ABC):
    """One row of the table.

    Attributes:
        name: the row's label, unique within a run.
        title: what it is, in a few words.
        is_ceiling: whether it is an upper bound of the methods, and no method.
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
        """All that its result depends on, except the picture, the seed and ``files``."""
        return {}

    def files(self, subset: str, name: str, scene: str) -> tuple[Path, ...]:
        """The files, besides the picture's own, that its result for a picture depends on.

        Args:
            subset: the data set's name.
            name: of the picture.
            scene: the id that the picture shares with its ground truth.
        """
        return ()

    @abstractmethod
    def run(self, source: MethodInput) -> MethodOutput:
        """Make a picture.

        Raises:
            ValueError, RuntimeError, OSError: this picture failed.
        """

    def candidates(self, source: MethodInput) -> Iterator[tuple[str, MethodOutput]]:
        """The named results from which an oracle chooses by the ground truth."""
        yield "", self.run(source)
