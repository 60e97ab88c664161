from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from dehaze.attention.control import AttentionControl, ControlError, TokenMapper, refine_mapper
from dehaze.attention.processors import AttentionSession, controlled_attention
from dehaze.inversion import DDIMTable, Inverter, denoise
from dehaze.pipeline import DehazePipeline
from dehaze.prompts import swap_for_null_text, tokenize, without_word, word_span


class TextbookPromptToPrompt:
    """Prompt-to-Prompt as the paper states it: a batch (source, target), maps materialised."""

    def __init__(self, control: AttentionControl, steps: int) -> None:
        self.control, self.steps, self.step = control, steps, steps

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
        if is_cross and self.control.replaces_cross(self.step, self.steps):
            if self.control.mapper is None:
                target = source
            else:
                mapper = self.control.mapper
                replaced = source[:, :, mapper.source]
                target = replaced * mapper.weight + target * (1.0 - mapper.weight)
        elif not is_cross and self.control.replaces_self(self.step, self.steps):
            target = source
        maps = torch.cat([source, target])
        out = attn.batch_to_head_dim(torch.bmm(maps, value))
        return attn.to_out[1](attn.to_out[0](out))


def textbook_edit(
    pipeline: DehazePipeline,
    start: Tensor,
    table: DDIMTable,
    contexts: Tensor,
    control: AttentionControl,
) -> tuple[Tensor, Tensor]:
    """Denoises source and target side by side; returns both z_0."""
    processor = TextbookPromptToPrompt(control, table.steps)
    pipeline.unet.set_attn_processor(processor)
    pair = torch.cat([start, start])
    with torch.no_grad():
        for i in range(table.steps, 0, -1):
            processor.step = i
            output = pipeline.unet(pair, table.timestep(i), encoder_hidden_states=contexts).sample
            pair = table.denoise_step(pair, table.predicted_noise(output, pair, i), i)
    return pair[:1], pair[1:]


def network_under(pipeline: DehazePipeline, session: AttentionSession, context: Tensor) -> Any:
    table = DDIMTable.from_scheduler(pipeline.scheduler, 4, "noisy-end")

    def network(z: Tensor, i: int, index: Tensor) -> Tensor:
        session.step, session.index = i, index
        with torch.no_grad():
            return pipeline.unet(
                z, table.timestep(i), encoder_hidden_states=context.expand(z.shape[0], -1, -1)
            ).sample

    return table, network


PROMPT = "a photo of a street with dense haze"


@pytest.mark.parametrize("reading", ["embedding", "delete"])
@pytest.mark.parametrize(("cross", "self_"), [(0.8, 0.4), (1.0, 1.0), (0.0, 1.0), (0.5, 0.0)])
def test_injection_equals_textbook_prompt_to_prompt(
    pipeline: DehazePipeline, reading: str, cross: float, self_: float
) -> None:
    """Maps materialised and a source branch, against Q/K injection and no source branch."""
    source = tokenize(pipeline.tokenizer, PROMPT)
    context = pipeline._embed(source).detach()
    if reading == "embedding":
        null = pipeline._embed(tokenize(pipeline.tokenizer, "")).detach()
        target_context = swap_for_null_text(context, null[0], word_span(source, "dense haze"))
        mapper = None
    else:
        target = tokenize(pipeline.tokenizer, without_word(PROMPT, "dense haze"))
        target_context = pipeline._embed(target).detach()
        mapper = refine_mapper(source, target)
    control = AttentionControl(cross, self_, mapper=mapper)

    z_0 = torch.randn(1, 12, 8, 12, generator=torch.Generator().manual_seed(3))
    recording = AttentionSession(recording=True)
    table, network = network_under(pipeline, recording, context)
    with controlled_attention(pipeline.unet, recording):
        inversion = Inverter(table, network, tolerance=1e-7, max_iterations=60).invert(z_0)
    assert inversion.trace.worst_residual < 1e-5

    injecting = AttentionSession(record=recording.record, control=control, steps=table.steps)
    _, network = network_under(pipeline, injecting, target_context)
    with controlled_attention(pipeline.unet, injecting):
        ours = denoise(inversion, network)

    source_branch, textbook = textbook_edit(
        pipeline, inversion.latents, table, torch.cat([context, target_context]), control
    )
    assert (source_branch - z_0).abs().max() < 1e-3
    assert (ours - textbook).abs().max() < 1e-4
    # The edit must do something, or agreement would say nothing.
    assert (ours - z_0).abs().max() > 1e-3


def test_processors_without_orders_leave_the_network_as_it_is(pipeline: DehazePipeline) -> None:
    z = torch.randn(2, 12, 8, 12)
    context = torch.randn(2, 32, 128)
    with torch.no_grad():
        plain = pipeline.unet(z, 500, encoder_hidden_states=context).sample
        with controlled_attention(pipeline.unet, AttentionSession(batch=2)):
            controlled = pipeline.unet(z, 500, encoder_hidden_states=context).sample
    torch.testing.assert_close(controlled, plain, rtol=1e-4, atol=1e-5)


def test_an_attention_mask_is_respected(pipeline: DehazePipeline) -> None:
    z, context = torch.randn(1, 12, 8, 12), torch.randn(1, 32, 128)
    mask = torch.ones(1, 32)
    mask[:, 20:] = 0
    with torch.no_grad():
        plain = pipeline.unet(
            z, 500, encoder_hidden_states=context, encoder_attention_mask=mask
        ).sample
        with controlled_attention(pipeline.unet, AttentionSession()):
            controlled = pipeline.unet(
                z, 500, encoder_hidden_states=context, encoder_attention_mask=mask
            ).sample
    torch.testing.assert_close(controlled, plain, rtol=1e-4, atol=1e-5)


def test_old_processors_return_on_any_exit(pipeline: DehazePipeline) -> None:
    before = copy.copy(pipeline.unet.attn_processors)

    def fail_inside() -> None:
        with controlled_attention(pipeline.unet, AttentionSession()):
            assert pipeline.unet.attn_processors != before
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail_inside()
    assert pipeline.unet.attn_processors == before


def test_a_network_without_attention_is_refused() -> None:
    class Bare:
        attn_processors: dict[str, object] = {}  # noqa: RUF012

    with (
        pytest.raises(ControlError, match="Bare has no attention layer"),
        controlled_attention(Bare(), AttentionSession()),
    ):
        pass


def test_injecting_what_was_never_recorded_is_an_error(pipeline: DehazePipeline) -> None:
    session = AttentionSession(control=AttentionControl(), step=4, steps=4)
    with (
        pytest.raises(ControlError, match="no attention was recorded"),
        controlled_attention(pipeline.unet, session),
        torch.no_grad(),
    ):
        pipeline.unet(torch.randn(1, 12, 8, 12), 500, encoder_hidden_states=torch.randn(1, 32, 128))


def test_each_sample_of_a_batch_keeps_its_own_last_evaluation() -> None:
    session = AttentionSession(batch=3)
    session.index = torch.tensor([0, 1, 2])
    session.keep("name", torch.tensor([[1.0], [2.0], [3.0]]))
    session.index = torch.tensor([1])
    session.keep("name", torch.tensor([[9.0]]))
    session.index = torch.tensor([2, 1])
    assert session.recall("name").flatten().tolist() == [3.0, 9.0]


def test_a_paused_session_does_nothing_and_resumes() -> None:
    control = AttentionControl()
    session = AttentionSession(recording=True, control=control)
    with session.paused():
        assert not session.recording
        assert session.control is None
    assert session.recording
    assert session.control is control


def test_a_mapper_with_weight_zero_keeps_the_targets_own_maps(pipeline: DehazePipeline) -> None:
    z, context = torch.randn(1, 12, 8, 12), torch.randn(1, 32, 128)
    recording = AttentionSession(recording=True, step=4)
    with controlled_attention(pipeline.unet, recording), torch.no_grad():
        pipeline.unet(torch.randn_like(z), 500, encoder_hidden_states=torch.randn(1, 32, 128))
    own = TokenMapper(torch.arange(32), torch.zeros(32))
    injecting = AttentionSession(
        record=recording.record, control=AttentionControl(1.0, 0.0, mapper=own), step=4, steps=4
    )
    with torch.no_grad():
        plain = pipeline.unet(z, 500, encoder_hidden_states=context).sample
        with controlled_attention(pipeline.unet, injecting):
            controlled = pipeline.unet(z, 500, encoder_hidden_states=context).sample
    torch.testing.assert_close(controlled, plain, rtol=1e-4, atol=1e-5)
