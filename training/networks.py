"""The bundled model's components, new or loaded; embeddings of captions and latents of cells."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dehaze.models.codec import CellsCodec
from dehaze.models.load import load_parts
from dehaze.models.source import ModelSource
from dehaze.prompts import TokenizedPrompt, tokenize, word_span
from training.captions import Caption
from training.data import CELL_SIZE

PROMPT_LENGTH = 32
BEGIN, END = "<|startoftext|>", "<|endoftext|>"


@dataclass
class Networks:
    """The components of a text-to-image pipeline, by the names that diffusers gives them."""

    tokenizer: Any
    text_encoder: Any
    unet: Any
    vae: Any
    scheduler: Any

    def save(self, folder: Path) -> None:
        """Writes the components in diffusers' format: one folder each, weights as safetensors.

        Weights are rounded to float16, which halves their size; they are loaded as float32 again.
        """
        parts = vars(self)
        # Otherwise the padding of the last batch would be saved as the tokenizer's setting.
        self.tokenizer.backend_tokenizer.no_padding()
        self.tokenizer.backend_tokenizer.no_truncation()
        for name, part in parts.items():
            part.save_pretrained(folder / name)
            _forget_origin(folder / name / "config.json")
        # transformers before 5.6 needs the prefix, and otherwise leaves the encoder random; later
        # versions save the weights without it, and read both.
        _rewrite(folder / "text_encoder" / "model.safetensors", prefix="text_model.")
        _rewrite(folder / "unet" / "diffusion_pytorch_model.safetensors")
        index: dict[str, Any] = {"_class_name": "DehazePipeline"}
        for name, part in parts.items():
            index[name] = [type(part).__module__.split(".")[0], type(part).__name__]
        text = json.dumps(index, indent=2, sort_keys=True)
        (folder / "model_index.json").write_text(text + "\n")


def _forget_origin(config: Path) -> None:
    """Removes the path that a component was loaded from, which diffusers would save."""
    if config.is_file():
        settings = json.loads(config.read_text())
        settings.pop("_name_or_path", None)
        config.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def _rewrite(file: Path, prefix: str = "") -> None:
    """Rounds the weights in a file to float16, and gives each name the prefix, once."""
    # Loaded weights may be views of the file that is overwritten here, so they are copied.
    weights = {
        prefix + name.removeprefix(prefix): value.to(torch.float16, copy=True)
        for name, value in load_file(file).items()
    }
    save_file(weights, file, metadata={"format": "pt"})


def load_networks(folder: Path) -> Networks:
    """The networks of an exported model, ready to be trained on.

    Raises:
        ModelError: as ``dehaze.models.load.load_parts``.
    """
    parts = load_parts(ModelSource(folder))
    for network in (parts.unet, parts.text_encoder):
        network.train().requires_grad_(True)
    return Networks(parts.tokenizer, parts.text_encoder, parts.unet, parts.vae, parts.scheduler)


def learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte pair merges that make each of these ASCII words one token.

    The most frequent pair is merged first; a tie goes to the alphabetically first. The tokenizers
    library breaks ties, and numbers tokens, at random, so a resumed run would read its captions
    wrongly.

    Source: Sennrich, Haddow and Birch, arXiv 1508.07909, algorithm 1.
    """
    spelled = [[*word[:-1], f"{word[-1]}</w>"] for word in words]
    merges = []
    while pairs := Counter(pair for pieces in spelled for pair in pairwise(pieces)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for pieces in spelled:
            for position in range(len(pieces) - 2, -1, -1):
                if tuple(pieces[position : position + 2]) == best:
                    pieces[position : position + 2] = ["".join(best)]
    return merges


def build_tokenizer(words: list[str], folder: Path) -> Any:
    """A CLIP tokenizer in which each of ``words`` is one token and other words are bytes.

    The network is never trained on bytes, so an unknown word has no meaning for it.
    """
    merges = learn_merges(words)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{character}</w>" for character in alphabet)]
    tokens += [first + second for first, second in merges]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys([*tokens, BEGIN, END]))}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False) + "\n")
    lines = ["#version: 0.2", *(f"{first} {second}" for first, second in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    settings = {"model_max_length": PROMPT_LENGTH, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings) + "\n")
    return CLIPTokenizer.from_pretrained(folder, pad_token=END)


def build_networks(tokenizer: Any) -> Networks:
    """New networks around a tokenizer; seed torch first."""
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=PROMPT_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    codec = CellsCodec(cell_size=CELL_SIZE, patch_size=2)
    channels = 9 * 2**2
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(48, 96, 128),
        layers_per_block=(1, 2, 2),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        # Attention at the latents' own size is costly, so only the block of the haze attention map
        # has it.
        transformer_layers_per_block=[[1], [1, 1], [2, 2]],
        reverse_transformer_layers_per_block=[[2, 2, 2], [1, 1, 1], [0, 1]],
        cross_attention_dim=128,
        attention_head_dim=(2, 3, 4),
        norm_num_groups=16,
    )
    scheduler = DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="leading",
        steps_offset=1,
    )
    return Networks(tokenizer, text_encoder, unet, codec, scheduler)


class HasCodec(Protocol):
    """An object with a codec of cells."""

    vae: Any


def embed_captions(networks: Networks, captions: list[tuple[Caption, bool]]) -> Tensor:
    """Text embeddings (B, L, D); the haze word's rows are swapped for null text where asked for."""
    texts = {"": 0}
    rows = [texts.setdefault(caption.text, len(texts)) for caption, _ in captions]
    ids = torch.stack([_tokenized(networks.tokenizer, text).ids for text in texts])
    swapped = torch.tensor([swapped for _, swapped in captions])
    null = word_mask(networks.tokenizer, [caption for caption, _ in captions]) & swapped[:, None]
    device = networks.text_encoder.device
    embedded = networks.text_encoder(ids.to(device)).last_hidden_state
    # As ``dehaze.prompts.swap_for_null_text`` does, for all captions at once.
    kept = embedded[torch.tensor(rows, device=device)]
    return torch.where(null[..., None].to(device), embedded[0], kept)


def word_mask(tokenizer: Any, captions: list[Caption]) -> Tensor:
    """bool (B, L), true at the tokens of each caption's word."""
    mask = torch.zeros((len(captions), PROMPT_LENGTH), dtype=torch.bool)
    for row, caption in zip(mask, captions, strict=True):
        if caption.word is not None:
            row[list(_span(tokenizer, caption.text, caption.word))] = True
    return mask


@cache
def _tokenized(tokenizer: Any, text: str) -> TokenizedPrompt:
    return tokenize(tokenizer, text)


@cache
def _span(tokenizer: Any, text: str, word: str) -> tuple[int, ...]:
    return word_span(_tokenized(tokenizer, text), word)


def latents_of(networks: HasCodec, cells: Tensor) -> Tensor:
    """z_0, float32 (B, C, h', w'), of cells (B, h, w, 9) in [0, 1]."""
    images = cells.float().permute(0, 3, 1, 2)
    latents = networks.vae.unshuffle(images * 2.0 - 1.0)
    return torch.as_tensor(latents * networks.vae.config.scaling_factor)


def bfloat16_where_fast(device: str) -> torch.autocast:
    """Inside, networks compute in bfloat16 on a CPU that has instructions for it.

    A CPU with AVX2 alone emulates bfloat16, and is several times as fast in float32. A GPU is fast
    enough in TF32, see ``Run``.

    Args:
        device: the type of a device, such as "cpu" or "cuda".
    """
    fast = device == "cpu" and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return torch.autocast(device, dtype=torch.bfloat16, enabled=fast)
