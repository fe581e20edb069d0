"""A worker's start, played in the zygote some times before the first worker is forked.

A forked worker shares all memory with the zygote until it writes to it, and CPython writes where it
only runs code: it counts the calls of a function, rewrites its bytecode after some of them, notes
there what it meets from then on, and remembers where it has found the methods of each class. What
the zygote has done of that is shared by all workers, and none of them does it again, with pages of
its own for it.

So the zygote plays what every worker is going to do: it comes up, starts a server, serves calls and
stops it. All of it is real but for the root, and for the event loop: uvloop's would leave things in
this process that no fork survives.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import socket
import sys
from collections.abc import Generator, Iterable
from typing import Any, Final

from typing_extensions import override

from noex_mp.core.black_box import TEXT_OFFSET
from noex_mp.core.gen_server import GenServer
from noex_mp.core.operations import call
from noex_mp.core.reasons import Shutdown
from noex_mp.transport import fds
from noex_mp.transport.control_link import ControlLink
from noex_mp.transport.link import READ_SIZE
from noex_mp.wire.classes import path_of
from noex_mp.wire.codec import Encoder
from noex_mp.wire.envelopes import CALL, LINK, OPEN, START, STOP
from noex_mp.wire.stream import FrameReader
from noex_mp.wire.values import BIG
from noex_mp.worker.bootstrap import Boot, reseed_numpy
from noex_mp.worker.host import Host

__all__ = ["fill_gaps", "rehearse", "rehearse_modules"]

# CPython 3.11 rewrites the bytecode of a function after 8 calls.
_RUNS: Final = 10
_CALLS: Final = 3
# The server's end is for its task.
_TURNS_TO_STOP: Final = 2

_SID: Final = 1


# CPython gives objects up to 512 bytes out of pools, one for each 16 bytes of size.
_POOLED: Final = range(16, 513, 16)
# In so many gaps: measured, with numpy preloaded, as more did no better.
_GAPS: Final = 100
# That of an empty `bytes`.
_BYTES: Final = 33

# What is larger comes from malloc, which has gaps too; fewer, as memory for them is paid for.
_LARGER: Final = range(528, 8192, 64)
_LARGER_GAPS: Final = 10


def fill_gaps() -> list[object]:
    """Take the free places in pools that are used in part; to be kept.

    What a worker makes would go there, here and there on pages that it then needs of its own. As it
    is, it goes side by side into pools of its own: 0.3 MB less for each with numpy preloaded, and
    0.1 MB without.
    """
    filled: list[object] = []
    for size in _POOLED:
        if size < _BYTES:
            # Smaller ones than any `bytes`: 16 bytes and 24.
            filled += [object() if size == _POOLED[0] else float(n) for n in range(_GAPS)]
        else:
            filled += [bytes(size - _BYTES) for _ in range(_GAPS)]
    for size in _LARGER:
        filled += [bytes(size) for _ in range(_LARGER_GAPS)]
    return filled


class Understudy(GenServer):
    """Stands in for the servers to come."""

    @call
    def repeat(self, line: int) -> int:
        """Return what it is told."""
        return line


class _Stage(Host):
    """A worker that leaves the process it plays in as it is."""

    @override
    def _on_control_closed(self, link: ControlLink, problem: Exception | None) -> None:
        # A real one ends its process with it.
        pass

    def play(self, root: socket.socket) -> list[int]:
        """Go through it all; return the kinds of frames that the root and the caller got.

        Args:
            root: The root's end of the control link.
        """
        pack = Encoder().pack
        reseed_numpy()
        self.record.note_memory()
        self.say_hello()
        spec = {
            "server": path_of(Understudy),
            "payload": b"",
            "process": None,
            "label": "understudy",
            "mailbox": [1_000, 2**20, "wait"],
        }
        root.send(pack([START, _SID, 1, spec]))
        self._turn()
        caller, theirs = socket.socketpair()
        with caller:
            with theirs:
                fds.send_fds(root, pack([LINK, 1, "caller", True, False]), [theirs.fileno()])
            self._turn()
            caller.send(pack([OPEN, _SID, 1]))
            for seq in range(1, _CALLS + 1):
                caller.send(pack([CALL, _SID, seq, "repeat", math.inf, seq]))
                self._turn()
            root.send(pack([STOP, _SID, Shutdown()]))
            for _ in range(_TURNS_TO_STOP):
                self._turn()
            reader = FrameReader(peer="a worker")
            reader.feed(root.recv(READ_SIZE) + caller.recv(READ_SIZE))
        for link in self._links:
            link.close()
        self._control.close()
        return [frame[0] for frame in reader.frames()]

    def _turn(self) -> None:
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()


def rehearse() -> list[int]:
    """Play a worker's life in this process, which has no event loop of its own.

    Returns:
        The kinds of frames that the worker has sent in the last run.
    """
    sent: list[int] = []
    for _ in range(_RUNS):
        with _stage() as (stage, root):
            sent = stage.play(root)
    return sent


def rehearse_modules(names: Iterable[str]) -> None:
    """Run some times what preloaded modules have for that, in `noex_rehearse`."""
    for name in names:
        play = getattr(sys.modules.get(name), "noex_rehearse", None)
        if play is not None:
            for _ in range(_RUNS):
                play()


@contextlib.contextmanager
def _stage() -> Generator[tuple[_Stage, socket.socket]]:
    loop = asyncio.SelectorEventLoop()
    black_box = fds.anonymous_file("noex-mp-rehearsal")
    root, control = socket.socketpair()
    try:
        os.truncate(black_box, TEXT_OFFSET)
        fields: dict[str, Any] = {
            "allow_pickle": True,
            "bytes_from": BIG,
            "spin": False,
            "slot": 0,
            "debug": False,
            # Else it would leave with its last server.
            "shared": True,
        }
        boot = Boot(
            control_fd=control.detach(),
            black_box_fd=black_box,
            names_fd=fds.NO_FD,
            stderr_fd=2,
            fields=fields,
        )
        yield _Stage(loop, boot), root
    finally:
        control.close()
        root.close()
        os.close(black_box)
        loop.close()
