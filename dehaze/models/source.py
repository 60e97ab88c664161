"""Where a model's files lie: bundled, in a folder, in one .safetensors file, or on the hub."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from dehaze.models import ModelError
from dehaze.models.hashes import fingerprint

BUNDLED = "bundled"
BUNDLED_FOLDER = Path(__file__).resolve().parent / "bundled"
INDEX = "model_index.json"

# The name of the file of a network's weights in diffusers, by the network's folder.
WEIGHTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
    "transformer": "diffusion_pytorch_model",
    "text_encoder_3": "model",
}
_LAYOUT_FILES = [
    INDEX,
    "dehaze.json",
    "known_answer.json",
    "scheduler/*.json",
    "tokenizer/*",
    "tokenizer_2/*",
    "tokenizer_3/*",
    *(f"{part}/config.json" for part in WEIGHTS),
]
_CONVERT = (
    "save it as safetensors first, with save_pretrained of a diffusers pipeline on a machine that "
    "trusts it"
)


@dataclass(frozen=True)
class ModelSource:
    """A model by its name, and which of its files are meant.

    Attributes:
        model: "bundled", a folder in diffusers' format, a .safetensors file, or a hub id.
        revision: branch, tag or commit of a hub id; None for its main branch.
        variant: of the weights' files, such as "fp16"; None for those without one.
        local_files_only: never ask the hub, only its cache on this machine.
        cache_dir: the hub's cache; None for the usual folder.
        token: of the hub's user, for models that ask for one; None for the one that is logged in.
    """

    model: str | Path = BUNDLED
    revision: str | None = None
    variant: str | None = None
    local_files_only: bool = False
    cache_dir: str | Path | None = None
    token: str | bool | None = None

    @property
    def on_hub(self) -> bool:
        """Whether it is neither the bundled model nor a place on this machine."""
        return str(self.model) != BUNDLED and not Path(self.model).exists()


def find_model(source: ModelSource) -> Path:
    """The folder or the .safetensors file of a model; one of the hub is downloaded.

    Raises:
        ModelError: there is no such folder or file and no such model on the hub, the hub cannot be
            reached, the file is of another format, or a revision is given for what has none.
    """
    place = Path(source.model)
    if source.on_hub:
        # Imported here, as below: the bundled model needs no hub.
        from dehaze.models import hub

        place = hub.download(source, [*_LAYOUT_FILES, *_weights(WEIGHTS, source.variant)])
        if source.variant is not None:
            # Parts without this variant have plain weights; only those are needed as well.
            lacking = [part for part in WEIGHTS if not any((place / part).glob("*.safetensors"))]
            place = hub.download(source, [*_LAYOUT_FILES, *_weights(lacking, None)])
    elif source.revision is not None:
        raise ModelError(
            f"{source.model} is on this machine and has no revisions: leave revision "
            f"{source.revision!r} out, or name a hub id"
        )
    elif str(source.model) == BUNDLED:
        place = BUNDLED_FOLDER
    if place.is_file() and place.suffix != ".safetensors":
        raise ModelError(
            f"{place} is no .safetensors file, and files of other formats can run code when they "
            f"are read: {_CONVERT}"
        )
    if place.is_dir() and not (place / INDEX).is_file():
        raise ModelError(
            f"{place} has no {INDEX}: name a folder in diffusers' format, a .safetensors file, or "
            "a hub id"
        )
    return place


def find_layout(source: ModelSource, file: Path) -> Path:
    """The layout of a model in one file: the folder of its name beside it, or one from the hub.

    ``my/model.safetensors`` has its layout in ``my/model/``, where there is such a folder; else it
    is that of the published model that its weights look like.

    Raises:
        ModelError: there is none, or the file is no Stable Diffusion; the message says what to do.
    """
    # Imported here, so that finding a model loads no network library.
    from dehaze.models.single_file import usual_layout
    from dehaze.models.weights import read_shapes

    shapes = read_shapes(file)
    beside = file.with_suffix("")
    if (beside / INDEX).is_file():
        return beside
    usual = usual_layout(shapes, file)
    from dehaze.models import hub

    try:
        return hub.snapshot(replace(source, model=usual, revision=None), _LAYOUT_FILES)
    except hub.ERRORS as error:
        raise ModelError(
            f"{file} holds weights alone, and the hub did not give the layout of {usual} "
            f"({type(error).__name__}): put its configurations and tokenizers into {beside}/"
        ) from error


def model_fingerprint(source: ModelSource) -> str:
    """One hash of all the files that decide what a model gives.

    Raises:
        ModelError: as ``find_model`` and ``find_layout``.
    """
    place = find_model(source)
    return fingerprint(place, *([find_layout(source, place)] if place.is_file() else []))


def find_weights(source: ModelSource, folder: Path, part: str) -> Path:
    """The file of a network's weights, or the index of the files that they are cut into.

    Args:
        source: what the folder was found by.
        folder: the model's.
        part: the network's folder in it, one of ``WEIGHTS``.

    Raises:
        ModelError: there is none; the message says what there is, and what to do.
    """
    for variant in dict.fromkeys((source.variant, None)):
        for name in _names(WEIGHTS[part], variant):
            if (folder / part / name).is_file():
                return folder / part / name
    raise ModelError(_why_no_weights(source, folder, part))


def has_variant(folder: Path, variant: str) -> bool:
    """Whether any network of a folder has weights of this variant."""
    return any(
        (folder / part / name).is_file()
        for part, stem in WEIGHTS.items()
        for name in _names(stem, variant)
    )


def _names(stem: str, variant: str | None) -> tuple[str, str]:
    """The names of a whole file of weights, and of the index of one cut into several."""
    if variant is None:
        return f"{stem}.safetensors", f"{stem}.safetensors.index.json"
    return f"{stem}.{variant}.safetensors", f"{stem}.safetensors.index.{variant}.json"


def _weights(parts: Iterable[str], variant: str | None) -> list[str]:
    """Patterns of the weights of one variant, without second copies or pickled ones."""
    mark = "" if variant is None else f".{variant}"
    return [
        f"{part}/{name}"
        for part in parts
        for name in (
            *_names(WEIGHTS[part], variant),
            f"{WEIGHTS[part]}{mark}-?????-of-?????.safetensors",
        )
    ]


def _why_no_weights(source: ModelSource, folder: Path, part: str) -> str:
    stem = WEIGHTS[part]
    start = f"{source.model} has no {part}/{stem}.safetensors"
    names = _files_of(source, folder, part)
    variants = sorted(
        {
            name.removeprefix(f"{stem}.").split(".safetensors")[0].split("-0")[0]
            for name in names
            if name.startswith(f"{stem}.") and name.endswith(".safetensors")
        }
        - {"safetensors"}
    )
    if variants:
        found = ", ".join(variants)
        return (
            f"{start}, only variants: {found}; choose --variant {variants[0]} "
            f"(variant={variants[0]!r} in Python)"
        )
    pickled = [name for name in names if name.endswith((".bin", ".pt", ".pth", ".ckpt"))]
    if pickled:
        return (
            f"{start}, only {pickled[0]}, and files of that format can run code when they are "
            f"read: {_CONVERT}"
        )
    if source.on_hub:
        return f"{start} in the hub's cache: load it once with a network, or name another model"
    return f"{start}: get the model again"


def _files_of(source: ModelSource, folder: Path, part: str) -> list[str]:
    """The names in a network's folder; of a hub's model also those that were not downloaded."""
    present = sorted(path.name for path in (folder / part).iterdir())
    if not source.on_hub or source.local_files_only:
        return present
    from dehaze.models import hub

    try:
        remote = hub.list_files(source)
    except hub.ERRORS:
        return present
    start = f"{part}/"
    return [name.removeprefix(start) for name in remote if name.startswith(start)]
