"""CLIP's tokenizer, read from a model's ``tokenizer.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from dehaze.models.plain.settings import differing

_FREE = frozenset({"model_max_length"})
_FIXED: Mapping[str, Any] = {
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
    "tokenizer_class": "CLIPTokenizer",
    "unk_token": "<|endoftext|>",
}
# Settings of how the tokenizer was loaded when it was saved.
_UNUSED = frozenset({"backend", "is_local", "local_files_only"})


def why_not(config: Mapping[str, Any]) -> str | None:
    """The first setting of a CLIPTokenizer that is not implemented here, or None."""
    return differing(config, _FREE, _FIXED, _UNUSED)


class PlainTokenizer:
    """Called as transformers' CLIPTokenizer is by ``dehaze.prompts.tokenize``.

    Args:
        folder: of the tokenizer, with ``tokenizer.json`` and ``tokenizer_config.json``.

    Attributes:
        model_max_length: of a prompt, in tokens.
    """

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        self.model_max_length = int(config["model_max_length"])
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_truncation()
        pad = str(config["pad_token"])
        self._padding = {"pad_token": pad, "pad_id": self._tokenizer.token_to_id(pad)}

    def __len__(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    def __call__(
        self, text: str, *, padding: str, max_length: int, return_offsets_mapping: bool
    ) -> dict[str, Any]:
        """The tokens of a text, padded to ``max_length``; a longer text is not cut."""
        self._tokenizer.enable_padding(length=max_length, **self._padding)
        encoded = self._tokenizer.encode(text)
        return {
            "input_ids": encoded.ids,
            "attention_mask": encoded.attention_mask,
            "offset_mapping": encoded.offsets,
        }
