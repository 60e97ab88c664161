"""Fixtures: pictures, and small random models saved in the real format.

What takes long to import is imported by the fixtures that need it, since the process that only
hands tests to others reads this file as well.
"""

from __future__ import annotations

import copy
import gc
import os
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

# Tiny networks run as fast on one thread as on two, and processes do not slow each other down.
# Processes that the tests start inherit the setting.
os.environ["OMP_NUM_THREADS"] = "1"

from foreign_torchvision import import_torchvision

import_torchvision()

import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import NDArray

if TYPE_CHECKING:
    from dehaze.pipelines.dehaze import DehazePipeline

# The same examples in every run, and no time limit, since other work may use the cores.
settings.register_profile("tests", deadline=None, derandomize=True)
settings.load_profile("tests")

ROOT = Path(__file__).resolve().parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fail-on-skip", action="store_true", help="A test that is skipped is a failure."
    )


def pytest_collection_finish() -> None:
    """Keeps what the imports made out of every later search for garbage."""
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and item.config.getoption("--fail-on-skip"):
        report.outcome = "failed"
    return report


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """Seeds every test, so that its random numbers do not depend on the tests before it."""
    import torch

    torch.manual_seed(0)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The development data, where it is present: $DEHAZE_DATA or ../shared/data."""
    folder = Path(os.environ.get("DEHAZE_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("the development data is not here: set DEHAZE_DATA")
    return folder


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of the bundled kind, its weights random."""
    from small_models import save_random_model

    return save_random_model(tmp_path_factory.mktemp("random_model"))


@pytest.fixture(scope="session")
def stable_diffusion_xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random Stable Diffusion XL."""
    from small_models import save_stable_diffusion_xl

    return save_stable_diffusion_xl(tmp_path_factory.mktemp("sdxl"))


@pytest.fixture(scope="session")
def stable_diffusion_1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random Stable Diffusion 1.x."""
    from small_models import save_stable_diffusion

    return save_stable_diffusion(tmp_path_factory.mktemp("sd1"), "epsilon")


# XL has all parts of 1.x and a second text encoder. 2.x differs from 1.x in the prediction type,
# which tests of the inversion cover.
_SLOW_2 = pytest.param("v_prediction", marks=pytest.mark.slow)


@pytest.fixture(scope="session", params=["epsilon", _SLOW_2, "xl"])
def stable_diffusion(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with a tiny random Stable Diffusion: 1.x-like, 2.x-like and XL."""
    from small_models import save_stable_diffusion

    if request.param == "xl":
        folder: Path = request.getfixturevalue("stable_diffusion_xl")
        return folder
    return save_stable_diffusion(tmp_path_factory.mktemp("sd"), str(request.param))


@pytest.fixture(scope="session")
def clip_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random CLIP and its processor."""
    from small_models import save_clip

    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def classifier_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random classifier of pictures."""
    from image_networks import save_classifier

    return save_classifier(tmp_path_factory.mktemp("classifier"), ["haze", "street", "night sky"])


@pytest.fixture(scope="session")
def stable_diffusion_3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random Stable Diffusion 3."""
    from flow_models import save_stable_diffusion_3

    return save_stable_diffusion_3(tmp_path_factory.mktemp("sd3"))


@pytest.fixture(scope="session")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random FLUX."""
    from flow_models import save_flux

    return save_flux(tmp_path_factory.mktemp("flux"))


@pytest.fixture(scope="session")
def distilled_flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random FLUX whose network takes the guidance as a number."""
    from flow_models import save_flux

    return save_flux(tmp_path_factory.mktemp("flux_dev"), distilled=True)


@pytest.fixture(scope="session", params=["stable_diffusion_3", "flux"])
def flow_model(request: pytest.FixtureRequest) -> Path:
    """A folder with a tiny random model of flow matching: Stable Diffusion 3 and FLUX."""
    folder: Path = request.getfixturevalue(request.param)
    return folder


_SHAPES = ["bundled", pytest.param("epsilon", marks=pytest.mark.slow), _SLOW_2, "xl"]


@pytest.fixture(scope="session", params=_SHAPES)
def any_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small random model of every kind, at one size and with the same defaults.

    A module that overrides ``random_model`` by it runs the bundled model's tests on Stable
    Diffusion.
    """
    from small_models import save_stable_diffusion, save_stable_diffusion_xl

    bundled: Path = request.getfixturevalue("random_model")
    if request.param == "bundled":
        return bundled
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "xl":
        save_stable_diffusion_xl(folder)
    else:
        save_stable_diffusion(folder, request.param)
    (folder / "dehaze.json").write_text((bundled / "dehaze.json").read_text())
    return folder


@pytest.fixture(scope="session")
def loaded_pipeline(random_model: Path) -> DehazePipeline:
    """The random model of the bundled kind, loaded; not to be changed."""
    from dehaze.pipelines.dehaze import DehazePipeline

    loaded = DehazePipeline.from_pretrained(random_model)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture
def pipeline(loaded_pipeline: DehazePipeline) -> DehazePipeline:
    """A copy of the random model of the bundled kind, which a test may change."""
    return copy.deepcopy(loaded_pipeline)


@pytest.fixture(scope="session")
def bundled() -> DehazePipeline:
    """The model that ships."""
    from dehaze.pipelines.dehaze import DehazePipeline

    loaded = DehazePipeline.from_pretrained("bundled")
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture
def photo(scene: NDArray[np.float32]) -> NDArray[np.float32]:
    """The made-up scene, float32 (40, 60, 3) in [0, 1]; a copy, to be changed at will."""
    return scene.copy()


@pytest.fixture(scope="session")
def scene() -> NDArray[np.float32]:
    """A made-up scene, float32 (40, 60, 3) in [0, 1]: sky, ground, a few blocks."""
    rng = np.random.default_rng(7)
    rows = np.linspace(0.0, 1.0, 40, dtype=np.float32)[:, None, None]
    scene = np.broadcast_to(
        np.float32([0.4, 0.6, 0.9]) * (1 - rows) + rows * np.float32([0.3, 0.25, 0.1]), (40, 60, 3)
    ).copy()
    for _ in range(12):
        top, left = int(rng.integers(8, 30)), int(rng.integers(0, 50))
        scene[top : top + 10, left : left + 8] = rng.uniform(0, 1, 3)
    return scene.astype(np.float32)
