"""The options that ``dehaze ui`` and ``dehaze serve`` share."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from dehaze.commands import main


@pytest.mark.parametrize("command", ["ui", "serve"])
@pytest.mark.parametrize("name", ["example.com:7961", "http://example.com", "example.com/"])
def test_a_host_that_is_no_name_alone_is_refused(command: str, name: str) -> None:
    done = CliRunner().invoke(main, [command, "--allow-host", name])
    assert done.exit_code == 2
    assert f"{name!r} is no name alone; leave out http:// and the port." in done.stderr
