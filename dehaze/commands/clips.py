"""``dehaze run clip.mp4``: the clips among the inputs, one after the other."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dehaze.commands.progress import progress
from dehaze.commands.reporting import Verbosity, note, problem, verbosity
from dehaze.commands.streaming import STREAM

if TYPE_CHECKING:
    from dehaze.commands.summaries import JsonLines, Text
    from dehaze.models.choice import ModelChoice
    from dehaze.pipelines.dehazing import Dehazing

logger = logging.getLogger(__name__)

# How many clips that are left alone are named; the others are counted.
_NAMED = 3


def split_clips(
    context: click.Context, inputs: Sequence[Path], output: Path
) -> tuple[tuple[tuple[Path, Path], ...], tuple[Path, ...]]:
    """The clips among the inputs, each with its output, and the other inputs.

    Raises:
        click.UsageError: several inputs for one file, two clips for one output, or a clip that
            would go through standard output.
    """
    from dehaze.photos import PHOTO_SUFFIXES
    from dehaze.video.clip import is_clip
    from dehaze.video.encoding import CONTAINERS

    clips = [path for path in inputs if is_clip(path) and not path.is_dir()]
    others = tuple(path for path in inputs if path not in clips)
    if not clips:
        return (), others
    if output == STREAM:
        raise click.UsageError("-o - takes one photo; name a file for a clip with -o.", context)
    if output.suffix.lower() in CONTAINERS and not output.is_dir():
        if len(clips) > 1 or others:
            raise click.UsageError(
                f"{output} is one file and there are {len(inputs)} inputs; name a folder with -o.",
                context,
            )
        return ((clips[0], output),), ()
    if not output.is_dir() and (is_clip(output) or output.suffix.lower() in PHOTO_SUFFIXES):
        raise click.UsageError(
            f"{output} names a file that no clip is written to; name one that ends in "
            f"{', '.join(CONTAINERS)}, or a folder, with -o.",
            context,
        )
    places: dict[Path, Path] = {}
    for clip in clips:
        # A container that cannot be written is replaced by Matroska, which takes everything.
        written = clip.suffix.lower() in CONTAINERS
        place = output / (clip.name if written else f"{clip.name}.mkv")
        other = places.setdefault(place, clip)
        if other is not clip:
            raise click.UsageError(
                f"{clip} would be written to the same file as {other}, {place}; do them in two "
                "runs, into two folders.",
                context,
            )
    return tuple((clip, place) for place, clip in places.items()), others


def note_clips_left(files: Sequence[Path]) -> None:
    """Name the clips among a folder's other files, and say how to have them done."""
    from dehaze.photos import printable
    from dehaze.video.clip import is_clip

    clips = [path for path in files if is_clip(path)]
    if clips:
        more = f" and {len(clips) - _NAMED} more" if len(clips) > _NAMED else ""
        names = ", ".join(printable(path) for path in clips[:_NAMED])
        note(f"clips in folders are left alone, {names}{more}; name each of them to have it done")


@dataclass(frozen=True)
class ClipsJob:
    """The clips of one command.

    Attributes:
        clips: each with its output.
        model: which model, and where it runs.
        recipe: arguments of ``DehazePipeline.__call__``; those without use for clips were refused.
        overwrite: do every clip anew.
        max_megapixels: a clip with larger frames fails.
    """

    clips: tuple[tuple[Path, Path], ...]
    model: ModelChoice
    recipe: Mapping[str, Any]
    overwrite: bool
    max_megapixels: float

    def plan(self, say: Text | JsonLines) -> None:
        """Say what would be done."""
        for source, output in self.clips:
            say.planned(source, output)

    def run(self, say: Text | JsonLines, received: Sequence[int]) -> int:
        """Do all clips; returns the exit code.

        Args:
            say: tells of them.
            received: the signals so far; the last one interrupts.
        """
        from dehaze.photos import printable
        from dehaze.video.clip import VideoLibraryError, load_av

        load_av()
        pipe, failed = self._pipe(), False
        for source, output in self.clips:
            try:
                self._do(pipe, source, output, say)
            except KeyboardInterrupt:
                problem(f"{printable(source)}: interrupted; run it again to continue")
                return 128 + received[-1]
            except VideoLibraryError:
                raise
            except Exception as error:
                # Whatever it is, it ends this clip alone.
                logger.debug("%s failed", source, exc_info=error)
                say.clip_failed(source, _reason(source, output, error))
                failed = True
        return int(failed)

    def _do(self, pipe: Dehazing, source: Path, output: Path, say: Text | JsonLines) -> None:
        from dehaze.video.clip import open_clip
        from dehaze.video.frames import FrameSettings
        from dehaze.video.job import dehaze_video

        used = {each.name for each in fields(FrameSettings)}
        settings = FrameSettings(
            **{name: value for name, value in self.recipe.items() if name in used}
        )
        total = open_clip(source, max_megapixels=self.max_megapixels).frames
        with progress(total, "frame") as ended:
            result = dehaze_video(
                source,
                output,
                pipe,
                settings,
                overwrite=self.overwrite,
                max_megapixels=self.max_megapixels,
                on_frame=lambda kept: ended(kept=kept),
            )
        say.clip(source, result, verbosity() is Verbosity.VERBOSE)

    def _pipe(self) -> Dehazing:
        from dehaze.batch.worker import DiffusionWork
        from dehaze.commands.reporting import quiet_libraries, quiet_photo_libraries

        if self.model.plain():
            quiet_photo_libraries()
        else:
            quiet_libraries()
        return DiffusionWork(self.recipe, self.model).start().pipe


def _reason(source: Path, output: Path, error: Exception) -> str:
    """Why a clip failed, in one line that names it."""
    from dehaze.errors import DehazeError, first_line, one_line
    from dehaze.photos import printable

    if not isinstance(error, (DehazeError, OSError)):
        cause = f"{type(error).__name__}: {first_line(error)}"
        return (
            f"{printable(source)}: cannot be dehazed ({cause}); the other clips are not affected; "
            "dehaze doctor may help"
        )
    text = one_line(error)
    return text if str(source) in text or str(output) in text else f"{printable(source)}: {text}"
