"""Tracebacks as users see them: without our own frames above theirs.

A handler is called by the worker, and what the worker does before that says nothing about the
error. What lies below the user's own code stays: it called that.

Promise: pure functions, no I/O.
"""

from __future__ import annotations

import traceback
from types import TracebackType
from typing import Any, Final

from noex_mp.errors import NoexError

__all__ = ["printed", "users_part"]

# Where the package lies, with a separator at the end.
_OURS: Final = __file__.removesuffix(__name__.partition(".")[2].replace(".", "/") + ".py")


def users_part(error: BaseException) -> TracebackType | None:
    """Return an error's traceback from the first frame on that is not ours.

    Where all of them are ours it is a user's mistake that we have found, and there is nothing to
    show; but for an error that nobody has foreseen, which is a bug of ours.
    """
    trace = error.__traceback__
    while trace is not None and _is_ours(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    return trace if trace is not None or _is_foreseen(error) else error.__traceback__


def printed(error: BaseException) -> str:
    """Return an error, and those it hangs on, as Python prints them, without our frames on top."""
    whole = traceback.TracebackException.from_exception(error)
    pairs: list[tuple[Any, Any]] = [(whole, error)]
    # Without recursion: of a chain nobody knows how long it is.
    while pairs:
        shown, its = pairs.pop()
        if shown is None or its is None:
            continue
        left = sum(1 for _ in traceback.walk_tb(users_part(its)))
        del shown.stack[: len(shown.stack) - left]
        if not left:
            # Or a heading stands above nothing.
            shown.stack = None
        pairs += [(shown.__cause__, its.__cause__), (shown.__context__, its.__context__)]
        pairs += zip(shown.exceptions or (), getattr(its, "exceptions", ()), strict=False)
    return "".join(whole.format())


def _is_ours(filename: str) -> bool:
    return filename.startswith(_OURS)


def _is_foreseen(error: BaseException) -> bool:
    # A call with wrong arguments, or an outcome that may not be, is a TypeError.
    return isinstance(error, NoexError | TypeError)
