"""Haze4K: 4,000 rendered pictures.

Source: Liu et al., "From Synthetic to Real: Image Dehazing Collaborating with Unlabeled Real Data",
ACM Multimedia 2021.
"""

from __future__ import annotations

from dehaze.datasets.registry import BenchmarkDataset, register_dataset


class _Haze4K(BenchmarkDataset):
    """``1_0.89_1.56`` beside ``1``, or identical names in ``IN`` and ``GT``.

    In both layouts the scene is the part before the first underscore.
    """

    title = "Haze4K (3,000 training and 1,000 test pairs)"
    published = "https://github.com/liuye123321/DMT-Net"

    @classmethod
    def scene_of_hazy(cls, stem: str) -> str | None:
        return stem.split("_", 1)[0]

    @classmethod
    def scene_of_clear(cls, stem: str) -> str | None:
        return stem.split("_", 1)[0]


@register_dataset
class Haze4KTrain(_Haze4K):
    """The training pairs."""

    name = "haze4k-train"
    layout = "Haze4K/train/{haze/1_0.89_1.56.png, gt/1.png} or Haze4K/train/{IN, GT}/1.png"
    locations = ("Haze4K/train", "Haze4K-T/train")


@register_dataset
class Haze4KTest(_Haze4K):
    """The test pairs."""

    name = "haze4k-test"
    layout = "Haze4K/test/{haze/1_0.89_1.56.png, gt/1.png} or Haze4K/test/{IN, GT}/1.png"
    locations = ("Haze4K/test", "Haze4K-T/test")
