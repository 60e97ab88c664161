"""Costs of edits and dehazing on an accelerator: seconds, evaluations and peak memory.

    HF_HUB_OFFLINE=1 python benchmarks/gpu.py --parts bundled,sd15,sdxl,savers

The bundled model is the shipped one. The other networks have the published models' sizes and random
weights, so their pictures mean nothing; the distance between two edits shows how far the fixed
points of such a network converge. Networks and text encoders are in float16 and codecs in float32,
as with ``torch_dtype=torch.float16``. On the CPU, which is slow in float16, everything is in
float32. Times are wall-clock times after a warm-up, with the device's work finished. Peak memory is
that of PyTorch's tensors with the weights, counted by its allocator; there is none on the CPU.

Each part makes its own model and prints its own tables, in the order given, so that a device lent
for minutes can be given one part after the other. A second table of ``sd15`` says where the time
goes: in the network, whose calls are timed without waiting for them, in the codec, or elsewhere. If
a part fails, its traceback is printed, the others go on, and the exit code is 1. Nothing is
downloaded.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import logging
import math
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from flow_memory import MODELS as FLOW_MODELS
from flow_memory import PIXELS as FLOW_PIXELS
from folder_job import EXAMPLE, make_photos
from memory_savers import (
    PROMPTS,
    Way,
    compile_network,
    made_scheduler,
    made_tokenizer,
    restore_network,
)
from model_memory import CODEC, MODELS, TOKENS, Model
from numpy.typing import NDArray
from peers import BEST, FPI, SOURCE, TARGET, Outcome, Peers, held
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from dehaze import DehazePipeline
from dehaze.attention.processors import controlled_attention
from dehaze.attention.session import AttentionSession
from dehaze.errors import DehazeError, first_line
from dehaze.levels import to_levels
from dehaze.models.conditioning import network_output
from dehaze.models.needs import describe
from dehaze.photos import read_photo
from dehaze.pipelines.edit import EditPipeline
from dehaze.pipelines.edit_settings import EditSettings

Array = NDArray[np.float32]
GB = 1e9
MEGAPIXELS = 768 * 512 / 1e6
# Memory of the card that Stable Diffusion XL must fit.
CARD = 24e9
# Largest allowed differences of the bundled model's results from the CPU's, in levels of 255.
MEAN_ERROR, LARGEST_ERROR = 0.1, 2.0
# Side of a codec's tiles in pixels, so that a picture of 512 x 512 has several.
TILE = 256
SAVER_STEPS = 10

say = partial(print, flush=True)


@dataclass
class Usage:
    """The cost of a measured call.

    Attributes:
        seconds: wall-clock time.
        peak: the most bytes of tensors on the device; NaN on the CPU.
    """

    seconds: float = math.nan
    peak: float = math.nan


class Repeats(logging.Handler):
    """Counts the evaluations that overflowed in half precision and were repeated in float32."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.count = 0
        logging.getLogger("dehaze").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.count += "again in float32" in record.getMessage()


class CallTimes:
    """The time of each call of networks, and their rows; it makes nobody wait.

    On a CUDA device the time is that from a call's first operation to its last, as the device saw
    them: where the host is slower in handing them out, that counts.

    Attributes:
        rows: of all calls since the last ``clear``.
    """

    def __init__(self, device: torch.device, *networks: Any) -> None:
        self.rows, self._device = 0, device
        self._marks: list[tuple[Any, Any]] = []
        self._begun: list[Any] = []
        for network in networks:
            network.register_forward_pre_hook(self._begin)
            network.register_forward_hook(self._end)

    def _mark(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _begin(self, *unused: Any) -> None:
        self._begun.append(self._mark())

    def _end(self, module: Any, arguments: Any, output: Any) -> None:
        self._marks.append((self._begun.pop(), self._mark()))
        self.rows += len(output if isinstance(output, Tensor) else output[0])

    def clear(self) -> None:
        """Forgets all calls."""
        self.rows, self._marks = 0, []

    def seconds(self) -> list[float]:
        """Of each call since the last ``clear``."""
        finish(self._device)
        if self._device.type != "cuda":
            return [end - begin for begin, end in self._marks]
        return [begin.elapsed_time(end) / 1000.0 for begin, end in self._marks]


@dataclass(frozen=True)
class EditWay:
    """A way to edit a photo.

    Attributes:
        run: does it.
        back: calls of the network a step on the way back; all others are of the inversion.
    """

    run: Callable[[Peers], Outcome]
    back: int


def finish(device: torch.device) -> None:
    """Waits until the device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def weights_on(device: torch.device) -> float:
    """Bytes of all tensors on the device at present; NaN on the CPU."""
    return float(torch.cuda.memory_allocated(device)) if device.type == "cuda" else math.nan


def free(device: torch.device) -> None:
    """Frees unused memory of the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


@contextmanager
def measured(device: torch.device) -> Iterator[Usage]:
    """Measures the code inside; the usage is filled in at its end."""
    gc.collect()
    finish(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    usage, before = Usage(), time.perf_counter()
    yield usage
    finish(device)
    usage.seconds = time.perf_counter() - before
    if device.type == "cuda":
        usage.peak = float(torch.cuda.max_memory_allocated(device))


@contextmanager
def made_in(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Inside, weights are made on the device and in this type."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            yield
    finally:
        torch.set_default_dtype(usual)


def made_pipeline(model: Model, device: torch.device, small: bool) -> EditPipeline:
    """A model of these sizes with random weights, or with few channels if ``small``."""
    torch.manual_seed(0)
    unet, codec = dict(model.unet), dict(CODEC)
    texts = [dict(settings) for settings in model.encoders]
    if small:
        levels = len(unet.get("block_out_channels", (0,) * 4))
        unet["block_out_channels"] = (32,) * levels
        unet["attention_head_dim"] = 2
        if "transformer_layers_per_block" in unet:
            unet["transformer_layers_per_block"] = 1
        codec["block_out_channels"] = (32,) * 4
        for text in texts:
            text["num_hidden_layers"] = 1
    with made_in(device, torch.float16 if device.type == "cuda" else torch.float32):
        network = UNet2DConditionModel(**unet).eval()
        encoders = [
            (CLIPTextModelWithProjection if "projection_dim" in text else CLIPTextModel)(
                CLIPTextConfig(vocab_size=49408, max_position_embeddings=TOKENS, **text)
            ).eval()
            for text in texts
        ]
    with made_in(device, torch.float32):
        vae = AutoencoderKL(**codec, scaling_factor=0.18215).eval()
    tokenizer = made_tokenizer()
    # ``best`` takes the settings that were fitted on the bundled model.
    description = replace(describe(network, vae), fitted_inversion=True)
    if small:
        description = replace(description, short_side=128)
    second = encoders[1] if len(encoders) == 2 else None
    pipe = EditPipeline(
        vae,
        encoders[0],
        tokenizer,
        network,
        made_scheduler(),
        description,
        text_encoder_2=second,
        tokenizer_2=None if second is None else tokenizer,
    )
    pipe.set_progress_bar_config(disable=True)
    # Latents get unit variance, as a trained codec gives them. With smaller latents, a random
    # network is too sensitive for fixed-point iterations to converge.
    deviation = float(pipe.codec.encode(square_photo(description.short_side)).std())
    vae.register_to_config(scaling_factor=vae.config.scaling_factor / deviation)
    say(
        f"Random weights of {sum(part.num_parameters() for part in (network, vae, *encoders)):,} "
        f"numbers, {weights_on(device) / GB:.2f} GB on the device; pictures of "
        f"{description.short_side} x {description.short_side}."
    )
    say()
    return pipe


def square_photo(side: int) -> Array:
    """A square of the example, float32 (side, side, 3)."""
    photo = read_photo(EXAMPLE).pixels
    least = min(photo.shape[:2])
    resized = cv2.resize(photo[:least, :least], (side, side), interpolation=cv2.INTER_AREA)
    return np.clip(resized, 0.0, 1.0).astype(np.float32)


def table(*names: str) -> None:
    """Prints the head of a table; all columns but the first are numbers."""
    say(f"| {' | '.join(names)} |")
    say(f"| --- |{' ---: |' * (len(names) - 1)}")


def say_finite(what: str, latents: Tensor, repeats: Repeats) -> None:
    """Prints whether results are finite, and how often float16 overflowed."""
    finite = "all values are finite" if bool(torch.isfinite(latents).all()) else "NOT FINITE"
    say()
    say(
        f"{what}: {finite}, at most {float(latents.abs().max()):.3g} in size. Evaluations repeated "
        f"in float32 because they overflowed in float16: {repeats.count}."
    )


def bundled(given: argparse.Namespace, device: torch.device) -> None:
    """The bundled model: photos a second by batch size, and differences from the CPU's results."""
    pipe = DehazePipeline.from_pretrained("bundled")
    pipe.set_progress_bar_config(disable=True)
    photo = read_photo(EXAMPLE).pixels
    expected = np.asarray(pipe(photo).image)
    pipe.to(device)
    pipe(photo)
    table("convolutions in float32", "largest difference", "mean difference", "within the error")
    usual = torch.backends.cudnn.allow_tf32
    for name, shortened in (("rounded to TF32, PyTorch's default", usual), ("exact", False)):
        torch.backends.cudnn.allow_tf32 = shortened
        try:
            apart = 255.0 * np.abs(np.asarray(pipe(photo).image) - expected)
        finally:
            torch.backends.cudnn.allow_tf32 = usual
        within = apart.mean() <= MEAN_ERROR and apart.max() <= LARGEST_ERROR
        say(f"| {name} | {apart.max():.3g} | {apart.mean():.3g} | {'yes' if within else 'NO'} |")
    say()
    say(
        f"Differences from the CPU's result, in levels of 255; the error is {MEAN_ERROR:g} on "
        f"average and {LARGEST_ERROR:g} at most."
    )
    say()
    network = CallTimes(device, pipe.unet)
    with tempfile.TemporaryDirectory() as name:
        make_photos(Path(name) / "in", max(given.batches), 0.05 if given.small else MEGAPIXELS)
        photos = [read_photo(path).pixels for path in sorted((Path(name) / "in").iterdir())]
    table(
        "photos at a time", "photos a second", "ms a photo", "of it in the network",
        "levels that differ from the first row's", "by at most", "peak, GB",
    )  # fmt: skip
    single: NDArray[np.int16] | None = None
    for size in given.batches:
        # The device's libraries may prepare themselves for a new batch size.
        pipe(photos[:size])
        count = min(max(size, 8), len(photos))
        network.clear()
        with measured(device) as usage:
            results = [
                result.image
                for first in range(0, count, size)
                for result in pipe(photos[first : first + size])
            ]
        levels = to_levels(np.stack(results)).astype(np.int16)
        single = levels if single is None else single
        common = min(len(single), count)
        apart = np.abs(levels[:common] - single[:common])
        say(
            f"| {size} | {count / usage.seconds:.2f} | {1000 * usage.seconds / count:.0f} | "
            f"{1000 * sum(network.seconds()) / count:.0f} | {100 * np.mean(apart > 0):.3f} % | "
            f"{apart.max()} | {usage.peak / GB:.2f} |"
        )


def sd15(given: argparse.Namespace, device: torch.device) -> None:
    """An edit at Stable Diffusion 1.5's sizes, compared with fixed points and two branches."""
    pipe = made_pipeline(MODELS["SD 1.5"], device, given.small)
    repeats = Repeats()
    photo = square_photo(pipe.description.short_side)
    ways = {
        "FPI, 5 iterations + two-branch P2P": EditWay(lambda peers: peers.fpi(photo, FPI), 2),
        BEST: EditWay(lambda peers: peers.ours(photo), 1),
    }
    # The default of ``dehaze edit`` for a model without fitted settings.
    iterations = pipe.description.inversion.max_iterations
    usual = {
        "the command's default, one branch": EditWay(
            lambda peers: peers.ours(photo, max_iterations=iterations), 1
        )
    }
    for way in ways.values():
        decoded(pipe, photo, way.run(Peers(pipe, 2, 7.5, brings_back=False)))
    network = CallTimes(device, pipe.unet)
    others = CallTimes(device, pipe.vae.encoder, pipe.vae.decoder, pipe.text_encoder)
    parts: list[str] = []
    table(
        f"way, {given.steps} steps", "guidance", "s a photo", "times as fast", "rows a step",
        "peak, GB", "attention on the device, GB", "on the host, GB",
        "from FPI's edit", "edit from the photo",
    )  # fmt: skip
    for guidance in (1.0, 7.5):
        peers = Peers(pipe, given.steps, guidance, brings_back=False)
        first: Outcome | None = None
        first_seconds = math.nan
        for name, way in (ways | usual if guidance == 1.0 else ways).items():
            network.clear()
            others.clear()
            with measured(device) as usage:
                outcome = way.run(peers)
                clean = decoded(pipe, photo, outcome)
            if first is None:
                first, first_seconds = outcome, usage.seconds
            on_device = 0 if device.type == "cpu" else outcome.attention - outcome.on_cpu
            say(
                f"| {name} | {guidance:g} | {usage.seconds:.2f} | "
                f"{first_seconds / usage.seconds:.2f} | {outcome.cost.rows:.2f} | "
                f"{usage.peak / GB:.2f} | {on_device / GB:.2f} | {outcome.on_cpu / GB:.2f} | "
                f"{apart(outcome.edited, first.edited)} | {apart(outcome.edited, clean)} |"
            )
            edited = outcome.edited
            calls, back = network.seconds(), way.back * given.steps
            beside = sum(others.seconds())
            rest = usage.seconds - sum(calls) - beside
            parts.append(
                f"| {name} | {guidance:g} | {usage.seconds:.2f} | {sum(calls):.2f} | {len(calls)} "
                f"| {network.rows} | {mean_ms(calls[:-back])} | {mean_ms(calls[-back:])} | "
                f"{beside:.2f} | {rest:.2f} |"
            )
    say_finite("The edited latents", edited, repeats)
    say()
    say("Where the time goes: what is neither in a network nor in the codec is the rest.")
    say()
    table(
        f"way, {given.steps} steps", "guidance", "s a photo", "in the network, s", "calls", "rows",
        "ms a call, inversion", "ms a call, way back", "in codec and text encoder, s",
        "the rest, s",
    )  # fmt: skip
    for line in parts:
        say(line)
    with measured(device) as usage:
        pipe.provenance.fingerprint()
    say()
    say(f"Of the rest, the hash of the weights takes {usage.seconds:.2f} s, once an inversion.")


def mean_ms(seconds: Sequence[float]) -> str:
    """The mean, in ms."""
    return f"{1000 * sum(seconds) / len(seconds):.1f}" if seconds else ""


def decoded(pipe: EditPipeline, photo: Array, outcome: Outcome) -> Tensor:
    """Decodes the edited latents, as an edit does at its end; returns the photo's latents."""
    codec = pipe.codec
    codec.decode(outcome.edited, codec.working_size(photo))
    return codec.encode(photo)


def apart(latents: Tensor, others: Tensor) -> str:
    """The relative distance of latents from others, in percent."""
    return f"{100 * float((latents - others).norm() / others.norm()):.2g} %"


def sdxl(given: argparse.Namespace, device: torch.device) -> None:
    """An edit at Stable Diffusion XL's sizes within the memory of a smaller card."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        free(device)
        torch.cuda.set_per_process_memory_fraction(min(1.0, CARD / total), device)
    try:
        edit_within(given, device)
    finally:
        free(device)
        if device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(1.0, device)


def edit_within(given: argparse.Namespace, device: torch.device) -> None:
    """The edit of ``sdxl``, and its codec in half precision, within the present memory limit."""
    pipe = made_pipeline(MODELS["SDXL"], device, given.small)
    # A third of the card, which is the pipeline's default for a card of that size.
    pipe.attention_memory = int(CARD) // 3
    repeats, network = Repeats(), CallTimes(device, pipe.unet)
    photo = square_photo(pipe.description.short_side)
    pipe(photo, SOURCE, TARGET, EditSettings(guidance_scale=7.5), num_inference_steps=2)
    say(f"At most {CARD / GB:g} GB can be allocated; attention takes a third of it at most.")
    say()
    table(
        f"1 photo, {given.steps} steps", "fits", "s", "in the network, s", "calls", "rows",
        "peak, GB", "attention on the device, GB", "on the host, GB",
    )  # fmt: skip
    network.clear()
    try:
        with measured(device) as usage:
            inversion = pipe.invert(
                photo,
                SOURCE,
                num_inference_steps=given.steps,
                record_attention=pipe.recording(SOURCE, TARGET),
            )
        everything, on_cpu = held(inversion.attention)
        on_device = 0 if device.type == "cpu" else everything - on_cpu
        say(
            f"| inversion, the command's default | yes | {usage.seconds:.1f} | "
            f"{told(network)} | {usage.peak / GB:.2f} | {on_device / GB:.2f} | {on_cpu / GB:.2f} |"
        )
        for guidance in (1.0, 7.5):
            network.clear()
            settings = EditSettings(guidance_scale=guidance)
            with measured(device) as usage:
                result = pipe(photo, SOURCE, TARGET, settings, inversion=inversion)
            say(
                f"| edit of it, guidance {guidance:g} | yes | {usage.seconds:.1f} | "
                f"{told(network)} | {usage.peak / GB:.2f} | | |"
            )
    except torch.OutOfMemoryError as error:
        say(f"| | NO: {first_line(error)} | | | | | | | |")
        raise
    say_finite("The edited picture", torch.from_numpy(np.asarray(result.image)), repeats)
    latents = inversion.trajectory[0]
    del inversion, result
    half_precision_codec(pipe, latents, repeats, device)


def told(network: CallTimes) -> str:
    """The seconds in a network, its calls and its rows, as cells of a table."""
    seconds = network.seconds()
    return f"{sum(seconds):.1f} | {len(seconds)} | {network.rows}"


def half_precision_codec(
    pipe: EditPipeline, latents: Tensor, repeats: Repeats, device: torch.device
) -> None:
    """The cost of decoding in float32, in float16, and in float16 with an overflow."""

    def overflow() -> None:
        # Makes activations exceed float16's range, as in Stable Diffusion XL's codec.
        weight = pipe.vae.decoder.conv_in.weight
        with torch.no_grad():
            weight.copy_(weight.float() * (6e4 / float(weight.abs().max())))

    codec = pipe.codec
    size = codec.pixels_of((int(latents.shape[-2]), int(latents.shape[-1])))
    codec.decode(latents, size)
    say()
    table("decoding", "s", "peak above the weights, GB", "repeated in float32")
    for name, change in (
        ("float32", lambda: None),
        ("float16", pipe.vae.half),
        ("float16 that overflows", overflow),
    ):
        change()
        codec.decode(latents, size)
        free(device)
        repeats.count, weights = 0, weights_on(device)
        with measured(device) as usage:
            picture = codec.decode(latents, size)
        finite = "" if bool(np.isfinite(picture).all()) else ", NOT FINITE"
        say(
            f"| {name}{finite} | {usage.seconds:.2f} | {(usage.peak - weights) / GB:.2f} | "
            f"{'yes' if repeats.count else 'no'} |"
        )


def ways_to_save(device: torch.device, compiled: bool) -> list[Way]:
    """Ways to save memory or time, each with a function that turns it off."""

    def offload(pipe: EditPipeline) -> None:
        pipe.enable_model_cpu_offload(device=device)

    def load_again(pipe: EditPipeline) -> None:
        pipe.remove_all_hooks()
        pipe.to(device)

    def tile(pipe: EditPipeline) -> None:
        side = min(TILE, pipe.description.short_side // 2)
        pipe.vae.enable_tiling()
        pipe.vae.tile_sample_min_size, pipe.vae.tile_latent_min_size = side, side // 8

    ways = [
        Way("`enable_model_cpu_offload()`", offload, load_again),
        Way(
            "`vae.enable_slicing()`",
            lambda pipe: pipe.vae.enable_slicing(),
            lambda pipe: pipe.vae.disable_slicing(),
        ),
        Way(
            f"`vae.enable_tiling()`, tiles of {TILE} pixels",
            tile,
            lambda pipe: pipe.vae.disable_tiling(),
        ),
        Way(
            "`guidance_in_two_calls`",
            lambda pipe: setattr(pipe, "guidance_in_two_calls", True),
            lambda pipe: setattr(pipe, "guidance_in_two_calls", False),
        ),
        *(
            Way(
                f"`attention_memory = {budget:g}`",
                partial(limit_attention, budget=int(budget)),
                lambda pipe: setattr(pipe, "attention_memory", None),
            )
            for budget in (0, 1e8)
        ),
    ]
    if compiled:
        ways.append(Way("`torch.compile(unet)`, eager backend", compile_network, restore_network))
    return ways


def limit_attention(pipe: EditPipeline, budget: int) -> None:
    """Limits recorded attention to ``budget`` bytes of the device's memory."""
    pipe.attention_memory = budget


def savers(given: argparse.Namespace, device: torch.device) -> None:
    """Savings and costs of ways to save memory, at Stable Diffusion 1.5's sizes."""
    pipe = made_pipeline(MODELS["SD 1.5"], device, given.small)
    photo = square_photo(pipe.description.short_side)
    steps = min(SAVER_STEPS, given.steps)

    def edit() -> tuple[Array, Usage]:
        """The second of two edits, since the first may compile or prepare something."""
        for _ in range(2):
            with measured(device) as usage:
                result = pipe(
                    photo,
                    *PROMPTS,
                    EditSettings(guidance_scale=7.5),
                    num_inference_steps=steps,
                    solver="ddim",
                    recovery="none",
                )
        return np.asarray(result.image), usage

    expected, plain = edit()
    table(f"tried, {steps} steps, guidance 7.5", "peak, GB", "to plain", "s", "to plain",
          "mean difference")  # fmt: skip
    say(f"| plain | {plain.peak / GB:.2f} | 1.00 | {plain.seconds:.2f} | 1.00 | 0 |")
    for way in ways_to_save(device, given.compile):
        try:
            way.begin(pipe)
            try:
                found, usage = edit()
            finally:
                # A way that fails is turned off before the next one.
                way.end(pipe)
        except (DehazeError, ImportError, RuntimeError, TypeError) as error:
            say(f"| {way.name} | refused: {first_line(error)} | | | | |")
            continue
        say(
            f"| {way.name} | {usage.peak / GB:.2f} | {usage.peak / plain.peak:.2f} | "
            f"{usage.seconds:.2f} | {usage.seconds / plain.seconds:.2f} | "
            f"{float(np.abs(found - expected).mean()):.2g} |"
        )


@torch.no_grad()
def flow(given: argparse.Namespace, device: torch.device) -> None:
    """One evaluation of Stable Diffusion 3 medium's transformer, plain and recorded."""
    name = "SD 3 medium"
    model = FLOW_MODELS[name]
    settings, pixels = dict(model.settings), FLOW_PIXELS
    if given.small:
        settings |= {"num_layers": 1, "num_attention_heads": 2, "caption_projection_dim": 128}
        pixels = 64
    torch.manual_seed(0)
    side = pixels // 8
    with made_in(device, torch.bfloat16):
        network = model.network(**settings).eval()
        latents = torch.randn(1, 16, side, side)
        embedding = torch.randn(1, model.tokens + 1, model.width)
    weights = weights_on(device)
    session = AttentionSession(recording=True, latent_size=(side, side), step=1)

    def evaluated() -> Tensor:
        return network_output(
            network, latents, 500.0, embedding, model.tokens, (pixels, pixels), 1.0
        )

    table(f"{name}, {pixels} px, one row", "s", "peak above the weights, GB", "attention, GB")
    for what in ("plain", "recorded"):
        for _ in range(2):
            with measured(device) as usage:
                if what == "plain":
                    output = evaluated()
                else:
                    with controlled_attention(network, session):
                        output = evaluated()
        attention = held(session.record)[0]
        say(
            f"| an evaluation, {what} | {usage.seconds:.3f} | {(usage.peak - weights) / GB:.2f} | "
            f"{attention / GB:.2f} |"
        )
    say()
    say(f"All values are finite: {'yes' if bool(torch.isfinite(output).all()) else 'NO'}.")


PARTS: dict[str, Callable[[argparse.Namespace, torch.device], None]] = {
    part.__name__: part for part in (bundled, sd15, sdxl, savers, flow)
}


def say_where(device: torch.device) -> None:
    """Prints the device and the libraries' versions."""
    versions = []
    for name in ("torch", "diffusers", "transformers", "accelerate"):
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"no {name}")
    what = platform.machine()
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        what = f"{properties.name}, {properties.total_memory / GB:.1f} GB"
    say(f"{device.type}: {what}; {', '.join(versions)}; {torch.get_num_threads()} threads.")
    say()


def named(texts: Sequence[str]) -> Callable[[str], list[str]]:
    """A parser of comma-separated lists of these texts."""

    def read(given: str) -> list[str]:
        chosen = given.split(",")
        unknown = sorted(set(chosen) - set(texts))
        if unknown:
            raise argparse.ArgumentTypeError(
                f"there is no {', '.join(unknown)}: there are {', '.join(texts)}"
            )
        return chosen

    return read


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the parts' tables; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", type=named([*PARTS]), default=["bundled", "sd15", "sdxl",
                        "savers"], help=f"of {','.join(PARTS)}")  # fmt: skip
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, default=50, help="of sd15, sdxl and, at most, savers")
    parser.add_argument(
        "--batches",
        type=lambda text: [int(size) for size in text.split(",")],
        default=[1, 2, 4, 8, 16, 32],
        help="of the bundled model, ascending",
    )
    parser.add_argument("--compile", action="store_true", help="try torch.compile, which is slow")
    parser.add_argument("--small", action="store_true", help="networks of few channels instead")
    given = parser.parse_args(arguments)
    device = torch.device(given.device)
    if given.device == "cuda":
        # The limit of a process's memory needs a device's number.
        device = torch.device("cuda", torch.cuda.current_device())
    begun = time.perf_counter()
    say_where(device)
    failed = []
    for name in given.parts:
        before = time.perf_counter()
        say(f"## {name}")
        say()
        try:
            PARTS[name](given, device)
        except Exception:  # noqa: BLE001 The later parts are measured all the same.
            traceback.print_exc(file=sys.stdout)
            failed.append(name)
        free(device)
        now = time.perf_counter()
        say()
        say(f"`{name}`: {now - before:.1f} s of wall-clock time, {now - begun:.1f} s in all.")
        say()
    if failed:
        say(f"FAILED: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
