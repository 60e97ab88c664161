"""``dehaze run``: photos and folders in, clear photos out."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dehaze import __version__
from dehaze.commands import COMMANDS, CommandError, RegistryChoice, quiet_libraries

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from dehaze.batch import Outcome, Plan, PlannedPhoto, Saved, Summary
    from dehaze.images import Photo
    from dehaze.pipeline import DehazePipeline, DehazeResult

# What --save can add, and what each file appends to the whole name of its photo, so that those of
# a.jpg and a.png stay apart.
SIDE_FILES = {
    "attention": ".attention.png",
    "transmission": ".transmission.png",
    "trace": ".trace.json",
}
DATA_TYPES = ("float32", "float16", "bfloat16")
INTERRUPTED = 130
DIFFUSION = "diffusion"


def _solvers() -> Iterable[str]:
    from dehaze.inversion.solvers import list_solvers

    return list_solvers()


def _refinements() -> Iterable[str]:
    from dehaze.physics import REFINEMENTS

    return REFINEMENTS


def _engines() -> Iterable[str]:
    from dehaze.eval.baselines import list_baselines

    return (DIFFUSION, *list_baselines())


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
    help="The bundled model, a folder in diffusers format, or a hub id.",
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
    "--reading",
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
    "--steps", type=click.IntRange(min=1), help="Steps of the inversion.  [default: the model's]"
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0, min_open=True),
    help="Relative residual at which a step is done.  [default: the model's]",
)
@click.option(
    "--refine",
    type=RegistryChoice(_refinements),
    default="physics",
    show_default=True,
    metavar="NAME",
    help="How the result gets back to the photo's own size: physics, affine or none.",
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
@click.pass_context
def run(
    context: click.Context,
    /,
    inputs: tuple[Path, ...],
    output: Path,
    model: str,
    engine: str,
    save: tuple[str, ...],
    device: str,
    dtype: str,
    resume: bool,
    max_megapixels: float,
    seed: int,
    **recipe: Any,
) -> None:
    """Remove the haze from photos and folders of photos.

    Each INPUT is a photo or a folder, which is searched to the bottom. Each result keeps its
    photo's name, size, format, bit depth and metadata, and its place below the folder. Inputs are
    never changed. A second run continues where the first one stopped.

    Exit code: 0, all photos are done; 1, some failed and are named; 2, the command is wrong.
    """
    if "transmission" in save and recipe["refine"] != "physics":
        raise click.UsageError("--save transmission needs --refine physics, which estimates it.")
    if save and engine != DIFFUSION:
        raise click.UsageError(
            f"--save needs --engine {DIFFUSION}: {engine} gives the photo alone."
        )
    quiet_libraries()
    from dehaze import batch
    from dehaze.images import printable

    try:
        plan = batch.plan(inputs, output, beside=[SIDE_FILES[kind] for kind in save])
    except batch.PlanError as error:
        raise CommandError(str(error)) from error
    if not plan.photos and not plan.unreadable:
        raise CommandError(_nothing_to_do(plan))
    process, write = (
        _diffusion(model, device, dtype, recipe, seed, save)
        if engine == DIFFUSION
        else _classical(engine)
    )
    settings = recipe | {
        "version": __version__,
        "model": model,
        "engine": engine,
        "dtype": dtype,
        "seed": seed,
        "save": save,
    }
    for folder in plan.results:
        _say(f"{printable(folder)}: holds results of an earlier run and is not searched")
    try:
        with _Progress(len(plan.photos) + len(plan.unreadable)) as progress:
            summary = batch.run(
                plan,
                process,
                write,
                progress,
                settings=settings,
                overwrite=not resume,
                max_megapixels=max_megapixels,
            )
    except batch.PlanError as error:
        raise CommandError(str(error)) from error
    click.echo(_sentence(plan, summary))
    if summary.interrupted:
        context.exit(INTERRUPTED)
    context.exit(1 if summary.having("failed") else 0)


def _diffusion(
    model: str, device: str, dtype: str, recipe: dict[str, Any], seed: int, save: tuple[str, ...]
) -> tuple[Callable[[Photo], Any], Callable[[PlannedPhoto, Photo, Any], Saved]]:
    """How a photo is dehazed by the model, and how what comes out is written."""
    import torch

    from dehaze.prompts import WordError

    pipe = _load(model, device, dtype)
    try:
        pipe.check_prompt(recipe["prompt"], recipe["word"])
    except WordError as error:
        raise CommandError(str(error)) from error
    given = {name: value for name, value in recipe.items() if value is not None}

    def process(photo: Photo) -> DehazeResult:
        # Anew for each photo: no result depends on which photos came before it.
        torch.manual_seed(seed)
        return pipe(photo.pixels, **given)

    def write(planned: PlannedPhoto, photo: Photo, result: DehazeResult) -> Saved:
        return _write(planned, photo, result, save)

    return process, write


def _classical(
    engine: str,
) -> tuple[Callable[[Photo], Any], Callable[[PlannedPhoto, Photo, Any], Saved]]:
    """How a photo is dehazed by a baseline, and how what comes out is written."""
    from dehaze.eval.baselines import get_baseline

    baseline = get_baseline(engine)
    return lambda photo: baseline.run(photo.pixels), _write_alone


class _Progress:
    """A bar over the photos on stderr, if that is a terminal; failures and notes above it."""

    def __init__(self, total: int) -> None:
        from tqdm import tqdm

        self._bar = tqdm(total=total, unit="photo", file=sys.stderr, disable=None, leave=False)

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def __call__(self, outcome: Outcome) -> None:
        from dehaze.images import printable

        lines = [f"{printable(outcome.source)}: note: {note}" for note in outcome.notes]
        if outcome.error is not None:
            lines.append(str(outcome.error))
        self._bar.update()
        if lines:
            self._bar.clear()
            for line in lines:
                _say(line)
            self._bar.refresh()


def _say(line: str) -> None:
    click.echo(f"dehaze: {line}", err=True)


def _nothing_to_do(plan: Plan) -> str:
    from dehaze.images import PHOTO_SUFFIXES

    others = f" among {len(plan.passed_over)} files" if plan.passed_over else ""
    return f"no photo found{others}; photos end in {', '.join(sorted(PHOTO_SUFFIXES))}"


def _load(model: str, device: str, dtype: str) -> DehazePipeline:
    import torch

    from dehaze.models.load import ModelError
    from dehaze.pipeline import DehazePipeline

    torch_device = _device(device)
    torch_dtype: torch.dtype | None = None if dtype == "auto" else getattr(torch, dtype)
    try:
        pipe = DehazePipeline.from_pretrained(model, torch_dtype=torch_dtype)
    except ModelError as error:
        raise CommandError(str(error)) from error
    pipe.to(torch_device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _device(name: str) -> torch.device:
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise CommandError(
            f"--device {name} cannot be used ({reason}); dehaze doctor lists what can"
        ) from error
    return device


def _write(
    planned: PlannedPhoto, photo: Photo, result: DehazeResult, kinds: tuple[str, ...]
) -> Saved:
    import numpy as np

    from dehaze.attention.maps import overlay
    from dehaze.batch import Saved
    from dehaze.images import Encoding, Photo, write_bytes, write_photo

    beside = {
        kind: planned.output.with_name(planned.output.name + SIDE_FILES[kind]) for kind in kinds
    }
    if "attention" in beside:
        write_photo(beside["attention"], overlay(photo.pixels, result.attention_normalised()))
    if "transmission" in beside and result.transmission is not None:
        grey = np.repeat(result.transmission[..., None], 3, axis=2)
        write_photo(beside["transmission"], grey, like=Photo(grey, encoding=Encoding(grey=True)))
    if "trace" in beside:
        write_bytes(beside["trace"], json.dumps(result.trace.to_dict(), indent=1).encode())
    # The photo comes last: where it is, the files beside it are.
    write_photo(planned.output, result.image, like=photo)
    return Saved(
        files=(planned.output, *beside.values()),
        nfe=result.nfe,
        residual=result.trace.worst_residual,
    )


def _write_alone(planned: PlannedPhoto, photo: Photo, pixels: NDArray[np.float32]) -> Saved:
    from dehaze.batch import Saved
    from dehaze.images import write_photo

    write_photo(planned.output, pixels, like=photo)
    return Saved(files=(planned.output,), nfe=0, residual=math.nan)


def _sentence(plan: Plan, summary: Summary) -> str:
    from dehaze.images import printable

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
    if summary.interrupted:
        left = len(plan.photos) + len(plan.unreadable) - len(summary.outcomes)
        parts.append(f"interrupted with {left} to go, run it again to continue")
    return "; ".join(parts)
