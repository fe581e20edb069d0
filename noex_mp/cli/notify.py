"""What a node tells systemd: that it is up, what it is about, that its loop runs, that it stops.

The protocol is that of `sd_notify(3)`: datagrams of `NAME=value` lines, to the socket that
`NOTIFY_SOCKET` names. Without the variable nothing is sent. The variables are taken out of the
environment, since workers and what they start have nothing to tell.

```python
notifier = Notifier.from_environment()
notifier.begin(loop)                        # from now on the watchdog is answered
notifier.tell("READY=1", "STATUS=up with 2 servers")
```

The watchdog is answered by the loop that keeps the servers alive, and by nothing else: when that
loop hangs, systemd hears no more, and starts the service again.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import deque
from collections.abc import Mapping
from typing import Final

from noex_mp.transport import fds

__all__ = ["Notifier", "address_of", "watchdog_of"]

_VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")

# systemd reads slowly at times, and its queue is short: when to try again, in seconds.
RETRY: Final = 0.05

# How long the last words of a node may wait for that, in seconds.
PATIENCE: Final = 1.0


class Notifier:
    """Tells the service manager, if there is one."""

    def __init__(self, address: bytes | None, watchdog: float | None = None) -> None:
        """Take where to send, and how often the watchdog wants to hear, in seconds."""
        self._address = address
        self._watchdog = watchdog
        self._waiting: deque[bytes] = deque()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._socket: socket.socket | None = None
        if address is not None:
            # Made now: later there may be no descriptor left.
            self._socket = fds.high_socket(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))

    @classmethod
    def from_environment(cls) -> Notifier:
        """Return the notifier that the environment asks for, and clear that out of it."""
        variables = {name: os.environ.pop(name, "") for name in _VARIABLES}
        return cls(address_of(variables), watchdog_of(variables, os.getpid()))

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer the watchdog from this loop."""
        self._loop = loop
        if self._socket is not None and self._watchdog is not None:
            self._answer_watchdog()

    def tell(self, *assignments: str) -> None:
        """Send `NAME=value` lines in one datagram; never waits, never raises."""
        if self._socket is not None:
            lines = (" ".join(assignment.split()) for assignment in assignments)
            self._waiting.append("\n".join(lines).encode(errors="replace"))
            self._flush()

    def close(self) -> None:
        """Send what still waits, for a moment."""
        for timer in self._timers.values():
            timer.cancel()
        if self._socket is None:
            return
        self._loop = None
        self._flush()
        # Not by a timeout of the socket: of one that is not connected the kernel always says that
        # it could be written to, and a wait for that is none.
        end = time.monotonic() + PATIENCE
        while self._waiting and time.monotonic() < end:
            time.sleep(RETRY)
            self._flush()
        fds.disown(self._socket.fileno())
        self._socket.close()
        self._socket = None

    def _answer_watchdog(self) -> None:
        assert self._watchdog is not None
        if not self._waiting:
            self.tell("WATCHDOG=1")
        # Twice in the time that it allows, as systemd recommends.
        self._later("watchdog", self._watchdog / 2)

    def _flush(self) -> None:
        assert self._socket is not None
        while self._waiting:
            try:
                self._socket.sendto(self._waiting[0], self._address or b"")
            except BlockingIOError:
                self._later("flush", RETRY)
                return
            except OSError:
                # Nobody listens there, now or at all. Servers run just as well.
                pass
            self._waiting.popleft()

    def _later(self, what: str, seconds: float) -> None:
        if self._loop is not None:
            action = self._answer_watchdog if what == "watchdog" else self._flush
            self._timers[what] = self._loop.call_later(seconds, action)


def address_of(variables: Mapping[str, str]) -> bytes | None:
    """Return where notifications go: a path, or a name without one (`@name`); None for nowhere."""
    text = variables.get("NOTIFY_SOCKET", "")
    if text.startswith("@"):
        return b"\0" + os.fsencode(text[1:])
    # What else systemd may say (vsock) is for virtual machines.
    return os.fsencode(text) if text.startswith("/") else None


def watchdog_of(variables: Mapping[str, str], os_pid: int) -> float | None:
    """Return how often this process has to be heard of, in seconds; None if nobody waits for it."""
    microseconds = variables.get("WATCHDOG_USEC", "")
    meant = variables.get("WATCHDOG_PID") or str(os_pid)
    if not microseconds.isdecimal() or int(microseconds) == 0 or meant != str(os_pid):
        return None
    return int(microseconds) / 1_000_000
