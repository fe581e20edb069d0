"""A link whose thread may block in it: the shortest way to a reply."""

from __future__ import annotations

import socket
import struct
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
        sock = _Socket(sock.family, sock.type, sock.proto, fileno=sock.detach())
        super().__init__(loop, sock, **options)
        sock.setblocking(True)
        limit = struct.pack("ll", 0, MOMENT)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        recv, send, at_once = sock.recv, sock.send, socket.MSG_DONTWAIT

        def recv_at_once(size: int) -> bytes:
            return recv(size, at_once)

        def send_at_once(data: Any, flags: int = at_once) -> int:
            return send(data, flags)

        self._send = send_at_once
        self._recv = self._recv_at_once = recv_at_once
        self._recv_blocking = recv

    def _borrowed(self) -> None:
        super()._borrowed()
        # Its thread may have no further turn for long.
        self.flush()

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
    """A socket that blocks, but not where a link reads a big buffer."""

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = socket.MSG_DONTWAIT) -> int:
        return super().recv_into(buffer, nbytes, flags)
