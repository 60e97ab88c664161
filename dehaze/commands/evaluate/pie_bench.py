"""``dehaze evaluate pie-bench``: seven metrics of editing, as published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dehaze.commands import options
from dehaze.commands.command import RESEARCH, Command, option, without
from dehaze.commands.evaluate.parameters import command_line
from dehaze.commands.param_types import Names
from dehaze.commands.reporting import CommandError, note, problem, quiet_libraries, result
from dehaze.errors import DehazeError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dehaze.datasets.pie_bench import EditSample
    from dehaze.models.choice import ModelChoice
    from dehaze.pipelines.edit import EditPipeline
    from dehaze.pipelines.edit_settings import EditSettings


# Whether the edits are made here; with --results they were made elsewhere.
EDITING = without("results")


@click.command(
    "pie-bench", cls=Command, short_help="Score edits by the seven metrics of PIE-Bench."
)
@option(
    "--root",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FOLDER",
    help="PIE-Bench: annotation_images/ and mapping_file.json.",
)
@option(
    "--results",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="FOLDER",
    help="Score results made elsewhere, under the pictures' own paths, rather than edit.",
)
@options.output_folder("pie_bench.md, .csv, .json and the results", "evaluation")
@options.mode(
    default="plain",
    show_default=True,
    effect=EDITING,
    help="What holds guidance to the source, as in edit.",
)
@options.guidance(default=7.5, effect=EDITING, help="Classifier-free guidance of the edit.")
@option(
    "--blend/--no-blend",
    default=False,
    show_default=True,
    heading=RESEARCH,
    effect=EDITING,
    help="Blend the set's words.",
)
@options.limit(help="Only the first N edits.")
@option("--dino", metavar="FOLDER", help="DINO's ViT-B/8.  [default: the hub's cache]")
@options.clip(help="CLIP's ViT-L/14.  [default: the hub's cache]")
@option(
    "--corrected", is_flag=True, help="Give DINO pictures in [0, 1], which the script does not."
)
@options.model(effect=EDITING)
@options.steps(effect=EDITING)
@options.solver(
    "solvers",
    type=Names(options.solver_names),
    default=(),
    metavar="NAMES",
    effect=EDITING,
    help="How each step is inverted, with commas between: a row of the table for each; a wrong "
    f"name lists them.  {options.OF_MODEL}",
)
@options.criterion(
    "criteria",
    type=Names(options.criterion_names),
    default=(),
    metavar="NAMES",
    effect=(EDITING, options.used_by_solver("criterion", "solvers")),
    help="When a step is done, with commas between: a row of the table for each.",
)
@options.iterations(effect=(EDITING, options.used_by_solver("max_iterations", "solvers")))
@options.tolerance(effect=(EDITING, options.used_by_solver("tolerance", "solvers")))
@click.pass_context
def pie_bench(
    context: click.Context,
    /,
    root: Path,
    results: Path | None,
    output: Path,
    mode: str,
    guidance_scale: float,
    blend: bool,
    limit: int | None,
    dino: str | None,
    clip: str | None,
    corrected: bool,
    model: ModelChoice,
    steps: int | None,
    solvers: tuple[str, ...],
    criteria: tuple[str, ...],
    max_iterations: int | None,
    tolerance: float | None,
) -> None:
    """Edit PIE-Bench's pictures, or take results, and compute its seven metrics.

    With several solvers or criteria the table has a row for each. Prompt-to-Prompt on plain DDIM
    inversion, on fixed points by the intra-path and by the inter-path criterion:

    \b
      dehaze evaluate pie-bench --root PIE-Bench --solver ddim,fixed-point \\
        --criterion intra-path,inter-path --iterations 10

    A metric whose network is not on this machine is named, and the others are computed. Nothing is
    downloaded.

    Exit code: 0, all edits were scored; 1, some failed and are named; 2, the command is wrong.
    """
    quiet_libraries()
    from dehaze.datasets.pie_bench import open_pie_bench
    from dehaze.eval.pie_bench.metrics import DINO, load_metrics
    from dehaze.eval.pie_bench.table import PieBenchComparison, score_edits
    from dehaze.models.clip import CLIP
    from dehaze.pipelines.edit import EditPipeline
    from dehaze.pipelines.edit_settings import EditSettings

    try:
        samples = open_pie_bench(root)[:limit]
        metrics = load_metrics(dino or DINO, clip or CLIP, corrected=corrected)
        rows: dict[str, _Pictures] = {}
        if results is not None:
            rows[f"results in {results}"] = _Pictures(results, None)
        else:
            settings = EditSettings(guidance_scale=guidance_scale, mode=mode)
            limits = {"max_iterations": max_iterations, "tolerance": tolerance}
            pipe = model.load(EditPipeline)
            ways = _ways(solvers, criteria, limits)
            for way, inverting in ways.items():
                name = f"{model.model}, {mode}, guidance {guidance_scale:g}"
                edit = _Edit(pipe, settings, blend, {"num_inference_steps": steps, **inverting})
                folder = output / way / "results" if len(ways) > 1 else output / "results"
                rows[f"{way}: {name}" if way else name] = _Pictures(folder, edit)
        tables = [
            score_edits(
                samples, pictures, metrics, method=method, command=command_line(), on_edit=note
            )
            for method, pictures in rows.items()
        ]
        table = tables[0] if len(tables) == 1 else PieBenchComparison(tuple(tables))
        result(table.markdown())
        written = table.write(output)
    except (DehazeError, ValueError) as error:
        raise CommandError(str(error)) from error
    for line in table.failures:
        problem(f"failed: {line}")
    note(f"written: {', '.join(map(str, written))}")
    context.exit(1 if table.failures else 0)


def _ways(
    solvers: tuple[str, ...], criteria: tuple[str, ...], limits: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """The inversion of each row, by the row's name; a single one without a name by default.

    A setting without effect on a solver is left out of its row.
    """
    from dehaze.inversion.solvers import idle_settings

    ways: dict[str, dict[str, Any]] = {}
    for solver in solvers or (None,):
        for criterion in criteria or (None,):
            chosen = {"solver": solver, "criterion": criterion, **limits}
            idle = () if solver is None else idle_settings(solver)
            given = {
                name: value
                for name, value in chosen.items()
                if value is not None and name not in idle
            }
            name = "-".join(given[each] for each in ("solver", "criterion") if each in given)
            ways[name] = given
    return ways


@dataclass(frozen=True)
class _Pictures:
    """An edit's source and result, uint8 (H, W, 3) each.

    Attributes:
        results: the folder of the results, which have the pictures' own paths below it.
        edit: makes the result and saves it there first; None where it is there already.
    """

    results: Path
    edit: _Edit | None

    def __call__(self, sample: EditSample) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        from dehaze.datasets import read_rgb

        source = read_rgb(sample.picture).pixels
        result = self.results / sample.relative
        if self.edit is not None:
            result = result.with_suffix(".png")
            self.edit(sample, source, result)
        elif not result.is_file():
            result = result.with_suffix(".png")
        return source, read_rgb(result).pixels


@dataclass(frozen=True)
class _Edit:
    """How PIE-Bench's pictures are edited.

    Attributes:
        pipe: with the model.
        settings: of every edit.
        blend: whether a change is held to the words that the data set names.
        inverting: of ``EditPipeline``'s call; None leaves one to the model.
    """

    pipe: EditPipeline
    settings: EditSettings
    blend: bool
    inverting: Mapping[str, Any]

    def __call__(self, sample: EditSample, source: NDArray[np.uint8], result: Path) -> None:
        from dehaze.photos import write_photo

        # An earlier result must not stand for an edit that now fails.
        result.unlink(missing_ok=True)
        settings = replace(self.settings, blend=sample.blended) if self.blend else self.settings
        edited = self.pipe(
            source,
            sample.source,
            sample.target,
            settings,
            recovery="none",
            **self.inverting,
        )
        result.parent.mkdir(parents=True, exist_ok=True)
        write_photo(result, edited.image)
