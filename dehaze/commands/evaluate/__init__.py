"""``dehaze evaluate``: numbers that name their protocol and can be produced again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dehaze.commands import CommandError, RegistryChoice, quiet_libraries
from dehaze.commands.evaluate.appearance import appearance
from dehaze.commands.evaluate.convergence import convergence
from dehaze.commands.evaluate.parameters import (
    Names,
    Numbers,
    Size,
    command_line,
    device_option,
    limit_option,
    model_option,
    output_option,
)
from dehaze.commands.evaluate.pie_bench import pie_bench

if TYPE_CHECKING:
    from dehaze.eval.methods import Method, PipelineOptions
    from dehaze.eval.perceptual import PerceptualMetric
    from dehaze.eval.protocol import BenchProtocol
    from dehaze.eval.runner import EvaluationSet

INTERRUPTED = 130


def _ssim_variants() -> Iterable[str]:
    from dehaze.eval.protocol import SSIM_VARIANTS

    return SSIM_VARIANTS


def _psnr_variants() -> Iterable[str]:
    from dehaze.eval.protocol import PSNR_VARIANTS

    return PSNR_VARIANTS


def _solvers() -> Iterable[str]:
    from dehaze.inversion import list_methods

    return list_methods()


def _refinements() -> Iterable[str]:
    from dehaze.recovery.recover import REFINEMENTS

    return REFINEMENTS


def _haze_kinds() -> Iterable[str]:
    from dehaze.datasets.synthesis import HAZE_KINDS

    return HAZE_KINDS


_OPTIONS = (
    output_option("table, scores and pictures"),
    click.option(
        "--method",
        "methods",
        multiple=True,
        default=("ours",),
        show_default=True,
        metavar="METHOD",
        help=(
            "A row of the table; may be repeated. dcp, cap, clahe, darktable; ours, or "
            "ours:solver=NAME,refine=NAME,steps=N,model=M; folder:NAME=PATH for results made "
            "elsewhere. The hazy input and dcp always stand beside."
        ),
    ),
    click.option(
        "--ceilings/--no-ceilings",
        default=True,
        show_default=True,
        help="Rows for what codec and inversion keep, beside each ours.",
    ),
    click.option(
        "--limit",
        type=click.IntRange(min=1),
        help="At most so many images of each data set, evenly spread.",
    ),
    click.option(
        "--ssim",
        type=RegistryChoice(_ssim_variants),
        default="wang",
        show_default=True,
        metavar="VARIANT",
        help="wang, dehazeformer, ffa, skimage7, y or d4.",
    ),
    click.option(
        "--psnr",
        type=RegistryChoice(_psnr_variants),
        default="rgb",
        show_default=True,
        metavar="VARIANT",
        help="rgb, y601 or yiq.",
    ),
    click.option(
        "--float", "unrounded", is_flag=True, help="Score the float output, not the saved PNG."
    ),
    click.option(
        "--crop-border",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Pixels cut off each side before scoring.",
    ),
    click.option("--resize", type=Size(), help="Resize all pictures first; labelled non-standard."),
    click.option(
        "--oracle",
        is_flag=True,
        help="Let the ground truth choose each picture's best candidate; labelled ORACLE.",
    ),
    click.option(
        "--perceptual",
        type=Names(),
        default=(),
        help="Metrics of pyiqa with commas between them (lpips,niqe,musiq); needs dehaze[iqa].",
    ),
    click.option("--model", default="bundled", show_default=True, help="For ours, as in run."),
    click.option("--prompt", help="For ours.  [default: the model's]"),
    click.option("--word", help="For ours.  [default: the model's]"),
    click.option("--strength", type=click.FloatRange(min=0), default=1.0, show_default=True),
    click.option(
        "--solver",
        type=RegistryChoice(_solvers),
        metavar="NAME",
        help="For ours; a wrong name lists them.  [default: the model's]",
    ),
    click.option("--steps", type=click.IntRange(min=1), help="For ours.  [default: the model's]"),
    click.option(
        "--tolerance",
        type=click.FloatRange(min=0, min_open=True),
        help="For ours.  [default: the model's]",
    ),
    click.option(
        "--refine",
        type=RegistryChoice(_refinements),
        default="calibrated",
        show_default=True,
        metavar="NAME",
        help="For ours: calibrated, physics, affine or none.",
    ),
    click.option("--device", default="auto", show_default=True, help="For ours and pyiqa."),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True),
    click.option(
        "--resume/--overwrite",
        default=True,
        show_default=True,
        help="Continue a run under the same settings, or replace what is there.",
    ),
)


def _evaluation_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.group(short_help="Measure methods on published data sets or your own pictures.")
def evaluate() -> None:
    """Measure methods on published data sets or your own pictures.

    Every number names its protocol, "dehaze-bench v1" or a variant of it. A run that is
    interrupted continues where it stopped.

    Exit code: 0, all was scored; 1, something failed and is named; 2, the command is wrong.
    """


@evaluate.command()
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FOLDER",
    help="The folder that holds the data sets.",
)
@click.option(
    "--subset",
    "subsets",
    type=Names(),
    default="sots-indoor,sots-outdoor",
    show_default=True,
    help="Data sets with commas between them; a wrong name lists them.",
)
@_evaluation_options
@click.pass_context
def reside(
    context: click.Context,
    /,
    root: Path,
    subsets: tuple[str, ...],
    limit: int | None,
    **choices: Any,
) -> None:
    """Score methods on RESIDE, NTIRE's sets and Haze4K."""
    from dehaze.datasets import DatasetNotFoundError
    from dehaze.eval.reside import open_subsets

    try:
        sets = open_subsets(root, subsets, limit)
    except KeyError as error:
        raise click.BadParameter(str(error.args[0]), param_hint="--subset") from error
    except DatasetNotFoundError as error:
        raise CommandError(str(error)) from error
    context.exit(_evaluate(sets, **choices))


@evaluate.command()
@click.argument("pictures", metavar="FOLDER", type=click.Path(path_type=Path))
@click.option(
    "--gt",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="The ground truth of the pictures in FOLDER.",
)
@click.option(
    "--render",
    type=RegistryChoice(_haze_kinds),
    metavar="KIND",
    help="Render haze, fog, mist, smog or smoke over the clear pictures in FOLDER first.",
)
@_evaluation_options
@click.pass_context
def folder(
    context: click.Context,
    /,
    pictures: Path,
    gt: Path | None,
    render: str | None,
    limit: int | None,
    **choices: Any,
) -> None:
    """Score methods on any FOLDER of pictures.

    FOLDER holds hazy/ and gt/, or hazy pictures whose ground truth --gt names, or any pictures
    without ground truth, which --perceptual scores. With --render it holds clear pictures: haze of
    known transmission and airlight is rendered over them, and the haze maps are scored, too.
    """
    from dehaze.datasets import (
        DatasetNotFoundError,
        open_folder,
        open_paired_folder,
        open_photo_folder,
        render_dataset,
    )
    from dehaze.eval.runner import EvaluationSet
    from dehaze.photos import PhotoError

    if gt is not None and render is not None:
        raise click.UsageError("--gt names the truth of hazy pictures, --render makes hazy ones.")
    try:
        if render is not None:
            dataset = render_dataset(
                open_photo_folder(pictures),
                choices["output"] / "rendered",
                kind=render,
                seed=choices["seed"],
                limit=limit,
            )
        else:
            dataset = open_folder(pictures) if gt is None else open_paired_folder(pictures, gt)
    except (DatasetNotFoundError, PhotoError) as error:
        raise CommandError(str(error)) from error
    samples = dataset.samples if limit is None else dataset.spread(limit)
    context.exit(_evaluate((EvaluationSet(dataset, samples),), **choices))


@evaluate.command()
@click.argument("pictures", metavar="FOLDER", type=click.Path(path_type=Path))
@output_option("inversion.md, .csv, .json and .png")
@click.option(
    "--method",
    "methods",
    multiple=True,
    default=("ddim", "easyinv", "fixed-point:iterations=10", "best", "edict", "bdia"),
    show_default=True,
    metavar="METHOD",
    help=(
        "A row of the table; may be repeated. SOLVER, or SOLVER:predictor=P,relaxation=R,"
        "criterion=C,iterations=K,tolerance=T,mode=M; a wrong name lists them. best: what "
        "reconstructs best for its cost."
    ),
)
@click.option(
    "--steps",
    type=Numbers(int),
    default="10,20,50",
    show_default=True,
    help="Numbers of steps with commas between them.",
)
@click.option(
    "--guidance",
    type=Numbers(float),
    default="1",
    show_default=True,
    help="Guidance scales with commas between them.",
)
@click.option(
    "--render", type=RegistryChoice(_haze_kinds), metavar="KIND", help="As in evaluate folder."
)
@limit_option
@click.option("--lpips", is_flag=True, help="LPIPS as well; needs dehaze[iqa] and its weights.")
@model_option
@device_option
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="For haze.")
def inversion(
    pictures: Path,
    output: Path,
    methods: tuple[str, ...],
    steps: tuple[int, ...],
    guidance: tuple[float, ...],
    render: str | None,
    limit: int | None,
    lpips: bool,
    model: str,
    device: str,
    seed: int,
) -> None:
    """Reconstruct the pictures of a FOLDER, solver by solver.

    Each picture is inverted and denoised under the same prompt. The table has PSNR, latent error
    and time beside the cost in network evaluations; the plot draws one against the other.
    """
    quiet_libraries()
    from dehaze.datasets import (
        DatasetNotFoundError,
        open_photo_folder,
        read_rgb,
        render_dataset,
    )
    from dehaze.eval.inversion import (
        InversionEvaluationError,
        evaluate_inversion,
        import_figure,
        parse_inversion_method,
    )
    from dehaze.eval.methods import MethodError, PipelineOptions, load_pipeline
    from dehaze.eval.perceptual import PerceptualMetricError, load_perceptual_metric
    from dehaze.inversion import NonFiniteError
    from dehaze.photos import PhotoError
    from dehaze.pipelines.base import as_pixels

    try:
        chosen = [parse_inversion_method(method) for method in methods]
        import_figure()
        place = "cpu" if device == "auto" else device
        metric = load_perceptual_metric("lpips", place) if lpips else None
        dataset = open_photo_folder(pictures)
        if render is not None:
            dataset = render_dataset(
                dataset, output / "rendered", kind=render, seed=seed, limit=limit
            )
        samples = dataset.samples if limit is None else dataset.spread(limit)
        photos = [as_pixels(read_rgb(sample.hazy).pixels) for sample in samples]
        table = evaluate_inversion(
            load_pipeline(PipelineOptions(model=model, device=device)),
            photos,
            chosen,
            steps=steps,
            guidance_scales=guidance,
            command=command_line(),
            lpips=metric,
            on_score=lambda score: click.echo(
                f"{score.steps} steps, guidance {score.guidance_scale:g}, {score.method.family}: "
                f"{score.psnr:.2f} dB at {score.nfe_per_step:.2f} NFE a step",
                err=True,
            ),
        )
        click.echo(table.markdown())
        written = table.write(output)
    except (
        DatasetNotFoundError,
        InversionEvaluationError,
        MethodError,
        NonFiniteError,
        PerceptualMetricError,
        PhotoError,
        ValueError,
    ) as error:
        raise CommandError(str(error)) from error
    click.echo(f"Written: {', '.join(map(str, written))}", err=True)


def _evaluate(
    sets: tuple[EvaluationSet, ...],
    *,
    output: Path,
    methods: tuple[str, ...],
    ceilings: bool,
    ssim: str,
    psnr: str,
    unrounded: bool,
    crop_border: int,
    resize: tuple[int, int] | None,
    oracle: bool,
    perceptual: tuple[str, ...],
    device: str,
    seed: int,
    resume: bool,
    **pipeline: Any,
) -> int:
    quiet_libraries()
    from dehaze.eval.methods import MethodError, PipelineOptions
    from dehaze.eval.protocol import BenchProtocol
    from dehaze.eval.results import markdown_table, result_files, write_results
    from dehaze.eval.runner import EvaluationError, Runner

    protocol = BenchProtocol(psnr, ssim, unrounded, crop_border, resize, oracle, perceptual)
    paired = all(part.dataset.paired for part in sets)
    try:
        runner = Runner(
            sets=sets,
            methods=_methods(
                methods, PipelineOptions(device=device, **pipeline), ceilings and paired
            ),
            protocol=protocol,
            out=output,
            seed=seed,
            command=command_line(),
            perceptual=_perceptual_metrics(protocol, device, paired),
            overwrite=not resume,
        )
        evaluation = runner.run()
    except (MethodError, EvaluationError) as error:
        raise CommandError(str(error)) from error
    except KeyboardInterrupt:
        click.echo("dehaze: interrupted; the same command continues from here", err=True)
        return INTERRUPTED
    write_results(runner, evaluation)
    click.echo(markdown_table(runner, evaluation))
    for line in evaluation.failures:
        click.echo(f"dehaze: failed: {line}", err=True)
    click.echo(f"Written: {', '.join(str(path) for path in result_files(output))}", err=True)
    return 1 if evaluation.failures else 0


def _methods(
    specifications: tuple[str, ...], options: PipelineOptions, ceilings: bool
) -> tuple[Method, ...]:
    from dehaze.eval.methods import parse_method, with_companions

    rows = with_companions(list(specifications), ceilings=ceilings)
    return tuple(parse_method(row, options) for row in rows)


def _perceptual_metrics(
    protocol: BenchProtocol, device: str, paired: bool
) -> tuple[PerceptualMetric, ...]:
    if not protocol.perceptual:
        if not paired:
            raise CommandError(
                "there is no ground truth, so only no-reference metrics can score these pictures; "
                "name some, for instance --perceptual niqe (pip install 'dehaze[iqa]')"
            )
        return ()
    from dehaze.eval.perceptual import PerceptualMetricError, load_perceptual_metric

    place = "cpu" if device == "auto" else device
    try:
        loaded = tuple(load_perceptual_metric(name, place) for name in protocol.perceptual)
    except PerceptualMetricError as error:
        raise CommandError(str(error)) from error
    needing = [metric.name for metric in loaded if metric.full_reference]
    if needing and not paired:
        raise CommandError(f"{', '.join(needing)} compares with ground truth, and there is none")
    return loaded


evaluate.add_command(appearance)
evaluate.add_command(convergence)
evaluate.add_command(pie_bench)
