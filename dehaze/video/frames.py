"""Dehazes the frames of a clip one by one, each with what the frames before it say."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dehaze import ranges
from dehaze.attention.control import AttentionControl
from dehaze.attention.session import RecordingPlan
from dehaze.inversion import InversionResult
from dehaze.inversion.solvers import idle_settings
from dehaze.pipelines.dehazing import NULL_TEXTS, Dehazing
from dehaze.pipelines.strength import check_strength
from dehaze.recovery.exposure import lighten, slope_to_photo
from dehaze.recovery.recover import ProxyEstimate, estimate_by_physics, recover_through
from dehaze.video.smoothing import Past, begin, follow, weight_of

Array = NDArray[np.float32]

# The next inversion starts from the last one only if more than this share of the steps met the
# tolerance. Other steps take all their iterations wherever they start, and their result depends on
# the start.
_LEAST_STOPPED = 0.5


@dataclass(frozen=True)
class FrameSettings:
    """How the frames of a clip are dehazed; None leaves a setting to the model.

    Attributes:
        prompt, word, null_text, strength, exposure: as in ``DehazePipeline``'s call, one strength
            for all of a frame.
        num_inference_steps, solver, criterion, max_iterations, tolerance: of the inversion.
    """

    prompt: str | None = None
    word: str | None = None
    null_text: str = "embedding"
    strength: float = 1.0
    exposure: float = 0.0
    num_inference_steps: int | None = None
    solver: str | None = None
    criterion: str | None = None
    max_iterations: int | None = None
    tolerance: float | None = None

    def __post_init__(self) -> None:
        check_strength(self.strength)
        ranges.EXPOSURE.check(self.exposure)
        NULL_TEXTS.get(self.null_text)


@dataclass(frozen=True)
class FrameResult:
    """A frame without its haze.

    Attributes:
        image: float32 (H, W, 3) RGB in [0, 1].
        evaluations: of the network, that it took.
        is_first: whether a shot begins with it: the first frame, and the one after a cut.
    """

    image: Array
    evaluations: int
    is_first: bool


@dataclass(frozen=True)
class Memory:
    """What the next frame needs of the frames before it.

    Attributes:
        past: of ``dehaze.video.smoothing``.
        start: the last frame's inversion, without its attention.
        slope: by which the last frame was lightened, see ``dehaze.recovery.exposure.lighten``.
    """

    past: Past
    start: InversionResult
    slope: float = 1.0


class FrameDehazer:
    """Takes the frames of a clip in their order, and returns each without its haze.

    Density and airlight are smoothed over time, see ``dehaze.video.smoothing``. An inversion starts
    from that of the frame before where the camera stands still and the steps converge.

    Args:
        pipe: a pipeline that dehazes photos.
        settings: how.

    Attributes:
        memory: of the frames so far, None before the first one. It can be kept and put back.

    Raises:
        WordError: the word is not in the prompt.
        ValueError: a setting is unknown or out of range.

    Example:
        >>> from dehaze import DehazePipeline, FrameDehazer
        >>> dehazer = FrameDehazer(DehazePipeline.from_pretrained("bundled"))
        >>> frame = np.full((40, 60, 3), 0.6, np.float32)
        >>> dehazer(frame, time=0.0).image.shape
        (40, 60, 3)
    """

    def __init__(self, pipe: Dehazing, settings: FrameSettings | None = None) -> None:
        self.settings = ranges.check_settings(settings, FrameSettings())
        self.memory: Memory | None = None
        self._pipe = pipe
        pipe.check_prompt(self.settings.prompt, self.settings.word)
        needs = pipe.description
        self._inversion = needs.inversion.changed(
            steps=self.settings.num_inference_steps,
            guidance_scale=1.0,
            solver=self.settings.solver,
            criterion=self.settings.criterion,
            max_iterations=self.settings.max_iterations,
            tolerance=self.settings.tolerance,
        )
        self._control = AttentionControl(needs.cross_replace_steps, needs.self_replace_steps)
        # A clip has no maps, so only what the way back needs is recorded.
        self._plan = RecordingPlan(self._control, self._inversion.inverted_steps, ())
        self._iterates = (
            self._inversion.max_iterations > 1
            and "max_iterations" not in idle_settings(self._inversion.solver)
        )

    def __call__(self, frame: Array, time: float) -> FrameResult:
        """Dehazes the next frame.

        Args:
            frame: float32 (H, W, 3) RGB in [0, 1], upright; of any size.
            time: when it is shown, in seconds; not before the last one's.

        Raises:
            NonFiniteError: the network returned values that are not finite.
        """
        inversion, estimate, evaluations = self._estimate(frame)
        before = self.memory
        if before is None:
            past = begin(frame, estimate, time)
        else:
            past = follow(before.past, frame, estimate, time)
        scene = recover_through(past.mean, past.estimate).image
        slope = 1.0
        if self.settings.exposure > 0.0:
            slope = slope_to_photo(scene, past.mean) ** self.settings.exposure
            if before is not None and past.frames > 1:
                share = max(weight_of(time - before.past.time), 1.0 / past.frames)
                slope = before.slope * (slope / before.slope) ** share
            scene = lighten(scene, slope)
        # The frame's noise is added as it is, not divided by t.
        scene += frame - past.mean
        self.memory = Memory(past, replace(inversion, attention={}), slope)
        image = np.clip(scene, 0.0, 1.0, out=scene)
        return FrameResult(image, evaluations, is_first=past.frames == 1)

    def _estimate(self, frame: Array) -> tuple[InversionResult, ProxyEstimate, int]:
        """A frame's inversion, the estimate of its haze, and the evaluations that they took."""
        settings, pipe = self.settings, self._pipe
        inversion = pipe.invert(
            frame,
            settings.prompt,
            settings.word,
            settings=self._inversion,
            record_attention=self._plan,
            start=self._start(frame),
        )
        latents, swapping = pipe.swap_word(
            inversion,
            settings.prompt,
            settings.word,
            null_text=settings.null_text,
            strength=settings.strength,
            guidance_scale=self._inversion.guidance_scale,
            control=self._control,
        )
        size = pipe.codec.working_size(frame)
        hazy, clear = (
            pipe.codec.decode_all(each, size) for each in (inversion.trajectory[0], latents)
        )
        estimate = estimate_by_physics(frame, hazy, clear)
        return inversion, estimate, int(inversion.trace.nfe.sum()) + swapping

    def _start(self, frame: Array) -> InversionResult | None:
        """The last frame's inversion, if starting from it saves evaluations."""
        if self.memory is None or not self._iterates:
            return None
        start = self.memory.start
        fits = start.latent_size == self._pipe.codec.latent_size(frame)
        ended = float(start.trace.stopped.float().mean()) > _LEAST_STOPPED
        gains = self.memory.past.is_still and ended
        return self._pipe.placed(start) if fits and gains else None
