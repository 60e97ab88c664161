"""One known output of a model, which tells whether the installed libraries compute the same.

A model of this project carries ``known_answer.json``: numbers that its tokenizer, text encoder,
network and codec gave, in this order, when it was exported.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dehaze.models import ModelError
from dehaze.models.conditioning import embed_one, network_arguments
from dehaze.models.parts import ModelParts
from dehaze.prompts import tokenize

ANSWER_FILE = "known_answer.json"

# Tolerance, relative to the numbers' root mean square. Processors, thread counts and library
# versions add in another order, which changes the numbers far less (docs/notes/libraries.md); wrong
# weights change them far more.
TOLERANCE = 1e-3
# How many numbers of each part's output are kept, evenly spread over it.
_KEPT = 32
_TIMESTEP = 500
_LATENT_SIZE = (8, 12)


@dataclass(frozen=True)
class KnownAnswer:
    """The recorded outputs of a model's parts.

    Attributes:
        ids: the tokens of its own prompt.
        embedding: of the prompt, ``_KEPT`` numbers of it.
        noise: the network's output at made-up latents under that prompt, likewise.
        picture: the codec's picture of these latents, likewise.
    """

    ids: list[int]
    embedding: list[float]
    noise: list[float]
    picture: list[float]


def write_known_answer(folder: Path, parts: ModelParts) -> None:
    """Writes a model's present answer into its folder."""
    text = json.dumps(vars(_answer(parts)))
    (folder / ANSWER_FILE).write_text(text + "\n", encoding="utf-8")


def check_known_answer(folder: Path, parts: ModelParts) -> bool:
    """Checks that a loaded model gives the known answer in its folder.

    Args:
        folder: the model's.
        parts: loaded from it in float32, on the CPU.

    Returns:
        True if the parts give the recorded answer; False if none is recorded.

    Raises:
        ModelError: another answer came; the message names the first part that is wrong.
    """
    path = folder / ANSWER_FILE
    if not path.is_file():
        return False
    try:
        known = KnownAnswer(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ModelError(f"{path} is no known answer: get the model again") from error
    given = _answer(parts)
    for name, expected in vars(known).items():
        apart = _distance(getattr(given, name), expected)
        if not apart <= TOLERANCE:
            raise ModelError(
                f"{folder} does not give its known answer: {name} is {apart:.1g} apart (relative; "
                f"{TOLERANCE:g} is allowed): install the library versions that dehaze asks for"
            )
    return True


@torch.no_grad()
def _answer(parts: ModelParts) -> KnownAnswer:
    ids = tokenize(parts.tokenizer, parts.description.prompt).ids[None]
    embedding = embed_one(parts.text_encoder, ids)
    height, width = _LATENT_SIZE
    channels = int(parts.unet.config.in_channels)
    numbers = torch.arange(channels * height * width, dtype=torch.float64)
    # A plain formula: random generators may change from version to version.
    latents = torch.sin(numbers * 0.7).mul(1.2).float().view(1, channels, height, width)
    side = parts.description.pixels_per_latent
    arguments = network_arguments(
        parts.unet, embedding, embedding.shape[1], (height * side, width * side)
    )
    noise = parts.unet(latents, _TIMESTEP, **arguments).sample
    picture = parts.vae.decode(latents / float(parts.vae.config.scaling_factor)).sample
    return KnownAnswer(ids[0].tolist(), _kept(embedding), _kept(noise), _kept(picture))


def _kept(values: Tensor) -> list[float]:
    flat = values.flatten()
    chosen = torch.linspace(0, flat.numel() - 1, _KEPT).long()
    return [float(f"{value:.6g}") for value in flat[chosen].tolist()]


def _distance(given: list[Any], expected: list[Any]) -> float:
    """Greatest difference, relative to the expected numbers' root mean square.

    Infinite where a number is not finite, since a maximum may pass over NaN.
    """
    if len(given) != len(expected) or not all(map(math.isfinite, given)):
        return math.inf
    scale = math.sqrt(sum(value**2 for value in expected) / len(expected))
    return max(abs(a - b) for a, b in zip(given, expected, strict=True)) / scale
