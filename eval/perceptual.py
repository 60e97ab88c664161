"""Perceptual metrics through pyiqa, an optional extra that is imported when it is asked for.

pyiqa is licensed under PolyForm-Noncommercial, needs torchvision, and downloads a metric's weights
on first use. It is imported only when a metric is asked for by name.
"""

from __future__ import annotations

import logging
import urllib.error
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dehaze.errors import DehazeError, one_line

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

INSTALL = "pip install 'dehaze-diffusion[iqa]'"

# pyiqa's metrics without weights, which work on a machine without a network.
WITHOUT_WEIGHTS = (
    "psnr",
    "psnry",
    "ssim",
    "ssimc",
    "ms_ssim",
    "cw_ssim",
    "fsim",
    "vif",
    "vsi",
    "gmsd",
    "nlpd",
    "piqe",
    "entropy",
)


class PerceptualMetricError(DehazeError, RuntimeError):
    """A perceptual metric cannot be used; the message says why and what helps."""


@dataclass(frozen=True)
class PerceptualMetric:
    """One of pyiqa's metrics, ready to run.

    Attributes:
        name: pyiqa's name.
        full_reference: whether it compares with ground truth.
        lower_is_better: the direction of its scale.
        model: pyiqa's module.
    """

    name: str
    full_reference: bool
    lower_is_better: bool
    model: Any

    def __call__(self, output: NDArray[Any], clear: NDArray[Any] | None = None) -> float:
        """Score one picture.

        Args:
            output: (H, W, 3) RGB in [0, 255].
            clear: the ground truth, the same shape; only a full-reference metric reads it.

        Returns:
            The score, on the metric's own scale.

        Raises:
            ValueError: a full-reference metric without ground truth.
        """
        if self.full_reference and clear is None:
            raise ValueError(f"{self.name} compares with ground truth, and there is none")
        import torch

        pictures = [_tensor(output)]
        if self.full_reference and clear is not None:
            pictures.append(_tensor(clear))
        with torch.no_grad():
            return float(self.model(*pictures))


def _tensor(picture: NDArray[Any]) -> torch.Tensor:
    import torch

    planes = np.ascontiguousarray(picture.transpose(2, 0, 1), dtype=np.float32) / np.float32(255)
    return torch.from_numpy(planes)[None]


def load_perceptual_metric(name: str, device: str = "cpu") -> PerceptualMetric:
    """Load one of pyiqa's metrics by its name.

    Args:
        name: as in ``pyiqa.list_models()``, for instance "lpips", "niqe", "musiq".
        device: a torch device.

    Raises:
        PerceptualMetricError: pyiqa is not installed, does not import, does not know the metric, or
            cannot find its weights.
    """
    import torch

    pyiqa = _import_pyiqa()
    known = pyiqa.list_models()
    if name not in known:
        raise PerceptualMetricError(
            f"pyiqa has no metric named {name!r}; it has {', '.join(sorted(known))}"
        )
    if name not in WITHOUT_WEIGHTS:
        logger.info("%s: pyiqa downloads its weights unless they are in its cache", name)
    try:
        model = pyiqa.create_metric(name, device=torch.device(device), as_loss=False)
    except (urllib.error.URLError, OSError) as error:
        raise PerceptualMetricError(
            f"the weights of {name} are neither in pyiqa's cache nor could they be downloaded "
            f"({one_line(error)}); run this once with a network, copy the cache ($TORCH_HOME/hub) "
            f"of a machine that has them, or choose one of {', '.join(WITHOUT_WEIGHTS)}"
        ) from error
    except ImportError as error:
        raise PerceptualMetricError(
            f"{name} needs a package that is missing ({one_line(error)}); {INSTALL}"
        ) from error
    return PerceptualMetric(
        name=name,
        full_reference=model.metric_mode == "FR",
        lower_is_better=bool(model.lower_better),
        model=model,
    )


def _import_pyiqa() -> Any:
    import torch

    try:
        import pyiqa
    except ImportError as error:
        if error.name == "pyiqa":
            raise PerceptualMetricError(
                f"perceptual metrics need pyiqa, which is not installed; {INSTALL} (its licence, "
                "PolyForm-Noncommercial, excludes commercial use)"
            ) from error
        raise PerceptualMetricError(
            f"pyiqa does not import ({one_line(error)}); install it with what it needs: {INSTALL}"
        ) from error
    except (RuntimeError, AttributeError) as error:
        # A torchvision built for another torch registers operators that this one cannot load.
        if "torchvision" in str(error):
            raise PerceptualMetricError(
                f"torchvision does not fit torch {torch.__version__} ({one_line(error)}); install "
                "both from one package index and of matching versions: pip install "
                "--force-reinstall torch torchvision (a CPU torch needs the CPU torchvision)"
            ) from error
        raise PerceptualMetricError(
            f"pyiqa does not import ({one_line(error)}); reinstall it: {INSTALL}"
        ) from error
    return pyiqa
