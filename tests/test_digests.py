from __future__ import annotations

import hashlib
from pathlib import Path

import dehaze
from dehaze.digests import digest_of_code, digest_of_file, digest_of_folder, digest_of_json

# FIPS 180-2, appendix B.1.
OF_ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_the_digest_of_a_file_is_its_sha256(tmp_path: Path) -> None:
    short, long = tmp_path / "short", tmp_path / "long"
    short.write_bytes(b"abc")
    long.write_bytes(b"abc" * 700_000)
    assert digest_of_file(short) == OF_ABC
    assert digest_of_file(long) == hashlib.sha256(b"abc" * 700_000).hexdigest()


def test_the_digest_of_settings_knows_no_order() -> None:
    one = digest_of_json({"steps": 4, "word": "haze"})
    assert one == digest_of_json({"word": "haze", "steps": 4})
    assert one != digest_of_json({"steps": 5, "word": "haze"})


def test_the_digest_of_a_folder_is_that_of_its_code(tmp_path: Path) -> None:
    (tmp_path / "video").mkdir()
    (tmp_path / "webui").mkdir()
    (tmp_path / "a.py").write_text("a = 1\n")
    (tmp_path / "video/b.py").write_text("b = 1\n")
    first = digest_of_folder(tmp_path, {"webui"})
    (tmp_path / "webui/c.py").write_text("c = 1\n")
    (tmp_path / "video/notes.txt").write_text("not code")
    assert digest_of_folder(tmp_path, {"webui"}) == first
    assert digest_of_folder(tmp_path) != first
    (tmp_path / "video/b.py").write_text("b = 2\n")
    second = digest_of_folder(tmp_path, {"webui"})
    (tmp_path / "video/b.py").rename(tmp_path / "video/c.py")
    assert len({first, second, digest_of_folder(tmp_path, {"webui"})}) == 3


def test_the_digest_of_code_leaves_out_pages_and_commands() -> None:
    package = Path(dehaze.__file__).parent
    shown = {"commands", "report", "webui", "eval", "datasets"}
    assert digest_of_code() == digest_of_folder(package, shown)
    rest = {path.name for path in package.iterdir() if path.is_dir()} - shown
    assert rest >= {"inversion", "photos", "pipelines", "recovery", "video"}
