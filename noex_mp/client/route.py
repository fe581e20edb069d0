"""The way from one client to one server: the hot path of every call and cast.

A `Route` belongs to one client (an event loop in some process) and one server. It numbers
the messages, keeps each call until its reply has come, and outlives the server's restarts:

1. While the server runs, a message goes to the `link` to its worker.
2. When the server dies, the link is drained, and `ended` sorts the pending calls by the
   worker's started cell: what had begun fails (unless it is idempotent), the rest waits.
3. While the server restarts, new messages wait behind the old ones.
4. `located` sends all of them to the next incarnation, in their old order.
5. When the server is gone for good, `gone` fails whatever waits.

What `invoke` costs is what a call costs: it makes one list, one bytes object, one future and
one tuple. There is no coroutine, no timer and no message object.
"""

from __future__ import annotations

import asyncio
from _thread import get_ident
from typing import TYPE_CHECKING, Any, Final

from noex_mp.core.ref import DEFAULT_TIMEOUT
from noex_mp.errors import (
    CallTimedOutError,
    MailboxFullError,
    NodeDownError,
    NoServerError,
    ServerExitedError,
    UnencodableError,
)
from noex_mp.transport.link import Link
from noex_mp.wire.codec import BIG
from noex_mp.wire.envelopes import CALL, CALL_KW, CAST, CAST_KW, OPEN

if TYPE_CHECKING:
    from noex_mp.client.client import Client
    from noex_mp.core.reasons import ExitReport
    from noex_mp.core.ref import SentOperation

__all__ = ["FOREVER", "TICK", "Route"]

# Deadlines are counted in ticks of this many seconds. A call that is out of time is found at
# the end of its tick, so a limit is late by three of them at most (45 ms), and never early.
TICK: Final = 0.015
FOREVER: Final = 1 << 62

# This many casts leave at once if the sender does not let the loop run by itself.
BATCH: Final = 256

# How many messages may wait for a server that restarts.
MAX_WAITING: Final = 10_000

# Future, packed message, operation (None: a cast that waits), due tick, limit in seconds.
Pending = tuple["asyncio.Future[Any]", Any, "SentOperation | None", float, "float | None"]


def ticks(timeout: float) -> int:
    """Return how many ticks a call has: the one under way has begun, the last has to be over."""
    return int(timeout / TICK) + 2


_DEFAULT_TICKS: Final = ticks(DEFAULT_TIMEOUT)

_BUFFERS: Final = frozenset((bytes, bytearray, memoryview))


class Route:
    """One client's way to one server.

    Attributes:
        thread: The thread of its event loop; 0 once the server is gone, so that a `Ref` asks
            again.
        is_running: Tells whether its event loop runs.
        link: The link to the server's worker, or None while there is none.
        pending: The calls without a reply (and, while there is no link, the casts that wait),
            by number, oldest first.
    """

    __slots__ = (
        "_abandoned",
        "_base",
        "_buffers",
        "_client",
        "_create_future",
        "_done",
        "_due",
        "_late_casts",
        "_pack",
        "incarnation",
        "is_running",
        "label",
        "link",
        "pending",
        "report",
        "seq",
        "sid",
        "thread",
    )

    def __init__(self, client: Client, sid: int, label: str) -> None:
        self.thread = get_ident()
        self.is_running = client.loop.is_running
        self.sid = sid
        self.label = label
        self.link: Link | None = None
        self.incarnation = 0
        self.seq = 0
        self.report: ExitReport | None = None
        self.pending: dict[int, Pending] = {}
        self._client = client
        self._pack = client.encoder.pack
        self._buffers = client.encoder.buffers
        self._done = client.done
        self._create_future = client.loop.create_future
        self._due = 0
        # Calls that were sent and given up before their reply.
        self._abandoned: set[int] = set()
        # The number up to which messages were sent again to this incarnation, and which of
        # those were casts.
        self._base = 0
        self._late_casts: list[int] = []

    # --- sending -----------------------------------------------------------------------

    def invoke(
        self,
        operation: SentOperation,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        timeout: float | None,
    ) -> asyncio.Future[Any]:
        """Send a call and return the future of its reply.

        Raises:
            UnencodableError: An argument cannot be sent; nothing was sent.
        """
        seq = self.seq + 1
        if kwargs:
            frame = [CALL_KW, self.sid, seq, operation.name, kwargs, *args]
        else:
            frame = [CALL, self.sid, seq, operation.name, *args]
        for arg in args:
            if arg.__class__ in _BUFFERS and len(arg) >= BIG:
                data: Any = self._pack_big(frame, args, kwargs)
                break
        else:
            try:
                data = self._pack(frame)
            except Exception as error:
                raise self._explain(args, kwargs, error) from None
            if len(data) >= BIG or self._buffers:
                data = self._pack_big(frame, args, kwargs)
        client = self._client
        if timeout == DEFAULT_TIMEOUT and client.ticking:
            due = client.tick + _DEFAULT_TICKS
        else:
            due = client.due(timeout)
        if due != self._due:
            self._due = due
            client.watch(self, due)
        self.seq = seq
        future: asyncio.Future[Any] = self._create_future()
        pending = self.pending
        idle = not pending
        pending[seq] = (future, data, operation, due, timeout)
        link = self.link
        if link is None:
            self._wait(seq, future)
        elif data.__class__ is not bytes:
            link.send_chunks(data)
        elif idle and not link.scheduled:
            link.send(data)
        else:
            link.out.append(data)
            if not link.scheduled:
                link.flush_soon()
        return future

    def cast(
        self,
        operation: SentOperation,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        timeout: float | None,
    ) -> asyncio.Future[None]:
        """Send a cast and return a future that is done once it is on its way.

        Raises:
            UnencodableError: An argument cannot be sent; nothing was sent.
        """
        seq = self.seq + 1
        if kwargs:
            frame = [CAST_KW, self.sid, seq, operation.name, kwargs, *args]
        else:
            frame = [CAST, self.sid, seq, operation.name, *args]
        # Unlike a call, a cast is not searched for big buffers ahead: they are rare there, and
        # are found by the size of the outcome.
        try:
            data: Any = self._pack(frame)
        except Exception as error:
            raise self._explain(args, kwargs, error) from None
        if len(data) >= BIG or self._buffers:
            data = self._pack_big(frame, args, kwargs)
        self.seq = seq
        link = self.link
        if link is None:
            return self._cast_later(seq, data, timeout)
        if data.__class__ is not bytes:
            link.send_chunks(data)
        else:
            out = link.out
            out.append(data)
            if not link.scheduled:
                link.flush_soon()
            elif len(out) >= BATCH:
                # The sender awaits nothing but this, and the loop has to run now and then.
                link.flush()
                if not link.congested:
                    return self._client.next_turn()
        return link.wait_until_drained() if link.congested else self._done

    def _pack_big(self, frame: list[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return a message as chunks, its big buffers apart; as bytes if it turns out small."""
        try:
            chunks = self._client.encoder.pack_big(frame)
        except Exception as error:
            raise self._explain(args, kwargs, error) from None
        return chunks[0] if len(chunks) == 1 else chunks

    def _explain(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception
    ) -> UnencodableError:
        return self._client.encoder.explain(args, kwargs, error)

    def _cast_later(self, seq: int, data: Any, timeout: float | None) -> asyncio.Future[None]:
        due = self._client.due(timeout)
        self._client.watch(self, due)
        future: asyncio.Future[None] = self._create_future()
        self.pending[seq] = (future, data, None, due, timeout)
        self._wait(seq, future)
        return future

    def _wait(self, seq: int, future: asyncio.Future[Any]) -> None:
        # The server restarts, or nobody has told us yet where it is.
        if not self.thread:
            del self.pending[seq]
            future.set_exception(NoServerError(self.label, self.report))
        elif len(self.pending) > MAX_WAITING:
            del self.pending[seq]
            future.set_exception(MailboxFullError(self.label, MAX_WAITING))
        elif self.incarnation == 0:
            self._client.locate(self)

    # --- what becomes of the server ----------------------------------------------------

    def expire(self, tick: int) -> None:
        """Fail the calls that are due at `tick` or before."""
        overdue = [seq for seq, entry in self.pending.items() if entry[3] <= tick]
        for seq in overdue:
            future, _, operation, _, timeout = self.pending.pop(seq)
            if self.link is not None and operation is not None:
                self._abandoned.add(seq)
            if not future.done():
                name = operation.name if operation else "cast"
                future.set_exception(CallTimedOutError(f"{self.label}.{name}", timeout or 0.0))

    def postpone(self, issued: int, late: int) -> None:
        """Give more time to the calls that were sent while the tick stood still at `issued`."""
        for seq, (future, data, operation, due, timeout) in self.pending.items():
            if timeout is not None and due == issued + ticks(timeout):
                # Half a tick more, so that no call is taken for a newer one and gets time twice.
                self.pending[seq] = (future, data, operation, due + late + 0.5, timeout)
                self._client.watch(self, issued + ticks(timeout) + late + 1)

    def unwatch(self) -> None:
        """Note that no tick is going to look at this route."""
        self._due = 0

    def forget(self, seq: int) -> None:
        """Note the reply to a call that nobody waits for any more."""
        self._abandoned.discard(seq)

    def located(self, incarnation: int, link: Link) -> None:
        """Send what waits to the server's next incarnation, oldest first."""
        self.incarnation = incarnation
        self.link = link
        self._base = self.seq
        link.out.append(self._pack([OPEN, self.sid, incarnation]))
        for seq, (future, data, operation, _, _) in list(self.pending.items()):
            if future.done():
                del self.pending[seq]
                continue
            if operation is None:
                del self.pending[seq]
                self._late_casts.append(seq)
                future.set_result(None)
            if data.__class__ is bytes:
                link.out.append(data)
            else:
                link.send_chunks(data)
        link.flush_soon()

    def ended(self, begun: int, report: ExitReport, cause: BaseException | None) -> int:
        """Sort the pending calls after the death of an incarnation.

        Call it when the link has been drained.

        Args:
            begun: The number of the last message that the incarnation began.

        Returns:
            How many casts are lost: sent, and never begun.
        """
        lost = self._count_lost(begun)
        self.link = None
        self.report = report
        self._abandoned.clear()
        self._late_casts.clear()
        for seq, (future, _, operation, _, _) in list(self.pending.items()):
            if seq > begun or (operation is not None and operation.idempotent):
                continue
            del self.pending[seq]
            if not future.done():
                error = ServerExitedError(report)
                error.__cause__ = cause
                future.set_exception(error)
        return lost

    def _count_lost(self, begun: int) -> int:
        # Numbers are given to casts and calls alike, so what was sent and is no call was a
        # cast. Messages up to `_base` were sent again when this incarnation was located: calls
        # (still pending) and the casts that had waited.
        if self.link is None:
            # Nothing has reached that incarnation.
            return 0
        floor = max(begun, self._base)
        calls = sum(1 for seq in self.pending if seq > floor)
        calls += sum(1 for seq in self._abandoned if seq > floor)
        late = sum(1 for seq in self._late_casts if seq > begun)
        return self.seq - floor - calls + late

    def gone(self, report: ExitReport | None, cause: BaseException | None) -> None:
        """Fail whatever waits: there will be no further incarnation."""
        self.thread = 0
        self.link = None
        self.report = report
        pending, self.pending = self.pending, {}
        for future, *_ in pending.values():
            if not future.done():
                error = NoServerError(self.label, report)
                error.__cause__ = cause
                future.set_exception(error)

    def node_down(self) -> None:
        """Fail whatever waits: the node has stopped."""
        self.thread = 0
        self.link = None
        pending, self.pending = self.pending, {}
        for future, *_ in pending.values():
            if not future.done():
                future.set_exception(NodeDownError("the node has stopped"))
