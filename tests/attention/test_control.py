from __future__ import annotations

import pytest
import torch

from dehaze.attention.control import (
    CONTROLS,
    AttentionControl,
    ControlError,
    TokenMapper,
    choose_control,
    prompt_to_prompt,
    refine_mapper,
    replace_mapper,
)
from dehaze.pipelines.dehaze import DehazePipeline
from dehaze.prompts import TokenizedPrompt, WordError, tokenize


def followed(mapper: TokenMapper | None) -> list[int]:
    """The source position of each target token, for a mapper of single tokens."""
    assert mapper is not None
    assert torch.equal(mapper.matrix.sum(0), torch.ones(len(mapper.matrix)))
    return [int(row) for row in mapper.matrix.argmax(0)]


def prompts(pipeline: DehazePipeline, *texts: str) -> list[TokenizedPrompt]:
    return [tokenize(pipeline.tokenizer, text) for text in texts]


def test_shares_of_the_steps_count_from_the_noisy_end() -> None:
    control = AttentionControl(cross_replace_steps=0.8, self_replace_steps=0.4)
    cross = [i for i in range(10, 0, -1) if control.cross_weight(i, 10)]
    own = [i for i in range(10, 0, -1) if control.replaces_self(i, 10)]
    assert cross == [10, 9, 8, 7, 6, 5, 4, 3]
    assert own == [10, 9, 8, 7]


def test_share_0_means_no_step_and_share_1_every_step() -> None:
    assert not any(AttentionControl(0.0, 0.0).cross_weight(i, 5) for i in range(1, 6))
    assert all(AttentionControl(1.0, 1.0).replaces_self(i, 5) for i in range(1, 6))


def test_tokens_have_shares_of_their_own() -> None:
    control = AttentionControl(torch.tensor([0.8, 0.4, 0.8]))
    weights = [control.cross_weight(i, 10) for i in (10, 6, 3, 2)]
    assert weights[0] == 1.0
    assert isinstance(weights[1], torch.Tensor)
    assert weights[1].tolist() == [1, 0, 1]
    assert isinstance(weights[2], torch.Tensor)
    assert weights[3] == 0.0


@pytest.mark.parametrize("share", [-0.1, 1.1, torch.tensor([0.5, 1.1]), float("nan")])
def test_a_share_outside_0_to_1_is_refused(share: float | torch.Tensor) -> None:
    with pytest.raises(ControlError, match="cross_replace_steps"):
        AttentionControl(cross_replace_steps=share)


def test_refine_follows_shared_words_and_keeps_new_ones(pipeline: DehazePipeline) -> None:
    mapper = refine_mapper(*prompts(pipeline, "a photo with haze", "a photo with snow"))
    # begin a photo with WORD end: only the new word is its own.
    assert mapper.weight.tolist() == [1, 1, 1, 1, 0, *[1] * 27]
    assert [row for row in range(32) if mapper.matrix[row].sum() == 0] == [4]


def test_refine_closes_the_gap_of_a_deleted_word(pipeline: DehazePipeline) -> None:
    source, target = "a photo with dense haze over a city", "a photo with over a city"
    mapper = refine_mapper(*prompts(pipeline, source, target))
    # The first padding of the target is the source's first, and none of its words.
    assert followed(mapper) == [0, 1, 2, 3, *range(6, 32), 31, 31]
    assert mapper.weight.min() == 1


def test_replace_goes_word_by_word(pipeline: DehazePipeline) -> None:
    same = replace_mapper(*prompts(pipeline, "a city in haze", "a street with snow"))
    assert torch.equal(same.matrix, torch.eye(32))
    # begin a city in x q night end: two tokens share what one had, and what follows moves on.
    mapper = replace_mapper(*prompts(pipeline, "a city in haze night", "a city in xq night"))
    assert mapper.matrix[4].tolist() == [0, 0, 0, 0, 0.5, 0.5, *[0] * 26]
    assert mapper.matrix[5].argmax() == 6
    assert torch.equal(mapper.matrix.sum(0)[6:], torch.ones(26))
    # And one token takes all that two had.
    back = replace_mapper(*prompts(pipeline, "a city in xq night", "a city in haze night"))
    assert back.matrix[4:6, 4].tolist() == [1, 1]
    assert back.matrix[:, 5].argmax() == 6


def test_replace_needs_as_many_words(pipeline: DehazePipeline) -> None:
    with pytest.raises(WordError, match="4 words where 'a photo' has 2"):
        replace_mapper(*prompts(pipeline, "a photo with haze", "a photo"))


def test_control_is_chosen_by_the_prompts(pipeline: DehazePipeline) -> None:
    for target, name in (
        ("a photo with haze", "reweight"),
        ("a photo with snow", "replace"),
        ("a photo", "refine"),
    ):
        source, after = prompts(pipeline, "a photo with haze", target)
        assert choose_control(source, after) == name
        prompt_to_prompt(source, after)


def test_words_become_tokens(pipeline: DehazePipeline) -> None:
    source, target = prompts(pipeline, "a city in dense haze", "a city in dense fog")
    control = prompt_to_prompt(
        source,
        target,
        "replace",
        cross_replace_steps={"default": 0.5, "dense fog": 0.2},
        word_weights={"city": -2.0},
    )
    assert isinstance(control.cross_replace_steps, torch.Tensor)
    assert control.cross_replace_steps[:7].tolist() == [0.5, 0.5, 0.5, 0.5, 0.2, 0.2, 0.5]
    assert control.equalizer is not None
    assert control.equalizer[:4].tolist() == [1, 1, -2, 1]
    assert not control.keeps_maps


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"control": "swirl"}, ", ".join(CONTROLS.names())),
        ({"control": "reweight"}, "keeps the prompt"),
        ({"cross_replace_steps": {"snow": 0.2}}, "snow.*a, city, in, fog"),
        ({"cross_replace_steps": {"fog": 2.0}}, "share of the steps"),
        ({"word_weights": {"haze": 0.0}}, "haze.*a, city, in, fog"),
    ],
)
def test_control_settings_that_do_not_fit_are_named(
    pipeline: DehazePipeline, settings: dict[str, object], cause: str
) -> None:
    source, target = prompts(pipeline, "a city in haze", "a city in fog")
    with pytest.raises(ValueError, match=cause):
        prompt_to_prompt(source, target, **settings)  # type: ignore[arg-type]
