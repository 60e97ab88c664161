"""A model's files are compared with published hashes, and differences are named."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from dehaze.models.hashes import (
    MANIFEST,
    CheckedFile,
    ManifestError,
    fingerprint,
    verify,
    write_manifest,
)
from dehaze.models.source import BUNDLED_FOLDER


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    (made / "unet").mkdir(parents=True)
    (made / "model_index.json").write_text("{}")
    (made / "dehaze.json").write_text('{"steps": 4}')
    (made / "MODEL_CARD.md").write_text("A model.")
    (made / "unet/weights.safetensors").write_bytes(bytes(range(256)))
    return made


def states(folder: Path) -> dict[str, str]:
    return {file.name: file.state for file in verify(folder)}


def test_the_manifest_is_sha256sums_own_format(folder: Path) -> None:
    write_manifest(folder)
    weights = hashlib.sha256(bytes(range(256))).hexdigest()
    index = hashlib.sha256(b"{}").hexdigest()
    assert (folder / MANIFEST).read_text() == (
        f"{index}  model_index.json\n{weights}  unet/weights.safetensors\n"
    )
    assert verify(folder) == [
        CheckedFile("model_index.json", "whole"),
        CheckedFile("unet/weights.safetensors", "whole"),
    ]


def test_changed_missing_and_added_files_are_named(folder: Path) -> None:
    write_manifest(folder)
    (folder / "unet/weights.safetensors").write_bytes(bytes(range(255)))
    (folder / "model_index.json").unlink()
    (folder / "unet/config.json").write_text("{}")
    # Settings and texts may be edited by hand, so they have no hashes.
    (folder / "dehaze.json").write_text("{}")
    (folder / "MODEL_CARD.md").write_text("")
    assert states(folder) == {
        "model_index.json": "missing",
        "unet/config.json": "unknown",
        "unet/weights.safetensors": "changed",
    }


def test_an_invalid_line_of_hashes_is_an_error(folder: Path) -> None:
    (folder / MANIFEST).write_text("weights ok\n")
    with pytest.raises(ManifestError, match="'weights ok' is not a hash and a name"):
        verify(folder)


def test_files_of_the_hubs_cache_are_held_against_their_names(tmp_path: Path) -> None:
    """Large files are named by their SHA-256, small ones by git's hash."""
    large, small = b"weights", b"{}"
    blobs = {
        "unet/weights.safetensors": (hashlib.sha256(large).hexdigest(), large),
        "model_index.json": (hashlib.sha1(b"blob 2\0" + small).hexdigest(), small),
    }
    snapshot = tmp_path / "snapshots/0123"
    (tmp_path / "blobs").mkdir()
    for name, (blob, content) in blobs.items():
        (tmp_path / "blobs" / blob).write_bytes(content)
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(tmp_path / "blobs" / blob)
    assert set(states(snapshot).values()) == {"whole"}
    (tmp_path / "blobs" / blobs["model_index.json"][0]).write_bytes(b"[]")
    assert states(snapshot) == {"model_index.json": "changed", "unet/weights.safetensors": "whole"}
    (tmp_path / "blobs" / blobs["unet/weights.safetensors"][0]).write_bytes(b"Weights")
    assert set(states(snapshot).values()) == {"changed"}


def test_model_without_hashes_is_not_called_whole(folder: Path) -> None:
    assert set(states(folder).values()) == {"unknown"}


def test_a_fingerprint_follows_the_content_and_not_the_place(folder: Path, tmp_path: Path) -> None:
    before = fingerprint(folder)
    moved = folder.rename(tmp_path / "elsewhere")
    assert fingerprint(moved) == before
    (moved / "MODEL_CARD.md").write_text("Another text.")
    assert fingerprint(moved) == before
    # Settings change results as weights do.
    (moved / "dehaze.json").write_text('{"steps": 5}')
    changed = fingerprint(moved)
    assert changed != before
    (moved / "unet/weights.safetensors").write_bytes(b"")
    assert fingerprint(moved) not in (before, changed)


def test_the_bundled_model_is_the_one_that_was_exported() -> None:
    """After a change of its files, training's export writes the hashes anew."""
    assert set(states(BUNDLED_FOLDER).values()) == {"whole"}
