"""Imports point one way, and every package of the tree is installed."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "dehaze": ROOT / "dehaze",
    "dehaze.datasets": ROOT / "datasets",
    "dehaze.eval": ROOT / "eval",
}

# Single files that every room may import.
BASE = ("registry", "ranges", "luma", "levels", "digests", "wording", "imports")

# What each room may import of the project, beside itself, dehaze.errors and ``BASE``.
ALLOWED: dict[str, set[str]] = {
    "__main__": set(),
    "errors": set(),
    "registry": set(),
    "ranges": set(),
    "luma": set(),
    "levels": set(),
    "digests": set(),
    "wording": set(),
    "imports": set(),
    "prompts": set(),
    "photos": set(),
    "recovery": set(),
    "models": {"inversion", "prompts"},
    "inversion": set(),
    "network": {"inversion", "attention", "models"},
    "attention": {"prompts"},
    "priors": {"recovery"},
    "pipelines": {"network", "inversion", "attention", "prompts", "recovery", "models", "photos"},
    "batch": {
        "attention", "eval", "photos", "inversion", "models", "network", "pipelines", "priors",
        "prompts", "recovery",
    },
    "video": {"attention", "batch", "inversion", "photos", "pipelines", "recovery"},
    "report": {"batch", "photos"},
    "webui": {"batch", "inversion", "photos", "pipelines", "prompts", "recovery", "report"},
    # The public API: the pipelines, the photo reader, and the model of the haze itself.
    "datasets": {"recovery", "photos"},
    "eval": {
        "network", "pipelines", "inversion", "datasets", "recovery", "photos", "models", "priors",
    },
    "commands": {
        "attention", "batch", "datasets", "eval", "photos", "inversion", "models", "network",
        "pipelines", "priors", "prompts", "recovery", "report", "video", "webui",
    },
}  # fmt: skip
for room, allowed in ALLOWED.items():
    if room != "errors":
        allowed |= {"errors"} if room in BASE else {"errors", *BASE}

# A script at the root imports the command line that it starts.
SCRIPTS = {"dehaze.eval.reside": {"commands"}, "dehaze.__main__": {"commands"}}


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "dehaze" and len(parts) > 1 else None


def modules() -> list[tuple[str, Path]]:
    found = []
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            inside = path.relative_to(folder).with_suffix("").parts
            name = ".".join((package, *(part for part in inside if part != "__init__")))
            found.append((name, path))
    return found


@cache
def imports_of(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            base = node.module or ""
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return names


@pytest.mark.parametrize(("name", "path"), modules(), ids=lambda value: str(value).split("/")[-1])
def test_imports_point_one_way(name: str, path: Path) -> None:
    room = room_of(name)
    if room is None:
        return
    assert room in ALLOWED, f"{room} is a new room: say what it may import"
    rooms = {room_of(imported) for imported in imports_of(path)}
    foreign = {other for other in rooms if other in ALLOWED and other != room and other is not None}
    assert foreign <= ALLOWED[room] | SCRIPTS.get(name, set()), (
        f"{name} imports {foreign - ALLOWED[room]}"
    )


def test_the_check_sees_a_wrong_import(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text("def f():\n    from dehaze.recovery import scattering as s\n")
    assert {room_of(imported) for imported in imports_of(wrong)} == {"recovery"}
    assert "recovery" not in ALLOWED["inversion"]


def test_every_package_is_installed() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    for package, folder in PACKAGES.items():
        for init in folder.rglob("__init__.py"):
            inside = init.parent.relative_to(folder).parts
            assert f'"{".".join((package, *inside))}"' in text


@pytest.mark.parametrize("name", ["datasets", "eval"])
def test_bare_names_are_not_importable(name: str, tmp_path: Path) -> None:
    """Neither from elsewhere nor from the root of a checkout, where the folders lie."""
    for folder in (tmp_path, ROOT):
        done = subprocess.run(
            [sys.executable, "-c", f"import {name}; print({name}.__file__)"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        ours = str(ROOT) in done.stdout
        assert not ours
        if folder == ROOT:
            assert done.returncode != 0
            assert f"import dehaze.{name}" in done.stderr


def test_a_checkout_finds_its_own_data_sets_and_metrics() -> None:
    """Also where another copy of dehaze is installed, or none: a checkout is first on the path."""
    code = (
        "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f)]; "
        "import dehaze.eval, dehaze.datasets; print(dehaze.eval.__file__, dehaze.datasets.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == [
        str(ROOT / name / "__init__.py") for name in ("eval", "datasets")
    ], done.stderr


def test_the_script_of_a_checkout_starts_what_needs_both() -> None:
    """``python cli.py`` puts only its own folder on the path, as after ``pip install .``."""
    code = (
        "import sys, runpy; sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in "
        "repr(f)]; sys.argv = ['cli.py', 'evaluate', 'reside', '--help']; "
        "runpy.run_path('cli.py', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_importing_dehaze_loads_no_network_library() -> None:
    code = "import sys, dehaze; print(sorted({'torch', 'diffusers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_public_names_resolve() -> None:
    import dehaze

    assert dir(dehaze) == sorted(dehaze.__all__)
    for name in dehaze.__all__:
        assert getattr(dehaze, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        dehaze.nothing  # noqa: B018
