from __future__ import annotations

import cv2
import numpy as np

from dehaze.luma import luma


def test_luma_is_opencvs_grey() -> None:
    picture = np.random.default_rng(0).random((5, 7, 3), dtype=np.float32)
    grey = luma(picture)
    assert grey.dtype == np.float32
    np.testing.assert_allclose(grey, cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), atol=1e-6)
    assert luma(np.full((1, 1, 3), 200.0)).item() == np.float64(200.0)
