"""Runs methods over data sets, image by image, and can be interrupted at any of them.

Everything that is known of one image under one method is one record, a JSON file written whole or
not at all; tables are made from records alone. A second run reads the valid records and does the
rest, so that an interrupted evaluation ends with the very table of one that ran through.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import math
import platform
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, features
from tqdm import tqdm

from dehaze.datasets import Dataset, LoadedSample, Sample, read_rgb
from dehaze.errors import DehazeError
from dehaze.eval.haze_maps import airlight_error, density_correlation, transmission_error
from dehaze.eval.methods import Method, MethodInput, MethodOutput
from dehaze.eval.perceptual import PerceptualMetric
from dehaze.eval.protocol import BenchProtocol
from dehaze.photos import write_bytes

logger = logging.getLogger(__name__)

# What one image can raise without the run being at fault. A programming error is none of these.
_IMAGE_ERRORS = (ValueError, RuntimeError, OSError, ArithmeticError, MemoryError, cv2.error)

_PACKAGES = ("dehaze", "numpy", "opencv-python-headless", "Pillow", "scikit-image", "torch")


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
class Record:
    """One image under one method.

    Attributes:
        subset: the data set's name.
        image: the picture's name within it.
        method: the row's label.
        key: what the record depends on, hashed: protocol, method, seed, versions.
        inputs: SHA-256 of the hazy and the clear file.
        error: why it failed; None when it was scored.
        values: metric by name; None stands for a value that is infinite or undefined.
        identical: output and ground truth are equal: PSNR is infinite.
        candidate: under an oracle, the candidate that was best.
        nfe: network evaluations.
        seconds: what the method took.
        width: of the scored picture.
        height: of the scored picture.
        notes: conversions and crops that were needed.
    """

    subset: str
    image: str
    method: str
    key: str
    inputs: str
    error: str | None = None
    values: dict[str, float | None] = field(default_factory=dict)
    identical: bool = False
    candidate: str | None = None
    nfe: int | None = None
    seconds: float = 0.0
    width: int = 0
    height: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Statistic:
    """A metric over the images of a row.

    Attributes:
        mean: the arithmetic mean of the defined values, or None where there is none.
        deviation: their population standard deviation.
        count: how many values are defined.
    """

    mean: float | None
    deviation: float | None
    count: int


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        subset: the data set's name.
        method: the label.
        title: what the method is.
        is_ceiling: a bound rather than a method.
        is_oracle: the ground truth chose among its candidates.
        images: how many were planned.
        failed: how many of them failed.
        identical: how many have an infinite PSNR, left out of its mean.
        statistics: by metric.
    """

    subset: str
    method: str
    title: str
    is_ceiling: bool
    is_oracle: bool
    images: int
    failed: int
    identical: int
    statistics: dict[str, Statistic]


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation came to.

    Attributes:
        rows: the table.
        records: one an image and method, in the order of the plan.
        unusable: one line for every input that could not become a sample.
    """

    rows: tuple[Row, ...]
    records: tuple[Record, ...]
    unusable: tuple[str, ...]

    @property
    def failures(self) -> list[str]:
        """One line for everything that failed."""
        failed = [
            f"{record.subset}/{record.image}, {record.method}: {record.error}"
            for record in self.records
            if record.error is not None
        ]
        return [*self.unusable, *failed]


@dataclass(frozen=True)
class Runner:
    """The plan of an evaluation.

    Attributes:
        sets: data sets and what is scored of them.
        methods: the rows, in order.
        protocol: how pictures are scored.
        out: the folder of the run.
        seed: the random choices of an image follow from this, its set's and its own name.
        command: what was typed, for the result file.
        perceptual: loaded metrics of ``protocol.perceptual``.
        overwrite: replace the records of a run under other settings rather than refuse.
    """

    sets: tuple[EvaluationSet, ...]
    methods: tuple[Method, ...]
    protocol: BenchProtocol
    out: Path
    seed: int = 0
    command: str = ""
    perceptual: tuple[PerceptualMetric, ...] = ()
    overwrite: bool = False

    def run(self) -> Evaluation:
        """Score what has no valid record yet, and return everything.

        Raises:
            EvaluationError: two rows share a label, an oracle is asked for where there is no
                ground truth, or the folder holds a run under other settings.
            MethodError: a model does not load.
        """
        self._check()
        self._settle_settings()
        records: list[Record] = []
        total = sum(len(part.samples) for part in self.sets) * len(self.methods)
        with tqdm(total=total, unit="image", disable=None) as progress:
            for part in self.sets:
                for sample in part.samples:
                    for record in self._score_sample(part, sample):
                        records.append(record)
                        progress.update()
        return Evaluation(
            rows=tuple(self._rows(records)),
            records=tuple(records),
            unusable=tuple(
                oddity.message for part in self.sets for oddity in part.dataset.failures
            ),
        )

    def image_path(self, subset: str, method: Method, image: str) -> Path | None:
        """Where a method's picture lies, or None for a method that saves none."""
        if not method.saves:
            return None
        return self.out / "images" / subset / method.slug / f"{image}.png"

    def _record_path(self, subset: str, method: Method, image: str) -> Path:
        # A name may hold dots ("0001_0.8_0.2"): an extension is appended, never replaced.
        return self.out / "records" / subset / method.slug / f"{image}.json"

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

    def _common_settings(self) -> dict[str, Any]:
        return {
            "protocol": self.protocol.settings(),
            "seed": self.seed,
            "versions": versions(),
        }

    @cached_property
    def _keys(self) -> dict[str, str]:
        common = self._common_settings()
        return {
            method.name: _digest(json.dumps([common, method.settings()], sort_keys=True))
            for method in self.methods
        }

    def _settle_settings(self) -> None:
        """Refuse to mix two runs in one folder, or note the settings of this one."""
        path = self.out / "settings.json"
        wanted: dict[str, Any] = {
            "common": self._common_settings(),
            "methods": {method.slug: method.settings() for method in self.methods},
        }
        # Through JSON, so that tuples and lists compare as what was written.
        wanted = json.loads(json.dumps(wanted))
        present = _read_json(path)
        if present is not None and not self.overwrite:
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
        write_bytes(path, _to_json(wanted))

    # --- one image ----------------------------------------------------------------------------

    def _score_sample(self, part: EvaluationSet, sample: Sample) -> Iterator[Record]:
        inputs = _digest_files(sample)
        loaded: LoadedSample | None = None
        error: str | None = None
        for method in self.methods:
            record = self._valid_record(part, sample, method, inputs)
            if record is None:
                if loaded is None and error is None:
                    try:
                        loaded = self._fit(sample.load())
                    except _IMAGE_ERRORS as caught:
                        error = _one_line(caught)
                record = self._new_record(part, sample, method, inputs, loaded, error)
            yield record

    def _fit(self, loaded: LoadedSample) -> LoadedSample:
        fit = self.protocol.fit
        return LoadedSample(
            hazy=fit(loaded.hazy),
            clear=None if loaded.clear is None else fit(loaded.clear),
            transmission=None if loaded.transmission is None else fit(loaded.transmission),
            oddities=loaded.oddities,
        )

    def _valid_record(
        self, part: EvaluationSet, sample: Sample, method: Method, inputs: str
    ) -> Record | None:
        """The record of an earlier run, if it was a success and all it speaks of is there."""
        content = _read_json(self._record_path(part.name, method, sample.name))
        if content is None or content.get("error") is not None:
            return None
        if content.get("key") != self._keys[method.name] or content.get("inputs") != inputs:
            return None
        saved = self.image_path(part.name, method, sample.name)
        if saved is not None:
            try:
                shape = read_rgb(saved).pixels.shape
            except (ValueError, OSError):
                return None
            if shape[:2] != (content["height"], content["width"]):
                return None
        return Record(**{**content, "notes": tuple(content["notes"])})

    def _new_record(
        self,
        part: EvaluationSet,
        sample: Sample,
        method: Method,
        inputs: str,
        loaded: LoadedSample | None,
        error: str | None,
    ) -> Record:
        identity: dict[str, Any] = {
            "subset": part.name,
            "image": sample.name,
            "method": method.name,
            "key": self._keys[method.name],
            "inputs": inputs,
        }
        if loaded is None:
            record = Record(**identity, error=error)
        else:
            notes = tuple(oddity.message for oddity in loaded.oddities)
            started = time.perf_counter()
            try:
                candidate, output = self._best(method, self._input(part, sample, loaded), loaded)
                seconds = time.perf_counter() - started
                record = Record(
                    **identity,
                    **self._score(part, sample, method, loaded, output),
                    candidate=candidate,
                    nfe=output.nfe,
                    seconds=round(seconds, 3),
                    notes=notes,
                )
            except _IMAGE_ERRORS as caught:
                record = Record(**identity, error=_one_line(caught), notes=notes)
        if record.error is not None:
            logger.info("%s/%s, %s: %s", part.name, sample.name, method.name, record.error)
        path = self._record_path(part.name, method, sample.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, _to_json(asdict(record)))
        return record

    def _input(self, part: EvaluationSet, sample: Sample, loaded: LoadedSample) -> MethodInput:
        # From names rather than from a running number: order, limit and resume change nothing.
        digest = _digest(f"{self.seed}/{part.name}/{sample.name}")
        return MethodInput(
            hazy=loaded.hazy,
            clear=loaded.clear,
            subset=part.name,
            name=sample.name,
            scene=sample.scene,
            seed=int(digest[:8], 16),
        )

    def _best(
        self, method: Method, source: MethodInput, loaded: LoadedSample
    ) -> tuple[str | None, MethodOutput]:
        if not (self.protocol.oracle and method.has_candidates) or loaded.clear is None:
            return None, method.run(source)
        best: tuple[float, str, MethodOutput] | None = None
        for name, output in method.candidates(source):
            quality = self.protocol.score(self._levels(output.image), loaded.clear).psnr
            if best is None or quality > best[0]:
                best = (quality, name, output)
        if best is None:
            raise ValueError(f"{method.name} offers no candidate")
        return best[1], best[2]

    def _levels(self, image: NDArray[np.float32]) -> NDArray[Any]:
        """[0, 1] to [0, 255], rounded to 8 bits unless the protocol scores what lies between."""
        if not np.isfinite(image).all():
            raise ValueError("the result holds values that are not finite")
        levels = np.clip(image, 0, 1).astype(np.float64) * 255
        return levels if self.protocol.scores_unrounded else np.rint(levels).astype(np.uint8)

    def _score(
        self,
        part: EvaluationSet,
        sample: Sample,
        method: Method,
        loaded: LoadedSample,
        output: MethodOutput,
    ) -> dict[str, Any]:
        # Somebody else's pictures have the size that they were made at.
        image = output.image if output.reference is not None else self.protocol.fit(output.image)
        clear: NDArray[Any] | None = loaded.clear
        if output.reference is not None:
            clear = self._levels(output.reference)
        expected = (loaded.hazy if clear is None else clear).shape
        if image.shape != expected:
            raise ValueError(
                f"the result is {image.shape[1]}x{image.shape[0]} where "
                f"{expected[1]}x{expected[0]} is expected"
            )
        scored = self._levels(image)
        path = self.image_path(part.name, method, sample.name)
        if path is not None:
            _save_png(path, np.rint(np.clip(image, 0, 1) * np.float32(255)).astype(np.uint8))
            if not self.protocol.scores_unrounded:
                scored = read_rgb(path).pixels
        values: dict[str, float] = {}
        identical = False
        if clear is not None:
            scores = self.protocol.score(scored, clear)
            values.update(asdict(scores))
            identical = math.isinf(scores.psnr)
        for metric in self.perceptual:
            if clear is not None or not metric.full_reference:
                values[metric.name] = metric(scored, clear)
        values.update(_haze_map_values(sample, loaded, output))
        return {
            "values": {
                name: value if math.isfinite(value) else None for name, value in values.items()
            },
            "identical": identical,
            "width": image.shape[1],
            "height": image.shape[0],
        }

    # --- the table ----------------------------------------------------------------------------

    def _rows(self, records: Sequence[Record]) -> Iterator[Row]:
        for part in self.sets:
            for method in self.methods:
                mine = [
                    record
                    for record in records
                    if record.subset == part.name and record.method == method.name
                ]
                names = dict.fromkeys(name for record in mine for name in record.values)
                yield Row(
                    subset=part.name,
                    method=method.name,
                    title=method.title,
                    is_ceiling=method.is_ceiling,
                    is_oracle=self.protocol.oracle and method.has_candidates,
                    images=len(mine),
                    failed=sum(record.error is not None for record in mine),
                    identical=sum(record.identical for record in mine),
                    statistics={
                        name: statistic(record.values.get(name) for record in mine)
                        for name in names
                    },
                )


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """The versions that numbers depend on; JPEG decoders differ, too."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    turbo = features.version_feature("libjpeg_turbo")
    found["libjpeg"] = f"turbo {turbo}" if turbo else str(features.version("jpg"))
    return found


def statistic(values: Iterable[float | None]) -> Statistic:
    """Mean and population standard deviation of the values that are not None."""
    defined = np.array([value for value in values if value is not None], dtype=np.float64)
    if defined.size == 0:
        return Statistic(None, None, 0)
    return Statistic(float(defined.mean()), float(defined.std()), int(defined.size))


_BEFORE = ("subset", "image", "method", "status")
_AFTER = ("candidate", "nfe", "seconds", "width", "height", "notes", "error")


def records_as_csv(records: Sequence[Record]) -> str:
    """One line an image and method: what was scored, or why it failed."""
    names = list(dict.fromkeys(name for record in records for name in record.values))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [*_BEFORE, *names, *_AFTER], lineterminator="\n")
    writer.writeheader()
    for record in records:
        line = {name: getattr(record, name, None) for name in (*_BEFORE, *_AFTER)}
        line["status"] = "scored" if record.error is None else "failed"
        line["notes"] = " | ".join(record.notes)
        writer.writerow(line | {name: _cell(record, name) for name in names})
    return buffer.getvalue()


def _cell(record: Record, name: str) -> str:
    if name == "psnr" and record.identical:
        return "inf"
    value = record.values.get(name)
    return "" if value is None else f"{value:.6f}"


def _haze_map_values(
    sample: Sample, loaded: LoadedSample, output: MethodOutput
) -> dict[str, float]:
    """What can be said of attention, t and A where the truth is known."""
    values: dict[str, float] = {}
    truth = loaded.transmission
    if truth is not None and output.attention is not None:
        values["attention_spearman"] = density_correlation(output.attention, truth)
    if truth is not None and output.transmission is not None:
        error = transmission_error(output.transmission, truth)
        values["transmission_mae"] = error.mean_absolute
        values["transmission_bias"] = error.bias
    if sample.airlight is not None and output.airlight is not None:
        error_of_airlight = airlight_error(output.airlight, np.array(sample.airlight))
        values["airlight_mae"] = error_of_airlight.mean_absolute
        values["airlight_angle"] = error_of_airlight.angle
    return values


def _save_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, buffer.getvalue())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _digest_files(sample: Sample) -> str:
    digest = hashlib.sha256()
    for path in (sample.hazy, sample.clear, sample.transmission):
        try:
            content = b"" if path is None else path.read_bytes()
        except OSError:
            # The failure itself is reported when the sample is loaded.
            content = b"unreadable"
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def _differences(old: Any, new: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in dict.fromkeys([*old, *new]):
            yield from _differences(old.get(name), new.get(name), f"{prefix}{name}.")
    elif old != new:
        yield f"{prefix[:-1]}: {json.dumps(old)} there, {json.dumps(new)} now"


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _to_json(content: Any) -> bytes:
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
