"""Standard output and error of a node, written so that nothing there can harm it.

A reader that is gone costs the lines, and one that is too slow costs the output of the workers
beyond `ROOM`; the log itself is dropped only when ten times as much waits.
"""

from __future__ import annotations

import os
import select
from collections.abc import Mapping
from functools import partial

from noex_mp.node.output import ROOM, Writer

__all__ = ["Stream", "standard_streams"]


class Stream(Writer):
    """One descriptor, and the thread that writes to it.

    Attributes:
        is_terminal: Somebody watches.
        in_colour: Whether that somebody wants colours.
    """

    def __init__(self, fd: int, *, room: int = ROOM) -> None:
        super().__init__(partial(_write_all, fd), f"noex-mp output {fd}", room=room)
        self.is_terminal = _is_terminal(fd)
        self.in_colour = self.is_terminal and _colour_is_wanted()


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


def _same_place(one: int, other: int) -> bool:
    return os.path.sameopenfile(one, other)


def _is_terminal(fd: int) -> bool:
    try:
        return os.isatty(fd)
    except OSError:
        return False


def _colour_is_wanted() -> bool:
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
