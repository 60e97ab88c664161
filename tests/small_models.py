"""Small random models, saved in the real format, so that loading is tested offline."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from dehaze.models.codec import PixelUnshuffleCodec
from training.captions import vocabulary
from training.networks import Networks, build_networks, build_tokenizer


def save_random_model(folder: Path) -> Path:
    """A model of the bundled kind, its weights random."""
    torch.manual_seed(0)
    networks = build_networks(build_tokenizer(vocabulary(), folder / "source"))
    torch.manual_seed(0)
    # Smaller than the networks that ship: pixels for cells, and two levels.
    networks.text_encoder = CLIPTextModel(networks.text_encoder.config)
    networks.unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=12,
        out_channels=12,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=(2, 4),
        norm_num_groups=16,
    )
    networks.vae = PixelUnshuffleCodec(patch_size=2)
    networks.save(folder)
    settings = {
        "short_side": 16,
        "steps": 4,
        "spacing": "noisy-end",
        "solver": "fixed-point",
        "predictor": "previous",
        "criterion": "intra-path",
        "max_iterations": 5,
        "tolerance": 1e-6,
    }
    (folder / "dehaze.json").write_text(json.dumps(settings))
    return folder


def small_vae() -> AutoencoderKL:
    """A tiny random VAE that halves the sides."""
    return AutoencoderKL(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=4,
        norm_num_groups=8,
        scaling_factor=0.31,
    )


def save_stable_diffusion(folder: Path, prediction_type: str) -> Path:
    """A tiny Stable Diffusion: AutoencoderKL, PNDM or DDIM scheduler, model_index.json, random."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(vocabulary(), folder / "source")
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=37,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=32,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=8,
        use_linear_projection=prediction_type == "v_prediction",
    )
    vae = small_vae()
    schedule = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "steps_offset": 1,
        "set_alpha_to_one": False,
        "prediction_type": prediction_type,
    }
    if prediction_type == "epsilon":
        scheduler = PNDMScheduler(skip_prk_steps=True, **schedule)
    else:
        scheduler = DDIMScheduler(clip_sample=False, **schedule)
    networks = Networks(tokenizer, text_encoder, unet, vae, scheduler)
    networks.save(folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["_class_name"] = "StableDiffusionPipeline"
    index["safety_checker"] = [None, None]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def save_stable_diffusion_xl(folder: Path) -> Path:
    """A tiny Stable Diffusion XL: two text encoders, added conditions, Euler scheduler, random."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(vocabulary(), folder / "source")
    shared = {
        "vocab_size": len(tokenizer),
        "intermediate_size": 37,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 32,
        "eos_token_id": tokenizer.eos_token_id,
    }
    text_encoder = CLIPTextModel(CLIPTextConfig(hidden_size=32, **shared))
    text_encoder_2 = CLIPTextModelWithProjection(
        CLIPTextConfig(hidden_size=24, projection_dim=20, **shared)
    )
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=1,
        transformer_layers_per_block=(1, 2),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32 + 24,
        attention_head_dim=(2, 4),
        norm_num_groups=8,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 20,
    )
    vae = small_vae()
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        timestep_spacing="leading",
    )
    StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=text_encoder,
        text_encoder_2=text_encoder_2,
        tokenizer=tokenizer,
        # The second tokenizer pads with "!", as in the published model.
        tokenizer_2=CLIPTokenizer.from_pretrained(folder / "source", pad_token="!"),
        unet=unet,
        scheduler=scheduler,
    ).save_pretrained(folder)
    return folder


def save_clip(folder: Path) -> Path:
    """A tiny random CLIP and its processor."""
    tokenizer = build_tokenizer(vocabulary(), folder / "source")
    torch.manual_seed(0)
    shared = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    text = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 16,
        "eos_token_id": tokenizer.eos_token_id,
    }
    settings = CLIPConfig(
        text_config=shared | text,
        vision_config=shared | {"image_size": 32, "patch_size": 8},
        projection_dim=8,
    )
    CLIPModel(settings).save_pretrained(folder)
    pictures = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(pictures, tokenizer).save_pretrained(folder)
    return folder
