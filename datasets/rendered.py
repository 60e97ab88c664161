"""A data set of clear pictures under rendered haze, whose transmission and airlight are known."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from dehaze.datasets.decoding import read_rgb
from dehaze.datasets.pairing import Oddity, OddityKind, Sample
from dehaze.datasets.registry import Dataset, DatasetNotFoundError
from dehaze.datasets.synthesis import render_haze
from dehaze.levels import from_levels
from dehaze.photos import Encoding, Photo, PhotoError, write_photo


def render_dataset(
    clear: Dataset, folder: Path, *, kind: str = "haze", seed: int = 0, limit: int | None = None
) -> Dataset:
    """Render haze over clear pictures; write the hazy ones, the clear ones and t as PNG.

    The seed and a picture's name decide its haze. A folder rendered again, in whole or in part,
    gives the same files.

    Args:
        clear: clear pictures, as ``open_photo_folder`` gives them.
        folder: where ``hazy/``, ``gt/`` and ``trans/`` are written.
        kind: a name of ``dehaze.datasets.synthesis.HAZE_KINDS``.
        seed: of the haze.
        limit: at most so many pictures, evenly spread; None for all.

    Returns:
        The rendered set, with transmission map and airlight for every sample. A picture that does
        not decode is an oddity of it.

    Raises:
        DatasetNotFoundError: no picture decodes.
        PhotoError: a file cannot be written.
        ValueError: an unknown kind.
    """
    grey = Photo(np.zeros((1, 1, 3), np.float32), encoding=Encoding(grey=True))
    samples, unreadable = [], []
    for source in clear.spread(limit):
        digest = hashlib.sha256(f"{seed}/{kind}/{source.name}".encode()).digest()
        rng = np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))
        try:
            pixels = from_levels(read_rgb(source.hazy).pixels)
        except PhotoError as error:
            unreadable.append(Oddity(OddityKind.UNREADABLE, source.hazy, str(error)))
            continue
        rendered = render_haze(pixels, rng, kind=kind)
        paths = {part: folder / part / f"{source.name}.png" for part in ("hazy", "gt", "trans")}
        for path in paths.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        write_photo(paths["hazy"], rendered.hazy)
        write_photo(paths["gt"], rendered.clear)
        write_photo(paths["trans"], np.dstack([rendered.transmission] * 3), like=grey)
        red, green, blue = (float(channel) for channel in rendered.airlight)
        samples.append(
            Sample(
                name=source.name,
                scene=source.scene,
                hazy=paths["hazy"],
                clear=paths["gt"],
                transmission=paths["trans"],
                airlight=(red, green, blue),
            )
        )
    if unreadable and not samples:
        raise DatasetNotFoundError(f"no picture can be read: {unreadable[0].message}")
    return Dataset(
        f"{clear.name}-{kind}", tuple(samples), (*clear.oddities, *unreadable), paired=True
    )
