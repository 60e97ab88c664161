from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from dehaze.pipelines.dehaze import DehazePipeline
from training.examples import EXAMPLES, write_examples, write_sheet
from training.validate import validate, validation_haze


def test_validation_scores_what_it_says(pipeline: DehazePipeline, tmp_path: Path) -> None:
    folder = tmp_path / "bsds500"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png", "c.png"):
        cv2.imwrite(str(folder / name), rng.integers(0, 255, (40, 60, 3), dtype=np.uint8))
    (folder / "val.txt").write_text("a.png\nb.png\nc.png\n")
    rendered = validation_haze(tmp_path, 2)
    assert len(rendered) == 2
    np.testing.assert_array_equal(rendered[0].hazy, validation_haze(tmp_path, 1)[0].hazy)
    scores = validate(pipeline, rendered, steps=4)
    assert scores.photos == 2
    expected = np.mean(
        [peak_signal_noise_ratio(haze.clear, haze.hazy, data_range=1.0) for haze in rendered]
    )
    assert scores.hazy == pytest.approx(expected)
    assert scores.picard > scores.ddim
    assert set(scores.layer_correlation) == {
        name.removesuffix(".processor") for name in pipeline.unet.attn_processors if "attn2" in name
    }


def test_the_examples_are_rendered_over_the_photos_named(tmp_path: Path) -> None:
    for name, *_ in EXAMPLES:
        scene = np.random.default_rng(0).integers(0, 120, (512, 768, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / name), scene)
    written = write_examples(tmp_path, tmp_path / "out")
    assert len(written) == len(EXAMPLES)
    for path in written:
        picture = cv2.imread(str(path))
        assert picture.shape == (512, 768, 3)
        assert picture.mean() > 80  # a veil over a dark scene
    with pytest.raises(ValueError, match="kodim"):
        write_examples(tmp_path / "nowhere", tmp_path / "out")


def test_the_sheet_shows_every_landscape_photo(pipeline: DehazePipeline, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number, size in enumerate([(40, 60), (60, 40), (40, 60)]):
        scene = rng.integers(0, 255, (*size, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / f"kodim{number:02d}.png"), scene)
    scores = write_sheet(pipeline, tmp_path, tmp_path / "sheet.jpg", count=2)
    assert len(scores) == 2
    assert cv2.imread(str(tmp_path / "sheet.jpg")).shape == (138, 1216, 3)
    with pytest.raises(ValueError, match="2 landscape photos"):
        write_sheet(pipeline, tmp_path, tmp_path / "sheet.jpg", count=4)
