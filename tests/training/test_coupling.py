from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from schedules import FunctionNetwork

from dehaze.inversion import DDIMTable
from dehaze.inversion import invert as invert_latents
from dehaze.models.plain.load import is_plain
from training.__main__ import main
from training.captions import Caption, vocabulary
from training.coupling import (
    Chunk,
    CoupledBatches,
    averaged,
    invert,
    make_chunk,
)
from training.export import INVERSION, MAP_LAYER
from training.networks import (
    Networks,
    build_networks,
    build_tokenizer,
    embed_captions,
    latents_of,
    load_networks,
)
from training.pool import PoolReader
from training.train import Run, TrainingSettings

CAPTION = Caption("a photo with haze", "haze", "haze")


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Networks:
    torch.manual_seed(0)
    return build_networks(build_tokenizer(vocabulary(), tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run", TrainingSettings(batch_size=2), "cpu")


def test_the_noise_is_what_the_inversion_ends_in(networks: Networks) -> None:
    networks.unet.eval()
    latents = torch.randn(2, 36, 16, 16, generator=torch.Generator().manual_seed(0))
    noise = invert(networks, latents, [CAPTION] * 2)
    table = DDIMTable.from_scheduler(networks.scheduler, INVERSION.steps, INVERSION.spacing)
    with torch.no_grad():
        context = embed_captions(networks, [(CAPTION, False)] * 2)
        network = FunctionNetwork(
            table, lambda z, i, index: networks.unet(z, table.timestep(i), context[index]).sample
        )
        exact = invert_latents(network, latents, INVERSION)
    alpha = table.alphas[-1]
    ends = alpha**0.5 * latents + (1 - alpha) ** 0.5 * noise
    # bfloat16 has eight bits: the two agree to about that.
    assert (ends - exact.latents).square().mean().sqrt() < 0.05


def test_the_running_average_is_used_and_put_back(run: Run) -> None:
    with torch.no_grad():
        for parameter in run.parameters:
            parameter.add_(1.0)
    before = [parameter.detach().clone() for parameter in run.parameters]
    with averaged(run):
        for parameter, shadow in zip(run.parameters, run.average.shadow_params, strict=True):
            assert torch.equal(parameter, shadow)
    assert all(torch.equal(a, b) for a, b in zip(run.parameters, before, strict=True))


def test_a_batch_shares_the_noise_of_its_pairs(run: Run, pool: Path) -> None:
    batches = CoupledBatches(run, PoolReader(pool), lambda z: 0.5 * z, chunks=2, every=100)
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    batch = batches(32, rng, generator)
    assert len(batch.target) == len(batch.captions) == len(batch.timesteps) == 32
    (chunk,) = [
        each for each in batches.chunks if any(torch.equal(batch.target[0], j) for j in each.clear)
    ]

    def is_pair(position: int) -> bool:
        return any(
            torch.equal(batch.target[position], chunk.clear[k])
            and torch.equal(batch.noise[position], chunk.noise[k])
            and batch.captions[position] == chunk.captions[k]
            for k in range(len(chunk.captions))
        )

    assert batch.clear == 19
    assert all(is_pair(position) for position in range(19))
    assert not any(is_pair(position) for position in range(19, 32))
    # All of the way back is its first step.
    assert int(batch.timesteps[:21].min()) >= 930
    # What is to be inverted goes to the closed form's noise.
    assert torch.equal(batch.noise[batch.inverted], 0.5 * batch.target[batch.inverted])
    assert batch.inverted == slice(21, 29)
    # Of these, seven are degraded pictures.
    assert batch.degraded == slice(21, 28)
    assert batch.density.shape == (7, *batch.target.shape[2:])
    assert batch.density.max() > 0.0
    assert batch.noise[29:].std() == pytest.approx(1.0, abs=0.05)


def same(one: Sequence[Chunk], other: Sequence[Chunk]) -> bool:
    """Whether both hold the same chunks in the same order."""
    return all(a is b for a, b in zip(one, other, strict=True))


@pytest.mark.slow
def test_chunks_are_renewed(run: Run, pool: Path) -> None:
    batches = CoupledBatches(run, PoolReader(pool), lambda z: z, chunks=2, every=2)
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    seen = []
    for _ in range(5):
        batches(16, rng, generator)
        # The chunks themselves: an address may be given to another chunk once one is gone.
        seen.append(list(batches.chunks))
    assert len(seen[-1]) == 2
    assert same(seen[1], seen[2]) or same(seen[2], seen[3])
    assert not any(seen[4][-1] is chunk for chunk in seen[0])


def test_a_chunk_holds_the_runs_own_inversion(run: Run, pool: Path) -> None:
    reader = PoolReader(pool)
    chunk = make_chunk(run, reader, np.random.default_rng(0))
    # The same draws once more.
    rng = np.random.default_rng(0)
    shard = reader.draw_pairs(rng, 4)
    rows = np.sort(rng.choice(len(shard.captions), 4, replace=False))
    captions = [shard.captions[row] for row in rows]
    again = invert(run.networks, latents_of(run.networks, shard.degraded[rows]), captions)
    torch.testing.assert_close(chunk.noise, again, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(chunk.clear, latents_of(run.networks, shard.clear[rows]))
    for caption, (target, swapped) in zip(captions, chunk.captions, strict=True):
        assert caption.word is not None
        assert target == caption if swapped else caption.word not in target.text.split()


def test_a_chunk_of_a_small_pool_holds_two_batches(pool: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "run", TrainingSettings(batch_size=8), "cpu")
    chunk = make_chunk(run, PoolReader(pool), np.random.default_rng(0))
    assert len(chunk.clear) == len(chunk.noise) == len(chunk.captions) == 16


@pytest.mark.slow
def test_the_command_trains_the_pictures_and_the_map(
    networks: Networks, pool: Path, tmp_path: Path
) -> None:
    networks.save(tmp_path / "first")
    folder = tmp_path / "run"
    arguments = ["couple", "--initial", str(tmp_path / "first"), "--pool", str(pool)]
    arguments += ["--run", str(folder), "--steps", "1", "--batch-size", "8", "--chunks", "1"]
    arguments += ["--output", str(tmp_path / "model")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    assert state["step"] == 1
    before = load_networks(tmp_path / "first").unet.state_dict()
    changed = {name for name, old in before.items() if not torch.equal(old, state["unet"][name])}
    assert f"{MAP_LAYER}.to_q.weight" in changed
    assert "conv_in.weight" in changed
    first, exported = (tmp_path / name / "unet" / "config.json" for name in ("first", "model"))
    assert exported.read_text() == first.read_text()
    assert is_plain(tmp_path / "model")
