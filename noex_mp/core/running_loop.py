"""Which event loop this code is part of, also where it does not see one.

A lane of a pool runs plain functions in the event loop of its worker, and hides that from them: so
they may have one of their own, as `asyncio.run` makes it. What they call of ours is still part of
the worker's, which could not go on if it waited.

Promise: no I/O.
"""

from __future__ import annotations

from _thread import get_ident
from asyncio import (
    AbstractEventLoop,
    _get_running_loop,  # pyright: ignore[reportPrivateUsage] - documented, and never raises
)

__all__ = ["note_hidden", "running_loop"]

_hidden: AbstractEventLoop | None = None
_thread = 0


def note_hidden(loop: AbstractEventLoop | None) -> None:
    """Note that a loop which runs in this thread is hidden at times."""
    global _hidden, _thread
    _hidden, _thread = loop, get_ident()


def running_loop() -> AbstractEventLoop | None:
    """Return the event loop that runs in this thread, hidden or not, or None."""
    loop = _get_running_loop()
    if loop is None and _hidden is not None and _thread == get_ident():
        return _hidden
    return loop
