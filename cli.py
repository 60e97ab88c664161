"""The command line from a checkout: ``python cli.py run folder/``."""

from __future__ import annotations

import sys
from pathlib import Path

try:
    from dehaze.commands import main

    # A script's own folder comes first on the path, and this one holds datasets/ and eval/: other
    # packages look for modules of those names and must not meet these.
    sys.path[:] = [
        entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent
    ]
    main(prog_name="cli.py")
except ModuleNotFoundError as error:
    sys.exit(f"dehaze: {error.name} is not installed; run: pip install -e .")
