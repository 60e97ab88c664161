"""``dehaze attention``: where in photos the model attends to the words of a prompt."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dehaze.commands import options
from dehaze.commands.command import Command
from dehaze.commands.progress import progress
from dehaze.commands.reporting import CommandError, note, problem, quiet_libraries, result

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dehaze.batch import Item
    from dehaze.eval.figures import Attended
    from dehaze.inversion import InversionResult
    from dehaze.models.choice import ModelChoice
    from dehaze.pipelines.edit import EditPipeline

# A grid of more columns cannot be read.
_SHOWN_STEPS = 10


@click.command(cls=Command)
@click.argument(
    "inputs",
    metavar="INPUT...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, path_type=Path),
)
@options.output_folder("the maps", "attention")
@options.prompt()
@options.word(help=f"A word, or a phrase, of the prompt.  {options.OF_MODEL}")
@options.figure(
    default=(),
    help="Also draw figures with a colour bar, comma-separated: png, pdf, svg; needs "
    "dehaze-diffusion[plots].",
)
@options.model()
@options.steps()
@options.max_megapixels()
@click.pass_context
def attention(
    context: click.Context,
    /,
    inputs: tuple[Path, ...],
    output: Path,
    prompt: str | None,
    word: str | None,
    figures: tuple[str, ...],
    model: ModelChoice,
    steps: int | None,
    max_megapixels: float,
) -> None:
    """Show where in photos the model attends to a word.

    Each INPUT is a photo or a folder, which is searched to the bottom.

    \b
    Below FOLDER, under each photo's name:
      .WORD.png        the word's map over the photo
      .WORD.npy        the map, float32 (height, width): mean probability on the word
      .WORD.grid.png   the map of each layer (rows) and step (columns)
      .WORD.grid.npy   those maps, float32 (layers, steps, height, width) at the latents' size
      .words.png       the maps of all words of the prompt, side by side
      .WORD.figure.*   with --figure: the photo, its map, a colour bar

    In the grid and the side-by-side sheet each map is stretched to its own range. With --figure and
    several photos, WORD.figure.* shows up to 12 of them with their maps under one scale.

    Exit code: 0, all is written; 1, some photos failed and are named; 2, the command is wrong.
    """
    quiet_libraries()
    from dehaze import batch
    from dehaze.batch.item import named
    from dehaze.eval.figures import MAX_PICTURES
    from dehaze.eval.plots import evenly_spread, import_figure
    from dehaze.network import NonFiniteError
    from dehaze.photos import PhotoError
    from dehaze.pipelines.edit import EditPipeline

    if figures:
        import_figure()
    plan = batch.plan(inputs, output, results=False, max_megapixels=max_megapixels)
    if not plan.photos:
        raise CommandError("no photo found; name photos, or folders that hold some")
    pipe = model.load(EditPipeline)
    text = pipe.default_prompt if prompt is None else prompt
    chosen = pipe.description.word if word is None else word
    pipe.prompt_and_span(text, chosen)
    pipe.check_prompts(text)
    start = f".{_in_name(chosen)}"
    batch.check_claims(plan.photos, [".words.png", *(start + kind for kind in _KINDS)])
    shown: list[Item] = []
    if figures and len(plan.photos) > 1:
        places = evenly_spread(len(plan.photos), MAX_PICTURES)
        shown = [plan.photos[place - 1] for place in places]
    drawn: list[Attended] = []
    failed = len(plan.unreadable)
    for unreadable in plan.unreadable:
        problem(str(unreadable))
    with progress(len(plan.photos), "photo") as ended:
        for item in plan.photos:
            try:
                attended = _write(item, pipe, text, chosen, steps, figures)
                if item in shown:
                    drawn.append(attended.shrunk())
            except (NonFiniteError, OSError, PhotoError) as error:
                failed += 1
                problem(str(named(item.source, error)))
            ended()
    if drawn:
        _write_grid(output, drawn, chosen, figures, len(plan.photos))
    context.exit(1 if failed else 0)


_KINDS = (".png", ".npy", ".grid.png", ".grid.npy")


def _write(
    item: Item,
    pipe: EditPipeline,
    prompt: str,
    word: str,
    steps: int | None,
    figures: Sequence[str],
) -> Attended:
    """Write the files of one photo."""
    from dehaze.eval.figures import Attended, draw_attention
    from dehaze.photos import printable, read_photo, write_bytes
    from dehaze.prompts import prompt_words

    photo = read_photo(item.source, max_megapixels=item.max_megapixels).pixels
    inversion = pipe.invert(photo, prompt, num_inference_steps=steps)
    tokens, _ = pipe.prompt_and_span(prompt)
    # Each word once, without the punctuation beside it.
    words = dict.fromkeys(name.strip(".,;:!?()\"'") for name, _ in prompt_words(tokens))
    maps = {
        name: pipe.word_attention(photo, inversion, prompt, name)
        for name in (word, *filter(None, words))
    }
    overlays = {name: _over(photo, heat) for name, heat in maps.items()}
    grid, sheet = _grid(pipe, photo, inversion, prompt, word)
    attended = Attended(printable(item.source.name), photo, maps[word])
    start = f"{item.output.name}.{_in_name(word)}"
    files = {
        f"{start}.png": _png(overlays[word]),
        f"{start}.npy": _npy(maps[word]),
        f"{start}.grid.png": _png(sheet),
        f"{start}.grid.npy": _npy(grid),
        f"{item.output.name}.words.png": _png(_words(photo, overlays)),
        **{f"{start}.figure.{kind}": draw_attention(attended, word, kind) for kind in figures},
    }
    folder = item.output.parent
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        write_bytes(folder / name, data)
    heat = maps[word]
    result(
        f"{printable(item.source)}: {word}: mean probability {heat.mean():.4f}, "
        f"{heat.min():.4f} to {heat.max():.4f}; in {printable(folder)}"
    )
    return attended


def _write_grid(
    output: Path, drawn: Sequence[Attended], word: str, figures: Sequence[str], photos: int
) -> None:
    from dehaze.eval.figures import draw_attention_grid
    from dehaze.photos import printable, write_bytes

    for kind in figures:
        path = output / f"{_in_name(word)}.figure.{kind}"
        write_bytes(path, draw_attention_grid(drawn, word, kind))
        note(f"{len(drawn)} of {photos} photos side by side: {printable(path)}")


def _in_name(word: str) -> str:
    """A word or phrase as a part of a file's name."""
    return word.replace("/", "_")


def _over(photo: NDArray[np.float32], heat: NDArray[np.float32]) -> NDArray[np.float32]:
    from dehaze.attention.maps import normalised, overlay

    return overlay(photo, normalised(heat))


def _words(
    photo: NDArray[np.float32], overlays: dict[str, NDArray[np.float32]]
) -> NDArray[np.float32]:
    from dehaze.attention.sheets import sheet

    return sheet([[photo, *overlays.values()]], [["", *overlays]], tile_height=192)


def _grid(
    pipe: EditPipeline,
    photo: NDArray[np.float32],
    inversion: InversionResult,
    prompt: str,
    word: str,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The maps (layers, steps, h, w), and a sheet of them over the photo."""
    import numpy as np

    from dehaze.attention.maps import grid_maps
    from dehaze.attention.sheets import sheet

    _, span = pipe.prompt_and_span(prompt, word)
    maps = grid_maps(inversion.attention, span, inversion.latent_size)
    steps = list(range(inversion.steps, 0, -1))
    shown = sorted(set(np.linspace(0, len(steps) - 1, min(len(steps), _SHOWN_STEPS)).astype(int)))
    height, width = photo.shape[:2]
    size = (max(1, round(width * 96 / height)), 96)
    rows, names = [], []
    for layer, of_layer in maps.items():
        rows.append(
            [_over(_small(photo, size), _small(of_layer[column], size)) for column in shown]
        )
        names.append([f"{steps[column]} {_short(layer)}" for column in shown])
    return np.stack(list(maps.values())), sheet(rows, names, tile_height=96)


def _small(picture: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    import cv2

    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _short(layer: str) -> str:
    """The layer in short: down_blocks.0.attentions.1.transformer_blocks.0.attn2 is down 0.1.0."""
    parts = layer.split(".")
    place = parts[0].split("_")[0]
    return f"{place} {'.'.join(part for part in parts if part.isdecimal())}"


def _png(pixels: NDArray[np.float32]) -> bytes:
    from PIL import Image

    from dehaze.levels import to_levels

    buffer = io.BytesIO()
    Image.fromarray(to_levels(pixels)).save(buffer, format="PNG")
    return buffer.getvalue()


def _npy(values: NDArray[np.float32]) -> bytes:
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()
