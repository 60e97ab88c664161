"""``dehaze attention``: where in a photo the model attends to the words of a prompt."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dehaze.commands import options
from dehaze.commands.command import Command
from dehaze.commands.reporting import CommandError, quiet_libraries, result

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dehaze.inversion import InversionResult
    from dehaze.models.choice import ModelChoice
    from dehaze.pipelines.edit import EditPipeline

# A grid of more columns cannot be read.
_SHOWN_STEPS = 10


@click.command(cls=Command)
@click.argument("image", metavar="IMAGE", type=click.Path(path_type=Path))
@options.output_folder("the maps", "attention")
@options.prompt()
@options.word(help=f"A word, or a phrase, of the prompt.  {options.OF_MODEL}")
@options.model()
@options.steps()
def attention(
    image: Path,
    output: Path,
    prompt: str | None,
    word: str | None,
    model: ModelChoice,
    steps: int | None,
) -> None:
    """Show where in the photo IMAGE the model attends to a word.

    \b
    Below FOLDER, under the photo's name:
      .WORD.png        the word's map over the photo
      .WORD.npy        the map, float32 (height, width): mean probability on the word
      .WORD.grid.png   the map of each layer (rows) and step (columns)
      .WORD.grid.npy   those maps, float32 (layers, steps, height, width) at the latents' size
      .words.png       the maps of all words of the prompt, side by side

    In the grid and the side-by-side sheet each map is stretched to its own range.

    Exit code: 0, all is written; 2, it could not be.
    """
    quiet_libraries()
    from dehaze.network import NonFiniteError
    from dehaze.photos import PhotoError, read_photo, write_bytes
    from dehaze.pipelines.edit import EditPipeline
    from dehaze.prompts import prompt_words

    try:
        photo = read_photo(image).pixels
        pipe = model.load(EditPipeline)
        text = pipe.default_prompt if prompt is None else prompt
        chosen = pipe.description.word if word is None else word
        pipe.prompt_and_span(text, chosen)
        pipe.check_prompts(text)
        inversion = pipe.invert(photo, text, num_inference_steps=steps)
        tokens, _ = pipe.prompt_and_span(text)
        # A word once, however often the prompt has it, and without the punctuation beside it.
        words = dict.fromkeys(name.strip(".,;:!?()\"'") for name, _ in prompt_words(tokens))
        maps = {
            name: pipe.word_attention(photo, inversion, text, name)
            for name in (chosen, *filter(None, words))
        }
        overlays = {name: _over(photo, heat) for name, heat in maps.items()}
        grid, sheet = _grid(pipe, photo, inversion, text, chosen)
        start = f"{image.name}.{chosen.replace('/', '_')}"
        files = {
            f"{start}.png": _png(overlays[chosen]),
            f"{start}.npy": _npy(maps[chosen]),
            f"{start}.grid.png": _png(sheet),
            f"{start}.grid.npy": _npy(grid),
            f"{image.name}.words.png": _png(_words(photo, overlays)),
        }
        output.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            write_bytes(output / name, data)
    except (NonFiniteError, OSError, PhotoError, ValueError) as error:
        raise CommandError(str(error)) from error
    heat = maps[chosen]
    result(
        f"{chosen}: mean probability {heat.mean():.4f}, {heat.min():.4f} to {heat.max():.4f}; "
        f"{', '.join(str(output / name) for name in files)}"
    )


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
    """down_blocks.0.attentions.1.transformer_blocks.0.attn2 -> down 0.1.0"""
    parts = layer.split(".")
    place = parts[0].split("_")[0]
    return f"{place} {'.'.join(part for part in parts if part.isdecimal())}"


def _png(pixels: NDArray[np.float32]) -> bytes:
    import numpy as np
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.round(pixels * 255.0).astype(np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def _npy(values: NDArray[np.float32]) -> bytes:
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()
