"""The signals that stop a node: TERM, HUP and Ctrl-C, at every moment of its life.

1. Until the loop runs, nothing has been started that would have to be stopped: the process exits.
2. While the loop runs, a signal is an event, and `StopRequests` makes sense of it.
3. After that all has been stopped: the process exits with the status that it would have had.
4. At last, while the interpreter takes itself apart, they are ignored.

None of them is lost in between, and none is shown as a traceback.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any, Final

from noex_mp.cli import statuses

__all__ = ["ECHO", "StopRequests", "exit_at_once", "run_with_signals"]

_SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)

# Whoever runs us (`timeout`, a package runner) may pass a signal on that the whole process group
# gets as well. So twice the same within this time, in seconds, is once.
ECHO: Final = 0.01


def exit_at_once(status: int) -> None:
    """Let a signal end the process with this status, until the process ends by itself."""
    for number in _handled():
        signal.signal(number, lambda number, frame: os._exit(status))
    atexit.unregister(_ignore)
    atexit.register(_ignore)


def _ignore() -> None:
    # The interpreter would give other handlers up, and then die of the signal.
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _handled() -> list[signal.Signals]:
    # `nohup` means what it says.
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [number for number in _SIGNALS if not (ignored and number == signal.SIGHUP)]


def run_with_signals(
    loop: asyncio.AbstractEventLoop,
    main: Coroutine[Any, Any, int],
    handler: Callable[[signal.Signals], None],
) -> int:
    """Run a coroutine that gives an exit status, with signals as events; then close the loop.

    Args:
        loop: The loop.
        main: What to run.
        handler: Is called in the loop with each signal.
    """
    status = statuses.SOFTWARE
    # Held back while handlers change hands.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        for number in _handled():
            loop.add_signal_handler(number, handler, number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        status = loop.run_until_complete(main)
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        loop.close()
        exit_at_once(status)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    return status


class StopRequests:
    """What the signals mean: the first one stops in order, SIGINT after that at once.

    Any other after the first changes nothing: who runs us may send TERM more than once, and a
    terminal that goes away adds HUP, without wanting anything but the stop that goes on.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        in_order: Callable[[signal.Signals], None],
        at_once: Callable[[signal.Signals], None],
        again: Callable[[signal.Signals], None],
    ) -> None:
        """Take what to do at the first, at SIGINT after it, and at any other after it."""
        self._loop = loop
        self._in_order = in_order
        self._at_once = at_once
        self._again = again
        self._first: signal.Signals | None = None
        self._timer: asyncio.TimerHandle | None = None

    def receive(self, number: signal.Signals) -> None:
        """Take a signal."""
        if self._first is None:
            # Nothing shows until this time is over, so that nobody can answer it before.
            self._first = number
            self._timer = self._loop.call_later(ECHO, self._stop)
            return
        if self._timer is not None:
            if number == self._first:
                return
            self._timer.cancel()
            self._stop()
        further = self._at_once if number == signal.SIGINT else self._again
        further(number)

    def _stop(self) -> None:
        assert self._first is not None
        self._timer = None
        self._in_order(self._first)
