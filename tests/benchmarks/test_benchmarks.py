"""The benchmarks run at a small size; the fuzz test of the reader at its full size."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(script: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / script, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("files", ["1000", pytest.param("3000", marks=pytest.mark.slow)])
def test_damaged_files_give_photos_or_named_errors(files: str) -> None:
    said = run("fuzz_reader.py", "--files", files, "--seed", "1")
    assert f"{files} damaged files of 23 kinds" in said
    # Some damaged files are still read, and some are refused.
    assert " a photo\n" in said
    assert "named: cannot be decoded" in said


def test_reading_and_writing_is_timed_for_each_format() -> None:
    said = run("photo_files.py", "--megapixels", "0.05").splitlines()
    assert len(said) == 12
    assert all(len(line.split(" | ")) == 5 for line in said)


def test_reading_and_writing_is_timed_beside_a_checkout() -> None:
    said = run(
        "photo_files_between.py", str(ROOT), "--megapixels", "0.05", "--rounds", "1", "--only", "P"
    ).splitlines()
    assert [line.split(" | ")[0] for line in said[2:]] == ["| PNG 8 bits", "| PNG 16 bits"]
    assert all(float(line.split(" | ")[2]) > 0 for line in said[2:])


@pytest.mark.slow
def test_lightness_counts_dark_results() -> None:
    said = run("lightness.py", str(ROOT / "examples"), "--limit", "1").splitlines()
    photos, loss, lost, dark = (cell.strip("| ") for cell in said[2].split(" | "))
    assert (photos, dark) == ("1", "0")
    assert (float(loss) > 30.0) == (lost == "1")


@pytest.mark.slow
def test_kill_job_ends_as_an_undisturbed_run() -> None:
    said = run("kill_job.py", "--kills", "2", "--photos", "4", "--megapixels", "0.01")
    assert said.startswith("2 kills over ")
    assert said.endswith("with the bytes of an undisturbed one\n")


@pytest.mark.slow
def test_folder_job_prints_the_cost_of_each_more_photo() -> None:
    said = run("folder_job.py", "length", "--counts", "1,3", "--method", "dcp")
    rows = [line.split(" | ") for line in said.splitlines() if line[2:3].isdigit()]
    assert [row[0] for row in rows] == ["| 1", "| 3"]
    assert all(float(row[4]) > 0 for row in rows)
    assert "from 1 to 3 photos of 0.2 megapixels: " in said


@pytest.mark.slow
def test_memory_savers_tries_each_way() -> None:
    said = run("memory_savers.py", "--small", "--only", "vae.")
    rows = dict(line[2:].split(" | ", 1) for line in said.splitlines()[2:])
    assert rows["`vae.enable_slicing()`"].startswith("0 | ")
    # The codec overflows and runs again in float32, with weights rounded to float16.
    assert 0.0 < float(rows["`vae.half()`, which overflows"].split(" | ")[0]) < 0.1


@pytest.mark.slow
def test_peers_one_converged_branch_gives_the_exact_edit() -> None:
    said = run("peers.py", "--limit", "1", "--steps", "2")
    rows = [line.split(" | ") for line in said.splitlines() if line.startswith("| ")][2:]
    apart = {row[0][2:]: float(row[5].split()[0]) for row in rows}
    assert len(apart) == 6
    assert apart["converged fixed points, one branch"] < 1e-3
    assert apart["FPI, 5 iterations + two-branch P2P"] > 1e-3


def run_gpu_part(name: str) -> str:
    small = ("--small", "--device", "cpu", "--steps", "4", "--batches", "1,2")
    said = run("gpu.py", *small, "--parts", name)
    assert [line for line in said.splitlines() if line.startswith("## ")] == [f"## {name}"]
    assert "FAILED" not in said
    assert "NO" not in said
    return said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "line"),
    [
        ("bundled", "| 2 | "),
        ("sdxl", "| float16 that overflows | "),
        ("savers", "| `guidance_in_two_calls` | "),
        ("flow", "| an evaluation, recorded | "),
    ],
)
def test_a_part_of_the_gpu_benchmark_runs_on_the_cpu(part: str, line: str) -> None:
    assert f"\n{line}" in run_gpu_part(part)


@pytest.mark.slow
def test_gpu_benchmark_says_where_the_time_of_an_edit_goes() -> None:
    said = run_gpu_part("sd15")
    rows = [line[2:-2].split(" | ") for line in said.splitlines() if line.startswith("| `best`")]
    # Both tables name the ways.
    edits, times = rows[:2], rows[2:]
    assert [row[1] for row in edits] == ["1", "7.5"]
    # Fewer rows a step than five iterations and two branches take.
    assert float(edits[0][4]) < 7.0
    assert float(edits[1][4]) < 14.0
    for edit, time in zip(edits, times, strict=True):
        whole, network, codec, rest = (float(time[column]) for column in (2, 3, 8, 9))
        calls, evaluated = int(time[4]), int(time[5])
        assert float(edit[2]) == whole
        assert network + codec + rest == pytest.approx(whole, abs=0.021)
        assert evaluated == round(4 * float(edit[4])) == calls * (1 if edit[1] == "1" else 2)
