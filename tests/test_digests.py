from __future__ import annotations

import hashlib
from pathlib import Path

from dehaze.digests import digest_of_file, digest_of_json

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
