"""The table of concepts: accuracy of each method's pictures, and distance from photos."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isnan
from pathlib import Path

from dehaze.eval.files import finite, told_left_out, write_table

# Here and not among the methods, since the photos are a row without a method.
PHOTOS = "the photos themselves"


@dataclass(frozen=True)
class ConceptScore:
    """A row of the table.

    Attributes:
        method: of ``SEED_METHODS``, or ``PHOTOS``.
        solver: that the photos were inverted by; empty where they were not.
        pictures: how many were scored, of all classes.
        accuracy: share of them whose likeliest label is their class's, 0 to 1.
        frechet: the distance of their features from the photos', NaN for the photos and where there
            is no covariance.
        seconds: time to make one picture, without the inversions; NaN for the photos.
        inverting: seconds that a class's inversions take; NaN where there are none.
        caveat: what a reader of the distance must know, or None.
    """

    method: str
    solver: str
    pictures: int
    accuracy: float
    frechet: float
    seconds: float
    inverting: float
    caveat: str | None

    @property
    def name(self) -> str:
        """The method, with the solver where there is one."""
        return f"{self.method}, {self.solver}" if self.solver else self.method


@dataclass(frozen=True)
class ConceptsTable:
    """The scores of many methods.

    Attributes:
        command: the command line that made the table.
        classes: their names.
        inverted: how many photos of a class the methods saw: the fewest, and the most.
        prompt: with {} for the class's name.
        guidance_scale: classifier-free guidance g, of the pictures.
        classifier: its name, and how many labels it has.
        features: what the distance is of, in words, and how many numbers they are.
        scores: the rows.
        left_out: one line about each photo that could not be read.
    """

    command: str
    classes: tuple[str, ...]
    inverted: tuple[int, int]
    prompt: str
    guidance_scale: float
    classifier: tuple[str, int]
    features: tuple[str, int]
    scores: tuple[ConceptScore, ...]
    left_out: tuple[str, ...] = ()

    def markdown(self) -> str:
        """The table, ready for the terminal and the documentation."""
        named, labels = self.classifier
        features, size = self.features
        fewest, most = self.inverted
        inverted = str(most) if fewest == most else f"{fewest} to {most}"
        lines = [
            f"{len(self.classes)} classes ({', '.join(self.classes)}), {inverted} photos of each "
            f"inverted; prompt {self.prompt!r}, guidance {self.guidance_scale:g}.",
            f"Accuracy: {named} names the class first, of {labels} labels. Fréchet distance: of "
            f"{size} features ({features}) from those of all photos at the model's size; FID where "
            "they are Inception's.",
            "",
            "| method | inversion | pictures | accuracy (%) | Fréchet distance "
            "| s a class, inverting | s a picture |",
            "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
        ]
        lines += [
            f"| {score.method} | {score.solver} | {score.pictures} "
            f"| {100.0 * score.accuracy:.1f} | {_shown(score.frechet)} "
            f"| {_shown(score.inverting)} | {_shown(score.seconds)} |"
            for score in self.scores
        ]
        told: dict[str, list[str]] = {}
        for score in self.scores:
            if score.caveat:
                told.setdefault(score.caveat, []).append(score.name)
        caveats = [f"- {'; '.join(names)}: {caveat}" for caveat, names in told.items()]
        lines += ["", *caveats] if caveats else []
        lines += told_left_out(self.left_out)
        return "\n".join([*lines, "", f"`{self.command}`", ""])

    def write(self, folder: Path) -> list[Path]:
        """Writes concepts.json, .csv and .md; returns their paths.

        Raises:
            PhotoError: a file cannot be written.
        """
        rows = [finite(asdict(score)) for score in self.scores]
        return write_table(
            folder,
            "concepts",
            content=asdict(self),
            columns=list(rows[0]),
            rows=rows,
            markdown=self.markdown(),
        )


def _shown(value: float) -> str:
    return "" if isnan(value) else f"{value:.2f}"
