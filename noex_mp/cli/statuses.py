"""The exit statuses of `noex-mp`."""

from __future__ import annotations

from typing import Final

OK: Final = 0
"""Done; for `run`: stopped on request."""

FAILED: Final = 1
"""It could not be done; for `run`: the tree gave up, or did not start."""

USAGE: Final = 2
"""The command line or the target needs a change."""

SOFTWARE: Final = 70
"""A fault of noex-mp itself (EX_SOFTWARE of sysexits.h)."""

INTERRUPTED: Final = 130
"""Ctrl-C, as a shell has it: 128 and the signal's number."""
