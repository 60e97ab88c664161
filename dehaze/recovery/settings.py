"""Every number of the recovery, in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RecoverySettings:
    """How the model's small result reaches the photo's own size.

    Attributes:
        window: half-width, in pixels of the small pictures, of the windows that have one t each.
        alternations: how often t and A are fitted in turn.
        fit_doubt: in squared units of [0, 1]; where the scene has A's own colour, it draws t to the
            whole photo's.
        airlight_pull: weight of the brightest pixels in the fit of A, per pixel of the small
            pictures, beside veils squared.
        brightest: share of the small picture's pixels that are its brightest.
        density_error: mean of 1 - t that the model errs by; haze that is thinner on the whole is
            more likely none.
        least_transmission: in (0, 1]; no t is smaller.
        doubt: r of colours and of what is finer than ``coarse_radius``: the variance of what stands
            beside the scene there, over the scene's own, where all is veil.
        coarse_radius: share of the photo's short side within which luminance is coarse.
        coarse_variance: in squared units of [0, 1]; less variance than this is no edge.
        edge_variance: likewise, where t is given the photo's edges.
        enlarged_variance: likewise, where t is brought to the photo's own size.
        largest_proxy: pixels; filters work at no more than this short side.
    """

    window: int = 2
    alternations: int = 12
    fit_doubt: float = 0.05
    airlight_pull: float = 0.01
    brightest: float = 0.01
    density_error: float = 0.07
    least_transmission: float = 0.1
    doubt: float = 0.04
    coarse_radius: float = 0.03
    coarse_variance: float = 1e-4
    edge_variance: float = 1e-4
    enlarged_variance: float = 1e-5
    largest_proxy: int = 400


RECOVERY = RecoverySettings()
"""What ships: chosen on renderings, see ``python -m training validate``."""
