"""PIE-Bench's layout: prompts, paths, masks, and what is no PIE-Bench."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dehaze.datasets import DatasetNotFoundError
from dehaze.datasets.pie_bench import decode_mask, open_pie_bench

ENTRY: dict[str, Any] = {
    "image_path": "0_random_140/000000000000.jpg",
    "original_prompt": "a slanted mountain [bicycle] on the road",
    "editing_prompt": "a slanted [rusty] mountain [motorcycle] on the road",
    "editing_instruction": "change it",
    "editing_type_id": "0",
    "blended_word": "bicycle motorcycle",
    "mask": [513, 3, 2000, 10],
}


def test_a_sample_is_read_as_published(tmp_path: Path) -> None:
    (tmp_path / "mapping_file.json").write_text(json.dumps({"000000000000": ENTRY}))
    (sample,) = open_pie_bench(tmp_path)
    assert sample.key == "000000000000"
    assert sample.picture == tmp_path / "annotation_images" / ENTRY["image_path"]
    assert sample.source == "a slanted mountain bicycle on the road"
    assert sample.target == "a slanted rusty mountain motorcycle on the road"
    assert (sample.kind, sample.blended) == ("0", ("bicycle", "motorcycle"))
    assert sample.mask.shape == (512, 512)
    # 2000 = 3 * 512 + 464.
    assert sample.mask[3, 460:480].tolist() == [0] * 4 + [1] * 10 + [0] * 6


def test_a_mask_by_hand() -> None:
    # Row-major on 4 x 5: 6, 7 are (1, 1), (1, 2); the run at 13 goes on into row 3.
    mask = decode_mask([6, 2, 13, 3], (4, 5))
    expected = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 1], [1, 0, 0, 1, 1], [1, 1, 1, 1, 1]])
    np.testing.assert_array_equal(mask, expected)
    # The border is 1 whatever the runs say, and a run beyond the end is cut.
    np.testing.assert_array_equal(decode_mask([], (3, 3)), [[1, 1, 1], [1, 0, 1], [1, 1, 1]])
    assert decode_mask([19, 50], (4, 5)).shape == (4, 5)


@pytest.mark.parametrize("encoded", [[1], [3, -1], [-2, 4]])
def test_what_is_no_mask_is_refused(encoded: list[int]) -> None:
    with pytest.raises(ValueError, match="start, length"):
        decode_mask(encoded)


@pytest.mark.parametrize("content", [None, "no json", "[1]", '{"a": {}}', '{"a": 3}'])
def test_what_is_no_pie_bench_says_what_is_expected(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "mapping_file.json").write_text(content)
    with pytest.raises(DatasetNotFoundError, match="annotation_images"):
        open_pie_bench(tmp_path)
