"""Models: which there are, what each needs, and how each is loaded."""

from dehaze.errors import DehazeError


class ModelError(DehazeError, ValueError):
    """The model cannot be found, is damaged, or is of a kind that cannot be used."""
