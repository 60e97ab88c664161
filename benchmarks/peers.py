"""Inversion and editing compared with published methods, in one process on one model.

    python benchmarks/peers.py --photos examples --limit 2 --steps 10 --plot docs/images/peers.png

Each method inverts the same photos under the model's prompt, reconstructs them, and then swaps the
haze word for another, in the same number of steps. A hook counts the rows that the network
evaluates, so a batch of two counts twice. Times are ratios to ``best``, photo by photo. The
methods:

- DDIM + P2P: diffusers' ``DDIMInverseScheduler``, then Prompt-to-Prompt's two branches: the source
  is denoised again, and the target takes its attention;
- FPI + P2P: five fixed-point iterations a step (FPI, arXiv 2312.12540), then the two branches;
- NTI + P2P, with guidance alone: DDIM's inversion, null-text optimisation (arXiv 2211.09794), then
  the branch that it optimised beside the target;
- ours: one branch on the attention that the inversion recorded, after inversions of several costs.

With guidance, fixed points are those of the guided network, as in FPI's code: both branches are
guided, and the source branch reconstructs the photo. DDIM and NTI invert without guidance.

The exact edit is that of two branches after converged fixed points. The last method takes the
bundled model's single denoising step, and so gives another edit than all others.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from diffusers import DDIMInverseScheduler
from numpy.typing import NDArray
from torch import Tensor

from dehaze.attention.control import AttentionControl, prompt_to_prompt
from dehaze.attention.processors import controlled_attention
from dehaze.attention.session import AttentionSession
from dehaze.eval.plots import as_file, import_figure
from dehaze.inversion import DDIMTable, InversionResult
from dehaze.inversion.denoising import denoise
from dehaze.photos import read_photo
from dehaze.pipelines.edit import EditPipeline
from dehaze.pipelines.edit_settings import EditSettings

Array = NDArray[np.float32]
SOURCE, TARGET = "a photo with haze", "a photo with smoke"
FPI = {"solver": "fixed-point", "max_iterations": 5, "tolerance": 1e-12}
EXACT = {"solver": "fixed-point", "max_iterations": 200, "tolerance": 1e-7}
ONCE = {"solver": "fixed-point", "predictor": "ife", "max_iterations": 1}
BEST = "`best`, one branch"


@dataclass
class Cost:
    """The cost of an inversion and an edit together.

    Attributes:
        rows: rows that the network evaluated, for each step.
        seconds: processor time.
    """

    rows: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """The result of a method on a photo.

    Attributes:
        psnr: of the reconstruction, in dB; NaN where the photo was not reconstructed.
        cost: of inversion and edit together.
        edited: the edited latents.
        attention: bytes of the source's attention that were held at a time.
        on_cpu: bytes of it that were held in the CPU's memory.
    """

    psnr: float
    cost: Cost
    edited: Tensor
    attention: int
    on_cpu: int


def held(record: Mapping[str, Tensor]) -> tuple[int, int]:
    """Bytes of the recorded attention: all of them, and those in the CPU's memory."""
    on_cpu = sum(value.nbytes for value in record.values() if value.device.type == "cpu")
    return sum(value.nbytes for value in record.values()), on_cpu


class Peers:
    """The methods, on one pipeline.

    Args:
        pipe: the model, which takes all denoising steps.
        steps: N.
        guidance: classifier-free guidance of the edit.
        brings_back: whether ``fpi`` and ``ours`` reconstruct the photo too, after the edit.
    """

    def __init__(
        self, pipe: EditPipeline, steps: int, guidance: float, *, brings_back: bool = True
    ) -> None:
        self.pipe, self.steps, self.guidance = pipe, steps, guidance
        self.brings_back = brings_back
        self.table = DDIMTable.from_scheduler(pipe.scheduler, steps, "leading")
        self._rows, self._held = 0, (0, 0)
        pipe.unet.register_forward_hook(self._count)

    def _count(self, module: Any, arguments: Any, output: Any) -> None:
        self._rows += output.sample.shape[0]

    @contextmanager
    def counted(self) -> Iterator[Cost]:
        """Inside, rows are counted; the cost is filled in at the end."""
        found = Cost()
        self._rows, before = 0, time.process_time()
        yield found
        found.rows, found.seconds = self._rows / self.steps, time.process_time() - before

    def ddim(self, photo: Array) -> Outcome:
        """DDIM + P2P: diffusers' scheduler, then two branches."""
        with self.counted() as found, torch.no_grad():
            scheduler = DDIMInverseScheduler.from_config(
                self.pipe.scheduler.config, timestep_spacing="leading"
            )
            scheduler.set_timesteps(self.steps)
            z = self.pipe.codec.encode(photo)
            context = self.pipe.prompts.embed(self.pipe.prompts.tokens(SOURCE))
            for t in scheduler.timesteps:
                output = self.pipe.unet(z, t, encoder_hidden_states=context).sample
                z = scheduler.step(output, t, z).prev_sample
            edited = self._two_branches(z)
        network = self.pipe.prompted_network(self.table, SOURCE)
        with torch.no_grad():
            for i in range(self.steps, 0, -1):
                z = self.table.denoise_step(z, network(z, i, torch.arange(1)), i)
        return Outcome(self._psnr(photo, z), found, edited, *self._held)

    def fpi(self, photo: Array, inverting: dict[str, Any]) -> Outcome:
        """FPI + P2P: fixed-point iterations, then two branches."""
        with self.counted() as found:
            inversion = self._inverted(
                photo, record_attention=False, guidance_scale=self.guidance, **inverting
            )
            edited = self._two_branches(inversion.latents)
        return Outcome(self._back(photo, inversion), found, edited, *self._held)

    def nti(self, photo: Array) -> Outcome:
        """NTI + P2P: DDIM and optimised null texts; the edit follows the optimised branch."""
        with self.counted() as found:
            inversion = self._inverted(photo, record_attention=False, solver="ddim")
            anchors = self.pipe.anchor(
                inversion,
                "null-text",
                SOURCE,
                guidance_scale=self.guidance,
                plan=self.pipe.recording(SOURCE, TARGET),
            )
            edited = self.pipe.edit(
                replace(inversion, attention=anchors.attention),
                SOURCE, TARGET, EditSettings(guidance_scale=self.guidance),
            )  # fmt: skip
        network = self.pipe.prompted_network(
            self.table,
            SOURCE,
            guidance_scale=self.guidance,
            unconditional=anchors.unconditional[:, :1],
        )
        back = denoise(inversion, network)
        psnr = self._psnr(photo, back)
        return Outcome(psnr, found, edited.latents, *held(anchors.attention))

    def ours(self, photo: Array, **inverting: Any) -> Outcome:
        """Ours: the settings ``best``, or others, then one branch."""
        settings = None if inverting else self.pipe.description.reconstructing(self.steps)
        plan = self.pipe.recording(SOURCE, TARGET)
        with self.counted() as found:
            inversion = self._inverted(
                photo,
                settings=settings,
                record_attention=plan,
                guidance_scale=self.guidance,
                **inverting,
            )
            edited = self.pipe.edit(
                inversion, SOURCE, TARGET, EditSettings(guidance_scale=self.guidance)
            )
        back = self._back(photo, inversion)
        return Outcome(back, found, edited.latents, *held(inversion.attention))

    def _inverted(self, photo: Array, **settings: Any) -> InversionResult:
        return self.pipe.invert(
            photo, SOURCE, num_inference_steps=self.steps, spacing="leading", **settings
        )

    def _control(self) -> AttentionControl:
        return prompt_to_prompt(self.pipe.prompts.tokens(SOURCE), self.pipe.prompts.tokens(TARGET))

    def _two_branches(self, latents: Tensor) -> Tensor:
        """Prompt-to-Prompt as published: both branches are denoised in one batch, both guided."""
        session = AttentionSession(steps=self.steps)
        networks = [
            self.pipe.prompted_network(
                self.table, prompt, session=session, guidance_scale=self.guidance
            )
            for prompt in (SOURCE, TARGET)
        ]
        everyone = torch.arange(1)
        source = target = latents
        control = self._control()
        with torch.no_grad(), controlled_attention(self.pipe.unet, session):
            for i in range(self.steps, 0, -1):
                session.recording, session.control = True, None
                noise = networks[0](source, i, everyone)
                session.recording, session.control = False, control
                changed = networks[1](target, i, everyone)
                source = self.table.denoise_step(source, noise, i)
                target = self.table.denoise_step(target, changed, i)
                self._held = held(session.record)
                session.record.clear()
        return target

    def _back(self, photo: Array, inversion: InversionResult) -> float:
        """The PSNR of the reconstruction under the source prompt, at the inversion's guidance."""
        if not self.brings_back:
            return math.nan
        network = self.pipe.prompted_network(
            self.table, SOURCE, guidance_scale=inversion.settings.guidance_scale
        )
        with torch.no_grad():
            return self._psnr(photo, denoise(inversion, network))

    def _psnr(self, photo: Array, latents: Tensor) -> float:
        codec = self.pipe.codec
        picture = codec.decode(latents, codec.working_size(photo))
        return float(-10.0 * np.log10(np.mean((picture - codec.reduced(photo)) ** 2)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table, and draws it if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, default=Path("examples"))
    parser.add_argument("--limit", type=int, help="so many photos")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw it too")
    given = parser.parse_args(arguments)
    pipe = EditPipeline.from_pretrained("bundled")
    pipe.set_progress_bar_config(disable=True)
    shipped = Peers(EditPipeline.from_pipe(pipe), given.steps, given.guidance)
    shipped.pipe.set_progress_bar_config(disable=True)
    pipe.description = replace(pipe.description, denoising_steps=None)
    peers = Peers(pipe, given.steps, given.guidance)
    photos = [read_photo(path).pixels for path in sorted(given.photos.glob("*.jpg"))[: given.limit]]
    ways: dict[str, Callable[[Array], Outcome]] = {
        "DDIM + two-branch P2P": peers.ddim,
        "FPI, 5 iterations + two-branch P2P": lambda photo: peers.fpi(photo, FPI),
        "NTI + P2P": peers.nti,
        "one evaluation from IFE's start, one branch": lambda photo: peers.ours(photo, **ONCE),
        BEST: peers.ours,
        "converged fixed points, one branch": lambda photo: peers.ours(photo, **EXACT),
        "`best`, the model's own way back": shipped.ours,
    }
    if given.guidance == 1.0:
        # Without guidance, null-text inversion has nothing to optimise.
        del ways["NTI + P2P"]
    outcomes: dict[str, list[Outcome]] = {name: [] for name in ways}
    apart: dict[str, list[float]] = {name: [] for name in ways}
    for photo in photos:
        # The exact edit: Prompt-to-Prompt after an inversion without error.
        exact = peers.fpi(photo, EXACT).edited
        for name, way in ways.items():
            outcome = way(photo)
            outcomes[name].append(outcome)
            apart[name].append(float((outcome.edited - exact).norm() / exact.norm()))
    print(f"{len(photos)} photos, {given.steps} steps, guidance {given.guidance:g}")
    print()
    print("| way | back, dB | rows a step | time | attention held, MB | from the exact edit |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    rows = {name: mean(one.cost.rows for one in found) for name, found in outcomes.items()}
    errors = {name: mean(each) for name, each in apart.items()}
    for name, found in outcomes.items():
        ratio = mean(
            one.cost.seconds / own.cost.seconds
            for one, own in zip(found, outcomes[BEST], strict=True)
        )
        attention = mean(one.attention for one in found) / 1e6
        print(
            f"| {name} | {mean(one.psnr for one in found):.1f} | {rows[name]:.2f} | {ratio:.2f} | "
            f"{attention:.1f} | {100 * errors[name]:.2g} % |"
        )
    if given.plot is not None:
        draw(given.plot, rows, errors)


def draw(path: Path, rows: dict[str, float], errors: dict[str, float]) -> None:
    """Draws the distance of each method's edit from the exact one against the evaluated rows."""
    figure = import_figure()(figsize=(7.0, 4.0), layout="constrained")
    axes = figure.add_subplot()
    for name, count in rows.items():
        axes.plot(count, 100.0 * errors[name], "o", label=name)
    axes.set_yscale("log")
    axes.set_xlim(left=0.0)
    axes.set_xlabel("rows that the network evaluates, a step")
    axes.set_ylabel("from the exact edit, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    path.write_bytes(as_file(figure, "png", dpi=110))


if __name__ == "__main__":
    main()
