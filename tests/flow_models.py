"""Small random models of flow matching, made on the spot and saved in diffusers' format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from training.captions import vocabulary
from training.networks import build_tokenizer

# Of T5; diffusers' pipelines are asked for as many.
T5_TOKENS = 16
DESCRIPTION = {"short_side": 16, "steps": 3, "max_iterations": 8}


def t5_tokenizer() -> T5TokenizerFast:
    """A tokenizer of T5: each word is one token, "haze" is two, and other words are letters."""
    words = [word for word in vocabulary() if word.isalpha() and word != "haze"]
    pieces = ["▁ha", "ze", *(f"▁{word}" for word in dict.fromkeys(words))]
    letters = ["▁", ",", ".", *"abcdefghijklmnopqrstuvwxyz"]
    scored = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    scored += [(piece, -2.0) for piece in pieces] + [(letter, -9.0) for letter in letters]
    return T5TokenizerFast(vocab=scored, extra_ids=0, model_max_length=T5_TOKENS)


def t5_encoder(tokenizer: T5TokenizerFast, width: int) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            # As in the published one, there are a few more rows than tokens.
            vocab_size=len(tokenizer) + 7,
            d_model=width,
            d_kv=8,
            d_ff=32,
            num_layers=1,
            num_heads=2,
            feed_forward_proj="gated-gelu",
        )
    )


def clip_config(tokenizer: Any, width: int, **settings: Any) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **settings,
    )


def codec() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.7,
        shift_factor=0.1,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def mind_the_prompt(transformer: Any) -> None:
    """Strengthens attention to the prompt, on which a random network hardly depends."""
    with torch.no_grad():
        for name, weight in transformer.named_parameters():
            if "attn" in name and name.endswith("weight") and "norm" not in name:
                weight.mul_(2.5)
            if name.startswith("context_embedder"):
                weight.mul_(4.0)


def save_stable_diffusion_3(folder: Path, **settings: Any) -> Path:
    """Like 3.5: normalised queries and keys, and a layer in which the picture attends to itself."""
    torch.manual_seed(0)
    tokenizer, t5 = build_tokenizer(vocabulary(), folder / "source"), t5_tokenizer()
    transformer = SD3Transformer2DModel(
        **{
            "sample_size": 8,
            "patch_size": 2,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 2,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "joint_attention_dim": 40,
            "caption_projection_dim": 16,
            "pooled_projection_dim": 12 + 10,
            "pos_embed_max_size": 24,
            "dual_attention_layers": (0,),
            "qk_norm": "rms_norm",
            **settings,
        }
    )
    mind_the_prompt(transformer)
    save(
        folder,
        "StableDiffusion3Pipeline",
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=codec(),
        text_encoder=CLIPTextModelWithProjection(clip_config(tokenizer, 20, projection_dim=12)),
        tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(clip_config(tokenizer, 16, projection_dim=10)),
        tokenizer_2=tokenizer,
        text_encoder_3=t5_encoder(t5, 40),
        tokenizer_3=t5,
    )
    return folder


def save_flux(folder: Path, *, distilled: bool = False) -> Path:
    """Two blocks: one with two streams, for picture and prompt, and one with a single stream."""
    torch.manual_seed(0)
    tokenizer, t5 = build_tokenizer(vocabulary(), folder / "source"), t5_tokenizer()
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=24,
        pooled_projection_dim=20,
        guidance_embeds=distilled,
        axes_dims_rope=(4, 2, 2),
    )
    mind_the_prompt(transformer)
    save(
        folder,
        "FluxPipeline",
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=codec(),
        text_encoder=CLIPTextModel(clip_config(tokenizer, 20)),
        tokenizer=tokenizer,
        text_encoder_2=t5_encoder(t5, 24),
        tokenizer_2=t5,
    )
    return folder


def save(folder: Path, pipeline: str, **parts: Any) -> None:
    """Writes what diffusers' pipeline of this name would, and a description of small pictures."""
    index: dict[str, Any] = {"_class_name": pipeline}
    for name, part in parts.items():
        part.save_pretrained(folder / name)
        index[name] = [type(part).__module__.split(".")[0], type(part).__name__]
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "dehaze.json").write_text(json.dumps(DESCRIPTION))
