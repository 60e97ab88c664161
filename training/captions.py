"""The captions that the bundled model is trained on, and the vocabulary behind them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dehaze.datasets.appearance import APPEARANCES
from dehaze.datasets.synthesis import DENSITY_WORDS, HAZE_KINDS

ADJECTIVES = {"haze": "hazy", "fog": "foggy", "mist": "misty", "smog": "smoggy", "smoke": "smoky"}

# Every word, or phrase, that stands for haze in a caption.
HAZE_WORDS = frozenset(
    [
        *HAZE_KINDS.names(),
        *ADJECTIVES.values(),
        *(f"{level} {kind}" for level in DENSITY_WORDS for kind in HAZE_KINDS.names()),
    ]
)

# The photos have no captions of their own, so a subject is drawn at random. The network learns that
# a subject says nothing about the haze.
SUBJECTS = [
    "animal",
    "bay",
    "beach",
    "bird",
    "boat",
    "bridge",
    "building",
    "car",
    "castle",
    "cat",
    "church",
    "city",
    "cliff",
    "coast",
    "country",
    "couple",
    "dog",
    "farm",
    "field",
    "flower",
    "forest",
    "garden",
    "harbor",
    "hill",
    "horse",
    "house",
    "island",
    "lake",
    "landscape",
    "man",
    "market",
    "mountain",
    "ocean",
    "park",
    "people",
    "person",
    "plain",
    "river",
    "road",
    "room",
    "rock",
    "sea",
    "ship",
    "skyline",
    "stadium",
    "street",
    "temple",
    "tower",
    "town",
    "train",
    "tree",
    "valley",
    "village",
    "wall",
    "water",
    "window",
    "woman",
    "wood",
]

# Words that nothing is rendered for; they are in the vocabulary so that each is one token.
FURTHER_WORDS = [
    "an",
    "and",
    "are",
    "at",
    "behind",
    "black",
    "blue",
    "bright",
    "brown",
    "by",
    "clean",
    "clear",
    "cloud",
    "clouds",
    "color",
    "colorful",
    "cold",
    "dark",
    "day",
    "distant",
    "early",
    "evening",
    "far",
    "few",
    "flowers",
    "from",
    "front",
    "full",
    "gray",
    "green",
    "heavily",
    "high",
    "hills",
    "hot",
    "image",
    "in",
    "into",
    "is",
    "it",
    "large",
    "late",
    "lightly",
    "little",
    "low",
    "many",
    "morning",
    "mountains",
    "near",
    "night",
    "no",
    "of",
    "old",
    "on",
    "one",
    "orange",
    "over",
    "picture",
    "red",
    "scene",
    "sky",
    "slightly",
    "small",
    "snow",
    "some",
    "sun",
    "sunny",
    "sunrise",
    "sunset",
    "that",
    "the",
    "three",
    "through",
    "to",
    "trees",
    "two",
    "under",
    "very",
    "view",
    "warm",
    "white",
    "wide",
    "winter",
    "with",
    "without",
    "yellow",
    "young",
    "rain",
    "blur",
    "blurred",
    "blurry",
    "buildings",
    "cars",
    "evening",
    "houses",
    "dusk",
    "dawn",
    "noon",
    "autumn",
    "spring",
    "summer",
    "quiet",
    "busy",
    "urban",
    "rural",
    "aerial",
    "indoor",
    "outdoor",
    "level",
    "zero",
    "four",
    "five",
    "smoggy",
    "photograph",
    "sharp",
    "soft",
    "vivid",
    "faded",
    "veil",
    "air",
    "weather",
    "day",
]

_PHRASES = (
    "a photo with {haze}",
    "a photo with {haze}",
    "a photo with {haze}",
    "a photo of a {subject} with {haze}",
    "a {subject} with {haze}",
    "a {subject} in {haze}",
    "{haze} over a {subject}",
    "{haze}",
)
_ADJECTIVE_PHRASES = ("a {haze} photo", "a {haze} {subject}", "a photo of a {haze} {subject}")
_CLEAR_PHRASES = (
    "a photo",
    "a photo",
    "a photo of a {subject}",
    "a {subject}",
    "a photo with",
    "a clear photo",
    "a photo without haze",
)


@dataclass(frozen=True)
class Caption:
    """A caption and what it says about the haze.

    Attributes:
        text: the caption.
        word: the haze word (or phrase) in it, None for a caption without haze.
        kind: the kind of haze that the word names, None without haze.
        density: bounds of the mean of 1 - t that the caption states, None where it states none.
    """

    text: str
    word: str | None = None
    kind: str | None = None
    density: tuple[float, float] | None = None


def hazy_caption(rng: np.random.Generator) -> Caption:
    """A caption that names a kind of haze, with or without its density."""
    kinds = HAZE_KINDS.names()
    kind = "haze" if rng.random() < 0.6 else kinds[int(rng.integers(len(kinds)))]
    subject = SUBJECTS[int(rng.integers(len(SUBJECTS)))]
    if rng.random() < 0.12:
        phrase = _ADJECTIVE_PHRASES[int(rng.integers(len(_ADJECTIVE_PHRASES)))]
        word = ADJECTIVES[kind]
        return Caption(phrase.format(haze=word, subject=subject), word, kind)
    phrase = _PHRASES[int(rng.integers(len(_PHRASES)))]
    if rng.random() < 0.5:
        level = list(DENSITY_WORDS)[int(rng.integers(len(DENSITY_WORDS)))]
        # A user may swap the noun alone, or the whole phrase, for null text.
        word = kind if rng.random() < 0.5 else f"{level} {kind}"
        text = phrase.format(haze=f"{level} {kind}", subject=subject)
        return Caption(text, word, kind, DENSITY_WORDS[level])
    return Caption(phrase.format(haze=kind, subject=subject), kind, kind)


def appearance_caption(word: str, rng: np.random.Generator) -> Caption:
    """A caption that names an appearance such as snow, with or without a subject."""
    prompt = APPEARANCES.get(word).prompt
    if rng.random() < 0.5:
        subject = SUBJECTS[int(rng.integers(len(SUBJECTS)))]
        prompt = prompt.replace("a photo", f"a photo of a {subject}")
    return Caption(prompt, word)


def clear_caption(rng: np.random.Generator) -> Caption:
    """A caption for a photo without haze."""
    phrase = _CLEAR_PHRASES[int(rng.integers(len(_CLEAR_PHRASES)))]
    return Caption(phrase.format(subject=SUBJECTS[int(rng.integers(len(SUBJECTS)))]))


def vocabulary() -> list[str]:
    """Every word that is one token of the bundled tokenizer, sorted."""
    phrases = " ".join((*_PHRASES, *_ADJECTIVE_PHRASES, *_CLEAR_PHRASES))
    plain = phrases.replace("{haze}", " ").replace("{subject}", " ").split()
    words = {
        *plain,
        *SUBJECTS,
        *FURTHER_WORDS,
        *HAZE_KINDS.names(),
        *ADJECTIVES.values(),
        *DENSITY_WORDS,
    }
    return sorted(words)
