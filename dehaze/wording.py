"""Numbers of things in words."""

from __future__ import annotations


def counted(number: int, thing: str) -> str:
    """A number and what it counts, in the singular or the plural.

    Example:
        >>> counted(1, "photo"), counted(2, "photo")
        ('1 photo', '2 photos')
    """
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def counted_of(number: int, total: int, thing: str) -> str:
    """A number of things and, where it is not all of them, of how many.

    Example:
        >>> counted_of(2, 2, "photo"), counted_of(1, 3, "photo")
        ('2 photos', '1 of 3 photos')
    """
    return counted(number, thing) if number == total else f"{number} of {counted(total, thing)}"
