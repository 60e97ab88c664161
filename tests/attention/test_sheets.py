from __future__ import annotations

import numpy as np
import pytest

from dehaze.attention.sheets import sheet


def test_every_picture_has_its_place_and_its_name() -> None:
    colours = np.eye(3, dtype=np.float32)
    red, green, blue = (np.broadcast_to(colour, (20, 30, 3)).copy() for colour in colours)
    made = sheet([[red, green], [blue]], [["red", "a name that is far too long to fit"], [""]],
                 tile_height=40)  # fmt: skip
    assert made.shape == (2 * (40 + 14 + 6) + 6, 2 * (60 + 6) + 6, 3)
    for (top, left), colour in (((20, 6), red), ((20, 72), green), ((80, 6), blue)):
        tile = made[top : top + 40, left : left + 60]
        np.testing.assert_allclose(tile, np.broadcast_to(colour[0, 0], tile.shape), atol=0.01)
    names = made[6:20]
    assert names[:, 6:66].min() < 0.5
    # The long name ends where its picture does.
    assert made[6:20, 132:].min() == 1.0
    assert made[66:80].min() == 1.0


@pytest.mark.parametrize(
    ("rows", "names"), [([], []), ([[]], [[]]), ([[np.zeros((2, 2, 3))]], [[]])]
)
def test_a_sheet_without_pictures_or_names_is_refused(rows: list, names: list) -> None:
    with pytest.raises(ValueError, match="a name for each"):
        sheet(rows, names)
