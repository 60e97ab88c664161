"""``dehaze doctor``: what is installed, what is missing, what to do."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from importlib.util import find_spec

import click

from dehaze import __version__
from dehaze.commands import options
from dehaze.commands.command import Command, option
from dehaze.commands.reporting import Verbosity, problem, quiet_libraries, result, verbosity
from dehaze.errors import first_line, one_line

# Distribution and module of everything the main job imports.
REQUIRED = {
    "torch": "torch",
    "diffusers": "diffusers",
    "transformers": "transformers",
    "safetensors": "safetensors",
    "huggingface_hub": "huggingface_hub",
    "tokenizers": "tokenizers",
    "numpy": "numpy",
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "tifffile": "tifffile",
    "imagecodecs": "imagecodecs",
    "filelock": "filelock",
    "click": "click",
    "tqdm": "tqdm",
    "typing_extensions": "typing_extensions",
}
# Extra of the package, its module, and what it is for.
EXTRAS = {
    "evaluate": ("skimage", "dehaze evaluate"),
    "interpolate": ("scipy", "dehaze interpolate, dehaze generate"),
    "iqa": ("pyiqa", "learned quality metrics in dehaze evaluate"),
    "video": ("av", "dehaze run clip.mp4"),
    "ray": ("ray", "dehaze run --executor ray"),
    "ui": ("fastapi", "dehaze ui and dehaze serve"),
    "plots": ("matplotlib", "the plots of dehaze invert and evaluate, dehaze attention --figure"),
}


@dataclass(frozen=True)
class Check:
    """One thing looked at.

    Attributes:
        name: what was looked at.
        works: it is there and can be used.
        detail: version, place, or what is wrong.
        cure: what to do where it does not work.
        required: the main job needs it.
    """

    name: str
    works: bool
    detail: str
    cure: str = ""
    required: bool = True


@click.command(cls=Command)
@option(
    "--quick",
    is_flag=True,
    help="Look at versions and files alone: no package is imported, the model is not run.",
)
@options.as_json()
@click.pass_context
def doctor(context: click.Context, /, quick: bool, as_json: bool) -> None:
    """Say what is installed, what is missing, and what to do.

    Exit code: 0 if dehaze run can work here, 1 if not.
    """
    checks = look() if quick else diagnose()
    works = all(check.works for check in checks if check.required)
    if as_json:
        for check in checks:
            result(json.dumps(asdict(check)))
        context.exit(0 if works else 1)
    result(f"dehaze {__version__}, Python {platform.python_version()}, {platform.platform()}")
    for check in checks:
        state = "ok" if check.works else "BROKEN" if check.required else "absent"
        # Printed with -q as well, since it names what is wrong.
        line = f"{state:7} {check.name}: {check.detail}"
        say = problem if state == "BROKEN" and verbosity() is Verbosity.QUIET else result
        say(line if check.works or not check.cure else f"{line}; {check.cure}")
    if works and quick:
        result("all is there; dehaze doctor without --quick says whether it works.")
    elif works:
        result("dehaze run can work here.")
    else:
        result("dehaze run cannot work here: see BROKEN above.")
        context.exit(1)


def diagnose() -> list[Check]:
    """Look at the packages, the device, the bundled model and the extras, in this order."""
    checks = [_package(distribution, module) for distribution, module in REQUIRED.items()]
    checks += torchvision_fits()
    if all(check.works for check in checks):
        quiet_libraries()
        checks += [_device(), _bundled_model()]
    return checks + [_extra(name, *what) for name, what in EXTRAS.items()]


def look() -> list[Check]:
    """The checks of ``diagnose`` that need no imports: package versions, the model's files."""
    packages = [_installed(name, module) for name, module in REQUIRED.items()]
    extras = [_extra(name, *what) for name, what in EXTRAS.items()]
    return [*packages, *torchvision_fits(), _bundled_files(), *extras]


def _installed(distribution: str, module: str) -> Check:
    if find_spec(module) is None:
        cure = f'pip install "{distribution}"'
        return Check(distribution, False, "is not installed", cure)
    return Check(distribution, True, _version(distribution) or "installed")


def _package(distribution: str, module: str) -> Check:
    try:
        imported = import_module(module)
    except ModuleNotFoundError as error:
        detail = "is not installed" if error.name == module else f"cannot be imported ({error})"
        return Check(distribution, False, detail, f'pip install "{distribution}"')
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        reason = first_line(error)
        cure = f'pip install --force-reinstall "{distribution}"'
        return Check(distribution, False, f"cannot be imported ({reason})", cure)
    return Check(distribution, True, _version(distribution) or str(imported.__version__))


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def torchvision_fits() -> list[Check]:
    """torchvision is not needed, but one built for another torch breaks its importers."""
    installed, torch = _version("torchvision"), _version("torch")
    if installed is None or torch is None:
        return []
    wanted = {
        requirement.removeprefix("torch==").split(";")[0].strip()
        for requirement in metadata.requires("torchvision") or []
        if requirement.startswith("torch==")
    }
    if not wanted or torch.split("+")[0] in {version.split("+")[0] for version in wanted}:
        return [Check("torchvision", True, installed)]
    return [
        Check(
            "torchvision",
            False,
            f"{installed} is built for torch {', '.join(sorted(wanted))}, and torch is {torch}: "
            "transformers fails when it imports such a pair",
            "pip install --upgrade torchvision, or pip uninstall torchvision: dehaze does not "
            "need it",
        )
    ]


def _device() -> Check:
    import torch

    from dehaze.batch.machine import cores, memory

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        total = properties.total_memory / 2**30
        return Check("device", True, f"cuda ({properties.name}, {total:.0f} GiB)")
    if torch.backends.mps.is_available():
        return Check("device", True, "mps")
    allowed = memory()
    room = "" if allowed is None else f", {allowed / 2**30:.0f} GiB of memory"
    return Check("device", True, f"cpu ({torch.get_num_threads()} of {cores()} cores{room})")


_REINSTALL = "install dehaze again: the model ships with it"


def _bundled_files() -> Check:
    from dehaze.models import hashes, source

    weights = list(source.BUNDLED_FOLDER.rglob("*.safetensors"))
    if not weights:
        return Check("bundled model", False, "its files are missing", _REINSTALL)
    megabytes = sum(path.stat().st_size for path in weights) / 1e6
    changed = [
        file.name
        for file in hashes.verify(source.BUNDLED_FOLDER)
        if file.state in ("changed", "missing")
    ]
    if changed:
        return Check("bundled model", False, f"is damaged ({', '.join(changed)})", _REINSTALL)
    return Check("bundled model", True, f"{megabytes:.1f} MB, its files are whole")


def _bundled_model() -> Check:
    files = _bundled_files()
    if not files.works:
        return files
    try:
        from dehaze.models.known_answer import check_known_answer
        from dehaze.models.load import load_parts
        from dehaze.models.plain.load import is_plain, load_plain_parts
        from dehaze.models.source import BUNDLED_FOLDER, ModelSource

        answers = check_known_answer(BUNDLED_FOLDER, load_parts(ModelSource()))
        # The loader that dehaze run uses.
        if is_plain(BUNDLED_FOLDER):
            check_known_answer(BUNDLED_FOLDER, load_plain_parts(BUNDLED_FOLDER))
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        detail = f"cannot be used ({one_line(error)})"
        return Check("bundled model", False, detail, _REINSTALL)
    if not answers:
        return Check("bundled model", False, "its known answer is missing", _REINSTALL)
    size, _, _ = files.detail.partition(",")
    return Check("bundled model", True, f"{size}, gives its known answer")


def _extra(name: str, module: str, purpose: str) -> Check:
    if find_spec(module) is None:
        cure = f'pip install "dehaze-diffusion[{name}]"'
        return Check(module, False, f"not installed, for {purpose}", cure, required=False)
    return Check(module, True, f"{_version(module) or 'installed'}, for {purpose}", required=False)
