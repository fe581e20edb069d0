"""What workers print: read from their pipes, and passed on line by line."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Final

from noex_mp.transport import fds

__all__ = ["Output", "Sink"]

READ_SIZE: Final = 64 * 1024

# A line without an end is passed on in pieces of this size, in bytes.
MAX_LINE: Final = 64 * 1024

# What a dead worker has left is at most what a pipe holds, 64 KiB; more comes from elsewhere.
LAST_READS: Final = 4

#: Takes the server's name, "stdout" or "stderr", and a line with its end.
Sink = Callable[[str, str, bytes], None]


class Output:
    """The read end of one stream of one worker."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, fd: int, stream: str, label: str, sink: Sink
    ) -> None:
        os.set_blocking(fd, False)
        self._loop = loop
        self._fd = fds.own(fds.high(fd))
        self._stream = stream
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
        for line in lines:
            self._sink(self._label, self._stream, line)
        if len(self._partial) >= MAX_LINE:
            self._sink(self._label, self._stream, self._partial)
            self._partial = b""
        return True

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
            self._sink(self._label, self._stream, self._partial + b"\n")
