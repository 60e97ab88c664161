"""What the server does to a photo: dehazes it for a file, or a small one for the page."""

from __future__ import annotations

import io
import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dehaze import ranges
from dehaze.batch import Item
from dehaze.batch.worker import DiffusionWork, DiffusionWorker
from dehaze.errors import DehazeError
from dehaze.photos import open_photo
from dehaze.pipelines.dehaze import DehazePipeline
from dehaze.pipelines.dehazing import DehazeResult
from dehaze.prompts import WordError, check_vocabulary, without_word
from dehaze.recovery.exposure import keep_exposure
from dehaze.report.thumbnails import eight_bits, false_colours, shrunk

if TYPE_CHECKING:
    from dehaze.inversion import InversionResult

Array = NDArray[np.float32]

PREVIEW_SIDE = 1200
"""Long side of what the page shows, in pixels."""

LAYERS = ("result", "attention", "transmission")

_MEDIA_TYPES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "TIFF": "image/tiff",
    "WEBP": "image/webp",
    "BMP": "image/bmp",
}
# The most words that were inverted, and results that were looked at, kept for one photo.
_INVERSIONS_KEPT = 2
_RESULTS_KEPT = 4


class SettingsError(DehazeError, ValueError):
    """A setting is wrong; the message names it, the cause and the cure."""


@dataclass(frozen=True)
class Settings:
    """How a photo is dehazed.

    Attributes:
        strength: how much of the haze is removed, see ``dehaze.ranges.STRENGTH``.
        exposure: how far the result is lightened, see ``dehaze.ranges.EXPOSURE``.
        word: the word that is removed; None for the model's own.
    """

    strength: float = 1.0
    exposure: float = 0.0
    word: str | None = None

    def recipe(self, pipeline: DehazePipeline) -> dict[str, Any]:
        """The arguments of the pipeline's call.

        Raises:
            SettingsError: the word is not one the model knows, or a number is out of range.
        """
        try:
            ranges.STRENGTH.check(self.strength)
            ranges.EXPOSURE.check(self.exposure)
            prompt, word = _prompt_and_word(pipeline, self.word)
            check_vocabulary(word, pipeline.description.vocabulary)
            pipeline.check_prompt(prompt, word)
        except (ranges.RangeError, WordError) as error:
            raise SettingsError(str(error)) from error
        return {
            "prompt": prompt,
            "word": word,
            "strength": self.strength,
            "exposure": self.exposure,
        }


def _prompt_and_word(pipeline: DehazePipeline, word: str | None) -> tuple[str, str]:
    """The model's own prompt, with another word in the place of its own.

    Raises:
        WordError: the word is one of the others of the prompt, which would be removed as well.
    """
    own, prompt = pipeline.default_word, pipeline.default_prompt
    chosen = " ".join((word or own).lower().split())
    rest = set(without_word(prompt, own).lower().split())
    if rest & set(chosen.split()):
        raise WordError(
            f"{chosen!r} is not the haze in {prompt!r}: name what lies over the photo, such as "
            f"{own!r}"
        )
    return prompt.replace(own, chosen), chosen


@dataclass(frozen=True)
class Dehazed:
    """A file that was made.

    Attributes:
        path: of the file.
        media_type: of its content.
        notes: one sentence for each thing that a person should know.
        result: the pipeline's result.
    """

    path: Path
    media_type: str
    notes: tuple[str, ...]
    result: DehazeResult

    def headers(self) -> dict[str, str]:
        """The notes as an answer's header; JSON escapes what a header cannot hold."""
        return {"Dehaze-Notes": json.dumps(self.notes)}


def dehaze_file(
    pipeline: DehazePipeline,
    source: Path,
    target: Path,
    settings: Settings,
    *,
    max_megapixels: float,
) -> Dehazed:
    """What ``dehaze run`` makes of a photo under the same settings.

    Args:
        pipeline: the model.
        source: the photo.
        target: where the result goes.
        settings: how.
        max_megapixels: a larger photo is refused.

    Raises:
        SettingsError: as ``Settings.recipe``.
        PhotoError: the photo cannot be read, or the result not written.
    """
    worker = DiffusionWorker(pipeline, DiffusionWork(settings.recipe(pipeline)))
    photo = open_photo(source, max_megapixels=max_megapixels).decode()
    item = Item(source, target.parent, Path(target.name), photo=photo)
    worker.process([item])
    if item.error is not None:
        raise item.error
    worker.save(item)
    return Dehazed(
        target,
        _MEDIA_TYPES[photo.encoding.format],
        (*photo.notes, *item.notes, *item.effect.sentences()),
        item.result,
    )


@dataclass(frozen=True)
class Seen:
    """One picture of a preview.

    Attributes:
        picture: the bytes of a JPEG file.
        density: mean of 1 - t, or None where the model gives no transmission.
        lightness: mean of the result over that of the photo.
    """

    picture: bytes
    density: float | None = None
    lightness: float | None = None


class Preview:
    """A photo at the size of a screen, with its inversion and results so far.

    The inversion is kept, so another strength needs only the way back, and another layer no work.

    Args:
        pixels: float32 (H, W, 3) in [0, 1], long side at most ``PREVIEW_SIDE``.
    """

    def __init__(self, pixels: Array) -> None:
        self._pixels = pixels
        self._lock = threading.Lock()
        self._inversions: OrderedDict[str, InversionResult] = OrderedDict()
        self._results: OrderedDict[Settings, DehazeResult] = OrderedDict()

    def photo(self) -> bytes:
        """The photo itself, as JPEG."""
        return _jpeg(self._pixels)

    def see(self, pipeline: DehazePipeline, settings: Settings, layer: str) -> Seen:
        """One layer under some settings.

        Raises:
            SettingsError: as ``Settings.recipe``, or there is no such layer.
        """
        if layer not in LAYERS:
            raise SettingsError(f"unknown layer {layer!r}: there are {', '.join(LAYERS)}")
        with self._lock:
            result = self._result(pipeline, replace(settings, exposure=0.0))
        ranges.EXPOSURE.check(settings.exposure)
        image = keep_exposure(result.image, self._pixels, settings.exposure)
        result = replace(result, image=image)
        density = None if result.transmission is None else 1.0 - float(result.transmission.mean())
        lightness = float(result.image.mean()) / max(float(self._pixels.mean()), 1e-6)
        return Seen(_jpeg(_layer_of(result, layer)), density, lightness)

    def bytes_held(self) -> int:
        """Roughly the memory that is taken."""
        held = self._pixels.nbytes + sum(
            _tensors_of(inversion) for inversion in list(self._inversions.values())
        )
        return held + 2 * self._pixels.nbytes * len(self._results)

    def _result(self, pipeline: DehazePipeline, settings: Settings) -> DehazeResult:
        recipe = settings.recipe(pipeline)
        if settings in self._results:
            self._results.move_to_end(settings)
            return self._results[settings]
        word = recipe["word"]
        if word not in self._inversions:
            self._inversions[word] = pipeline.invert(self._pixels, recipe["prompt"], word)
        self._inversions.move_to_end(word)
        result: DehazeResult = pipeline(self._pixels, **recipe, inversion=self._inversions[word])
        self._results[settings] = result
        for kept, limit in ((self._inversions, _INVERSIONS_KEPT), (self._results, _RESULTS_KEPT)):
            while len(kept) > limit:
                kept.popitem(last=False)
        return result


def open_preview(source: Path, *, max_megapixels: float) -> Preview:
    """Read a photo for the page.

    Raises:
        PhotoError: it cannot be read.
    """
    pixels = open_photo(source, max_megapixels=max_megapixels).decode().pixels
    # An area mean may exceed 1 by the last bit.
    return Preview(np.minimum(shrunk(pixels, PREVIEW_SIDE), np.float32(1)))


@dataclass
class Previews:
    """The previews that were looked at last, within a bound of memory.

    Attributes:
        limit: bytes; one preview is kept whatever it takes.
    """

    limit: int
    _kept: OrderedDict[str, Preview] = field(default_factory=OrderedDict)
    _versions: dict[str, Any] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, name: str, make: Callable[[], Preview], version: Any = None) -> Preview:
        """The preview of this name, made anew where it is not kept, or of another version."""
        with self._lock:
            if self._versions.get(name) != version:
                self._kept.pop(name, None)
            self._versions[name] = version
            preview = self._kept.get(name)
        if preview is None:
            preview = make()
        with self._lock:
            preview = self._kept.setdefault(name, preview)
            self._kept.move_to_end(name)
            while len(self._kept) > 1 and self._held() > self.limit:
                self._kept.popitem(last=False)
        return preview

    def drop(self, name: str) -> None:
        """Forget a preview."""
        with self._lock:
            self._kept.pop(name, None)
            self._versions.pop(name, None)

    def _held(self) -> int:
        return sum(preview.bytes_held() for preview in self._kept.values())


def png(values: NDArray[Any]) -> bytes:
    """A map (H, W) or a picture (H, W, 3) in [0, 1] as an 8-bit PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(eight_bits(values)).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def _layer_of(result: DehazeResult, layer: str) -> NDArray[Any]:
    if layer == "attention":
        return false_colours(result.attention_normalised())
    if layer == "transmission":
        if result.transmission is None:
            raise SettingsError("there is no transmission: this way of recovery estimates none")
        return result.transmission
    return np.asarray(result.image)


def _jpeg(values: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(eight_bits(values)).save(buffer, "JPEG", quality=90, subsampling=0)
    return buffer.getvalue()


def _tensors_of(inversion: InversionResult) -> int:
    tensors = [inversion.trajectory, inversion.noise, *inversion.attention.values()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
