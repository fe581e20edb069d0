"""A steady tick for a loop, which costs nothing between two ticks.

A timer of the loop's own would be looked at in every turn of it: about 3 % of a call's time on
either loop (measured). So the kernel keeps the time where it can (Linux: a timerfd), and the loop
only sees a descriptor that becomes readable.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import sys
from collections.abc import Callable

from noex_mp.transport import fds
from noex_mp.transport.libc import libc
from noex_mp.transport.platform import FALLBACKS

__all__ = ["Ticker"]

_CLOCK_MONOTONIC = 1


class Ticker:
    """Calls back every so many seconds, between `start` and `stop`."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, callback: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._seconds = seconds
        self._callback = callback
        self._timer: asyncio.TimerHandle | None = None
        self._fd: int | None = None

    def start(self) -> None:
        """Begin to tick."""
        if self._fd is None:
            self._fd = self._open()
        if self._fd >= 0:
            _set_interval(self._fd, self._seconds)
        else:
            self._timer = self._loop.call_later(self._seconds, self._on_timer)

    def stop(self) -> None:
        """Tick no more until the next start."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        elif self._fd is not None and self._fd >= 0:
            _set_interval(self._fd, 0.0)

    def close(self) -> None:
        """Stop for good."""
        self.stop()
        if self._fd is not None and self._fd >= 0:
            if not self._loop.is_closed():
                self._loop.remove_reader(self._fd)
            fds.close_all([self._fd])
        self._fd = -1

    def _open(self) -> int:
        fd = _timerfd()
        if fd >= 0:
            fds.own(fd)
            self._loop.add_reader(fd, self._on_readable)
        return fd

    def _on_readable(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd or 0, 8)
            self._callback()

    def _on_timer(self) -> None:
        self._timer = self._loop.call_later(self._seconds, self._on_timer)
        self._callback()


def _timerfd() -> int:
    """Return a new timerfd, high and close-on-exec, or -1 where there is none to be had."""
    if sys.platform != "linux" or FALLBACKS:
        return -1
    fd: int = libc().timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
    return fds.high(fd) if fd >= 0 else -1


def _set_interval(fd: int, seconds: float) -> None:
    # Python has this from 3.13 on.
    whole, nanoseconds = divmod(round(seconds * 1e9), 1_000_000_000)
    # struct itimerspec: the period and the first time, each in seconds and nanoseconds.
    interval = struct.pack("4l", whole, nanoseconds, whole, nanoseconds)
    libc().timerfd_settime(fd, 0, interval, None)
