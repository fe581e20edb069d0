"""A link of the control plane: whole frames, and file descriptors with them."""

from __future__ import annotations

import array
import asyncio
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from noex_mp.errors import RemoteProtocolError
from noex_mp.transport import fds
from noex_mp.transport.link import Link, peer_is_gone
from noex_mp.wire.codec import Encoder, pack_frame
from noex_mp.wire.envelopes import REQUESTS
from noex_mp.wire.stream import FrameReader

__all__ = ["NO_FD", "Bounds", "ControlLink"]

# A packet may carry 253 fds (SCM_MAX_FD); we send one or two with a frame.
FDS_PER_READ: Final = 16

# Stands for an fd that was sent and could not be received.
NO_FD: Final = fds.NO_FD

# When so many bytes of requests wait for the next turn of the loop, they leave: the root may begin.
MAX_REQUESTED: Final = 8 * 1024

# How long to wait where the kernel does not say when it has room again, in seconds.
RETRY: Final = 0.005


class Bounds(NamedTuple):
    """What a peer from outside of the node may cost us, in bytes.

    Attributes:
        frame: The largest frame that is taken, and the largest sum of buffers.
        backlog: How much may wait for a peer that does not read.
        read: How much is read at a time, before others get their turn.
    """

    frame: int
    backlog: int
    read: int


class ControlLink(Link):
    """A link of the control plane: whole frames, and file descriptors with them.

    On a stream socket the fds of a packet arrive with its first byte, and never after it. So
    the receiver keeps them in a queue, and each frame that says it carries an fd takes it from
    the front (`take_fd`).
    """

    # Its frames are checked one by one, as they are taken from the reader.
    few = 0

    __slots__ = (
        "_bounds",
        "_encoder",
        "_in_fds",
        "_on_frame",
        "_queue",
        "_queued",
        "_requested",
        "_requests",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        *,
        peer: str,
        on_frame: Callable[[Any, list[Any]], None],
        on_close: Callable[[Any, Exception | None], None],
        encoder: Encoder,
        allow_pickle: bool = True,
        trusted: bool = True,
        bounds: Bounds | None = None,
    ) -> None:
        self._encoder = encoder
        self._bounds = bounds
        self._queued = 0
        self._requests: list[bytes | memoryview] = []
        self._requested = 0
        self._in_fds: deque[int] = deque()
        self._queue: deque[tuple[memoryview, list[int]]] = deque()
        self._on_frame = on_frame
        super().__init__(
            loop,
            sock,
            peer=peer,
            on_frames=ControlLink._deliver,
            on_close=on_close,
            allow_pickle=allow_pickle,
            trusted=trusted,
        )
        self._recv = self._recv_with_fds
        if bounds is not None:
            self.reader = FrameReader(
                peer=peer,
                allow_pickle=allow_pickle,
                trusted=trusted,
                max_frame_size=bounds.frame,
                max_buffer_size=bounds.frame,
            )
            self.unpacker = self.reader.unpacker

    # --- out ---------------------------------------------------------------------------

    def post(self, frame: list[Any], *pass_fds: int) -> None:
        """Send a frame; `pass_fds` go with it and are closed here once they are sent.

        Raises:
            UnencodableError: A value in the frame cannot be sent; nothing is sent then.
        """
        encoder = self._encoder
        try:
            chunks = encoder.chunks(frame)
        except Exception as error:
            fds.close_all(pass_fds)
            raise encoder.explain_value("frame", frame, error) from None
        self._enqueue(chunks, list(pass_fds))

    def post_big(self, frame: list[Any]) -> None:
        """Send a frame that may hold big bytes: they leave as they are, without a copy.

        Raises:
            UnencodableError: A value in the frame cannot be sent; nothing is sent then.
        """
        try:
            chunks = self._encoder.pack_big(frame)
        except Exception as error:
            raise self._encoder.explain_value("frame", frame, error) from None
        self._enqueue(chunks, [])

    def post_request(self, request: list[Any]) -> None:
        """Send a request with the next turn of the loop, in one frame of REQUESTS with others.

        Everything that is posted after it comes after it. It has no big buffers.

        Raises:
            UnencodableError: A value in it cannot be sent; nothing is sent then.
        """
        try:
            [data] = self._encoder.chunks(request)
        except Exception as error:
            raise self._encoder.explain_value("request", request, error) from None
        if not self._requests:
            self._loop.call_soon(self._post_requests)
        self._requests.append(data)
        self._requested += len(data)
        if self._requested > MAX_REQUESTED:
            self._post_requests()

    def _post_requests(self) -> None:
        if self._requests:
            requests, self._requests, self._requested = self._requests, [], 0
            self._enqueue([pack_frame(REQUESTS, requests)], [])

    def _enqueue(self, chunks: list[bytes | memoryview], passed: list[int]) -> None:
        if self._requests:
            self._post_requests()
        if self.closed:
            fds.close_all(passed)
            return
        for chunk in chunks:
            self._queue.append((memoryview(chunk), passed))
            self._queued += len(chunk)
            passed = []
        if not self._writing:
            self._pump()
        if self._bounds is not None and self._queued > self._bounds.backlog:
            problem = f"requests and reads no answers; {self._queued} bytes wait for it"
            self.close(RemoteProtocolError(self.peer, problem))

    def _pump(self) -> None:
        queue = self._queue
        while queue:
            data, passed = queue[0]
            try:
                sent = self._sock.sendmsg([data], _rights(passed))
            except OSError as error:
                if peer_is_gone(error):
                    self._find_the_end()
                    self._drop_queue()
                    return
                if not isinstance(error, BlockingIOError):
                    # Too many fds on their way (ETOOMANYREFS), or no memory for buffers: the
                    # socket may be writable all the same.
                    self._watch_writable(False)
                    self._loop.call_later(RETRY, self._pump_again)
                    return
                break
            fds.close_all(passed)
            self._queued -= sent
            if sent < len(data):
                queue[0] = (data[sent:], [])
                break
            queue.popleft()
        self._watch_writable(bool(queue))

    def _pump_again(self) -> None:
        if not self.closed and not self._writing:
            self._pump()

    def _watch_writable(self, wanted: bool) -> None:
        if wanted and not self._writing:
            self._loop.add_writer(self.fd, self._pump)
        elif self._writing and not wanted:
            self._loop.remove_writer(self.fd)
        self._writing = wanted

    def _drop_queue(self) -> None:
        for _, passed in self._queue:
            fds.close_all(passed)
        self._queue.clear()
        self._queued = 0
        if self._writing and not self._loop.is_closed():
            self._watch_writable(False)

    def send_all_blocking(self, timeout: float) -> None:
        """Send all that waits, blocking: for a process that is about to end."""
        if self.closed:
            return
        self._post_requests()
        self._sock.settimeout(timeout)
        try:
            for data, passed in self._queue:
                sent = self._sock.sendmsg([data], _rights(passed))
                self._sock.sendall(data[sent:])
        except OSError:
            pass
        self._drop_queue()

    # --- in ----------------------------------------------------------------------------

    def _recv_with_fds(self, size: int) -> bytes:
        if self._bounds is not None:
            size = self._bounds.read
        try:
            data, received = fds.recv_fds(self._sock, size, FDS_PER_READ)
        except fds.DescriptorsLostError as lost:
            # This process has no number free for it. A frame carries one fd at most.
            data, received = lost.data, [NO_FD]
        self._in_fds.extend(received)
        return data

    def _deliver(self) -> None:
        reader = self.reader
        failures = reader.failures
        try:
            for frame in reader.frames():
                if failures:
                    raise RemoteProtocolError(self.peer, f"an unreadable frame: {failures[0]}")
                self._on_frame(self, frame)
                if self.closed:
                    return
        except (RemoteProtocolError, MemoryError) as error:
            self.close(error)
        except Exception as error:
            # A frame too short, a value of the wrong type: all that is left to go wrong here.
            problem = RemoteProtocolError(self.peer, f"a frame that cannot be handled: {error!r}")
            problem.__cause__ = error
            self.close(problem)

    def take_fd(self) -> int:
        """Return the next fd that came with a frame; the caller owns it.

        It is `NO_FD` if this process had no number free for it.

        Raises:
            RemoteProtocolError: The peer announced an fd and sent none.
        """
        if not self._in_fds:
            raise RemoteProtocolError(self.peer, "a frame that should carry an fd and does not")
        return self._in_fds.popleft()

    def close(self, problem: Exception | None = None) -> None:
        """End the link; `on_close` is called once. What was not sent or taken is closed."""
        if not self.closed:
            if problem is None:
                self._post_requests()
            self._drop_queue()
            fds.close_all([fd for fd in self._in_fds if fd != NO_FD])
            self._in_fds.clear()
        super().close(problem)
        # It would hold itself otherwise, and its buffers, until somebody collects garbage: with
        # many restarts, tens of MB.
        self._recv = self._sock.recv


def _rights(passed: list[int]) -> list[tuple[int, int, array.array[int]]]:
    if not passed:
        return []
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", passed))]
