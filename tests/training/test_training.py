from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from dehaze.datasets.synthesis import DENSITY_WORDS
from dehaze.pipelines.dehaze import DehazePipeline
from dehaze.prompts import tokenize, word_span
from training.__main__ import main
from training.captions import clear_caption, hazy_caption, vocabulary
from training.data import Example, draw_clear, draw_example, list_photos, load_photos
from training.export import export
from training.networks import build_tokenizer, learn_merges
from training.train import (
    Run,
    TrainingSettings,
    draw_timesteps,
    embed_captions,
    separate_batches,
)

PHOTOS = [np.random.default_rng(k).random((160, 240, 3)).astype(np.float32) for k in range(3)]


def test_every_caption_is_in_the_vocabulary_and_holds_its_word(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(vocabulary(), tmp_path)
    rng = np.random.default_rng(0)
    for _ in range(300):
        caption = hazy_caption(rng)
        prompt = tokenize(tokenizer, caption.text)
        assert prompt.count == len(caption.text.split()) + 2
        assert caption.word is not None
        assert len(word_span(prompt, caption.word)) == len(caption.word.split())
        clear = clear_caption(rng)
        assert clear.word is None
        assert tokenize(tokenizer, clear.text).count == len(clear.text.split()) + 2


def test_each_word_of_the_vocabulary_is_one_token(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(vocabulary(), tmp_path)
    for word in vocabulary():
        assert len(tokenizer(word)["input_ids"]) == 3


def test_token_ids_are_the_same_in_every_run(tmp_path: Path) -> None:
    one, other = (build_tokenizer(vocabulary(), tmp_path / name) for name in ("one", "other"))
    assert one.get_vocab() == other.get_vocab()
    # Ties: "ab" and "cd" are as frequent as each other, whichever word comes first.
    assert (
        learn_merges(["cd", "ab"]) == learn_merges(["ab", "cd"]) == [("a", "b</w>"), ("c", "d</w>")]
    )
    assert learn_merges(["hazy", "haze"])[:2] == [("a", "z"), ("h", "az")]


def test_examples_are_what_their_captions_say() -> None:
    rng = np.random.default_rng(0)
    white = [np.zeros((160, 240, 3), np.float32)]
    kinds = {"swapped": 0, "hazy": 0, "clear": 0}
    for _ in range(400):
        example = draw_example(white, (32, 48), rng)
        assert example.picture.shape == (32, 48, 3)
        assert 0 <= example.picture.min() <= example.picture.max() <= 1
        # Over a black scene any veil is light and no veil is black.
        veiled = float(example.picture.mean()) > 0.01
        if example.swapped:
            kinds["swapped"] += 1
            assert not veiled
            assert example.caption.word is not None
        elif example.caption.word is not None:
            kinds["hazy"] += 1
            assert veiled
        elif example.caption.text:
            kinds["clear"] += 1
            assert not veiled
    assert kinds["swapped"] > 80
    assert kinds["hazy"] > 150
    assert kinds["clear"] > 30


def test_a_density_word_names_the_density() -> None:
    rng = np.random.default_rng(0)
    means: dict[str, list[float]] = {word: [] for word in DENSITY_WORDS}
    for _ in range(800):
        example = draw_example([np.zeros((160, 240, 3), np.float32)], (32, 32), rng)
        words = [word for word in DENSITY_WORDS if word in example.caption.text.split()]
        if words and not example.swapped and example.caption.kind == "haze":
            means[words[0]].append(float(example.picture.mean()))
    levels = [np.mean(means[word]) for word in ("faint", "light", "moderate", "heavy", "dense")]
    assert levels == sorted(levels)


def test_crops_fill_the_working_size() -> None:
    for size in ((32, 48), (48, 32), (32, 56)):
        assert draw_clear(PHOTOS, size, np.random.default_rng(1)).shape == (*size, 3)


def test_validation_and_test_photos_are_never_trained_on(tmp_path: Path) -> None:
    folder = tmp_path / "bsds500"
    folder.mkdir()
    (tmp_path / "sun_hays80").mkdir()
    for name in ("a", "b", "c"):
        cv2.imwrite(str(folder / f"{name}.jpg"), np.zeros((200, 300, 3), np.uint8))
    (folder / "train.txt").write_text("a.jpg\n")
    (folder / "val.txt").write_text("b.jpg\n")
    (folder / "test.txt").write_text("c.jpg\n")
    assert [path.name for path in list_photos(tmp_path)] == ["a.jpg"]
    assert load_photos(list_photos(tmp_path))[0].shape == (160, 240, 3)
    with pytest.raises(FileNotFoundError, match="bsds500"):
        list_photos(folder)


def test_timesteps_lean_towards_the_noise() -> None:
    drawn = draw_timesteps(4000, 1000, torch.Generator().manual_seed(0))
    assert drawn.min() >= 0
    assert drawn.max() <= 999
    assert 600 < float(drawn.float().median()) < 690


def test_the_swap_in_training_is_the_swap_of_the_pipeline(tmp_path: Path) -> None:
    run = Run(tmp_path, TrainingSettings(), "cpu")
    caption = hazy_caption(np.random.default_rng(0))
    picture = np.zeros((32, 48, 3), np.float32)
    kept, swapped = embed_captions(
        run.networks, [Example(picture, caption, False), Example(picture, caption, True)]
    )
    prompt = tokenize(run.networks.tokenizer, caption.text)
    span = list(word_span(prompt, caption.word or ""))
    rest = [row for row in range(32) if row not in span]
    torch.testing.assert_close(kept[rest], swapped[rest])
    assert (kept[span] - swapped[span]).abs().max() > 1e-3


def test_a_run_learns_resumes_where_it_was_and_is_exported(tmp_path: Path) -> None:
    half = TrainingSettings(steps=3, batch_size=4, warmup=2, checkpoint_every=3, decay=0.0)
    interrupted = Run(tmp_path / "run", half, "cpu")
    before = [weight.detach().clone() for weight in interrupted.parameters]
    interrupted.train(separate_batches(PHOTOS, interrupted.networks))
    assert not any(
        torch.equal(old, new) for old, new in zip(before, interrupted.parameters, strict=True)
    )

    whole = TrainingSettings(steps=5, batch_size=4, warmup=2, checkpoint_every=3)
    resumed = Run(tmp_path / "run", whole, "cpu")
    resumed.resume()
    assert resumed.step == 3
    for one, other in zip(interrupted.parameters, resumed.parameters, strict=True):
        assert torch.equal(one, other)
    states = (interrupted.optimizer.state_dict(), resumed.optimizer.state_dict())
    for number, state in states[0]["state"].items():
        for name, value in state.items():
            assert torch.equal(value, states[1]["state"][number][name])
    shadows = (interrupted.average.shadow_params, resumed.average.shadow_params)
    assert all(torch.equal(one, other) for one, other in zip(*shadows, strict=True))
    resumed.train(separate_batches(PHOTOS, resumed.networks))
    assert resumed.step == 5

    size = export(resumed, tmp_path / "model")
    assert size < 25 * 2**20
    pipe = DehazePipeline.from_pretrained(tmp_path / "model")
    assert pipe.description.inversion.spacing == "noisy-end"
    shipped = list(pipe.unet.parameters())
    for weight, average in zip(shipped, resumed.average.shadow_params, strict=False):
        assert torch.equal(weight, average)


def test_the_learning_rate_rises_rests_and_falls_to_nothing() -> None:
    settings = TrainingSettings(steps=100, warmup=10, decay=0.3)
    rates = [settings.learning_rate_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(settings.learning_rate / 10)
    assert rates[10:70] == [settings.learning_rate] * 60
    assert rates[70:] == sorted(rates[70:], reverse=True)
    assert rates[-1] < 0.01 * settings.learning_rate


def test_one_command_trains_resumes_and_exports(tmp_path: Path) -> None:
    for name in ("bsds500", "sun_hays80"):
        (tmp_path / name).mkdir()
    scene = np.random.default_rng(0).integers(0, 255, (200, 300, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "bsds500" / "a.jpg"), scene)
    (tmp_path / "bsds500" / "train.txt").write_text("a.jpg\n")
    arguments = ["train", "--data", str(tmp_path), "--run", str(tmp_path / "run")]
    arguments += ["--batch-size", "2", "--output", str(tmp_path / "model")]
    for steps in ("1", "2"):
        done = CliRunner().invoke(main, [*arguments, "--steps", steps])
        assert done.exit_code == 0, done.output
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] == 2
    assert DehazePipeline.from_pretrained(tmp_path / "model").description.inversion.steps == 6
