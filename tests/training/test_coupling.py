from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from schedules import FunctionNetwork

import training.coupling
from dehaze.datasets.appearance import APPEARANCES
from dehaze.datasets.synthesis import HAZE_KINDS
from dehaze.inversion import DDIMTable, InversionSettings, invert
from dehaze.prompts import tokenize, word_span
from training.captions import vocabulary
from training.coupling import (
    INVERSION_ITERATIONS,
    INVERSION_STEPS,
    Chunk,
    coupled_batches,
    draw_sampler_timesteps,
    invert_pairs,
    load_chunks,
    without_its_word,
    write_chunks,
)
from training.data import draw_pair
from training.networks import Networks, build_networks, build_tokenizer, load_networks
from training.train import embed_captions, latents_of

PHOTOS = [np.random.default_rng(k).random((160, 240, 3)).astype(np.float32) for k in range(3)]


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Networks:
    torch.manual_seed(0)
    return build_networks(build_tokenizer(vocabulary(), tmp_path_factory.mktemp("tokenizer")))


def test_pairs_are_captioned_in_the_models_words(networks: Networks) -> None:
    rng = np.random.default_rng(0)
    seen: set[str] = set()
    for _ in range(200):
        pair = draw_pair(PHOTOS, (32, 48), rng)
        assert pair.degraded.shape == pair.clear.shape == (32, 48, 3)
        assert pair.degraded.dtype == pair.clear.dtype == np.float32
        assert 0 <= pair.degraded.min() <= pair.degraded.max() <= 1
        prompt = tokenize(networks.tokenizer, pair.caption.text)
        # One token a word: nothing is spelled in bytes.
        assert prompt.count == len(pair.caption.text.split()) + 2
        assert pair.caption.word is not None
        assert word_span(prompt, pair.caption.word)
        seen.add(pair.caption.word)
        assert pair.caption.word not in without_its_word(pair.caption).text
    assert seen >= {*HAZE_KINDS.names(), *APPEARANCES.names()}


def test_some_pairs_under_the_default_prompt_are_clear_already() -> None:
    rng = np.random.default_rng(0)
    pairs = [draw_pair(PHOTOS, (32, 48), rng) for _ in range(300)]
    plain = [pair for pair in pairs if pair.caption.text == "a photo with haze"]
    veils = [float(np.abs(pair.degraded - pair.clear).mean()) for pair in plain]
    assert 0.04 < np.mean(np.array(veils) < 0.02) < 0.3


def test_coupled_noise_is_the_renderings_inversion(networks: Networks) -> None:
    rng = np.random.default_rng(1)
    pairs = [draw_pair(PHOTOS, (32, 32), rng) for _ in range(2)]
    networks.unet.eval()
    noise = invert_pairs(networks, pairs)
    assert noise.shape == (2, 12, 16, 16)
    clean = latents_of(networks, [pair.degraded for pair in pairs])
    table = DDIMTable.from_scheduler(networks.scheduler, INVERSION_STEPS, "noisy-end")
    examples = [training.data.Example(pair.degraded, pair.caption, False) for pair in pairs]
    with torch.no_grad():
        context = embed_captions(networks, examples)
        network = FunctionNetwork(
            table, lambda z, i, index: networks.unet(z, table.timestep(i), context[index]).sample
        )
        settings = InversionSettings(
            steps=INVERSION_STEPS, tolerance=1e-3, max_iterations=INVERSION_ITERATIONS
        ).changed(solver="anderson")
        exact = invert(network, clean, settings)
    alpha = table.alphas[-1]
    ends = alpha**0.5 * clean + (1 - alpha) ** 0.5 * noise
    # bfloat16 has eight bits: the two agree to about that.
    torch.testing.assert_close(ends, exact.latents, atol=0.1, rtol=0.05)


def test_chunks_are_written_once_and_read_back(
    networks: Networks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.coupling, "CHUNK_PAIRS", 3)
    write_chunks(networks, PHOTOS, tmp_path, 1, seed=5)
    (first,) = load_chunks(tmp_path)
    written = (tmp_path / "0000.npz").stat().st_mtime_ns
    write_chunks(networks, PHOTOS, tmp_path, 2, seed=5)
    assert (tmp_path / "0000.npz").stat().st_mtime_ns == written
    chunks = load_chunks(tmp_path)
    assert len(chunks) == 2
    assert np.array_equal(chunks[0].noise, first.noise)
    assert chunks[0].captions == first.captions
    assert len(first.captions) == len(first.clear) == len(first.degraded) == len(first.noise) == 3
    assert not np.array_equal(chunks[0].clear[0][0, 0], chunks[1].clear[0][0, 0])


def test_both_pictures_of_a_pair_share_their_noise(networks: Networks) -> None:
    rng = np.random.default_rng(2)
    pairs = [draw_pair(PHOTOS, (32, 48), rng) for _ in range(5)]
    chunk = Chunk(
        np.stack([pair.degraded for pair in pairs]).astype(np.float16),
        np.stack([pair.clear for pair in pairs]).astype(np.float16),
        rng.standard_normal((5, 12, 16, 24)).astype(np.float16),
        [pair.caption for pair in pairs],
    )
    generator = torch.Generator().manual_seed(0)
    batch = coupled_batches([chunk], PHOTOS, networks)(64, rng, generator)
    assert batch.noise.shape == (64, 12, 16, 24)
    assert len(batch.examples) == len(batch.timesteps) == 64
    swapped = 0
    for position in range(36):
        at = 2 * position if position < 16 else position + 16
        clear, noise = batch.examples[at], batch.noise[at]
        index = next(
            k for k in range(5) if np.array_equal(chunk.clear[k], clear.picture.astype("f2"))
        )
        assert torch.equal(noise, torch.from_numpy(chunk.noise[index]).float())
        caption = chunk.captions[index]
        assert clear.caption == (caption if clear.swapped else without_its_word(caption))
        swapped += clear.swapped
        if position < 16:
            degraded = batch.examples[at + 1]
            assert torch.equal(batch.noise[at + 1], noise)
            assert np.array_equal(chunk.degraded[index], degraded.picture.astype(np.float16))
            assert degraded.caption == caption
            assert not degraded.swapped
    assert 18 <= swapped <= 34
    # The rest is the first stage's: noise of its own.
    assert batch.noise[52:].std() == pytest.approx(1.0, abs=0.05)


def test_timesteps_are_as_dense_as_the_spacing_places_them(networks: Networks) -> None:
    drawn = draw_sampler_timesteps(20_000, 1000, torch.Generator().manual_seed(0))
    assert drawn.min() >= 0
    assert drawn.max() <= 999
    taus = DDIMTable.from_scheduler(networks.scheduler, 10, "noisy-end").timesteps
    # The spacing stops at 99 %, where a step can still be undone.
    shares = [float((drawn <= tau / 0.99).float().mean()) for tau in taus[:-1]]
    np.testing.assert_allclose(shares, np.arange(1, 10) / 10, atol=0.02)


def test_an_export_names_no_folder_of_the_machine(networks: Networks, tmp_path: Path) -> None:
    networks.save(tmp_path / "first")
    load_networks(tmp_path / "first").save(tmp_path / "second")
    for config in (tmp_path / "second").rglob("*.json"):
        assert str(tmp_path) not in config.read_text()
