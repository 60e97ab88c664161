"""Common to ``evaluate reside`` and ``evaluate folder``: the options, and the run itself."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dehaze.commands import options
from dehaze.commands.command import (
    RESEARCH,
    Condition,
    Values,
    option,
    refuse_idle_options,
    several,
    without,
)
from dehaze.commands.evaluate.parameters import Size, command_line
from dehaze.commands.param_types import Names, RegistryChoice
from dehaze.commands.progress import progress
from dehaze.commands.reporting import CommandError, note, problem, quiet_libraries, result
from dehaze.errors import DehazeError

if TYPE_CHECKING:
    from dehaze.eval.methods import Method, PipelineOptions
    from dehaze.eval.perceptual import PerceptualMetric
    from dehaze.eval.protocol import BenchProtocol
    from dehaze.eval.runner import EvaluationSet
    from dehaze.models.choice import ModelChoice

INTERRUPTED = 130
UNSCORED = (
    "there is no ground truth, so nothing is scored: report.html shows the pictures side by side; "
    "--perceptual names metrics that need none, for instance niqe (dehaze-diffusion[iqa])"
)


def _ssim_variants() -> Iterable[str]:
    from dehaze.eval.protocol import SSIM_VARIANTS

    return SSIM_VARIANTS.names()


def _psnr_variants() -> Iterable[str]:
    from dehaze.eval.protocol import PSNR_VARIANTS

    return PSNR_VARIANTS.names()


def _rows(given: Values) -> set[str]:
    """The names of the table's rows, without their arguments."""
    return {method.partition(":")[0] for method in given["methods"]}


def _runs_model(given: Values) -> bool:
    return bool(_rows(given) & {"ours", "codec", "inversion"})


WITH_MODEL = Condition(_runs_model, "with --method ours, codec or inversion")
WITH_OURS = Condition(lambda given: "ours" in _rows(given), "with --method ours")


def _compares(given: Values) -> bool:
    """Whether a row is compared with a reference; the inversion ceiling has its own."""
    return given["any_paired"] or "inversion" in _rows(given)


WITH_REFERENCE = Condition(_compares, "with ground truth or --method inversion", of_input=True)
WITH_SCORES = Condition(
    lambda given: _compares(given) or bool(given["perceptual"]),
    "with ground truth, --method inversion or --perceptual",
    of_input=True,
)
WITH_TRUTH = Condition(lambda given: given["paired"], "with ground truth", of_input=True)

# The options of a run that scores methods.
scoring_options = several(
    options.output_folder("table, scores and pictures", "evaluation"),
    option(
        "--method",
        "methods",
        multiple=True,
        default=("ours",),
        show_default=True,
        metavar="METHOD",
        help=(
            "A row of the table; may be repeated. dcp, cap, clahe, darktable; ours, or "
            "ours:solver=NAME,recovery=NAME,steps=N,model=M; folder:NAME=PATH for results made "
            "elsewhere. The hazy input and dcp always stand beside."
        ),
    ),
    option(
        "--ceilings/--no-ceilings",
        effect=(WITH_OURS, WITH_TRUTH),
        default=True,
        show_default=True,
        heading=RESEARCH,
        help="Also a row of what the model's codec keeps, and one of codec and inversion.",
    ),
    options.limit(help="At most N pictures of each data set, evenly spread."),
    option(
        "--ssim",
        effect=WITH_REFERENCE,
        type=RegistryChoice(_ssim_variants),
        default="wang",
        show_default=True,
        metavar="VARIANT",
        heading=RESEARCH,
        help="Kind of SSIM: wang, dehazeformer, ffa, skimage7, y or d4.",
    ),
    option(
        "--psnr",
        effect=WITH_REFERENCE,
        type=RegistryChoice(_psnr_variants),
        default="rgb",
        show_default=True,
        metavar="VARIANT",
        heading=RESEARCH,
        help="Kind of PSNR: rgb, y601 or yiq.",
    ),
    option(
        "--float",
        "unrounded",
        effect=WITH_SCORES,
        is_flag=True,
        heading=RESEARCH,
        help="Score the float output, not the saved PNG.",
    ),
    option(
        "--crop-border",
        effect=WITH_REFERENCE,
        type=click.IntRange(min=0),
        metavar="N",
        default=0,
        show_default=True,
        heading=RESEARCH,
        help="Cut off N pixels at each side before scoring.",
    ),
    option(
        "--resize",
        type=Size(),
        heading=RESEARCH,
        help="Resize all pictures first; labelled non-standard.",
    ),
    option(
        "--oracle",
        effect=WITH_TRUTH,
        is_flag=True,
        heading=RESEARCH,
        help="Let the ground truth choose each picture's best candidate; labelled ORACLE.",
    ),
    option(
        "--perceptual",
        type=Names(),
        default=(),
        help="Metrics of pyiqa with commas between them (lpips,niqe,musiq); needs "
        "dehaze-diffusion[iqa].",
    ),
    options.model(
        effect=WITH_MODEL,
        device=Condition(
            lambda given: _runs_model(given) or bool(given["perceptual"]),
            "with --method ours, codec or inversion, or --perceptual",
        ),
    ),
    options.prompt(effect=WITH_MODEL),
    options.word(effect=WITH_MODEL),
    # The oracle tries strengths of its own.
    options.strength(effect=(WITH_OURS, without("oracle"))),
    options.solver(effect=WITH_MODEL),
    options.steps(effect=WITH_MODEL),
    options.tolerance(effect=(WITH_MODEL, options.used_by_solver("tolerance"))),
    options.recovery(default="physics", effect=WITH_OURS),
    options.resume(),
)


def score_methods(
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
    model: ModelChoice,
    resume: bool,
    seed: int = 0,
    **pipeline: Any,
) -> int:
    """Score every method on every set, write the files, print the table.

    Args:
        sets: what is scored.
        **pipeline: options of ``PipelineOptions``; the others are those of ``scoring_options``.

    Returns:
        The exit code: 0 where all was scored, 1 where something failed, 130 after Ctrl-C.

    Raises:
        click.UsageError: an option has no effect on these sets.
        CommandError: the run cannot start.
    """
    unpaired = [part.name for part in sets if not part.dataset.paired]
    paired, any_paired = not unpaired, len(unpaired) < len(sets)
    refuse_idle_options(click.get_current_context(), {"paired": paired, "any_paired": any_paired})
    quiet_libraries()
    from dehaze.commands.evaluate.reporting import report_of_evaluation
    from dehaze.eval.methods import PipelineOptions
    from dehaze.eval.protocol import BenchProtocol
    from dehaze.eval.results import result_files, write_results
    from dehaze.eval.runner import Runner
    from dehaze.eval.tables import markdown_table
    from dehaze.report import REPORT_NAME, write_report

    protocol = BenchProtocol(psnr, ssim, unrounded, crop_border, resize, oracle, perceptual)
    try:
        runner = Runner(
            sets=sets,
            methods=_methods(
                methods, PipelineOptions(model=model, **pipeline), ceilings and paired
            ),
            protocol=protocol,
            out=output,
            seed=seed,
            command=command_line(),
            perceptual=_perceptual_metrics(protocol, model.device, unpaired),
            overwrite=not resume,
            further_files=(REPORT_NAME,),
        )
        with progress(runner.total, "image") as ended:
            evaluation = runner.run(on_record=lambda record, kept: ended(kept=kept))
    except DehazeError as error:
        raise CommandError(str(error)) from error
    except KeyboardInterrupt:
        problem("interrupted; the same command continues from here")
        return INTERRUPTED
    write_results(runner, evaluation)
    result(markdown_table(runner, evaluation))
    if not any_paired and not perceptual:
        note(UNSCORED)
    elif any_paired and not paired:
        note(_partly_scored(unpaired, ceilings and "ours" in _rows({"methods": methods})))
    for line in evaluation.failures:
        problem(f"failed: {line}")
    # At the end, since it refuses to replace another page: nothing that was scored is unsaid.
    write_report(output / REPORT_NAME, report_of_evaluation(runner, evaluation))
    written = [*result_files(output), output / REPORT_NAME]
    note(f"written: {', '.join(map(str, written))}")
    return 1 if evaluation.failures else 0


def _partly_scored(unpaired: list[str], ceilings: bool) -> str:
    """What is said where only some data sets have ground truth.

    Args:
        unpaired: names of those that have none.
        ceilings: whether the ceilings were asked for.
    """
    text = f"there is no ground truth in {', '.join(unpaired)}, so nothing is compared there"
    return f"{text}; the ceilings are left out, since they need it everywhere" if ceilings else text


def _methods(
    specifications: tuple[str, ...], options: PipelineOptions, ceilings: bool
) -> tuple[Method, ...]:
    from dehaze.eval.methods import parse_method, with_companions

    rows = with_companions(list(specifications), ceilings=ceilings)
    return tuple(parse_method(row, options) for row in rows)


def _perceptual_metrics(
    protocol: BenchProtocol, device: str, unpaired: list[str]
) -> tuple[PerceptualMetric, ...]:
    if not protocol.perceptual:
        return ()
    from dehaze.eval.perceptual import load_perceptual_metric
    from dehaze.models.choice import find_device

    place = str(find_device(device))
    try:
        loaded = tuple(load_perceptual_metric(name, place) for name in protocol.perceptual)
    except DehazeError as error:
        raise CommandError(str(error)) from error
    needing = [metric.name for metric in loaded if metric.full_reference]
    if needing and unpaired:
        raise CommandError(
            f"{', '.join(needing)} compares with ground truth, and there is none in "
            f"{', '.join(unpaired)}: leave out the metric or the data"
        )
    return loaded
