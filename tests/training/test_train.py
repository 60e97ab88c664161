from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from dehaze.eval.probes import codec_roundtrip
from dehaze.inversion import DDIMTable
from dehaze.models.plain.load import is_plain
from dehaze.pipelines.dehaze import DehazePipeline
from dehaze.prompts import tokenize, word_span
from training.__main__ import main
from training.captions import hazy_caption, vocabulary
from training.export import export
from training.networks import Networks, build_networks, build_tokenizer, load_networks
from training.noise import GaussianNoise
from training.pool import Shard, shard_paths
from training.train import (
    Batch,
    PoolReader,
    Run,
    TrainingSettings,
    draw_sampler_timesteps,
    draw_seen_timesteps,
    draw_top_timesteps,
    embed_captions,
    first_batches,
    gaussian_noise,
    latents_of,
    losses_of,
)


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Networks:
    torch.manual_seed(0)
    return build_networks(build_tokenizer(vocabulary(), tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def noise_of(networks: Networks, pool: Path) -> GaussianNoise:
    return gaussian_noise(networks, PoolReader(pool))


def test_both_pictures_of_a_pair_share_their_noise(
    networks: Networks, pool: Path, noise_of: GaussianNoise
) -> None:
    source = first_batches(PoolReader(pool), networks, noise_of)
    batch = source(64, np.random.default_rng(2), torch.Generator().manual_seed(0))
    assert len(batch.captions) == len(batch.target) == len(batch.timesteps) == 64
    shards = [Shard.load(path) for path in shard_paths(pool)]
    size = batch.target.shape[-2:]
    clear, noise = [], []
    for shard in shards:
        if shard.clear.shape[1] * size[1] == shard.clear.shape[2] * size[0]:
            clear += list(latents_of(networks, shard.clear))
            noise += list(noise_of(latents_of(networks, shard.degraded)))
    assert batch.clear == 38
    for target, found in zip(batch.target[:38], batch.noise[:38], strict=True):
        own = [z for j, z in zip(clear, noise, strict=True) if torch.equal(j, target)]
        # As of a picture that is a little off.
        assert any((z - found).abs().max() < 0.5 for z in own)
    # The rest is at home in normal noise.
    assert batch.noise[-8:].std() == pytest.approx(1.0, abs=0.05)
    assert int(batch.timesteps[: batch.clear].min()) >= 930


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
    batch = Batch(target, noise, timesteps, [(caption, True)] * 4, 2, slice(2, 4), timesteps)
    with torch.no_grad():
        assert losses_of(networks, batch).max() < 1e-6
        assert losses_of(networks, batch, lambda error: 100.0 * error).max() < 1e-2


def test_errors_of_the_noise_count_as_errors_of_the_picture(
    networks: Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(noisy: torch.Tensor, *_: object) -> object:
        return type("Output", (), {"sample": torch.zeros_like(noisy)})

    monkeypatch.setattr(networks.unet, "forward", nothing)
    caption = hazy_caption(np.random.default_rng(0))
    picture, noise = torch.zeros(4, 36, 16, 24), torch.ones(4, 36, 16, 24)
    timesteps = torch.tensor([0, 999, 0, 999])
    batch = Batch(picture, noise, timesteps, [(caption, False)] * 4, 0, slice(2, 4), timesteps)
    with torch.no_grad():
        losses = losses_of(networks, batch, lambda error: 2.0 * error)
    # All of the velocity is noise at the first timestep, nothing of it at the last.
    assert losses[2] == pytest.approx(4.0 * float(losses[0]), rel=0.01)
    assert float(losses[1]) == pytest.approx(float(losses[3]), abs=1e-6)


def test_timesteps_are_as_dense_as_the_spacing_places_them(networks: Networks) -> None:
    drawn = draw_sampler_timesteps(20_000, 1000, torch.Generator().manual_seed(0))
    assert drawn.min() >= 0
    assert drawn.max() <= 999
    taus = DDIMTable.from_scheduler(networks.scheduler, 10, "noisy-end").timesteps
    # The spacing stops at 99 %, where a step can still be undone.
    shares = [float((drawn <= tau / 0.99).float().mean()) for tau in taus[:-1]]
    np.testing.assert_allclose(shares, np.arange(1, 10) / 10, atol=0.02)


def test_an_inversion_step_sees_what_it_begins_with() -> None:
    told = torch.tensor([383, 990]).repeat_interleave(4000)
    seen = draw_seen_timesteps(told, torch.Generator().manual_seed(0))
    for timestep, before in ((383, 0), (990, 858)):
        of_it = seen[told == timestep]
        assert 0.4 < float((of_it == timestep).float().mean()) < 0.6
        assert int(of_it.max()) == timestep
        assert abs(int(of_it.min()) - before) < 12


def test_the_way_back_begins_where_the_sampler_does(networks: Networks) -> None:
    drawn = draw_top_timesteps(1000, torch.Generator().manual_seed(0))
    top = DDIMTable.from_scheduler(networks.scheduler, 6, "noisy-end").timesteps[-1]
    assert 0.6 < float((drawn == top).float().mean()) < 0.8


def test_the_swap_in_training_is_the_swap_of_the_pipeline(networks: Networks) -> None:
    caption = hazy_caption(np.random.default_rng(0))
    kept, swapped = embed_captions(networks, [(caption, False), (caption, True)])
    prompt = tokenize(networks.tokenizer, caption.text)
    span = list(word_span(prompt, caption.word or ""))
    rest = [row for row in range(32) if row not in span]
    torch.testing.assert_close(kept[rest], swapped[rest])
    assert (kept[span] - swapped[span]).abs().max() > 1e-3


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
        assert torch.equal(weight, average)


def test_an_export_names_no_folder_of_the_machine(networks: Networks, tmp_path: Path) -> None:
    networks.save(tmp_path / "first")
    load_networks(tmp_path / "first").save(tmp_path / "second")
    for config in (tmp_path / "second").rglob("*.json"):
        assert str(tmp_path) not in config.read_text()


def test_the_learning_rate_rises_rests_and_falls_to_nothing() -> None:
    settings = TrainingSettings(steps=100, warmup=10, decay=0.3)
    rates = [settings.learning_rate_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(settings.learning_rate / 10)
    assert rates[10:70] == [settings.learning_rate] * 60
    assert rates[70:] == sorted(rates[70:], reverse=True)
    assert rates[-1] < 0.01 * settings.learning_rate


def test_one_command_trains_resumes_and_exports(pool: Path, tmp_path: Path) -> None:
    arguments = ["train", "--pool", str(pool), "--run", str(tmp_path / "run")]
    arguments += ["--batch-size", "2", "--output", str(tmp_path / "model")]
    for steps in ("1", "2"):
        done = CliRunner().invoke(main, [*arguments, "--steps", steps])
        assert done.exit_code == 0, done.output
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] == 2
    assert DehazePipeline.from_pretrained(tmp_path / "model").description.inversion.steps == 4
    first = (tmp_path / "model" / "unet" / "config.json").read_text()
    coupled = CliRunner().invoke(
        main,
        [
            *("couple", "--initial", str(tmp_path / "model"), "--pool", str(pool)),
            *("--run", str(tmp_path / "second"), "--chunks", "2", "--steps", "1"),
            *("--batch-size", "8", "--output", str(tmp_path / "shipped")),
        ],
    )
    assert coupled.exit_code == 0, coupled.output
    assert (tmp_path / "shipped" / "unet" / "config.json").read_text() == first
    # Nothing of the training's batches is left in it.
    assert is_plain(tmp_path / "shipped")
