"""Prompt-to-Prompt on joint attention against a reference with formed maps and two branches."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor

from dehaze.attention.control import AttentionControl, ControlError
from dehaze.attention.maps import grid_maps, recorded_layers, word_map
from dehaze.attention.processors import controlled_attention
from dehaze.attention.session import AttentionSession
from dehaze.inversion import InversionResult
from dehaze.models.kinds import FLUX
from dehaze.pipelines.dehaze import DehazePipeline
from dehaze.pipelines.edit import EditPipeline, EditSettings
from dehaze.prompts import word_span

STEPS = 3
SOURCE = "a photo of a street with dense haze"
SIZE = (16, 24)
POSITIONS = 4 * 6
CLIP, T5 = 32, 16


@dataclass
class Textbook:
    """The reference: one processor for all layers, on a batch (source, target).

    Attributes:
        pipe: whose transformer it is.
        mapper: (L, L), source token to target token.
        own: (L,), 1 where a target token keeps its own map.
        equalizer: (L,).
        share: of the steps in which the target's picture takes the source's block of the prompt.
        self_share: of the steps in which it takes the source's block of the picture.
    """

    pipe: EditPipeline
    mapper: Tensor
    own: Tensor
    equalizer: Tensor
    share: float
    self_share: float
    step: int = 0
    maps: list[Tensor] = field(default_factory=list)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Any = None,
    ) -> Any:
        def heads(states: Tensor) -> Tensor:
            return states.unflatten(-1, (2, 8)).transpose(1, 2)

        query, key, value = (
            heads(layer(hidden_states)) for layer in (attn.to_q, attn.to_k, attn.to_v)
        )
        query, key = attn.norm_q(query), attn.norm_k(key)
        picture = slice(query.shape[2] - POSITIONS, None)
        words = slice(0, query.shape[2] - POSITIONS)
        if encoder_hidden_states is not None:
            added = [
                heads(layer(encoder_hidden_states))
                for layer in (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
            ]
            added[:2] = attn.norm_added_q(added[0]), attn.norm_added_k(added[1])
            pairs = list(zip((query, key, value), added, strict=True))
            picture, words = slice(0, POSITIONS), slice(POSITIONS, None)
            # Stable Diffusion 3 has the picture first; FLUX's rotation counts the prompt first.
            if self.pipe.kind is FLUX:
                tokens = encoder_hidden_states.shape[1]
                pairs = [pair[::-1] for pair in pairs]
                picture, words = slice(tokens, None), slice(0, tokens)
            query, key, value = (torch.cat(pair, dim=2) for pair in pairs)
        if image_rotary_emb is not None:
            query, key = (apply_rotary_emb(each, image_rotary_emb) for each in (query, key))
        maps = torch.softmax(query @ key.transpose(2, 3) / 8**0.5, dim=-1)
        to_words, to_itself = maps[:, :, picture, words], maps[:, :, picture, picture]
        attends_to_words = to_words.shape[-1] > 0
        if attends_to_words:
            self.maps.append(to_words[:1].clone())
        if len(maps) == 2 and attends_to_words and self.step < int(self.share * STEPS):
            taken = (to_words[0] @ self.mapper) * (1 - self.own) + to_words[1] * self.own
            maps[1, :, picture, words] = taken * self.equalizer
        if len(maps) == 2 and self.step < int(self.self_share * STEPS):
            maps[1, :, picture, picture] = to_itself[0]
        out = (maps @ value).transpose(1, 2).flatten(2)
        if encoder_hidden_states is None:
            return out if not hasattr(attn, "to_out") else attn.to_out[0](out)
        prompt = out[:, words]
        if not attn.context_pre_only:
            prompt = attn.to_add_out(prompt)
        return attn.to_out[0](out[:, picture]), prompt

    @torch.no_grad()
    def edit(self, path: InversionResult, contexts: Tensor) -> Tensor:
        """z_0 of every sample, with source and target denoised in one batch."""
        transformer = self.pipe.transformer
        before = dict(transformer.attn_processors)
        transformer.set_attn_processor(self)
        table, pair = path.table, path.latents.repeat(len(contexts), 1, 1, 1)
        network = self.pipe.prompted_network(table)
        for i in range(STEPS, 0, -1):
            pair = table.denoise_step(pair, network.noise_under(contexts, pair, i), i)
            self.step += 1
        transformer.set_attn_processor(before)
        return pair


@dataclass(frozen=True)
class Model:
    pipe: EditPipeline
    path: InversionResult

    def textbook(self, share: float, self_share: float, **tokens: Any) -> Textbook:
        length = self.pipe.prompts.length
        given = {
            "mapper": torch.eye(length),
            "own": torch.zeros(length),
            "equalizer": torch.ones(length),
        } | {name: make(self) for name, make in tokens.items()}
        return Textbook(self.pipe, share=share, self_share=self_share, **given)

    def both(self, clip: Tensor, t5: Tensor) -> Tensor:
        """Values over CLIP's tokens and over T5's, joined in the order of the network's prompt."""
        if self.pipe.kind is FLUX:
            return t5
        return torch.block_diag(clip, t5) if clip.ndim == 2 else torch.cat([clip, t5])


@pytest.fixture(scope="module")
def model(flow_model: Path) -> Model:
    pipe = EditPipeline.from_pretrained(flow_model)
    pipe.set_progress_bar_config(disable=True)
    seed = torch.Generator().manual_seed(0)
    return Model(pipe, pipe.generate(SOURCE, generator=seed, size=SIZE, num_inference_steps=STEPS))


def columns(length: int, **taken: dict[int, float]) -> Tensor:
    """The identity but for some columns, ``c8={7: 0.5}``: column 8 takes half of row 7."""
    matrix = torch.eye(length)
    for name, column in taken.items():
        matrix[:, int(name[1:])] = 0.0
        for row, weight in column.items():
            matrix[row, int(name[1:])] = weight
    return matrix


def shifted(length: int, by: int, start: int) -> dict[str, dict[int, float]]:
    return {
        f"c{column}": {min(max(column - by, 0), length - 1): 1.0} for column in range(start, length)
    }


def at(length: int, positions: list[int], value: float, otherwise: float) -> Tensor:
    tensor = torch.full((length,), otherwise)
    tensor[positions] = value
    return tensor


# CLIP: begin a photo of a street with dense haze end. T5: a photo of a street with dense ha ze end.
CASES: dict[str, tuple[str, EditSettings, Callable[[Model], Textbook]]] = {
    "replace, two tokens of T5 by one": (
        "a photo of a street with dense snow",
        EditSettings(control="replace", cross_replace_steps=0.7, self_replace_steps=0.4),
        lambda model: model.textbook(
            0.7,
            0.4,
            mapper=lambda model: model.both(
                torch.eye(CLIP), columns(T5, c7={7: 1.0, 8: 1.0}, **shifted(T5, -1, 8))
            ),
        ),
    ),
    "refine, a word more, both blocks": (
        "a photo of a street with very dense haze",
        EditSettings(control="refine", cross_replace_steps=1.0, self_replace_steps=1.0),
        lambda model: model.textbook(
            1.0,
            1.0,
            mapper=lambda model: model.both(
                columns(CLIP, **shifted(CLIP, 1, 8)), columns(T5, **shifted(T5, 1, 7))
            ),
            own=lambda model: model.both(at(CLIP, [7], 1.0, 0.0), at(T5, [6], 1.0, 0.0)),
        ),
    ),
    "reweight": (
        SOURCE,
        EditSettings(control="reweight", word_weights={"dense haze": -1.0}),
        lambda model: model.textbook(
            0.8,
            0.4,
            equalizer=lambda model: model.both(
                at(CLIP, [7, 8], -1.0, 1.0), at(T5, [6, 7, 8], -1.0, 1.0)
            ),
        ),
    ),
}


@pytest.mark.parametrize("case", list(CASES))
def test_every_control_equals_the_reference(model: Model, case: str) -> None:
    target, settings, textbook = CASES[case]
    pipe, path = model.pipe, model.path
    encode = pipe.prompts
    contexts = torch.cat([encode.embed(encode.tokens(text)) for text in (SOURCE, target)])
    source, wanted = textbook(model).edit(path, contexts).split(1)
    # The pipeline has no source branch; the reference's must reconstruct the same picture.
    torch.testing.assert_close(source, path.trajectory[0], rtol=0, atol=1e-4)
    edited = pipe.edit(path, SOURCE, target, settings)
    torch.testing.assert_close(edited.latents, wanted, rtol=0, atol=1e-4)
    assert edited.nfe == STEPS
    # The edit must change the picture, and the control must hold it to the source.
    assert (edited.latents - path.trajectory[0]).abs().max() > 1e-3
    free = EditSettings(cross_replace_steps=0.0, self_replace_steps=0.0)
    if target != SOURCE:
        assert (pipe.edit(path, SOURCE, target, free).latents - wanted).abs().max() > 1e-3


@pytest.mark.parametrize(("cross", "self_"), [(0.7, 0.4), (1.0, 1.0), (0.0, 1.0), (1.0, 0.0)])
def test_the_swap_equals_the_reference(model: Model, cross: float, self_: float) -> None:
    pipe, path = model.pipe, model.path
    prompt = pipe.prompts.tokens(SOURCE)
    swapped = pipe.prompts.swapped(prompt, "dense haze", word_span(prompt, "dense haze"))
    contexts = torch.cat([pipe.prompts.embed(prompt), swapped])
    wanted = model.textbook(cross, self_).edit(path, contexts)[1:]
    haze = DehazePipeline.from_pipe(pipe)
    latents, _ = haze.swap_word(path, SOURCE, "dense haze", control=AttentionControl(cross, self_))
    torch.testing.assert_close(latents, wanted, rtol=0, atol=1e-4)
    assert (latents - path.trajectory[0]).abs().max() > 1e-3


def test_guidance_controls_the_prompts_rows_alone(model: Model) -> None:
    """Both predictions as one batch are both predictions in two calls."""
    pipe, settings = model.pipe, EditSettings(guidance_scale=3.0)
    target = SOURCE.replace("haze", "snow")
    one = pipe.edit(model.path, SOURCE, target, settings).latents
    pipe.guidance_in_two_calls = True
    two = pipe.edit(model.path, SOURCE, target, settings).latents
    pipe.guidance_in_two_calls = False
    torch.testing.assert_close(one, two, rtol=0, atol=1e-4)


def test_the_words_map_is_the_mean_of_the_formed_maps(model: Model) -> None:
    pipe, path = model.pipe, model.path
    prompt = pipe.prompts.tokens(SOURCE)
    span = word_span(prompt, "haze")
    textbook = model.textbook(0.0, 0.0)
    textbook.edit(path, pipe.prompts.embed(prompt))
    # Of 3 steps and, in the order of the network, 2 layers in which it attends to the prompt.
    assert len(textbook.maps) == 2 * STEPS
    wanted = torch.stack(textbook.maps)[..., list(span)].sum(-1).mean((0, 2))
    fitted = torch.nn.functional.interpolate(
        wanted.unflatten(1, (4, 6))[:, None], size=(8, 12), mode="bilinear", align_corners=False
    )[:, 0]
    found = word_map(path.attention, span, path.latent_size)
    torch.testing.assert_close(found, fitted, rtol=0, atol=1e-5)
    assert found.std() > 1e-4
    layers = recorded_layers(path.attention)
    assert all(steps == [1, 2, 3] for steps in layers.values())
    assert set(grid_maps(path.attention, span, path.latent_size)) == set(layers)
    assert len(layers) == 2


def test_processors_of_an_idle_session_change_nothing(model: Model) -> None:
    pipe, path = model.pipe, model.path
    network = pipe.prompted_network(path.table, SOURCE)
    everyone = torch.arange(1)
    with torch.no_grad():
        plain = network(path.latents, 2, everyone)
        session = AttentionSession(latent_size=(8, 12))
        with controlled_attention(pipe.transformer, session):
            controlled = network(path.latents, 2, everyone)
            inside = dict(pipe.transformer.attn_processors)
    torch.testing.assert_close(controlled, plain, rtol=0, atol=1e-5)
    assert {type(each).__name__ for each in inside.values()} == {"ControlledJointAttention"}
    after = {type(each).__name__ for each in pipe.transformer.attn_processors.values()}
    assert "ControlledJointAttention" not in after


def test_a_processor_that_adds_something_is_refused(model: Model) -> None:
    transformer = copy.deepcopy(model.pipe.transformer)
    names = list(transformer.attn_processors)

    class ImagePromptProcessor:
        pass

    processors: dict[str, Any] = dict(transformer.attn_processors)
    processors[names[0]] = ImagePromptProcessor()
    transformer.set_attn_processor(processors)
    with (
        pytest.raises(ControlError, match="whose effect would be lost"),
        controlled_attention(transformer, AttentionSession()),
    ):
        pass
