"""Inversion and editing beside the ways of the published codes, in one process on one model.

    python benchmarks/peers.py --photos examples --steps 20

Each way inverts the same photos under the model's prompt and brings them back, then swaps the haze
word for another. Rows that the network evaluates are counted by a hook on it, so that a batch of
two counts twice. Times are ratios to the last way, photo by photo. The ways:

- FPI + P2P: five fixed-point iterations a step (FPI, arXiv 2312.12540), then Prompt-to-Prompt's two
  branches: the source is denoised again beside the target, which takes its attention from there;
- NTI + P2P: DDIM's inversion, null-text optimisation (arXiv 2211.09794), Prompt-to-Prompt;
- ours: ``ModelDescription.reconstructing``, and one branch on the recorded attention.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dehaze.attention.control import AttentionControl, prompt_to_prompt
from dehaze.attention.processors import AttentionSession, controlled_attention
from dehaze.inversion import DDIMTable, InversionResult
from dehaze.inversion.denoising import denoise
from dehaze.photos import read_photo
from dehaze.pipelines.edit import EditPipeline
from dehaze.pipelines.edit_settings import EditSettings

Array = NDArray[np.float32]
SOURCE, TARGET = "a photo with haze", "a photo with smoke"
FPI = {"solver": "fixed-point", "max_iterations": 5, "tolerance": 1e-12}
EXACT = {"solver": "fixed-point", "max_iterations": 200, "tolerance": 1e-7}


@dataclass
class Cost:
    """Of an inversion and an edit together.

    Attributes:
        rows: that the network evaluated, a step.
        seconds: processor time.
    """

    rows: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What a way did with a photo.

    Attributes:
        psnr: of the picture that came back, in dB, to the one that was inverted.
        rows: that the network evaluated, a step: of inversion and edit together.
        seconds: processor time of the two.
        edited: the edited latents.
    """

    psnr: float
    rows: float
    seconds: float
    edited: Tensor


class Peers:
    """The ways, on one pipeline.

    Args:
        pipe: the model.
        steps: N.
        guidance: classifier-free guidance of the edit.
    """

    def __init__(self, pipe: EditPipeline, steps: int, guidance: float) -> None:
        self.pipe, self.steps, self.guidance = pipe, steps, guidance
        self.table = DDIMTable.from_scheduler(pipe.scheduler, steps, "leading")
        self._rows = 0
        pipe.unet.register_forward_hook(self._count)

    def _count(self, module: Any, arguments: Any, output: Any) -> None:
        self._rows += output.sample.shape[0]

    @contextmanager
    def counted(self) -> Iterator[Cost]:
        """Inside, rows are counted; then the cost holds what it took."""
        found = Cost()
        self._rows, before = 0, time.process_time()
        yield found
        found.rows, found.seconds = self._rows / self.steps, time.process_time() - before

    def fpi(self, photo: Array, inverting: dict[str, Any]) -> Outcome:
        """Fixed-point iterations, and two branches on the way back."""
        with self.counted() as found:
            inversion = self._inverted(photo, record_attention=False, **inverting)
            edited = self._two_branches(inversion)
        return Outcome(self._back(photo, inversion), found.rows, found.seconds, edited)

    def nti(self, photo: Array) -> Outcome:
        """DDIM's inversion and optimised null texts; the edit follows the optimised branch."""
        with self.counted() as found:
            inversion = self._inverted(photo, solver="ddim")
            anchors = self.pipe.anchor(inversion, "null-text", SOURCE, guidance_scale=self.guidance)
            edited = self.pipe.edit(
                replace(inversion, attention=anchors.attention or inversion.attention),
                SOURCE, TARGET, EditSettings(guidance_scale=self.guidance),
            )  # fmt: skip
        network = self.pipe.prompted_network(
            self.table,
            SOURCE,
            guidance_scale=self.guidance,
            unconditional=anchors.unconditional[:, :1],
        )
        back = denoise(inversion, network)
        return Outcome(self._psnr(photo, back), found.rows, found.seconds, edited.latents)

    def ours(self, photo: Array, **inverting: Any) -> Outcome:
        """What reconstructs best for its cost, or other settings; one branch."""
        settings = None
        if not inverting:
            settings = self.pipe.description.reconstructing(self.steps)
            settings = replace(settings, spacing="leading")
        with self.counted() as found:
            inversion = (
                self._inverted(photo, **inverting)
                if settings is None
                else self.pipe.invert(photo, SOURCE, settings=settings)
            )
            edited = self.pipe.edit(
                inversion, SOURCE, TARGET, EditSettings(guidance_scale=self.guidance)
            )
        return Outcome(self._back(photo, inversion), found.rows, found.seconds, edited.latents)

    def _inverted(self, photo: Array, **settings: Any) -> InversionResult:
        return self.pipe.invert(
            photo, SOURCE, num_inference_steps=self.steps, spacing="leading", **settings
        )

    def _control(self) -> AttentionControl:
        return prompt_to_prompt(self.pipe.prompts.tokens(SOURCE), self.pipe.prompts.tokens(TARGET))

    def _two_branches(self, inversion: InversionResult) -> Tensor:
        """Prompt-to-Prompt as published: both branches are denoised side by side, both guided."""
        session = AttentionSession(steps=self.steps)
        networks = [
            self.pipe.prompted_network(
                self.table, prompt, session=session, guidance_scale=self.guidance
            )
            for prompt in (SOURCE, TARGET)
        ]
        everyone = torch.arange(1)
        source = target = inversion.latents
        control = self._control()
        with torch.no_grad(), controlled_attention(self.pipe.unet, session):
            for i in range(self.steps, 0, -1):
                session.recording, session.control = True, None
                noise = networks[0](source, i, everyone)
                session.recording, session.control = False, control
                changed = networks[1](target, i, everyone)
                source = self.table.denoise_step(source, noise, i)
                target = self.table.denoise_step(target, changed, i)
                session.record.clear()
        return target

    def _back(self, photo: Array, inversion: InversionResult) -> float:
        """By the network under the source prompt, at guidance 1."""
        network = self.pipe.prompted_network(self.table, SOURCE)
        with torch.no_grad():
            return self._psnr(photo, denoise(inversion, network))

    def _psnr(self, photo: Array, latents: Tensor) -> float:
        codec = self.pipe.codec
        picture = codec.decode(latents, codec.working_size(photo))
        return float(-10.0 * np.log10(np.mean((picture - codec.reduced(photo)) ** 2)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, default=Path("examples"))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=1.0)
    given = parser.parse_args(arguments)
    pipe = EditPipeline.from_pretrained("bundled")
    pipe.set_progress_bar_config(disable=True)
    peers = Peers(pipe, given.steps, given.guidance)
    photos = [read_photo(path).pixels for path in sorted(given.photos.glob("*.jpg"))]
    ways: dict[str, Callable[[Array], Outcome]] = {
        "FPI, 5 iterations + two-branch P2P": lambda photo: peers.fpi(photo, FPI),
        "NTI + P2P": peers.nti,
        "converged fixed points, one branch": lambda photo: peers.ours(photo, **EXACT),
        "ours": peers.ours,
    }
    peers.ours(photos[0])
    outcomes: dict[str, list[Outcome]] = {name: [] for name in ways}
    apart: dict[str, list[float]] = {name: [] for name in ways}
    for photo in photos:
        # What Prompt-to-Prompt gives where the inversion has no error left.
        exact = peers.fpi(photo, EXACT).edited
        for name, way in ways.items():
            outcome = way(photo)
            outcomes[name].append(outcome)
            apart[name].append(float((outcome.edited - exact).norm() / exact.norm()))
    print(f"{len(photos)} photos, {given.steps} steps, guidance {given.guidance:g}")
    print("| way | back, dB | rows a step | time | from the exact edit |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, found in outcomes.items():
        ratio = mean(
            one.seconds / own.seconds for one, own in zip(found, outcomes["ours"], strict=True)
        )
        difference = 100 * mean(apart[name])
        print(
            f"| {name} | {mean(one.psnr for one in found):.1f} | "
            f"{mean(one.rows for one in found):.1f} | {ratio:.2f} | {difference:.3g} % |"
        )


if __name__ == "__main__":
    main()
