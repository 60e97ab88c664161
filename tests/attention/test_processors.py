from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from dehaze.attention.control import AttentionControl, ControlError, TokenMapper
from dehaze.attention.processors import controlled_attention
from dehaze.attention.session import AttentionSession
from dehaze.pipelines.dehaze import DehazePipeline


def random_latents(pipeline: DehazePipeline, batch: int = 1) -> Tensor:
    """Normal latents of 8 x 12 with the network's number of channels."""
    return torch.randn(batch, pipeline.unet.config.in_channels, 8, 12)


def test_processors_of_an_idle_session_change_nothing(pipeline: DehazePipeline) -> None:
    z = random_latents(pipeline, 2)
    context = torch.randn(2, 32, 128)
    with torch.no_grad():
        plain = pipeline.unet(z, 500, encoder_hidden_states=context).sample
        with controlled_attention(pipeline.unet, AttentionSession(batch=2)):
            controlled = pipeline.unet(z, 500, encoder_hidden_states=context).sample
    torch.testing.assert_close(controlled, plain, rtol=1e-4, atol=1e-5)


def test_an_attention_mask_is_respected(pipeline: DehazePipeline) -> None:
    z, context = random_latents(pipeline), torch.randn(1, 32, 128)
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


def test_injecting_unrecorded_attention_is_an_error(pipeline: DehazePipeline) -> None:
    session = AttentionSession(control=AttentionControl(), step=4, steps=4)
    latents, context = random_latents(pipeline), torch.randn(1, 32, 128)
    with (
        pytest.raises(ControlError, match="no attention was recorded"),
        controlled_attention(pipeline.unet, session),
        torch.no_grad(),
    ):
        pipeline.unet(latents, 500, encoder_hidden_states=context)


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
    z, context = random_latents(pipeline), torch.randn(1, 32, 128)
    recording = AttentionSession(recording=True, step=4)
    with controlled_attention(pipeline.unet, recording), torch.no_grad():
        pipeline.unet(torch.randn_like(z), 500, encoder_hidden_states=torch.randn(1, 32, 128))
    own = TokenMapper(torch.eye(32), torch.zeros(32))
    injecting = AttentionSession(
        record=recording.record, control=AttentionControl(1.0, 0.0, mapper=own), step=4, steps=4
    )
    with torch.no_grad():
        plain = pipeline.unet(z, 500, encoder_hidden_states=context).sample
        with controlled_attention(pipeline.unet, injecting):
            controlled = pipeline.unet(z, 500, encoder_hidden_states=context).sample
    torch.testing.assert_close(controlled, plain, rtol=1e-4, atol=1e-5)


def test_a_processor_that_does_more_than_attention_is_refused(pipeline: DehazePipeline) -> None:
    class ImagePrompt:
        def __call__(self, *arguments: object) -> None: ...

    before = dict(pipeline.unet.attn_processors)
    pipeline.unet.set_attn_processor(ImagePrompt())
    try:
        with (
            pytest.raises(ControlError, match="is a ImagePrompt, whose effect would be lost"),
            controlled_attention(pipeline.unet, AttentionSession()),
        ):
            pass
    finally:
        pipeline.unet.set_attn_processor(before)


@pytest.mark.parametrize(
    ("latent_size", "followed", "free"),
    [
        # Stable Diffusion 1.5 at 512 x 512: the published code's 32 x 32 and below.
        ((64, 64), [32 * 32, 16 * 16, 8 * 8], [64 * 64]),
        ((64, 96), [32 * 48, 16 * 24, 8 * 12], [64 * 96]),
        # XL at 1024 x 1536 has no attention at 128 x 192.
        ((128, 192), [64 * 96, 32 * 48], [128 * 192]),
        ((15, 23), [8 * 12, 4 * 6], [15 * 23]),
    ],
)
def test_self_attention_follows_below_half_the_latents_side(
    latent_size: tuple[int, int], followed: list[int], free: list[int]
) -> None:
    control = AttentionControl(self_replace_steps=1.0)
    session = AttentionSession(control=control, latent_size=latent_size, step=4, steps=4)
    assert all(session.replaces_self(positions) for positions in followed)
    assert not any(session.replaces_self(positions) for positions in free)
    session.control = None
    assert not session.replaces_self(followed[0])
