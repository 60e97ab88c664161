"""The model under a prompt: latents and step in, predicted noise out."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from dehaze.attention.session import AttentionSession
from dehaze.errors import DehazeError
from dehaze.inversion.flow import FlowTable
from dehaze.inversion.schedule import StepTable
from dehaze.models.conditioning import network_output
from dehaze.models.kinds import has_distilled_guidance

HALF_PRECISION = (torch.float16, torch.bfloat16)

logger = logging.getLogger(__name__)

_turns: WeakKeyDictionary[Any, threading.RLock] = WeakKeyDictionary()


class NonFiniteError(DehazeError, ArithmeticError):
    """The network returned a value that is not finite."""


def turn_of(module: Any) -> threading.RLock:
    """The lock under which a network or codec is evaluated in half precision.

    One thread at a time holds it, because an evaluation that overflows puts the whole network into
    float32 and back.
    """
    return _turns.setdefault(module, threading.RLock())


@contextmanager
def in_single_precision(module: Any) -> Iterator[None]:
    """Puts a network or codec in half precision into float32, and back; hold its ``turn_of``."""
    dtype = module.dtype
    module.float()
    try:
        yield
    finally:
        module.to(dtype)


def is_guided(guidance_scale: float | Tensor) -> bool:
    """Whether guidance differs from 1 anywhere, so that the unconditional prediction counts."""
    return not bool((torch.as_tensor(guidance_scale) == 1.0).all())


class PromptedNetwork:
    """A model's noise prediction under one prompt, with classifier-free guidance.

    eps(z, i) = eps_u(z, i) + g (eps_c(z, i) - eps_u(z, i)), with c the prompt's embedding and u the
    unconditional one. With g = 1 eps_u is never evaluated.

    It belongs to one call of a pipeline and counts that call's evaluations.

    Args:
        unet: UNet2DConditionModel, SD3Transformer2DModel or FluxTransformer2DModel.
        table: the schedule.
        conditional: the prompt's embedding, (1, L, D) for all samples; with further rows where the
            model needs them, see ``dehaze.models.conditioning``.
        unconditional: the empty prompt's embedding, the same shape. Not used where g = 1.
        guidance_scale: g, a number, or a map that broadcasts to (B, C, h, w). A network whose
            guidance is distilled into it, as FLUX.1-dev's is, takes the number and has no eps_u.
        unconditional_of_steps: (n, 1, L, D), or (n, B, L, D) for an embedding of each sample's own;
            replaces ``unconditional`` at step i by row i - 1.
        max_tokens: length of the model's prompts, L.
        pixels_per_latent: pixels on a side of one position of the latents.
        session: the attention session that is told of each evaluation; None where attention is
            left alone.
        controlled: whether the session records and injects during these evaluations.
        in_two_calls: evaluate both predictions of guidance one after the other, which takes half
            the memory and more time, rather than as one batch.

    Raises:
        ValueError: a map of guidance for a network that takes a number.

    Attributes:
        cost: network evaluations of a sample in one call: 1, or 2 under guidance.
        evaluations: network evaluations of each sample so far.

    Source: classifier-free guidance, Ho and Salimans, arXiv 2207.12598.
    """

    def __init__(
        self,
        unet: Any,
        table: StepTable,
        conditional: Tensor,
        unconditional: Tensor,
        *,
        guidance_scale: float | Tensor = 1.0,
        unconditional_of_steps: Tensor | None = None,
        max_tokens: int,
        pixels_per_latent: int,
        session: AttentionSession | None = None,
        controlled: bool = True,
        in_two_calls: bool = False,
    ) -> None:
        self.table: StepTable = table
        self.conditional = conditional
        self.unconditional = unconditional
        self.guidance_scale = guidance_scale
        distilled = has_distilled_guidance(unet)
        if distilled and isinstance(guidance_scale, Tensor):
            raise ValueError(
                "this model's guidance is distilled into it: it takes one number, not a map of them"
            )
        self.cost = 2 if is_guided(guidance_scale) and not distilled else 1
        self.evaluations = 0
        self._unet = unet
        self._turn = turn_of(unet)
        # Read once, since diffusers searches all parts of the network, and under the lock, since an
        # overflow in another thread changes it meanwhile.
        with self._turn:
            self._dtype: torch.dtype = unet.dtype
        self._unconditional_of_steps = unconditional_of_steps
        self._max_tokens = max_tokens
        self._pixels_per_latent = pixels_per_latent
        self._session = session
        self._controlled = controlled
        self._in_two_calls = in_two_calls

    def __call__(self, latents: Tensor, i: int, index: Tensor) -> Tensor:
        """The noise in some samples of a batch at step i.

        Args:
            latents: z, float (b, C, h, w).
            i: the step, 1 .. N.
            index: int64 (b,), the samples' positions in the batch.

        Returns:
            eps(z, i), of the shape and data type of ``latents``.

        Raises:
            NonFiniteError: the network returned a value that is not finite.
        """
        self._announce(latents, i, index)
        if self.cost == 1:
            return self.noise_under(self.conditional, latents, i, controlled=self._controlled)
        empty = self.unconditional
        if self._unconditional_of_steps is not None:
            empty = self._unconditional_of_steps[i - 1]
            empty = empty if len(empty) == 1 else empty[index]
        if self._in_two_calls:
            noise = self.noise_under(self.conditional, latents, i, controlled=self._controlled)
            without = self.noise_under(empty, latents, i)
        else:
            noise, without = self._noise_under_both(empty, latents, i)
        return without + self.guidance_scale * (noise - without)

    def at(self, latents: Tensor, i: int, index: Tensor, sigma: float) -> Tensor:
        """The velocity of a flow at any sigma, in [0, 1], in the course of step i.

        The attention session is told of step i. Other arguments and errors as for a call.

        Raises:
            TypeError: the schedule is not a flow's.
        """
        table = self.table
        if not isinstance(table, FlowTable):
            raise TypeError("only a flow is evaluated between its steps")
        self.table = table.told(i, sigma)
        try:
            return self(latents, i, index)
        finally:
            self.table = table

    def recorded_noise(self, latents: Tensor, i: int) -> Tensor:
        """The noise of a whole batch at step i under the prompt, without guidance.

        The attention session records and injects, where there is one.

        Args:
            latents: z, float (B, C, h, w).
            i: the step.

        Raises:
            NonFiniteError: the network returned a value that is not finite.
        """
        self._announce(latents, i, torch.arange(len(latents), device=latents.device))
        return self.noise_under(self.conditional, latents, i, controlled=self._controlled)

    def _announce(self, latents: Tensor, i: int, index: Tensor) -> None:
        """Tells the session which samples are evaluated, and at which step."""
        session = self._session
        if session is not None:
            session.step, session.index = i, index
            session.latent_size = (int(latents.shape[-2]), int(latents.shape[-1]))

    def noise_under(
        self, embedding: Tensor, latents: Tensor, i: int, *, controlled: bool = False
    ) -> Tensor:
        """The noise at step i under any embedding, without guidance.

        Args:
            embedding: (1, L, D).
            latents: z, float (b, C, h, w).
            i: the step.
            controlled: whether the attention session records and injects.

        Raises:
            NonFiniteError: the network returned a value that is not finite.
        """
        self.evaluations += 1
        return self._noise(embedding.expand(len(latents), -1, -1), latents, i, controlled)

    def _noise_under_both(self, empty: Tensor, latents: Tensor, i: int) -> tuple[Tensor, Tensor]:
        """The noise under the prompt and under the empty one, as one batch of 2 b rows."""
        count, session = len(latents), self._session
        embeddings = [row.expand(count, -1, -1) for row in (self.conditional, empty)]
        with nullcontext() if session is None else session.leading(count):
            both = self._noise(
                torch.cat(embeddings), torch.cat([latents, latents]), i, self._controlled
            )
        self.evaluations += 2
        return both[:count], both[count:]

    def _noise(self, embedding: Tensor, latents: Tensor, i: int, controlled: bool) -> Tensor:
        """The noise of each row under its own embedding (b, L, D)."""
        session = self._session
        paused = nullcontext() if controlled or session is None else session.paused()
        turn = self._turn if self._dtype in HALF_PRECISION else nullcontext()
        with turn, paused:
            output = self._output(embedding, latents, i)
        return self.table.predicted_noise(output, latents, i)

    def _output(self, embedding: Tensor, latents: Tensor, i: int) -> Tensor:
        """The network's own output, of the data type of ``latents``, (b, C, h, w), finite.

        Samples that overflow in half precision, and no others, are evaluated again in float32.
        """
        session, timestep = self._session, self.table.timestep(i)
        embedding = embedding.to(self._dtype)
        made = self._evaluated(embedding, latents.to(self._dtype), timestep)
        output = made.float().to(latents.dtype)
        # An accelerator is waited for once, where all is well.
        if _is_finite(output):
            return output
        if made.dtype in HALF_PRECISION:
            overflowed = torch.nonzero(~torch.isfinite(output).flatten(1).all(1)).flatten()
            with nullcontext() if session is None else session.narrowed(overflowed):
                output[overflowed] = self._output_in_single_precision(
                    embedding[overflowed], latents[overflowed], timestep
                ).to(output.dtype)
            if _is_finite(output):
                return output
        cure = (
            "run it in float32"
            if made.dtype in HALF_PRECISION
            else "the latents diverge: try less guidance, fewer iterations or another solver"
        )
        raise NonFiniteError(
            f"the network's output at step {i} (timestep {timestep:g}) is not finite: {cure}"
        )

    def _output_in_single_precision(
        self, embedding: Tensor, latents: Tensor, timestep: float
    ) -> Tensor:
        unet = self._unet
        logger.warning("timestep %g is not finite in %s: again in float32", timestep, unet.dtype)
        with in_single_precision(unet):
            return self._evaluated(embedding.float(), latents.float(), timestep)

    def _evaluated(self, embedding: Tensor, latents: Tensor, timestep: float) -> Tensor:
        height, width = (int(side) * self._pixels_per_latent for side in latents.shape[-2:])
        guidance = self.guidance_scale
        return network_output(
            self._unet,
            latents,
            timestep,
            embedding,
            self._max_tokens,
            (height, width),
            1.0 if isinstance(guidance, Tensor) else guidance,
        )


def _is_finite(values: Tensor) -> bool:
    return bool(torch.isfinite(values).all())
