"""The way from one client to one server: the hot path of every call and cast.

A `Route` belongs to one client (an event loop in some process) and one server. It numbers
the messages, keeps each call until its reply has come, and outlives the server's restarts:

1. While the server runs and the sender has window, a message goes to the `link` to its worker.
2. Without window, or while there is no server, messages wait here, in their order.
3. When the server dies, the link is drained, and `ended` sorts the pending calls by the
   worker's started cell: what had begun fails (unless it is idempotent; see `poison`), the rest
   waits.
4. `located` sends what waits to the next incarnation, in its old order.
5. When the server is gone for good, `gone` fails whatever waits.

**One number decides whether a message may leave at once: `limit`.** What comes behind it takes
the slow way, `_hold`: since there is no server, since the window is used up (see `window`), or
just since it is time to ask for more.

What `invoke` costs is what a call costs: it makes one list, one bytes object, one future and
one tuple. There is no coroutine, no timer and no message object.
"""

from __future__ import annotations

import asyncio
from _thread import get_ident
from collections import OrderedDict
from math import inf
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Final

from noex_mp.client import poison
from noex_mp.client.named import addressed
from noex_mp.client.packed import operation_in, renewed, size_of
from noex_mp.client.window import Ranges, Window
from noex_mp.core.reasons import ExitReport, RootDied
from noex_mp.errors import (
    CallTimedOutError,
    MailboxFullError,
    NodeDownError,
    NoServerError,
    ServerExitedError,
    UnencodableError,
)
from noex_mp.transport.link import Link
from noex_mp.wire.codec import BIG, pack_plain
from noex_mp.wire.envelopes import (
    ASK,
    CALL,
    CALL_KW,
    CANCEL,
    CAST,
    CAST_KW,
    OPEN,
    PROBE,
    callback_name,
)

if TYPE_CHECKING:
    from noex_mp.client.client import Client
    from noex_mp.core.ref import SentOperation
    from noex_mp.wire.codec import Encoder

__all__ = ["Pending", "Route", "died_in_words"]

# This many casts leave at once if the sender does not let the loop run by itself.
BATCH: Final = 1024

# How many messages may wait in this process for a server that restarts or has given no window, and
# how many bytes of casts: their sender may not even wait, and has nobody to hold it up.
MAX_WAITING: Final = 100_000
MAX_WAITING_BYTES: Final = 64 * 2**20

# The time limit of a cast that is sent at once or not at all: nobody waits for it.
AT_ONCE: Final = -inf

# Future, packed message, operation (None: a cast that waits), due time, limit in seconds.
Pending = tuple["asyncio.Future[Any]", Any, "SentOperation | None", float, "float | None"]

# What becomes of a message for which there is no room.
_REFUSING: Final = frozenset(("reject", "drop_newest"))

_BUFFERS: Final = frozenset((bytes, bytearray, memoryview))
_MAY_BE_BIG: Final = _BUFFERS | {list}


class Route:
    """One client's way to one server.

    Attributes:
        thread: The thread of its event loop; 0 once the server is gone, so that a `Ref` asks
            again.
        is_running: Tells whether its event loop runs.
        link: The link to the server's worker, or None while there is none.
        limit: The last number that may be sent without a further look.
        pending: The calls without a reply and the casts that wait, by number, oldest first.
        moved: Where messages are now that were sent to a name, by their numbers here.
        soonest: No call is out of time before this moment of the monotonic clock.
    """

    __slots__ = (
        "_abandoned",
        "_base",
        "_buffers",
        "_client",
        "_create_future",
        "_deliveries",
        "_done",
        "_encoder",
        "_hurried",
        "_late_casts",
        "_max_waiting",
        "_max_waiting_bytes",
        "_overdrawn",
        "_pack",
        "_skipped",
        "_unlooked",
        "_waiting",
        "_waiting_bytes",
        "_weighed_from",
        "_when_full",
        "_window",
        "incarnation",
        "is_running",
        "label",
        "limit",
        "link",
        "moved",
        "pending",
        "report",
        "seq",
        "sid",
        "soonest",
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
        self.limit = 0
        self.soonest = inf
        self.report: ExitReport | None = None
        self.pending: dict[int, Pending] = {}
        self.moved: dict[int, tuple[Route, int]] = {}
        self._client = client
        self.pack_with(client.encoder)
        self._done = client.done
        self._create_future = client.loop.create_future
        self._window = Window()
        self._weighed_from = self._window.weighed_from
        self._when_full = "wait"
        # The last number that the window has counted.
        self._unlooked = 0
        # The pending messages that have not been sent, oldest first: their sizes, by number.
        self._waiting: OrderedDict[int, int] = OrderedDict()
        self._waiting_bytes = 0
        self._max_waiting = MAX_WAITING
        self._max_waiting_bytes = MAX_WAITING_BYTES
        # Casts do not wait for the window, since the server waits for this process.
        self._overdrawn = False
        # Who waits until nothing waits any more.
        self._hurried: list[asyncio.Future[None]] = []
        # Calls that were sent and given up before their reply, and numbers that never were sent.
        self._abandoned: set[int] = set()
        self._skipped = Ranges()
        # The number up to which messages were sent again to this incarnation, and which of
        # those were casts.
        self._base = 0
        self._late_casts: list[int] = []
        # The calls that are sent again though they had begun, by number.
        self._deliveries: dict[int, poison.Deliveries] = {}

    # --- sending -----------------------------------------------------------------------

    def pack_with(self, encoder: Encoder) -> None:
        """Pack messages with another encoder than that of the client."""
        self._encoder = encoder
        self._pack = encoder.pack
        self._buffers = encoder.buffers

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
        due = inf if timeout is None else monotonic() + timeout
        if kwargs:
            frame = [CALL_KW, self.sid, seq, operation.name, due, kwargs, *args]
        else:
            frame = [CALL, self.sid, seq, operation.name, due, *args]
        for arg in args:
            if arg.__class__ in _MAY_BE_BIG and _is_big(arg):
                data: Any = self._pack_heavy(frame, args, kwargs)
                break
        else:
            try:
                data = self._pack(frame)
            except (BufferError, MemoryError):
                # Sent by the code of a value that is being packed; or its big bytes are not to be
                # copied, for which there may be no memory.
                data = self._pack_heavy(frame, args, kwargs)
            except Exception as error:
                raise self._explain(args, kwargs, error) from None
            if len(data) >= self._weighed_from or self._buffers:
                data = self._pack_heavy(frame, args, kwargs, data)
        if self.seq >= seq:
            seq, data = self._renumbered(seq, data)
        if due <= self.soonest:
            self._watch(due)
        self.seq = seq
        future: asyncio.Future[Any] = self._create_future()
        pending = self.pending
        idle = not pending
        pending[seq] = (future, data, operation, due, timeout)
        if seq > self.limit:
            self._call_slowly(seq, data, future)
            return future
        link: Any = self.link
        if idle and not link.scheduled:
            link.send(data)
        else:
            link.out.append(data)
            if not link.scheduled:
                link.flush_soon()
        return future

    def send_again(
        self, operation: SentOperation, packed: Any, timeout: float | None
    ) -> asyncio.Future[Any]:
        """Send a call that somebody has packed before, as a new one; return its reply's future.

        Args:
            operation: What it asks for.
            packed: The call, or its chunks.
            timeout: How long to wait for the reply, in seconds.
        """
        seq = self.seq + 1
        due = inf if timeout is None else monotonic() + timeout
        data = renewed(packed, self.sid, seq, due)
        self._look(self.seq)
        self.limit = 0
        if due <= self.soonest:
            self._watch(due)
        self.seq = seq
        future: asyncio.Future[Any] = self._create_future()
        self.pending[seq] = (future, data, operation, due, timeout)
        self._call_slowly(seq, data, future)
        return future

    def cast(
        self,
        operation: SentOperation,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        timeout: float | None,
    ) -> asyncio.Future[None]:
        """Send a cast and return a future that is done once the window has taken it.

        Raises:
            UnencodableError: An argument cannot be sent; nothing was sent.
            MailboxFullError: Too much waits already, or the server rather rejects messages.
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
        except (BufferError, MemoryError):
            data = self._pack_heavy(frame, args, kwargs)
        except Exception as error:
            raise self._explain(args, kwargs, error) from None
        if len(data) >= self._weighed_from or self._buffers:
            data = self._pack_heavy(frame, args, kwargs, data)
        if self.seq >= seq:
            seq, data = self._renumbered(seq, data)
        if seq > self.limit:
            return self._cast_slowly(seq, data, timeout)
        self.seq = seq
        link: Any = self.link
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

    def cast_nowait(
        self,
        operation: SentOperation,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        timeout: float | None,
    ) -> None:
        """Send a cast, or raise if it would have to wait for the server's window.

        While there is no server, it is kept for the next incarnation, however long that takes.

        Raises:
            MailboxFullError: The window is used up; nothing was sent.
        """
        self.cast(operation, args, kwargs, AT_ONCE)

    def _pack_heavy(
        self, frame: list[Any], args: tuple[Any, ...], kwargs: dict[str, Any], data: Any = b""
    ) -> Any:
        """Return a message as chunks, its big buffers apart; as bytes if it turns out small."""
        if not data or len(data) >= BIG or self._buffers:
            try:
                chunks = self._encoder.pack_big(frame, lends=True)
            except Exception as error:
                raise self._explain(args, kwargs, error) from None
            data = chunks[0] if len(chunks) == 1 else chunks
        # Whatever counts by itself in the window takes the slow way. Only now: what the code of a
        # value has sent meanwhile was looked at for itself.
        self._look(self.seq)
        self.limit = 0
        return data

    def _renumbered(self, number: int, data: Any) -> tuple[int, Any]:
        """Return a message's number and bytes anew: its values' code has sent others meanwhile.

        Those are ahead of it, and one of them has its number.
        """
        seq = self.seq + 1
        return seq, addressed(data, number, self.sid, seq, pack_plain, old_sid=self.sid)

    def _explain(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception
    ) -> UnencodableError | MemoryError:
        return self._encoder.explain(args, kwargs, error)

    # --- the slow way: no window, no server, or time to ask for more -------------------------

    def _look(self, seq: int) -> None:
        """Count what was sent since the last look, up to number `seq`."""
        if self.limit:
            self._window.add_small(seq - self._unlooked)
        self._unlooked = seq

    def _try(self, seq: int, data: Any) -> bool:
        """Send a new message if there is a server, and window; return whether it was sent."""
        self._look(seq - 1)
        link, size = self.link, size_of(data)
        if link is None or self._waiting or not self._window.takes(size):
            return False
        self._send(link, seq, data, size)
        return True

    def _send(self, link: Link, seq: int, data: Any, size: int) -> None:
        window = self._window
        window.add(size)
        weighs = size >= self._weighed_from
        if data.__class__ is bytes:
            link.out.append(data)
        else:
            link.send_chunks(data)
        # A server that drops its oldest messages counts the bytes itself.
        if window.should_ask or (weighs and self._when_full == "drop_oldest"):
            self._ask(link)
        link.flush_soon()
        self._unlooked = seq
        self.limit = 0 if self._waiting else seq + window.free()

    def _ask(self, link: Link) -> None:
        self._tell(link, [ASK, self.sid, *self._window.ask()])

    def _tell(self, link: Link, frame: list[Any]) -> None:
        """Send what is no message: it has no number, and needs no window."""
        link.out.append(pack_plain(frame))
        link.flush_soon()

    def _call_slowly(self, seq: int, data: Any, future: asyncio.Future[Any]) -> None:
        if self._try(seq, data):
            if len(self.pending) == 1 and self.link is not None:
                self.link.flush()
            return
        try:
            self._check_room(0)
            if self._refuses():
                raise self._full()
        except (NoServerError, MailboxFullError) as error:
            # Its number has not been used.
            del self.pending[seq]
            self.seq = seq - 1
            future.set_exception(error)
        else:
            self._wait(seq, data)

    def _cast_slowly(self, seq: int, data: Any, timeout: float | None) -> asyncio.Future[None]:
        if self.thread and self._try(seq, data):
            self.seq = seq
            link: Any = self.link
            return link.wait_until_drained() if link.congested else self._done
        future: asyncio.Future[None] = self._create_future()
        if not self.thread:
            future.set_exception(NoServerError(self.label, self.report))
            future.exception()
            return future
        if self._refuses(timeout):
            if self._when_full != "drop_newest" or timeout == AT_ONCE:
                raise self._full()
            return self._done
        self._check_room(size_of(data))
        # What was reported as taken is not given up for want of time.
        is_taken = timeout == AT_ONCE or self._overdrawn or self._when_full == "drop_oldest"
        if is_taken:
            due, timeout = inf, AT_ONCE
        else:
            due = inf if timeout is None else monotonic() + timeout
        if due <= self.soonest:
            self._watch(due)
        self.seq = seq
        self.pending[seq] = (future, data, None, due, timeout)
        self._wait(seq, data)
        return self._done if is_taken else future

    def _refuses(self, timeout: float | None = None) -> bool:
        """Tell, and count, whether what the window has no room for does not wait."""
        if self.link is None or (self._when_full not in _REFUSING and timeout != AT_ONCE):
            return False
        self._client.count_dropped(self.sid)
        return True

    def _full(self) -> MailboxFullError:
        window = self._window
        waiting = window.on_their_way + len(self._waiting)
        return MailboxFullError(self.label, waiting, window.messages, window.size)

    def _check_room(self, size: int) -> None:
        if not self.thread:
            raise NoServerError(self.label, self.report)
        while self._is_full(size):
            if self._when_full != "drop_oldest" or not self._drop_oldest():
                raise MailboxFullError(
                    self.label, len(self._waiting), self._max_waiting, self._max_waiting_bytes
                )

    def _is_full(self, size: int) -> bool:
        waiting = self._waiting
        if len(waiting) >= self._max_waiting:
            return True
        # One that is larger than all that may wait does so alone.
        return bool(size and waiting) and self._waiting_bytes + size > self._max_waiting_bytes

    def _drop_oldest(self) -> bool:
        for seq in self._waiting:
            entry = self.pending.get(seq)
            if entry is not None and entry[2] is None:
                self._client.count_dropped(self.sid)
                future = self._remove(seq)
                if not future.done():
                    future.set_result(None)
                return True
        return False

    def _wait(self, seq: int, data: Any) -> None:
        self.limit = 0
        self._waiting[seq] = size = size_of(data)
        self._waiting_bytes += size
        if self.incarnation == 0:
            self._client.locate(self)
        elif self.link is not None:
            if len(self._waiting) == 1 and self._window.is_all_there_is:
                self._client.count_dropped(self.sid, 0)
            if not self._window.has_asked:
                self._ask(self.link)

    def _send_waiting(self) -> None:
        """Send what waits, as far as there is window; oldest first."""
        link, waiting = self.link, self._waiting
        if link is None:
            return
        while waiting:
            seq = next(iter(waiting))
            size = waiting[seq]
            entry = self.pending.get(seq)
            if entry is not None and entry[0].done():
                # Whoever has cancelled it was told that it is not sent.
                self._remove(seq)
                continue
            if not self._window.takes(size):
                if not self._window.has_asked:
                    self._ask(link)
                break
            self._no_longer_waits(seq)
            if entry is None:
                # Its reply has come, though it was not sent: nonsense from a worker.
                continue
            self._send(link, seq, entry[1], size)
            if entry[2] is None:
                del self.pending[seq]
                if seq <= self._base:
                    self._late_casts.append(seq)
                if not entry[0].done():
                    entry[0].set_result(None)
        self._unlooked = self.seq
        self.limit = 0 if waiting else self.seq + self._window.free()
        self._note_if_all_is_sent()

    def _no_longer_waits(self, seq: int) -> None:
        self._waiting_bytes -= self._waiting.pop(seq)

    def _remove(self, seq: int) -> asyncio.Future[Any]:
        """Take out a message that nobody waits for any more; return its future."""
        future, _, operation, _, _ = self.pending.pop(seq)
        if seq in self._waiting:
            self._no_longer_waits(seq)
            self._skipped.add(seq)
            self._note_if_all_is_sent()
        elif self.link is not None and operation is not None:
            self._abandoned.add(seq)
        return future

    def granted(self, count: int, messages: int, size: int, begun: int) -> None:
        """Take the worker's answer to an ASK, and send what has waited for it.

        Args:
            count: So many messages are off the list.
            messages: The window in messages from now on.
            size: The window in bytes.
            begun: The number of the last message that the incarnation has begun, or dropped.
        """
        self._look(self.seq)
        self._window.grant(count, messages, size)
        if self._abandoned:
            self._abandoned = {n for n in self._abandoned if n > begun}
        self._skipped.forget(begun)
        if self._waiting:
            self._send_waiting()
        elif self.link is not None:
            self.limit = self.seq + self._window.free()

    def overdraw(self, seq: int) -> bool:
        """Let nobody wait for the window any more, if a cast of this number does; say whether so.

        Casts stay here until there is window.
        """
        entry = self.pending.get(seq)
        if entry is None or entry[2] is not None:
            return False
        self._overdrawn = True
        for number, (future, data, operation, _, _) in list(self.pending.items()):
            if operation is None and not future.done():
                # It is taken now: not to be given up for want of time.
                self.pending[number] = (self._create_future(), data, None, inf, AT_ONCE)
                future.set_result(None)
        return True

    def all_sent(self) -> asyncio.Future[None]:
        """Return a future that is done once nothing waits here any more."""
        future: asyncio.Future[None] = self._create_future()
        self._hurried.append(future)
        self._note_if_all_is_sent()
        return future

    def _note_if_all_is_sent(self) -> None:
        if self._waiting:
            return
        self._overdrawn = False
        if self._hurried:
            hurried, self._hurried = self._hurried, []
            for future in hurried:
                if not future.done():
                    future.set_result(None)

    # --- deadlines and cancellation ------------------------------------------------------

    def _watch(self, due: float) -> None:
        self.soonest = due
        self._client.tick()

    def sweep(self, now: float) -> None:
        """Fail the calls that are out of time, and drop those that nobody waits for."""
        pending = self.pending
        if self.soonest <= now and self.link is not None:
            # The loop may have been blocked for long, with the replies in the socket.
            self.link.drain()
        over = [seq for seq, entry in pending.items() if entry[3] <= now or entry[0].done()]
        for seq in over:
            entry = pending.get(seq)
            if entry is None:
                continue
            is_sent = seq not in self._waiting
            future = self._remove(seq)
            if not future.done():
                operation = entry[2]
                name = operation.name if operation else operation_in(entry[1])
                name = callback_name(name, is_call=operation is not None)
                what, limit = f"{self.label}.{name}", entry[4] or 0.0
                _fail(entry, CallTimedOutError(what, limit, is_cast=operation is None))
            elif is_sent and self.link is not None:
                self.cancel(seq)
        if self.soonest <= now:
            self.soonest = min((entry[3] for entry in pending.values()), default=inf)

    def cancel(self, seq: int) -> None:
        """Tell the worker that nobody waits for a call that was sent."""
        if self.link is not None:
            self._tell(self.link, [CANCEL, self.sid, seq])

    def probe(self, seq: int, path: list[Any]) -> None:
        """Ask whether a call that was sent is part of a circle; see the workers' `cycles`."""
        if self.link is not None and seq in self.pending:
            self._tell(self.link, [PROBE, self.sid, seq, path])

    def rest(self) -> None:
        """Note that the client looks at nobody's deadlines any more."""
        self.soonest = inf

    def forget(self, seq: int) -> None:
        """Note the reply to a call that nobody waits for any more."""
        self._abandoned.discard(seq)

    # --- what becomes of the server ----------------------------------------------------

    def located(self, incarnation: int, link: Link, mailbox: tuple[int, int, str, int]) -> None:
        """Send what waits to the server's next incarnation, oldest first.

        Args:
            mailbox: What its mailbox holds: messages, bytes, and what happens when it is full; and
                how many senders share it.
        """
        self.incarnation = incarnation
        self.link = link
        self._base = self.seq
        link.out.append(pack_plain([OPEN, self.sid, incarnation]))
        max_messages, max_bytes, self._when_full, senders = mailbox
        if self._when_full == "drop_oldest":
            self._max_waiting, self._max_waiting_bytes = max_messages, max_bytes
        self._window = Window(max_messages, max_bytes, senders)
        self._weighed_from = self._window.weighed_from
        for seq in [seq for seq, entry in self.pending.items() if entry[0].done()]:
            self._remove(seq)
        self._skipped.clear()
        self._send_waiting()

    def adopt(self, named: Route) -> None:
        """Send what was sent to a name that this server turns out to have, behind all else."""
        self._look(self.seq)
        for number, (future, packed, operation, due, timeout) in named.pending.items():
            if future.done():
                continue
            self.seq = seq = self.seq + 1
            data = addressed(packed, number, self.sid, seq, pack_plain)
            self.pending[seq] = (future, data, operation, due, timeout)
            self._waiting[seq] = size = size_of(data)
            self._waiting_bytes += size
            named.moved[number] = (self, seq)
        self.limit = 0
        if named.soonest < self.soonest:
            self._watch(named.soonest)
        named.pending = {}
        named._end()
        if self.link is not None:
            self._send_waiting()
        elif self.pending and self.incarnation == 0:
            self._client.locate(self)

    def ended(self, begun: int, report: ExitReport, cause: BaseException | None) -> int:
        """Sort the pending calls after the death of an incarnation.

        Call it when the link has been drained.

        Args:
            begun: The number of the last message that the incarnation began.

        Returns:
            How many casts are lost: sent, and never begun.
        """
        lost = self._count_lost(begun)
        self._leave()
        self.report = report
        for seq in [seq for seq in self.pending if seq <= begun]:
            if not self._outlives(seq, report, cause):
                del self.pending[seq]
        # All that is left waits for the next incarnation.
        if self._deliveries:
            counted = self._deliveries.items()
            self._deliveries = {seq: each for seq, each in counted if seq in self.pending}
        self._waiting = OrderedDict((seq, size_of(entry[1])) for seq, entry in self.pending.items())
        self._waiting_bytes = sum(self._waiting.values())
        return lost

    def _outlives(self, seq: int, report: ExitReport, cause: BaseException | None) -> bool:
        """Tell whether a call is to be sent again though it had begun; fail it if not."""
        future, _, operation, _, _ = entry = self.pending[seq]
        if operation is None or not operation.idempotent:
            if not future.done():
                error = ServerExitedError(report)
                error.__cause__ = cause
                future.set_exception(error)
            return False
        limit = operation.max_deliveries
        if limit is None or report.requested:
            return True
        deliveries = poison.one_more(self._deliveries.get(seq), report)
        if deliveries.times < limit:
            self._deliveries[seq] = deliveries
            return True
        if not future.done():
            poison.bury(self._client, self.sid, self.label, entry, deliveries, cause)
        return False

    def _leave(self) -> None:
        self.link = None
        self.limit = 0
        self._abandoned.clear()
        self._skipped.clear()
        self._late_casts.clear()

    def _count_lost(self, begun: int) -> int:
        # Numbers are given to casts and calls alike, so what was sent and is no call was a
        # cast. Messages up to `_base` were sent again when this incarnation was located: calls
        # (still pending) and the casts that had waited.
        if self.link is None:
            # Nothing has reached that incarnation.
            return 0
        floor = max(begun, self._base)
        last = next(iter(self._waiting)) - 1 if self._waiting else self.seq
        calls = sum(1 for seq in (*self.pending, *self._abandoned) if floor < seq <= last)
        late = sum(1 for seq in self._late_casts if seq > begun)
        skipped = self._skipped.count(floor, last)
        return max(0, last - floor) - calls - skipped + late

    def gone(self, report: ExitReport | None, cause: BaseException | None) -> None:
        """Fail whatever waits: there will be no further incarnation."""
        self.report = report
        for entry in self._end():
            if entry[4] == AT_ONCE:
                self._client.count_dropped(self.sid)
            error = NoServerError(self.label, report)
            error.__cause__ = cause
            _fail(entry, error)

    def node_down(self, died: RootDied | None) -> None:
        """Fail whatever waits: the node has stopped, or its root has died."""
        if died is not None:
            text = f"{died_in_words(died)}, and {self.label} with it"
            self.report = self._report_of(died)
        else:
            text = "the node has stopped"
        for entry in self._end():
            _fail(entry, NodeDownError(text, self.report if died else None))

    def _report_of(self, died: RootDied) -> ExitReport:
        return ExitReport(
            server=self.label,
            sid=self.sid,
            # Of one that was being located it is not known.
            incarnation=max(0, self.incarnation),
            reason=died,
            os_pid=0,
            uptime=0.0,
            time=time(),
            next="nobody starts it again",
        )

    def _end(self) -> list[Pending]:
        self.thread = 0
        self._leave()
        self._waiting.clear()
        self._waiting_bytes = 0
        self._deliveries.clear()
        self._note_if_all_is_sent()
        pending, self.pending = self.pending, {}
        return [entry for entry in pending.values() if not entry[0].done()]


def died_in_words(died: RootDied) -> str:
    """Return a sentence about a root that has died."""
    which = f" (os pid {died.os_pid})" if died.os_pid else ""
    return f"the root process of the node has died{which}"


def _fail(entry: Pending, error: Exception) -> None:
    future, _, operation, _, _ = entry
    future.set_exception(error)
    if operation is None:
        # Whoever does not wait for a cast has said that its fate is no matter: no log entry.
        future.exception()


def _is_big(arg: Any) -> bool:
    """Return whether an argument has big bytes, as far as one look tells: or the first in a list.

    Packed with the rest, they would be copied in vain, before the size of the outcome tells.
    """
    if arg.__class__ is list:
        if not arg or arg[0].__class__ not in _BUFFERS:
            return False
        arg = arg[0]
    # One of no dimension has no length, and of others that says how many rows there are.
    return (arg.nbytes if arg.__class__ is memoryview else len(arg)) >= BIG
