"""Which models there are, what each needs, and how it is loaded."""

from dehaze.errors import DehazeError


class ModelError(DehazeError, ValueError):
    """The model cannot be found, is damaged, or is of a kind that cannot be used."""
