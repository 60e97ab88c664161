from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dehaze.pipelines.dehaze import DehazePipeline
from dehaze.prompts import (
    WordError,
    align_tokens,
    swap_for_null_text,
    tokenize,
    without_word,
    word_span,
)


def spanned(pipeline: DehazePipeline, text: str, word: str) -> list[str]:
    prompt = tokenize(pipeline.tokenizer, text)
    return [prompt.text[slice(*prompt.offsets[position])] for position in word_span(prompt, word)]


@pytest.mark.parametrize(
    ("text", "word", "expected"),
    [
        ("a photo with haze", "haze", ["haze"]),
        ("a photo with Haze, over a city", "haze", ["Haze"]),
        ("HAZE! and haze", "Haze", ["HAZE", "haze"]),
        ("a photo with dense haze", "dense haze", ["dense", "haze"]),
        ("a photo with  dense   haze.", "dense haze", ["dense", "haze"]),
    ],
)
def test_spans(pipeline: DehazePipeline, text: str, word: str, expected: list[str]) -> None:
    assert spanned(pipeline, text, word) == expected


def test_a_word_of_several_tokens_is_spanned_whole(pipeline: DehazePipeline) -> None:
    pieces = spanned(pipeline, "a photo with xylophones in haze", "xylophones")
    assert len(pieces) > 1
    assert "".join(pieces) == "xylophones"


def test_part_of_a_word_is_not_the_word(pipeline: DehazePipeline) -> None:
    with pytest.raises(WordError, match=r"no word 'haze'.*hazelnut"):
        spanned(pipeline, "a photo of a hazelnut", "haze")


@pytest.mark.parametrize("word", ["", "  "])
def test_an_empty_word_is_refused(pipeline: DehazePipeline, word: str) -> None:
    with pytest.raises(WordError, match="empty"):
        spanned(pipeline, "a photo with haze", word)


def test_a_prompt_too_long_is_refused_and_not_cut(pipeline: DehazePipeline) -> None:
    with pytest.raises(WordError, match="shorten it"):
        tokenize(pipeline.tokenizer, "a photo " * 30 + "with haze")


@given(subject=st.sampled_from(["city", "tree", "xq", "naïve 東京"]), upper=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
def test_the_span_covers_the_word_wherever_it_stands(
    pipeline: DehazePipeline, subject: str, upper: bool
) -> None:
    word = "HAZE" if upper else "haze"
    for text in (f"{word} over a {subject}", f"a {subject} ({word})", f"{subject},{word}"):
        assert "".join(spanned(pipeline, text, "haze")) == word


def test_the_swap_touches_the_span_and_nothing_else() -> None:
    embedding, null = torch.randn(2, 6, 4), torch.randn(6, 4)
    before = embedding.clone()
    swapped = swap_for_null_text(embedding, null, (2, 3))
    assert torch.equal(embedding, before)
    assert torch.equal(swapped[:, 2:4], null[2:4].expand(2, 2, 4))
    rest = [0, 1, 4, 5]
    assert torch.equal(swapped[:, rest], embedding[:, rest])


@pytest.mark.parametrize(
    ("text", "word", "expected"),
    [
        ("a photo with haze", "haze", "a photo with"),
        ("a city, haze, and a tree", "haze", "a city, and a tree"),
        ("Haze over a city", "haze", "over a city"),
        ("haze", "haze", ""),
    ],
)
def test_deleting_a_word_closes_the_gap(text: str, word: str, expected: str) -> None:
    assert without_word(text, word) == expected


def test_alignment_is_the_longest_common_subsequence() -> None:
    assert align_tokens([1, 2, 3, 4], [1, 2, 3, 4]) == [0, 1, 2, 3]
    assert align_tokens([1, 2, 3, 4], [1, 3, 4]) == [0, 2, 3]
    assert align_tokens([1, 3], [1, 2, 3]) == [0, -1, 1]
    assert align_tokens([1, 2], [5, 6]) == [-1, -1]


@given(
    source=st.lists(st.integers(0, 4), max_size=8), target=st.lists(st.integers(0, 4), max_size=8)
)
def test_alignment_matches_equal_tokens_in_order(source: list[int], target: list[int]) -> None:
    aligned = align_tokens(source, target)
    matched = [(follows, j) for j, follows in enumerate(aligned) if follows >= 0]
    assert all(source[i] == target[j] for i, j in matched)
    assert [i for i, _ in matched] == sorted({i for i, _ in matched})
