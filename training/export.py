"""Writes a trained run into the package."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from dehaze.inversion import InversionSettings
from dehaze.models.codec import CellsCodec
from dehaze.models.hashes import write_manifest
from dehaze.models.known_answer import write_known_answer
from dehaze.models.load import load_parts
from dehaze.models.needs import INVERSION_FIELDS
from dehaze.models.source import ModelSource
from training.captions import vocabulary
from training.train import Run

MAP_LAYER = "up_blocks.2.attentions.1.transformer_blocks.0.attn2"
"""The cross-attention layer of the haze attention map, at the latents' own size."""

INVERSION = InversionSettings(
    steps=4,
    spacing="noisy-end",
    solver="fixed-point",
    predictor="ife",
    relaxation="fitted",
    criterion="intra-path",
    max_iterations=1,
    tolerance=1e-3,
)
"""The default inversion of the bundled model. ``training.coupling`` inverts in the same way."""

# Chosen on haze rendered over BSDS500's validation photos: see the model card.
DEFAULTS: dict[str, Any] = {
    # In cells. It was trained at 32 cells; more cells give better results.
    "short_side": 40,
    **{name: getattr(INVERSION, name) for name in INVERSION_FIELDS},
    # The model is trained to find the clear picture from noise in one step: training/coupling.py.
    "denoising_steps": 1,
    "fitted_inversion": True,
    # The network has learned the swap itself; the source's attention would hinder it.
    "cross_replace_steps": 0.0,
    "self_replace_steps": 0.0,
    "map_layers": {MAP_LAYER: 1.0},
}
# In pixels. The training photos are too small for cells of more than 6. Cells of 10 are found at a
# short side of 400, where a photo's darkest pixels are less blurred.
SHIPPED_CELL_SIZE = 10
SIZE_LIMIT = 25 * 2**20


def export(run: Run, folder: Path) -> int:
    """Writes the averaged weights in diffusers' format; returns the size in bytes.

    Raises:
        ValueError: the model is larger than the package may carry.
    """
    networks = run.use_average()
    networks.vae = CellsCodec(cell_size=SHIPPED_CELL_SIZE)
    for part in vars(networks):
        shutil.rmtree(folder / part, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    networks.save(folder)
    description = DEFAULTS | {"vocabulary": vocabulary()}
    (folder / "dehaze.json").write_text(json.dumps(description, indent=2) + "\n")
    write_known_answer(folder, load_parts(ModelSource(folder)))
    write_manifest(folder)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if size > SIZE_LIMIT:
        raise ValueError(f"the model takes {size} bytes: the limit is {SIZE_LIMIT}")
    return size
