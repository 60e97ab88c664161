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


@main.command("export")
@click.option("--run", "folder", type=click.Path(path_type=Path), default=Path("runs/bundled"))
@click.option("-o", "--output", type=click.Path(path_type=Path), default=BUNDLED, show_default=True)
def export_command(folder: Path, output: Path) -> None:
    """Writes the run's averaged weights where the package ships them."""
    from training.export import export
    from training.train import Run, TrainingSettings

    run = Run(folder, TrainingSettings(), "cpu")
    run.resume()
    if run.step == 0:
        raise click.ClickException(f"{folder} holds no checkpoint: run `python -m training train`")
    size = export(run, output)
    click.echo(f"{output}: {size / 2**20:.1f} MiB after {run.step} steps")


if __name__ == "__main__":
    main()
