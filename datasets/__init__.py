"""Dehazing data sets and haze synthesis, installed as ``dehaze.datasets``."""

if __name__ != "dehaze.datasets":
    # From a checkout's root this folder would shadow the Hugging Face library of that name.
    raise ModuleNotFoundError(f"import dehaze.datasets, not {__name__}", name=__name__)

from dehaze.datasets import haze4k, ntire, reside
from dehaze.datasets.captions import CaptionedPhoto, CaptionedPhotos, open_captioned_photos
from dehaze.datasets.decoding import DecodedImage, PhotoFiles, read_rgb
from dehaze.datasets.folders import open_folder, open_paired_folder, open_photo_folder
from dehaze.datasets.pairing import (
    LoadedSample,
    Oddity,
    OddityKind,
    Sample,
    SizeMismatchError,
)
from dehaze.datasets.readable import split_readable
from dehaze.datasets.registry import (
    DATASETS,
    BenchmarkDataset,
    Dataset,
    DatasetNotFoundError,
    open_dataset,
    register_dataset,
)
from dehaze.datasets.rendered import render_dataset

__all__ = [
    "DATASETS",
    "BenchmarkDataset",
    "CaptionedPhoto",
    "CaptionedPhotos",
    "Dataset",
    "DatasetNotFoundError",
    "DecodedImage",
    "LoadedSample",
    "Oddity",
    "OddityKind",
    "PhotoFiles",
    "Sample",
    "SizeMismatchError",
    "haze4k",
    "ntire",
    "open_captioned_photos",
    "open_dataset",
    "open_folder",
    "open_paired_folder",
    "open_photo_folder",
    "read_rgb",
    "register_dataset",
    "render_dataset",
    "reside",
    "split_readable",
]
