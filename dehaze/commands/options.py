"""The options that several commands have, each declared once.

Each is a function that returns click's decorator. Arguments replace what is declared here:

    @options.steps(help="Steps of both inversions.")
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from dehaze import ranges
from dehaze.commands.command import (
    GENERAL,
    MACHINE,
    RESEARCH,
    Condition,
    Decorator,
    Values,
    option,
    several,
)
from dehaze.commands.param_types import Exposure, Kinds, Number, RegistryChoice
from dehaze.models.choice import DATA_TYPES, ModelChoice

_Command = TypeVar("_Command", bound=Callable[..., Any])


OF_MODEL = "[default: the model's]"
OF_SOLVER = "[default: the named solver's, else the model's]"


def _shared(*names: str, **attributes: Any) -> Callable[..., Decorator]:
    """A function that declares this option; its arguments replace a name or an attribute."""

    def declare(*parameter: str, **changes: Any) -> Decorator:
        return option(*names, *parameter, **(attributes | changes))

    return declare


def solver_names() -> Iterable[str]:
    """The registered solvers."""
    from dehaze.inversion import SOLVERS

    return SOLVERS.names()


def _predictors() -> Iterable[str]:
    from dehaze.inversion import PREDICTORS

    return PREDICTORS.names()


def criterion_names() -> Iterable[str]:
    """The registered criteria."""
    from dehaze.inversion import CRITERIA

    return CRITERIA.names()


def _recoveries() -> Iterable[str]:
    from dehaze.recovery.recover import RECOVERIES

    return RECOVERIES.names()


def _figures() -> Iterable[str]:
    from dehaze.eval.plots import FIGURES

    return FIGURES


def _haze_kinds() -> Iterable[str]:
    from dehaze.datasets.synthesis import HAZE_KINDS

    return HAZE_KINDS.names()


def _modes() -> Iterable[str]:
    from dehaze.inversion.reconstruction import mode_names

    return mode_names()


def used_by_solver(setting: str, solver: str = "solver") -> Condition:
    """Where no solver is named, or the named one uses this field of ``InversionSettings``.

    Args:
        setting: the field.
        solver: the parameter that holds the solver's name, or several names.
    """

    def holds(given: Values) -> bool:
        from dehaze.inversion.solvers import idle_settings

        named = given[solver]
        names = (named,) if isinstance(named, str) else named
        checked = bool(given.get("checked"))
        return not names or any(
            setting not in idle_settings(name, checked=checked) for name in names
        )

    return Condition(holds, "with a --solver that uses it")


def _holds_nothing(given: Values) -> bool:
    from dehaze.inversion.reconstruction import holds

    return not holds(given["mode"])


def _held_by_mode(given: Values) -> bool:
    from dehaze.inversion import SOLVERS, Sampler

    solver = given["solver"]
    return solver is None or not isinstance(SOLVERS.get(solver), Sampler)


# Where a --mode other than plain has an effect.
MODE_HOLDS = (
    Condition(
        lambda given: _holds_nothing(given) or given["guidance_scale"] != 1.0,
        "with --guidance above 1",
    ),
    Condition(
        lambda given: _holds_nothing(given) or _held_by_mode(given),
        "without a --solver that goes back by steps of its own, such as edict",
    ),
)


def output_folder(written: str, default: str) -> Decorator:
    """``--output``, the folder of the results."""
    return option(
        "-o",
        "--output",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path(default),
        show_default=True,
        metavar="FOLDER",
        help=f"Where {written} go; made if missing.",
    )


def output_file(**changes: Any) -> Decorator:
    """``--output``, the one file that is written; ``help`` says what it holds."""
    return option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", **changes)


prompt = _shared("--prompt", metavar="TEXT", help=f"What the photo shows.  {OF_MODEL}")
word = _shared("--word", metavar="TEXT", help=f"The haze word in the prompt.  {OF_MODEL}")
strength = _shared(
    "--strength",
    type=Number(ranges.STRENGTH),
    metavar="NUMBER",
    default=1.0,
    show_default=True,
    help="How much of the haze is removed: 0 none, 1 all, up to 2.",
)
exposure = _shared(
    "--exposure",
    type=Exposure(),
    metavar="NAME",
    default="scene",
    show_default=True,
    help="Lightness of the result. scene: as dark as the scene without the light of the haze; "
    "keep: as light as the photo; or a number from 0 (scene) to 1 (keep).",
)
steps = _shared(
    "--steps",
    type=click.IntRange(min=1),
    metavar="N",
    heading=RESEARCH,
    help=f"Steps of the inversion.  {OF_MODEL}",
)
depth = _shared(
    "--depth",
    type=click.IntRange(min=1),
    metavar="N",
    heading=RESEARCH,
    help="Invert the first N steps.  [default: all]",
)
solver = _shared(
    "--solver",
    type=RegistryChoice(solver_names),
    metavar="NAME",
    heading=RESEARCH,
    help=f"How each step is inverted; a wrong name lists them.  {OF_MODEL}",
)
tolerance = _shared(
    "--tolerance",
    type=Number(ranges.TOLERANCE),
    metavar="NUMBER",
    heading=RESEARCH,
    help=f"Relative residual at which a step is done.  {OF_MODEL}",
)
predictor = _shared(
    "--predictor",
    type=RegistryChoice(_predictors),
    metavar="NAME",
    heading=RESEARCH,
    help=f"What the solver starts from; a wrong name lists them.  {OF_SOLVER}",
)
criterion = _shared(
    "--criterion",
    type=RegistryChoice(criterion_names),
    metavar="NAME",
    heading=RESEARCH,
    help=f"When a step is done; a wrong name lists the criteria.  {OF_SOLVER}",
)
iterations = _shared(
    "--iterations",
    "max_iterations",
    type=click.IntRange(min=1),
    metavar="N",
    heading=RESEARCH,
    help=f"Most iterations of the solver in a step.  {OF_MODEL}",
)
recovery = _shared(
    "--recovery",
    type=RegistryChoice(_recoveries),
    metavar="NAME",
    show_default=True,
    heading=RESEARCH,
    help="How the result gets the photo's own size; a wrong name lists the ways.",
)
guidance = _shared(
    "--guidance",
    "guidance_scale",
    type=Number(ranges.GUIDANCE_SCALE),
    metavar="NUMBER",
    default=1.0,
    show_default=True,
    heading=RESEARCH,
    help="Classifier-free guidance; 1 is none.",
)
mode = _shared(
    "--mode",
    type=RegistryChoice(_modes),
    metavar="NAME",
    heading=RESEARCH,
    help="What holds guidance to the source: plain, or a reconstruction mode; a wrong name lists "
    "them.",
)
clip = _shared("--clip", metavar="FOLDER")
figure = _shared("--figure", "figures", type=Kinds(_figures))
SEED = click.IntRange(0, 2**63 - 1)
"""A seed that every generator of random numbers takes."""

seed = _shared(
    "--seed",
    type=SEED,
    metavar="N",
    default=0,
    show_default=True,
    heading=RESEARCH,
)
max_megapixels = _shared(
    "--max-megapixels",
    type=Number(ranges.MEGAPIXELS),
    metavar="NUMBER",
    default=200.0,
    show_default=True,
    heading=MACHINE,
    help="Refuse larger photos, so that a forged header cannot fill the memory.",
)
limit = _shared(
    "--limit",
    type=click.IntRange(min=1),
    metavar="N",
    help="At most N pictures, evenly spread.",
)
render = _shared(
    "--render",
    type=RegistryChoice(_haze_kinds),
    metavar="KIND",
    help="Render haze, fog, mist, smog or smoke over the clear pictures in FOLDER first.",
)
resume = _shared(
    "--resume/--overwrite",
    default=True,
    show_default=True,
    help="Continue a run under the same settings, or replace what is there.",
)
as_json = _shared(
    "--json", "as_json", is_flag=True, heading=GENERAL, help="One JSON object a line on stdout."
)


revision = _shared(
    "--revision",
    metavar="NAME",
    heading=MACHINE,
    help="Branch, tag or commit of a hub id; a commit never changes.",
)
variant = _shared(
    "--variant",
    metavar="NAME",
    heading=MACHINE,
    help="Variant of the weights' files, such as fp16, where a model has several.",
)
local_files_only = _shared(
    "--local-files-only",
    is_flag=True,
    heading=MACHINE,
    help="Never ask the hub: use what its cache on this machine holds.",
)


def model(
    *, effect: Condition | tuple[Condition, ...] = (), device: Condition | None = None
) -> Decorator:
    """``--model``, its files, ``--device`` and ``--dtype``: one ``ModelChoice``, ``model``.

    Args:
        effect: where they have one.
        device: where ``--device`` has one, if that is elsewhere as well.
    """
    return several(
        option(
            "--model",
            metavar="MODEL",
            default="bundled",
            show_default=True,
            heading=MACHINE,
            effect=effect,
            help="The bundled model, a folder in diffusers' format, a hub id, or a .safetensors "
            "file of Stable Diffusion; 3 and FLUX as a folder or a hub id.",
        ),
        revision(effect=effect),
        variant(effect=effect),
        local_files_only(effect=effect),
        option(
            "--device",
            metavar="NAME",
            default="auto",
            show_default=True,
            heading=MACHINE,
            effect=device or effect,
            help="cpu, cuda, cuda:1, mps, or auto: the fastest there is.",
        ),
        option(
            "--dtype",
            type=click.Choice(["auto", *DATA_TYPES]),
            default="auto",
            show_default=True,
            heading=MACHINE,
            effect=effect,
            help="Precision of the network; auto leaves it to the model.",
        ),
        _with_choice,
    )


def _with_choice(command: _Command) -> Callable[..., Any]:
    """The command with a ``ModelChoice`` in the place of the options of ``model``."""

    @wraps(command)
    def called(
        *arguments: Any,
        model: str,
        revision: str | None,
        variant: str | None,
        local_files_only: bool,
        device: str,
        dtype: str,
        **others: Any,
    ) -> Any:
        choice = ModelChoice(model, revision, device, dtype, variant, local_files_only)
        return command(*arguments, model=choice, **others)

    return called
