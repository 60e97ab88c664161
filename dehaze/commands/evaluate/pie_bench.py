"""``dehaze evaluate pie-bench``: seven metrics of editing, as published."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dehaze.commands import options
from dehaze.commands.command import RESEARCH, Command, option, without
from dehaze.commands.evaluate.parameters import command_line
from dehaze.commands.options import RegistryChoice
from dehaze.commands.reporting import CommandError, note, problem, quiet_libraries, result
from dehaze.errors import DehazeError

if TYPE_CHECKING:
    from dehaze.datasets.pie_bench import EditSample
    from dehaze.models.choice import ModelChoice
    from dehaze.pipelines.edit import EditPipeline, EditSettings


# The edits are made here, or were made elsewhere.
EDITING = without("results")


def _modes() -> Iterable[str]:
    from dehaze.commands.edit import _modes

    return _modes()


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
@option(
    "--mode",
    type=RegistryChoice(_modes),
    metavar="NAME",
    default="plain",
    show_default=True,
    heading=RESEARCH,
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
@options.limit(help="The first so many edits only.")
@option("--dino", metavar="FOLDER", help="DINO's ViT-B/8.  [default: the hub's cache]")
@option("--clip", metavar="FOLDER", help="CLIP's ViT-L/14.  [default: the hub's cache]")
@option(
    "--corrected", is_flag=True, help="Give DINO pictures in [0, 1], which the script does not."
)
@options.model(effect=EDITING)
@options.steps(effect=EDITING)
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
) -> None:
    """Edit PIE-Bench's pictures, or take results, and compute its seven metrics.

    A metric whose network is not on this machine is named, and the others are computed. Nothing is
    downloaded.

    Exit code: 0, all edits were scored; 1, some failed and are named; 2, the command is wrong.
    """
    quiet_libraries()
    from dehaze.datasets.pie_bench import open_pie_bench
    from dehaze.eval.pie_bench import CLIP, DINO, load_metrics, score_edits
    from dehaze.pipelines.edit import EditPipeline, EditSettings

    try:
        samples = open_pie_bench(root)[:limit]
        metrics = load_metrics(dino or DINO, clip or CLIP, corrected=corrected)
        pipe = None
        settings = EditSettings()
        if results is None:
            pipe = model.load(EditPipeline)
            # Without guidance there is nothing that a mode could hold.
            settings = EditSettings(guidance_scale=guidance_scale, mode=mode)
        made = results or output / "results"
        ours = f"{model.model}, {mode}, guidance {guidance_scale:g}"
        method = f"results in {results}" if results else ours
        table = score_edits(
            [
                (
                    sample.key,
                    sample.kind,
                    sample.target,
                    sample.mask,
                    _pictures(sample, made, pipe, settings, blend, {"num_inference_steps": steps}),
                )
                for sample in samples
            ],
            metrics,
            method=method,
            command=command_line(),
            on_edit=note,
        )
        result(table.markdown())
        written = table.write(output)
    except (DehazeError, ValueError) as error:
        raise CommandError(str(error)) from error
    for line in table.failures:
        problem(f"failed: {line}")
    note(f"written: {', '.join(map(str, written))}")
    context.exit(1 if table.failures else 0)


def _pictures(
    sample: EditSample,
    made: Path,
    pipe: EditPipeline | None,
    settings: EditSettings,
    blend: bool,
    inverting: dict[str, Any],
) -> Callable[[], tuple[Any, Any]]:
    """Source and result as uint8 (H, W, 3): edited and saved first where there is a pipeline."""

    def pictures() -> tuple[Any, Any]:
        from dataclasses import replace

        from dehaze.datasets import read_rgb
        from dehaze.photos import write_photo

        source = read_rgb(sample.picture).pixels
        result = made / sample.relative
        if pipe is not None:
            chosen = replace(settings, blend=sample.blended) if blend else settings
            edited = pipe(
                source, sample.source, sample.target, chosen, recovery="none", **inverting
            ).image
            result = result.with_suffix(".png")
            result.parent.mkdir(parents=True, exist_ok=True)
            write_photo(result, edited)
        return source, read_rgb(_found(result)).pixels

    return pictures


def _found(result: Path) -> Path:
    """A result under its picture's path, or as PNG beside it."""
    return result if result.is_file() else result.with_suffix(".png")
