"""Memory that an edit with Stable Diffusion takes on an accelerator at real sizes, computed.

    python benchmarks/model_memory.py --card 24

The networks are made on PyTorch's meta device, where tensors have shapes and no values. Every layer
runs, and all live tensors are counted. Attention is assumed to be fused, as on CUDA, so no
(positions x positions) map is formed. Memory of the driver and the allocator beyond the tensors is
not counted.
"""

from __future__ import annotations

import argparse
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from dehaze.attention.control import AttentionControl
from dehaze.attention.processors import controlled_attention
from dehaze.attention.session import AttentionSession, RecordingPlan
from dehaze.models.conditioning import network_arguments

STEPS = 50
TOKENS = 77
GB = 1e9
_CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12,
           "num_hidden_layers": 12}  # fmt: skip
_CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 20,
           "num_hidden_layers": 32, "projection_dim": 1280}  # fmt: skip
CODEC = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}


@dataclass(frozen=True)
class Model:
    """A published model's sizes: the settings that differ from the defaults.

    Attributes:
        pixels: side of its pictures.
        unet: settings of UNet2DConditionModel.
        encoders: settings of its text encoders.
    """

    pixels: int
    unet: dict[str, Any]
    encoders: tuple[dict[str, Any], ...]


MODELS = {
    "SD 1.5": Model(
        512, {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}, (_CLIP_L,)
    ),
    "SDXL": Model(
        1024,
        {
            "sample_size": 128,
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10),
            "attention_head_dim": (5, 10, 20),
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        (_CLIP_L, _CLIP_G),
    ),
}


class LiveMemory(TorchDispatchMode):
    """Counts the bytes of all live tensors that operations made.

    Attributes:
        peak: the most at any time, in bytes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._alive = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor):
                self._add(tensor)
        return result

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        self._alive += storage.nbytes()
        self.peak = max(self.peak, self._alive)
        weakref.finalize(storage, self._drop, key, storage.nbytes())

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._alive -= size


@contextmanager
def fused_attention() -> Iterator[None]:
    """Inside, attention forms no maps, like a fused kernel."""

    def fused(query: Tensor, key: Tensor, value: Tensor, *unused: Any, **settings: Any) -> Tensor:
        return query.new_empty((*query.shape[:-1], value.shape[-1]))

    with mock.patch("torch.nn.functional.scaled_dot_product_attention", fused):
        yield


def peak_of(run: Callable[[], Any]) -> int:
    """The most bytes that the tensors made in a call take at any time."""
    with torch.no_grad(), fused_attention(), LiveMemory() as memory:
        run()
    return memory.peak


@dataclass(frozen=True)
class Needs:
    """Memory of an edit with a model, in bytes.

    Attributes:
        weights: of the networks in fp16 and the codec in float32.
        network: activations of one evaluation with guidance, two rows.
        codec: activations of decoding.
        recorded: recorded queries and keys of all layers at all steps.
        usable: of these, those that some control can use.
        followed: of these, those that the default control uses.
    """

    weights: int
    network: int
    codec: int
    recorded: int
    usable: int
    followed: int


def needs_of(model: Model) -> Needs:
    """Runs a model's networks on the meta device."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**model.unet).half().eval()
        codec = AutoencoderKL(**CODEC).eval()
        encoders = [
            (CLIPTextModelWithProjection if "projection_dim" in settings else CLIPTextModel)(
                CLIPTextConfig(vocab_size=49408, max_position_embeddings=TOKENS, **settings)
            ).half()
            for settings in model.encoders
        ]
        side = model.pixels // 8
        latents = torch.empty(2, 4, side, side, dtype=torch.float16)
        pooled = 1 if len(encoders) == 2 else 0
        width = int(unet.config.cross_attention_dim)
        embedding = torch.empty(2, TOKENS + pooled, width, dtype=torch.float16)
    pixels = (model.pixels, model.pixels)
    arguments = network_arguments(unet, embedding, TOKENS, pixels)
    session = AttentionSession(recording=True, plan=_Everything(), latent_size=(side, side), step=1)
    with (
        torch.no_grad(),
        controlled_attention(unet, session),
        fused_attention(),
        session.leading(1),
    ):
        unet(latents, 1, **arguments)
    network = peak_of(lambda: unet(latents, 1, **arguments))
    with torch.device("meta"):
        decoded = torch.empty(1, 4, side, side)
    picture = peak_of(lambda: codec.decode(decoded))
    default = RecordingPlan(AttentionControl(), STEPS, map_layers=())
    plans = (_Everything(), RecordingPlan(map_layers=()), default)
    sizes = (_bytes(session, plan) for plan in plans)
    return Needs(sum(_size(part) for part in (unet, codec, *encoders)), network, picture, *sizes)


class _Everything(RecordingPlan):
    def keeps(self, *unused: Any) -> bool:
        return True


def _bytes(session: AttentionSession, plan: RecordingPlan) -> int:
    """Bytes of a recording of all steps, from that of one step."""
    total = 0
    for name, value in session.record.items():
        layer, kind, tensor, _ = name.split("|")
        positions = session.record[f"{layer}|{kind}|query|1"].shape[2]
        steps = [
            step
            for step in range(1, STEPS + 1)
            if plan.keeps(layer, kind, step, positions, session.latent_size)
        ]
        once = (kind, tensor) == ("cross", "key")
        total += value.nbytes * (min(1, len(steps)) if once else len(steps))
    return total


def _size(module: Any) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--card", type=float, default=24.0, help="the card's memory, GB")
    card = parser.parse_args().card
    budget = card / 3
    print(f"| GB, fp16, {STEPS} steps, batch of 1, guidance | {' | '.join(MODELS)} |")
    print(f"| --- | {' | '.join('---:' for _ in MODELS)} |")
    needs = [needs_of(model) for model in MODELS.values()]
    rows: dict[str, list[float]] = {
        "weights": [one.weights / GB for one in needs],
        "one evaluation of the network, two rows": [one.network / GB for one in needs],
        "decoding, float32": [one.codec / GB for one in needs],
        "attention of all layers and steps": [one.recorded / GB for one in needs],
        "what some control can use": [one.usable / GB for one in needs],
        "what the default control uses": [one.followed / GB for one in needs],
    }
    here = [min(one.followed / GB, budget) for one in needs]
    rows[f"of it on a card of {card:g} GB, the rest on the host"] = here
    totals = [
        one.weights / GB + max(one.network, one.codec) / GB + kept
        for one, kept in zip(needs, here, strict=True)
    ]
    rows["together, at most"] = totals
    for name, values in rows.items():
        print(f"| {name} | {' | '.join(f'{value:.2f}' for value in values)} |")
    fits = ["yes" if total <= card else "NO" for total in totals]
    print(f"| fits {card:g} GB | {' | '.join(fits)} |")


if __name__ == "__main__":
    main()
