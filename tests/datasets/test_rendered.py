"""Rendered data sets: the files obey the scattering model and are reproducible."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

from dehaze.datasets import Dataset, open_photo_folder, render_dataset


@pytest.fixture
def clear(tmp_path: Path) -> Dataset:
    for index in range(3):
        path = tmp_path / "clear" / "sub" / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(astronaut()[100 * index : 100 * index + 60, :80]).save(path)
    return open_photo_folder(tmp_path / "clear")


def test_the_files_obey_the_scattering_model(clear: Dataset, tmp_path: Path) -> None:
    dataset = render_dataset(clear, tmp_path / "out", kind="smog")
    assert dataset.name == "clear-smog"
    assert [sample.name for sample in dataset] == ["sub/0", "sub/1", "sub/2"]
    for sample, source in zip(dataset, clear, strict=True):
        loaded = sample.load()
        assert loaded.oddities == ()
        assert loaded.clear is not None
        assert loaded.transmission is not None
        np.testing.assert_array_equal(loaded.clear, source.load().hazy)
        t = loaded.transmission[..., None]
        expected = loaded.clear / 255 * t + np.array(sample.airlight) * (1 - t)
        # hazy and t were both rounded to 8 bits
        assert np.abs(loaded.hazy / 255 - expected).max() < 2 / 255


def test_haze_follows_from_seed_and_name(clear: Dataset, tmp_path: Path) -> None:
    first = render_dataset(clear, tmp_path / "a").samples
    part = render_dataset(clear, tmp_path / "b", limit=2).samples
    other = render_dataset(clear, tmp_path / "c", seed=1).samples
    assert [sample.name for sample in part] == ["sub/0", "sub/1"]
    for again, sample in zip(part, first, strict=False):
        assert again.hazy.read_bytes() == sample.hazy.read_bytes()
        assert again.airlight == sample.airlight
    assert all(
        sample.hazy.read_bytes() != changed.hazy.read_bytes()
        for sample, changed in zip(first, other, strict=True)
    )
    assert len({sample.airlight for sample in first}) == 3
