"""The messages that arrive on a worker's links, and the operations that run right there.

`Receiver.on_messages` is the hot path of every call: it runs a synchronous operation where its
message is read, as long as the server is idle, and queues everything else for the server's task
(see `mailbox`).

Before a message runs, its number goes into the started cell of its link and server (see `cells`).
"""

from __future__ import annotations

import asyncio
import time
from _thread import get_ident
from collections.abc import Callable, Iterable
from typing import Any, Final

from noex_mp.transport.link import Link
from noex_mp.wire.codec import BIG, Encoder
from noex_mp.wire.envelopes import BUFFERS, CALL, CALL_KW, CAST, REPLY
from noex_mp.worker.activation import inline
from noex_mp.worker.begun import AT_OPERATION, AT_SIZE, BegunRecord
from noex_mp.worker.inbox import Inbox
from noex_mp.worker.outbox import Outbox
from noex_mp.worker.queued import Target
from noex_mp.worker.results import ODD_RESULTS

__all__ = ["Receiver"]

# Replies leave after so many messages or so much time, whichever comes first, so that what is
# done is no hostage of what is slow, and control frames and timers get their turn.
BATCH_MESSAGES: Final = 64
BATCH_SECONDS: Final = 200e-6

# So long after something has come the memory of the process is noted, in seconds.
NOTED_AFTER: Final = 0.1


class Receiver:
    """Takes what clients send.

    Attributes:
        on_messages: Takes what has arrived on a link.
        keep: Puts what is finished where it outlives this process; a link's reader calls it before
            it runs the code of a value, which may end that.
        on_other: Takes a frame that is no message.
        draining: Everything is taken, however long that is: a server is about to end.

    Args:
        loop: The worker's event loop.
        record: Where it is written down what runs.
        inbox: Where what has arrived outlives this process.
        outbox: Where replies wait for the end of their batch.
        encoder: Packs them.
        shared: Whether several servers live in this process.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        record: BegunRecord,
        inbox: Inbox,
        outbox: Outbox,
        encoder: Encoder,
        *,
        shared: bool,
    ) -> None:
        self._loop = loop
        self._record = record
        self._inbox = inbox
        self._outbox = outbox
        self._encoder = encoder
        self.on_other: Callable[[Link, list[Any]], None] = _refuse
        self._shared = shared
        self._thread = get_ident()
        self.draining = False
        self._abandon: Callable[[], None]
        self.keep: Callable[[Link], None]
        self.on_messages = self._receiver()

    def abandon(self) -> None:
        """Write from now on where a record does that has been left to another process."""
        self._abandon()

    def drain(self, links: Iterable[Link]) -> None:
        """Take everything that has arrived on links; what cannot run at once is queued."""
        self.draining = True
        for link in links:
            if link.resuming:
                link.resuming = False
                self.on_messages(link)
            link.drain()
        self.draining = False

    def _receiver(self) -> Callable[[Link], None]:
        """Return the function that takes the messages which have arrived on a link.

        The hot path of every call. It is made once, since a lone message would pay more for
        looking up all these than for its handler.
        """
        cells, outbox, inbox = self._record.cells, self._outbox, self._inbox
        times, numbers = self._record.times, self._record.numbers
        pack, buffers = self._encoder.pack, self._encoder.buffers
        clock, shared, loop = time.monotonic, self._shared, self._loop
        is_to_note = False
        # The last reply; those before it are in the outbox, and so is it where it is empty. A lone
        # one leaves without that.
        held: bytes | None = None

        def abandon() -> None:
            nonlocal cells, times
            cells, times = self._record.cells, self._record.times

        def keep(link: Link) -> None:
            nonlocal held
            if held:
                outbox.add(link, held)
                held = b""

        self._abandon = abandon
        self.keep = keep

        def note_memory() -> None:
            nonlocal is_to_note
            is_to_note = False
            self._record.note_memory()

        def on_messages(link: Link) -> None:
            nonlocal held, is_to_note
            link.resuming = False
            if not is_to_note:
                is_to_note = True
                loop.call_later(NOTED_AFTER, note_memory)
            targets: dict[int, Target] = link.targets
            reader = link.reader
            failures = reader.failures
            held = None
            late = False
            handled = last_sid = 0
            # What runs since it was last written down, if anything has begun here.
            running: Any = None
            target: Target | None = None
            # Those of the target: looked up once for messages in a row.
            mailbox: Any = None
            cell = 0
            outer = inline.target
            problem: Exception | None = None
            now = clock()
            batch_end = now + BATCH_SECONDS
            # Handlers have run since `now`.
            stale = False
            backlog = link.backlog
            try:
                for frame in link.arrived:
                    kind = frame[0]
                    if kind > CALL_KW:
                        self.on_other(link, frame)
                        if kind != BUFFERS and (reader.head or reader.next_at is not None):
                            reader.mark()
                        last_sid = 0
                        continue
                    # Messages in a row mostly go to the same server.
                    sid = frame[1]
                    if sid != last_sid:
                        last_sid = sid
                        if running is not None:
                            running = None
                            times[cell] = 0.0
                        target = inline.target = targets.get(sid)
                        if target is not None:
                            mailbox, cell = target.mailbox, target.cell
                    if failures or target is None:
                        _undecodable(target, frame, failures)  # pyright: ignore[reportUnknownArgumentType]
                        reader.mark()
                        last_sid = 0
                        continue
                    handler = mailbox.inline.get(frame[3])
                    if handler is None or not mailbox.idle:
                        # Bound at its first use.
                        handler = None if handler else mailbox.bind(frame[3])
                        if handler is None or not mailbox.idle:
                            if running is not None:
                                running = None
                                times[cell] = 0.0
                            frame[1] = reader.size_of(frame)
                            mailbox.put(target, frame)
                            continue
                    if held is not None:
                        # What follows may be slow, or end the process.
                        if held:
                            outbox.add(link, held)
                        held = None
                        now, stale = clock(), False
                        if now > batch_end:
                            # What came before was slow. Otherwise all of a batch have one time.
                            times[cell] = now
                            outbox.flush(link)
                            late = True
                    if kind & 1:
                        # A call. Nobody waits for it if its time is over.
                        if stale:
                            now, stale = clock(), False
                        if frame[4] < now:
                            if running is None or running is inbox:
                                reader.mark()
                            continue
                    if backlog:
                        # Replies that the socket has not taken would be lost with us: begin no
                        # more. The server's task comes back to it.
                        frame[1] = reader.size_of(frame)
                        mailbox.put(target, frame)
                        continue
                    cells[cell] = frame[2]
                    if handler is not running:
                        running = handler
                        times[cell] = now
                        if handler is not target.handler:  # pyright: ignore[reportUnknownMemberType]
                            target.handler = handler
                            cells[cell + AT_OPERATION] = numbers[frame[3]]
                        at = reader.next_at
                        if at is not None and link.arrived.__class__ is tuple:
                            # Alone.
                            cells[cell + AT_SIZE] = reader.fed - at
                            reader.next_at = reader.fed
                        else:
                            size = cells[cell + AT_SIZE] = inbox.hold(link, frame)
                            if size:
                                # It is not that of the next.
                                running = inbox
                    target.frame = frame
                    stale = True
                    try:
                        if kind == CALL:
                            if len(frame) == 6:
                                result = handler(frame[5])
                            elif len(frame) == 5:
                                result = handler()
                            else:
                                result = handler(*frame[5:])
                        elif kind == CAST:
                            if len(frame) == 5:
                                result = handler(frame[4])
                            elif len(frame) == 4:
                                result = handler()
                            else:
                                result = handler(*frame[4:])
                        elif kind == CALL_KW:
                            result = handler(*frame[6:], **frame[5])
                        else:
                            result = handler(*frame[5:], **frame[4])
                    except BaseException as error:
                        mailbox.failed(target, frame, error)
                    else:
                        if result.__class__ in ODD_RESULTS:
                            mailbox.finish(target, frame, result)
                            if mailbox.activation is not None:
                                # The task goes on with it.
                                running = None
                        elif kind & 1:
                            try:
                                held = pack([REPLY, sid, frame[2], result])
                            except (KeyboardInterrupt, SystemExit):
                                raise
                            except BaseException:  # its own code may raise anything
                                self._encoder.recover()
                                mailbox.finish_slowly(target, frame, result)
                                if mailbox.activation is not None:
                                    running = None
                            else:
                                if len(held) >= BIG or buffers:
                                    held = None
                                    mailbox.finish_slowly(target, frame, result)
                                    if mailbox.activation is not None:
                                        running = None
                        elif result is not None:
                            # A cast has no reply, but it may be a promise.
                            mailbox.finish_slowly(target, frame, result)
                            if mailbox.activation is not None:
                                running = None
                    handled += 1
                    # Casts, which have no replies that could wait, end a batch by time alone.
                    if late or (
                        not handled & 7
                        and (clock() > batch_end or (handled >= BATCH_MESSAGES and outbox.end))
                    ):
                        if self.draining:
                            continue
                        link.resuming = True
                        reader.mark()
                        loop.call_soon(self._resume, link)
                        if shared:
                            # What follows for this server waits in its queue, and what follows
                            # for its neighbours does not. Last: its task comes after that.
                            mailbox.wake()
                        break
            except Exception as error:
                problem = reader.translate(error)
                # It may be what takes all the memory.
                result = None
            inline.target = outer
            if running is not None:
                times[cell] = 0.0
            if target is not None and mailbox.idle:
                # Arguments may be large, and the server have nothing to do for long.
                target.frame = _NO_FRAME
            # What is done leaves, also ahead of the end of a link that is of no more use.
            if outbox.end:
                keep(link)
                outbox.flush(link)
            elif held:
                link.send(held)
            held = None
            if problem is not None:
                link.close(problem)
            # Nor is more read, unless the server is about to end.
            if not self.draining:
                link.rest_until_drained(self._resume)

        return on_messages

    def read_ahead(self, link: Link) -> None:
        """Take what has arrived on a link while a handler runs: messages wait in their queues.

        A thread that a handler has started leaves that to the loop, which is free meanwhile.
        """
        if get_ident() != self._thread:
            return
        targets: list[Target] = list(link.targets.values())
        idle = [target.mailbox for target in targets if target.mailbox.idle]
        for mailbox in idle:
            mailbox.idle = False
        link.drain()
        for mailbox in idle:
            if not mailbox.queue:
                mailbox.idle = True

    def _resume(self, link: Link) -> None:
        if not link.closed and not link.rest_until_drained(self._resume):
            self.on_messages(link)


_NO_FRAME: Final[list[Any]] = []


def _undecodable(target: Target | None, frame: list[Any], failures: list[Any]) -> None:
    if failures and target is not None:
        # In its turn: what waits before it has not begun.
        target.mailbox.put(target, [*frame[:3], failures[0]])
    failures.clear()


def _refuse(link: Link, frame: list[Any]) -> None:
    raise ValueError(f"a frame of kind {frame[0]!r}")
