"""Published numbers to stand beside a table, each with its source.

Only rows whose source was read are here, with the protocol as far as the source states it. Numbers
of different sources are not exactly comparable, with each other or with those measured here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedResult:
    """One row of a published table.

    Attributes:
        method: as its authors call it.
        subset: the data set's registered name.
        psnr: in dB.
        ssim: in [0, 1].
        kind: "prior" or "supervised".
        source: where the number stands.
        protocol: what the source's evaluation does differently from dehaze-bench v1.
    """

    method: str
    subset: str
    psnr: float
    ssim: float
    kind: str
    source: str
    protocol: str


_FFA_SOURCE = 'https://github.com/zhilin007/FFA-Net (README, "Metrics update")'
_FFA_PROTOCOL = "psnr rgb, ssim ffa, unrounded"
_FFA_CITED = "copied there from other papers; protocol not stated"
_CONVIR_SOURCE = 'https://github.com/c-yn/ConvIR (README, "Results")'
_CONVIR_PROTOCOL = "psnr rgb, ssim dehazeformer pooled by the padded size, unrounded"
_CONVIR_UNSTATED = "protocol not stated"

PUBLISHED: tuple[PublishedResult, ...] = (
    PublishedResult("DCP", "sots-indoor", 16.62, 0.8179, "prior", _FFA_SOURCE, _FFA_CITED),
    PublishedResult("DCP", "sots-outdoor", 19.13, 0.8148, "prior", _FFA_SOURCE, _FFA_CITED),
    PublishedResult("AOD-Net", "sots-indoor", 19.06, 0.8504, "supervised", _FFA_SOURCE, _FFA_CITED),
    PublishedResult(
        "AOD-Net", "sots-outdoor", 20.29, 0.8765, "supervised", _FFA_SOURCE, _FFA_CITED
    ),
    PublishedResult(
        "DehazeNet", "sots-indoor", 21.14, 0.8472, "supervised", _FFA_SOURCE, _FFA_CITED
    ),
    PublishedResult(
        "DehazeNet", "sots-outdoor", 22.46, 0.8514, "supervised", _FFA_SOURCE, _FFA_CITED
    ),
    PublishedResult(
        "FFA-Net", "sots-indoor", 36.39, 0.9886, "supervised", _FFA_SOURCE, _FFA_PROTOCOL
    ),
    PublishedResult(
        "FFA-Net", "sots-outdoor", 33.57, 0.9840, "supervised", _FFA_SOURCE, _FFA_PROTOCOL
    ),
    PublishedResult(
        "ConvIR-B", "sots-indoor", 42.72, 0.997, "supervised", _CONVIR_SOURCE, _CONVIR_PROTOCOL
    ),
    PublishedResult(
        "ConvIR-B", "sots-outdoor", 39.42, 0.996, "supervised", _CONVIR_SOURCE, _CONVIR_PROTOCOL
    ),
    PublishedResult(
        "ConvIR-B", "haze4k-test", 34.15, 0.99, "supervised", _CONVIR_SOURCE, _CONVIR_UNSTATED
    ),
    PublishedResult(
        "ConvIR-B", "dense-haze", 16.86, 0.621, "supervised", _CONVIR_SOURCE, _CONVIR_UNSTATED
    ),
    PublishedResult(
        "ConvIR-B", "nh-haze", 20.66, 0.802, "supervised", _CONVIR_SOURCE, _CONVIR_UNSTATED
    ),
    PublishedResult(
        "ConvIR-B", "o-haze", 25.36, 0.780, "supervised", _CONVIR_SOURCE, _CONVIR_UNSTATED
    ),
    PublishedResult(
        "ConvIR-B", "i-haze", 22.44, 0.887, "supervised", _CONVIR_SOURCE, _CONVIR_UNSTATED
    ),
)


def published_for(subset: str) -> list[PublishedResult]:
    """The published rows for a data set, lowest PSNR first; may be empty."""
    return sorted((row for row in PUBLISHED if row.subset == subset), key=lambda row: row.psnr)
