from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from dehaze.eval.probes import codec_roundtrip
from dehaze.inversion import DDIMTable
from dehaze.models.plain.load import is_plain
from dehaze.pipelines.dehaze import DehazePipeline
from dehaze.prompts import swap_for_null_text, tokenize, word_span
from training.__main__ import main
from training.batches import (
    Batch,
    first_batches,
)
from training.captions import Caption, clear_caption, hazy_caption
from training.export import export
from training.networks import (
    Networks,
    embed_captions,
    load_networks,
)
from training.noise import GaussianNoise
from training.pool import PoolReader
from training.train import Run, TrainingSettings, logarithmic, losses_of, squared


def batch_of(
    target: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    captions: list[tuple[Caption, bool]],
    clear: int,
    inverted: slice,
    seen: torch.Tensor,
) -> Batch:
    """A batch without degraded pictures."""
    nothing = torch.zeros(0)
    return Batch(target, noise, timesteps, captions, clear, inverted, slice(0, 0), nothing, seen)


def test_the_velocity_leads_to_the_target(
    networks: Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    target, noise = (torch.randn(4, 36, 16, 24, generator=generator) for _ in range(2))
    table = DDIMTable.from_scheduler(networks.scheduler, 6, "noisy-end")
    timesteps = torch.tensor(table.timesteps[1:5])

    def exact(noisy: torch.Tensor, *_: object) -> object:
        found = []
        for row in range(4):
            alpha = table.alphas[row + 2]
            velocity = (alpha**0.5 * noisy[row] - target[row]) / (1.0 - alpha) ** 0.5
            found.append(velocity)
        return type("Output", (), {"sample": torch.stack(found)})

    monkeypatch.setattr(networks.unet, "forward", exact)
    caption = hazy_caption(np.random.default_rng(0))
    batch = batch_of(target, noise, timesteps, [(caption, True)] * 4, 2, slice(2, 4), timesteps)
    with torch.no_grad():
        assert losses_of(networks, batch).max() < 1e-6
        assert losses_of(networks, batch, lambda error: 100.0 * error).max() < 1e-2


@pytest.fixture
def zero_networks(networks: Networks, monkeypatch: pytest.MonkeyPatch) -> Networks:
    """Networks that predict a velocity of 0, so that the errors are the velocity itself."""

    def nothing(noisy: torch.Tensor, *_: object) -> object:
        return type("Output", (), {"sample": torch.zeros_like(noisy)})

    monkeypatch.setattr(networks.unet, "forward", nothing)
    return networks


def test_errors_of_the_noise_count_as_errors_of_the_picture(zero_networks: Networks) -> None:
    caption = hazy_caption(np.random.default_rng(0))
    picture, noise = torch.zeros(4, 36, 16, 24), torch.ones(4, 36, 16, 24)
    timesteps = torch.tensor([0, 999, 0, 999])
    batch = batch_of(picture, noise, timesteps, [(caption, False)] * 4, 0, slice(2, 4), timesteps)
    with torch.no_grad():
        losses = losses_of(zero_networks, batch, lambda error: 2.0 * error)
    # All of the velocity is noise at the first timestep, nothing of it at the last.
    assert losses[2] == pytest.approx(4.0 * float(losses[0]), rel=0.01)
    assert float(losses[1]) == pytest.approx(float(losses[3]), abs=1e-6)


def test_the_first_denoising_step_counts_the_log_of_its_error(zero_networks: Networks) -> None:
    caption = hazy_caption(np.random.default_rng(0))
    # At the last timestep the velocity is the negative picture, so the squared errors are 1, 4, 4.
    picture = torch.ones(4, 36, 16, 24) * torch.tensor([1.0, 2.0, 2.0, 2.0])[:, None, None, None]
    timesteps = torch.tensor([999, 999, 900, 999])
    seen = torch.tensor([999, 999, 900, 940])
    captions = [(caption, False)] * 4
    batch = batch_of(picture, torch.zeros_like(picture), timesteps, captions, 2, slice(4, 4), seen)
    with torch.no_grad():
        losses = losses_of(zero_networks, batch)
        plain = losses_of(zero_networks, replace(batch, inverted=slice(0, 4)))
    expected = [(0.2 + 0.006) * math.log(1.0 + error / 0.006) for error in (1.0, 4.0)]
    assert losses[:2].tolist() == pytest.approx(expected, rel=1e-5)
    assert plain[:2].tolist() == pytest.approx([1.0, 4.0], rel=1e-5)
    # Earlier timesteps, and steps of the inversion, count squared errors.
    assert torch.equal(losses[2:], plain[2:])


@given(st.floats(0.0, 8.0))
def test_the_logarithmic_loss_has_an_inverse(error: float) -> None:
    loss = float(logarithmic(torch.tensor(error, dtype=torch.float64)))
    assert squared(loss) == pytest.approx(error, rel=1e-9, abs=1e-15)


def test_a_step_that_would_spoil_the_weights_ends_the_run(
    pool: Path, noise_of: GaussianNoise, tmp_path: Path
) -> None:
    run = Run(tmp_path / "run", TrainingSettings(steps=2, batch_size=4, checkpoint_every=1), "cpu")
    batches = first_batches(PoolReader(pool), run.networks, noise_of)

    def spoiled(count: int, rng: np.random.Generator, generator: torch.Generator) -> Batch:
        batch = batches(count, rng, generator)
        if run.step == 1:
            batch.target[0, 0, 0, 0] = torch.nan
        return batch

    with pytest.raises(FloatingPointError, match=r"gradients is nan.* learning rate"):
        run.train(spoiled)
    assert run.step == 1
    assert all(torch.isfinite(weight).all() for weight in run.parameters)
    state = torch.load(run.checkpoint, weights_only=True)
    assert state["step"] == 1


def test_the_swap_in_training_is_the_swap_of_the_pipeline(networks: Networks) -> None:
    caption = hazy_caption(np.random.default_rng(0))
    other = clear_caption(np.random.default_rng(0))
    found = embed_captions(networks, [(other, False), (caption, False), (caption, True)])
    prompts = [tokenize(networks.tokenizer, text) for text in (other.text, caption.text, "")]
    with torch.no_grad():
        rows = networks.text_encoder(torch.stack([prompt.ids for prompt in prompts]))
    clear, kept, null = rows.last_hidden_state
    swapped = swap_for_null_text(kept, null, word_span(prompts[1], caption.word or ""))
    torch.testing.assert_close(found, torch.stack([clear, kept, swapped]))
    assert (kept - swapped).abs().max() > 1e-3


@pytest.mark.slow
def test_a_run_learns_resumes_where_it_was_and_is_exported(
    pool: Path, noise_of: GaussianNoise, tmp_path: Path
) -> None:
    reader = PoolReader(pool)
    half = TrainingSettings(steps=2, batch_size=4, warmup=2, checkpoint_every=2)
    interrupted = Run(tmp_path / "run", half, "cpu")
    before = [weight.detach().clone() for weight in interrupted.parameters]
    interrupted.train(first_batches(reader, interrupted.networks, noise_of))
    changed = sum(
        not torch.equal(old, new) for old, new in zip(before, interrupted.parameters, strict=True)
    )
    assert changed > 0.95 * len(before)

    whole = TrainingSettings(steps=3, batch_size=4, warmup=2, checkpoint_every=3)
    resumed = Run(tmp_path / "run", whole, "cpu")
    resumed.resume()
    assert resumed.step == 2
    for one, other in zip(interrupted.parameters, resumed.parameters, strict=True):
        assert torch.equal(one, other)
    states = (interrupted.optimizer.state_dict(), resumed.optimizer.state_dict())
    for number, state in states[0]["state"].items():
        for name, value in state.items():
            assert torch.equal(value, states[1]["state"][number][name])
    shadows = (interrupted.average.shadow_params, resumed.average.shadow_params)
    assert all(torch.equal(one, other) for one, other in zip(*shadows, strict=True))
    resumed.train(first_batches(reader, resumed.networks, noise_of))
    assert resumed.step == 3

    size = export(resumed, tmp_path / "model")
    assert size < 25 * 2**20
    pipe = DehazePipeline.from_pretrained(tmp_path / "model")
    assert pipe.description.inversion.spacing == "noisy-end"
    pipe.set_progress_bar_config(disable=True)
    photo = np.random.default_rng(0).random((60, 80, 3), dtype=np.float32)
    assert pipe.codec.working_size(photo) == (40, 53)
    np.testing.assert_allclose(codec_roundtrip(pipe, photo), pipe.codec.reduced(photo), atol=1e-5)
    cells = pipe.codec.decode_all(pipe.codec.encode(photo), (40, 53))
    assert (cells[..., 3:6] <= cells[..., :3] + 1e-6).all()
    assert (cells[..., 6:] >= cells[..., :3] - 1e-6).all()
    result = pipe(photo)
    assert result.image.shape == (*result.attention.shape, 3) == photo.shape
    shipped = list(pipe.unet.parameters())
    for weight, average in zip(shipped, resumed.average.shadow_params, strict=False):
        # Weights are stored as float16.
        assert torch.equal(weight, average.half().float())


def test_an_export_names_no_folder_of_the_machine(networks: Networks, tmp_path: Path) -> None:
    networks.save(tmp_path / "first")
    load_networks(tmp_path / "first").save(tmp_path / "second")
    for config in (tmp_path / "second").rglob("*.json"):
        assert str(tmp_path) not in config.read_text()


def test_the_learning_rate_rises_stays_and_falls_to_0() -> None:
    settings = TrainingSettings(steps=100, warmup=10, decay=0.3)
    rates = [settings.learning_rate_at(step, 0.0) for step in range(100)]
    assert rates[0] == pytest.approx(settings.learning_rate / 10)
    assert rates[10:70] == [settings.learning_rate] * 60
    assert rates[70:] == sorted(rates[70:], reverse=True)
    assert rates[-1] < 0.01 * settings.learning_rate


def test_the_learning_rate_may_fall_by_the_clock() -> None:
    settings = TrainingSettings(minutes=2.0, warmup=1, decay=0.5)
    rates = [settings.learning_rate_at(9, seconds) for seconds in (0.0, 60.0, 90.0, 120.0)]
    full = settings.learning_rate
    assert rates == pytest.approx([full, full, full / 2, 0.0])
    assert settings.share_done(10**6, 30.0) == 0.25


@pytest.mark.slow
def test_a_run_by_the_clock_ends_and_is_resumed(
    pool: Path, noise_of: GaussianNoise, tmp_path: Path
) -> None:
    settings = TrainingSettings(minutes=1e-4, batch_size=2)
    run = Run(tmp_path / "run", settings, "cpu")
    run.train(first_batches(PoolReader(pool), run.networks, noise_of))
    # It does not begin another step after its six milliseconds.
    assert run.step == 1
    again = Run(tmp_path / "run", replace(settings, minutes=1.0), "cpu")
    again.resume()
    assert again.step == 1
    assert 0.006 < again.seconds < 60.0


def test_steps_beside_minutes_are_refused(pool: Path, tmp_path: Path) -> None:
    arguments = ["train", "--pool", str(pool), "--run", str(tmp_path / "run")]
    done = CliRunner().invoke(main, [*arguments, "--minutes", "1", "--steps", "3"])
    assert done.exit_code == 2
    assert "--steps has no effect with --minutes" in done.output


@pytest.mark.slow
def test_one_command_trains_resumes_and_exports(pool: Path, tmp_path: Path) -> None:
    arguments = ["train", "--pool", str(pool), "--run", str(tmp_path / "run")]
    arguments += ["--batch-size", "2", "--output", str(tmp_path / "model")]
    for steps in ("1", "2"):
        done = CliRunner().invoke(main, [*arguments, "--steps", steps])
        assert done.exit_code == 0, done.output
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] == 2
    assert DehazePipeline.from_pretrained(tmp_path / "model").description.inversion.steps == 4
    # Nothing of the training's batches is left in it.
    assert is_plain(tmp_path / "model")
