"""``dehaze evaluate concepts``: pictures of named things, judged by a classifier."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dehaze.commands import options
from dehaze.commands.command import RESEARCH, Command, Condition, Values, option
from dehaze.commands.evaluate.parameters import command_line
from dehaze.commands.evaluate.pictures import exit_naming
from dehaze.commands.param_types import Names
from dehaze.commands.progress import progress
from dehaze.commands.reporting import CommandError, note, quiet_libraries, result
from dehaze.errors import DehazeError

if TYPE_CHECKING:
    from dehaze.eval.concepts.methods import SeedMethod
    from dehaze.models.choice import ModelChoice


def _methods() -> Iterable[str]:
    from dehaze.eval.concepts.methods import SEED_METHODS

    return SEED_METHODS.names()


def _solvers() -> Iterable[str]:
    """The solvers whose final latents any way back can start from."""
    from dehaze.inversion import SOLVERS, Sampler

    return [name for name in SOLVERS.names() if not isinstance(SOLVERS.get(name), Sampler)]


def _chosen(given: Values) -> Sequence[SeedMethod]:
    """The given methods; all of them by default."""
    from dehaze.eval.concepts.methods import SEED_METHODS

    return [SEED_METHODS.get(name) for name in given["methods"] or SEED_METHODS.names()]


_INVERTING = Condition(
    lambda given: any(one.inverts for one in _chosen(given)), "with a --method that inverts photos"
)
_FITTING = Condition(
    lambda given: any(one.fits for one in _chosen(given)), "with a --method of SeedSelect"
)
_DRAWING = Condition(
    lambda given: not all(one.inverts for one in _chosen(given)), "with a --method that draws noise"
)
_SEEING = Condition(
    lambda given: any(one.inverts or one.fits for one in _chosen(given)),
    "with a --method that sees photos",
)
_SEVERAL = Condition(
    lambda given: set(given["methods"]) != {"centroid"}, "with a --method other than centroid"
)


@click.command(cls=Command, short_help="Make pictures of things, judged by a classifier.")
@click.argument("classes", metavar="FOLDER", type=click.Path(path_type=Path))
@options.output_folder("concepts.md, .csv, .json and pictures/", "evaluation")
@option(
    "--classifier",
    required=True,
    metavar="FOLDER",
    help="An image classifier: a folder of transformers, or a TorchScript file with its labels "
    "beside it; docs/evaluation.md has the form.",
)
@option(
    "--features",
    metavar="FOLDER",
    help="The network whose features the Fréchet distance compares, in the same form: an Inception "
    "for FID.  [default: the classifier]",
)
@options.clip(
    effect=_FITTING,
    help="CLIP, for SeedSelect: a folder, or a hub id in the hub's cache; without it SeedSelect's "
    "rows are left out.",
)
@option(
    "--method",
    "methods",
    type=Names(_methods),
    default=(),
    help="Rows with commas between them; a wrong name lists them.  [default: all]",
)
@option(
    "--prompt",
    metavar="TEXT",
    default="a photo of a {}",
    show_default=True,
    help="Prompt of each class; {} stands for its name.",
)
@option(
    "--pictures",
    type=click.IntRange(min=1),
    metavar="N",
    default=4,
    show_default=True,
    effect=_SEVERAL,
    help="How many of each class and method; a centroid is one.",
)
@option(
    "--photos",
    "inverted",
    type=click.IntRange(min=2),
    metavar="N",
    default=3,
    show_default=True,
    effect=_SEEING,
    help="How many of each class a method sees; the distance takes all.",
)
@option(
    "--solver",
    "solvers",
    type=Names(_solvers),
    default="ddim,fixed-point",
    show_default=True,
    heading=RESEARCH,
    effect=_INVERTING,
    help="Solvers of the inversions, with commas between them; each is a row.",
)
@options.guidance(help="Classifier-free guidance of the pictures; 1 is none.")
@options.steps(help=f"Steps of the inversions and of the pictures.  {options.OF_MODEL}")
@options.seed(effect=_DRAWING, help="Seed of the noise.")
@options.resume(
    help="Keep pictures that an earlier run made under the same settings, or make all anew."
)
@options.model()
@click.pass_context
def concepts(
    context: click.Context,
    /,
    classes: Path,
    output: Path,
    classifier: str,
    features: str | None,
    clip: str | None,
    methods: tuple[str, ...],
    prompt: str,
    pictures: int,
    inverted: int,
    solvers: tuple[str, ...],
    guidance_scale: float,
    steps: int | None,
    seed: int,
    resume: bool,
    model: ModelChoice,
) -> None:
    """Make pictures of the classes in FOLDER in several ways, and have a classifier judge them.

    FOLDER has a subfolder of photos for each class, named as the classifier names it. Each row of
    the table is a source of the pictures' noise: plain noise, slerp and NAO's path from photo to
    photo, NAO's centroid, SeedSelect from noise and from the centroid. Accuracy is the share of
    pictures that the classifier names correctly. The Fréchet distance (FID with an Inception) is
    their distance from the photos.

    \b
      dehaze evaluate concepts birds/ --classifier vit-birds/ --clip clip-vit-large/ \\
        --model stable-diffusion-v1-5/stable-diffusion-v1-5 -o runs/birds

    A photo that cannot be read is named, and the others are done.

    Exit code: 0, all photos were done; 1, some were left out and are named; 2, the command is
    wrong.
    """
    quiet_libraries()
    from dehaze.datasets.classes import open_class_folder
    from dehaze.eval.concepts.classifier import load_classifier
    from dehaze.eval.concepts.evaluation import ConceptEvaluation
    from dehaze.eval.concepts.methods import SEED_METHODS
    from dehaze.inversion.likely_paths import minimiser
    from dehaze.models.choice import find_device
    from dehaze.models.clip import load_clip
    from dehaze.pipelines.seedselect import SeedSelectPipeline

    chosen = methods or tuple(
        name for name in SEED_METHODS.names() if clip is not None or not SEED_METHODS.get(name).fits
    )
    lacking = [name for name in chosen if SEED_METHODS.get(name).fits and clip is None]
    if lacking:
        raise click.UsageError(f"--method {lacking[0]} compares by CLIP: name one with --clip.")
    if any(SEED_METHODS.get(name).inverts for name in chosen):
        # Before the photos are inverted, not after.
        minimiser()
    if len(chosen) < len(SEED_METHODS.names()) and not methods:
        note("SeedSelect's rows are left out: they need --clip")
    try:
        found = open_class_folder(classes, least=2, results=[output])
        device = find_device(model.device)
        left_out = [line for one in found for line in one.left_out]
        evaluation = ConceptEvaluation(
            pipeline=model.load(SeedSelectPipeline),
            classes={one.name: one.photos for one in found},
            classifier=load_classifier(classifier, device),
            features=None if features is None else load_classifier(features, device),
            methods=chosen,
            solvers=solvers,
            image_encoder=None if clip is None else load_clip(clip, device).image_encoder,
            inverted=inverted,
            pictures=pictures,
            prompt=prompt,
            guidance_scale=guidance_scale,
            steps=steps,
            seed=seed,
            left_out=left_out,
        )
        with progress(len(found), "class") as ended:
            table = evaluation.run(
                output, command_line(), resume=resume, on_class=lambda name: ended()
            )
        written = table.write(output)
    except (DehazeError, ValueError) as error:
        raise CommandError(str(error)) from error
    result(table.markdown())
    note(f"written: {', '.join(map(str, [*written, output / 'pictures']))}")
    exit_naming(context, left_out)
