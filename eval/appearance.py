"""A benchmark of editing with known answers: a word is rendered over a clear photo, then removed.

The same clear photo under another word is the answer to replacing one word by the other.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dehaze.datasets.appearance import APPEARANCES, render_appearance
from dehaze.errors import DehazeError
from dehaze.eval.metrics import psnr_rgb, ssim_wang
from dehaze.inversion import InversionResult
from dehaze.photos import write_bytes
from dehaze.pipelines.dehaze import DehazePipeline
from dehaze.pipelines.edit import EditPipeline, EditSettings
from dehaze.registry import Registry

Array = NDArray[np.float32]

UNTOUCHED = "left alone"
CLEAR_PROMPT = "a photo"
# The share of pixels, those that the rendering changed least, that count as background.
_BACKGROUND = 0.25


class AppearanceError(DehazeError, ValueError):
    """The benchmark cannot be run as asked."""


@dataclass(frozen=True)
class EditMethod:
    """A row of the table.

    Attributes:
        name: the row's label.
        task: "remove" or "replace".
        settings: of the edit.
        weight: of the word, for a row that keeps the prompt; None to change it.
        swap: in place of an edit, the settings of ``DehazePipeline`` under which the word is
            swapped for null text.
    """

    name: str
    task: str
    settings: EditSettings = field(default_factory=EditSettings)
    weight: float | None = None
    swap: Mapping[str, Any] | None = None


def _weighed(weight: float) -> EditMethod:
    every = EditSettings(control="reweight", cross_replace_steps=1.0)
    return EditMethod(f"reweight {weight:g}", "remove", every, weight)


# Of the steps, with the source's attention: the paper's shares, and none. A model's description
# may have others of its own; a row says what it is, whatever the model.
_CONTROLLED = {"cross_replace_steps": 0.8, "self_replace_steps": 0.4}
_FREE = {"cross_replace_steps": 0.0, "self_replace_steps": 0.0}
_GUIDED = EditSettings(control="refine", guidance_scale=1.5)

METHODS: Registry[EditMethod] = Registry("method of editing")
for _method in (
    EditMethod("swap", "remove", swap=_CONTROLLED),
    EditMethod("swap, no control", "remove", swap=_FREE),
    EditMethod("refine", "remove", EditSettings(control="refine")),
    EditMethod(
        "refine, no control",
        "remove",
        EditSettings(control="refine", cross_replace_steps=0.0, self_replace_steps=0.0),
    ),
    _weighed(0.0),
    _weighed(-1.0),
    EditMethod("refine, strength 1.3", "remove", EditSettings(control="refine", strength=1.3)),
    EditMethod(
        "refine, strength 1.3 fresh",
        "remove",
        EditSettings(control="refine", strength=1.3, fresh_source=True),
    ),
    EditMethod("refine, guidance 1.5", "remove", _GUIDED),
    *(
        EditMethod(
            f"refine, guidance 1.5, {mode}",
            "remove",
            EditSettings(control="refine", guidance_scale=1.5, mode=mode),
        )
        for mode in ("null-text", "negative-prompt", "direct")
    ),
    EditMethod("replace", "replace", EditSettings(control="replace")),
):
    METHODS.register(_method.name, _method)


def get_methods(names: Sequence[str]) -> list[EditMethod]:
    """The methods of some names, all of them for none.

    Raises:
        UnknownNameError: a name is unknown; the message lists those there are.
    """
    return [METHODS.get(name) for name in names or METHODS.names()]


@dataclass(frozen=True)
class AppearanceScore:
    """One edit of one photo, or what leaving it alone is worth.

    Attributes:
        word: that was rendered.
        task: "remove" or "replace".
        method: a name of ``METHODS``, or ``UNTOUCHED``.
        photo: number of the photo.
        psnr: of the result against the answer, at the photo's own size, rounded to 8 bits, in dB.
        ssim: likewise, "wang".
        background: PSNR of the result against the photo as it was given, over the quarter of the
            pixels that the rendering changed least, in dB, at most 100.
        nfe: network evaluations of the edit, the inversion not counted.
    """

    word: str
    task: str
    method: str
    photo: int
    psnr: float
    ssim: float
    background: float
    nfe: int


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
    """Renders a word over a photo, inverts it once, and scores every edit.

    Args:
        pipeline: with the model.
        clear: float32 (H, W, 3) in [0, 1].
        word: a name of ``APPEARANCES``, to be removed or replaced.
        other: another one, which takes its place.
        methods: the edits.
        photo: number of the photo, which with ``seed`` decides the renderings.
        seed: of the renderings.
        recovery: how the photo's own size is reached.
    """
    rendered = render_appearance(clear, word, rendering_generator(seed, photo, word))
    answers = {
        "remove": rendered.clear,
        "replace": render_appearance(clear, other, rendering_generator(seed, photo, other)).picture,
    }
    given = rendered.picture
    change = np.abs(given - clear).mean(2)
    background = change <= np.quantile(change, _BACKGROUND)
    inversion = pipeline.invert(given, rendered.prompt)

    def score(name: str, task: str, result: Array, nfe: int) -> AppearanceScore:
        made, answer, before = (_eight_bits(picture) for picture in (result, answers[task], given))
        error = float(np.square(made[background] - before[background]).mean())
        return AppearanceScore(
            word,
            task,
            name,
            photo,
            psnr_rgb(made, answer),
            ssim_wang(made, answer),
            min(100.0, 10.0 * np.log10(255.0**2 / max(error, 1e-12))),
            nfe,
        )

    tasks = dict.fromkeys(method.task for method in methods)
    scores = [score(UNTOUCHED, task, given, 0) for task in tasks]
    for method in methods:
        target = APPEARANCES.get(other).prompt if method.task == "replace" else CLEAR_PROMPT
        result, nfe = apply_method(pipeline, given, inversion, word, target, method, recovery)
        scores.append(score(method.name, method.task, result, nfe))
    return scores


def apply_method(
    pipeline: EditPipeline,
    photo: Array,
    inversion: InversionResult,
    word: str,
    target: str,
    method: EditMethod,
    recovery: str,
) -> tuple[Array, int]:
    """The picture that a method makes of an inverted photo, and its network evaluations."""
    source = APPEARANCES.get(word).prompt
    if method.swap is not None:
        swapped = DehazePipeline.from_pipe(pipeline)(
            photo, source, word, inversion=inversion, recovery=recovery, **method.swap
        )
        return swapped.image, swapped.nfe
    settings = method.settings
    if method.weight is not None:
        target = source
        settings = EditSettings(**(vars(settings) | {"word_weights": {word: method.weight}}))
    elif method.task == "replace":
        # Prompts of different numbers of words have no word for word.
        words = len(source.split()), len(target.split())
        control = "replace" if words[0] == words[1] else "refine"
        settings = EditSettings(**(vars(settings) | {"control": control}))
    result = pipeline(photo, source, target, settings, inversion=inversion, recovery=recovery)
    return result.image, result.nfe


def _eight_bits(picture: Array) -> NDArray[np.float64]:
    return np.round(255.0 * np.clip(picture, 0.0, 1.0)).astype(np.float64)


def rendering_generator(seed: int, photo: int, word: str) -> np.random.Generator:
    """The generator that a word is rendered over a photo with."""
    return np.random.default_rng([seed, photo, APPEARANCES.names().index(word)])


@dataclass(frozen=True)
class AppearanceTable:
    """A finished evaluation.

    Attributes:
        command: that made it.
        photos: how many.
        recovery: how the photos' own size was reached.
        scores: of every photo.
    """

    command: str
    photos: int
    recovery: str
    scores: tuple[AppearanceScore, ...]

    def means(self) -> dict[tuple[str, str, str], dict[str, float]]:
        """Mean psnr, ssim, background, nfe by (task, word, method)."""
        groups: dict[tuple[str, str, str], list[AppearanceScore]] = {}
        for score in self.scores:
            groups.setdefault((score.task, score.word, score.method), []).append(score)
        measures = ("psnr", "ssim", "background", "nfe")
        return {
            key: {name: float(np.mean([getattr(s, name) for s in rows])) for name in measures}
            for key, rows in groups.items()
        }

    def beaten(self, task: str = "remove") -> dict[str, list[str]]:
        """For each method, the words for which it beats leaving the photo alone, in mean PSNR."""
        means = self.means()
        found: dict[str, list[str]] = {}
        for (its_task, word, method), values in means.items():
            if its_task != task or method == UNTOUCHED:
                continue
            words = found.setdefault(method, [])
            if values["psnr"] > means[its_task, word, UNTOUCHED]["psnr"]:
                words.append(word)
        return found

    def markdown(self) -> str:
        """The tables, ready for the terminal and the documentation."""
        means = self.means()
        words = list(dict.fromkeys(score.word for score in self.scores))
        lines = [
            f"{self.photos} photos, each under each word; results at the photos' own size "
            f"({self.recovery}), 8 bits. Each field: PSNR in dB / SSIM against the answer, then "
            "PSNR of the least touched quarter of the pixels against the photo as given.",
        ]
        for task in dict.fromkeys(score.task for score in self.scores):
            methods = list(dict.fromkeys(s.method for s in self.scores if s.task == task))
            lines += ["", f"**{task}**", ""]
            lines.append(f"| method | NFE | {' | '.join(words)} | better than left alone |")
            lines.append(f"| --- | ---: | {' | '.join('---' for _ in words)} | ---: |")
            beaten = self.beaten(task)
            for method in methods:
                rows = [means[task, word, method] for word in words]
                fields = [
                    f"{row['psnr']:.2f} / {row['ssim']:.3f}, {row['background']:.1f}"
                    for row in rows
                ]
                count = f"{len(beaten[method])} of {len(words)}" if method in beaten else ""
                nfe = np.mean([row["nfe"] for row in rows])
                lines.append(f"| {method} | {nfe:.0f} | {' | '.join(fields)} | {count} |")
        return "\n".join([*lines, "", f"`{self.command}`", ""])

    def write(self, folder: Path) -> list[Path]:
        """Writes appearance.json, .csv and .md; returns their paths."""
        buffer = io.StringIO()
        writer = csv.DictWriter(
            buffer, list(AppearanceScore.__dataclass_fields__), lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(asdict(score) for score in self.scores)
        content: Mapping[str, Any] = {
            "command": self.command,
            "photos": self.photos,
            "recovery": self.recovery,
            "means": [
                {"task": task, "word": word, "method": method} | values
                for (task, word, method), values in self.means().items()
            ],
            "beaten": self.beaten(),
        }
        files = {
            "appearance.json": json.dumps(content, indent=1).encode(),
            "appearance.csv": buffer.getvalue().encode(),
            "appearance.md": self.markdown().encode(),
        }
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            write_bytes(folder / name, data)
        return [folder / name for name in files]


def evaluate_appearance(
    pipeline: EditPipeline,
    photos: Sequence[Array],
    *,
    words: Sequence[str],
    methods: Sequence[EditMethod],
    seed: int,
    recovery: str,
    command: str,
    on_photo: Callable[[str, int], None] = lambda word, photo: None,
) -> AppearanceTable:
    """Scores every edit of every photo under every word; the next word is the one to replace by.

    Raises:
        AppearanceError: no word, or no photo.
        UnknownNameError: a word is unknown.
    """
    if not words or not photos:
        raise AppearanceError("no word or no photo to evaluate")
    for word in words:
        APPEARANCES.get(word)
    every = APPEARANCES.names()
    scores: list[AppearanceScore] = []
    for word in words:
        other = every[(every.index(word) + 1) % len(every)]
        for number, clear in enumerate(photos):
            scores += score_photo(
                pipeline, clear, word, other, methods, photo=number, seed=seed, recovery=recovery
            )
            on_photo(word, number)
    return AppearanceTable(command, len(photos), recovery, tuple(scores))
