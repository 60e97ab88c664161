from __future__ import annotations

from pathlib import Path

import torch
from click.testing import CliRunner

from training.__main__ import main
from training.train import TrainingSettings
from training.yardstick import Yardstick


def test_the_yardstick_learns_and_resumes(pool: Path, tmp_path: Path) -> None:
    arguments = ["yardstick", "--pool", str(pool), "--run", str(tmp_path), "--batch-size", "2"]
    for steps in ("1", "2"):
        done = CliRunner().invoke(main, [*arguments, "--steps", steps])
        assert done.exit_code == 0, done.output
    resumed = Yardstick(tmp_path, TrainingSettings(steps=2))
    assert resumed.step == 2
    resumed.use_average()
    latents = torch.zeros(1, 36, 16, 24)
    with torch.no_grad():
        assert resumed.estimate(latents).shape == latents.shape


def test_the_yardstick_may_end_by_the_clock(pool: Path, tmp_path: Path) -> None:
    arguments = ["yardstick", "--pool", str(pool), "--run", str(tmp_path), "--batch-size", "2"]
    done = CliRunner().invoke(main, [*arguments, "--minutes", "0.0001"])
    assert done.exit_code == 0, done.output
    resumed = Yardstick(tmp_path, TrainingSettings(minutes=0.0001))
    assert resumed.step == 1
    assert resumed.seconds > 0.006
