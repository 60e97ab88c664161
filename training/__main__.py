"""``python -m training train`` makes the bundled model; ``export`` writes it into the package."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from dehaze.pipelines.dehaze import DehazePipeline
    from training.noise import GaussianNoise
    from training.pool import PoolReader
    from training.train import Run, TrainingSettings

BUNDLED = Path(__file__).resolve().parents[1] / "dehaze" / "models" / "bundled"


Command = TypeVar("Command", bound=Callable[..., None])


OUTPUT = "Folder to export the weights to after the last step; none by default."

of_a_model = click.option(
    "--initial",
    type=click.Path(path_type=Path, exists=True),
    required=True,
    help="The model that training starts from.",
)


of_some_minutes = click.option(
    "--minutes",
    type=click.FloatRange(min=0.0, min_open=True),
    help="Length of training, without interruptions; instead of --steps.",
)


def of_a_stage(steps: int) -> Callable[[Command], Command]:
    """The options of every training stage; ``steps`` is the default of ``--steps``."""
    options = (
        click.option("--pool", type=click.Path(path_type=Path, exists=True), required=True),
        click.option("--steps", default=steps, show_default=True),
        of_some_minutes,
        click.option("--batch-size", default=32, show_default=True),
        click.option("--learning-rate", type=float, help="AdamW's; each stage has a default."),
        click.option("--device", default="cpu", show_default=True),
        click.option("--seed", default=0, show_default=True),
    )

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def _settings(
    stage: TrainingSettings,
    steps: int,
    minutes: float | None,
    batch_size: int,
    learning_rate: float | None,
    seed: int,
) -> TrainingSettings:
    """A stage's settings, replaced by those of the command line."""
    source = click.get_current_context().get_parameter_source("steps")
    if minutes is not None and source is ParameterSource.COMMANDLINE:
        raise click.UsageError("--steps has no effect with --minutes: leave one of them out")
    return replace(
        stage,
        steps=steps,
        minutes=minutes,
        batch_size=batch_size,
        learning_rate=stage.learning_rate if learning_rate is None else learning_rate,
        seed=seed,
    )


def of_a_run(folder: Path) -> Callable[[Command], Command]:
    """The options of a stage that keeps checkpoints; ``folder`` is the default of ``--run``."""

    def add(command: Command) -> Command:
        to = click.option("-o", "--output", type=click.Path(path_type=Path), help=OUTPUT)
        run = click.option("--run", "folder", type=click.Path(path_type=Path), default=folder)
        return run(to(command))

    return add


@click.group()
def main() -> None:
    """Makes the bundled model."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")


@main.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--cache", type=click.Path(path_type=Path), default=Path("runs/cache/train"))
@click.option("--pool", type=click.Path(path_type=Path), default=Path("runs/pool"))
@click.option(
    "--shards", default=150, show_default=True, help="Shards to render; each holds 512 pairs."
)
@click.option(
    "--keep", default=150, show_default=True, help="Most shards kept; the oldest are deleted."
)
@click.option("--workers", default=1, show_default=True, help="Number of processes.")
@click.option("--seed", default=0, show_default=True)
def render(
    data: Path, cache: Path, pool: Path, shards: int, keep: int, workers: int, seed: int
) -> None:
    """Renders training pairs over the photos under --data; can run during training."""
    from training.photos import build_cache
    from training.pool import fill_pool

    fill_pool(build_cache(data, cache, "train"), pool, shards, keep, seed, workers=workers)


@main.command()
@click.option(
    "--initial",
    type=click.Path(path_type=Path, exists=True),
    help="A model to start from, with the same networks; random weights by default.",
)
@of_a_run(Path("runs/bundled"))
@of_a_stage(steps=3000)
def train(
    initial: Path | None,
    pool: Path,
    folder: Path,
    steps: int,
    minutes: float | None,
    batch_size: int,
    learning_rate: float | None,
    device: str,
    seed: int,
    output: Path | None,
) -> None:
    """Trains the first stage on a pool of pairs, from the run's last checkpoint if there is one."""
    from training.batches import first_batches
    from training.export import export
    from training.networks import load_networks
    from training.train import Run, TrainingSettings

    folder.mkdir(parents=True, exist_ok=True)
    settings = _settings(TrainingSettings(), steps, minutes, batch_size, learning_rate, seed)
    run = Run(folder, settings, device, None if initial is None else load_networks(initial))
    reader, noise_of = _resumed(run, pool, device)
    run.train(first_batches(reader, run.networks, noise_of), noise_of.unwhitened)
    if output is not None:
        export(run, output)


def _resumed(run: Run, pool: Path, device: str) -> tuple[PoolReader, GaussianNoise]:
    """Continues a run from its last checkpoint, if there is one.

    Returns:
        The reader of the run's pool, and its closed-form inversion, which is computed once and
        saved in the run's folder.
    """
    from training.batches import gaussian_noise
    from training.noise import GaussianNoise
    from training.pool import PoolReader

    reader = PoolReader(pool, device)
    found = run.folder / "noise.npz"
    if not found.exists():
        gaussian_noise(run.networks, reader).save(found)
    run.resume()
    return reader, GaussianNoise.load(found, device)


@main.command()
@of_a_model
@click.option(
    "--chunks",
    default=64,
    show_default=True,
    help="Most chunks kept; each holds two batches of pairs.",
)
@click.option("--renew-every", default=12, show_default=True, help="Steps between new chunks.")
@of_a_run(Path("runs/coupled"))
@of_a_stage(steps=1200)
def couple(
    initial: Path,
    pool: Path,
    folder: Path,
    chunks: int,
    renew_every: int,
    steps: int,
    minutes: float | None,
    batch_size: int,
    learning_rate: float | None,
    device: str,
    seed: int,
    output: Path | None,
) -> None:
    """Trains the second stage, on noise found by inversion, and the haze attention map."""
    from training.coupling import COUPLED, CoupledBatches
    from training.export import export
    from training.localising import MapLoss
    from training.networks import load_networks
    from training.train import Run

    folder.mkdir(parents=True, exist_ok=True)
    settings = _settings(COUPLED, steps, minutes, batch_size, learning_rate, seed)
    run = Run(folder, settings, device, load_networks(initial))
    reader, noise_of = _resumed(run, pool, device)
    batches = CoupledBatches(run, reader, noise_of, chunks, renew_every)
    run.train(batches, noise_of.unwhitened, MapLoss(run.networks))
    if output is not None:
        export(run, output)


def _levels(context: click.Context, parameter: click.Parameter, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(count) for count in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list of whole numbers, as 1,2,2") from None


@main.command()
@of_a_model
@click.option("--layers", callback=_levels, required=True, help="At each level, as 1,2,2.")
@click.option("--transformers", callback=_levels, required=True, help="Blocks of each layer.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
def grow(
    initial: Path, layers: tuple[int, ...], transformers: tuple[int, ...], output: Path
) -> None:
    """Writes a model with a deeper network that computes the same, to be trained on."""
    import torch

    from training.growing import grow as grow_network
    from training.networks import load_networks

    torch.manual_seed(0)
    networks = load_networks(initial)
    try:
        networks.unet = grow_network(networks.unet, layers, transformers)
    except ValueError as error:
        raise click.ClickException(f"{initial}: {error}") from None
    networks.save(output)


@main.command()
@click.option("--pool", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--run", "folder", type=click.Path(path_type=Path), default=Path("runs/yardstick"))
@click.option("--steps", default=4000, show_default=True)
@of_some_minutes
@click.option("--batch-size", default=32, show_default=True)
def yardstick(pool: Path, folder: Path, steps: int, minutes: float | None, batch_size: int) -> None:
    """Trains the yardstick: a plain regressor on the same pairs, for comparison."""
    from training.pool import PoolReader
    from training.yardstick import YARDSTICK, Yardstick

    settings = _settings(YARDSTICK, steps, minutes, batch_size, None, YARDSTICK.seed)
    Yardstick(folder, settings).train(PoolReader(pool))


@main.command("export")
@click.option("--run", "folder", type=click.Path(path_type=Path), default=Path("runs/bundled"))
@click.option("-o", "--output", type=click.Path(path_type=Path), default=BUNDLED, show_default=True)
def export_command(folder: Path, output: Path) -> None:
    """Exports a run's averaged weights, by default into the package."""
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
@click.option("--cache", type=click.Path(path_type=Path), default=Path("runs/cache/val"))
@click.option("--model", default="bundled", show_default=True)
@click.option("--yardstick", type=click.Path(path_type=Path, exists=True), help="Its folder.")
@click.option("--photos", default=20, show_default=True, help="Photos in each group.")
def validate_command(
    data: Path, cache: Path, model: str, yardstick: Path | None, photos: int
) -> None:
    """Scores a model on haze rendered over validation photos, with measured and invented depth."""
    import json

    from training.photos import build_cache
    from training.validate import validate, validation_haze
    from training.yardstick import Yardstick

    regressor = None if yardstick is None else Yardstick(yardstick)
    if regressor is not None:
        regressor.use_average()
    pipeline = _quiet_pipeline(model)
    groups = validation_haze(build_cache(data, cache, "val"), photos)
    scores = {
        name: validate(pipeline, rendered, regressor).to_dict() for name, rendered in groups.items()
    }
    click.echo(json.dumps(scores, indent=2))


@main.command("examples")
@click.option("--kodak", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("examples"))
def examples_command(kodak: Path, output: Path) -> None:
    """Renders haze over Kodak photos, for examples/."""
    from training.examples import write_examples

    for path in write_examples(kodak, output):
        click.echo(path)


@main.command("sheet")
@click.option("--kodak", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--model", default="bundled", show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("docs/sheet.jpg"))
def sheet_command(kodak: Path, model: str, output: Path) -> None:
    """Dehazes haze rendered over Kodak's first twelve landscape photos, for docs/quality.md."""
    from training.examples import write_sheet

    scores = write_sheet(_quiet_pipeline(model), kodak, output)
    click.echo(", ".join(f"{score:.1f}" for score in scores) + " dB")


if __name__ == "__main__":
    main()
