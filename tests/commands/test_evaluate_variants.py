"""``dehaze evaluate variants``: the figure, the table, and going on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from dehaze.commands import main
from dehaze.photos import write_photo
from dehaze.pipelines.dehaze import DehazePipeline

WAYS = ("null-text", "null-text + fixed point", "fixed point")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    clear = np.kron(np.random.default_rng(0).random((4, 6, 3)), np.ones((8, 8, 1)))
    for folder, pixels in (("gt", clear), ("hazy", clear * 0.5 + 0.4)):
        (tmp_path / "in" / folder).mkdir(parents=True)
        write_photo(tmp_path / "in" / folder / "1.png", pixels.astype(np.float32))
    return tmp_path


def call(root: Path, model: Path, *arguments: str) -> Result:
    chosen = (
        *("--model", str(model), "-o", str(root / "out"), "--guidance", "2", "--steps", "1"),
        *("--iterations", "1", "--figure", "svg"),
    )
    return CliRunner().invoke(main, ["evaluate", "variants", str(root / "in"), *chosen, *arguments])


def test_variants_write_a_figure_and_scores_and_resume(
    root: Path, stable_diffusion_1: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = call(root, stable_diffusion_1)
    assert done.exit_code == 0, done.output
    for way in WAYS:
        assert f"| {way} | 1 | 0 |" in done.stdout
    figure = (root / "out/variants.svg").read_bytes()
    assert figure.count(b"<image") == 1 + 2 * len(WAYS) + 1
    methods = json.loads((root / "out/results.json").read_text())["methods"]
    assert [methods[way]["solver"] for way in WAYS] == ["ddim", "fixed-point", "fixed-point"]
    assert [methods[way]["mode"] for way in WAYS] == ["null-text", "null-text", "plain"]
    # What is there is not made again; a map that was changed is.
    asked: list[str] = []
    ours = DehazePipeline.__call__

    def asking(self: DehazePipeline, *photos: object, **options: object) -> object:
        asked.append(str(options["mode"]))
        return ours(self, *photos, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(DehazePipeline, "__call__", asking)
    (root / "out/variants.pdf").write_bytes(b"of an earlier run")
    (map_of_fixed_point,) = (root / "out/attention").rglob("fixed_point/1.npy")
    np.save(map_of_fixed_point, np.load(map_of_fixed_point)[::-1])
    assert call(root, stable_diffusion_1).stdout == done.stdout
    assert asked == ["plain"]
    assert not (root / "out/variants.pdf").exists()
    assert (root / "out/variants.svg").read_bytes() == figure


@pytest.mark.parametrize("name", ["variants.svg", "variants.pdf", "report.html", "table.md"])
def test_variants_replace_no_file_of_the_user(
    root: Path, stable_diffusion_1: Path, name: str
) -> None:
    (root / "out").mkdir()
    (root / "out" / name).write_bytes(b"the user's own")
    done = call(root, stable_diffusion_1)
    assert done.exit_code == 2
    assert f"out/{name}: exists and was not made by an evaluation; name another" in done.stderr
    assert [path.name for path in (root / "out").iterdir()] == [name]
    assert (root / "out" / name).read_bytes() == b"the user's own"


@pytest.mark.slow
@pytest.mark.parametrize("alone", [False, True])
def test_a_photo_that_cannot_be_read_is_named_alone(
    root: Path, stable_diffusion_1: Path, alone: bool
) -> None:
    for folder in ("hazy", "gt"):
        whole = (root / "in" / folder / "1.png").read_bytes()
        (root / "in" / folder / "2.png").write_bytes(whole[: len(whole) // 2])
    if alone:
        for name in ("hazy", "gt"):
            (root / "in" / name / "1.png").unlink()
    done = call(root, stable_diffusion_1, "--guidance", "1")
    assert done.exit_code == 1, done.output
    assert "failed: in/2, fixed point: " in done.stderr.replace(str(root), "")
    assert (root / "out/table.md").is_file()
    assert (root / "out/variants.svg").is_file() == (not alone)


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (("--solver", "ddim"), "'ddim' is not one of fixed-point"),
        (("--figure", "gif"), "'gif' is not one of png, pdf, svg"),
        (("--word", "fog"), "has no word 'fog'"),
        (("--gt", "in/gt", "--render", "haze"), "--gt names the truth"),
    ],
)
def test_bad_input_of_variants_is_one_line(
    root: Path,
    stable_diffusion_1: Path,
    arguments: tuple[str, ...],
    cause: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(root)
    done = call(root, stable_diffusion_1, *arguments)
    assert done.exit_code == 2
    assert cause in " ".join(done.stderr.split())
