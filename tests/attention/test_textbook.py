"""Prompt-to-Prompt against a reference: the paper's equations, formed maps, two branches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dehaze.attention.control import AttentionControl, TokenMapper
from dehaze.attention.session import AttentionSession
from dehaze.inversion import InversionResult
from dehaze.pipelines.dehaze import DehazePipeline
from dehaze.pipelines.edit import EditPipeline
from dehaze.pipelines.edit_settings import EditSettings
from dehaze.prompts import swap_for_null_text, tokenize, word_span

STEPS = 5
SOURCE = "a photo of a street with dense haze"
# begin a photo of a street with dense haze end, then padding.
DENSE, HAZE, END = 7, 8, 9


@dataclass
class Textbook:
    """The reference: one attention processor for all layers, on a batch (source, target).

    Attributes:
        mapper: (L, L), source token to target token.
        own: (L,), 1 where a target token keeps its own map.
        equalizer: (L,).
        shares: (L,), of the steps in which a target token follows.
        self_share: of the steps with the source's self-attention.
        blended: token positions of LocalBlend's words, in the source and in the target.
        left_out: token positions of the excluded words, likewise.
        half: positions of a layer of half the latent's height and width.
        scale: of the latent's sides over those of the maps that are blended by: a quarter, where
            the network goes so deep.
    """

    mapper: Tensor = field(default_factory=lambda: torch.eye(32))
    own: Tensor = field(default_factory=lambda: torch.zeros(32))
    equalizer: Tensor = field(default_factory=lambda: torch.ones(32))
    shares: Tensor = field(default_factory=lambda: torch.full((32,), 0.8))
    self_share: float = 0.4
    blended: tuple[list[int], list[int]] | None = None
    left_out: tuple[list[int], list[int]] | None = None
    threshold: float = 0.3
    half: int = 0
    scale: int = 4
    step: int = 0
    store: list[Tensor] = field(default_factory=list)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        **unused: Any,
    ) -> Tensor:
        is_cross = encoder_hidden_states is not None
        context = encoder_hidden_states if is_cross else hidden_states
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))
        key = attn.head_to_batch_dim(attn.to_k(context))
        value = attn.head_to_batch_dim(attn.to_v(context))
        maps = torch.softmax(torch.bmm(query, key.transpose(1, 2)) * attn.scale, dim=-1)
        source, target = maps.reshape(2, attn.heads, *maps.shape[1:])
        if is_cross:
            followed = torch.einsum("hpw,wn->hpn", source, self.mapper)
            followed = (followed * (1 - self.own) + target * self.own) * self.equalizer
            alpha = (self.step < (self.shares * STEPS + 1e-6).int()).float()
            target = followed * alpha + (1 - alpha) * target
            if maps.shape[1] * self.scale**2 == 4 * self.half:
                self.store.append(torch.stack([source, target]))
        elif self.step < int(self.self_share * STEPS) and maps.shape[1] <= self.half:
            target = source
        out = attn.batch_to_head_dim(torch.bmm(torch.cat([source, target]), value))
        return attn.to_out[1](attn.to_out[0](out))

    def mask(self, pair: Tensor, tokens: tuple[list[int], list[int]], pool: bool) -> Tensor:
        """Both branches' masks, as the published LocalBlend makes them."""
        maps = torch.stack(self.store).mean(0).mean(1)
        maps = torch.stack([maps[row][:, tokens[row]].sum(-1) for row in (0, 1)])[:, None]
        maps = maps.unflatten(2, (pair.shape[2] // self.scale, pair.shape[3] // self.scale))
        if pool:
            maps = F.max_pool2d(maps, (3, 3), (1, 1), padding=(1, 1))
        mask = F.interpolate(maps, size=pair.shape[2:])
        peak = mask.max(2, keepdims=True)[0].max(3, keepdims=True)[0]
        inside = mask / peak.clamp(min=1e-30) > self.threshold
        return inside[:1] | inside

    def blend(self, pair: Tensor) -> Tensor:
        if self.blended is None or self.step < int(0.2 * STEPS):
            return pair
        mask = self.mask(pair, self.blended, pool=True)
        if self.left_out is not None:
            mask = mask & ~self.mask(pair, self.left_out, pool=False)
        return pair[:1] + mask.float() * (pair - pair[:1])

    @torch.no_grad()
    def edit(self, pipe: EditPipeline, path: InversionResult, contexts: Tensor) -> Tensor:
        """z_0 of source and target, denoised in one batch."""
        before = dict(pipe.unet.attn_processors)
        pipe.unet.set_attn_processor(self)
        table, pair = path.table, path.latents.repeat(2, 1, 1, 1)
        network = pipe.prompted_network(table)
        self.half = pair.shape[2] * pair.shape[3] // 4
        self.scale = min(4, 2 ** (len(pipe.unet.config.block_out_channels) - 1))
        for i in range(STEPS, 0, -1):
            pair = table.denoise_step(pair, network.noise_under(contexts, pair, i), i)
            pair = self.blend(pair)
            self.step += 1
        pipe.unet.set_attn_processor(before)
        return pair

    @torch.no_grad()
    def edit_directly(
        self,
        pipe: EditPipeline,
        inversion: InversionResult,
        contexts: Tensor,
        null: Tensor,
        g: float,
    ) -> Tensor:
        """Both z_0 of Direct Inversion: algorithm 1 and the published code's guided P2P loop.

        Source and target are denoised in one batch, both guided. What the source loses at each step
        is computed along the inverted path first, and added to the source alone.
        """
        before = dict(pipe.unet.attn_processors)
        table, path = inversion.table, inversion.trajectory
        network = pipe.prompted_network(table)

        def step_of(pair: Tensor, i: int, conditional: Tensor) -> Tensor:
            pipe.unet.set_attn_processor(dict(before))
            empty = network.noise_under(null.expand(len(pair), -1, -1), pair, i)
            return table.denoise_step(pair, empty + g * (conditional - empty), i)

        offsets = {
            i: path[i - 1] - step_of(path[i], i, network.noise_under(contexts[:1], path[i], i))
            for i in range(STEPS, 0, -1)
        }
        pair = inversion.latents.repeat(2, 1, 1, 1)
        self.half = pair.shape[2] * pair.shape[3] // 4
        self.scale = min(4, 2 ** (len(pipe.unet.config.block_out_channels) - 1))
        for i in range(STEPS, 0, -1):
            pipe.unet.set_attn_processor(self)
            conditional = network.noise_under(contexts, pair, i)
            pair = step_of(pair, i, conditional)
            pair = torch.cat([pair[:1] + offsets[i], pair[1:]])
            self.step += 1
        return pair

    def edit_with_null_text(
        self,
        pipe: EditPipeline,
        inversion: InversionResult,
        contexts: Tensor,
        null: Tensor,
        g: float,
    ) -> Tensor:
        """Both z_0 of null-text inversion: the published code's fit, then its guided P2P loop.

        The unconditional embedding of each step is fitted to the inverted path first. Then source
        and target are denoised in one batch, both guided by it.
        """
        before = dict(pipe.unet.attn_processors)
        table, path = inversion.table, inversion.trajectory
        network = pipe.prompted_network(table)
        z, fitted = inversion.latents, []
        for j, i in enumerate(range(inversion.steps, 0, -1)):
            null = null.detach().clone().requires_grad_()
            adam = torch.optim.Adam([null], lr=1e-2 * (1 - j / 100))
            with torch.no_grad():
                conditional = network.noise_under(contexts[:1], z, i)
            for _ in range(10):
                with torch.enable_grad():
                    empty = network.noise_under(null, z, i)
                    back = table.denoise_step(z, empty + g * (conditional - empty), i)
                    loss = F.mse_loss(back, path[i - 1])
                    adam.zero_grad()
                    loss.backward()
                adam.step()
                if loss.item() < 1e-5 + j * 2e-5:
                    break
            fitted.append(null.detach())
            with torch.no_grad():
                empty = network.noise_under(fitted[-1], z, i)
                z = table.denoise_step(z, empty + g * (conditional - empty), i)
        pair = inversion.latents.repeat(2, 1, 1, 1)
        self.half = pair.shape[2] * pair.shape[3] // 4
        with torch.no_grad():
            for j, i in enumerate(range(inversion.steps, 0, -1)):
                pipe.unet.set_attn_processor(self)
                conditional = network.noise_under(contexts, pair, i)
                pipe.unet.set_attn_processor(dict(before))
                empty = network.noise_under(fitted[j].expand(2, -1, -1), pair, i)
                pair = table.denoise_step(pair, empty + g * (conditional - empty), i)
                self.step += 1
        return pair


@dataclass(frozen=True)
class Model:
    pipe: EditPipeline
    path: InversionResult


def path_of(pipe: EditPipeline, size: tuple[int, int]) -> Model:
    """The path of a generated picture, which has no inversion error."""
    pipe.set_progress_bar_config(disable=True)
    seed = torch.Generator().manual_seed(0)
    return Model(pipe, pipe.generate(SOURCE, generator=seed, size=size, num_inference_steps=STEPS))


@pytest.fixture(scope="module")
def random(any_model: Path) -> Model:
    pipe = EditPipeline.from_pretrained(any_model)
    # A random network hardly depends on its prompt, so its attention to words is strengthened.
    with torch.no_grad():
        for name, weight in pipe.unet.named_parameters():
            if "attn2.to_" in name and "bias" not in name:
                weight.mul_(4.0)
    return path_of(pipe, (16, 24))


@pytest.fixture(scope="module")
def shipped(bundled: DehazePipeline) -> Model:
    pipe = EditPipeline.from_pipe(bundled)
    # The reference takes every denoising step; this model takes one by default.
    pipe.description = replace(pipe.description, denoising_steps=None)
    return path_of(pipe, (32, 32))


def eye_with(**columns: dict[int, float]) -> Tensor:
    """The identity but for some columns, ``c8={7: 0.5}``: column 8 takes half of row 7."""
    matrix = torch.eye(32)
    for name, column in columns.items():
        index = int(name[1:])
        matrix[:, index] = 0.0
        for row, weight in column.items():
            matrix[row, index] = weight
    return matrix


def at(positions: list[int], value: float, otherwise: float) -> Tensor:
    tensor = torch.full((32,), otherwise)
    tensor[positions] = value
    return tensor


def shifted(by: int, start: int) -> dict[str, dict[int, float]]:
    return {f"c{column}": {min(max(column - by, 0), 31): 1.0} for column in range(start, 32)}


CASES: dict[str, tuple[str, EditSettings, Callable[[], Textbook]]] = {
    "replace": (
        "a photo of a street with dense snow",
        EditSettings(control="replace"),
        Textbook,
    ),
    "replace, one token by two": (
        "a photo of a street with faint, haze",
        EditSettings(control="replace", cross_replace_steps=1.0, self_replace_steps=1.0),
        lambda: Textbook(
            mapper=eye_with(c7={DENSE: 0.5}, c8={DENSE: 0.5}, **shifted(1, 9)),
            shares=torch.ones(32),
            self_share=1.0,
        ),
    ),
    "replace, two tokens by one": (
        "a photo of a street with dense fog",
        EditSettings(control="replace"),
        lambda: Textbook(mapper=torch.eye(32)),
    ),
    "refine, a word more": (
        "a photo of a street with very dense haze",
        EditSettings(control="refine"),
        lambda: Textbook(
            mapper=eye_with(**shifted(1, 8)), own=at([7], 1.0, 0.0), shares=torch.full((32,), 0.8)
        ),
    ),
    "refine, a word less": (
        "a photo of a street with haze",
        EditSettings(control="refine", self_replace_steps=0.8),
        lambda: Textbook(mapper=eye_with(**shifted(-1, 7)), self_share=0.8),
    ),
    "reweight": (
        SOURCE,
        EditSettings(control="reweight", word_weights={"dense haze": -1.0}),
        lambda: Textbook(equalizer=at([DENSE, HAZE], -1.0, 1.0)),
    ),
    "refine and reweight": (
        "a photo of a street with very dense haze",
        EditSettings(control="refine", word_weights={"haze": 2.0, "very": 3.0}),
        lambda: Textbook(
            mapper=eye_with(**shifted(1, 8)),
            own=at([7], 1.0, 0.0),
            equalizer=at([7], 3.0, 1.0) * at([9], 2.0, 1.0),
        ),
    ),
    "steps by word": (
        "a photo of a street with dense snow",
        EditSettings(control="replace", cross_replace_steps={"default": 1.0, "snow": 0.2}),
        lambda: Textbook(shares=at([HAZE], 0.2, 1.0)),
    ),
    "local blend": (
        "a photo of a street with dense snow",
        EditSettings(control="replace", blend=("street", "snow"), blend_threshold=0.97),
        lambda: Textbook(blended=([5], [5, HAZE]), threshold=0.97),
    ),
    "local blend without a word": (
        "a photo of a street with dense snow",
        EditSettings(control="replace", blend=("snow",), exclude=("street",), blend_threshold=0.9),
        lambda: Textbook(blended=([], [HAZE]), left_out=([5], [5]), threshold=0.9),
    ),
}


def check_case(model: Model, case: str) -> None:
    target, settings, textbook = CASES[case]
    pipe, path = model.pipe, model.path
    with torch.no_grad():
        contexts = torch.cat(
            [pipe.prompts.embed(tokenize(pipe.tokenizer, text)) for text in (SOURCE, target)]
        )
    source, wanted = textbook().edit(pipe, path, contexts).split(1)
    # The pipeline has no source branch; the reference's must reconstruct the same picture.
    torch.testing.assert_close(source, path.trajectory[0], rtol=0, atol=1e-4)
    edited = pipe.edit(path, SOURCE, target, settings)
    torch.testing.assert_close(edited.latents, wanted, rtol=0, atol=1e-4)
    assert edited.nfe == STEPS
    # The edit must change the picture.
    assert (edited.latents - path.trajectory[0]).abs().max() > 1e-3
    if settings.blend:
        assert edited.mask is not None
        assert 0.0 < edited.mask.mean() < 1.0


def check_swap(model: Model, cross: float, self_: float) -> None:
    pipe, path = model.pipe, model.path
    haze = DehazePipeline.from_pipe(pipe)
    prompt = tokenize(pipe.tokenizer, SOURCE)
    with torch.no_grad():
        context = pipe.prompts.embed(prompt)
        null = pipe.prompts.null_text()
    swapped = swap_for_null_text(context, null[0], word_span(prompt, "dense haze"))
    textbook = Textbook(shares=torch.full((32,), cross), self_share=self_)
    wanted = textbook.edit(pipe, path, torch.cat([context, swapped]))[1:]
    latents, _ = haze.swap_word(path, SOURCE, "dense haze", control=AttentionControl(cross, self_))
    torch.testing.assert_close(latents, wanted, rtol=0, atol=1e-4)
    assert (latents - path.trajectory[0]).abs().max() > 1e-3


SHARES = [(0.8, 0.4), (1.0, 1.0), (0.0, 1.0), (0.4, 0.0)]


@pytest.mark.parametrize("case", list(CASES))
def test_every_control_equals_the_reference_on_random_models(random: Model, case: str) -> None:
    check_case(random, case)


@pytest.mark.slow
@pytest.mark.parametrize("case", list(CASES))
def test_every_control_equals_the_reference_on_the_bundled_model(shipped: Model, case: str) -> None:
    check_case(shipped, case)


@pytest.mark.parametrize(("cross", "self_"), SHARES)
def test_the_swap_equals_the_reference_on_random_models(
    random: Model, cross: float, self_: float
) -> None:
    check_swap(random, cross, self_)


@pytest.mark.parametrize(("cross", "self_"), SHARES)
def test_the_swap_equals_the_reference_on_the_bundled_model(
    shipped: Model, cross: float, self_: float
) -> None:
    check_swap(shipped, cross, self_)


def test_the_identity_mapper_equals_following_without_a_mapper(random: Model) -> None:
    """A mapper makes the processor form the maps; the identity gives the edit without one."""
    pipe, path = random.pipe, random.path
    with torch.no_grad():
        context = pipe.prompts.embed(tokenize(pipe.tokenizer, SOURCE.replace("haze", "snow")))
    identity = TokenMapper(torch.eye(32), torch.ones(32))
    injected, formed = (
        pipe.denoise_under(
            path, context, AttentionSession(control=AttentionControl(1.0, 0.4, mapper=mapper))
        )[0]
        for mapper in (None, identity)
    )
    torch.testing.assert_close(injected, formed, rtol=0, atol=1e-5)
    assert (injected - path.trajectory[0]).abs().max() > 1e-3


def check_direct(model: Model) -> None:
    pipe, target, guidance = model.pipe, SOURCE.replace("haze", "snow"), 5.0
    photo = torch.rand(3, 16, 24, generator=torch.Generator().manual_seed(3))
    # As published: plain DDIM inversion, whose own attention is that of other latents.
    inversion = pipe.invert(photo, SOURCE, solver="ddim", num_inference_steps=STEPS)
    with torch.no_grad():
        source, after, null = (
            pipe.prompts.embed(tokenize(pipe.tokenizer, text)) for text in (SOURCE, target, "")
        )
    contexts = torch.cat([source, after])
    kept, wanted = Textbook().edit_directly(pipe, inversion, contexts, null, guidance).split(1)
    direct, plain = (
        pipe.edit(inversion, SOURCE, target, EditSettings(mode=mode, guidance_scale=guidance))
        for mode in ("direct", "plain")
    )
    assert direct.nfe == 2 * STEPS + 2 * STEPS
    # Relative to the whole edit. Batches of two and of one round differently, and guidance enlarges
    # that; attention of other latents would change far more.
    edit = (wanted - inversion.trajectory[0]).norm()
    assert edit > 0.01 * wanted.norm()
    assert (kept - inversion.trajectory[0]).norm() < 2e-3 * edit
    assert (direct.latents - wanted).norm() < 2e-3 * edit
    assert (plain.latents - wanted).norm() > 1e-2 * edit


def test_direct_inversion_equals_the_paper_on_random_models(random: Model) -> None:
    check_direct(random)


@pytest.mark.slow
def test_direct_inversion_equals_the_paper_on_the_bundled_model(shipped: Model) -> None:
    check_direct(shipped)


def check_null_text(model: Model, size: tuple[int, int], steps: int) -> None:
    pipe = DehazePipeline.from_pipe(model.pipe)
    photo = torch.rand(3, *size, generator=torch.Generator().manual_seed(3))
    prompt = tokenize(pipe.tokenizer, SOURCE)
    with torch.no_grad():
        source, null = (pipe.prompts.embed(tokenize(pipe.tokenizer, text)) for text in (SOURCE, ""))
    contexts = torch.cat([source, swap_for_null_text(source, null[0], word_span(prompt, "haze"))])
    # As published: plain DDIM inversion, whose own attention is that of other latents.
    inversion = pipe.invert(photo, SOURCE, solver="ddim", num_inference_steps=steps)
    textbook = Textbook(shares=torch.ones(32), self_share=1.0)
    pair = textbook.edit_with_null_text(model.pipe, inversion, contexts, null, 3.0)

    def dehazed(mode: str) -> Tensor:
        (image,) = pipe(
            photo,
            SOURCE,
            inversion=inversion,
            mode=mode,
            guidance_scale=3.0,
            cross_replace_steps=1.0,
            self_replace_steps=1.0,
            recovery="none",
            output_type="pt",
            return_dict=False,
        )
        return torch.as_tensor(image)

    before, after = (
        torch.from_numpy(pipe.codec.decode(z, size)).permute(2, 0, 1).clamp(0, 1)
        for z in (inversion.trajectory[0], pair[1:])
    )
    change = (after - before).norm()
    assert change > 0.01 * before.norm()
    # Batches round differently, and Adam enlarges that by dividing by the gradient's size.
    assert (dehazed("null-text") - after).norm() < 0.02 * change
    assert (dehazed("plain") - after).norm() > 0.05 * change


def test_null_text_dehazing_equals_the_paper(stable_diffusion_1: Path) -> None:
    model = path_of(EditPipeline.from_pretrained(stable_diffusion_1), (16, 16))
    check_null_text(model, (32, 32), 2)


@pytest.mark.slow
def test_null_text_dehazing_equals_the_paper_on_random_models(random: Model) -> None:
    check_null_text(random, (16, 24), STEPS)
