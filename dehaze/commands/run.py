"""``dehaze run``: photos and folders in, clear photos out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dehaze.commands.clips import ClipsJob, split_clips
from dehaze.commands.command import Command, refuse_idle_options
from dehaze.commands.interrupts import termination_interrupts
from dehaze.commands.photos import PhotosJob, any_lossy, plan_photos
from dehaze.commands.reporting import problem
from dehaze.commands.run_options import RunOptions, run_options
from dehaze.commands.settings import config_option
from dehaze.commands.streaming import STREAM, check_streams, dehaze_stream
from dehaze.commands.summaries import JsonLines, Text

if TYPE_CHECKING:
    from dehaze.batch import Plan


@click.command(cls=Command)
@click.argument(
    "inputs",
    metavar="INPUT...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, path_type=Path, allow_dash=True),
)
@run_options
@config_option
@click.pass_context
def run(context: click.Context, /, inputs: tuple[Path, ...], **values: Any) -> None:
    """Remove the haze from photos, folders of photos, and clips.

    Each INPUT is a photo, a clip, or a folder, which is searched to the bottom for photos. Each
    result keeps its photo's name, size, format, bit depth and metadata, and its place below the
    folder. Inputs are never changed. A second run continues where the first one stopped. A photo
    from standard input comes out of standard output: dehaze run - -o - < a.jpg > b.jpg

    A clip keeps its sound, time stamps and metadata: dehaze run clip.mp4 -o out.mp4

    Exit code: 0, all photos and clips are done; 1, some failed and are named; 2, the command is
    wrong; 130 or 143, interrupted by Ctrl-C or by SIGTERM.
    """
    asked = RunOptions.of(values)
    say = JsonLines() if asked.as_json else Text()
    clips, photos = split_clips(context, inputs, asked.output)
    check_streams(context, photos, asked.output)
    if asked.output == STREAM:
        work, result_file = asked.task().work, asked.result_file
        context.exit(dehaze_stream(context, photos[0], work, result_file, asked.max_megapixels))
    plan = plan_photos(photos, asked) if photos else None
    _refuse_idle_options(context, asked, bool(clips), plan)
    clips_job = ClipsJob(
        clips,
        asked.model,
        asked.recipe,
        overwrite=not asked.resume,
        max_megapixels=asked.max_megapixels,
    )
    if asked.dry_run:
        clips_job.plan(say)
        if plan is not None:
            say.plan(plan)
        return
    photos_job = None if plan is None else PhotosJob.of(photos, asked, plan, say)
    with termination_interrupts() as received:
        context.exit(_do(photos_job, clips_job, say, received))


def _refuse_idle_options(
    context: click.Context, asked: RunOptions, clips: bool, plan: Plan | None
) -> None:
    """Refuse options without effect on what the inputs turned out to be.

    Args:
        context: of the command.
        asked: its options.
        clips: whether there are clips among the inputs.
        plan: of the photos; None where there are none.

    Raises:
        click.UsageError: one has no effect.
    """
    if plan is None:
        refuse_idle_options(context, {"photos": False, "clips": True, "lossy": False})
    elif asked.watch is None:
        found = {"photos": True, "clips": clips, "lossy": any_lossy(plan)}
        refuse_idle_options(context, found)
    if clips and asked.watch is not None:
        raise click.UsageError(
            "--watch is for photos; do the clips in a run of their own.", context
        )


def _do(
    photos: PhotosJob | None, clips: ClipsJob, say: Text | JsonLines, received: Sequence[int]
) -> int:
    """Do the photos, then the clips; returns the exit code.

    Args:
        photos: None where there are none.
        clips: those among the inputs.
        say: tells of them.
        received: the signals so far; the last one interrupts.
    """
    failed = False
    if photos is not None:
        summary = photos.run()
        if summary.error is not None:
            problem(str(summary.error))
        if summary.interrupted and not photos.watches:
            return 128 + received[-1]
        if summary.error is not None:
            return 1
        failed = bool(summary.having("failed"))
    return max(int(failed), clips.run(say, received) if clips.clips else 0)
