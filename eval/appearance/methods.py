"""The ways to edit an appearance, which are the rows of the benchmark's table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dehaze.datasets.appearance import APPEARANCES
from dehaze.inversion import InversionResult
from dehaze.pipelines.dehaze import DehazePipeline
from dehaze.pipelines.edit import EditPipeline
from dehaze.pipelines.edit_settings import EditSettings
from dehaze.registry import Registry

Array = NDArray[np.float32]

REMOVE, REPLACE = "remove", "replace"
"""The two tasks: remove a word's appearance, or replace it by another word's."""


@dataclass(frozen=True)
class EditMethod:
    """A row of the table.

    Attributes:
        name: the row's label.
        task: ``REMOVE`` or ``REPLACE``.
        settings: of the edit.
        weight: for a row that keeps the prompt: the factor of attention to the word.
        swap: for a row that swaps the word for null text: the settings of ``DehazePipeline``. The
            row then makes no edit, and ``settings`` and ``weight`` play no part.
    """

    name: str
    task: str
    settings: EditSettings = field(default_factory=EditSettings)
    weight: float | None = None
    swap: Mapping[str, Any] | None = None


# Shares of the steps that follow the source's attention: the paper's, and none. Every model gets
# them, whatever its own description says.
_CONTROLLED = {"cross_replace_steps": 0.8, "self_replace_steps": 0.4}
_FREE = {"cross_replace_steps": 0.0, "self_replace_steps": 0.0}


def _refined(name: str, **settings: Any) -> EditMethod:
    return EditMethod(name, REMOVE, EditSettings(control="refine", **settings))


def _reweighted(weight: float) -> EditMethod:
    settings = EditSettings(control="reweight", cross_replace_steps=1.0)
    return EditMethod(f"reweight {weight:g}", REMOVE, settings, weight)


METHODS: Registry[EditMethod] = Registry("method of editing")
for _method in (
    EditMethod("swap", REMOVE, swap=_CONTROLLED),
    EditMethod("swap, no control", REMOVE, swap=_FREE),
    _refined("refine"),
    _refined("refine, no control", **_FREE),
    _reweighted(0.0),
    _reweighted(-1.0),
    _refined("refine, strength 1.3", strength=1.3),
    _refined("refine, strength 1.3 fresh", strength=1.3, fresh_source=True),
    _refined("refine, guidance 1.5", guidance_scale=1.5),
    *(
        _refined(f"refine, guidance 1.5, {mode}", guidance_scale=1.5, mode=mode)
        for mode in ("null-text", "negative-prompt", "direct")
    ),
    EditMethod("replace", REPLACE, EditSettings(control="replace")),
):
    METHODS.register(_method.name, _method)


def get_methods(names: Sequence[str]) -> list[EditMethod]:
    """The methods of these names; all methods where no name is given.

    Raises:
        UnknownNameError: a name is unknown; the message lists those there are.
    """
    return [METHODS.get(name) for name in names or METHODS.names()]


def apply_method(
    pipeline: EditPipeline,
    photo: Array,
    inversion: InversionResult,
    word: str,
    target: str,
    method: EditMethod,
    recovery: str,
) -> tuple[Array, int]:
    """Edits an inverted photo by one method.

    Args:
        pipeline: that inverted the photo.
        photo: float32 (H, W, 3) in [0, 1].
        inversion: of the photo, under the word's prompt.
        word: a name of ``APPEARANCES``: what the photo shows.
        target: the prompt of what it shall show.
        method: how.
        recovery: how the result reaches the photo's own size.

    Returns:
        the edited photo, float32 (H, W, 3) in [0, 1], and the number of network evaluations.
    """
    source = APPEARANCES.get(word).prompt
    if method.swap is not None:
        swapped = DehazePipeline.from_pipe(pipeline)(
            photo, source, word, inversion=inversion, recovery=recovery, **method.swap
        )
        return swapped.image, swapped.nfe
    settings = method.settings
    if method.weight is not None:
        target = source
        settings = replace(settings, word_weights={word: method.weight})
    elif method.task == REPLACE and len(source.split()) != len(target.split()):
        # "replace" pairs the prompts word by word: they must have as many words.
        settings = replace(settings, control="refine")
    result = pipeline(photo, source, target, settings, inversion=inversion, recovery=recovery)
    return result.image, result.nfe
