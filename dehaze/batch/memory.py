"""The memory that a job may take, as numbers of megapixels and of workers."""

from __future__ import annotations

from dehaze.batch.machine import memory

# Share of the memory that a job takes at most.
_SHARE = 0.5

# Megapixels that one worker is given at most, from decoding to writing. A larger photo waits until
# it is the only one.
_MEGAPIXELS = 64.0

# Bytes that a megapixel takes while its haze is removed (`python benchmarks/folder_job.py size`
# prints 56 to 59 million), and that one more worker takes beside its photos (`python
# benchmarks/folder_job.py workers` prints 170 million).
BYTES_A_MEGAPIXEL = 60e6
BYTES_A_WORKER = 200e6


def megapixels_for(workers: int) -> float:
    """The megapixels that this number of workers may have in memory, from decoding to writing."""
    allowed = memory()
    if allowed is None:
        return _MEGAPIXELS
    left = _SHARE * allowed - (workers - 1) * BYTES_A_WORKER
    return max(min(_MEGAPIXELS * workers, left / BYTES_A_MEGAPIXEL), 0.0)


def workers_that_fit(most: int) -> int:
    """How many workers, 1 to ``most``, the memory has room for.

    Each has room for a photo of ten megapixels at least.
    """
    allowed = memory()
    if allowed is None:
        return most
    each = BYTES_A_WORKER + 10 * BYTES_A_MEGAPIXEL
    return min(most, max(int(_SHARE * allowed / each), 1))
