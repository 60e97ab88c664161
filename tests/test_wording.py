from __future__ import annotations

import pytest

from dehaze.wording import counted


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0 photos"), (1, "1 photo"), (2, "2 photos"), (21, "21 photos")]
)
def test_only_one_thing_is_singular(number: int, words: str) -> None:
    assert counted(number, "photo") == words
