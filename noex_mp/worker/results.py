"""What a callback may return, and what it means when it raises instead."""

from __future__ import annotations

from typing import Final

from noex_mp.core.outcomes import OUTCOMES, Continue, Stop, TimeoutAfter
from noex_mp.core.reasons import Crash, Exited, ExitReason, OutOfMemory
from noex_mp.wire.classes import readable
from noex_mp.wire.values import shortened
from noex_mp.worker.suspended import Suspended

__all__ = ["ODD_RESULTS", "THEN", "is_callers_mistake", "reason_of", "wrong_outcome"]

#: What a handler returned besides a plain value.
ODD_RESULTS: Final = OUTCOMES | {Suspended}

#: What a server does after a callback, besides to wait.
THEN: Final = frozenset((Continue, Stop, TimeoutAfter))

# Those who call handlers; the last one stands between for tests that ask for faults.
_CALLERS: Final = frozenset(
    (
        "noex_mp.worker.mailbox",
        "noex_mp.worker.receiver",
        "noex_mp.worker.suspended",
        "noex_mp.worker.watched",
        "noex_mp.testing.faults",
    )
)


def wrong_outcome(callback: str, outcome: object) -> TypeError:
    """Return the error about a callback that returned what it may not."""
    if callback == "init":
        may = "None, Continue(...), Stop(...), TimeoutAfter(...) or Ignore()"
    elif callback in ("handle_info", "handle_continue"):
        may = "None, Continue(...), Stop(...) or TimeoutAfter(...)"
    else:
        may = (
            "a value, Reply(...) or NoReply(...), and then=Continue(...), Stop(...) or "
            "TimeoutAfter(...)"
        )
    return TypeError(f"{callback} returned {shortened(outcome)}; it may return {may}")


def is_callers_mistake(error: BaseException) -> bool:
    """Return whether an exception is about arguments that the handler does not take.

    One of the call itself has its last frame where handlers are called.
    """
    if not isinstance(error, TypeError):
        return False
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals["__name__"] in _CALLERS


def reason_of(error: BaseException, memory_limit: int | None = None) -> ExitReason:
    """Return the reason with which a server ends that has raised something.

    Args:
        error: What it raised.
        memory_limit: How much private memory its process may have, in bytes, if that is limited.
    """
    if isinstance(error, MemoryError) and memory_limit is not None:
        return OutOfMemory(memory_limit)
    if isinstance(error, SystemExit):
        return Exited(error.code if isinstance(error.code, int) else int(error.code is not None))
    return Crash(_type_name(error), _text(error))


def _type_name(error: BaseException) -> str:
    kind = type(error)
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return readable(f"{kind.__module__}.{kind.__qualname__}")


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # the class's own code may raise anything
        return "<its __str__ failed>"
