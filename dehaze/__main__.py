"""``python -m dehaze``: the command line."""

from __future__ import annotations

from dehaze.commands import main

if __name__ == "__main__":
    main(prog_name="python -m dehaze")
