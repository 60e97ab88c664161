"""PIE-Bench: 700 pictures, each with two prompts and the mask of what is to change.

Source: Ju et al., "Direct Inversion: Boosting diffusion-based editing with 3 lines of code",
arXiv 2310.01506; published at https://github.com/cure-lab/PnPInversion.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dehaze.datasets.registry import DatasetNotFoundError

MAPPING = "mapping_file.json"
PICTURES = "annotation_images"
LAYOUT = (
    f"expected {MAPPING} beside {PICTURES}/, as published at "
    "https://github.com/cure-lab/PnPInversion"
)
_SIDE = 512


@dataclass(frozen=True)
class EditSample:
    """One edit of PIE-Bench.

    Attributes:
        key: its name in the mapping file.
        picture: the file of the picture.
        relative: its path below ``annotation_images``, under which results are looked for.
        source: what the picture shows, without the brackets that mark differences.
        target: what it shall show, likewise.
        kind: the editing type, "0" to "9".
        blended: the words that are blended, source and target; empty where there are none.
        mask: float64 (512, 512), 1 where the picture is to change, 0 where it is to stay.
    """

    key: str
    picture: Path
    relative: str
    source: str
    target: str
    kind: str
    blended: tuple[str, ...]
    mask: NDArray[np.float64]


def decode_mask(encoded: Sequence[int], shape: tuple[int, int] = (_SIDE, _SIDE)) -> NDArray:
    """A mask from start, length, start, length ... in row-major order.

    Runs that reach over the end are cut. The outermost rows and columns are always 1, as in the
    published script, against errors of annotation at the border.

    Args:
        encoded: starts and lengths, by turns.
        shape: (height, width).

    Returns:
        float64 (height, width), 0 or 1.

    Raises:
        ValueError: a start without a length, or a negative number.
    """
    if len(encoded) % 2 or min(encoded, default=0) < 0:
        raise ValueError("a mask is start, length, start, length ..., none of them negative")
    flat = np.zeros(shape[0] * shape[1])
    for start, length in zip(encoded[::2], encoded[1::2], strict=True):
        flat[start : start + length] = 1.0
    mask = flat.reshape(shape)
    mask[[0, -1], :] = 1.0
    mask[:, [0, -1]] = 1.0
    return mask


def open_pie_bench(root: Path) -> list[EditSample]:
    """The edits of a PIE-Bench folder, in the mapping file's order.

    Raises:
        DatasetNotFoundError: there is no mapping file, or it is none; the message says what layout
            is expected. Pictures are not looked at yet.
    """
    mapping = root / MAPPING
    if not mapping.is_file():
        raise DatasetNotFoundError(f"{mapping} is missing: {LAYOUT}")
    try:
        entries = json.loads(mapping.read_text(encoding="utf-8"))
        return [_sample(root, key, entry) for key, entry in entries.items()]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise DatasetNotFoundError(
            f"{mapping} is no PIE-Bench mapping ({type(error).__name__}: {error}): {LAYOUT}"
        ) from error


def _sample(root: Path, key: str, entry: dict) -> EditSample:
    relative = str(entry["image_path"])
    return EditSample(
        key=key,
        picture=root / PICTURES / relative,
        relative=relative,
        source=_plain(entry["original_prompt"]),
        target=_plain(entry["editing_prompt"]),
        kind=str(entry["editing_type_id"]),
        blended=tuple(str(entry.get("blended_word", "")).split()),
        mask=decode_mask(entry["mask"]),
    )


def _plain(prompt: str) -> str:
    return " ".join(prompt.replace("[", "").replace("]", "").split())
