"""`interject`: what a server wants to handle ahead of every message that waits.

A message that it sends itself stands behind those that have arrived, and a synchronous operation
is followed by the next one without a pause. Whoever has to decide something between the two says
it in here, while its handler runs.

Promise: no I/O here; the worker puts it into the queue.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["install", "interject"]


def _nobody(message: object) -> None:
    """Drop it: outside of a worker no server runs."""


_interject: Callable[[object], None] = _nobody


def install(interject: Callable[[object], None]) -> None:
    """Set how this process does it. For the worker, when it starts."""
    global _interject
    _interject = interject


def interject(message: object) -> None:
    """Let `handle_info` of the server whose handler runs have this, before any other message."""
    _interject(message)
