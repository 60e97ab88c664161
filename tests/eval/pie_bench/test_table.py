"""PIE-Bench's edits scored one by one, and their means."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from plain_pictures import half, picture

from dehaze.datasets.pie_bench import EditSample
from dehaze.eval.pie_bench.metrics import (
    METRIC_NAMES,
    MetricSet,
    mse_outside,
    psnr_outside,
)
from dehaze.eval.pie_bench.table import result_panel, score_edits


def test_the_rightmost_panel_is_the_result() -> None:
    strip = np.concatenate([picture(1), picture(2), picture(3)], axis=1)
    assert (result_panel(strip, picture(0)) == 3).all()
    assert (result_panel(picture(5), picture(0)) == 5).all()
    for wrong in (picture(1, 3), picture(1, 8)):
        with pytest.raises(ValueError, match="4x4"):
            result_panel(wrong, picture(0))


def test_means_leave_out_nan_and_name_failures(tmp_path: Path) -> None:
    metrics = MetricSet(
        {"psnr_unedit_part": psnr_outside, "mse_unedit_part": mse_outside},
        dict.fromkeys(METRIC_NAMES[:1] + METRIC_NAMES[2:3] + METRIC_NAMES[4:], "no"),
    )
    results = {"1": 120, "2": 100, "3": 120, "5": 120}
    masks = {"3": np.ones((4, 4)), "5": half(8)}

    def pictures(sample: EditSample) -> tuple[np.ndarray, np.ndarray]:
        if sample.key not in results:
            raise OSError("x.jpg: it is missing")
        return picture(100), picture(results[sample.key])

    samples = [
        EditSample(key, Path(), "", "a", "b", "0", (), masks.get(key, half())) for key in "12345"
    ]
    table = score_edits(samples, pictures, metrics, method="m", command="dehaze x")
    assert [score.key for score in table.scores] == ["1", "2", "3"]
    assert table.failures[0] == "4: x.jpg: it is missing"
    assert "mask (8, 8)" in table.failures[1]
    error = (20.0**2 / 2) / 255.0**2
    # Infinite PSNR of 2 and no background of 3.
    assert table.mean("psnr_unedit_part") == (pytest.approx(10 * math.log10(1 / error)), 2)
    assert table.mean("mse_unedit_part") == (pytest.approx(error / 2), 1)
    text = table.markdown()
    assert "m: 3 edits scored, 2 failed." in text
    assert "| lpips_unedit_part | not computed: no | |" in text
    written = table.write(tmp_path / "out")
    assert [path.name for path in written] == ["pie_bench.json", "pie_bench.csv", "pie_bench.md"]
    assert len(written[1].read_text().splitlines()) == 4
