"""The bundled model on real pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from dehaze.eval.probes import codec_roundtrip, reconstruct
from dehaze.pipelines.dehaze import DehazePipeline

Array = NDArray[np.float32]
ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.jpg"))


def read(path: Path) -> Array:
    return np.ascontiguousarray(cv2.imread(str(path))[..., ::-1]).astype(np.float32) / 255.0


def edges(picture: Array) -> float:
    """The mean step of the grey levels from a pixel to the one below it."""
    return float(np.abs(np.diff(picture.mean(2), axis=0)).mean())


def reconstruction(bundled: DehazePipeline, photo: Array, solver: str) -> float:
    settings: dict[str, Any] = {
        "num_inference_steps": 20, "spacing": "leading", "solver": solver
    }  # fmt: skip
    if solver != "ddim":
        settings |= {"max_iterations": 5, "tolerance": 1e-3}
    small, back = reconstruct(bundled, photo, **settings)
    return float(peak_signal_noise_ratio(small, back, data_range=1.0))


def check_reconstruction(bundled: DehazePipeline, photos: list[Array]) -> None:
    picard = np.mean([reconstruction(bundled, photo, "fixed-point") for photo in photos])
    ddim = np.mean([reconstruction(bundled, photo, "ddim") for photo in photos])
    assert picard >= 38.0
    assert picard - ddim >= 8.0


@pytest.mark.slow
def test_picard_reconstructs_where_plain_inversion_does_not(bundled: DehazePipeline) -> None:
    assert len(EXAMPLES) == 4
    check_reconstruction(bundled, [read(EXAMPLES[0])])


@pytest.mark.slow
def test_picard_reconstructs_real_hazy_photos(bundled: DehazePipeline, data_folder: Path) -> None:
    paths = sorted((data_folder / "real_hazy").glob("*.*g"))[::24]
    assert len(paths) > 3
    check_reconstruction(bundled, [read(path) for path in paths])


def test_strength_zero_is_the_photo_at_the_working_size(bundled: DehazePipeline) -> None:
    photo = read(EXAMPLES[0])
    still = bundled(photo, strength=0.0, recovery="none").image
    small = codec_roundtrip(bundled, photo)
    enlarged = cv2.resize(small, photo.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    np.testing.assert_allclose(still, np.clip(enlarged, 0, 1), atol=1e-4)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_lose_their_veil(bundled: DehazePipeline, path: Path) -> None:
    """The result has darker dark parts and stronger edges than the hazy photo."""
    photo = read(path)
    result = bundled(photo)
    assert np.quantile(result.image, 0.05) < np.quantile(photo, 0.05) - 0.03
    assert edges(result.image) > 1.3 * edges(photo)
    assert result.transmission is not None
    assert result.transmission.mean() < 0.95


@pytest.mark.slow
@pytest.mark.parametrize(("subset", "floor"), [("outdoor", (23.5, 0.93)), ("indoor", (20.2, 0.87))])
def test_sots_development_pairs_come_out_clearer(
    bundled: DehazePipeline, data_folder: Path, subset: str, floor: tuple[float, float]
) -> None:
    """A sample of the pairs, spread evenly; the whole table stands in docs/evaluation.md."""
    hazy = sorted((data_folder / "SOTS" / subset / "hazy").iterdir())[::5]
    scores = []
    for path in hazy:
        truth = read(data_folder / "SOTS" / subset / "gt" / f"{path.name.split('_')[0]}.png")
        saved = np.round(bundled(read(path)).image * 255.0) / 255.0
        scores.append(
            (
                peak_signal_noise_ratio(truth, saved, data_range=1.0),
                structural_similarity(
                    truth,
                    saved,
                    channel_axis=2,
                    gaussian_weights=True,
                    sigma=1.5,
                    use_sample_covariance=False,
                    data_range=1.0,
                ),
            )
        )
    assert np.mean([score[0] for score in scores]) >= floor[0]
    assert np.mean([score[1] for score in scores]) >= floor[1]
