"""LocalBlend by hand: the layers it reads, where it lets a change through, and from which step."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dehaze.attention.blending import LocalBlend, layers_near_a_quarter
from dehaze.attention.control import ControlError

LATENT = (8, 12)
STEPS = 10


def record_of(**positions: int) -> dict[str, Tensor]:
    """A recording of one step; each layer has one of these numbers of positions."""
    record = {}
    for layer, count in positions.items():
        record[f"{layer}|cross|query|1"] = torch.zeros(1, 1, count, 2)
        record[f"{layer}|cross|key|0"] = torch.zeros(1, 1, 5, 2)
    return record


@pytest.mark.parametrize(
    ("latent", "positions", "wanted"),
    [
        # Stable Diffusion 1.5: maps of 16 x 16 for latents of 64 x 64, in any layer.
        (
            (64, 64), {"a": 64 * 64, "b": 16 * 16, "c": 32 * 32, "d": 16 * 16},
            {"b": (16, 16), "d": (16, 16)},
        ),
        ((64, 96), {"a": 32 * 48, "b": 16 * 24, "c": 8 * 12}, {"b": (16, 24)}),
        # The resolution nearest to a quarter, where no layer has a quarter.
        ((16, 16), {"a": 16 * 16, "b": 8 * 8}, {"b": (8, 8)}),
    ],
)  # fmt: skip
def test_layers_are_chosen_by_their_resolution(
    latent: tuple[int, int], positions: dict[str, int], wanted: dict[str, tuple[int, int]]
) -> None:
    assert layers_near_a_quarter(record_of(**positions), latent) == wanted


def test_nothing_recorded_is_an_error() -> None:
    with pytest.raises(ControlError, match="no cross-attention was recorded"):
        layers_near_a_quarter({}, LATENT)


def attending(places: dict[int, int]) -> Tensor:
    """The map (1, 1, 6, 4) of a 2 x 3 layer: each place on its token, all others on token 3."""
    used = torch.zeros(1, 1, 6, 4)
    for place in range(6):
        used[0, 0, place, places.get(place, 3)] = 1.0
    return used


def recorded(places: dict[int, int]) -> dict[str, Tensor]:
    """The queries and keys of that map, the same at every step."""
    record = {
        f"layer|cross|query|{i}": 60.0 * attending(places)[..., :4] for i in range(1, STEPS + 1)
    }
    record["layer|cross|key|0"] = torch.eye(4)[None, None]
    return record


def blended(blend: LocalBlend, used: Tensor, i: int) -> Tensor:
    blend.observe("layer", used)
    return blend(i, torch.ones(1, 4, *LATENT), torch.zeros(1, 4, *LATENT))


def test_the_change_stays_near_the_words_of_either_prompt() -> None:
    blend = LocalBlend(recorded({0: 1}), LATENT, STEPS, (1,), (2,), start=0.0)
    kept = blended(blend, attending({}), STEPS)
    # Position 0 of the source and its neighbours in the 2 x 3 map: two columns of 4 latents each.
    expected = torch.zeros(LATENT)
    expected[:, :8] = 1.0
    for channel in kept[0]:
        assert torch.equal(channel, expected)
    assert blend.mask is not None
    assert torch.equal(blend.mask[0, 0], expected)
    # Positions of the target's word are let through as well.
    kept = blended(blend, attending({5: 2}), STEPS - 1)
    assert kept.min() == 1.0


def test_positions_of_excluded_words_stay_unchanged() -> None:
    blend = LocalBlend(recorded({0: 1, 1: 0}), LATENT, STEPS, (1,), (1,), (0,), (0,), start=0.0)
    kept = blended(blend, attending({}), STEPS)
    expected = torch.zeros(LATENT)
    expected[:, :8] = 1.0
    # Excluded positions have no neighbours added, so position 1 alone is taken out.
    expected[:4, 4:8] = 0.0
    assert torch.equal(kept[0, 0], expected)


def test_a_map_counts_above_the_threshold() -> None:
    used = attending({0: 1})
    used[0, 0, 2, 1], used[0, 0, 2, 3] = 0.4, 0.6
    for threshold, columns in ((0.3, 12), (0.5, 8)):
        source = recorded({0: 1})
        blend = LocalBlend(source, LATENT, STEPS, (1,), (1,), threshold=threshold, start=0.0)
        kept = blended(blend, used, STEPS)
        assert int(kept[0, 0].any(0).sum()) == columns


def test_the_first_steps_pass_unblended() -> None:
    blend = LocalBlend(recorded({0: 1}), LATENT, STEPS, (1,), (1,))
    for i in (10, 9):
        assert blended(blend, attending({0: 1}), i).min() == 1.0
        assert blend.mask is None
    assert blended(blend, attending({0: 1}), 8).min() == 0.0
    assert blend.mask is not None


def test_local_blend_without_a_change_is_identity() -> None:
    blend = LocalBlend(recorded({0: 1}), LATENT, STEPS, (1,), (1,), start=0.0)
    latents = torch.rand(1, 4, *LATENT)
    assert torch.equal(blend(STEPS, latents, torch.zeros_like(latents)), latents)
