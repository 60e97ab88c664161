from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from dehaze.pipelines.dehaze import DehazePipeline
from training.captions import vocabulary
from training.examples import EXAMPLES, write_examples, write_sheet
from training.networks import build_networks, build_tokenizer
from training.photos import PhotoCache
from training.validate import validate, validation_haze
from training.yardstick import Yardstick


def test_validation_scores_equal_their_definitions(
    pipeline: DehazePipeline, photo_cache: PhotoCache
) -> None:
    groups = validation_haze(photo_cache, 2)
    assert {name: len(rendered) for name, rendered in groups.items()} == {"depth": 2, "bsds500": 2}
    rendered = groups["depth"]
    again = validation_haze(photo_cache, 1)["depth"][0]
    np.testing.assert_array_equal(rendered[0].hazy, again.hazy)
    scores = validate(pipeline, rendered)
    assert scores.photos == 2
    expected = np.mean(
        [peak_signal_noise_ratio(haze.clear, haze.hazy, data_range=1.0) for haze in rendered]
    )
    assert scores.hazy == pytest.approx(expected)
    assert scores.yardstick is None
    assert set(scores.layer_correlation) == {
        name.removesuffix(".processor") for name in pipeline.unet.attn_processors if "attn2" in name
    }


@pytest.mark.slow
def test_a_yardstick_without_effect_scores_as_the_hazy_photo(
    photo_cache: PhotoCache, tmp_path: Path
) -> None:
    networks = build_networks(build_tokenizer(vocabulary(), tmp_path / "tokenizer"))
    networks.save(tmp_path / "model")
    cells = DehazePipeline.from_pretrained(tmp_path / "model")
    yardstick = Yardstick(tmp_path / "yardstick")
    with torch.no_grad():
        for parameter in yardstick.network.conv_out.parameters():
            parameter.zero_()
    scores = validate(cells, validation_haze(photo_cache, 1)["bsds500"], yardstick)
    assert scores.yardstick == pytest.approx(scores.hazy, abs=0.01)


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
