"""Dehazing without diffusers against ``DehazePipeline``, bit for bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dehaze.models.choice import ModelChoice
from dehaze.pipelines.dehaze import DehazePipeline
from dehaze.pipelines.plain import PlainDehazer, load_plain_dehazer

ROOT = Path(__file__).resolve().parents[2]
PHOTO = np.asarray(Image.open(ROOT / "examples" / "kodim08_haze.jpg"))[::4, ::4]

QUICK = {"solver": "fixed-point", "num_inference_steps": 2, "spacing": "leading"}


@pytest.fixture(scope="module")
def pair(bundled: DehazePipeline) -> tuple[DehazePipeline, PlainDehazer]:
    return bundled, load_plain_dehazer(ModelChoice(device="cpu"))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"cross_replace_steps": 0.8, "self_replace_steps": 0.5, "strength": 0.7, **QUICK},
        {"null_text": "delete", "guidance_scale": 1.5, **QUICK},
    ],
    ids=["defaults", "control", "delete"],
)
def test_the_result_is_that_of_the_pipeline(
    pair: tuple[DehazePipeline, PlainDehazer], settings: dict[str, Any]
) -> None:
    expected, found = (pipe(PHOTO, **settings) for pipe in pair)
    np.testing.assert_array_equal(found.image, expected.image)
    np.testing.assert_array_equal(found.attention, expected.attention)
    assert found.nfe == expected.nfe


def test_a_batch_is_that_of_the_pipeline(pair: tuple[DehazePipeline, PlainDehazer]) -> None:
    expected, found = (pipe([PHOTO, PHOTO[::-1].copy()], **QUICK) for pipe in pair)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours.image, theirs.image)


def test_run_imports_only_what_dehazing_needs(tmp_path: Path) -> None:
    """Each of these takes longer to import than a small photo to dehaze."""
    small = tmp_path / "small.png"
    Image.fromarray(PHOTO[:40, :60]).save(small)
    code = (
        "import sys\n"
        "from dehaze.commands import main\n"
        f"main(['run', {str(small)!r}, '-o', {str(tmp_path / 'out')!r}, '-q'], "
        "standalone_mode=False)\n"
        "print(sorted({'diffusers', 'transformers', 'scipy', 'skimage', 'torch._dynamo', 'sympy', "
        "'huggingface_hub.hf_api', 'matplotlib', 'cv2'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "['cv2']", done.stderr
    assert (tmp_path / "out" / "small.png").is_file()
