"""Entries by name."""

from __future__ import annotations

from typing import Any

import pytest

from dehaze.errors import DehazeError
from dehaze.registry import Registry, UnknownNameError


def of_numbers() -> Registry[int]:
    numbers = Registry[int]("number")
    numbers.register("one", 1)
    numbers.register("two", 2)
    return numbers


def test_entries_keep_their_order() -> None:
    numbers = of_numbers()
    assert numbers.names() == ["one", "two"]
    assert list(numbers) == [1, 2]
    assert len(numbers) == 2
    assert numbers.get("two") == 2


def test_an_unknown_name_lists_all_and_the_nearest() -> None:
    with pytest.raises(UnknownNameError) as caught:
        of_numbers().get("twoo")
    message = str(caught.value)
    assert message == "unknown number 'twoo': there are one, two; did you mean 'two'?"
    assert isinstance(caught.value, DehazeError)
    assert isinstance(caught.value, ValueError)


def test_a_far_name_gets_no_suggestion() -> None:
    with pytest.raises(UnknownNameError, match=r"there are one, two$"):
        of_numbers().get("seventeen")


def test_a_name_is_registered_once() -> None:
    numbers = of_numbers()
    with pytest.raises(ValueError, match="there is a number 'one' already"):
        numbers.register("one", 11)


@pytest.mark.parametrize("name", [1, None, ["kind"]])
def test_a_value_that_is_no_name_is_unknown(name: Any) -> None:
    registry = Registry[int]("greeting")
    registry.register("polite", 1)
    with pytest.raises(UnknownNameError, match=r"unknown greeting .*: there are polite"):
        registry.get(name)
