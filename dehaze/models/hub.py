"""Models of the hub: downloads, and clear errors where the hub does not answer."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from huggingface_hub import list_repo_files, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from dehaze.models import ModelError
from dehaze.models.source import BUNDLED, ModelSource

ERRORS = (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError)


def snapshot(source: ModelSource, patterns: list[str]) -> Path:
    """The folder of a model's files that fit these patterns, downloaded where they are missing.

    Raises:
        one of ``ERRORS``: the hub did not give them.
    """
    return Path(
        snapshot_download(
            str(source.model),
            revision=source.revision,
            allow_patterns=patterns,
            local_files_only=source.local_files_only,
            cache_dir=source.cache_dir,
            token=source.token,
        )
    )


def list_files(source: ModelSource) -> list[str]:
    """The paths of a model's files on the hub.

    Raises:
        one of ``ERRORS``: the hub did not answer.
    """
    return list_repo_files(str(source.model), revision=source.revision, token=source.token)


def download(source: ModelSource, patterns: list[str]) -> Path:
    """As ``snapshot``, with one clear line where the hub fails.

    Raises:
        ModelError: the hub did not give them; the message says why, and what to do.
    """
    try:
        return snapshot(source, patterns)
    except ERRORS as error:
        raise ModelError(f"{source.model}: {_why_no_download(source, error)}") from error


def _why_no_download(source: ModelSource, error: Exception) -> str:
    """The error for a model that is not on this machine and did not come from the hub."""
    meant = get_close_matches(str(source.model), [BUNDLED], cutoff=0.7)
    guess = "did you mean 'bundled'?" if meant else "check the spelling, or use 'bundled'"
    if isinstance(error, GatedRepoError):
        return "the hub asks for its terms to be accepted: do so on its page, then hf auth login"
    if isinstance(error, RepositoryNotFoundError):
        return f"no such folder or file, and the hub knows no such public model: {guess}"
    if isinstance(error, RevisionNotFoundError):
        return f"the hub's model has no revision {source.revision!r}: see its branches and tags"
    if isinstance(error, HFValidationError):
        return f"no such folder or file, and no hub id is written so: {guess}"
    if source.local_files_only:
        return (
            "no such folder or file, and the hub's cache does not hold it: leave "
            f"--local-files-only out once to load it; {guess}"
        )
    if isinstance(error, LocalEntryNotFoundError):
        return f"no such folder or file, not in the hub's cache, and no way to the hub: {guess}"
    return f"no such folder or file, and the hub did not give it ({type(error).__name__}): {guess}"
