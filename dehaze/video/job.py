"""One clip from its file to its result: resumable, and the result is whole or not there.

While the job runs, a hidden folder ``.NAME.dehaze`` lies beside the output. It holds runs of
frames, each encoded by itself; what the next frame needs of those before it; and a journal of one
JSON object a line. A killed job continues after its last whole run. In the end only the journal is
left, which says what the result was made of.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from dehaze.digests import digest_of_code, digest_of_file, digest_of_json, stamp_of_file
from dehaze.inversion import InversionFileError, InversionResult
from dehaze.photos import MAX_MEGAPIXELS, InputFiles, discard_unfinished, write_bytes, writing
from dehaze.video.clip import Clip, Frame, VideoError, frames_of, open_clip
from dehaze.video.encoding import RUN_SUFFIX, Encoding, RunWriter, choose_encoding, join, unwritable
from dehaze.video.frames import FrameDehazer, FrameSettings, Memory
from dehaze.video.smoothing import Past

if TYPE_CHECKING:
    from dehaze.pipelines.dehazing import Dehazing

# Frames of a run, as many as cameras have between two key frames. A killed job repeats at most one
# run.
RUN = 24

# What is counted of a run.
_COUNTED = ("frames", "shots", "evaluations", "resized", "moved", "damaged")
_JOURNAL = "journal.jsonl"
_WHOLE = "whole"
# A flow's schedule depends on the picture's size, which is the clip's own.
_ANY_LATENTS = (64, 64)
_ANOTHER = "name another output with -o, or add --overwrite"


@dataclass(frozen=True)
class ClipResult:
    """What became of a clip.

    Attributes:
        output: the file.
        status: done now, or kept from an earlier run.
        frames: how many it has.
        shots: the number of shots: how often the smoothing over time began anew.
        evaluations: of the network, for all frames.
        seconds: wall time of this call.
        notes: what differs from the original besides the haze.
    """

    output: Path
    status: Literal["done", "kept"]
    frames: int
    shots: int
    evaluations: int
    seconds: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Run:
    """A run of frames that is written."""

    file: str
    sha256: str
    frames: int
    shots: int
    evaluations: int
    end: int
    resized: int
    moved: int
    damaged: int


def dehaze_video(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    pipe: Dehazing | None = None,
    settings: FrameSettings | None = None,
    *,
    overwrite: bool = False,
    max_megapixels: float = MAX_MEGAPIXELS,
    on_frame: Callable[[bool], object] = lambda kept: None,
) -> ClipResult:
    """Removes the haze from a clip, without flicker; sound and all else are copied.

    A second call continues where an interrupted one stopped. It keeps a whole result that was made
    of the same clip under the same settings.

    Args:
        source: the clip.
        output: the result's file, .mp4, .m4v, .mov, .mkv or .webm; its folder is made if missing.
        pipe: a pipeline that dehazes photos; the bundled model's when None.
        settings: how its frames are dehazed.
        overwrite: do all of it anew, and replace whatever file there is.
        max_megapixels: a clip with larger frames is refused.
        on_frame: called after each frame, with whether an earlier call has done it.

    Raises:
        VideoLibraryError: PyAV is not installed.
        VideoError: the clip cannot be read, changes meanwhile or is refused, or the output cannot
            be written, or was not made by dehaze, or another job is at work on it.

    Example:
        >>> from dehaze import dehaze_video
        >>> dehaze_video("clip.mp4", "clear.mp4").frames  # doctest: +SKIP
        240
    """
    began = time.perf_counter()
    source, output = Path(source), Path(output)
    if InputFiles([source]).at(output) is not None:
        raise VideoError(source, "is the output as well", "name another output with -o")
    clip = open_clip(source, max_megapixels=max_megapixels)
    stamp = stamp_of_file(source)
    encoding = choose_encoding(clip, output)
    if pipe is None:
        from dehaze.pipelines.dehaze import DehazePipeline

        pipe = DehazePipeline.from_pretrained()
    dehazer = FrameDehazer(pipe, settings)
    identity = {
        "clip": digest_of_file(source),
        "settings": _settings_hash(dehazer.settings, pipe, encoding),
    }
    folder = work_folder(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock", timeout=0):
            job = _ClipJob(clip, encoding, dehazer, output, folder, identity, stamp)
            return job.run(overwrite=overwrite, on_frame=on_frame, began=began)
    except Timeout as error:
        raise VideoError(
            output, "another dehaze run is writing it", "wait for its end, or name another with -o"
        ) from error
    except OSError as error:
        raise unwritable(output, error) from error


def work_folder(output: Path) -> Path:
    """Where the parts of a result lie until it is whole, and its journal."""
    return output.with_name(f".{output.name}.dehaze")


class _ClipJob:
    """The work on one clip, its folder held."""

    def __init__(
        self,
        clip: Clip,
        encoding: Encoding,
        dehazer: FrameDehazer,
        output: Path,
        folder: Path,
        identity: dict[str, str],
        stamp: tuple[int, int],
    ) -> None:
        self._clip = clip
        self._encoding = encoding
        self._dehazer = dehazer
        self._output = output
        self._folder = folder
        self._identity = identity
        self._stamp = stamp

    def run(
        self, *, overwrite: bool, on_frame: Callable[[bool], object], began: float
    ) -> ClipResult:
        """Does the remaining frames; see ``dehaze_video``."""
        records = self._records()
        done = next((each for each in reversed(records) if "done" in each), None)
        there = digest_of_file(self._output) if self._output.is_file() else None
        if os.path.lexists(self._output) and not overwrite:
            if done is None or there != done["done"]:
                raise VideoError(
                    self._output, "exists and was not made by dehaze from this clip", _ANOTHER
                )
            if done["of"] == self._identity:
                return self._result("kept", done["result"], began)
        runs = self._resume(records) if records[:1] == [self._identity] and not overwrite else []
        if not runs:
            self._begin(done)
        self._refuse_full_disk()
        for _ in range(sum(run.frames for run in runs)):
            on_frame(True)
        runs += self._dehaze(runs, on_frame)
        return self._result("done", self._finish(runs), began)

    def _result(
        self, status: Literal["done", "kept"], counts: dict[str, Any], began: float
    ) -> ClipResult:
        """What the journal says of a result, and how long this call took."""
        seconds = time.perf_counter() - began
        notes = tuple(counts["notes"])
        return ClipResult(self._output, status, seconds=seconds, **counts | {"notes": notes})

    def _dehaze(self, before: list[_Run], on_frame: Callable[[bool], object]) -> list[_Run]:
        """Does the runs after those that are there."""
        runs: list[_Run] = []
        frames = islice(frames_of(self._clip), sum(run.frames for run in before), None)
        while (first := next(frames, None)) is not None:
            number = len(before) + len(runs)
            run = self._write(number, first, frames, on_frame)
            self._keep_memory(number)
            self._add(asdict(run))
            for old in self._memory_files(number - 1):
                old.unlink(missing_ok=True)
            runs.append(run)
        if not before and not runs:
            raise VideoError(
                self._clip.path,
                "has no frame that can be decoded",
                "copy it again from where it came",
            )
        return runs

    def _write(
        self, number: int, first: Frame, others: Iterator[Frame], on_frame: Callable[[bool], object]
    ) -> _Run:
        path = self._folder / f"{number:06d}{RUN_SUFFIX}"
        unfinished = path.with_suffix(".part")
        counts = dict.fromkeys(_COUNTED, 0)
        end = 0
        with RunWriter(unfinished, self._clip, self._encoding) as writer:
            for frame in (first, *islice(others, RUN - 1)):
                result = self._dehazer(frame.pixels, float(frame.pts * self._clip.time_base))
                writer.add(result.image, frame)
                counts["frames"] += 1
                counts["shots"] += result.is_first
                counts["evaluations"] += result.evaluations
                counts["resized"] += frame.resized
                counts["moved"] += frame.moved
                counts["damaged"] += frame.damaged
                end = frame.pts + (frame.duration or self._clip.frame_duration)
                on_frame(False)
        _synchronise(unfinished)
        os.replace(unfinished, path)
        return _Run(path.name, digest_of_file(path), end=end, **counts)

    def _finish(self, runs: list[_Run]) -> dict[str, Any]:
        """Joins the runs to the result, cleans up, and returns the journal's record."""
        whole = self._folder / f"{_WHOLE}{self._output.suffix}"
        files = [self._folder / run.file for run in runs]
        lost = join(self._clip, self._encoding, files, whole, end=runs[-1].end)
        if stamp_of_file(self._clip.path) != self._stamp:
            raise VideoError(
                self._clip.path, "changed while it was read", "run it again once it is written"
            )
        frames = sum(run.frames for run in runs)
        counted = (
            (self._clip.frames - frames, "frames could not be decoded and are left out"),
            (
                sum(run.damaged for run in runs),
                "frames are damaged: a part of each, and maybe of those after it, is made up",
            ),
            (sum(run.resized for run in runs), "frames were of another size than the first"),
            (sum(run.moved for run in runs), "time stamps were missing or out of order"),
        )
        notes = (
            *self._clip.notes,
            *self._encoding.notes,
            *lost,
            *(f"{count} of its {what}" for count, what in counted if count > 0),
        )
        result = {
            "frames": frames,
            "shots": sum(run.shots for run in runs),
            "evaluations": sum(run.evaluations for run in runs),
            "notes": notes,
        }
        _synchronise(whole)
        # Before the move, since a result that the journal does not know counts as another's.
        self._add({"done": digest_of_file(whole), "of": self._identity, "result": result})
        os.replace(whole, self._output)
        for path in (*files, *self._memory_files(len(runs) - 1)):
            path.unlink(missing_ok=True)
        return result

    def _refuse_full_disk(self) -> None:
        needed = 2 * self._clip.path.stat().st_size
        free = shutil.disk_usage(self._folder).free
        if free < needed:
            raise VideoError(
                self._output,
                f"the result and its parts take about {needed / 1e6:.0f} MB and the disk has "
                f"{free / 1e6:.0f} MB left",
                "make room, or name another folder with -o",
            )

    def _begin(self, done: dict[str, Any] | None) -> None:
        """A new journal, without the parts of another job, but with our own result."""
        discard_unfinished(self._folder)
        for path in self._folder.iterdir():
            if path.suffix in (RUN_SUFFIX, ".part", ".safetensors") or path.stem == _WHOLE:
                path.unlink()
        lines = [self._identity] if done is None else [self._identity, done]
        write_bytes(self._folder / _JOURNAL, _json_lines(lines))
        self._dehazer.memory = None

    def _records(self) -> list[dict[str, Any]]:
        """The journal's records, without a line that a killed job left unfinished."""
        path = self._folder / _JOURNAL
        records = []
        for line in path.read_bytes().splitlines() if path.exists() else ():
            try:
                records.append(json.loads(line))
            except ValueError:
                continue
        return [record for record in records if isinstance(record, dict)]

    def _add(self, record: dict[str, Any]) -> None:
        with open(self._folder / _JOURNAL, "ab") as file:
            # A line that a killed job left unfinished must not swallow this one.
            file.write(b"\n" + _json_lines([record]))
            file.flush()
            os.fsync(file.fileno())

    def _resume(self, records: list[dict[str, Any]]) -> list[_Run]:
        """The whole runs, and the dehazer as it was after them; none if that was not kept."""
        runs: list[_Run] = []
        # A run that was done again has two records, and the later one counts.
        for record in {each["file"]: each for each in records if "file" in each}.values():
            run = _Run(**record)
            path = self._folder / run.file
            if not path.is_file() or digest_of_file(path) != run.sha256:
                break
            runs.append(run)
        # A job killed between two runs may leave the memory of the run before.
        while runs:
            memory = self._kept_memory(len(runs) - 1)
            if memory is not None:
                self._dehazer.memory = memory
                return runs
            runs.pop()
        return runs

    def _memory_files(self, number: int) -> tuple[Path, Path]:
        return (
            self._folder / f"{number:06d}.past.safetensors",
            self._folder / f"{number:06d}.start.safetensors",
        )

    def _keep_memory(self, number: int) -> None:
        memory = self._dehazer.memory
        if memory is None:
            return
        past, start = self._memory_files(number)
        arrays = memory.past.to_arrays() | {"slope": np.array(memory.slope)}
        write_bytes(past, save(arrays))
        with writing(start) as file:
            memory.start.write(file)

    def _kept_memory(self, number: int) -> Memory | None:
        past, start = self._memory_files(number)
        try:
            arrays = load_file(past)
            slope = float(arrays.pop("slope"))
            return Memory(Past.from_arrays(arrays), InversionResult.load(start), slope)
        except (OSError, SafetensorError, InversionFileError):
            return None


def _settings_hash(settings: FrameSettings, pipe: Dehazing, encoding: Encoding) -> str:
    """A hash of all settings that decide a result."""
    from dehaze import __version__

    content = {
        **asdict(settings),
        "version": __version__,
        "code": digest_of_code(),
        "model": pipe.provenance.fingerprint(),
        # What the weights do not tell: the model's own choices, and its scheduler.
        "description": repr(pipe.description.settings()),
        "schedule": repr(pipe.step_table(pipe.description.inversion, _ANY_LATENTS)),
        "encoding": [encoding.encoder.name, encoding.samples.name, encoding.container],
        "run": RUN,
    }
    return digest_of_json(content)


def _json_lines(records: list[dict[str, Any]]) -> bytes:
    return "".join(f"{json.dumps(record)}\n" for record in records).encode("ascii")


def _synchronise(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
