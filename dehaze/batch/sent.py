"""Work for another process, which must have the code and the model of the job."""

from __future__ import annotations

from dataclasses import dataclass

from dehaze.batch.item import Work, Worker
from dehaze.digests import digest_of_code
from dehaze.errors import DehazeError


class OtherWorkError(DehazeError, RuntimeError):
    """A process would make other results than the job's, in one line: why, and the cure."""


@dataclass(frozen=True)
class SentWork:
    """Work as another process gets it, here or on another machine.

    Attributes:
        work: what is done to each photo.
        code: hash of dehaze's code, as the job has it.
        files: hash of the files that the work needs beside the code, as the job has them.
    """

    work: Work
    code: str
    files: str

    @classmethod
    def of(cls, work: Work, files: str | None = None) -> SentWork:
        """The work, with the hashes that this process has.

        ``files`` is its ``fingerprint``, where that is known: for large models it takes long.
        """
        return cls(work, digest_of_code(), work.fingerprint() if files is None else files)

    def start(self) -> Worker:
        """Start the work.

        Raises:
            OtherWorkError: this process has other code, or other files.
        """
        if digest_of_code() != self.code:
            raise OtherWorkError(
                "its code of dehaze is not the job's: install the same version for every worker"
            )
        if self.work.fingerprint() != self.files:
            raise OtherWorkError(
                "its files of the model are not the job's: copy the same model to every worker"
            )
        return self.work.start()
