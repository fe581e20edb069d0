"""A link whose thread may block in it: the shortest way to a reply."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Any, Final

from noex_mp.transport.link import Link

__all__ = ["BlockingLink"]

# So long at most, in microseconds, a thread hears of nothing but this link.
MOMENT: Final = 10_000


class BlockingLink(Link):
    """A link of a thread without an event loop.

    To wait in `recv` itself saves the `poll` before it: a tenth of a call. The socket blocks for
    this, for a moment at most, and everything else tells the kernel not to.
    """

    __slots__ = ("_recv_at_once", "_recv_blocking")

    def __init__(self, loop: Any, sock: socket.socket, **options: Any) -> None:
        wrapped = _Socket(sock.family, sock.type, sock.proto, fileno=sock.detach())
        super().__init__(loop, wrapped, **options)
        wrapped.setblocking(True)
        limit = struct.pack("ll", 0, MOMENT)
        wrapped.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self._recv_at_once: Callable[[int], bytes] = wrapped.recv
        self._recv_blocking: Callable[[int], bytes] = super(socket.socket, wrapped).recv

    def wait_a_moment(self) -> None:
        """Wait for what comes and read it, unless there is something to be sent.

        An exception out of a signal handler may lose what was read: the link is of no use then.
        """
        if self._writing:
            return
        self._recv = self._recv_blocking
        self.read()
        self._recv = self._recv_at_once


class _Socket(socket.socket):
    """A socket that blocks, and does not where links call it."""

    def recv(self, size: int, flags: int = socket.MSG_DONTWAIT) -> bytes:
        return super().recv(size, flags)

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = socket.MSG_DONTWAIT) -> int:
        return super().recv_into(buffer, nbytes, flags)

    def send(self, data: Any, flags: int = socket.MSG_DONTWAIT) -> int:
        return super().send(data, flags)
