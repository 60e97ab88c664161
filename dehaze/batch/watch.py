"""Waits for new photos in folders, until each of them is complete."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from dehaze.batch.item import Item
from dehaze.batch.plan import Plan, PlanError, plan
from dehaze.digests import stamp_of_file
from dehaze.photos import MAX_MEGAPIXELS, ResultFile

Stamp = tuple[int, int]

logger = logging.getLogger(__name__)


def watch(
    inputs: Sequence[Path],
    output: Path,
    seconds: float,
    *,
    beside: Sequence[str] = (),
    max_megapixels: float = MAX_MEGAPIXELS,
    result_file: ResultFile | None = None,
    seen: Iterable[Item],
) -> Iterator[Plan]:
    """Look at the inputs again and again, and plan new and changed photos.

    A photo is due once its size and time were the same at two looks; until then it may still be
    written. A photo that was due once is due again only when it changes.

    Args:
        inputs: as for ``plan``.
        output: as for ``plan``.
        seconds: between two looks.
        beside, max_megapixels, result_file: as for ``plan``.
        seen: what has been dealt with before the first look, each with its file's size and time
            when it was read: it may have changed meanwhile.

    Yields:
        a plan of the photos that are due, never empty; the next look follows when it is done.
    """
    seen = tuple(seen)
    unlistable = {str(item.error) for item in seen if item.error is not None}
    dealt_with: dict[Path, Stamp | None] = {
        item.source: None
        if item.size is None or item.mtime_ns is None
        else (item.size, item.mtime_ns)
        for item in seen
    }
    last_look: dict[Path, Stamp | None] = {}
    said = ""
    while True:
        time.sleep(seconds)
        try:
            found = plan(
                inputs,
                output,
                beside=beside,
                max_megapixels=max_megapixels,
                result_file=result_file,
            )
        except PlanError as error:
            # Files come and go while others write them, so this error may pass.
            if str(error) != said:
                logger.warning("%s", error)
            said = str(error)
            continue
        now = {str(error) for error in found.unreadable}
        for message in sorted(now - unlistable):
            logger.warning("%s", message)
        unlistable = now
        look = {photo.source: _stamp(photo.source) for photo in found.photos}
        due = tuple(
            photo
            for photo in found.photos
            if (stamp := look[photo.source]) is not None
            and stamp == last_look.get(photo.source)
            and stamp != dealt_with.get(photo.source)
        )
        last_look = look
        if due:
            dealt_with |= {photo.source: look[photo.source] for photo in due}
            yield replace(found, photos=due, passed_over=(), unreadable=(), results=())


def _stamp(path: Path) -> Stamp | None:
    try:
        return stamp_of_file(path)
    except OSError:
        return None
