"""A socket for whole packets, each with its file descriptors: between the root and the zygote.

Linux keeps packets apart by itself (`SOCK_SEQPACKET`). Elsewhere they travel on a stream, each
behind a header: its length and how many descriptors belong to it.
"""

from __future__ import annotations

import collections
import contextlib
import socket
import struct
import sys
from collections.abc import Sequence
from typing import Final

from noex_mp.transport import fds
from noex_mp.transport.platform import FALLBACKS

__all__ = ["PacketSocket", "packet_pair", "packet_socket"]

MAX_PACKET: Final = 128 * 1024  # bytes

_HEADER: Final = struct.Struct("=II")
# Stands for the descriptors of one packet that this process had no numbers for.
_LOST: Final = -1


class PacketSocket:
    """One end of a pair; never blocks.

    Attributes:
        unsent: A part of a packet waits here; `flush` sends it.
        has_packet: A whole packet waits here; the descriptor need not be readable then.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.unsent: memoryview | bytes = b""
        self.has_packet = False

    def fileno(self) -> int:
        """Return the descriptor, -1 once it is closed."""
        return self._sock.fileno()

    def send(self, data: bytes, passed: Sequence[int] = ()) -> None:
        """Send one packet, and copies of `passed` with it.

        Raises:
            BlockingIOError: The socket is full; nothing was sent.
        """
        fds.send_fds(self._sock, data, passed)

    def flush(self) -> None:
        """Send the rest of a packet.

        Raises:
            BlockingIOError: Not all of it could be sent.
        """

    def receive(self) -> tuple[bytes, list[int]]:
        """Receive one packet and the descriptors that came with it; no bytes mean the end.

        Raises:
            BlockingIOError: There is no whole packet yet.
            DescriptorsLostError: This process had no numbers free for the descriptors.
        """
        return fds.recv_fds(self._sock, MAX_PACKET)

    def end(self) -> None:
        """Say that nothing more is sent; it can still receive."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close this end."""
        if self._sock.fileno() >= 0:
            fds.disown(self._sock.fileno())
        self._sock.close()


class _StreamPackets(PacketSocket):
    """Packets on a stream socket."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._received = bytearray()
        self._fds: collections.deque[int] = collections.deque()

    def send(self, data: bytes, passed: Sequence[int] = ()) -> None:
        self.flush()
        packet = _HEADER.pack(len(data), len(passed)) + data
        # What does not fit in now has no descriptors any more: they go with the first byte.
        self.unsent = memoryview(packet)[fds.send_fds(self._sock, packet, passed) :]

    def flush(self) -> None:
        while self.unsent:
            self.unsent = self.unsent[self._sock.send(self.unsent) :]

    def receive(self) -> tuple[bytes, list[int]]:
        while not self.has_packet:
            try:
                data, passed = fds.recv_fds(self._sock, MAX_PACKET)
            except fds.DescriptorsLostError as lost:
                data, passed = lost.data, [_LOST]
            if not data:
                return b"", []
            self._received += data
            self._fds.extend(passed)
            self._look()
        return self._take()

    def _look(self) -> None:
        received = self._received
        self.has_packet = (
            len(received) >= _HEADER.size
            and len(received) >= _HEADER.size + _HEADER.unpack_from(received)[0]
        )

    def _take(self) -> tuple[bytes, list[int]]:
        length, count = _HEADER.unpack_from(self._received)
        end = _HEADER.size + length
        data = bytes(self._received[_HEADER.size : end])
        del self._received[:end]
        self._look()
        if count and self._fds[0] == _LOST:
            self._fds.popleft()
            raise fds.DescriptorsLostError(data)
        return data, [self._fds.popleft() for _ in range(count)]


def packet_socket(sock: socket.socket) -> PacketSocket:
    """Return the packet socket that `sock`, one end of such a pair, makes."""
    stream = sock.type == socket.SOCK_STREAM
    return _StreamPackets(sock) if stream else PacketSocket(sock)


def packet_pair() -> tuple[PacketSocket, socket.socket]:
    """Return two connected ends, high and owned: one for us, a plain one to pass on."""
    if sys.platform == "linux" and not FALLBACKS:
        ours, theirs = fds.socketpair(socket.SOCK_SEQPACKET)
    else:
        ours, theirs = fds.socketpair(socket.SOCK_STREAM)
    return packet_socket(ours), theirs
