"""The position of a word in a prompt, and the prompt with the word swapped for null text."""

from __future__ import annotations

import re
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor

from dehaze.errors import DehazeError


class WordError(DehazeError, ValueError):
    """The word to be swapped is not in the prompt, or the prompt does not fit the tokenizer."""


def check_text(name: str, value: str) -> str:
    """The value itself, a text.

    Args:
        name: of the value, as in Python.
        value: that a user gives.

    Raises:
        WordError: it is no text.

    Example:
        >>> check_text("word", "haze")
        'haze'
    """
    if not isinstance(value, str):
        raise WordError(f"{name} is {value!r:.80}: it must be one text, such as 'haze'")
    return value


def check_texts(name: str, values: Collection[str]) -> None:
    """Raises ``WordError`` where the values are no texts, or one text instead of several.

    Args:
        name: of the values, as in Python.
        values: words that a user gives.
    """
    if isinstance(values, str) or not isinstance(values, Collection):
        raise WordError(f"{name} is {values!r:.80}: it must be several texts, such as ('haze',)")
    for value in values:
        check_text(f"a word of {name}", value)


@dataclass(frozen=True)
class TokenizedPrompt:
    """A prompt as token ids.

    Attributes:
        text: the prompt as it was given.
        ids: int64 (L,), begin and end tokens and padding included; L is the tokenizer's length.
        count: tokens before the padding, begin and end tokens included.
        offsets: for each of the ``count`` tokens its (start, end) characters in ``text``;
            (0, 0) for the begin and end tokens.
        parts: the prompt by each of several tokenizers, in the order in which the network reads
            them; ``ids``, ``count`` and ``offsets`` are then those of all parts, padding included.
            Empty where there is one tokenizer.
    """

    text: str
    ids: Tensor
    count: int
    offsets: tuple[tuple[int, int], ...]
    parts: tuple[TokenizedPrompt, ...] = ()

    @property
    def sequences(self) -> tuple[TokenizedPrompt, ...]:
        """``parts``, or the prompt itself."""
        return self.parts or (self,)


def joined(parts: Sequence[TokenizedPrompt]) -> TokenizedPrompt:
    """One prompt by several tokenizers, as one sequence of tokens.

    Args:
        parts: of one text; the network reads their tokens in this order, each with its padding.
    """
    offsets: list[tuple[int, int]] = []
    for part in parts:
        offsets += [*part.offsets, *[(0, 0)] * (len(part.ids) - len(part.offsets))]
    ids = torch.cat([part.ids for part in parts])
    return TokenizedPrompt(parts[0].text, ids, len(ids), tuple(offsets), tuple(parts))


# A fast tokenizer keeps a call's padding as its own state and fails if another thread calls it.
_tokenizing = threading.Lock()


def tokenize(tokenizer: Any, text: str, most: int | None = None) -> TokenizedPrompt:
    """Tokenizes ``text`` to the tokenizer's full length, or to ``most`` tokens if that is less.

    Raises:
        WordError: the prompt is longer than the tokenizer's length. Cutting it silently could cut
            the very word that is to be swapped.
    """
    length = int(tokenizer.model_max_length)
    if most is not None:
        length = min(length, most)
    with _tokenizing:
        encoded = tokenizer(
            text, padding="max_length", max_length=length, return_offsets_mapping=True
        )
    ids = encoded["input_ids"]
    if len(ids) > length:
        raise WordError(
            f"prompt {text!r} takes {len(ids)} tokens and the model reads {length}: shorten it"
        )
    count = int(sum(encoded["attention_mask"]))
    offsets = tuple((int(start), int(end)) for start, end in encoded["offset_mapping"][:count])
    return TokenizedPrompt(text, torch.tensor(ids, dtype=torch.int64), count, offsets)


def word_span(prompt: TokenizedPrompt, word: str) -> tuple[int, ...]:
    """Token positions of every occurrence of ``word`` in the prompt.

    The word is matched as a whole word (or phrase) in any case, next to punctuation or not; every
    sub-token of it belongs to its span, and a repeated word has all its occurrences in it.

    Raises:
        WordError: the word is empty or no text, or the prompt does not contain it; the message
            lists the words that the prompt does contain.
    """
    wanted = " ".join(check_text("word", word).split())
    if not wanted:
        raise WordError("the word is empty: name a word of the prompt")
    found = [match.span() for match in _whole_words(wanted).finditer(prompt.text)]
    if not found:
        there = ", ".join(dict.fromkeys(re.findall(r"[\w'-]+", prompt.text))) or "nothing"
        raise WordError(f"the prompt {prompt.text!r} has no word {word!r}: it has {there}")
    return _positions(prompt, found)


def either_span(
    before: TokenizedPrompt, after: TokenizedPrompt, word: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Where a word stands in the source and in the target; one of them may lack it.

    Raises:
        WordError: it is in neither.
    """
    spans: list[tuple[int, ...]] = []
    errors: list[WordError] = []
    for prompt in (before, after):
        try:
            spans.append(word_span(prompt, word))
        except WordError as error:
            spans.append(())
            errors.append(error)
    if len(errors) == 2:
        raise errors[0]
    return spans[0], spans[1]


def prompt_words(prompt: TokenizedPrompt) -> list[tuple[str, tuple[int, ...]]]:
    """Every word of the prompt, as it stands between spaces, with its token positions."""
    return [
        (match.group(), _positions(prompt, [match.span()]))
        for match in re.finditer(r"\S+", prompt.text)
    ]


def changed_words(source: TokenizedPrompt, target: TokenizedPrompt) -> list[tuple[int, ...]]:
    """Token positions of each source word that has a token which the target lacks."""
    kept: set[int] = set()
    start = 0
    for before, after in zip(source.sequences, target.sequences, strict=True):
        aligned = align_tokens(
            before.ids[: before.count].tolist(), after.ids[: after.count].tolist()
        )
        kept |= {start + position for position in aligned if position >= 0}
        start += len(before.ids)
    return [span for _, span in prompt_words(source) if not set(span) <= kept]


def check_vocabulary(text: str, vocabulary: Collection[str] | None) -> None:
    """Raises ``WordError`` where the text has a word that the model has never learned.

    Args:
        text: a prompt.
        vocabulary: every word that the model knows, in lower case; None where any word is made of
            pieces that mean something.
    """
    if vocabulary is None:
        return
    unknown = [word for word in re.findall(r"\w+", text) if word.lower() not in vocabulary]
    if not unknown:
        return
    known = sorted(vocabulary)
    near = [match for word in unknown for match in get_close_matches(word.lower(), known, n=3)]
    cure = (
        f"did you mean {', '.join(dict.fromkeys(near))}?"
        if near
        else f"it knows {', '.join(known)}"
    )
    raise WordError(f"the model never learned {', '.join(map(repr, unknown))}: {cure}")


def _positions(prompt: TokenizedPrompt, found: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """The tokens that share a character with any of some ranges of the text."""
    return tuple(
        index
        for index, (start, end) in enumerate(prompt.offsets)
        if end > start and any(start < stop and end > begin for begin, stop in found)
    )


def _whole_words(words: str) -> re.Pattern[str]:
    """Matches a word or phrase in any case and with any spaces, but no part of a longer word."""
    parts = r"\s+".join(re.escape(part) for part in words.split())
    return re.compile(rf"(?<!\w){parts}(?!\w)", re.IGNORECASE)


def without_word(text: str, word: str) -> str:
    """The prompt's text with every occurrence of ``word`` deleted and the gap closed."""
    rest = _whole_words(word).sub(" ", text)
    rest = re.sub(r"\s+([,.;:!?])", r"\1", re.sub(r"\s+", " ", rest))
    rest = re.sub(r"([,;:])[,;:]+", r"\1", rest)
    return rest.strip(" ,;:")


def swap_for_null_text(embedding: Tensor, null_embedding: Tensor, span: Sequence[int]) -> Tensor:
    """Swaps the rows of a word for the rows that the empty prompt has at the same positions.

    Args:
        embedding: (..., L, D), the prompt's text embedding.
        null_embedding: (L, D) or broadcastable, the empty prompt's text embedding.
        span: token positions of the word.

    Returns:
        (..., L, D), a new tensor; every row outside the span is unchanged.
    """
    swapped = embedding.clone()
    rows = list(span)
    swapped[..., rows, :] = null_embedding[..., rows, :].to(embedding.dtype)
    return swapped


def align_tokens(source: Sequence[int], target: Sequence[int]) -> list[int]:
    """Global alignment of two token id sequences (gap 0, match 1, mismatch -1).

    Returns:
        For each target position the source position it is matched with, or -1 for a new token.

    Source: Prompt-to-Prompt, arXiv 2208.01626, the Refine edit; Needleman and Wunsch 1970.
    """
    rows, columns = len(source) + 1, len(target) + 1
    score = [[0] * columns for _ in range(rows)]
    for i in range(1, rows):
        for j in range(1, columns):
            diagonal = score[i - 1][j - 1] + (1 if source[i - 1] == target[j - 1] else -1)
            score[i][j] = max(diagonal, score[i - 1][j], score[i][j - 1])
    mapping = [-1] * len(target)
    i, j = rows - 1, columns - 1
    while i > 0 and j > 0:
        matched = source[i - 1] == target[j - 1]
        if matched and score[i][j] == score[i - 1][j - 1] + 1:
            mapping[j - 1] = i - 1
            i, j = i - 1, j - 1
        elif score[i][j] == score[i][j - 1]:
            j -= 1
        elif score[i][j] == score[i - 1][j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
    return mapping
