"""The NTIRE challenges' sets, taken with real haze machines: O-HAZE, I-HAZE, Dense-Haze, NH-HAZE.

Sources: Ancuti, Ancuti, Timofte and De Vleeschouwer, "O-HAZE", CVPR Workshops 2018, and "I-HAZE",
ACIVS 2018; Ancuti, Ancuti, Sbert and Timofte, "Dense-Haze", ICIP 2019; Ancuti, Ancuti and Timofte,
"NH-HAZE", CVPR Workshops 2020.
"""

from __future__ import annotations

import re

from dehaze.datasets.registry import BenchmarkDataset, register_dataset


class _NTIRE(BenchmarkDataset):
    """``01_outdoor_hazy`` beside ``01_outdoor_GT``; repackaged copies carry identical names."""

    _ROLE = re.compile(r"_(?:hazy|gt)$", re.IGNORECASE)

    @classmethod
    def scene_of_hazy(cls, stem: str) -> str | None:
        return cls._ROLE.sub("", stem)

    @classmethod
    def scene_of_clear(cls, stem: str) -> str | None:
        return cls._ROLE.sub("", stem)


@register_dataset
class OHaze(_NTIRE):
    """45 outdoor scenes of many megapixels."""

    name = "o-haze"
    title = "O-HAZE (45 pairs)"
    published = "https://data.vision.ee.ethz.ch/cvl/ntire18/o-haze/"
    layout = "O-HAZE/{hazy/01_outdoor_hazy.jpg, GT/01_outdoor_GT.jpg}"
    locations = ("O-HAZE", "O_HAZE", "OHAZE", "O-HAZY")


@register_dataset
class IHaze(_NTIRE):
    """30 to 35 indoor scenes of many megapixels."""

    name = "i-haze"
    title = "I-HAZE (30 to 35 pairs)"
    published = "https://data.vision.ee.ethz.ch/cvl/ntire18/i-haze/"
    layout = "I-HAZE/{hazy/01_indoor_hazy.jpg, GT/01_indoor_GT.jpg}"
    locations = ("I-HAZE", "I_HAZE", "IHAZE", "I-HAZY")


@register_dataset
class DenseHaze(_NTIRE):
    """55 scenes under dense, even haze."""

    name = "dense-haze"
    title = "Dense-Haze (55 pairs of 1600x1200)"
    published = "https://data.vision.ee.ethz.ch/cvl/ntire19/dense-haze/"
    layout = "Dense-Haze/{hazy/01_hazy.png, GT/01_GT.png}"
    locations = ("Dense-Haze", "Dense_Haze", "DenseHaze")


@register_dataset
class NHHaze(_NTIRE):
    """55 scenes under haze of uneven density."""

    name = "nh-haze"
    title = "NH-HAZE (55 pairs of 1600x1200)"
    published = "https://data.vision.ee.ethz.ch/cvl/ntire20/nh-haze/"
    layout = "NH-HAZE/{hazy/01_hazy.png, GT/01_GT.png}"
    locations = ("NH-HAZE", "NH_HAZE", "NHHAZE")
