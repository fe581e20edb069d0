"""Ctrl-C and pools: whether it is what ends one, and the line that says what was ended with it.

To the program Ctrl-C is what it always is, a `KeyboardInterrupt`. The line goes to the log, so to
stderr where nobody has set up logging.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from typing import Final

__all__ = ["is_from_ctrl_c", "say_stopped", "was_last_error"]

_log: Final = logging.getLogger("noex_mp")


def is_from_ctrl_c(error: BaseException) -> bool:
    """Return whether an exception has come of Ctrl-C.

    `asyncio.run` cancels its task then, and raises `KeyboardInterrupt` once that has ended.
    """
    if not isinstance(error, asyncio.CancelledError):
        return isinstance(error, KeyboardInterrupt)
    # Its handler is a method of the runner, which says to nobody else what has happened.
    handler = getattr(signal.getsignal(signal.SIGINT), "func", None)
    return bool(getattr(getattr(handler, "__self__", None), "_interrupt_count", 0))


def was_last_error() -> bool:
    """Return whether Ctrl-C is why the interpreter ends."""
    # At a prompt, the last error may be an old one.
    return getattr(sys, "last_type", None) is KeyboardInterrupt and not hasattr(sys, "ps1")


def say_stopped(tasks: tuple[int, int]) -> None:
    """Say that a pool has stopped.

    Args:
        tasks: How many ran, and how many waited.
    """
    _log.warning("Ctrl-C: the pool has stopped (tasks ended: %d, cancelled: %d)", *tasks)
