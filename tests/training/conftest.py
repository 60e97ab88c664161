from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from training.batches import gaussian_noise
from training.captions import vocabulary
from training.networks import Networks, build_networks, build_tokenizer
from training.noise import GaussianNoise
from training.photos import PhotoCache, build_cache
from training.pool import PoolReader, fill_pool


@pytest.fixture(scope="session")
def photo_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder: four photos without depth, and three with it, of which one has too little."""
    data = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    clean, room = data / "clean" / "bsds500", data / "train" / "rgbd" / "room"
    (data / "train" / "photos" / "street").mkdir(parents=True)
    clean.mkdir(parents=True)
    room.mkdir(parents=True)

    def write(path: Path, size: tuple[int, int]) -> None:
        coarse = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        cv2.imwrite(str(path), cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC))

    for name in ("a", "b"):
        write(clean / f"{name}.png", (321, 481))
    (clean / "train.txt").write_text("a.png\n")
    (clean / "val.txt").write_text("b.png\n")
    names = []
    for number, holes in enumerate((0.0, 0.1, 0.5)):
        write(room / f"{number}.webp", (192, 256))
        ramp = np.linspace(8000, 60000, 256)[None].repeat(192, 0).astype(np.uint16)
        ramp[: int(192 * holes)] = 0
        cv2.imwrite(str(room / f"{number}.png"), ramp)
        names.append(f"rgbd/room/{number}.webp\ttrain")
    for number, split in enumerate(("train", "val")):
        write(data / "train" / "photos" / "street" / f"{number}.webp", (192, 256))
        names.append(f"photos/street/{number}.webp\t{split}")
    (data / "train" / "split.tsv").write_text("\n".join(names) + "\n")
    (data / "train" / "SOURCES.tsv").write_text(
        "source\tindoor_outdoor\tdepth\n"
        "rgbd/room\tindoor\tmetric, Kinect, mm; far limit 8 m\n"
        "photos/street\toutdoor\tnone\n"
    )
    return data


@pytest.fixture(scope="session")
def photo_cache(photo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> PhotoCache:
    return build_cache(photo_data, tmp_path_factory.mktemp("cache"), "train")


@pytest.fixture(scope="session")
def pool(photo_cache: PhotoCache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of twelve pairs."""
    folder = tmp_path_factory.mktemp("pool")
    fill_pool(photo_cache, folder, 2, 2, seed=1, pairs=12)
    return folder


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Networks:
    torch.manual_seed(0)
    return build_networks(build_tokenizer(vocabulary(), tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def noise_of(networks: Networks, pool: Path) -> GaussianNoise:
    return gaussian_noise(networks, PoolReader(pool))
