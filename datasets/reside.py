"""RESIDE: SOTS, HSTS, ITS, OTS, RTTS, URHI, and the 6K selection made of it.

Source: Li, Ren, Fu, Tao, Feng, Zeng and Wang, "Benchmarking Single-Image Dehazing and Beyond",
IEEE Transactions on Image Processing 28(1), 2019. RESIDE carries no formal licence.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from dehaze.datasets.pairing import Sample, before_underscore
from dehaze.datasets.registry import (
    TRANSMISSION_FOLDERS,
    BenchmarkDataset,
    register_dataset,
    subfolder,
)

_PUBLISHED = "https://sites.google.com/view/reside-dehaze-datasets"


def _grey(airlight: str) -> tuple[float, float, float]:
    """A of a file name, as three equal channels, since RESIDE's airlight is grey."""
    value = float(airlight)
    return value, value, value


class _Rendered(BenchmarkDataset):
    """Haze rendered over clear pictures: ``<scene>_<parameters>`` beside ``<scene>``."""

    @classmethod
    def scene_of_hazy(cls, stem: str) -> str | None:
        return before_underscore(stem) if "_" in stem else None


class _OutdoorRendered(_Rendered):
    """Outdoor pictures, named ``<scene>_<airlight A>_<scattering coefficient beta>``."""

    _NAME = re.compile(r"(?P<scene>[^_]+)_(?P<airlight>\d(?:\.\d+)?)_(?P<beta>\d+(?:\.\d+)?)")

    @classmethod
    def scene_of_hazy(cls, stem: str) -> str | None:
        match = cls._NAME.fullmatch(stem)
        return match["scene"] if match else None

    @classmethod
    def describe(cls, sample: Sample, folder: Path) -> Sample:
        match = cls._NAME.fullmatch(sample.hazy.stem)
        return replace(sample, airlight=_grey(match["airlight"])) if match else sample


@register_dataset
class SOTSIndoor(_Rendered):
    """500 hazy pictures of 50 NYU scenes; the ground truth may keep its 10 px border."""

    name = "sots-indoor"
    title = "RESIDE SOTS-indoor (500 hazy of 50 clear)"
    published = _PUBLISHED
    layout = "SOTS/indoor/{hazy/1400_1.png, gt/1400.png}"
    locations = (
        "SOTS/indoor",
        "SOTS/indoor/nyuhaze500",
        "SOTS/nyuhaze500",
        "indoor",
        "nyuhaze500",
        "SOTS-indoor",
    )


@register_dataset
class SOTSOutdoor(_OutdoorRendered):
    """500 hazy pictures of 492 outdoor scenes."""

    name = "sots-outdoor"
    title = "RESIDE SOTS-outdoor (500 hazy of 492 clear)"
    published = _PUBLISHED
    layout = "SOTS/outdoor/{hazy/0001_0.8_0.2.jpg, gt/0001.png}"
    locations = ("SOTS/outdoor", "outdoor", "SOTS-outdoor")


@register_dataset
class HSTS(BenchmarkDataset):
    """The ten synthetic pairs of the Hybrid Subjective Testing Set."""

    name = "hsts"
    title = "RESIDE HSTS, synthetic part (10 pairs)"
    published = _PUBLISHED
    layout = "HSTS/synthetic/{synthetic/0586.jpg, original/0586.jpg}"
    locations = ("HSTS/synthetic", "HSTS")
    hazy_folders = ("synthetic", "hazy")


@register_dataset
class HSTSReal(BenchmarkDataset):
    """The ten real pictures of the Hybrid Subjective Testing Set, without ground truth."""

    name = "hsts-real"
    title = "RESIDE HSTS, real part (10 hazy)"
    published = _PUBLISHED
    layout = "HSTS/real-world/*.jpg"
    locations = ("HSTS",)
    hazy_folders = ("real-world", "realworld", "real")
    clear_folders = ()


@register_dataset
class ITS(_Rendered):
    """The indoor training set: ten renderings of 1,399 scenes, with transmission maps."""

    name = "its"
    title = "RESIDE ITS (13,990 hazy of 1,399 clear)"
    published = _PUBLISHED
    layout = "ITS/{hazy/1_1_0.90179.png, clear/1.png, trans/1_1.png}"
    locations = ("ITS", "ITS_v2")
    _NAME = re.compile(r"(?P<rendering>(?P<scene>[^_]+)_\d+)_(?P<airlight>\d(?:\.\d+)?)")

    @classmethod
    def scene_of_hazy(cls, stem: str) -> str | None:
        match = cls._NAME.fullmatch(stem)
        return match["scene"] if match else None

    @classmethod
    def describe(cls, sample: Sample, folder: Path) -> Sample:
        match = cls._NAME.fullmatch(sample.hazy.stem)
        if match is None:
            return sample
        transmission_folder = subfolder(folder, TRANSMISSION_FOLDERS)
        transmission = None
        if transmission_folder is not None:
            path = transmission_folder / f"{match['rendering']}.png"
            transmission = path if path.is_file() else None
        return replace(sample, airlight=_grey(match["airlight"]), transmission=transmission)


@register_dataset
class OTS(_OutdoorRendered):
    """The outdoor training set: 35 renderings of 2,061 scenes, in several parts."""

    name = "ots"
    title = "RESIDE OTS (72,135 hazy of 2,061 clear)"
    published = _PUBLISHED
    layout = "OTS/{hazy/0025_0.85_0.04.jpg or hazy/part1/0025_0.85_0.04.jpg, clear/0025.jpg}"
    locations = ("OTS", "OTS_BETA")
    recursive = True


@register_dataset
class RTTS(BenchmarkDataset):
    """Real hazy street pictures with bounding boxes, without ground truth."""

    name = "rtts"
    title = "RESIDE RTTS (4,322 real hazy)"
    published = _PUBLISHED
    layout = "RTTS/JPEGImages/*.png"
    locations = ("RTTS",)
    hazy_folders = ("JPEGImages",)
    clear_folders = ()


@register_dataset
class URHI(BenchmarkDataset):
    """Unannotated real hazy pictures, without ground truth."""

    name = "urhi"
    title = "RESIDE URHI (4,807 real hazy)"
    published = _PUBLISHED
    layout = "URHI/*.jpg"
    locations = ("URHI",)
    hazy_folders = (".",)
    clear_folders = ()
    recursive = True


class _RESIDE6K(BenchmarkDataset):
    title = "RESIDE-6K (6,000 training and 1,000 test pairs of 400x400)"
    published = "https://github.com/IDKiro/DehazeFormer"


@register_dataset
class RESIDE6KTrain(_RESIDE6K):
    """The training pairs of RESIDE-6K; hazy and clear carry identical names."""

    name = "reside-6k-train"
    layout = "RESIDE-6K/train/{hazy/1.jpg, GT/1.jpg}"
    locations = ("RESIDE-6K/train", "RESIDE6K/train")


@register_dataset
class RESIDE6KTest(_RESIDE6K):
    """The test pairs of RESIDE-6K; hazy and clear carry identical names."""

    name = "reside-6k-test"
    layout = "RESIDE-6K/test/{hazy/0001_0.8_0.2.jpg, GT/0001_0.8_0.2.jpg}"
    locations = ("RESIDE-6K/test", "RESIDE6K/test")
