"""Which device a name stands for, in every command alike."""

from __future__ import annotations

import click
import pytest
import torch

from dehaze.commands import main
from dehaze.models.choice import DeviceError, find_device


@pytest.mark.parametrize(
    ("cuda", "mps", "found"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_is_the_fastest_that_is_there(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, found: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert find_device("auto") == torch.device(found)


def test_a_device_that_is_not_there_is_named() -> None:
    assert find_device("cpu") == torch.device("cpu")
    with pytest.raises(DeviceError, match=r"--device abacus cannot be used .*dehaze doctor"):
        find_device("abacus")


def test_every_command_means_the_same_by_device() -> None:
    def devices(group: click.Command) -> list[tuple[object, str]]:
        if isinstance(group, click.Group):
            context = click.Context(group)
            commands = (group.get_command(context, name) for name in group.list_commands(context))
            return [each for command in commands if command for each in devices(command)]
        return [
            (option.default, str(option.help))
            for option in group.params
            if isinstance(option, click.Option) and option.name == "device"
        ]

    found = devices(main)
    assert len(found) > 5
    assert set(found) == {("auto", found[0][1])}
