"""Every edit of every photo under every word, and the table of their means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dehaze.datasets.appearance import APPEARANCES
from dehaze.errors import DehazeError
from dehaze.eval.appearance.methods import REMOVE, EditMethod
from dehaze.eval.appearance.scores import UNTOUCHED, AppearanceScore, score_photo
from dehaze.eval.files import told_left_out, write_table
from dehaze.eval.metrics import GaussianWindow
from dehaze.photos import printable
from dehaze.pipelines.edit import EditPipeline
from dehaze.wording import counted_of

Array = NDArray[np.float32]

_MEASURES = ("psnr", "ssim", "background", "nfe")


class AppearanceError(DehazeError, ValueError):
    """The benchmark cannot be run as asked."""


def check_size(file: Path, photo: Array) -> None:
    """Refuses a photo that cannot be scored.

    Args:
        file: of the photo.
        photo: float32 (H, W, 3).

    Raises:
        AppearanceError: it is smaller than SSIM's window.
    """
    least = GaussianWindow().size
    height, width = photo.shape[:2]
    if min(height, width) < least:
        raise AppearanceError(
            f"{printable(file)}: is {width}x{height} pixels, and SSIM's window takes "
            f"{least}x{least}"
        )


@dataclass(frozen=True)
class AppearanceTable:
    """The scores of many edits.

    Attributes:
        command: the command line that made the table.
        photos: how many photos were edited.
        recovery: how the results reached the photos' own size.
        scores: one for each photo, word and method.
        left_out: one line about each photo that could not be read, or was too small.
    """

    command: str
    photos: int
    recovery: str
    scores: tuple[AppearanceScore, ...]
    left_out: tuple[str, ...] = ()

    def means(self) -> dict[tuple[str, str, str], dict[str, float]]:
        """The means of psnr, ssim, background and nfe over the photos, by (task, word, method)."""
        groups: dict[tuple[str, str, str], list[AppearanceScore]] = {}
        for score in self.scores:
            groups.setdefault((score.task, score.word, score.method), []).append(score)
        return {
            key: {name: float(np.mean([getattr(s, name) for s in rows])) for name in _MEASURES}
            for key, rows in groups.items()
        }

    def beaten(self, task: str = REMOVE) -> dict[str, list[str]]:
        """For each method, the words at which its mean PSNR is above the untouched photo's."""
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
        photos = counted_of(self.photos, self.photos + len(self.left_out), "photo")
        lines = [
            f"{photos}, each under each word; results at the photos' own "
            f"size ({self.recovery}), 8 bits. Each field: PSNR in dB / SSIM against the answer, "
            "then PSNR of the least touched quarter of the pixels against the photo as given.",
        ]
        for task in dict.fromkeys(score.task for score in self.scores):
            lines += ["", f"**{task}**", "", *self._task_lines(task)]
        return "\n".join([*lines, *told_left_out(self.left_out), "", f"`{self.command}`", ""])

    def _task_lines(self, task: str) -> list[str]:
        means, beaten = self.means(), self.beaten(task)
        words = list(dict.fromkeys(score.word for score in self.scores))
        lines = [
            f"| method | evaluations | {' | '.join(words)} | better than left alone |",
            f"| --- | ---: | {' | '.join('---' for _ in words)} | ---: |",
        ]
        for method in dict.fromkeys(score.method for score in self.scores if score.task == task):
            rows = [means[task, word, method] for word in words]
            fields = [
                f"{row['psnr']:.2f} / {row['ssim']:.3f}, {row['background']:.1f}" for row in rows
            ]
            count = f"{len(beaten[method])} of {len(words)}" if method in beaten else ""
            nfe = np.mean([row["nfe"] for row in rows])
            lines.append(f"| {method} | {nfe:.0f} | {' | '.join(fields)} | {count} |")
        return lines

    def write(self, folder: Path) -> list[Path]:
        """Writes appearance.json, .csv and .md; returns their paths."""
        return write_table(
            folder,
            "appearance",
            content={
                "command": self.command,
                "photos": self.photos,
                "left_out": self.left_out,
                "recovery": self.recovery,
                "means": [
                    {"task": task, "word": word, "method": method} | values
                    for (task, word, method), values in self.means().items()
                ],
                "beaten": self.beaten(),
            },
            columns=list(AppearanceScore.__dataclass_fields__),
            rows=[asdict(score) for score in self.scores],
            markdown=self.markdown(),
        )


def evaluate_appearance(
    pipeline: EditPipeline,
    photos: Sequence[Array],
    *,
    words: Sequence[str],
    methods: Sequence[EditMethod],
    seed: int,
    recovery: str,
    command: str,
    left_out: Sequence[str] = (),
    on_photo: Callable[[str, int], None] = lambda word, photo: None,
) -> AppearanceTable:
    """Scores every edit of every photo under every word.

    A word is replaced by the next one in ``APPEARANCES``, the last by the first.

    Args:
        pipeline: with the model.
        photos: clear photos, float32 (H, W, 3) in [0, 1].
        words: names of ``APPEARANCES``.
        methods: the edits.
        seed: of the renderings.
        recovery: how a result reaches the photo's own size.
        command: the command line, for the table.
        left_out: one line about each photo that could not be read, for the table.
        on_photo: called with the word and the photo's number when all edits of one are scored.

    Raises:
        AppearanceError: there is no word, or no photo.
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
    return AppearanceTable(command, len(photos), recovery, tuple(scores), tuple(left_out))
