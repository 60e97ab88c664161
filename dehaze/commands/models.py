"""``dehaze models``: which models there are, what each is, and whether its files are whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dehaze.commands import options
from dehaze.commands.command import Group
from dehaze.commands.reporting import CommandError, problem, quiet_libraries, result

if TYPE_CHECKING:
    from dehaze.models.parts import ModelParts
    from dehaze.models.source import ModelSource

MODEL = click.argument("model", default="bundled")
REVISION = options.revision()
VARIANT = options.variant()
LOCAL_FILES_ONLY = options.local_files_only()
JSON = options.as_json()


@dataclass(frozen=True)
class Known:
    """A model that can be used without a download.

    Attributes:
        model: what --model takes.
        revision: commit of a hub model, or "" for the bundled one.
        megabytes: that its files take, 10^6 bytes.
        folder: where they lie.
    """

    model: str
    revision: str
    megabytes: float
    folder: str


@click.group(cls=Group)
def models() -> None:
    """Say which models there are, what each is, and whether its files are whole.

    A MODEL is "bundled", a folder in diffusers' format, a hub id, or one .safetensors file of
    Stable Diffusion.
    """


@models.command("list", short_help="List the models that need no download.")
@JSON
def list_models(as_json: bool) -> None:
    """List the models that can be used without a download: the bundled one, and the hub's cache."""
    for known in (_bundled(), *_cached()):
        if as_json:
            result(json.dumps(asdict(known)))
        else:
            revision = f" at {known.revision}" if known.revision else ""
            result(f"{known.model}{revision}: {known.megabytes:.1f} MB in {known.folder}")


@models.command()
@MODEL
@REVISION
@VARIANT
@LOCAL_FILES_ONLY
@JSON
def info(
    model: str, revision: str | None, variant: str | None, local_files_only: bool, as_json: bool
) -> None:
    """Say what a model is made of, and what its defaults are."""
    quiet_libraries()
    from dehaze.models import ModelError
    from dehaze.models.load import load_parts
    from dehaze.models.source import ModelSource, find_model

    try:
        source = ModelSource(model, revision, variant, local_files_only)
        folder = find_model(source)
        parts = load_parts(source, place=folder)
    except ModelError as error:
        raise CommandError(str(error)) from error
    facts = {"model": model, "folder": str(folder), **_facts(parts)}
    if as_json:
        result(json.dumps(facts, default=dict))
        return
    for name, value in facts.items():
        result(f"{name}: {_in_words(value)}")


def _facts(parts: ModelParts) -> dict[str, Any]:
    """The parts and defaults of a model, by name."""
    from dehaze.inversion.ddim import ignored_settings
    from dehaze.inversion.flow import ignored_flow_settings
    from dehaze.models.kinds import kind_of

    kind = kind_of(parts.unet if parts.transformer is None else parts.transformer)
    networks = {
        name: getattr(parts, name) for name in kind.classes if getattr(parts, name) is not None
    }
    flow = kind.process == "flow"
    return {
        **{
            name: f"{type(network).__name__}, {_parameters(network):,} parameters"
            for name, network in networks.items()
        },
        "scheduler": (
            f"{type(parts.scheduler).__name__}; the steps are {'Euler' if flow else 'DDIM'}'s"
        ),
        "scheduler_ignored": (ignored_flow_settings if flow else ignored_settings)(parts.scheduler),
        "prediction": "velocity" if flow else parts.scheduler.config.prediction_type,
        **parts.description.settings(),
    }


def _in_words(value: Any) -> str:
    """A fact without Python's brackets: names with commas, yes or no, none."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        value = [f"{name} = {number}" for name, number in value.items()]
    if isinstance(value, (list, tuple)):
        value = ", ".join(map(str, value))
    return "none" if value in (None, "") else str(value)


@models.command(short_help="Check a model's files, and its output.")
@MODEL
@REVISION
@VARIANT
@LOCAL_FILES_ONLY
@JSON
@click.pass_context
def verify(
    context: click.Context,
    /,
    model: str,
    revision: str | None,
    variant: str | None,
    local_files_only: bool,
    as_json: bool,
) -> None:
    """Compare a model's files with their published hashes, and its output with a known one.

    The bundled model comes with its hashes; the hub's names of a hub model's files are its hashes.
    The bundled model also has a known answer: the output of its networks when it was made.

    Exit code: 0, all files are whole, and the output is the known one; 1, a file is changed,
    missing or without a hash, or the output differs.
    """
    quiet_libraries()
    from dehaze.models import ModelError
    from dehaze.models.hashes import ManifestError
    from dehaze.models.hashes import verify as verify_files
    from dehaze.models.known_answer import ANSWER_FILE
    from dehaze.models.source import ModelSource, find_model

    try:
        source = ModelSource(model, revision, variant, local_files_only)
        folder = find_model(source)
        checked = verify_files(folder)
    except (ModelError, ManifestError) as error:
        raise CommandError(str(error)) from error
    wrong = [file for file in checked if file.state != "whole"]
    known = (folder / ANSWER_FILE).is_file()
    fault = _wrong_answer(source, folder) if known and not wrong else None
    if as_json:
        for file in checked:
            result(json.dumps(asdict(file)))
        if fault is not None:
            result(json.dumps({"name": "known answer", "state": "changed"}))
    else:
        for file in wrong:
            problem(f"{file.state}: {folder / file.name}")
        answer = ", its known answer is given" if known and not (wrong or fault) else ""
        whole = f"{len(checked) - len(wrong)} of {len(checked)} files are whole"
        result(f"{whole}{answer}; in {folder}")
    if fault is not None:
        problem(fault)
    elif any(file.state in ("changed", "missing") for file in wrong) and not as_json:
        cure = "install dehaze" if model == "bundled" else "get the model"
        problem(f"{model} is damaged: {cure} again")
    elif wrong and not as_json:
        problem(f"{model} has files that no hash is published for")
    context.exit(1 if wrong or fault is not None else 0)


def _wrong_answer(source: ModelSource, folder: Path) -> str | None:
    """Why a model does not give its known answer; None where it does."""
    from dehaze.models import ModelError
    from dehaze.models.known_answer import check_known_answer
    from dehaze.models.load import load_parts

    try:
        check_known_answer(folder, load_parts(source, place=folder))
    except ModelError as error:
        return str(error)
    return None


def _bundled() -> Known:
    from dehaze.models.source import BUNDLED, BUNDLED_FOLDER

    return Known(BUNDLED, "", _megabytes(BUNDLED_FOLDER), str(BUNDLED_FOLDER))


def _cached() -> list[Known]:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        cache = scan_cache_dir()
    except CacheNotFound:
        return []
    return [
        Known(
            repository.repo_id,
            revision.commit_hash,
            revision.size_on_disk / 1e6,
            str(revision.snapshot_path),
        )
        for repository in sorted(cache.repos, key=lambda one: one.repo_id)
        for revision in repository.revisions
        if (revision.snapshot_path / "model_index.json").is_file()
    ]


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def _parameters(network: Any) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
