"""Memory that is lent instead of sent: a message names it, and its receiver reads it in place.

The files of this folder do no I/O, so the memory lies elsewhere (`transport/arena.py`). Whoever
has it enters itself here when something is shared for the first time; until then a message pays
no more for it than a look at `lender`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from noex_mp.errors import SharedValueGoneError


class Lender(Protocol):
    """Whoever has memory that other processes of the node can read too."""

    def lend(self, view: memoryview) -> tuple[bytes, memoryview] | None:
        """Return a handle of memory, and an empty view that keeps it; None if it is not shared."""
        ...

    def borrow(self, handle: bytes) -> memoryview:
        """Return the memory of a handle, read-only; it is kept as long as the view lives.

        Raises:
            SharedValueGoneError: Nobody has kept it.
        """
        ...


lender: Lender | None = None
"""That of this process, or None while it has shared and read nothing."""

_find: Callable[[], Lender | None] = lambda: None  # noqa: E731 - replaced as a whole


def install(find: Callable[[], Lender | None]) -> None:
    """Set the function that returns the lender of this process, and makes it if need be."""
    global _find
    _find = find


def enter(found: Lender | None) -> None:
    """Let messages lend what this process shares with others; nothing any more, for None."""
    global lender
    lender = found


def borrow(handle: bytes) -> memoryview:
    """Return the memory of a handle.

    Raises:
        SharedValueGoneError: Nobody has kept it.
    """
    found = lender or _find()
    if found is None:
        raise SharedValueGoneError
    return found.borrow(handle)
