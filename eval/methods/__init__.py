"""What an evaluation compares: methods from a hazy picture to a clear one, by name.

======================  ==========================================================================
``hazy``                the input itself
``dcp``, ``cap``, ...   a baseline of ``dehaze.eval.baselines``
``ours``                ``DehazePipeline``; ``ours:solver=anderson,steps=20`` overrides its options
``codec``               the codec ceiling: encode and decode the ground truth
``inversion``           the inversion ceiling: invert the hazy picture and reconstruct it
``folder:NAME=PATH``    pictures that somebody else's method has made
======================  ==========================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from dehaze.eval.baselines import BASELINES
from dehaze.eval.methods.base import Method, MethodError, MethodInput, MethodOutput
from dehaze.eval.methods.baselines import BaselineMethod, HazyInput
from dehaze.eval.methods.options import PipelineOptions, override
from dehaze.eval.methods.pipeline import (
    CodecCeiling,
    InversionCeiling,
    PipelineMethod,
    load_pipeline,
)
from dehaze.eval.methods.result_folder import ResultFolder
from dehaze.registry import Registry, UnknownNameError

__all__ = [
    "METHODS",
    "BaselineMethod",
    "CodecCeiling",
    "HazyInput",
    "InversionCeiling",
    "Method",
    "MethodError",
    "MethodInput",
    "MethodOutput",
    "PipelineMethod",
    "PipelineOptions",
    "ResultFolder",
    "load_pipeline",
    "parse_method",
    "with_companions",
]


def _hazy(argument: str, options: PipelineOptions) -> Method:
    _refuse_argument("hazy", argument)
    return HazyInput("hazy", "the hazy input")


def _ours(argument: str, options: PipelineOptions) -> Method:
    name = f"ours:{argument}" if argument else "ours"
    return PipelineMethod(name, override(options, argument))


def _codec(argument: str, options: PipelineOptions) -> Method:
    name = f"codec:{argument}" if argument else "codec"
    return CodecCeiling(name, override(options, argument))


def _inversion(argument: str, options: PipelineOptions) -> Method:
    name = f"inversion:{argument}" if argument else "inversion"
    return InversionCeiling(name, override(options, argument))


def _folder(argument: str, options: PipelineOptions) -> Method:
    name, separator, path = argument.partition("=")
    if not (name and separator and path):
        raise MethodError(f"expected folder:NAME=PATH, got folder:{argument}")
    return ResultFolder(name, Path(path))


def _baseline(name: str, argument: str, options: PipelineOptions) -> Method:
    _refuse_argument(name, argument)
    return BaselineMethod(BASELINES.get(name))


def _refuse_argument(name: str, argument: str) -> None:
    if argument:
        raise MethodError(f"{name} takes no options, got {name}:{argument}")


METHODS: Registry[Callable[[str, PipelineOptions], Method]] = Registry("method")
"""Each takes the text after the colon and the run's options, and returns the row."""

METHODS.register("hazy", _hazy)
for _name in BASELINES.names():
    METHODS.register(_name, partial(_baseline, _name))
METHODS.register("ours", _ours)
METHODS.register("codec", _codec)
METHODS.register("inversion", _inversion)
METHODS.register("folder", _folder)


def parse_method(specification: str, options: PipelineOptions | None = None) -> Method:
    """A method from its specification on the command line.

    Args:
        specification: a name of ``METHODS``, with ``:`` and its argument where it takes one.
        options: of ``ours`` and the ceilings; the specification may override them.

    Raises:
        MethodError: there is no such method, or its argument does not fit.
    """
    name, _, argument = specification.partition(":")
    try:
        build = METHODS.get(name)
    except UnknownNameError as error:
        raise MethodError(str(error)) from error
    return build(argument, options or PipelineOptions())


def with_companions(specifications: list[str], *, ceilings: bool) -> list[str]:
    """Add the rows that always stand beside a method.

    The hazy input and the dark channel prior come first; for every way in which ``ours`` is run,
    the codec ceiling and the inversion ceiling follow.

    Args:
        specifications: what was asked for, in order.
        ceilings: whether to add the ceilings.

    Returns:
        The specifications without repetition.
    """
    rows = ["hazy", "dcp", *specifications]
    if ceilings:
        for specification in specifications:
            name, separator, argument = specification.partition(":")
            if name == "ours":
                # The codec depends on nothing else.
                kept = ("model=", "short_side=")
                parts = [part for part in argument.split(",") if part.startswith(kept)]
                rows.append(":".join(filter(None, ["codec", ",".join(parts)])))
                rows.append(f"inversion{separator}{argument}")
    return list(dict.fromkeys(rows))
