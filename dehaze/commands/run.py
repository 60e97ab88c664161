"""``dehaze run``: photos and folders in, clear photos out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dehaze import ranges
from dehaze.commands import options
from dehaze.commands.clips import ClipsJob, note_clips_left, split_clips
from dehaze.commands.command import (
    FIRST,
    MACHINE,
    RESEARCH,
    Command,
    Effect,
    Values,
    option,
    refuse_idle_options,
    with_value,
    without,
)
from dehaze.commands.interrupts import termination_interrupts
from dehaze.commands.param_types import BatchSize, Kinds, NameEnding, Number, RegistryChoice, Suffix
from dehaze.commands.photos import PhotosJob, any_lossy, refuse_empty, write_job_report
from dehaze.commands.reporting import note, problem
from dehaze.commands.settings import config_option
from dehaze.commands.streaming import STREAM, check_streams, dehaze_stream
from dehaze.commands.summaries import JsonLines, Text
from dehaze.commands.task import DIFFUSION, executor_of, task_of, with_cards

if TYPE_CHECKING:
    from dehaze.models.choice import ModelChoice

# What --save can add, and the ending of each file. It is put after the photo's whole name, so that
# files of a.jpg and a.png stay apart.
SIDE_FILES = {
    "attention": ".attention.png",
    "transmission": ".transmission.png",
    "airlight": ".airlight.json",
    "depth": ".depth.png",
    "trace": ".trace.json",
}
EXECUTORS = ("local", "ray")
BY_MODEL = with_value("method", DIFFUSION)
BY_RAY = with_value("executor", "ray")
TO_FOLDER = Effect(lambda given: given["output"] != STREAM, "with a folder as --output")
ON_PHOTOS = Effect(
    lambda given: given["photos"], "with photos, not with clips alone", of_input=True
)
# Of a setting that decides results: beside photos, clips would be done without it.
PHOTOS_ALONE = Effect(lambda given: not given["clips"], "with photos alone", of_input=True)


def _methods() -> Iterable[str]:
    from dehaze.priors import PRIORS

    return (DIFFUSION, *PRIORS.names())


# The one recovery that estimates transmission and airlight.
PHYSICS = "physics"
FOR_CLIPS = Effect(
    lambda given: not given["clips"] or given["recovery"] == PHYSICS,
    "with photos alone, unless it is physics",
    of_input=True,
)
_ESTIMATED = frozenset({"transmission", "airlight", "depth"})


def _has_quality(given: Values) -> bool:
    from dehaze.photos import ResultFile
    from dehaze.photos.formats import FORMATS

    chosen = ResultFile(given["format"]).format
    return chosen is None or FORMATS.get(chosen).has_quality


@click.command(cls=Command)
@click.argument(
    "inputs",
    metavar="INPUT...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, path_type=Path, allow_dash=True),
)
@option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("dehazed"),
    show_default=True,
    metavar="FOLDER",
    help="Where the results go; made if missing.  - is standard output, for one photo; for one "
    "clip a file, such as out.mp4.",
)
@options.strength(effect=BY_MODEL)
@options.exposure(effect=BY_MODEL)
@options.prompt(effect=BY_MODEL, help=f"What the photo shows, haze included.  {options.OF_MODEL}")
@options.word(effect=BY_MODEL, help=f"The word to remove from the prompt.  {options.OF_MODEL}")
@option(
    "--format",
    type=Suffix(),
    metavar="NAME",
    effect=ON_PHOTOS,
    help="Write every result as jpg, png, tif, webp or bmp.  [default: the photo's own]",
)
@option(
    "--quality",
    type=click.IntRange(1, 100),
    metavar="N",
    effect=(
        ON_PHOTOS,
        Effect(_has_quality, "with --format jpg or webp"),
        Effect(
            lambda given: given["lossy"] or given["format"] is not None,
            "with photos that are JPEG or WebP",
            of_input=True,
        ),
    ),
    help="Quality of JPEG and lossy WebP, 1 to 100.  [default: a JPEG's own, else 95; WebP 90]",
)
@option(
    "--suffix",
    type=NameEnding(),
    metavar="TEXT",
    effect=(TO_FOLDER, ON_PHOTOS),
    help="Put this at the end of each name: with _clear, a.jpg becomes a_clear.jpg.",
)
@option(
    "--save",
    type=Kinds(lambda: SIDE_FILES),
    default=(),
    effect=(
        TO_FOLDER,
        BY_MODEL,
        ON_PHOTOS,
        Effect(
            lambda given: given["recovery"] == PHYSICS or _ESTIMATED.isdisjoint(given["save"]),
            f"with --recovery {PHYSICS} for transmission, airlight and depth",
        ),
        Effect(
            lambda given: "depth" not in given["save"] or given["strength"] == 1.0,
            "with --strength 1 for depth, since less leaves a part of the haze",
        ),
    ),
    help=f"Also write, comma-separated: {', '.join(SIDE_FILES)}.",
)
@option(
    "--watch",
    type=Number(ranges.SECONDS),
    is_flag=False,
    flag_value=5.0,
    metavar="SECONDS",
    effect=(TO_FOLDER, ON_PHOTOS, without("dry_run")),
    help="When all is done, look for new photos every so often, until interrupted.  [5]",
)
@options.resume(
    effect=TO_FOLDER,
    help="Keep what an earlier run did under the same settings, or do every photo again.",
)
@option(
    "--report",
    is_flag=True,
    effect=(TO_FOLDER, ON_PHOTOS, without("dry_run")),
    help="Also write report.html: every photo before and after, its maps, notes and failures.",
)
@option(
    "--dry-run",
    is_flag=True,
    effect=TO_FOLDER,
    help="Show what would be done, and do nothing.",
)
@option(
    "--method",
    type=RegistryChoice(_methods),
    default=DIFFUSION,
    show_default=True,
    metavar="NAME",
    heading=FIRST,
    effect=PHOTOS_ALONE,
    help="The model's diffusion; or, for comparison, dcp (dark channel prior) or cap (colour "
    "attenuation prior), which need no model.",
)
@options.model(effect=BY_MODEL)
@option(
    "--batch-size",
    type=BatchSize(),
    default="auto",
    show_default=True,
    metavar="N",
    heading=MACHINE,
    effect=(TO_FOLDER, BY_MODEL, ON_PHOTOS),
    help="How many photos of one size go through the network together; auto is 1 on the CPU, where "
    "more is faster and changes the last bits of a result, and 4 on an accelerator.",
)
@options.max_megapixels()
@option(
    "--executor",
    type=click.Choice(EXECUTORS),
    default="local",
    show_default=True,
    heading=MACHINE,
    effect=(TO_FOLDER, ON_PHOTOS),
    help="In this process, or on a Ray cluster (this machine's, or the one at --ray-address).",
)
@option(
    "--ray-address",
    metavar="ADDRESS",
    heading=MACHINE,
    effect=BY_RAY,
    help="Address of a running cluster.  [default: $RAY_ADDRESS, else one of this machine alone]",
)
@option(
    "--workers",
    type=click.IntRange(min=1),
    metavar="N",
    heading=MACHINE,
    effect=(TO_FOLDER, ON_PHOTOS),
    help="Photos at a time; the results are the same.  [default: the cores, or 1 for a model that "
    "takes all of them or the GPU; with --executor ray the GPUs, or else the cores]",
)
@option(
    "--null-text",
    type=click.Choice(["embedding", "delete"]),
    default="embedding",
    show_default=True,
    heading=RESEARCH,
    effect=BY_MODEL,
    help="Swap the word's embedding for null text, or delete the word from the prompt.",
)
@options.mode(
    default="plain",
    show_default=True,
    effect=(BY_MODEL, PHOTOS_ALONE, *options.MODE_HOLDS),
    help="What holds a guided way back to the inversion: plain (nothing), null-text, "
    "negative-prompt or direct.",
)
@options.guidance(
    effect=(BY_MODEL, PHOTOS_ALONE), help="Classifier-free guidance of the way back; 1 is none."
)
@options.solver(effect=BY_MODEL)
@options.predictor(effect=(BY_MODEL, PHOTOS_ALONE, options.used_by_solver("predictor")))
@options.criterion(effect=(BY_MODEL, options.used_by_solver("criterion")))
@options.iterations(effect=(BY_MODEL, options.used_by_solver("max_iterations")))
@options.steps("num_inference_steps", effect=BY_MODEL)
@options.tolerance(
    effect=(BY_MODEL, options.used_by_solver("tolerance")),
)
@options.recovery(default=PHYSICS, effect=(BY_MODEL, FOR_CLIPS))
@options.as_json(effect=TO_FOLDER)
@config_option
@click.pass_context
def run(
    context: click.Context,
    /,
    inputs: tuple[Path, ...],
    output: Path,
    method: str,
    model: ModelChoice,
    save: tuple[str, ...],
    format: str | None,
    quality: int | None,
    suffix: str | None,
    batch_size: int | None,
    resume: bool,
    max_megapixels: float,
    executor: str,
    ray_address: str | None,
    workers: int | None,
    watch: float | None,
    report: bool,
    dry_run: bool,
    as_json: bool,
    **recipe: Any,
) -> None:
    """Remove the haze from photos, folders of photos, and clips.

    Each INPUT is a photo, a clip, or a folder, which is searched to the bottom for photos. Each
    result keeps its photo's name, size, format, bit depth and metadata, and its place below the
    folder. Inputs are never changed. A second run continues where the first one stopped. A photo
    from standard input comes out of standard output: dehaze run - -o - < a.jpg > b.jpg

    A clip keeps its sound, time stamps and metadata: dehaze run clip.mp4 -o out.mp4

    Exit code: 0, all photos and clips are done; 1, some failed and are named; 2, the command is
    wrong; 130 or 143, interrupted by Ctrl-C or by SIGTERM.
    """
    from dehaze import batch
    from dehaze.photos import ResultFile, printable

    clips, inputs = split_clips(context, inputs, output)
    check_streams(context, inputs, output)
    found = {"photos": bool(inputs), "clips": bool(clips), "lossy": False}
    if not inputs:
        refuse_idle_options(context, found)
    say = JsonLines() if as_json else Text()
    clips_job = ClipsJob(clips, model, recipe, overwrite=not resume, max_megapixels=max_megapixels)
    if clips and watch is not None:
        raise click.UsageError(
            "--watch is for photos; do the clips in a run of their own.", context
        )
    if clips and dry_run:
        clips_job.plan(say)
    if not inputs:
        if not dry_run:
            with termination_interrupts() as received:
                context.exit(clips_job.run(say, received))
        return
    result_file = ResultFile(format, quality, suffix or "")
    beside = {kind: SIDE_FILES[kind] for kind in save}
    if output == STREAM:
        task = task_of(method, model, recipe, beside, batch_size, result_file)
        context.exit(dehaze_stream(context, inputs[0], task.work, result_file, max_megapixels))
    planning: dict[str, Any] = {
        "beside": list(beside.values()),
        "max_megapixels": max_megapixels,
        "result_file": result_file,
    }
    plan = batch.plan(inputs, output, **planning)
    if watch is None:
        refuse_empty(plan)
        refuse_idle_options(context, found | {"lossy": any_lossy(plan)})
    batch.check_room(plan)
    if dry_run:
        say.plan(plan)
        return
    for folder in plan.results:
        note(f"{printable(folder)}: holds results of an earlier run and is not searched")
    note_clips_left(plan.passed_over)
    task = task_of(method, model, recipe, beside, batch_size, result_file)
    if report:
        task = with_cards(task, output)
    ready = executor_of(task, executor, ray_address, workers)
    with (
        termination_interrupts() as received,
        batch.Job(output, settings=task.settings, overwrite=not resume) as job,
    ):
        photos = PhotosJob(job, ready, say)
        summary = photos.run(plan)
        if watch is not None and not summary.interrupted and summary.error is None:
            looks = batch.watch(inputs, output, watch, seen=plan, **planning)
            summary = photos.keep_watch(looks, summary)
        if report:
            write_job_report(plan, summary, task.settings)
        clips_code = 0
        if clips and not summary.interrupted and summary.error is None:
            clips_code = clips_job.run(say, received)
    if summary.error is not None:
        problem(str(summary.error))
    if summary.interrupted and watch is None:
        context.exit(128 + received[-1])
    failed = summary.error is not None or summary.having("failed")
    context.exit(max(clips_code, 1) if failed else clips_code)
