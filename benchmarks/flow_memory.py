"""Memory of the recorded attention of Stable Diffusion 3 and FLUX at their real sizes, computed.

    python benchmarks/flow_memory.py

The networks are made on PyTorch's meta device and run once, as in ``model_memory.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel
from model_memory import GB, fused_attention

from dehaze.attention.control import AttentionControl
from dehaze.attention.processors import controlled_attention
from dehaze.attention.session import AttentionSession, RecordingPlan
from dehaze.models.conditioning import network_output

STEPS = 28
PIXELS = 1024


@dataclass(frozen=True)
class Model:
    """A published transformer: the settings that differ from its class's defaults.

    Attributes:
        network: its class.
        settings: of the class.
        tokens: number of tokens that it reads.
        width: size of a token's embedding.
    """

    network: Any
    settings: dict[str, Any]
    tokens: int
    width: int = 4096


_SD3 = {"pooled_projection_dim": 2048, "joint_attention_dim": 4096, "sample_size": 128}
_LARGE = {**_SD3, "num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432,
          "pos_embed_max_size": 192, "qk_norm": "rms_norm"}  # fmt: skip
MODELS = {
    "SD 3 medium": Model(
        SD3Transformer2DModel,
        {**_SD3, "num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536,
         "pos_embed_max_size": 192},
        77 + 256,
    ),
    "SD 3.5 large": Model(SD3Transformer2DModel, _LARGE, 77 + 256),
    "FLUX.1 dev": Model(FluxTransformer2DModel, {"guidance_embeds": True}, 512),
}  # fmt: skip


def recorded_bytes(model: Model) -> int:
    """Bytes of the queries and keys of all layers at one step, in bfloat16."""
    side = PIXELS // 8
    with torch.device("meta"):
        network = model.network(**model.settings).to(torch.bfloat16).eval()
        latents = torch.empty(1, 16, side, side, dtype=torch.bfloat16)
        embedding = torch.empty(1, model.tokens + 1, model.width, dtype=torch.bfloat16)
    session = AttentionSession(recording=True, latent_size=(side, side), step=1)
    with torch.no_grad(), controlled_attention(network, session), fused_attention():
        network_output(network, latents, 500.0, embedding, model.tokens, (PIXELS, PIXELS), 1.0)
    return sum(value.nbytes for value in session.record.values())


def weights_bytes(model: Model) -> int:
    """Bytes of the transformer's weights in bfloat16."""
    with torch.device("meta"):
        network = model.network(**model.settings)
    return sum(2 * weight.numel() for weight in network.parameters())


def main() -> None:
    """Prints the table."""
    print(f"| GB, bfloat16, {PIXELS} px, {STEPS} steps | {' | '.join(MODELS)} |")
    print(f"| --- | {' | '.join('---:' for _ in MODELS)} |")
    control = AttentionControl()
    side = PIXELS // 8
    plan = RecordingPlan(control, STEPS, map_layers=())
    positions = (side // 2) ** 2
    followed = sum(
        plan.keeps("layer", "joint", step, positions, (side, side)) for step in range(1, STEPS + 1)
    )
    steps = {name: recorded_bytes(model) / GB for name, model in MODELS.items()}
    rows = {
        "weights of the transformer": [weights_bytes(model) / GB for model in MODELS.values()],
        "attention of one step": list(steps.values()),
        f"of an edit: {followed} steps": [followed * one for one in steps.values()],
        f"of dehazing, with its map: {STEPS} steps": [STEPS * one for one in steps.values()],
    }
    for name, values in rows.items():
        print(f"| {name} | {' | '.join(f'{value:.1f}' for value in values)} |")


if __name__ == "__main__":
    main()
