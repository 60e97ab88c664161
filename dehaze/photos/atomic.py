"""Write a file whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from dehaze.errors import reason
from dehaze.photos.photo import PhotoError

# Beginning and end of a file's name while it is being written.
_UNFINISHED = (".dehaze-", ".part")


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a file to be written as a whole: the path always holds the old content or the new.

    Raises:
        PhotoError: the file cannot be written; nothing is left behind.
    """
    path = Path(path)
    # A short name, since the photo's own may fill all 255 bytes.
    temporary = path.parent / f"{_UNFINISHED[0]}{secrets.token_hex(8)}{_UNFINISHED[1]}"
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _synchronise(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            if error.errno == errno.ENAMETOOLONG:
                raise PhotoError(path, "its name is too long to write", "shorten it") from error
            raise PhotoError(
                path,
                f"cannot be written ({reason(error)})",
                "check the folder's permissions and the room on the disk",
            ) from error
        raise


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file as ``writing`` does.

    Raises:
        PhotoError: the file cannot be written; nothing is left behind.
    """
    with writing(path) as file:
        file.write(data)


def discard_unfinished(folder: Path) -> None:
    """Remove the unfinished files that killed writes have left in a folder."""
    prefix, suffix = _UNFINISHED
    for path in folder.glob(f"{prefix}*{suffix}"):
        path.unlink(missing_ok=True)


def _synchronise(folder: Path) -> None:
    """Write a folder to the disk, so that new names in it last."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot synchronise folders.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)
