"""``dehaze evaluate variants``: haze removal by null-text inversion and by fixed points."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dehaze.commands import options
from dehaze.commands.command import Command
from dehaze.commands.evaluate.parameters import command_line
from dehaze.commands.evaluate.pictures import open_pictures, truth_options
from dehaze.commands.evaluate.scoring import INTERRUPTED
from dehaze.commands.param_types import RegistryChoice
from dehaze.commands.progress import progress
from dehaze.commands.reporting import CommandError, note, problem, quiet_libraries, result
from dehaze.errors import DehazeError

if TYPE_CHECKING:
    from dehaze.models.choice import ModelChoice


def _fixed_point_solvers() -> Iterable[str]:
    """The solvers of DDIM's steps that a criterion stops."""
    from dehaze.inversion.solvers import SOLVERS, idle_settings

    return [name for name in SOLVERS.names() if "criterion" not in idle_settings(name)]


@click.command(cls=Command, short_help="Draw null-text inversion beside fixed points.")
@click.argument("pictures", metavar="FOLDER", type=click.Path(path_type=Path))
@options.output_folder("figure, table, scores and pictures", "evaluation")
@truth_options
@options.limit()
@options.guidance(default=1.0, help="Classifier-free guidance of the way back; 1 is none.")
@options.prompt()
@options.word()
@options.figure(
    default="png,pdf,svg",
    show_default=True,
    help="Kinds of the figure's file, comma-separated; needs dehaze-diffusion[plots].",
)
@options.model()
@options.solver(
    type=RegistryChoice(_fixed_point_solvers),
    default="fixed-point",
    show_default=True,
    help="How the fixed points are found; a wrong name lists the ways.",
)
@options.predictor(default="previous", show_default=True, help="What the solver starts from.")
@options.criterion(
    default="inter-path",
    show_default=True,
    help="When a step is done; a wrong name lists the criteria.",
)
@options.iterations(default=10, show_default=True, help="The solver's limit a step.")
@options.tolerance()
@options.steps()
@options.recovery(default="physics")
@options.resume()
@click.pass_context
def variants(
    context: click.Context,
    /,
    pictures: Path,
    output: Path,
    gt: Path | None,
    render: str | None,
    seed: int,
    limit: int | None,
    figures: tuple[str, ...],
    model: ModelChoice,
    resume: bool,
    **chosen: Any,
) -> None:
    """Remove the haze of the photos in FOLDER in three ways, and draw them side by side.

    The ways are null-text inversion on plain DDIM inversion, null-text on a fixed-point inversion,
    and the fixed-point inversion without null-text, each with its haze attention map. Rows are
    photos, up to six. With ground truth (FOLDER holds hazy/ and gt/, or --gt, or --render) the
    table has PSNR and SSIM.

    \b
      dehaze evaluate variants photos/ -o runs/variants
      dehaze evaluate variants clear/ --render haze --guidance 3 -o runs/variants

    At guidance 1 null-text has nothing to fit: the first way is plain DDIM inversion, and the two
    others are one.

    Exit code: 0, all was done; 1, something failed and is named; 2, the command is wrong.
    """
    quiet_libraries()
    from dehaze.commands.evaluate.reporting import report_of_evaluation
    from dehaze.eval.methods import HazyInput, PipelineOptions, load_pipeline
    from dehaze.eval.plots import FIGURES, import_figure
    from dehaze.eval.protocol import BenchProtocol
    from dehaze.eval.results import result_files, write_results
    from dehaze.eval.runner import EvaluationSet, Runner
    from dehaze.eval.tables import markdown_table
    from dehaze.eval.variants import draw_figure
    from dehaze.eval.variants import variants as methods
    from dehaze.photos import write_bytes
    from dehaze.report import REPORT_NAME, write_report

    dataset = open_pictures(pictures, output, gt=gt, render=render, seed=seed, limit=limit)
    samples = dataset.spread(limit)
    settings = PipelineOptions(model=model, **chosen)
    try:
        import_figure()
        word = settings.word or load_pipeline(settings).default_word
        runner = Runner(
            sets=(EvaluationSet(dataset, samples),),
            methods=(HazyInput("hazy", "the hazy input"), *methods(settings)),
            protocol=BenchProtocol(),
            out=output,
            seed=seed,
            command=command_line(),
            overwrite=not resume,
            keeps_attention=True,
            further_files=(REPORT_NAME, *(f"variants.{kind}" for kind in FIGURES)),
        )
        with progress(runner.total, "image") as ended:
            evaluation = runner.run(on_record=lambda record, kept: ended(kept=kept))
        drawn = draw_figure(runner, word, figures)
    except (DehazeError, ValueError) as error:
        raise CommandError(str(error)) from error
    except KeyboardInterrupt:
        problem("interrupted; the same command continues from here")
        context.exit(INTERRUPTED)
    write_results(runner, evaluation)
    for kind in set(FIGURES) - set(drawn):
        (output / f"variants.{kind}").unlink(missing_ok=True)
    for kind, content in drawn.items():
        write_bytes(output / f"variants.{kind}", content)
    result(markdown_table(runner, evaluation))
    if settings.guidance_scale == 1.0:
        note("at guidance 1 null-text has nothing to fit: see --guidance")
    for line in evaluation.failures:
        problem(f"failed: {line}")
    # At the end, since it refuses to replace another page: nothing that was scored is unsaid.
    write_report(output / REPORT_NAME, report_of_evaluation(runner, evaluation))
    written = [*(output / f"variants.{kind}" for kind in drawn), *result_files(output)]
    note(f"written: {', '.join(map(str, [*written, output / REPORT_NAME]))}")
    context.exit(1 if evaluation.failures else 0)
