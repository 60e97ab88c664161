"""Converts a clip's samples to RGB and back, by the matrix and the range that the clip states.

FFmpeg's scaler is not used: its conversion to full range depends on its version and is off by half
a step.

Source: ITU-R BT.601-7, BT.709-6 and BT.2020-2; ITU-T H.273, table 4, for the numbers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Plane = NDArray[np.generic]

# Weights of red and blue in luma, by H.273's MatrixCoefficients.
_LUMA_SHARES = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}
_RGB, _UNSTATED = 0, 2
# Players assume BT.709 from this height on, and BT.601 below, where no matrix is stated.
_HIGH_DEFINITION = 720

_YUV = re.compile(r"yuvj?(4(?:20|22|44|40|11|10))p(\d+)?(?:le)?")
_OTHERS = re.compile(r"(gray|gbrp)(\d+)?(?:le)?")
# Columns and rows of luma for each column and row of chroma.
_CHROMA = {"420": (2, 2), "422": (2, 1), "444": (1, 1), "440": (1, 2), "411": (4, 1), "410": (4, 4)}
# Formats that hold the same samples in another order.
_REORDERED = {
    "nv12": "yuv420p",
    "nv21": "yuv420p",
    "p010le": "yuv420p10le",
    "yuyv422": "yuv422p",
    "uyvy422": "yuv422p",
    "rgb24": "gbrp",
    "bgr24": "gbrp",
    "rgb0": "gbrp",
    "bgr0": "gbrp",
    "0rgb": "gbrp",
    "0bgr": "gbrp",
}


@dataclass(frozen=True)
class SampleFormat:
    """How a frame's samples lie in its planes.

    Attributes:
        name: FFmpeg's, of planes that each hold one component.
        bits: of a sample, 8 to 16.
        chroma: columns and rows of luma to one of chroma; None for grey and for RGB.
        is_rgb: whether the planes are green, blue and red.
    """

    name: str
    bits: int
    chroma: tuple[int, int] | None
    is_rgb: bool = False

    @property
    def sample_type(self) -> type[np.unsignedinteger[Any]]:
        """Of a plane's array."""
        return np.uint8 if self.bits == 8 else np.uint16

    def plane_sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """(height, width) of each plane."""
        if self.chroma is None:
            return [(height, width)] * (3 if self.is_rgb else 1)
        small = (-(-height // self.chroma[1]), -(-width // self.chroma[0]))
        return [(height, width), small, small]


def sample_format(name: str) -> SampleFormat | None:
    """What FFmpeg's name of a pixel format says; None for one that is not supported.

    Example:
        >>> sample_format("yuvj420p")
        SampleFormat(name='yuv420p', bits=8, chroma=(2, 2), is_rgb=False)
    """
    name = _REORDERED.get(name, name)
    if match := _YUV.fullmatch(name):
        bits = int(match[2] or 8)
        return SampleFormat(name.replace("yuvj", "yuv"), bits, _CHROMA[match[1]])
    if match := _OTHERS.fullmatch(name):
        return SampleFormat(name, int(match[2] or 8), None, is_rgb=match[1] == "gbrp")
    return None


@dataclass(frozen=True)
class ColourCoding:
    """How a clip's samples stand for colours.

    Attributes:
        matrix: H.273's MatrixCoefficients: 0 for RGB, 2 for unstated, which is settled by height.
        full_range: whether the samples use all their numbers, as JPEG's do.
    """

    matrix: int
    full_range: bool

    def is_supported(self, samples: SampleFormat) -> bool:
        """Whether the matrix is one of those that are known here."""
        return samples.chroma is None or self.matrix in (*_LUMA_SHARES, _UNSTATED)

    def to_rgb(self, planes: Sequence[Plane], samples: SampleFormat) -> Array:
        """The planes' colours as they are stored, float32 (H, W, 3) RGB in [0, 1]."""
        height, width = planes[0].shape
        if samples.is_rgb:
            scale, offset = self._scale(samples.bits, chroma=False)
            green, blue, red = ((plane.astype(np.float32) - offset) / scale for plane in planes)
            return np.clip(cv2.merge([red, green, blue]), 0.0, 1.0)
        scale, offset = self._scale(samples.bits, chroma=False)
        luma = (planes[0].astype(np.float32) - offset) / scale
        if samples.chroma is None:
            return np.clip(cv2.merge([luma, luma, luma]), 0.0, 1.0)
        scale, offset = self._scale(samples.bits, chroma=True)
        columns, rows = samples.chroma
        differences = [
            (_enlarged(plane.astype(np.float32), columns, rows)[:height, :width] - offset) / scale
            for plane in planes[1:]
        ]
        rgb = cv2.transform(cv2.merge([luma, *differences]), np.linalg.inv(self._matrix(height)))
        return np.asarray(np.clip(rgb, 0.0, 1.0, out=rgb), dtype=np.float32)

    def from_rgb(self, pixels: Array, samples: SampleFormat) -> list[Plane]:
        """The planes that have these colours, float32 (H, W, 3) RGB in [0, 1], rounded."""
        height, width = pixels.shape[:2]
        if samples.is_rgb:
            red, green, blue = cv2.split(pixels)
            return [self._stored(each, samples) for each in (green, blue, red)]
        luma, *differences = cv2.split(cv2.transform(pixels, self._matrix(height)))
        planes = [self._stored(luma, samples)]
        if samples.chroma is not None:
            columns, rows = samples.chroma
            for each in differences:
                # Odd sizes: the last column and row of chroma stand for one of luma each.
                padded = cv2.copyMakeBorder(
                    each, 0, -height % rows, 0, -width % columns, cv2.BORDER_REPLICATE
                )
                size = (padded.shape[1] // columns, padded.shape[0] // rows)
                small = cv2.resize(padded, size, interpolation=cv2.INTER_AREA)
                planes.append(self._stored(np.asarray(small, np.float32), samples, chroma=True))
        return planes

    def _matrix(self, height: int) -> NDArray[np.float64]:
        """From RGB to luma and the two colour differences, in [-.5, .5]."""
        settled = self.matrix
        if settled == _UNSTATED:
            settled = 1 if height >= _HIGH_DEFINITION else 6
        red, blue = _LUMA_SHARES.get(settled, _LUMA_SHARES[6])
        luma = np.array([red, 1.0 - red - blue, blue])
        return np.stack(
            [
                luma,
                (np.array([0.0, 0.0, 1.0]) - luma) / (2.0 * (1.0 - blue)),
                (np.array([1.0, 0.0, 0.0]) - luma) / (2.0 * (1.0 - red)),
            ]
        )

    def _scale(self, bits: int, *, chroma: bool) -> tuple[np.float32, np.float32]:
        """The number that 1 is stored as, and the offset."""
        step = 2.0 ** (bits - 8)
        offset = 128.0 * step if chroma else 0.0 if self.full_range else 16.0 * step
        if self.full_range:
            return np.float32(2.0**bits - 1.0), np.float32(offset)
        return np.float32((224.0 if chroma else 219.0) * step), np.float32(offset)

    def _stored(self, values: Array, samples: SampleFormat, *, chroma: bool = False) -> Plane:
        scale, offset = self._scale(samples.bits, chroma=chroma)
        numbers = np.rint(values * scale + offset)
        return np.clip(numbers, 0, 2**samples.bits - 1).astype(samples.sample_type)


def _enlarged(plane: Array, columns: int, rows: int) -> Array:
    # By a cubic, whose area mean is nearly the plane again.
    if columns == rows == 1:
        return plane
    size = (plane.shape[1] * columns, plane.shape[0] * rows)
    return np.asarray(cv2.resize(plane, size, interpolation=cv2.INTER_CUBIC), dtype=np.float32)


def planes_of(frame: Any, samples: SampleFormat) -> list[Plane]:
    """The planes of PyAV's frame, each (H, W) of ``samples.sample_type``."""
    if frame.format.name.replace("yuvj", "yuv") != samples.name:
        frame = frame.reformat(format=samples.name)
    planes: list[Plane] = []
    for plane, (height, width) in zip(
        frame.planes, samples.plane_sizes(frame.height, frame.width), strict=True
    ):
        rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
        bytes_of_row = width * np.dtype(samples.sample_type).itemsize
        planes.append(np.ascontiguousarray(rows[:height, :bytes_of_row]).view(samples.sample_type))
    return planes


def fill_planes(frame: Any, planes: Sequence[Plane]) -> None:
    """Puts planes into PyAV's frame."""
    for target, values in zip(frame.planes, planes, strict=True):
        rows = np.zeros((target.height, target.line_size), np.uint8)
        stored = np.ascontiguousarray(values).view(np.uint8)
        rows[: stored.shape[0], : stored.shape[1]] = stored
        target.update(rows.tobytes())
