from __future__ import annotations

from pathlib import Path

import numpy as np

from dehaze.prompts import tokenize, word_span
from training.captions import HAZE_WORDS, clear_caption, hazy_caption, vocabulary
from training.networks import build_tokenizer, learn_merges


def test_every_caption_is_in_the_vocabulary_and_holds_its_word(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(vocabulary(), tmp_path)
    rng = np.random.default_rng(0)
    for _ in range(300):
        caption = hazy_caption(rng)
        prompt = tokenize(tokenizer, caption.text)
        assert prompt.count == len(caption.text.split()) + 2
        assert caption.word in HAZE_WORDS
        assert len(word_span(prompt, caption.word)) == len(caption.word.split())
        clear = clear_caption(rng)
        assert clear.word is None
        assert tokenize(tokenizer, clear.text).count == len(clear.text.split()) + 2


def test_each_word_of_the_vocabulary_is_one_token(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(vocabulary(), tmp_path)
    for word in vocabulary():
        assert len(tokenizer(word)["input_ids"]) == 3


def test_token_ids_are_the_same_in_every_run(tmp_path: Path) -> None:
    one, other = (build_tokenizer(vocabulary(), tmp_path / name) for name in ("one", "other"))
    assert one.get_vocab() == other.get_vocab()
    # Ties: "ab" and "cd" are as frequent as each other, whichever word comes first.
    assert (
        learn_merges(["cd", "ab"]) == learn_merges(["ab", "cd"]) == [("a", "b</w>"), ("c", "d</w>")]
    )
    assert learn_merges(["hazy", "haze"])[:2] == [("a", "z"), ("h", "az")]
