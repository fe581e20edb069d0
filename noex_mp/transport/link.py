"""One end of a socket that carries frames: reads, writes, and never waits.

A `Link` is what both planes are made of. It owns a non-blocking Unix socket, watches it with
the loop's `add_reader`, and gathers what is to be sent in a plain list, so that many messages
leave in one `send`:

* Whoever sends calls `send` with packed bytes (an idle link: the Nagle rule), or appends them to
  `link.out` and calls `flush_soon` (once per loop tick).
* What the socket did not take waits in a backlog until it can be written.
* Whoever receives is called with the link whenever bytes have arrived, and iterates over
  `link.arrived` itself: the hot path has no call per message.

A link never raises into the loop. When it ends, `on_close` hears why: None for a plain end,
an error where the peer sent something that cannot be understood.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from time import monotonic
from typing import Any, Final

from noex_mp.errors import RemoteProtocolError
from noex_mp.transport import fds
from noex_mp.wire.codec import pack_plain
from noex_mp.wire.envelopes import TAKEN
from noex_mp.wire.stream import FrameReader

__all__ = ["Chunk", "Link", "peer_is_gone", "send_all"]

# One recv of this size carries about 1,500 small messages; twice as much gains nothing.
READ_SIZE: Final = 64 * 1024

# A big buffer is read in slices of at most this many reads before the loop gets its turn.
READS_PER_TURN: Final = 16

# The backlog above which a sender has to wait, in bytes, and below which it goes on.
HIGH_WATER: Final = 1024 * 1024
LOW_WATER: Final = 256 * 1024

Chunk = bytes | memoryview

_TAKEN: Final = pack_plain([TAKEN])


class Link:
    """One end of a stream socket between two processes.

    Attributes:
        out: Packed messages that leave with the next flush.
        backlog: What was sent and the socket has not taken.
        scheduled: Whether a flush is on its way through the loop.
        arrived: The frames that have just arrived.
        unpacker: Iterates over all that have arrived and have not been taken.
        state: The owner's: the link's id.
        targets: The owner's: where its messages go.
        resuming: The receiver is in the middle of a batch and goes on by itself.
        congested: So much waits for the socket that a sender should wait too.
        trusted: The peer belongs to the node, and may be lent shared memory.
        lent: What keeps the shared memory that was lent, until the peer has a lease of its own.
        let_go: The owner's: forgets the messages that have been handled.
        closed: The socket is gone.
    """

    # Less than this, in bytes, is likely to be one message.
    few = 128

    __slots__ = (
        "_backlog_size",
        "_loop",
        "_on_close",
        "_on_drained",
        "_on_frames",
        "_recv",
        "_send",
        "_sock",
        "_waiters",
        "_writing",
        "arrived",
        "backlog",
        "closed",
        "congested",
        "fd",
        "lent",
        "let_go",
        "out",
        "peer",
        "reader",
        "resuming",
        "scheduled",
        "state",
        "targets",
        "trusted",
        "unpacker",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        *,
        peer: str,
        on_frames: Callable[[Any], None],
        on_close: Callable[[Any, Exception | None], None],
        allow_pickle: bool = True,
        trusted: bool = True,
    ) -> None:
        sock.setblocking(False)
        self._loop = loop
        self._sock = sock
        self.fd = fds.own(sock.fileno())
        self.peer = peer
        self.reader = FrameReader(
            peer=peer, allow_pickle=allow_pickle, trusted=trusted, on_borrowed=self._borrowed
        )
        self.unpacker = self.reader.unpacker
        self.trusted = trusted
        self.lent: deque[Chunk] = deque()
        self.let_go: Callable[[], None] | None = None
        self.arrived: Iterable[list[Any]] = self.unpacker
        self.out: list[bytes] = []
        self.scheduled = False
        self.resuming = False
        self.closed = False
        self.congested = False
        self.state: Any = None
        self.targets: Any = None
        self.backlog: deque[Chunk] = deque()
        self._backlog_size = 0
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._writing = False
        self._on_frames = on_frames
        self._on_drained: Callable[[Link], None] | None = None
        self._on_close = on_close
        self._recv: Callable[[int], bytes] = sock.recv
        self._send = sock.send
        loop.add_reader(self.fd, self.read)

    # --- out ---------------------------------------------------------------------------

    def flush(self) -> None:
        """Send what is in `out`, as far as the socket takes it."""
        self.scheduled = False
        out = self.out
        if self.closed:
            out.clear()
        if not out:
            return
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        if self.backlog:
            self._keep(memoryview(data))
            return
        try:
            sent = self._send(data)
        except OSError as error:
            if peer_is_gone(error):
                self._find_the_end()
                return
            sent = 0
        if sent != len(data):
            self._keep(memoryview(data)[sent:])

    def send(self, data: bytes) -> None:
        """Send one message at once: the link is idle."""
        if self.out or self.backlog or self.closed:
            self.out.append(data)
            self.flush()
            return
        try:
            sent = self._send(data)
        except OSError as error:
            if peer_is_gone(error):
                return
            sent = 0
        if sent != len(data):
            self._keep(memoryview(data)[sent:])

    def send_view(self, data: memoryview) -> None:
        """Send bytes from a buffer that is going to be used again."""
        if self.out:
            self.flush()
        sent = 0
        if not self.backlog:
            try:
                sent = self._send(data)
            except OSError as error:
                if peer_is_gone(error):
                    return
        if sent != len(data) and not self.closed:
            self._keep(memoryview(bytes(data[sent:])))

    def flush_soon(self) -> None:
        """Send what is in `out` at the end of this tick."""
        if not self.scheduled:
            self.scheduled = True
            self._loop.call_soon(self.flush)

    def send_chunks(self, chunks: Sequence[Chunk]) -> None:
        """Send one message whose big buffers are not copied into its body.

        A chunk that is empty stands for shared memory that the message names. It is kept here
        until the peer says that it has it (`taken`), or is gone.
        """
        self.flush()
        if self.closed:
            # What is kept for a peer that is gone would stay for good.
            return
        for chunk in chunks:
            rest = memoryview(chunk)
            if not rest:
                self.lent.append(chunk)
                continue
            if not self.backlog:
                rest = rest[self._try_send(rest) :]
            if len(rest):
                self._keep(rest)

    def taken(self) -> None:
        """Note that the peer has a lease on the oldest piece of memory that it was lent."""
        self.lent.popleft()

    def _try_send(self, data: memoryview) -> int:
        try:
            return self._send(data)
        except OSError as error:
            if not peer_is_gone(error):
                return 0
            self._find_the_end()
            return len(data)

    def _find_the_end(self) -> None:
        # What the peer had sent before is still to be read: reading finds the end. Not every loop
        # says so by itself (see `_hang_up`).
        if not self._loop.is_closed():
            self._loop.call_soon(self.read)

    def _keep(self, rest: memoryview) -> None:
        self.backlog.append(rest)
        self._backlog_size += len(rest)
        self.congested = self._backlog_size > HIGH_WATER
        if not self._writing and not self.closed:
            self._writing = True
            self._loop.add_writer(self.fd, self._writable)

    def _send_backlog(self) -> None:
        backlog = self.backlog
        while backlog:
            chunk = memoryview(backlog[0])
            sent = self._try_send(chunk)
            self._backlog_size -= sent
            if sent < len(chunk):
                backlog[0] = chunk[sent:]
                break
            backlog.popleft()

    def _writable(self) -> None:
        self._send_backlog()
        backlog = self.backlog
        if not backlog:
            self._writing = False
            self._loop.remove_writer(self.fd)
            self.flush()
            if not backlog and self._on_drained is not None:
                resume, self._on_drained = self._on_drained, None
                self._loop.add_reader(self.fd, self.read)
                resume(self)
        self.congested = self._backlog_size > LOW_WATER
        self._wake_waiters()

    def rest_until_drained(self, resume: Callable[[Link], None]) -> bool:
        """Take nothing from a peer that does not read, until it does; say whether that is so.

        Args:
            resume: Is called when everything has left.
        """
        if not self.backlog or self.closed:
            return False
        self.resuming = True
        self._on_drained = resume
        # What waits in the socket would wake the loop in each turn.
        self._loop.remove_reader(self.fd)
        return True

    def wait_until_drained(self, level: int = LOW_WATER) -> asyncio.Future[None]:
        """Return a future that is done once no more than `level` bytes wait, or the link ended."""
        future = self._loop.create_future()
        self._waiters.append((level, future))
        if not self.backlog:
            self._wake_waiters()
        return future

    def _wake_waiters(self) -> None:
        waiters, self._waiters = self._waiters, []
        for level, future in waiters:
            if self._backlog_size > level:
                self._waiters.append((level, future))
            elif not future.done():
                future.set_result(None)

    def send_now(self) -> bool:
        """Send what the socket takes, without the loop; return whether all of it has left."""
        if not self.closed:
            self.backlog.extend(memoryview(data) for data in self.out)
            self._backlog_size += sum(map(len, self.out))
            self.out.clear()
            self._send_backlog()
        return self.closed or not self.backlog

    # --- in ----------------------------------------------------------------------------

    def read(self) -> bool:
        """Read once and hand on what came; return whether there may be more."""
        if self.resuming or self.closed:
            return False
        if self.reader.wanted is not None:
            return self._read_buffer()
        try:
            data = self._recv(READ_SIZE)
        except BlockingIOError:
            return False
        except OSError:
            # ECONNRESET comes after the last byte that could be read.
            data = b""
        if not data:
            self._ended()
            return False
        reader = self.reader
        try:
            reader.feed(data)
            if reader.next_at is None and not reader.head:
                reader.head_at, reader.head = reader.fed, data
            reader.fed += len(data)
            if len(data) < self.few:
                self.arrived = reader.few(data)
            else:
                self.arrived, reader.data = self.unpacker, data
        except Exception as error:
            self.close(self.reader.translate(error))
            return False
        self._on_frames(self)
        # What came may be large, and the next message far.
        self.arrived = self.unpacker
        if not self.resuming:
            reader.data = b""
        return True

    def _borrowed(self) -> None:
        """Tell the peer that its shared memory is here, and that it need not keep it for us."""
        self.out.append(_TAKEN)
        self.flush_soon()
        self._loop.call_soon(self._forget)

    def _forget(self) -> None:
        # Else a value would be leased until the next message comes.
        if self.let_go is not None:
            self.let_go()

    def begin_buffers(self, frame: list[Any]) -> None:
        """Take a BUFFERS frame: its bytes follow outside the msgpack stream.

        Raises:
            RemoteProtocolError: It makes no sense; nothing behind it can be read either.
        """
        self.reader.begin(frame)

    def _read_buffer(self) -> bool:
        reader = self.reader
        for _ in range(READS_PER_TURN):
            wanted = reader.wanted
            if wanted is None:
                break
            try:
                size = self._sock.recv_into(wanted)
            except BlockingIOError:
                return False
            except OSError:
                size = 0
            if not size:
                self._ended()
                return False
            reader.advance(size)
        return True

    def make_room(self, size: int) -> None:
        """Let the system hold so many bytes that the peer has not read, or as many as it may."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)

    def drain(self) -> None:
        """Read all that has arrived, until the socket has no more."""
        while self.read():
            pass

    def _ended(self) -> None:
        problem: Exception | None = None
        try:
            self.reader.receive_eof()
        except RemoteProtocolError as error:
            problem = error
        self.close(problem)

    def abandon(self) -> None:
        """Leave the link to the process that this one was forked from; drop what has come."""
        self.closed = True
        with contextlib.suppress(Exception):
            # Until it says that there is no more.
            while True:
                self.unpacker.skip()

    def close(self, problem: Exception | None = None) -> None:
        """End the link; `on_close` is called once."""
        if self.closed:
            return
        self.closed = True
        self.backlog.clear()
        self.lent.clear()
        self._backlog_size = 0
        self.congested = False
        if not self._loop.is_closed():
            self._loop.remove_reader(self.fd)
            if self._writing:
                self._loop.remove_writer(self.fd)
            self._wake_waiters()
        try:
            # Before the peer can see it: the root kills a worker that closes its control link,
            # and the worker has something to say first.
            self._on_close(self, problem)
        finally:
            # It would hold itself, and its buffers with it.
            self.reader.listen(None)
            fds.disown(self.fd)
            _hang_up(self._sock)


def send_all(links: Iterable[Link], timeout: float) -> None:
    """Send all that waits on some links, blocking: nobody turns their loop any more.

    Args:
        timeout: How long it may take, in seconds; what has not left by then stays.
    """
    end = monotonic() + timeout
    waiting = {link.fd: link for link in links if not link.send_now()}
    poll = select.poll()
    for fd in waiting:
        poll.register(fd, select.POLLOUT)
    while waiting and (left := end - monotonic()) > 0:
        for fd, _ in poll.poll(left * 1000):
            if waiting[fd].send_now():
                poll.unregister(fd)
                del waiting[fd]


def _hang_up(sock: socket.socket) -> None:
    """Close a socket in such a way that the peer reads its end, and no reset.

    What is unread at a close makes a reset of it, and of that uvloop does not tell a reader: libuv
    takes an error for a closed descriptor, and stops to poll it.
    """
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
        while sock.recv(READ_SIZE):
            pass
    sock.close()


def peer_is_gone(error: OSError) -> bool:
    """Return whether a write failed because nobody is at the other end any more."""
    return isinstance(error, BrokenPipeError | ConnectionResetError)
