"""``python -m training train`` makes the bundled model; ``export`` writes it where it ships."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from dehaze.pipelines.dehaze import DehazePipeline

BUNDLED = Path(__file__).resolve().parents[1] / "dehaze" / "models" / "bundled"


Command = TypeVar("Command", bound=Callable[..., None])


def of_a_run(folder: Path, steps: int) -> Callable[[Command], Command]:
    """The options of both training stages, with what is the default of one of them."""
    options = (
        click.option("--data", type=click.Path(path_type=Path, exists=True), required=True),
        click.option("--run", "folder", type=click.Path(path_type=Path), default=folder),
        click.option("--steps", default=steps, show_default=True),
        click.option("--batch-size", default=64, show_default=True),
        click.option("--device", default="cpu", show_default=True),
        click.option("--seed", default=0, show_default=True),
        click.option(
            "-o",
            "--output",
            type=click.Path(path_type=Path),
            help="Export the weights there after the last step; the package ships bundled/.",
        ),
    )

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


@click.group()
def main() -> None:
    """Makes the bundled model."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")


@main.command()
@of_a_run(Path("runs/bundled"), steps=5000)
def train(
    data: Path,
    folder: Path,
    steps: int,
    batch_size: int,
    device: str,
    seed: int,
    output: Path | None,
) -> None:
    """Trains on the clear photos under --data, from the run's last checkpoint if it has one."""
    from training.export import export
    from training.train import Run, TrainingSettings, load_training_photos, separate_batches

    folder.mkdir(parents=True, exist_ok=True)
    settings = TrainingSettings(steps=steps, batch_size=batch_size, seed=seed)
    run = Run(folder, settings, device)
    run.resume()
    run.train(separate_batches(load_training_photos(data), run.networks))
    if output is not None:
        export(run, output)


@main.command()
@click.option(
    "--initial",
    type=click.Path(path_type=Path, exists=True),
    required=True,
    help="The model that training starts from.",
)
@click.option(
    "--teacher",
    type=click.Path(path_type=Path, exists=True),
    help="The model that inverts the renderings, if it is another.",
)
@click.option("--chunks", default=40, show_default=True, help="Of 256 pairs each.")
@of_a_run(Path("runs/coupled"), steps=1800)
def couple(
    initial: Path,
    teacher: Path | None,
    data: Path,
    folder: Path,
    chunks: int,
    steps: int,
    batch_size: int,
    device: str,
    seed: int,
    output: Path | None,
) -> None:
    """The second stage: ties each rendering's noise to its clear photo; can be continued, too."""
    from training.coupling import COUPLED, coupled_batches, load_chunks, write_chunks
    from training.export import export
    from training.networks import load_networks
    from training.train import Run, load_training_photos

    photos = load_training_photos(data)
    inverting = load_networks(teacher or initial)
    inverting.unet.to(device)
    inverting.text_encoder.to(device)
    write_chunks(inverting, photos, folder / "pairs", chunks, seed)
    networks = load_networks(initial)
    settings = replace(COUPLED, steps=steps, batch_size=batch_size, seed=seed)
    run = Run(folder, settings, device, networks)
    run.resume()
    run.train(coupled_batches(load_chunks(folder / "pairs"), photos, networks))
    if output is not None:
        export(run, output)


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


def _quiet_pipeline(model: str) -> DehazePipeline:
    from dehaze.pipelines.dehaze import DehazePipeline

    pipeline = DehazePipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@main.command("validate")
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--model", default="bundled", show_default=True)
@click.option("--photos", default=20, show_default=True)
def validate_command(data: Path, model: str, photos: int) -> None:
    """Scores a model on haze rendered over BSDS500's validation photos."""
    import json

    from training.validate import validate, validation_haze

    scores = validate(_quiet_pipeline(model), validation_haze(data, photos))
    click.echo(json.dumps(scores.to_dict(), indent=2))


@main.command("calibrate")
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--model", default="bundled", show_default=True)
@click.option("--photos", default=100, show_default=True)
def calibrate_command(data: Path, model: str, photos: int) -> None:
    """Fits dehaze.recovery.density's weights on haze rendered over BSDS500's validation photos."""
    import json
    from dataclasses import asdict

    from training.calibrate import calibrate
    from training.validate import validation_haze

    fitted = calibrate(_quiet_pipeline(model), validation_haze(data, photos, densities=True))
    click.echo(json.dumps(asdict(fitted), indent=2))


@main.command("examples")
@click.option("--kodak", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("examples"))
def examples_command(kodak: Path, output: Path) -> None:
    """Renders the example photos over Kodak's."""
    from training.examples import write_examples

    for path in write_examples(kodak, output):
        click.echo(path)


@main.command("sheet")
@click.option("--kodak", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--model", default="bundled", show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("docs/sheet.jpg"))
def sheet_command(kodak: Path, model: str, output: Path) -> None:
    """Dehazes haze over Kodak's first twelve photos, for the README."""
    from training.examples import write_sheet

    scores = write_sheet(_quiet_pipeline(model), kodak, output)
    click.echo(", ".join(f"{score:.1f}" for score in scores) + " dB")


if __name__ == "__main__":
    main()
