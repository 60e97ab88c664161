from __future__ import annotations

import json

from training.__main__ import BUNDLED
from training.export import DEFAULTS


def test_the_model_that_ships_inverts_as_its_training_does() -> None:
    shipped = json.loads((BUNDLED / "dehaze.json").read_text())
    del shipped["vocabulary"]
    assert shipped == DEFAULTS
