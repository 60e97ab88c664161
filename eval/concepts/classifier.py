"""A user's image classifier: its label for a picture, and the features behind it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dehaze.errors import DehazeError, first_line
from dehaze.models.pretrained import load_pretrained

Picture = NDArray[np.uint8]

_SCRIPT_SUFFIXES = (".pt", ".pth", ".ts", ".torchscript")


class ClassifierError(DehazeError, ValueError):
    """A classifier cannot be read, or does not know a class; the message says what helps."""


@dataclass(frozen=True)
class Answer:
    """What a classifier makes of a picture.

    Attributes:
        label: the number of the likeliest label.
        features: float64 (d,).
    """

    label: int
    features: NDArray[np.float64]


class Classifier(Protocol):
    """Pictures to answers.

    Attributes:
        name: for the table.
        labels: in the order of the answers' numbers; empty where none are known.
        features: what the features are, in words.
    """

    @property
    def name(self) -> str: ...

    @property
    def labels(self) -> tuple[str, ...]: ...

    @property
    def features(self) -> str: ...

    def __call__(self, picture: Picture) -> Answer:
        """The answer to a picture, uint8 (H, W, 3) RGB."""


@dataclass(frozen=True)
class PretrainedClassifier:
    """A classifier of transformers. Its features are the input of its last linear layer.

    Attributes:
        name: of its folder or on the hub.
        network: for image classification.
        processor: its image processor.
        head: the last linear layer that gives a number for each label; None where there is none,
            and the features are the logits themselves.
    """

    name: str
    network: Any
    processor: Any
    head: nn.Linear | None

    @property
    def labels(self) -> tuple[str, ...]:
        named = self.network.config.id2label
        return tuple(str(named[number]) for number in sorted(named))

    @property
    def features(self) -> str:
        read = "the logits" if self.head is None else "what the last layer reads"
        return f"{read} of {self.name}"

    @torch.no_grad()
    def __call__(self, picture: Picture) -> Answer:
        given = self.processor(
            images=[picture], return_tensors="pt", input_data_format="channels_last"
        )
        read: list[Tensor] = []
        hook = None
        if self.head is not None:
            hook = self.head.register_forward_pre_hook(lambda layer, inputs: read.append(inputs[0]))
        try:
            logits = self.network(**given.to(self.network.device)).logits[0]
        finally:
            if hook is not None:
                hook.remove()
        return _answer(self.name, logits, read[0][0] if read else None)


@dataclass(frozen=True)
class ScriptedClassifier:
    """A TorchScript file, see ``load_classifier``.

    Attributes:
        name: of the file.
        script: the loaded file.
        device: that it runs on.
        labels: of the text file beside it; empty where there is none.
        only_logits: whether it gives no features beside them.
    """

    name: str
    script: Any
    device: torch.device
    labels: tuple[str, ...]
    only_logits: bool

    @property
    def features(self) -> str:
        return f"{'the output' if self.only_logits else 'the second output'} of {self.name}"

    def __call__(self, picture: Picture) -> Answer:
        return _answer(self.name, *run_script(self.script, picture, self.device, self.name))


def run_script(
    script: Any, picture: Picture, device: torch.device, name: str
) -> tuple[Tensor, Tensor | None]:
    """Logits (K,) that a TorchScript file gives for a picture, and features (d,) or None.

    Raises:
        ClassifierError: it fails, or gives something else.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None]
    try:
        with torch.no_grad():
            given = script(pixels.to(device).float() / 255.0)
    except RuntimeError as error:
        raise ClassifierError(
            f"{name} fails on a picture of {picture.shape[1]}x{picture.shape[0]} "
            f"({first_line(error)}): it must take float32 (1, 3, H, W), RGB in [0, 1], of any size"
        ) from error
    outputs = given if isinstance(given, tuple) else (given,)
    if len(outputs) > 2 or not all(
        isinstance(one, Tensor) and one.ndim == 2 and len(one) == 1 for one in outputs
    ):
        raise ClassifierError(
            f"{name} gives neither logits (1, K) nor a pair of logits and features (1, d)"
        )
    return outputs[0][0], outputs[1][0] if len(outputs) == 2 else None


def load_classifier(name: str, device: torch.device | str = "cpu") -> Classifier:
    """A classifier from a folder, a file, or the hub's cache on this machine; none is downloaded.

    Args:
        name: one of two. A folder that ``save_pretrained`` of transformers wrote for image
            classification, or the hub id of one in the hub's cache. Or a TorchScript file
            (.pt, .pth, .ts, .torchscript) that takes float32 (1, 3, H, W), RGB in [0, 1] at the
            pictures' own size, and gives logits (1, K), or a pair of them and features (1, d); its
            labels, one a line, lie beside it under its name with .txt. A TorchScript file is a
            program: run none that you do not trust.
        device: that it runs on.

    Raises:
        ModelError: the folder is missing, or lacks a weight.
        ClassifierError: the file cannot be read, or gives something else.
    """
    path = Path(name)
    place = torch.device(device)
    if path.suffix in _SCRIPT_SUFFIXES:
        return _load_script(path, place)
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    network, processor = load_pretrained(
        name, AutoModelForImageClassification, AutoImageProcessor, "the classifier"
    )
    labels = int(network.config.num_labels)
    heads = [
        module
        for module in network.modules()
        if isinstance(module, nn.Linear) and module.out_features == labels
    ]
    return PretrainedClassifier(
        path.name, network.to(place), processor, heads[-1] if heads else None
    )


def class_label(labels: Sequence[str], name: str) -> int:
    """The number of the label that a class is called by.

    Case and underscores do not count; a label may list several names with commas between them.

    Raises:
        ClassifierError: there is no such label, or more than one.
    """
    if not labels:
        raise ClassifierError(
            "the classifier has no labels: write them, one a line, into a .txt file of its name "
            "beside it"
        )
    wanted = _plain(name)
    found = [
        number
        for number, label in enumerate(labels)
        if wanted in (_plain(label), *map(_plain, label.split(",")))
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise ClassifierError(f"{len(found)} labels of the classifier are called {name!r}")
    shown = ", ".join(labels[:8]) + (", ..." if len(labels) > 8 else "")
    raise ClassifierError(
        f"no label of the classifier is called {name!r}: name the subfolder after one of {shown}"
    )


def class_labels(labels: Sequence[str], names: Iterable[str]) -> dict[str, int]:
    """The number of each class's label, see ``class_label``.

    Raises:
        ClassifierError: as ``class_label``; or two classes are one label.
    """
    found: dict[str, int] = {}
    for name in names:
        number = class_label(labels, name)
        if number in found.values():
            other = next(other for other, known in found.items() if known == number)
            raise ClassifierError(
                f"{other!r} and {name!r} are one label of the classifier, {labels[number]!r}: put "
                "their photos into one folder"
            )
        found[name] = number
    return found


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").lower().split())


def _answer(name: str, logits: Tensor, features: Tensor | None) -> Answer:
    read = logits if features is None else features
    # Checked first, since argmax gives an answer even for NaN.
    if not (torch.isfinite(logits).all() and torch.isfinite(read).all()):
        raise ClassifierError(
            f"{name} gives values that are not finite: it is damaged, get it again"
        )
    return Answer(int(logits.argmax()), read.flatten().double().cpu().numpy())


def _load_script(path: Path, device: torch.device) -> ScriptedClassifier:
    if not path.is_file():
        raise ClassifierError(f"{path}: there is no such file")
    try:
        with warnings.catch_warnings():
            # torch prefers a later format, which cannot be read without pickle.
            warnings.simplefilter("ignore", DeprecationWarning)
            script = torch.jit.load(path, map_location=device).eval()
    except (RuntimeError, ValueError) as error:
        raise ClassifierError(
            f"{path} is no TorchScript file ({first_line(error)}): write it with torch.jit.save"
        ) from error
    beside = path.with_suffix(".txt")
    labels: tuple[str, ...] = ()
    if beside.is_file():
        labels = tuple(filter(None, map(str.strip, beside.read_text("utf-8").splitlines())))
    # Tried on a grey square, before any picture is made.
    logits, features = run_script(script, np.full((64, 64, 3), 128, np.uint8), device, path.name)
    _answer(path.name, logits, features)
    if labels and len(labels) != len(logits):
        raise ClassifierError(
            f"{beside} has {len(labels)} labels, and {path.name} tells {len(logits)} apart: write "
            "one a line, in their order"
        )
    return ScriptedClassifier(path.name, script, device, labels, features is None)
