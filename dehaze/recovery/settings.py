"""Every number of the recovery, in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RecoverySettings:
    """How the model's small result reaches the photo's own size.

    Attributes:
        window: half-width, in pixels of the small pictures, of the windows that have one t each,
            and in which lightness is compared.
        alternations: how often t and A are fitted in turn.
        transmission_weight: weight by which the fit draws t to that of the whole photo, in squared
            units of [0, 1]. It decides where the scene has A's own colour.
        airlight_weight: weight by which the fit draws A to the brightest pixels, per pixel of the
            small pictures, in units of (1 - t)^2.
        brightest: share of the small picture's pixels that count as its brightest.
        density_error: the model's error of a photo's mean density, mean(1 - t). Haze that is
            thinner is taken for none.
        least_transmission: lower bound of t, in (0, 1].
        noise_ratio: r, the variance of noise over that of the scene in colours and fine detail, at
            t = 0.
        coarse_radius: radius of the window that smooths luminance, as a share of the photo's short
            side.
        coarse_variance: variance in a window below which luminance is smoothed, in squared units
            of [0, 1].
        edge_variance: likewise, for giving t the photo's edges.
        enlarged_variance: likewise, for bringing t to the photo's own size.
        largest_proxy: largest short side at which filters work, in pixels.
    """

    window: int = 2
    alternations: int = 12
    transmission_weight: float = 0.05
    airlight_weight: float = 0.01
    brightest: float = 0.01
    density_error: float = 0.07
    least_transmission: float = 0.05
    noise_ratio: float = 0.04
    coarse_radius: float = 0.03
    coarse_variance: float = 1e-4
    edge_variance: float = 1e-4
    enlarged_variance: float = 1e-5
    largest_proxy: int = 400


RECOVERY = RecoverySettings()
"""The settings that ship: chosen on renderings, see ``python -m training validate``."""
