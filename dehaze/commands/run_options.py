"""The options of ``dehaze run``: declared once, and handed on as one object."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dehaze import ranges
from dehaze.commands import options
from dehaze.commands.command import (
    FIRST,
    MACHINE,
    RESEARCH,
    Condition,
    Values,
    option,
    several,
    with_value,
    without,
)
from dehaze.commands.param_types import BatchSize, Kinds, NameEnding, Number, RegistryChoice, Suffix
from dehaze.commands.streaming import STREAM
from dehaze.commands.task import DIFFUSION, Task, task_of

if TYPE_CHECKING:
    from dehaze.models.choice import ModelChoice
    from dehaze.photos import ResultFile

# The maps of --save, and the ending of each file. The ending follows the photo's whole name, so
# that files of a.jpg and a.png stay apart.
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
TO_FOLDER = Condition(lambda given: given["output"] != STREAM, "with a folder as --output")
ON_PHOTOS = Condition(
    lambda given: given["photos"], "with photos, not with clips alone", of_input=True
)
# The condition of settings that have no effect on clips.
PHOTOS_ALONE = Condition(lambda given: not given["clips"], "with photos alone", of_input=True)


def _methods() -> Iterable[str]:
    from dehaze.priors import PRIORS

    return (DIFFUSION, *PRIORS.names())


# The one recovery that estimates transmission and airlight.
PHYSICS = "physics"
FOR_CLIPS = Condition(
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


run_options = several(
    option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        default=Path("dehazed"),
        show_default=True,
        metavar="FOLDER",
        help="Where the results go; made if missing.  - is standard output, for one photo; for one "
        "clip a file, such as out.mp4.",
    ),
    options.strength(effect=BY_MODEL),
    options.exposure(effect=BY_MODEL),
    options.prompt(
        effect=BY_MODEL, help=f"What the photo shows, haze included.  {options.OF_MODEL}"
    ),
    options.word(effect=BY_MODEL, help=f"The word to remove from the prompt.  {options.OF_MODEL}"),
    option(
        "--format",
        type=Suffix(),
        metavar="NAME",
        effect=ON_PHOTOS,
        help="Write every result as jpg, png, tif, webp or bmp.  [default: the photo's own]",
    ),
    option(
        "--quality",
        type=click.IntRange(1, 100),
        metavar="N",
        effect=(
            ON_PHOTOS,
            Condition(_has_quality, "with --format jpg or webp"),
            Condition(
                lambda given: given["lossy"] or given["format"] is not None,
                "with photos that are JPEG or WebP",
                of_input=True,
            ),
        ),
        help="Quality of JPEG and lossy WebP, 1 to 100.  [default: a JPEG's own, else 95; WebP 90]",
    ),
    option(
        "--suffix",
        type=NameEnding(),
        metavar="TEXT",
        effect=(TO_FOLDER, ON_PHOTOS),
        help="Put this at the end of each name: with _clear, a.jpg becomes a_clear.jpg.",
    ),
    option(
        "--save",
        type=Kinds(lambda: SIDE_FILES),
        default=(),
        effect=(
            TO_FOLDER,
            BY_MODEL,
            ON_PHOTOS,
            Condition(
                lambda given: given["recovery"] == PHYSICS or _ESTIMATED.isdisjoint(given["save"]),
                f"with --recovery {PHYSICS} for transmission, airlight and depth",
            ),
            Condition(
                lambda given: "depth" not in given["save"] or given["strength"] == 1.0,
                "with --strength 1 for depth, since less leaves a part of the haze",
            ),
        ),
        help=f"Also write, comma-separated: {', '.join(SIDE_FILES)}.",
    ),
    option(
        "--watch",
        type=Number(ranges.SECONDS),
        is_flag=False,
        flag_value=5.0,
        metavar="SECONDS",
        effect=(TO_FOLDER, ON_PHOTOS, without("dry_run")),
        help="When all is done, look for new photos every SECONDS, until interrupted.  [5]",
    ),
    options.resume(
        effect=TO_FOLDER,
        help="Keep what an earlier run did under the same settings, or do every photo again.",
    ),
    option(
        "--report",
        is_flag=True,
        effect=(TO_FOLDER, ON_PHOTOS, without("dry_run")),
        help="Also write report.html: every photo before and after, its maps, notes and failures.",
    ),
    option(
        "--dry-run",
        is_flag=True,
        effect=TO_FOLDER,
        help="Show what would be done, and do nothing.",
    ),
    option(
        "--method",
        type=RegistryChoice(_methods),
        default=DIFFUSION,
        show_default=True,
        metavar="NAME",
        heading=FIRST,
        effect=PHOTOS_ALONE,
        help="diffusion: the model; for comparison dcp (dark channel prior) or cap (colour "
        "attenuation prior), which need no model.",
    ),
    options.model(effect=BY_MODEL),
    option(
        "--batch-size",
        type=BatchSize(),
        default="auto",
        show_default=True,
        metavar="N",
        heading=MACHINE,
        effect=(TO_FOLDER, BY_MODEL, ON_PHOTOS),
        help="How many photos of one size go through the network together; auto is 1 on the CPU, "
        "where more is faster and changes the last bits of a result, and 4 on an accelerator.",
    ),
    options.max_megapixels(),
    option(
        "--executor",
        type=click.Choice(EXECUTORS),
        default="local",
        show_default=True,
        heading=MACHINE,
        effect=(TO_FOLDER, ON_PHOTOS),
        help="Work on this machine, or on a Ray cluster (one of this machine alone, or the one at "
        "--ray-address).",
    ),
    option(
        "--ray-address",
        metavar="ADDRESS",
        heading=MACHINE,
        effect=BY_RAY,
        help="Address of a running cluster.  [default: $RAY_ADDRESS, else one of this machine "
        "alone]",
    ),
    option(
        "--workers",
        type=click.IntRange(min=1),
        metavar="N",
        heading=MACHINE,
        effect=(TO_FOLDER, ON_PHOTOS),
        help="Photos at a time, at most; the results are the same.  [default: the cores, or 1 for "
        "a model that takes all of them or the GPU; with --executor ray the GPUs or cores]",
    ),
    option(
        "--null-text",
        type=click.Choice(["embedding", "delete"]),
        default="embedding",
        show_default=True,
        heading=RESEARCH,
        effect=BY_MODEL,
        help="Swap the word's embedding for null text, or delete the word from the prompt.",
    ),
    options.mode(
        default="plain",
        show_default=True,
        effect=(BY_MODEL, PHOTOS_ALONE, *options.MODE_HOLDS),
        help="What holds a guided way back to the inversion: plain (nothing), null-text, "
        "negative-prompt or direct.",
    ),
    options.guidance(
        effect=(BY_MODEL, PHOTOS_ALONE), help="Classifier-free guidance of the way back; 1 is none."
    ),
    options.solver(effect=BY_MODEL),
    options.predictor(effect=(BY_MODEL, PHOTOS_ALONE, options.used_by_solver("predictor"))),
    options.criterion(effect=(BY_MODEL, options.used_by_solver("criterion"))),
    options.iterations(effect=(BY_MODEL, options.used_by_solver("max_iterations"))),
    options.steps("num_inference_steps", effect=BY_MODEL),
    options.tolerance(
        effect=(BY_MODEL, options.used_by_solver("tolerance")),
    ),
    options.recovery(default=PHYSICS, effect=(BY_MODEL, FOR_CLIPS)),
    options.as_json(effect=TO_FOLDER),
)


@dataclass(frozen=True)
class RunOptions:
    """The options of one ``dehaze run``, by name.

    Attributes:
        recipe: the options that are no field here: arguments of ``DehazePipeline.__call__``.
    """

    output: Path
    format: str | None
    quality: int | None
    suffix: str | None
    save: tuple[str, ...]
    watch: float | None
    resume: bool
    report: bool
    dry_run: bool
    method: str
    model: ModelChoice
    batch_size: int | None
    max_megapixels: float
    executor: str
    ray_address: str | None
    workers: int | None
    as_json: bool
    recipe: dict[str, Any]

    @classmethod
    def of(cls, values: Values) -> RunOptions:
        """The options by the names of their parameters."""
        own = {each.name for each in fields(cls)} - {"recipe"}
        return cls(
            **{name: values[name] for name in own},
            recipe={name: value for name, value in values.items() if name not in own},
        )

    @property
    def side_files(self) -> dict[str, str]:
        """The endings of the files that ``--save`` adds, by their kinds."""
        return {kind: SIDE_FILES[kind] for kind in self.save}

    @property
    def result_file(self) -> ResultFile:
        """How the results' files differ from their photos'."""
        from dehaze.photos import ResultFile

        return ResultFile(self.format, self.quality, self.suffix or "")

    @property
    def planning(self) -> dict[str, Any]:
        """Arguments of ``batch.plan`` and ``batch.watch``."""
        return {
            "beside": list(self.side_files.values()),
            "max_megapixels": self.max_megapixels,
            "result_file": self.result_file,
        }

    def task(self) -> Task:
        """The task for each photo."""
        return task_of(
            self.method, self.model, self.recipe, self.side_files, self.batch_size, self.result_file
        )
