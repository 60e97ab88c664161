from __future__ import annotations

import csv
import json
import math
from pathlib import Path

from dehaze.eval.files import finite, write_table


def test_a_tables_files_hold_the_same_rows(tmp_path: Path) -> None:
    rows = [{"name": "a", "psnr": math.inf}, {"name": "b", "psnr": 1.5}]
    files = write_table(
        tmp_path / "new", "table", content={"rows": rows}, rows=rows, columns=["name", "psnr"],
        markdown="text", plot=b"picture",
    )  # fmt: skip
    assert [path.name for path in files] == ["table.json", "table.csv", "table.md", "table.png"]
    assert json.loads(files[0].read_text()) == {"rows": [rows[0] | {"psnr": None}, rows[1]]}
    with files[1].open(newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"name": "a", "psnr": "inf"}, {"name": "b", "psnr": "1.5"}
        ]  # fmt: skip
    assert (files[2].read_text(), files[3].read_bytes()) == ("text", b"picture")


def test_only_numbers_without_a_value_become_none() -> None:
    assert finite({"a": (math.nan, 1, "x", None), "b": -math.inf}) == {
        "a": [None, 1, "x", None], "b": None
    }  # fmt: skip
