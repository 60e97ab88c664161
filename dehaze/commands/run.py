"""``dehaze run``: photos and folders in, clear photos out."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dehaze import __version__
from dehaze.commands import (
    COMMANDS,
    CommandError,
    RegistryChoice,
    quiet_libraries,
    quiet_photo_libraries,
)

if TYPE_CHECKING:
    from dehaze.batch import Job, Outcome, Plan, Summary
    from dehaze.batch.task import Executor, Work

# What --save can add, and what each file appends to the whole name of its photo, so that those of
# a.jpg and a.png stay apart.
SIDE_FILES = {
    "attention": ".attention.png",
    "transmission": ".transmission.png",
    "trace": ".trace.json",
}
DATA_TYPES = ("float32", "float16", "bfloat16")
EXECUTORS = ("local", "ray")
DIFFUSION = "diffusion"
# The options that are the pipeline's own.
RECIPE = (
    "prompt",
    "word",
    "null_text",
    "strength",
    "solver",
    "num_inference_steps",
    "tolerance",
    "recovery",
)


def _solvers() -> Iterable[str]:
    from dehaze.inversion import list_methods

    return list_methods()


def _recoveries() -> Iterable[str]:
    from dehaze.recovery.recover import RECOVERIES

    return RECOVERIES


def _engines() -> Iterable[str]:
    from dehaze.priors import PRIORS

    return (DIFFUSION, *PRIORS.names())


class _SideFiles(click.ParamType):
    """Names of SIDE_FILES with commas between them."""

    name = "kinds"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        kinds = [kind.strip() for kind in value.split(",")]
        for kind in kinds:
            if kind not in SIDE_FILES:
                self.fail(f"{kind!r} is not one of {', '.join(SIDE_FILES)}.", param, ctx)
        return tuple(sorted(set(kinds)))


class _BatchSize(click.ParamType):
    """A number, or "auto" for None."""

    name = "number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | None:
        return None if value == "auto" else click.IntRange(min=1).convert(value, param, ctx)


@click.command(short_help=COMMANDS["run"])
@click.argument(
    "inputs",
    metavar="INPUT...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, path_type=Path),
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("dehazed"),
    show_default=True,
    metavar="FOLDER",
    help="Where the results go; made if missing.",
)
@click.option(
    "--model",
    default="bundled",
    show_default=True,
    help="The bundled model, a folder in diffusers format, a hub id, or a .safetensors file of "
    "Stable Diffusion.",
)
@click.option(
    "--revision",
    metavar="NAME",
    help="Branch, tag or commit of a hub id: a commit is the same model for ever.",
)
@click.option(
    "--engine",
    type=RegistryChoice(_engines),
    default=DIFFUSION,
    show_default=True,
    metavar="NAME",
    help="A classical method instead of the model, for comparison: dcp, say; a wrong name lists "
    "them.",
)
@click.option("--prompt", help="What the photo shows, haze included.  [default: the model's]")
@click.option("--word", help="The word to remove from the prompt.  [default: the model's]")
@click.option(
    "--null-text",
    type=click.Choice(["embedding", "delete"]),
    default="embedding",
    show_default=True,
    help="Swap the word's embedding for null text, or delete the word from the prompt.",
)
@click.option(
    "--strength",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="How much of the haze is removed; 0 gives the photo back.",
)
@click.option(
    "--solver",
    type=RegistryChoice(_solvers),
    metavar="NAME",
    help="How each step is inverted; a wrong name lists them.  [default: the model's]",
)
@click.option(
    "--steps",
    "num_inference_steps",
    type=click.IntRange(min=1),
    help="Steps of the inversion.  [default: the model's]",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0, min_open=True),
    help="Relative residual at which a step is done.  [default: the model's]",
)
@click.option(
    "--recovery",
    type=RegistryChoice(_recoveries),
    default="calibrated",
    show_default=True,
    metavar="NAME",
    help="How the photo's own size is reached: calibrated, physics, affine or none.",
)
@click.option(
    "--save",
    type=_SideFiles(),
    default=(),
    help=f"Also write, comma-separated: {', '.join(SIDE_FILES)}.",
)
@click.option(
    "--device",
    default="auto",
    show_default=True,
    help="cpu, cuda, cuda:1, mps, or auto: the fastest there is.",
)
@click.option(
    "--dtype",
    type=click.Choice(["auto", *DATA_TYPES]),
    default="auto",
    show_default=True,
    help="Precision of the network; auto leaves it to the model.",
)
@click.option(
    "--batch-size",
    type=_BatchSize(),
    default="auto",
    show_default=True,
    metavar="N",
    help="How many photos of one size share the network's evaluations; auto is 1 on the CPU, where "
    "more is faster and changes the last bits of a result, and 4 on an accelerator.",
)
@click.option(
    "--resume/--overwrite",
    default=True,
    show_default=True,
    help="Keep what an earlier run did under the same settings, or do every photo again.",
)
@click.option(
    "--max-megapixels",
    type=click.FloatRange(min=0, min_open=True),
    default=200.0,
    show_default=True,
    help="Refuse larger photos, so that a forged header cannot fill the memory.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--executor",
    type=click.Choice(EXECUTORS),
    default="local",
    show_default=True,
    help="In this process, or on a Ray cluster (this machine's, or the one at --ray-address).",
)
@click.option(
    "--ray-address",
    metavar="ADDRESS",
    help="Of a running cluster.  [default: $RAY_ADDRESS, or else one of this machine alone]",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Photos at a time with --executor ray.  [default: the GPUs, or else the CPUs]",
)
@click.option(
    "--watch",
    type=click.FloatRange(min=0, min_open=True),
    is_flag=False,
    flag_value=5.0,
    metavar="SECONDS",
    help="When all is done, look for new photos every so often, until interrupted.  [5]",
)
@click.option(
    "--report",
    is_flag=True,
    help="Also write report.html: every photo before and after, its maps, notes and failures.",
)
@click.option("--dry-run", is_flag=True, help="Show the plan, and do nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line on stdout.")
@click.pass_context
def run(
    context: click.Context,
    /,
    inputs: tuple[Path, ...],
    output: Path,
    save: tuple[str, ...],
    resume: bool,
    max_megapixels: float,
    watch: float | None,
    report: bool,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Remove the haze from photos and folders of photos.

    Each INPUT is a photo or a folder, which is searched to the bottom. Each result keeps its
    photo's name, size, format, bit depth and metadata, and its place below the folder. Inputs are
    never changed. A second run continues where the first one stopped.

    Exit code: 0, all photos are done; 1, some failed and are named; 2, the command is wrong; 130 or
    143, interrupted by Ctrl-C or by SIGTERM.
    """
    _check_options(save, options)
    from dehaze import batch
    from dehaze.photos import PhotoError, printable

    beside = {kind: SIDE_FILES[kind] for kind in save}
    say = _JsonLines() if as_json else _Text()
    try:
        plan = batch.plan(inputs, output, beside=list(beside.values()))
        if watch is None:
            _refuse_nothing(plan)
        batch.check_room(plan)
        if dry_run:
            say.plan(plan)
            return
        for folder in plan.results:
            say.line(f"{printable(folder)}: holds results of an earlier run and is not searched")
        work, settings = _work(beside, options)
        executor = _executor(work, options, output if report else None)
        with (
            _termination_interrupts() as received,
            batch.Job(
                output, settings=settings, overwrite=not resume, max_megapixels=max_megapixels
            ) as job,
        ):
            summary = _do(job, plan, executor, say)
            say.summary(plan, summary)
            if watch is not None and not summary.interrupted and summary.error is None:
                looks = batch.watch(inputs, output, watch, beside=list(beside.values()), seen=plan)
                summary = _keep_watch(job, looks, executor, say, summary)
            if report:
                _write_report(plan, summary, settings, say)
    except (batch.PlanError, _work_error(), PhotoError) as error:
        raise CommandError(str(error)) from error
    if summary.error is not None:
        say.line(str(summary.error))
    if summary.interrupted and watch is None:
        context.exit(128 + received[-1])
    context.exit(1 if summary.error is not None or summary.having("failed") else 0)


def _estimates_transmission(recovery: str) -> bool:
    from dehaze.recovery.recover import WITH_TRANSMISSION

    return recovery in WITH_TRANSMISSION


def _check_options(save: tuple[str, ...], options: dict[str, Any]) -> None:
    engine = options["engine"]
    if "transmission" in save and not _estimates_transmission(options["recovery"]):
        raise click.UsageError(
            "--save transmission needs --recovery calibrated or physics, which estimate it."
        )
    if save and engine != DIFFUSION:
        raise click.UsageError(
            f"--save needs --engine {DIFFUSION}: {engine} gives the photo alone."
        )
    if options["batch_size"] is not None and engine != DIFFUSION:
        raise click.UsageError(
            f"--batch-size needs --engine {DIFFUSION}: {engine} does one photo at a time."
        )
    if options["executor"] != "ray":
        for name in ("workers", "ray_address"):
            if options[name] is not None:
                raise click.UsageError(f"--{name.replace('_', '-')} needs --executor ray.")


def _work_error() -> type[Exception]:
    from dehaze.batch.worker import WorkError

    return WorkError


def _work(beside: dict[str, str], options: dict[str, Any]) -> tuple[Work, dict[str, Any]]:
    """What is done to each photo, and all that decides its result."""
    from dehaze.batch.worker import ClassicalWork, DiffusionWork

    if options["engine"] != DIFFUSION:
        quiet_photo_libraries()
        return ClassicalWork(options["engine"]), {
            "version": __version__,
            "engine": options["engine"],
        }
    quiet_libraries()
    recipe = {name: options[name] for name in RECIPE}
    chosen = {name: options[name] for name in ("model", "revision", "dtype", "seed")}
    work = DiffusionWork(
        recipe,
        **chosen,
        device=options["device"],
        beside=beside,
        batch_size=options["batch_size"],
    )
    if os.path.isdir(work.model):
        # On another machine the working folder is another one.
        work = replace(work, model=os.path.abspath(work.model))
    return work, {
        **recipe,
        **chosen,
        "version": __version__,
        "engine": DIFFUSION,
        "weights": work.fingerprint(),
        "save": list(beside),
    }


def _executor(work: Work, options: dict[str, Any], cards: Path | None) -> Executor:
    """Ready to run: whatever is wrong with the work has been found.

    Where ``cards`` names the output folder, what a report shows is kept in it.
    """
    if options["executor"] == "local":
        from dehaze.batch.local import LocalExecutor

        return LocalExecutor(_carding(work, cards).start())
    from dehaze.batch.ray import RayExecutor
    from dehaze.batch.worker import DiffusionWork

    # Started here as well, though to no other end than to find what is wrong with it.
    (replace(work, device="cpu") if isinstance(work, DiffusionWork) else work).start()
    return RayExecutor(
        _carding(work, cards),
        address=options["ray_address"],
        workers=options["workers"],
        gpu=options["engine"] == DIFFUSION and options["device"] in ("auto", "cuda"),
    )


def _carding(work: Work, folder: Path | None) -> Work:
    if folder is None:
        return work
    from dehaze.report import CardingWork

    return CardingWork(work, folder.absolute())


def _write_report(
    plan: Plan, summary: Summary, settings: dict[str, Any], say: _Text | _JsonLines
) -> None:
    from dehaze.photos import printable
    from dehaze.report import REPORT_NAME, report_of_job, write_report

    path = plan.output / REPORT_NAME
    unreached = max(0, _left(plan, summary))
    write_report(path, report_of_job(plan.output, summary.outcomes, settings, unreached=unreached))
    say.line(f"report: {printable(path)}")


def _do(job: Job, plan: Plan, executor: Executor, say: _Text | _JsonLines) -> Summary:
    with say.progress(len(plan.photos) + len(plan.unreadable)):
        return job.run(plan, executor, say.outcome)


def _keep_watch(
    job: Job, looks: Iterator[Plan], executor: Executor, say: _Text | _JsonLines, so_far: Summary
) -> Summary:
    """Do what comes, until interrupted: the outcomes of all that was done."""
    outcomes = so_far.outcomes
    try:
        for plan in looks:
            summary = _do(job, plan, executor, say)
            outcomes += summary.outcomes
            say.summary(plan, summary)
            if summary.interrupted or summary.error is not None:
                return replace(summary, outcomes=outcomes)
    except KeyboardInterrupt:
        pass
    return replace(so_far, outcomes=outcomes, interrupted=True)


@contextmanager
def _termination_interrupts() -> Iterator[list[int]]:
    """SIGTERM ends the job as Ctrl-C does; yields the signals received, Ctrl-C's as default."""
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


class _Text:
    """For people: a bar on stderr, if that is a terminal, failures above it, sums on stdout."""

    def __init__(self) -> None:
        self._bar: Any = None

    @contextmanager
    def progress(self, total: int) -> Iterator[None]:
        from tqdm import tqdm

        with tqdm(total=total, unit="photo", file=sys.stderr, disable=None, leave=False) as bar:
            self._bar = bar
            try:
                yield
            finally:
                self._bar = None

    def outcome(self, outcome: Outcome) -> None:
        from dehaze.photos import printable

        self._bar.update()
        for note in outcome.notes:
            self.line(f"{printable(outcome.source)}: note: {note}")
        if outcome.error is not None:
            self.line(str(outcome.error))

    def line(self, text: str) -> None:
        if self._bar is not None:
            self._bar.clear()
        click.echo(f"dehaze: {text}", err=True)
        if self._bar is not None:
            self._bar.refresh()

    def plan(self, plan: Plan) -> None:
        from dehaze.photos import printable

        for photo in plan.photos:
            click.echo(f"{printable(photo.source)} -> {printable(photo.output)}")
        counts = plan.counts()
        parts = [f"{counts.photos} photos of {counts.megabytes:.1f} MB"]
        if counts.existing:
            parts.append(f"{counts.existing} with a result there already")
        if counts.unsupported:
            parts.append(f"{counts.unsupported} of a kind that cannot be read")
        if plan.unreadable:
            parts.append(f"{len(plan.unreadable)} folders that cannot be listed")
        if plan.passed_over:
            parts.append(f"{len(plan.passed_over)} files passed over as no photo")
        if counts.inside_input:
            parts.append("the output lies inside an input and is not searched")
        click.echo("; ".join((*parts, "nothing was done")))

    def summary(self, plan: Plan, summary: Summary) -> None:
        click.echo(_sentence(plan, summary))


class _JsonLines:
    """For programs: one JSON object a line on stdout, told apart by "event"."""

    @contextmanager
    def progress(self, total: int) -> Iterator[None]:
        yield

    def outcome(self, outcome: Outcome) -> None:
        error = outcome.error
        self._emit(
            "photo",
            source=str(outcome.source),
            status=outcome.status,
            output=None if outcome.output is None else str(outcome.output),
            error=None if error is None else {"cause": error.cause, "cure": error.cure},
            seconds=round(outcome.seconds, 3),
            nfe=outcome.nfe,
            residual=outcome.residual if math.isfinite(outcome.residual) else None,
            notes=list(outcome.notes),
        )

    def line(self, text: str) -> None:
        click.echo(f"dehaze: {text}", err=True)

    def plan(self, plan: Plan) -> None:
        for photo in plan.photos:
            self._emit("planned", source=str(photo.source), output=str(photo.output))
        self._emit("plan", output=str(plan.output), **asdict(plan.counts()))

    def summary(self, plan: Plan, summary: Summary) -> None:
        self._emit(
            "summary",
            output=str(plan.output),
            **{status: len(summary.having(status)) for status in ("done", "kept", "failed")},
            passed_over=len(plan.passed_over),
            left=_left(plan, summary),
            seconds=round(summary.seconds, 3),
            interrupted=summary.interrupted,
        )

    def _emit(self, event: str, **values: Any) -> None:
        click.echo(json.dumps({"event": event, **values}))


def _refuse_nothing(plan: Plan) -> None:
    from dehaze.photos import PHOTO_SUFFIXES

    others = f" among {len(plan.passed_over)} files" if plan.passed_over else ""
    if not plan.photos and not plan.unreadable:
        raise CommandError(
            f"no photo found{others}; photos end in {', '.join(sorted(PHOTO_SUFFIXES))}"
        )


def _left(plan: Plan, summary: Summary) -> int:
    return len(plan.photos) + len(plan.unreadable) - len(summary.outcomes)


def _sentence(plan: Plan, summary: Summary) -> str:
    from dehaze.photos import printable

    counts = [f"{len(summary.having('done'))} done"]
    for count, what in (
        (len(summary.having("kept")), "kept from an earlier run"),
        (len(summary.having("failed")), "failed"),
        (len(plan.passed_over), "passed over as no photo"),
    ):
        if count:
            counts.append(f"{count} {what}")
    parts = [", ".join(counts)]
    if not math.isnan(summary.seconds_per_photo):
        parts.append(
            f"{summary.seconds_per_photo:.2f} s and {summary.nfe_per_photo:.0f} NFE a photo"
        )
    parts.append(f"in {printable(plan.output)}")
    if _left(plan, summary):
        parts.append(f"interrupted with {_left(plan, summary)} to go, run it again to continue")
    return "; ".join(parts)
