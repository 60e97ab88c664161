"""``dehaze edit``: a photo, or a generated picture, under another prompt."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dehaze import ranges
from dehaze.commands import options
from dehaze.commands.command import MACHINE, RESEARCH, Command, Condition, option, with_any, without
from dehaze.commands.param_types import Number, RegistryChoice
from dehaze.commands.reporting import (
    CommandError,
    Verbosity,
    note_empty,
    quiet_libraries,
    verbosity,
)
from dehaze.commands.reporting import result as say

if TYPE_CHECKING:
    from dehaze.inversion import InversionResult
    from dehaze.models.choice import ModelChoice
    from dehaze.photos import Photo
    from dehaze.pipelines.edit import EditPipeline, EditResult
    from dehaze.pipelines.edit_settings import EditSettings


def _controls() -> Iterable[str]:
    from dehaze.attention.control import CONTROLS

    return CONTROLS.names()


class _Weight(click.ParamType):
    """WORD=NUMBER, or a number alone where a default makes sense."""

    name = "WORD=NUMBER"

    def __init__(self, *, default: bool = False) -> None:
        self._default = default

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float]:
        if isinstance(value, tuple):
            return value
        word, equals, number = str(value).rpartition("=")
        if not word and (equals or not self._default):
            self.fail(f"{value!r} is no WORD=NUMBER such as haze=-1.", param, ctx)
        try:
            return word or "default", float(number)
        except ValueError:
            self.fail(f"{number!r} in {value!r} is no number.", param, ctx)


_NO_EDIT = (
    "nothing would be edited: name another --target, or give a word another weight (--word-weight)."
)
_WITH_ETA = Condition(lambda given: given["eta"] > 0.0, "with --eta above 0")
_INVERTING = without("generate", "inversion")


@click.command(cls=Command)
@click.argument("image", metavar="[PHOTO]", required=False, type=click.Path(path_type=Path))
@option("--source", required=True, help="What the picture shows.")
@option("--target", help="What it shall show.  [default: the source, its words weighted]")
@options.output_file(help="The result; made or replaced.  [default: edited/ and the photo's name]")
@option(
    "--inversion",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="What dehaze invert wrote for PHOTO and --source; nothing is inverted again. If it was "
    "written with --attention, the source is not evaluated either.",
)
@option(
    "--generate",
    type=options.SEED,
    metavar="SEED",
    help="Edit a picture that --source makes from this seed at --guidance, in place of PHOTO.",
)
@options.strength(help="How much of the edit is made: 0 none, 1 all, up to 2.")
@option(
    "--word-weight",
    type=_Weight(),
    multiple=True,
    metavar="WORD=NUMBER",
    help="Multiply the attention to a word of the target; may be repeated.",
)
@option("--blend", multiple=True, metavar="WORD", help="Change only where this word is.")
@option(
    "--exclude",
    multiple=True,
    metavar="WORD",
    effect=with_any("blend"),
    help="Change nothing where this word is.",
)
@option(
    "--blend-threshold",
    type=Number(ranges.SHARE),
    metavar="NUMBER",
    default=0.3,
    show_default=True,
    effect=with_any("blend"),
    help="A word is where its map is above this share of its peak.",
)
@options.recovery(
    default="affine",
    effect=Condition(lambda given: given["image"] is not None, "with a photo"),
    help="affine keeps the photo's details; none shows what the model made, new things too.",
)
@option(
    "--control",
    type=RegistryChoice(_controls),
    metavar="NAME",
    heading=RESEARCH,
    help="replace, refine or reweight.  [default: what fits the prompts]",
)
@option(
    "--cross-replace",
    type=_Weight(default=True),
    multiple=True,
    metavar="[WORD=]SHARE",
    heading=RESEARCH,
    help="Share of the steps with the source's cross-attention, of all words or of one of the "
    "target; may be repeated.  [default: 0.8]",
)
@option(
    "--self-replace",
    type=Number(ranges.SHARE),
    metavar="SHARE",
    default=0.4,
    show_default=True,
    heading=RESEARCH,
    help="Share of the steps with the source's self-attention.",
)
@option(
    "--attention-memory",
    type=Number(ranges.ATTENTION_MEMORY),
    metavar="GB",
    heading=MACHINE,
    help="How much of an accelerator's memory recorded attention may take; the rest goes to the "
    "host's.  [default: a third of a CUDA device's]",
)
@options.guidance(help="Classifier-free guidance of the edit; 1 is none.")
@option(
    "--guidance-outside",
    type=Number(ranges.GUIDANCE_SCALE),
    metavar="NUMBER",
    heading=RESEARCH,
    help="Guidance outside of the edited word: blended guidance.",
)
@option(
    "--focus",
    metavar="WORD",
    heading=RESEARCH,
    effect=Condition(
        lambda given: (
            given["guidance_outside"] is not None
            or (given["samples"] > 1 and given["clip"] is None)
        ),
        "with --guidance-outside, or with --samples above 1 and no --clip",
    ),
    help="The edited word of the source.  [default: found]",
)
@options.mode(default="plain", show_default=True)
@option(
    "--inversion-guidance",
    type=Number(ranges.GUIDANCE_SCALE),
    metavar="NUMBER",
    default=1.0,
    show_default=True,
    heading=RESEARCH,
    effect=_INVERTING,
    help="Classifier-free guidance of the inversion; 1 is none.",
)
@option(
    "--fresh-source",
    is_flag=True,
    heading=RESEARCH,
    effect=Condition(
        lambda given: given["strength"] not in (0.0, 1.0), "with a --strength other than 0 and 1"
    ),
    help="Measure the strength from the source prompt at the edited picture.",
)
@option(
    "--eta",
    type=Number(ranges.ETA),
    metavar="NUMBER",
    default=0.0,
    show_default=True,
    heading=RESEARCH,
    help="Noise of the steps: 0 none, 1 as much as DDPM's.",
)
@option(
    "--samples",
    type=click.IntRange(min=1),
    metavar="N",
    default=1,
    show_default=True,
    heading=RESEARCH,
    effect=_WITH_ETA,
    help="Draw N times with --eta, and keep the best.",
)
@options.clip(
    heading=RESEARCH,
    effect=Condition(lambda given: given["samples"] > 1, "with --samples above 1"),
    help="Choose the best sample by CLIP: its folder, or a hub id in the hub's cache.  [default: "
    "by how well the change keeps to the edited word]",
)
@options.seed(help="Seed of the noise that --eta adds.", effect=_WITH_ETA)
@options.steps(effect=without("inversion"))
@options.depth(effect=_INVERTING)
@options.solver(effect=_INVERTING)
@options.model()
def edit(
    image: Path | None,
    source: str,
    target: str | None,
    output: Path | None,
    inversion: Path | None,
    generate: int | None,
    cross_replace: tuple[tuple[str, float], ...],
    self_replace: float,
    word_weight: tuple[tuple[str, float], ...],
    recovery: str,
    steps: int | None,
    depth: int | None,
    solver: str | None,
    inversion_guidance: float,
    seed: int,
    attention_memory: float | None,
    clip: str | None,
    model: ModelChoice,
    **settings: Any,
) -> None:
    """Edit PHOTO by two prompts: what it shows, and what it shall show.

    \b
      dehaze edit a.jpg --source "a photo with haze" --target "a photo"
      dehaze edit a.jpg --source "a street at night" --target "a street at sunset"
      dehaze edit a.jpg --source "a photo with haze" --word-weight haze=-1
      dehaze edit --generate 7 --source "a city in fog" --target "a city in snow"

    With --inversion and no PHOTO the result has the size that the model works at.

    Exit code: 0, it is written; 2, it could not be.
    """
    if (generate is None) == (image is None and inversion is None):
        raise click.UsageError("name a photo, or --inversion FILE, or --generate SEED: one source.")
    weights = _by_word("--word-weight", word_weight)
    weighted = any(weight != 1.0 for weight in weights.values())
    if target in (None, source) and not weighted:
        raise click.UsageError(_NO_EDIT)
    destination = output or Path("edited") / _name(image, inversion, generate)
    quiet_libraries()
    import torch

    from dehaze.commands.outputs import check_inputs_stay
    from dehaze.models.choice import find_device
    from dehaze.models.clip import load_clip
    from dehaze.network import NonFiniteError
    from dehaze.photos import PhotoError
    from dehaze.pipelines.edit_settings import EditSettings

    read = [path for path in (image, inversion) if path is not None]
    check_inputs_stay(read, [destination], "file")
    try:
        chosen = EditSettings(
            cross_replace_steps=_by_word("--cross-replace", cross_replace) or 0.8,
            self_replace_steps=self_replace,
            word_weights=weights,
            score=None if clip is None else load_clip(clip, find_device(model.device)),
            **settings,
        )
        photo, path = _opened(image, inversion, output)
        if attention_memory is not None:
            _refuse_recorded_attention(inversion, path, chosen.mode)
        pipe = _load(model, attention_memory)
        if not weighted:
            _refuse_equal_prompts(pipe, source, target)
        note_empty("--source", source)
        note_empty("--target", target)
        if generate is not None:
            path = _generated(pipe, source, target, chosen, seed=generate, steps=steps)
        inverting: dict[str, Any] = {
            "num_inference_steps": steps,
            "depth": depth,
            "solver": solver,
            "inversion_guidance_scale": inversion_guidance,
        }
        result = pipe(
            None if photo is None else photo.pixels,
            source,
            target,
            chosen,
            inversion=path,
            recovery=None if photo is None else recovery,
            generator=torch.Generator().manual_seed(seed) if chosen.eta > 0.0 else None,
            **(inverting if path is None else {}),
        )
        _write(destination, result, photo)
    except (NonFiniteError, OSError, PhotoError, ValueError) as error:
        raise CommandError(str(error)) from error
    made = 0 if generate is None or path is None else int(path.trace.nfe.sum())
    say(f"edited: {destination}{_in_words(result, made, clip is not None)}")


def _opened(
    image: Path | None, inversion: Path | None, output: Path | None
) -> tuple[Photo | None, InversionResult | None]:
    """The photo and the saved inversion that are named, None for each that is not.

    Raises:
        PhotoError: the photo cannot be read, or ``output`` names another format than it has.
        InversionFileError: the file is no saved inversion, or a broken one.
    """
    from dehaze.inversion import InversionResult
    from dehaze.photos import check_name, read_photo

    photo = None if image is None else read_photo(image)
    if photo is not None and output is not None:
        check_name(output, photo)
    return photo, None if inversion is None else InversionResult.load(inversion)


def _refuse_recorded_attention(
    file: Path | None, inversion: InversionResult | None, mode: str
) -> None:
    """Refuse --attention-memory where all attention is saved.

    Raises:
        click.UsageError: the inversion's file holds it.
    """
    from dehaze.inversion.reconstruction import records_attention

    if inversion is not None and inversion.attention and not records_attention(mode):
        raise click.UsageError(
            f"--attention-memory has no effect: {file} holds its attention; leave it out."
        )


def _load(model: ModelChoice, attention_memory: float | None) -> EditPipeline:
    """The pipeline, whose recorded attention may take this much of the accelerator's memory.

    Args:
        model: which one.
        attention_memory: in 10^9 bytes; the pipeline's own share when None.

    Raises:
        click.UsageError: a share is named, and the model is on the CPU.
    """
    from dehaze.pipelines.edit import EditPipeline

    pipe = model.load(EditPipeline)
    if attention_memory is not None:
        if pipe.device.type == "cpu":
            raise click.UsageError(
                "--attention-memory has an effect only on an accelerator; leave it out."
            )
        pipe.attention_memory = round(attention_memory * 1e9)
    return pipe


def _generated(
    pipe: EditPipeline,
    source: str,
    target: str | None,
    chosen: EditSettings,
    *,
    seed: int,
    steps: int | None,
) -> InversionResult:
    """The picture that a prompt makes from a seed, with the attention that its edit needs."""
    import torch

    return pipe.generate(
        source,
        generator=torch.Generator().manual_seed(seed),
        num_inference_steps=steps,
        guidance_scale=chosen.guidance_scale,
        record_attention=pipe.recording(source, target, chosen),
    )


def _refuse_equal_prompts(pipe: EditPipeline, source: str, target: str | None) -> None:
    """Refuse two prompts that differ for a person alone, as by their spaces.

    Raises:
        click.UsageError: their tokens are the same.
    """
    import torch

    before = pipe.prompts.tokens(source)
    after = pipe.prompts.tokens(source if target is None else target)
    if torch.equal(before.ids, after.ids):
        raise click.UsageError(f"{_NO_EDIT} To the model the two prompts are one.")


def _in_words(result: EditResult, made: int, by_clip: bool) -> str:
    """How the edit went, after the name of its file.

    Args:
        result: of the edit.
        made: network evaluations that the source took before it.
        by_clip: whether CLIP chose the best sample.
    """
    parts = [""]
    if result.scores:
        scores = ", ".join(f"{score:.2f}" for score in result.scores)
        judge = " by CLIP" if by_clip else ""
        parts.append(f"best{judge} {max(result.scores):.2f} of {scores}")
    if result.mask is not None:
        parts.append(f"{100 * result.mask.mean():.0f} % of the picture changed by the blend")
    if verbosity() == Verbosity.VERBOSE:
        parts.append(f"{result.nfe + made} network evaluations")
    return "; ".join(parts)


def _by_word(flag: str, given: tuple[tuple[str, float], ...]) -> dict[str, float]:
    """Numbers by their words.

    Raises:
        click.UsageError: a word is given twice, and one number would be passed over.
    """
    by_word: dict[str, float] = {}
    for word, number in given:
        if word in by_word:
            raise click.UsageError(f"{flag} is given twice for {word!r}; leave one out.")
        by_word[word] = number
    return by_word


def _name(image: Path | None, inversion: Path | None, generate: int | None) -> str:
    if image is not None:
        return image.name
    return f"{inversion.stem}.png" if inversion is not None else f"generated-{generate}.png"


def _write(destination: Path, result: EditResult, photo: Photo | None) -> None:
    from dehaze.photos import write_photo

    destination.parent.mkdir(parents=True, exist_ok=True)
    write_photo(destination, result.image, like=photo)
    if photo is None:
        # There is no photo to compare the picture with.
        write_photo(destination.with_suffix(f".source{destination.suffix}"), result.source)
