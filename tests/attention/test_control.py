from __future__ import annotations

import pytest

from dehaze.attention.control import AttentionControl, ControlError, refine_mapper
from dehaze.pipeline import DehazePipeline
from dehaze.prompts import tokenize


def test_shares_of_the_steps_count_from_the_noisy_end() -> None:
    control = AttentionControl(cross_replace_steps=0.8, self_replace_steps=0.4)
    cross = [i for i in range(10, 0, -1) if control.replaces_cross(i, 10)]
    own = [i for i in range(10, 0, -1) if control.replaces_self(i, 10)]
    assert cross == [10, 9, 8, 7, 6, 5, 4, 3]
    assert own == [10, 9, 8, 7]


def test_the_ends_are_never_and_always() -> None:
    assert not any(AttentionControl(0.0, 0.0).replaces_cross(i, 5) for i in range(1, 6))
    assert all(AttentionControl(1.0, 1.0).replaces_self(i, 5) for i in range(1, 6))


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_outside_0_to_1_is_refused(share: float) -> None:
    with pytest.raises(ControlError, match="cross_replace_steps"):
        AttentionControl(cross_replace_steps=share)


def test_refine_follows_what_is_shared_and_keeps_what_is_new(pipeline: DehazePipeline) -> None:
    source = tokenize(pipeline.tokenizer, "a photo with haze")
    target = tokenize(pipeline.tokenizer, "a photo with snow")
    mapper = refine_mapper(source, target)
    # begin a photo with WORD end: only the new word is its own.
    assert mapper.weight[:6].tolist() == [1, 1, 1, 1, 0, 1]
    assert mapper.source[:6].tolist() == [0, 1, 2, 3, 4, 5]
    assert mapper.source[6:].tolist() == list(range(6, 32))


def test_refine_closes_the_gap_of_a_deleted_word(pipeline: DehazePipeline) -> None:
    source = tokenize(pipeline.tokenizer, "a photo with haze over a city")
    target = tokenize(pipeline.tokenizer, "a photo with over a city")
    mapper = refine_mapper(source, target)
    assert mapper.source[:8].tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    assert mapper.weight.min() == 1
