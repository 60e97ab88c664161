from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from dehaze.recovery.guided_filter import resize
from dehaze.recovery.recover import recover_by_physics, recover_calibrated
from dehaze.recovery.scattering import scatter
from dehaze.recovery.sky import sky_protection

Array = NDArray[np.float32]
AIRLIGHT = np.array([0.85, 0.86, 0.88], dtype=np.float32)


def thin(photo: Array) -> Array:
    return np.full(photo.shape[:2], 0.7, dtype=np.float32)


def street(sky: tuple[float, float, float], share: float = 0.35) -> Array:
    """A smooth sky over textured houses, (120, 160, 3)."""
    rng = np.random.default_rng(0)
    photo = 0.6 * rng.random((120, 160, 3)).astype(np.float32)
    photo[: round(share * 120)] = sky
    return photo


def test_only_the_sky_is_protected() -> None:
    clear = street((0.85, 0.85, 0.86))
    protection = sky_protection(clear, clear, thin(clear), AIRLIGHT)
    assert protection.shape == (120, 160)
    assert protection[5:35].min() > 0.6
    assert protection[50:].max() < 0.05
    assert protection.max() <= 0.8


def test_a_sky_that_becomes_blue_may() -> None:
    photo = street((0.8, 0.83, 0.87))
    blue, grey = street((0.2, 0.45, 0.8)), street((0.5, 0.5, 0.45))
    assert sky_protection(photo, blue, thin(photo), AIRLIGHT)[5:35].max() < 0.05
    assert sky_protection(photo, grey, thin(photo), AIRLIGHT)[5:35].min() > 0.6


def test_a_bright_wall_below_is_no_sky() -> None:
    photo = street((0.85, 0.85, 0.86))[::-1].copy()
    assert sky_protection(photo, photo, thin(photo), AIRLIGHT).max() < 0.05


def test_under_a_dense_veil_a_smooth_top_may_be_haze() -> None:
    photo = street((0.85, 0.85, 0.86))
    thick = np.full(photo.shape[:2], 0.3, dtype=np.float32)
    light, dense = (sky_protection(photo, photo, t, AIRLIGHT)[5:35] for t in (thin(photo), thick))
    assert 0.05 < dense.max() < 0.2 * light.min()


def test_pictures_of_two_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"120.*60"):
        sky_protection(street((1, 1, 1)), street((1, 1, 1))[:60], thin(street((1, 1, 1))), AIRLIGHT)


def test_a_vignette_in_the_sky_is_not_made_black() -> None:
    clear = street((0.86, 0.86, 0.86))
    # The veil is thin over the houses and thick over the sky, whose corner is a little darker.
    transmission = np.repeat(np.linspace(0.2, 0.95, 120, dtype=np.float32)[:, None], 160, axis=1)
    hazy = scatter(clear, transmission, AIRLIGHT)
    hazy[:42] -= np.linspace(0.06, 0.0, 160, dtype=np.float32)[None, :, None]
    low = (resize(hazy, (32, 43)), resize(clear, (32, 43)))
    corner = (slice(2, 20), slice(2, 20))
    plain, protected = (
        recover(hazy, *low).image[corner].mean()
        for recover in (recover_by_physics, recover_calibrated)
    )
    seen = hazy[corner].mean()
    assert plain < seen - 0.03
    assert protected > seen - 0.01
