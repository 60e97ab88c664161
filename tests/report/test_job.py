"""The report of a folder job: cards kept while it runs, and the page made of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs import FakeWork, photo_at

from dehaze import batch
from dehaze.batch.local import LocalExecutor
from dehaze.photos import Photo
from dehaze.report import CARDS_FOLDER, Card, CardingWork, Report, read_card, report_of_job
from dehaze.report.cards import make_card


def do(inputs: Path, output: Path, work: Any) -> batch.Summary:
    plan = batch.plan([inputs], output)
    with batch.Job(output, settings={"a": 1}) as job:
        return job.run(plan, LocalExecutor(work.start()), lambda item: None)


def run(inputs: Path, output: Path) -> Report:
    summary = do(inputs, output, CardingWork(FakeWork(), output.absolute()))
    return report_of_job(output, summary.items, {"strength": 1.0, "prompt": None})


def photos(folder: Path) -> Path:
    for name in ("a.png", "deep/b.png"):
        photo_at(folder / name)
    return folder


def test_every_photo_has_before_and_after(tmp_path: Path) -> None:
    report = run(photos(tmp_path / "in"), tmp_path / "out")
    assert [entry.name for entry in report.entries] == ["a.png", str(Path("deep/b.png"))]
    for entry in report.entries:
        assert [layer.name for layer in entry.layers] == ["photo", "result"]
        assert entry.values["change"] > 0
        assert entry.files["result"] in ("a.png", "deep/b.png")
        assert (tmp_path / "out" / entry.files["photo"]).resolve().is_file()
    assert report.settings == {"strength": "1.0"}


def test_a_failure_is_an_entry_with_cause_and_cure(tmp_path: Path) -> None:
    folder = photos(tmp_path / "in")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    report = run(folder, tmp_path / "out")
    (failed,) = [entry for entry in report.entries if entry.status == "failed"]
    assert failed.name == "broken.jpg"
    assert failed.error is not None
    assert ";" in failed.error
    assert not failed.layers


def test_kept_photos_have_their_cards_from_the_first_run(tmp_path: Path) -> None:
    first = run(photos(tmp_path / "in"), tmp_path / "out")
    second = run(tmp_path / "in", tmp_path / "out")
    assert [entry.status for entry in second.entries] == ["kept", "kept"]
    assert [entry.layers for entry in second.entries] == [entry.layers for entry in first.entries]


@pytest.mark.parametrize("replaced", [False, True])
def test_a_missing_result_is_named(tmp_path: Path, replaced: bool) -> None:
    """A user may delete results during a watch."""
    out = tmp_path / "out"
    summary = do(photos(tmp_path / "in"), out, CardingWork(FakeWork(), out))
    (out / "a.png").unlink()
    if replaced:
        photo_at(out / "a.png", 0.9)
    gone, there = report_of_job(out, summary.items, {}).entries
    assert gone.notes == ("cannot be shown: its result was changed or removed since",)
    assert gone.layers == ()
    assert there.layers


def test_kept_photos_without_cards_are_shown_from_their_files(tmp_path: Path) -> None:
    do(photos(tmp_path / "in"), tmp_path / "out", FakeWork())
    assert not (tmp_path / "out" / CARDS_FOLDER).exists()
    report = run(tmp_path / "in", tmp_path / "out")
    assert [[layer.name for layer in entry.layers] for entry in report.entries] == [
        ["photo", "result"]
    ] * 2


@pytest.mark.parametrize("linked", [False, True])
def test_a_result_whose_card_cannot_be_kept_is_done(tmp_path: Path, linked: bool) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    if linked:
        (out / CARDS_FOLDER).symlink_to(elsewhere)
    else:
        (out / CARDS_FOLDER).touch()
    report = run(photos(tmp_path / "in"), out)
    for entry in report.entries:
        assert entry.status == "done"
        assert entry.notes[0].startswith("its data for the report cannot be kept: ")
    assert not list(elsewhere.iterdir())
    (out / CARDS_FOLDER).unlink()
    again = run(tmp_path / "in", out)
    assert [(entry.status, len(entry.layers)) for entry in again.entries] == [("kept", 2)] * 2


def test_a_name_that_is_no_utf_8_has_a_card(tmp_path: Path) -> None:
    folder = photos(tmp_path / "in")
    try:
        os.rename(folder / "a.png", os.fsencode(folder) + b"/\xff.png")
    except OSError:
        pytest.skip("this file system takes no such name")
    report = run(folder, tmp_path / "out")
    assert [(entry.status, len(entry.layers)) for entry in report.entries] == [("done", 2)] * 2


def test_the_card_of_another_result_is_not_used(tmp_path: Path) -> None:
    run(photos(tmp_path / "in"), tmp_path / "out")
    assert read_card(tmp_path / "out", tmp_path / "out" / "a.png") is not None
    photo_at(tmp_path / "out" / "a.png", 0.9)
    assert read_card(tmp_path / "out", tmp_path / "out" / "a.png") is None


@pytest.mark.parametrize("content", [b"", b"[]", b'{"version": 99}', b'{"version": 1}', b"\xff"])
def test_a_damaged_card_is_passed_over(tmp_path: Path, content: bytes) -> None:
    run(photos(tmp_path / "in"), tmp_path / "out")
    for card in (tmp_path / "out" / CARDS_FOLDER).iterdir():
        card.write_bytes(content)
    assert read_card(tmp_path / "out", tmp_path / "out" / "a.png") is None
    assert all(len(entry.layers) == 2 for entry in run(tmp_path / "in", tmp_path / "out").entries)


def test_a_card_survives_its_file() -> None:
    card = Card((30, 20), {"before": b"\x00\xff"}, {"density": 0.25}, (12, 34))
    assert Card.from_json(card.to_json()) == card
    assert np.isfinite(card.values["density"])


def test_a_card_has_the_numbers_of_its_pictures() -> None:
    photo = Photo(np.full((8, 12, 3), 0.5, np.float32))
    result = np.full((8, 12, 3), 0.4, np.float32)
    assert make_card(photo, result).values == {
        "change": pytest.approx(25.5, abs=0.01),
        "lightness": pytest.approx(0.8, abs=0.001),
    }

    class Maps:
        transmission = np.full((8, 12), 0.7, np.float32)

        def attention_normalised(self) -> Any:
            return np.zeros((8, 12), np.float32)

    card = make_card(photo, result, Maps())
    assert card.values["density"] == pytest.approx(0.3, abs=0.001)
    assert card.pictures.keys() == {"before", "after", "attention", "transmission"}


def test_remarks_and_photos_not_reached_are_said(tmp_path: Path) -> None:
    photo_at(tmp_path / "in/a b#.png", 0.75)
    summary = do(tmp_path / "in", tmp_path / "out", CardingWork(FakeWork(), tmp_path / "out"))
    report = report_of_job(tmp_path / "out", summary.items, {}, unreached=3)
    assert report.summary == "1 done, 3 not reached"
    (entry,) = report.entries
    assert entry.notes == ("much darker: 34 % of its brightness is left",)
    assert entry.files == {"photo": "../in/a%20b%23.png", "result": "a%20b%23.png"}
