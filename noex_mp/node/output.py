"""What workers print: read from their pipes, and passed on line by line.

The root's event loop keeps servers alive, so it must not wait for whoever reads its output: a
pager, a terminal that was stopped with Ctrl-S, a log collector that hangs. It hands each line to
a `Writer`, whose thread does the waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from noex_mp.core.report_bounds import LAST_LINES
from noex_mp.transport import fds

__all__ = ["PATIENCE", "ROOM", "OurOutput", "Output", "Sink", "Writer", "start_thread"]

READ_SIZE: Final = 64 * 1024

# A line without an end is passed on in pieces of this size, in bytes.
MAX_LINE: Final = 64 * 1024

# Of a line that is kept for an exit report, so many bytes are.
MAX_KEPT: Final = 1200

# What a dead worker has left is at most what a pipe holds, 64 KiB; more comes from elsewhere.
LAST_READS: Final = 4

# Output that waits for its reader, in bytes; beyond that lines of the workers are dropped, and
# beyond ten times that all lines.
ROOM: Final = 8 * 1024 * 1024

# How long the end of a node waits for the readers of its last lines, in seconds.
PATIENCE: Final = 2.0

#: Takes the server's name, "stdout" or "stderr", and a line with its end.
Sink = Callable[[str, str, bytes], None]


class Output:
    """The read end of one stream of one worker.

    Attributes:
        stream: "stdout" or "stderr".
        closed: Nothing more will come.
        last: The last lines that came, cut to a decent length.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, fd: int, stream: str, label: str, sink: Sink
    ) -> None:
        os.set_blocking(fd, False)
        self._loop = loop
        self._fd = fds.own(fds.high(fd))
        self.stream = stream
        self.last: deque[bytes] = deque(maxlen=LAST_LINES)
        self._label = label
        self._sink = sink
        self._partial = b""
        self.closed = False
        loop.add_reader(self._fd, self._read)

    def _read(self) -> bool:
        try:
            data = os.read(self._fd, READ_SIZE)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self.close()
            return False
        lines = (self._partial + data).splitlines(keepends=True)
        self._partial = b"" if lines[-1].endswith(b"\n") else lines.pop()
        self._keep(lines)
        for line in lines:
            self._sink(self._label, self.stream, line)
        if len(self._partial) >= MAX_LINE:
            self._keep([self._partial])
            self._sink(self._label, self.stream, self._partial)
            self._partial = b""
        return True

    def _keep(self, lines: list[bytes]) -> None:
        self.last.extend(line[:MAX_KEPT] for line in lines[-LAST_LINES:])

    def finish(self) -> None:
        """Read what a dead worker left, and close; a grandchild may hold the other end."""
        for _ in range(LAST_READS):
            if self.closed or not self._read():
                break
        self.close()

    def close(self) -> None:
        """Pass on what has no line end, and close."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._fd)
        fds.close(self._fd)
        if self._partial:
            self._keep([self._partial])
            self._sink(self._label, self.stream, self._partial + b"\n")


class Writer:
    """A thread that writes, so that others need not wait for the reader."""

    def __init__(self, write: Callable[[bytes], None], name: str, *, room: int = ROOM) -> None:
        """Take what writes.

        Args:
            write: Writes all of it, however long that takes; raises nothing.
            name: The thread's name, for people.
            room: How much may wait, in bytes.
        """
        self._write_all = write
        self._name = name
        self._room = room
        self._waiting: list[bytes] = []
        self._size = 0
        self._dropped = 0
        self._closed = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def write(self, data: bytes, *, droppable: bool = False) -> None:
        """Have something written after everything before; never waits, never raises.

        Args:
            droppable: Leave it out sooner if too much waits already.
        """
        with self._changed:
            if self._size > self._room * (1 if droppable else 10):
                self._dropped += 1
                return
            if self._dropped:
                data = _note(self._dropped) + data
                self._dropped = 0
            self._waiting.append(data)
            self._size += len(data)
            if self._thread is None:
                try:
                    self._thread = start_thread(self._run, self._name)
                except RuntimeError:
                    # The interpreter ends, and from Python 3.12 on starts no thread any more.
                    self._write_waiting()
            self._changed.notify()

    def close(self, patience: float = PATIENCE) -> None:
        """Wait until all is written, at most `patience` seconds."""
        with self._changed:
            if self._dropped:
                self._waiting.append(_note(self._dropped))
                self._dropped = 0
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(patience)

    def _write_waiting(self) -> None:
        waiting, self._waiting, self._size = self._waiting, [], 0
        self._write_all(b"".join(waiting))

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if not self._waiting:
                    return
                data = b"".join(self._waiting)
                self._waiting.clear()
            self._write_all(data)
            with self._changed:
                self._size -= len(data)


def start_thread(run: Callable[[], None], name: str) -> threading.Thread:
    """Start a thread that waits in the place of others, and that no signal interrupts.

    Raises:
        RuntimeError: There are no new threads any more: the interpreter ends.
    """
    thread = threading.Thread(target=run, name=name, daemon=True)
    # Its signals go to the main thread: a thread starts with the mask of its maker.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        thread.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    return thread


def _note(dropped: int) -> bytes:
    return f"noex-mp: {dropped} lines of output were dropped: nobody read them\n".encode()


class OurOutput:
    """A sink that passes what workers print on to this program's own output."""

    def __init__(self) -> None:
        self._writers = {
            name: Writer(partial(_print, name), f"noex-mp {name}") for name in ("stdout", "stderr")
        }

    def __call__(self, label: str, stream: str, line: bytes) -> None:
        """Pass a line on."""
        self._writers[stream].write(line, droppable=True)

    def close(self) -> None:
        """Wait until all is written, for a while."""
        for writer in self._writers.values():
            writer.close()


def _print(name: str, data: bytes) -> None:
    # Looked up each time: notebooks and tests put their own in its place.
    file = getattr(sys, name)
    with contextlib.suppress(OSError, ValueError, AttributeError):
        file.write(data.decode(errors="replace"))
        file.flush()
