"""Runs methods over data sets, image by image, and can be interrupted at any of them.

Each image under each method has one record, a JSON file that is written whole or not at all. Tables
are made from records alone. A second run reads the valid records and computes the others, so that
an interrupted evaluation ends with the same table.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dehaze.datasets import Dataset, LoadedSample, Sample
from dehaze.datasets.pairing import RECORDS_FOLDER, SETTINGS_FILE
from dehaze.digests import digest_of_file, digest_of_json, is_whole
from dehaze.errors import DehazeError, one_line, reason
from dehaze.eval.methods import Method, MethodInput, PipelineMethod, PipelineOptions
from dehaze.eval.metrics import import_colour
from dehaze.eval.perceptual import PerceptualMetric
from dehaze.eval.protocol import BenchProtocol
from dehaze.eval.records import (
    Evaluation,
    Record,
    digest_of_evaluation,
    row_of,
    versions,
)
from dehaze.eval.scoring import Scorer
from dehaze.photos import write_bytes

logger = logging.getLogger(__name__)

RESULT_NAMES = ("table.md", "table.tex", "scores.csv", "results.json", "sheet.png")
"""The files of a finished evaluation, which ``dehaze.eval.results`` writes."""

_OTHER_FOLDER = "name another folder with --output"

# Errors that a single image may cause; the run continues. Other errors end it.
_IMAGE_ERRORS = (ValueError, RuntimeError, OSError, ArithmeticError, MemoryError, cv2.error)


class EvaluationError(DehazeError, ValueError):
    """An evaluation that cannot start: the message says why and what helps."""


@dataclass(frozen=True)
class EvaluationSet:
    """A data set and the part of it that is scored."""

    dataset: Dataset
    samples: tuple[Sample, ...]

    @property
    def name(self) -> str:
        """The data set's name."""
        return self.dataset.name


@dataclass(frozen=True)
class Runner:
    """The plan of an evaluation.

    Attributes:
        sets: the data sets, and the samples of each that are scored.
        methods: the rows, in order.
        protocol: how pictures are scored.
        out: the folder of the run.
        seed: decides the random choices, with the names of the data set and the image.
        command: the command line, for the result file.
        perceptual: loaded metrics of ``protocol.perceptual``.
        overwrite: score everything anew, whatever is there and under whichever settings.
        keeps_attention: also keep each method's haze attention map, see ``attention_path``.
        further_files: names of the files that the caller writes into ``out``, beside
            ``RESULT_NAMES``.
    """

    sets: tuple[EvaluationSet, ...]
    methods: tuple[Method, ...]
    protocol: BenchProtocol
    out: Path
    seed: int = 0
    command: str = ""
    perceptual: tuple[PerceptualMetric, ...] = ()
    overwrite: bool = False
    keeps_attention: bool = False
    further_files: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """How many records the run will have: one an image and method."""
        return sum(len(part.samples) for part in self.sets) * len(self.methods)

    def run(
        self, on_record: Callable[[Record, bool], object] = lambda record, kept: None
    ) -> Evaluation:
        """Score what has no valid record yet, and return everything.

        Args:
            on_record: called with each record as soon as it is there, and whether it is an earlier
                run's.

        Raises:
            EvaluationError: two rows share a label, an oracle is asked for where there is no
                ground truth or where a row has a strength of its own, or the folder holds a run
                under other settings or files that no run made.
            MethodError: a model does not load.
        """
        self._check()
        self._settle_settings()
        records: list[Record] = []
        for part in self.sets:
            for sample in part.samples:
                for record, kept in self._score_sample(part, sample):
                    records.append(record)
                    on_record(record, kept)
        return Evaluation(
            rows=tuple(
                row_of(part.name, method, records, is_oracle=self.scorer.is_oracle(method))
                for part in self.sets
                for method in self.methods
            ),
            records=tuple(records),
            unusable=tuple(
                oddity.message for part in self.sets for oddity in part.dataset.failures
            ),
        )

    def image_path(self, subset: str, method: Method, image: str) -> Path | None:
        """Where a method's picture lies, or None for a method that saves none."""
        if not method.saves:
            return None
        return self._folder("images", subset, method) / f"{image}.png"

    def attention_path(self, subset: str, method: Method, image: str) -> Path:
        """Where a method's haze attention map lies, float32 (H, W), if it is kept."""
        return self._folder("attention", subset, method) / f"{image}.npy"

    def _record_path(self, subset: str, method: Method, image: str) -> Path:
        # Appended, since a name may hold dots ("0001_0.8_0.2").
        return self._folder(RECORDS_FOLDER, subset, method) / f"{image}.json"

    def _folder(self, kind: str, subset: str, method: Method) -> Path:
        return self.out / kind / subset / method.slug

    @cached_property
    def scorer(self) -> Scorer:
        """Scores results under this run's protocol."""
        return Scorer(self.protocol, self.perceptual)

    # --- settings -----------------------------------------------------------------------------

    def _check(self) -> None:
        slugs = [method.slug for method in self.methods]
        twice = {slug for slug in slugs if slugs.count(slug) > 1}
        if twice:
            raise EvaluationError(f"two methods share the name {', '.join(sorted(twice))}")
        names = [part.name for part in self.sets]
        if len(set(names)) < len(names):
            raise EvaluationError(f"a data set is listed twice: {', '.join(names)}")
        if self.protocol.oracle and not all(part.dataset.paired for part in self.sets):
            raise EvaluationError("an oracle needs ground truth, and a data set has none")
        for method in self.methods:
            if self.protocol.oracle and isinstance(method, PipelineMethod):
                _refuse_strength(method)
        # Scores that cannot be computed are found before the first picture.
        import_colour()

    def _common_settings(self) -> dict[str, Any]:
        return {
            "protocol": self.protocol.settings(),
            "seed": self.seed,
            "versions": versions(),
            "code": digest_of_evaluation()[:12],
        }

    @cached_property
    def _keys(self) -> dict[str, str]:
        common = self._common_settings()
        return {method.name: digest_of_json([common, method.settings()]) for method in self.methods}

    def _settle_settings(self) -> None:
        """Refuse to mix two runs in one folder, or note the settings of this one."""
        wanted: dict[str, Any] = {
            "common": self._common_settings(),
            "methods": {method.slug: method.settings() for method in self.methods},
        }
        # Through JSON, so that tuples compare equal to lists that were read.
        wanted = json.loads(json.dumps(wanted))
        present = self._present_settings()
        if present is None:
            self._refuse_foreign_files()
        elif not self.overwrite:
            others = {
                slug: settings
                for slug, settings in present["methods"].items()
                if slug not in wanted["methods"]
            }
            differences = list(_differences(present["common"], wanted["common"]))
            for slug, settings in wanted["methods"].items():
                known = present["methods"].get(slug, settings)
                differences += _differences(known, settings, f"{slug}.")
            if differences:
                raise EvaluationError(
                    f"{self.out} holds a run under other settings ({'; '.join(differences)}): "
                    "choose another folder with --output, or replace that run with --overwrite"
                )
            wanted["methods"].update(others)
        self.out.mkdir(parents=True, exist_ok=True)
        write_bytes(self._settings_path, _to_json(wanted))

    @property
    def _settings_path(self) -> Path:
        return self.out / SETTINGS_FILE

    def _present_settings(self) -> dict[str, Any] | None:
        """The settings of the run that the folder holds, or None where it holds no run.

        Raises:
            EvaluationError: there is a file of that name, and no run wrote it.
        """
        path = self._settings_path
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise EvaluationError(
                f"{path}: cannot be read as settings ({reason(error)}); {_OTHER_FOLDER}"
            ) from error
        if not isinstance(content, dict) or not all(
            isinstance(content.get(name), dict) for name in ("common", "methods")
        ):
            raise EvaluationError(f"{path}: was not made by an evaluation; {_OTHER_FOLDER}")
        return content

    def _refuse_foreign_files(self) -> None:
        """Refuse a folder without a run where this run would replace something."""
        for path in self._written():
            # A link to nothing would be replaced as well.
            if os.path.lexists(path):
                raise EvaluationError(
                    f"{path}: exists and was not made by an evaluation; {_OTHER_FOLDER}"
                )

    def _written(self) -> Iterator[Path]:
        """The files and folders that the run writes, apart from its settings."""
        for name in (*RESULT_NAMES, *self.further_files):
            yield self.out / name
        for part in self.sets:
            for method in self.methods:
                yield self._folder(RECORDS_FOLDER, part.name, method)
                if method.saves:
                    yield self._folder("images", part.name, method)
                if method.saves and self.keeps_attention:
                    yield self._folder("attention", part.name, method)

    # --- one image ----------------------------------------------------------------------------

    def _score_sample(self, part: EvaluationSet, sample: Sample) -> Iterator[tuple[Record, bool]]:
        """The record of each method, and whether it is an earlier run's."""
        own = _digest_files([sample.hazy, sample.clear, sample.transmission])
        loaded: LoadedSample | None = None
        error: str | None = None
        for method in self.methods:
            others = method.files(part.name, sample.name, sample.scene)
            inputs = digest_of_json([own, _digest_files(others)]) if others else own
            record = None if self.overwrite else self._valid_record(part, sample, method, inputs)
            kept = record is not None
            if record is None:
                if loaded is None and error is None:
                    try:
                        loaded = self.scorer.fit(sample.load())
                    except _IMAGE_ERRORS as caught:
                        error = one_line(caught)
                record = self._new_record(part, sample, method, inputs, loaded, error)
            yield record, kept

    def _valid_record(
        self, part: EvaluationSet, sample: Sample, method: Method, inputs: str
    ) -> Record | None:
        """The record of an earlier run, if it succeeded and its files are as they were written."""
        content = _read_json(self._record_path(part.name, method, sample.name))
        if content is None or content.get("error") is not None:
            return None
        identity = self._identity(part, sample, method, inputs)
        if any(content.get(name) != value for name, value in identity.items()):
            return None
        files = content.get("files", {})
        if set(self._kept(part, sample, method)) - set(files) or not is_whole(self.out, files):
            return None
        return Record(**{**content, "notes": tuple(content["notes"])})

    def _identity(
        self, part: EvaluationSet, sample: Sample, method: Method, inputs: str
    ) -> dict[str, str]:
        """The fields of a record that say what it is of."""
        return {
            "subset": part.name,
            "image": sample.name,
            "method": method.name,
            "key": self._keys[method.name],
            "inputs": inputs,
        }

    def _kept(self, part: EvaluationSet, sample: Sample, method: Method) -> list[str]:
        """The files of a result, below ``out``; none for a method that saves no picture."""
        saved = self.image_path(part.name, method, sample.name)
        if saved is None:
            return []
        paths = [saved]
        if self.keeps_attention:
            paths.append(self.attention_path(part.name, method, sample.name))
        return [path.relative_to(self.out).as_posix() for path in paths]

    def _new_record(
        self,
        part: EvaluationSet,
        sample: Sample,
        method: Method,
        inputs: str,
        loaded: LoadedSample | None,
        error: str | None,
    ) -> Record:
        identity: dict[str, Any] = self._identity(part, sample, method, inputs)
        # A picture of an earlier run must not stand for one that now fails.
        for name in self._kept(part, sample, method):
            (self.out / name).unlink(missing_ok=True)
        if loaded is None:
            record = Record(**identity, error=error)
        else:
            notes = tuple(oddity.message for oddity in loaded.oddities)
            saved = self.image_path(part.name, method, sample.name)
            started = time.perf_counter()
            try:
                source = self._input(part, sample, loaded)
                candidate, output = self.scorer.best_output(method, source, loaded.clear)
                seconds = time.perf_counter() - started
                if self.keeps_attention and output.attention is not None:
                    _save_map(self.attention_path(part.name, method, sample.name), output.attention)
                scored = self.scorer.score(sample, loaded, output, saved)
                record = Record(
                    **identity,
                    **vars(scored),
                    files={
                        name: digest_of_file(self.out / name)
                        for name in self._kept(part, sample, method)
                        if (self.out / name).is_file()
                    },
                    candidate=candidate,
                    nfe=output.nfe,
                    seconds=round(seconds, 3),
                    notes=notes,
                )
            except _IMAGE_ERRORS as caught:
                record = Record(**identity, error=one_line(caught), notes=notes)
        if record.error is not None:
            logger.info("%s/%s, %s: %s", part.name, sample.name, method.name, record.error)
        path = self._record_path(part.name, method, sample.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, _to_json(asdict(record)))
        return record

    def _input(self, part: EvaluationSet, sample: Sample, loaded: LoadedSample) -> MethodInput:
        # From names rather than a running number, so that order, limit and resuming change nothing.
        digest = _digest(f"{self.seed}/{part.name}/{sample.name}")
        return MethodInput(
            hazy=loaded.hazy,
            clear=loaded.clear,
            subset=part.name,
            name=sample.name,
            scene=sample.scene,
            seed=int(digest[:8], 16),
        )


def _refuse_strength(method: PipelineMethod) -> None:
    """Refuse a strength that an oracle would ignore, since it tries strengths of its own."""
    strength = method.options.strength
    if strength != PipelineOptions().strength:
        raise EvaluationError(
            f"{method.name}: strength={strength:g} has no effect with --oracle, which chooses the "
            "strength itself; leave one of them out"
        )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _digest_files(paths: Iterable[Path | None]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        try:
            content = b"" if path is None else path.read_bytes()
        except OSError:
            # Whoever loads the file reports the failure itself.
            content = b"unreadable"
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def _differences(old: Any, new: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in dict.fromkeys([*old, *new]):
            yield from _differences(old.get(name), new.get(name), f"{prefix}{name}.")
    elif old != new:
        yield f"{prefix[:-1]}: {json.dumps(old)} there, {json.dumps(new)} now"


def _save_map(path: Path, values: NDArray[np.float32]) -> None:
    buffer = io.BytesIO()
    np.save(buffer, values)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, buffer.getvalue())


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _to_json(content: Any) -> bytes:
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()
