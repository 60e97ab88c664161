"""The photos of the page's tabs, and their names in a download."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dehaze.webui import workspace as module
from dehaze.webui.workspace import FullError, UnknownError, Workspace, plain_name


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "held").mkdir()
    return Workspace(tmp_path / "held")


def upload(workspace: Workspace, name: str = "a.jpg") -> Path:
    path = workspace.new_file(name)
    path.write_bytes(b"x")
    return path


@given(st.text(max_size=300))
def test_a_name_is_never_a_path(name: str) -> None:
    made = plain_name(name)
    assert made
    assert not set(made) & set('/\\<>:"|?*\0\n\r')
    assert made not in (".", "..")
    assert len(made) <= 200


@pytest.mark.parametrize(
    "name", ["../../x.jpg", "/etc/passwd", "a/b.png", "x.jpg/..", "x.j pg", "x." + "y" * 99]
)
def test_uploads_lie_in_the_folder_under_random_names(workspace: Workspace, name: str) -> None:
    path = upload(workspace, name)
    assert path.parent.name == "held"
    assert len(path.stem) == 32


def test_a_tab_sees_its_own_photos_alone(workspace: Workspace) -> None:
    one, two = workspace.open_tab(), workspace.open_tab()
    held = workspace.add(one, "../a.jpg", upload(workspace), is_copy=True)
    assert held.name == "a.jpg"
    assert workspace.get(one, held.key) == held
    with pytest.raises(UnknownError, match="no longer open"):
        workspace.get(two, held.key)
    with pytest.raises(UnknownError, match="load the page again"):
        workspace.get("none", held.key)


def test_copies_are_deleted_and_originals_are_not(workspace: Workspace, tmp_path: Path) -> None:
    tab, original = workspace.open_tab(), tmp_path / "mine.jpg"
    original.write_bytes(b"x")
    copy = workspace.add(tab, "copy.jpg", upload(workspace), is_copy=True)
    mine = workspace.add(tab, "mine.jpg", original, is_copy=False)
    workspace.remove(tab, copy.key)
    assert workspace.close_tab(tab) == [mine.key]
    assert not copy.path.exists()
    assert original.exists()


def test_idle_tabs_are_forgotten(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, idle_seconds=-1.0)
    tab = workspace.open_tab()
    held = workspace.add(tab, "a.jpg", upload(workspace), is_copy=True)
    workspace.open_tab()
    assert not held.path.exists()
    with pytest.raises(UnknownError):
        workspace.get(tab, held.key)


def test_a_tab_that_is_used_is_not_forgotten(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    hours = [10_000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: 3600.0 * hours[0])
    tab = workspace.open_tab()
    held = workspace.add(tab, "a.jpg", upload(workspace), is_copy=True)
    for hours[0] in (10_005.0, 10_010.0):
        workspace.open_tab()
        assert workspace.get(tab, held.key) == held
    hours[0] = 10_017.0
    workspace.open_tab()
    with pytest.raises(UnknownError):
        workspace.get(tab, held.key)


def test_a_tab_holds_a_limited_number_of_photos(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_PHOTOS", 1)
    tab = workspace.open_tab()
    workspace.add(tab, "a.jpg", upload(workspace), is_copy=True)
    with pytest.raises(FullError, match="dehaze run"):
        workspace.add(tab, "b.jpg", upload(workspace), is_copy=True)


def test_clearing_leaves_nothing(workspace: Workspace, tmp_path: Path) -> None:
    tab = workspace.open_tab()
    workspace.add(tab, "a.jpg", upload(workspace), is_copy=True)
    workspace.clear()
    assert not (tmp_path / "held").exists()
