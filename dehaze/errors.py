"""DehazeError: the base of every error that a user can put right."""

from __future__ import annotations


class DehazeError(Exception):
    """A request cannot be done; the message names the input, the cause and the cure.

    Every error class of this library derives from it, and from the built-in class that fits, so
    that one ``except DehazeError`` catches them all and ``except ValueError`` still catches a wrong
    value:

        >>> from dehaze.registry import UnknownNameError
        >>> issubclass(UnknownNameError, DehazeError), issubclass(UnknownNameError, ValueError)
        (True, True)
    """


def first_line(error: BaseException) -> str:
    """The first line of any error's message, or its class's name where it has none.

    >>> first_line(OSError("no such file\\nin the folder")), first_line(MemoryError())
    ('no such file', 'MemoryError')
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def one_line(error: BaseException) -> str:
    """The message of any error as one line, or its class's name where it has none.

    >>> one_line(OSError("no such   file")), one_line(MemoryError())
    ('no such file', 'MemoryError')
    """
    return " ".join(str(error).split()) or type(error).__name__


def reason(error: BaseException) -> str:
    """Why the system refused something, without the file's name; of any other error one line.

    >>> reason(FileNotFoundError(2, "No such file", "a.jpg")), reason(OSError("torn"))
    ('No such file', 'torn')
    """
    return getattr(error, "strerror", None) or one_line(error)
