"""Makes pictures of every class by every method, and has a classifier judge them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dehaze import __version__
from dehaze.eval.concepts.classifier import Answer, Classifier, class_labels
from dehaze.eval.concepts.frechet import frechet_caveat, frechet_distance
from dehaze.eval.concepts.kept import Made, find_kept, keep
from dehaze.eval.concepts.methods import SEED_METHODS, Array, Concept
from dehaze.eval.concepts.table import PHOTOS, ConceptScore, ConceptsTable
from dehaze.eval.records import digest_of_evaluation
from dehaze.levels import to_levels
from dehaze.models.clip import ClipImageEncoder
from dehaze.models.hashes import weights_fingerprint
from dehaze.photos import read_photo
from dehaze.pipelines.pictures import cut_like, photo_hash
from dehaze.pipelines.seedselect import SeedSelectPipeline


@dataclass
class _Row:
    """What is gathered of a row, class by class."""

    answers: list[tuple[int, Answer]] = field(default_factory=list)
    features: list[NDArray[np.float64]] = field(default_factory=list)
    seconds: float = 0.0
    inverting: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class ConceptEvaluation:
    """The evaluation: classes, pictures of each, and the judges.

    Attributes:
        pipeline: with the model.
        classes: the photos' files by the class's name, two or more of each.
        classifier: with labels, each class's name among them.
        features: what the distance is of; the classifier itself when None.
        methods: of ``SEED_METHODS``.
        solvers: of the inversions, each a row of every method that inverts.
        image_encoder: of CLIP; only for methods that fit.
        inverted: the most photos of a class that are inverted, evenly spread; at least 2.
        pictures: how many are made for each class and method.
        prompt: with {} for the class's name, or the same for all classes.
        guidance_scale: classifier-free guidance g, of the pictures.
        steps: N, DDIM steps; the model's own when None.
        seed: of the noise.
        left_out: one line about each photo that could not be read, for the table.
    """

    pipeline: SeedSelectPipeline
    classes: dict[str, Sequence[Path]]
    classifier: Classifier
    features: Classifier | None
    methods: Sequence[str]
    solvers: Sequence[str]
    image_encoder: ClipImageEncoder | None
    inverted: int
    pictures: int
    prompt: str
    guidance_scale: float
    steps: int | None
    seed: int
    left_out: Sequence[str] = ()

    def run(
        self,
        folder: Path,
        command: str,
        *,
        resume: bool = True,
        on_class: Callable[[str], object] = lambda name: None,
    ) -> ConceptsTable:
        """Makes, saves and judges all pictures.

        Args:
            folder: that the pictures are saved in, ``pictures/ROW/CLASS/00.png`` and so on.
            command: the command line, for the table.
            resume: whether pictures that an earlier run made under the same settings are kept.
            on_class: called with a class's name once it is done.

        Raises:
            ClassifierError: a class is none of the classifier's, or the classifier fails.
            WordError: a prompt is too long, or the model never learned one of its words.
            PhotoError: a photo cannot be read, or a picture not written.
            ValueError: a setting is out of range.
            NonFiniteError, SeedSelectError: the network or a gradient is not finite.
        """
        labels = class_labels(self.classifier.labels, self.classes)
        for name in self.classes:
            self.pipeline.prompts.tokens(self.prompt.replace("{}", name))
        rows: dict[tuple[str, str], _Row] = {(PHOTOS, ""): _Row()}
        for name, files in self.classes.items():
            first = read_photo(files[0]).pixels
            size = first.shape[0], first.shape[1]
            for file in files:
                photo = cut_like(read_photo(file).pixels, size)
                self._judge(rows[PHOTOS, ""], labels[name], self.pipeline.codec.reduced(photo))
            for key, made in self._made(name, files, size, folder / "pictures", resume):
                row = rows.setdefault(key, _Row())
                row.seconds += made.seconds
                row.inverting += [] if made.inverting is None else [made.inverting]
                for picture in made.pictures:
                    self._judge(row, labels[name], picture)
            on_class(name)
        reference = np.stack(rows[PHOTOS, ""].features)
        judged = self.features or self.classifier
        inverted = [min(self.inverted, len(files)) for files in self.classes.values()]
        return ConceptsTable(
            command,
            tuple(self.classes),
            (min(inverted), max(inverted)),
            self.prompt,
            self.guidance_scale,
            (self.classifier.name, len(self.classifier.labels)),
            (judged.features, reference.shape[1]),
            tuple(_score(*key, row, reference) for key, row in rows.items()),
            tuple(self.left_out),
        )

    def _made(
        self,
        name: str,
        files: Sequence[Path],
        size: tuple[int, int],
        folder: Path,
        resume: bool,
    ) -> Iterator[tuple[tuple[str, str], Made]]:
        """The pictures of a class by every method, kept or new, with the method and its solver."""
        places = np.linspace(0, len(files) - 1, min(self.inverted, len(files))).round().astype(int)
        photos = [cut_like(read_photo(files[place]).pixels, size) for place in places]
        concept = Concept(
            self.pipeline, photos, (), self.prompt.replace("{}", name), self.pictures,
            self.guidance_scale, self.steps, self.seed, self.image_encoder,
        )  # fmt: skip
        for method, solver in self._rows():
            row_name = f"{method}-{solver}" if solver else method
            place = folder / row_name / name.replace(" ", "_")
            settings = self._settings(concept, method, solver)
            made = find_kept(place, settings) if resume else None
            if made is None:
                inverting = None
                if solver:
                    concept, inverting = self._inverted(concept, solver)
                started = time.perf_counter()
                pictures = SEED_METHODS.get(method).paint(concept)
                made = Made(pictures, time.perf_counter() - started, inverting)
                keep(place, settings, made)
            yield (method, solver), made

    def _rows(self) -> Iterator[tuple[str, str]]:
        """Each method with each solver, or with none, grouped by solver."""
        for solver in ("", *self.solvers):
            for method in self.methods:
                if SEED_METHODS.get(method).inverts is bool(solver):
                    yield method, solver

    def _inverted(self, concept: Concept, solver: str) -> tuple[Concept, float]:
        """A class with the inversions of its photos, and the seconds that these took."""
        known = concept.inversions
        if known and known[0].settings.solver == solver:
            return concept, concept.inverting
        started = time.perf_counter()
        inversions = [
            self.pipeline.invert(
                photo,
                concept.prompt,
                record_attention=False,
                num_inference_steps=self.steps,
                solver=solver,
            )
            for photo in concept.photos
        ]
        seconds = time.perf_counter() - started
        return replace(concept, inversions=inversions, inverting=seconds), seconds

    def _settings(self, concept: Concept, method: str, solver: str) -> dict[str, Any]:
        """All that the pictures of a class by a method depend on."""
        encoder = self.image_encoder if SEED_METHODS.get(method).fits else None
        return {
            "version": __version__,
            "code": digest_of_evaluation(),
            "model": self._model,
            "scheduler": repr(sorted(self.pipeline.scheduler.config.items())),
            "description": repr(self.pipeline.description.settings()),
            "clip": None if encoder is None else self._clip,
            "photos": [photo_hash(photo) for photo in concept.photos],
            "prompt": concept.prompt,
            "method": method,
            "solver": solver,
            "pictures": self.pictures,
            "guidance_scale": self.guidance_scale,
            "steps": self.steps,
            "seed": None if solver else self.seed,
        }

    @cached_property
    def _model(self) -> str:
        """The model's fingerprint."""
        return self.pipeline.provenance.fingerprint()

    @cached_property
    def _clip(self) -> str:
        """CLIP's fingerprint, and how it sees pictures."""
        encoder = self.image_encoder
        if encoder is None:
            return ""
        seen = (encoder.side, encoder.mean, encoder.deviation)
        return f"{weights_fingerprint((encoder.vision, encoder.projection))} {seen}"

    def _judge(self, row: _Row, label: int, picture: Array) -> None:
        """Adds a picture to a row, rounded as its saved file is."""
        eight = to_levels(picture)
        answer = self.classifier(eight)
        row.answers.append((label, answer))
        row.features.append(
            answer.features if self.features is None else self.features(eight).features
        )


def _score(method: str, solver: str, row: _Row, reference: NDArray[np.float64]) -> ConceptScore:
    right = [answer.label == label for label, answer in row.answers]
    features = np.stack(row.features)
    made = method != PHOTOS
    return ConceptScore(
        method,
        solver,
        len(right),
        sum(right) / len(right),
        frechet_distance(features, reference) if made else nan,
        row.seconds / len(right) if made else nan,
        float(np.mean(row.inverting)) if row.inverting else nan,
        frechet_caveat(len(features), len(reference), reference.shape[1]) if made else None,
    )
