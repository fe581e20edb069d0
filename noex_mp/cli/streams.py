"""Standard output and error of a node, written so that nothing there can harm it.

The root's event loop keeps servers alive, so it must not wait for whoever reads its log: a pager,
a terminal that was stopped with Ctrl-S, a log collector that hangs. It hands each line to a thread,
which does the waiting. A reader that is gone costs the lines, and one that is too slow costs the
output of the workers beyond `ROOM`; the log itself is never dropped while somebody may read it.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Mapping
from typing import Final

__all__ = ["ROOM", "Stream", "open_missing", "standard_streams"]

# Output that waits for its reader, in bytes; beyond that lines of the workers are dropped.
ROOM: Final = 8 * 1024 * 1024

# How long the end of a node waits for the readers of its last lines, in seconds.
PATIENCE: Final = 2.0


class Stream:
    """One descriptor, and the thread that writes to it.

    Attributes:
        is_terminal: Somebody watches.
        in_colour: Whether that somebody wants colours.
    """

    def __init__(self, fd: int, *, room: int = ROOM) -> None:
        self.is_terminal = _is_terminal(fd)
        self.in_colour = self.is_terminal and _colour_is_wanted()
        self._fd = fd
        self._room = room
        self._waiting: list[bytes] = []
        self._size = 0
        self._dropped = 0
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"noex-mp output {fd}", daemon=True)
        # Its signals go to the main thread: a thread starts with the mask of its maker.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        self._thread.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def write(self, data: bytes, *, droppable: bool = False) -> None:
        """Have something written after everything before; never waits, never raises.

        Args:
            droppable: Leave it out if too much waits already.
        """
        with self._changed:
            if droppable and self._size > self._room:
                self._dropped += 1
                return
            if self._dropped:
                data = _note(self._dropped) + data
                self._dropped = 0
            self._waiting.append(data)
            self._size += len(data)
            self._changed.notify()

    def close(self, patience: float = PATIENCE) -> None:
        """Wait until all is written, at most `patience` seconds; for the end of the process."""
        with self._changed:
            if self._dropped:
                self._waiting.append(_note(self._dropped))
                self._dropped = 0
            self._closed = True
            self._changed.notify()
        self._thread.join(patience)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if not self._waiting:
                    return
                data = b"".join(self._waiting)
                self._waiting.clear()
            _write_all(self._fd, data)
            with self._changed:
                self._size -= len(data)


def _note(dropped: int) -> bytes:
    return f"noex-mp: {dropped} lines of output were dropped: nobody read them\n".encode()


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            # Somebody who shares the terminal has made it non-blocking.
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()
        except OSError:
            # The reader or the terminal is gone, or the disk is full. The next line tries again.
            return


def standard_streams() -> Mapping[str, Stream]:
    """Return the streams for `"stdout"` and `"stderr"`.

    Where both lead to the same place they are one, so that lines keep their order; else a reader
    that does not read holds up its own stream only.
    """
    stderr = Stream(2)
    return {"stdout": stderr if _same_place(1, 2) else Stream(1), "stderr": stderr}


def open_missing() -> None:
    """Open what is closed of 0, 1 and 2, so that no other file gets these numbers."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            # The lowest free number, which is this one.
            os.open(os.devnull, os.O_RDWR)


def _same_place(one: int, other: int) -> bool:
    return os.path.sameopenfile(one, other)


def _is_terminal(fd: int) -> bool:
    try:
        return os.isatty(fd)
    except OSError:
        return False


def _colour_is_wanted() -> bool:
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
