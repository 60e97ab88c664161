"""``python -m training train`` makes the bundled model; ``export`` writes it where it ships."""

from __future__ import annotations

import logging
from pathlib import Path

import click

BUNDLED = Path(__file__).resolve().parents[1] / "dehaze" / "models" / "bundled"


@click.group()
def main() -> None:
    """Makes the bundled model."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")


@main.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--run", "folder", type=click.Path(path_type=Path), default=Path("runs/bundled"))
@click.option("--steps", default=5000, show_default=True)
@click.option("--batch-size", default=64, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--seed", default=0, show_default=True)
def train(data: Path, folder: Path, steps: int, batch_size: int, device: str, seed: int) -> None:
    """Trains on the clear photos under --data, from the run's last checkpoint if it has one."""
    from training.train import Run, TrainingSettings, load_training_photos

    folder.mkdir(parents=True, exist_ok=True)
    settings = TrainingSettings(steps=steps, batch_size=batch_size, seed=seed)
    run = Run(folder, settings, device)
    run.resume()
    run.train(load_training_photos(data))


if __name__ == "__main__":
    main()
