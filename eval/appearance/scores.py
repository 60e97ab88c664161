"""One photo under one word, edited by every method and compared with the known answer.

A word's appearance is rendered over a clear photo. The clear photo is the answer to removing the
word; the same photo under another word is the answer to replacing it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dehaze.datasets.appearance import APPEARANCES, render_appearance
from dehaze.eval.appearance.methods import REMOVE, REPLACE, EditMethod, apply_method
from dehaze.eval.metrics import mean_squared_error, psnr_rgb, ssim_wang
from dehaze.levels import to_levels
from dehaze.pipelines.edit import EditPipeline

Array = NDArray[np.float32]
Levels = NDArray[np.float64]

UNTOUCHED = "left alone"
"""The row of the rendered photo itself, without an edit."""

CLEAR_PROMPT = "a photo"

# The background is the share of the pixels that the rendering changed least.
_BACKGROUND_SHARE = 0.25
# PSNR, in dB, for a background without any error, where it would be infinite.
_HIGHEST_PSNR = 100.0


@dataclass(frozen=True)
class AppearanceScore:
    """One edit of one photo.

    Attributes:
        word: whose appearance was rendered over the photo.
        task: "remove" or "replace".
        method: a name of ``METHODS``, or ``UNTOUCHED``.
        photo: the photo's number, from 0.
        psnr: of the result against the answer, in dB; both in 8 bits, at the photo's own size.
        ssim: of the same two pictures, by ``ssim_wang``.
        background: PSNR of the result against the rendered photo in dB, at most 100, over the
            quarter of the pixels that the rendering changed least.
        nfe: network evaluations of the edit; those of the inversion are not counted.
    """

    word: str
    task: str
    method: str
    photo: int
    psnr: float
    ssim: float
    background: float
    nfe: int


@dataclass(frozen=True)
class _Case:
    """A rendered photo and its answers, which every edit of it is compared with.

    Attributes:
        word: whose appearance was rendered.
        photo: the photo's number.
        given: the rendered photo, float64 (H, W, 3) in [0, 255], rounded.
        answers: for each task the right result, likewise.
        background: bool (H, W), the pixels that the rendering changed least.
    """

    word: str
    photo: int
    given: Levels
    answers: dict[str, Levels]
    background: NDArray[np.bool_]

    def score(self, method: str, task: str, result: Array, nfe: int) -> AppearanceScore:
        """The score of a result, float32 (H, W, 3) in [0, 1]."""
        made, answer = _levels(result), self.answers[task]
        error = mean_squared_error(made[self.background], self.given[self.background])
        background = 10.0 * np.log10(255.0**2 / max(error, 1e-12))
        return AppearanceScore(
            self.word,
            task,
            method,
            self.photo,
            psnr_rgb(made, answer),
            ssim_wang(made, answer),
            min(_HIGHEST_PSNR, float(background)),
            nfe,
        )


def score_photo(
    pipeline: EditPipeline,
    clear: Array,
    word: str,
    other: str,
    methods: Sequence[EditMethod],
    *,
    photo: int,
    seed: int,
    recovery: str,
) -> list[AppearanceScore]:
    """Renders a word over a photo, inverts the result once, and scores every edit of it.

    Args:
        pipeline: with the model.
        clear: float32 (H, W, 3) in [0, 1].
        word: a name of ``APPEARANCES``, to be removed or replaced.
        other: another name, which takes its place.
        methods: the edits.
        photo: the photo's number. It decides the rendering, together with ``seed``.
        seed: of the renderings.
        recovery: how a result reaches the photo's own size.
    """
    given = render_appearance(clear, word, rendering_generator(seed, photo, word))
    replaced = render_appearance(clear, other, rendering_generator(seed, photo, other))
    change = np.abs(given.picture - clear).mean(2)
    case = _Case(
        word,
        photo,
        _levels(given.picture),
        {REMOVE: _levels(clear), REPLACE: _levels(replaced.picture)},
        change <= np.quantile(change, _BACKGROUND_SHARE),
    )
    inversion = pipeline.invert(given.picture, given.prompt)
    tasks = dict.fromkeys(method.task for method in methods)
    scores = [case.score(UNTOUCHED, task, given.picture, 0) for task in tasks]
    for method in methods:
        target = replaced.prompt if method.task == REPLACE else CLEAR_PROMPT
        result, nfe = apply_method(
            pipeline, given.picture, inversion, word, target, method, recovery
        )
        scores.append(case.score(method.name, method.task, result, nfe))
    return scores


def rendering_generator(seed: int, photo: int, word: str) -> np.random.Generator:
    """The generator of a word's rendering: the same numbers give the same rendering."""
    return np.random.default_rng([seed, photo, APPEARANCES.names().index(word)])


def _levels(picture: Array) -> Levels:
    """A picture in [0, 1] as the 256 levels of an 8-bit file, float64 in [0, 255]."""
    return to_levels(picture).astype(np.float64)
