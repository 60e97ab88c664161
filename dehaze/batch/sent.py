"""Work for another process, which must have the code and the model of the job."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from dehaze.batch.item import Work, Worker
from dehaze.digests import digest_of_code
from dehaze.errors import DehazeError

# They decide a result's pixels.
_LIBRARIES = ("torch", "numpy", "opencv-python-headless", "pillow", "tifffile", "imagecodecs")


class OtherWorkError(DehazeError, RuntimeError):
    """A process would make other results than the job's, in one line: why, and the cure."""


@dataclass(frozen=True)
class SentWork:
    """Work as another process gets it, here or on another machine.

    Attributes:
        work: what is done to each photo.
        code: hash of dehaze's code, as the job has it.
        files: hash of the files that the work needs beside the code, as the job has them.
        libraries: version of each library that decides pixels, as the job has them.
    """

    work: Work
    code: str
    files: str
    libraries: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, work: Work, files: str | None = None) -> SentWork:
        """The work, with the hashes that this process has.

        ``files`` is its ``fingerprint``, where that is known: for large models it takes long.
        """
        files = work.fingerprint() if files is None else files
        return cls(work, digest_of_code(), files, _versions())

    def start(self) -> Worker:
        """Start the work.

        Raises:
            OtherWorkError: this process has other code, other files, or other libraries.
        """
        if digest_of_code() != self.code:
            raise OtherWorkError(
                "its code of dehaze is not the job's: install the same version for every worker"
            )
        for (name, here), (_, wanted) in zip(_versions(), self.libraries, strict=True):
            if here != wanted:
                raise OtherWorkError(
                    f"its {name} is {here} and the job's is {wanted}: install the same version "
                    "for every worker"
                )
        if self.work.fingerprint() != self.files:
            raise OtherWorkError(
                "its files of the model are not the job's: copy the same model to every worker"
            )
        return self.work.start()


def _versions() -> tuple[tuple[str, str], ...]:
    return tuple((name, _version_of(name)) for name in _LIBRARIES)


def _version_of(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
