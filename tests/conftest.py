"""Small random models, saved in the real format, so that loading is tested offline."""

from __future__ import annotations

import copy
import gc
import json
import os
from collections.abc import Generator
from pathlib import Path

# Tiny networks run as fast on one thread as on two, and processes do not slow each other down.
# Processes that the tests start inherit the setting.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from foreign_torchvision import import_torchvision

import_torchvision()

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from flow_models import save_flux, save_stable_diffusion_3
from hypothesis import settings
from image_networks import save_classifier
from numpy.typing import NDArray
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from dehaze.models.codec import PixelUnshuffleCodec
from dehaze.pipelines.dehaze import DehazePipeline
from training.captions import vocabulary
from training.networks import Networks, build_networks, build_tokenizer

torch.set_num_threads(1)

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
    folder = tmp_path_factory.mktemp("random_model")
    torch.manual_seed(0)
    networks = build_networks(build_tokenizer(vocabulary(), folder / "source"))
    torch.manual_seed(0)
    # Smaller than the networks that ship: pixels for cells, and two levels.
    networks.text_encoder = CLIPTextModel(networks.text_encoder.config)
    networks.unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=12,
        out_channels=12,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=(2, 4),
        norm_num_groups=16,
    )
    networks.vae = PixelUnshuffleCodec(patch_size=2)
    networks.save(folder)
    settings = {
        "short_side": 16,
        "steps": 4,
        "spacing": "noisy-end",
        "solver": "fixed-point",
        "predictor": "previous",
        "criterion": "intra-path",
        "max_iterations": 5,
        "tolerance": 1e-6,
    }
    (folder / "dehaze.json").write_text(json.dumps(settings))
    return folder


def small_vae() -> AutoencoderKL:
    """A tiny random VAE that halves the sides."""
    return AutoencoderKL(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=4,
        norm_num_groups=8,
        scaling_factor=0.31,
    )


def save_stable_diffusion(folder: Path, prediction_type: str) -> Path:
    """A tiny Stable Diffusion: AutoencoderKL, PNDM or DDIM scheduler, model_index.json, random."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(vocabulary(), folder / "source")
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=37,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=32,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=8,
        use_linear_projection=prediction_type == "v_prediction",
    )
    vae = small_vae()
    schedule = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "steps_offset": 1,
        "set_alpha_to_one": False,
        "prediction_type": prediction_type,
    }
    if prediction_type == "epsilon":
        scheduler = PNDMScheduler(skip_prk_steps=True, **schedule)
    else:
        scheduler = DDIMScheduler(clip_sample=False, **schedule)
    networks = Networks(tokenizer, text_encoder, unet, vae, scheduler)
    networks.save(folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["_class_name"] = "StableDiffusionPipeline"
    index["safety_checker"] = [None, None]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def save_stable_diffusion_xl(folder: Path) -> Path:
    """A tiny Stable Diffusion XL: two text encoders, added conditions, Euler scheduler, random."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(vocabulary(), folder / "source")
    shared = {
        "vocab_size": len(tokenizer),
        "intermediate_size": 37,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 32,
        "eos_token_id": tokenizer.eos_token_id,
    }
    text_encoder = CLIPTextModel(CLIPTextConfig(hidden_size=32, **shared))
    text_encoder_2 = CLIPTextModelWithProjection(
        CLIPTextConfig(hidden_size=24, projection_dim=20, **shared)
    )
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=1,
        transformer_layers_per_block=(1, 2),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32 + 24,
        attention_head_dim=(2, 4),
        norm_num_groups=8,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 20,
    )
    vae = small_vae()
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        timestep_spacing="leading",
    )
    StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=text_encoder,
        text_encoder_2=text_encoder_2,
        tokenizer=tokenizer,
        # The second tokenizer pads with "!", as in the published model.
        tokenizer_2=CLIPTokenizer.from_pretrained(folder / "source", pad_token="!"),
        unet=unet,
        scheduler=scheduler,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def stable_diffusion_xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random Stable Diffusion XL."""
    return save_stable_diffusion_xl(tmp_path_factory.mktemp("sdxl"))


@pytest.fixture(scope="session")
def stable_diffusion_1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random Stable Diffusion 1.x."""
    return save_stable_diffusion(tmp_path_factory.mktemp("sd1"), "epsilon")


# XL has all parts of 1.x and a second text encoder. 2.x differs from 1.x in the prediction type,
# which tests of the inversion cover.
_SLOW_2 = pytest.param("v_prediction", marks=pytest.mark.slow)


@pytest.fixture(scope="session", params=["epsilon", _SLOW_2, "xl"])
def stable_diffusion(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with a tiny random Stable Diffusion: 1.x-like, 2.x-like and XL."""
    if request.param == "xl":
        folder: Path = request.getfixturevalue("stable_diffusion_xl")
        return folder
    return save_stable_diffusion(tmp_path_factory.mktemp("sd"), str(request.param))


@pytest.fixture(scope="session")
def clip_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random CLIP and its processor."""
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = build_tokenizer(vocabulary(), folder / "source")
    torch.manual_seed(0)
    shared = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    text = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 16,
        "eos_token_id": tokenizer.eos_token_id,
    }
    settings = CLIPConfig(
        text_config=shared | text,
        vision_config=shared | {"image_size": 32, "patch_size": 8},
        projection_dim=8,
    )
    CLIPModel(settings).save_pretrained(folder)
    pictures = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(pictures, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def classifier_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random classifier of pictures."""
    return save_classifier(tmp_path_factory.mktemp("classifier"), ["haze", "street", "night sky"])


@pytest.fixture(scope="session")
def stable_diffusion_3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random Stable Diffusion 3."""
    return save_stable_diffusion_3(tmp_path_factory.mktemp("sd3"))


@pytest.fixture(scope="session")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random FLUX."""
    return save_flux(tmp_path_factory.mktemp("flux"))


@pytest.fixture(scope="session")
def distilled_flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random FLUX whose network takes the guidance as a number."""
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
