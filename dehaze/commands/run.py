"""``dehaze run``: photos and folders in, clear photos out."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dehaze import __version__, ranges
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
from dehaze.commands.options import Kinds, Number, RegistryChoice
from dehaze.commands.reporting import (
    CommandError,
    note,
    problem,
    quiet_libraries,
    quiet_photo_libraries,
)
from dehaze.commands.settings import config_option
from dehaze.commands.streaming import STREAM, check_streams, dehaze_stream
from dehaze.commands.summaries import JsonLines, Text, left

if TYPE_CHECKING:
    from dehaze.batch import Executor, Job, Plan, Summary, Work
    from dehaze.models.choice import ModelChoice
    from dehaze.photos import ResultFile

# What --save can add, and what each file appends to the whole name of its photo, so that those of
# a.jpg and a.png stay apart.
SIDE_FILES = {
    "attention": ".attention.png",
    "transmission": ".transmission.png",
    "airlight": ".airlight.json",
    "depth": ".depth.png",
    "trace": ".trace.json",
}
EXECUTORS = ("local", "ray")
DIFFUSION = "diffusion"
BY_MODEL = with_value("method", DIFFUSION)
BY_RAY = with_value("executor", "ray")
TO_FOLDER = Effect(lambda given: given["output"] != STREAM, "with a folder as --output")
ON_PHOTOS = Effect(
    lambda given: given["photos"], "with photos, not with clips alone", of_input=True
)


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


class _Suffix(click.ParamType):
    """A format, by a suffix that names it, with or without its dot."""

    name = "format"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from dehaze.photos import PHOTO_SUFFIXES

        suffix = f".{value.lower().removeprefix('.')}"
        if suffix not in PHOTO_SUFFIXES:
            names = ", ".join(sorted(known[1:] for known in PHOTO_SUFFIXES))
            self.fail(f"{value!r} is not one of {names}.", param, ctx)
        return suffix


class _Addition(click.ParamType):
    """What can stand at the end of a file's name."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not value or not value.isprintable() or set(value) & set('/\\:*?"<>|'):
            self.fail(f"{value!r} cannot stand in a file's name on every system.", param, ctx)
        return str(value)


def _has_quality(given: Values) -> bool:
    from dehaze.photos import ResultFile
    from dehaze.photos.formats import FORMATS

    chosen = ResultFile(given["format"]).format
    return chosen is None or FORMATS.get(chosen).has_quality


class _BatchSize(click.ParamType):
    """A number, or "auto" for None."""

    name = "number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | None:
        return None if value == "auto" else click.IntRange(min=1).convert(value, param, ctx)


@dataclass(frozen=True)
class _Task:
    """What is done to each photo, and all that decides its result.

    Attributes:
        work: what is done.
        settings: what decides a result, as JSON values.
        gpu: whether a GPU is of use.
    """

    work: Work
    settings: dict[str, Any]
    gpu: bool


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
    type=_Suffix(),
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
    help="Of JPEG and lossy WebP, 1 to 100.  [default: a JPEG's own, 95 for a new one; WebP 90]",
)
@option(
    "--suffix",
    type=_Addition(),
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
@option(
    "--resume/--overwrite",
    default=True,
    effect=TO_FOLDER,
    show_default=True,
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
    effect=ON_PHOTOS,
    help="The model's diffusion; or, for comparison, dcp (dark channel prior) or cap (colour "
    "attenuation prior), which need no model.",
)
@options.model(effect=BY_MODEL)
@option(
    "--batch-size",
    type=_BatchSize(),
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
    help="Of a running cluster.  [default: $RAY_ADDRESS, or else one of this machine alone]",
)
@option(
    "--workers",
    type=click.IntRange(min=1),
    metavar="N",
    heading=MACHINE,
    effect=BY_RAY,
    help="Photos at a time with --executor ray.  [default: the GPUs, or else the CPUs]",
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
    effect=(BY_MODEL, ON_PHOTOS, *options.MODE_HOLDS),
    help="What holds a guided way back to the inversion: plain (nothing), null-text, "
    "negative-prompt or direct.",
)
@options.guidance(
    effect=(BY_MODEL, ON_PHOTOS), help="Classifier-free guidance of the way back; 1 is none."
)
@options.solver(effect=BY_MODEL)
@options.predictor(effect=(BY_MODEL, ON_PHOTOS, options.used_by_solver("predictor")))
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
    job = ClipsJob(clips, model, recipe, overwrite=not resume, max_megapixels=max_megapixels)
    if clips and watch is not None:
        raise click.UsageError(
            "--watch is for photos; do the clips in a run of their own.", context
        )
    if clips and dry_run:
        job.plan(say)
    if not inputs:
        if not dry_run:
            with _termination_interrupts() as received:
                context.exit(job.run(say, received))
        return
    result_file = ResultFile(format, quality, suffix or "")
    beside = {kind: SIDE_FILES[kind] for kind in save}
    if output == STREAM:
        task = _task(method, model, recipe, beside, batch_size, result_file)
        context.exit(dehaze_stream(context, inputs[0], task.work, result_file, max_megapixels))
    planning: dict[str, Any] = {
        "beside": list(beside.values()),
        "max_megapixels": max_megapixels,
        "result_file": result_file,
    }
    plan = batch.plan(inputs, output, **planning)
    if watch is None:
        _refuse_empty(plan)
        refuse_idle_options(context, found | {"lossy": _any_lossy(plan)})
    batch.check_room(plan)
    if dry_run:
        say.plan(plan)
        return
    for folder in plan.results:
        note(f"{printable(folder)}: holds results of an earlier run and is not searched")
    note_clips_left(plan.passed_over)
    task = _task(method, model, recipe, beside, batch_size, result_file)
    if report:
        task = _with_cards(task, output)
    ready = _executor(task, executor, ray_address, workers)
    with (
        _termination_interrupts() as received,
        batch.Job(output, settings=task.settings, overwrite=not resume) as photos,
    ):
        summary = _do(photos, plan, ready, say)
        if watch is not None and not summary.interrupted and summary.error is None:
            looks = batch.watch(inputs, output, watch, seen=plan, **planning)
            summary = _keep_watch(photos, looks, ready, say, summary)
        if report:
            _write_report(plan, summary, task.settings)
        clips_code = 0
        if clips and not summary.interrupted and summary.error is None:
            clips_code = job.run(say, received)
    if summary.error is not None:
        problem(str(summary.error))
    if summary.interrupted and watch is None:
        context.exit(128 + received[-1])
    failed = summary.error is not None or summary.having("failed")
    context.exit(max(clips_code, 1) if failed else clips_code)


def _task(
    method: str,
    model: ModelChoice,
    recipe: dict[str, Any],
    beside: dict[str, str],
    batch_size: int | None,
    result_file: ResultFile,
) -> _Task:
    if method == DIFFUSION:
        task = _by_model(model, recipe, beside, batch_size)
    else:
        task = _by_prior(method)
    coding = {"format": result_file.suffix, "quality": result_file.quality}
    chosen = {name: value for name, value in coding.items() if value is not None}
    return replace(task, settings=task.settings | chosen)


def _by_prior(name: str) -> _Task:
    from dehaze.batch.worker import ClassicalWork

    quiet_photo_libraries()
    return _Task(ClassicalWork(name), {"version": __version__, "method": name}, gpu=False)


def _by_model(
    model: ModelChoice, recipe: dict[str, Any], beside: dict[str, str], batch_size: int | None
) -> _Task:
    from dehaze.batch.worker import DiffusionWork

    if model.plain():
        quiet_photo_libraries()
    else:
        quiet_libraries()
    if os.path.isdir(model.model):
        # On another machine the working folder is another one.
        model = replace(model, model=os.path.abspath(model.model))
    work = DiffusionWork(recipe, model, beside, batch_size)
    settings = {
        **recipe,
        "version": __version__,
        "method": DIFFUSION,
        "model": model.model,
        "revision": model.revision,
        "dtype": model.dtype,
        "weights": model.fingerprint(),
        "save": list(beside),
    }
    return _Task(work, settings, gpu=model.device in ("auto", "cuda"))


def _executor(task: _Task, name: str, address: str | None, workers: int | None) -> Executor:
    """The executor, once the work is known to start."""
    if name == "local":
        from dehaze.batch.local import LocalExecutor

        return LocalExecutor(task.work.start())
    from dehaze.batch.ray import RayExecutor

    # Started here only to find what is wrong with it before the cluster is asked.
    task.work.on_cpu().start()
    return RayExecutor(task.work, address=address, workers=workers, gpu=task.gpu)


def _with_cards(task: _Task, output: Path) -> _Task:
    """The task, which also keeps in the output folder what a report shows."""
    from dehaze.report import CardingWork

    return replace(task, work=CardingWork(task.work, output.absolute()))


def _write_report(plan: Plan, summary: Summary, settings: dict[str, Any]) -> None:
    from dehaze.photos import printable
    from dehaze.report import REPORT_NAME, report_of_job, write_report

    path = plan.output / REPORT_NAME
    unreached = max(0, left(plan, summary))
    write_report(path, report_of_job(plan.output, summary.items, settings, unreached=unreached))
    note(f"report: {printable(path)}")


def _do(job: Job, plan: Plan, executor: Executor, say: Text | JsonLines) -> Summary:
    with say.progress(len(plan.photos) + len(plan.unreadable)):
        summary = job.run(plan, executor, say.item)
    say.summary(plan, summary)
    return summary


def _keep_watch(
    job: Job, looks: Iterator[Plan], executor: Executor, say: Text | JsonLines, so_far: Summary
) -> Summary:
    """Do new photos until interrupted; the summary is of all that was done."""
    items = so_far.items
    try:
        for plan in looks:
            summary = _do(job, plan, executor, say)
            items += summary.items
            if summary.interrupted or summary.error is not None:
                return replace(summary, items=items)
    except KeyboardInterrupt:
        pass
    return replace(so_far, items=items, interrupted=True)


@contextmanager
def _termination_interrupts() -> Iterator[list[int]]:
    """Let SIGTERM interrupt as Ctrl-C does; yields the signals received, Ctrl-C's number first."""
    received = [int(signal.SIGINT)]

    def interrupt(number: int, frame: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)


def _any_lossy(plan: Plan) -> bool:
    """Whether a photo of the plan has a quality, by its first bytes: a name may say otherwise."""
    from dehaze.photos.formats import format_of_file

    formats = (format_of_file(photo.source) for photo in plan.photos)
    return any(format is not None and format.has_quality for format in formats)


def _refuse_empty(plan: Plan) -> None:
    from dehaze.photos import PHOTO_SUFFIXES

    others = f" among {len(plan.passed_over)} files" if plan.passed_over else ""
    if not plan.photos and not plan.unreadable:
        note_clips_left(plan.passed_over)
        raise CommandError(
            f"no photo found{others}; photos end in {', '.join(sorted(PHOTO_SUFFIXES))}"
        )
