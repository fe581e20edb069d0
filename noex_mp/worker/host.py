"""A worker process: it takes servers from the root and messages from everybody.

One event loop does all of it. The root's frames come on the control link: start this server,
serve that client. Each client has a link of its own, and `_on_messages` is the hot path of
every call: it runs a synchronous operation right where its message is read, as long as the
server is idle, and queues everything else for the server's task (see `mailbox`).

Before a message runs, its number goes into the started cell of its link and server: eight
bytes in the node's black box, which outlive this process. The root reads them after a death,
so everybody knows which messages had begun.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import resource
import signal
import sys
import time
import traceback
from _thread import get_ident
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NoReturn

from noex_mp.client import current, monitors, timers
from noex_mp.client.client import Client, connect_client
from noex_mp.core import current_call
from noex_mp.core.black_box import (
    BEGUN,
    CELL_WORDS,
    LINK_ID,
    OUTBOX_OFFSET,
    OUTBOX_SIZE,
    SID,
    TEXT_OFFSET,
)
from noex_mp.core.gen_server import GenServer
from noex_mp.core.messages import Exit
from noex_mp.core.outcomes import Ignore, Stop
from noex_mp.core.reasons import Crash, ExitReason, InitFailed, Normal, is_abnormal
from noex_mp.core.ref import Address, Ref
from noex_mp.errors import NoNodeError, TruncatedFrameError
from noex_mp.transport import fds
from noex_mp.transport.blocking_loop import BlockingLoop
from noex_mp.transport.control_link import NO_FD, ControlLink
from noex_mp.transport.link import Link, send_all
from noex_mp.transport.loops import give_back_buffer, keep_apart, new_high_event_loop
from noex_mp.transport.platform import rss_of
from noex_mp.transport.spin import Spinner
from noex_mp.wire.classes import readable
from noex_mp.wire.codec import BIG, Encoder, pack_plain
from noex_mp.wire.envelopes import (
    ASK,
    BUFFERS,
    CALL,
    CALL_KW,
    CANCEL,
    CAST,
    CONNECT,
    DROPPED,
    END,
    EXITED,
    FORGET,
    HELLO,
    KILL,
    LEAVE,
    LINK,
    NOT_READY,
    OPEN,
    PROBE,
    PROTOCOL_VERSION,
    READY,
    REPLY,
    SIGNAL,
    START,
    STOP,
    UNLINK,
    UNLINKED,
)
from noex_mp.wire.payload import pack_error, unpack_payload
from noex_mp.worker import activation
from noex_mp.worker.activation import inline
from noex_mp.worker.begun import AT_OPERATION, AT_SIZE, AT_SIZED, BegunRecord
from noex_mp.worker.bootstrap import EXIT_SOFTWARE, Boot, end_fork
from noex_mp.worker.mailbox import ODD_RESULTS, Arrival, Mailbox, Target
from noex_mp.worker.outbox import Outbox
from noex_mp.worker.process import prepare_process

__all__ = ["Host", "main"]

_ABOUT_MESSAGES: Final = frozenset((ASK, CANCEL, PROBE))

# Replies leave after so many messages or so much time, whichever comes first, so that what is
# done is no hostage of what is slow, and control frames and timers get their turn.
BATCH_MESSAGES: Final = 64
BATCH_SECONDS: Final = 200e-6

# The id of a link whose client is gone, and the sid that the cell of all of them stands under.
NOBODY: Final = 0
SHARED: Final = 1

# How long a worker that is about to end waits for a peer that does not read, in seconds.
LAST_FLUSH: Final = 1.0

# The same for a server of many, of which the root has to hear before it loses patience with all.
END_IS_TOLD_AFTER: Final = 0.75


def main(boot: Boot) -> NoReturn:
    """Run a worker until its last server has ended."""
    loop = new_high_event_loop()
    give_back_buffer(loop)
    host = Host(loop, boot)
    loop.set_exception_handler(host.on_loop_error)
    keep_apart(loop)
    host.start()
    loop.run_forever()
    host.leave_fork(None)
    os._exit(0)


class Host:
    """Everything that one worker process does.

    Attributes:
        loop: Its event loop.
        encoder: Packs replies.
        cells: The worker's part of the black box, as numbers of eight bytes.
        record: The same, and what else it says of messages.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, boot: Boot) -> None:
        self.loop = loop
        self._boot = boot
        self._thread = get_ident()
        self._allow_pickle: bool = boot.fields["allow_pickle"]
        self.encoder = Encoder(allow_pickle=self._allow_pickle)
        self._spinner = Spinner(loop) if boot.fields["spin"] else None
        slot: int = boot.fields["slot"]
        mine = memoryview(mmap.mmap(boot.black_box_fd, TEXT_OFFSET, offset=slot))
        self.record = BegunRecord(mine, with_arguments=boot.fields["debug"])
        self.cells = self.record.cells
        self._outbox = Outbox(mine[OUTBOX_OFFSET : OUTBOX_OFFSET + OUTBOX_SIZE])
        self._next_cell = 0
        self._free_cells: list[int] = []
        # Those of servers that have ended, by sid, until the root knows what they say.
        self._kept_cells: dict[int, list[int]] = {}
        self._mailboxes: dict[int, Mailbox] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._links: dict[int, Link] = {}
        # Those of clients that are gone, while there is something to read on them; and the one
        # cell that they all write to.
        self._orphans: set[Link] = set()
        self._shared_cell = 0
        # The links that come from servers.
        self._servers: set[int] = set()
        self._draining = False
        self._shared: bool = boot.fields.get("shared", False)
        self._prepared = False
        self._on_messages = self._receiver()
        self._control = ControlLink(
            loop,
            fds.unix_socket(boot.control_fd),
            peer="the root",
            on_frame=self._on_control,
            on_close=self._on_control_closed,
            encoder=self.encoder,
            allow_pickle=self._allow_pickle,
        )
        give_back_buffer(self._control.unpacker)
        # Made when a server first calls another: many never do.
        self._client: Client | None = None
        self._thread_clients: dict[asyncio.AbstractEventLoop, Client] = {}
        self._handlers: dict[int, Callable[[list[Any]], None]] = {
            START: self._on_start,
            STOP: self._on_stop,
            KILL: self._on_kill,
            LEAVE: self._on_leave,
            LINK: self._on_link,
            UNLINK: self._on_unlink,
            FORGET: self._on_forget,
            SIGNAL: self._on_signal,
        }

    def start(self) -> None:
        """Say hello to the root."""
        os.register_at_fork(after_in_child=self._forked)
        inline.look = self.read_ahead
        current_call.install(activation.current_call)
        timers.install(self._delivery)
        monitors.install(self._current_server)
        current.join(self._boot.node, self._client_of, whole_process=True)
        self._control.post([HELLO, self._boot.worker, PROTOCOL_VERSION, self._boot.token])

    def _delivery(self, ref: Ref[Any]) -> Arrival | None:
        mailbox = self._mailboxes.get(ref.sid) if ref.node == self._boot.node else None
        return Arrival(mailbox) if mailbox is not None else None

    def _current_server(self) -> Mailbox | None:
        if get_ident() != self._thread:
            raise NoNodeError(
                "a server watches others, and is linked to them, from its own event loop, not from "
                "another thread\n"
                "Hand that to the loop: loop.call_soon_threadsafe(monitor, ref)."
            )
        running = activation.current() or activation.activation.get()
        if running is None or self._mailboxes.get(running.mailbox.sid) is not running.mailbox:
            return None
        return running.mailbox

    def _client_of(self, loop: asyncio.AbstractEventLoop) -> Client:
        if isinstance(loop, BlockingLoop):
            return self._client_of_thread(loop)
        if loop is not self.loop:
            raise NoNodeError(
                "a server calls others from its own event loop, not from one of another thread\n"
                "Hand the work to the loop (asyncio.run_coroutine_threadsafe), or use .sync(...)."
            )
        if self._client is None:
            self._client = activation.NestedClient(
                loop,
                self._control,
                self._boot.node,
                allow_pickle=self._allow_pickle,
                spinner=self._spinner,
            )
            self._client.serving = self._serving
        return self._client

    def _client_of_thread(self, loop: asyncio.AbstractEventLoop) -> Client:
        client = self._thread_clients.get(loop)
        if client is None or client.closed:
            for known in [known for known in list(self._thread_clients) if known.is_closed()]:
                self._thread_clients.pop(known, None)
            ours, theirs = fds.socketpair()
            connect = [CONNECT, f"a thread of worker {self._boot.worker}"]
            self.loop.call_soon_threadsafe(self._control.post, connect, fds.disown(theirs.detach()))
            client = connect_client(
                loop,
                ours,
                self._boot.node,
                allow_pickle=self._allow_pickle,
                asks_again=True,
                client_class=activation.ThreadClient,
            )
            self._thread_clients[loop] = client
        return client

    def _serving(self) -> int:
        task = asyncio.current_task()
        return next((m.sid for m in self._mailboxes.values() if m.task is task), 0)

    # --- a handler that forks ----------------------------------------------------------

    def _forked(self) -> None:
        # The child must not handle what its parent handles, nor touch what both have mapped. It
        # may do in its handler whatever it likes, and ends when it comes back from there.
        for link in (*self._links.values(), *self._orphans, self._control):
            link.abandon()
        for mailbox in self._mailboxes.values():
            mailbox.abandon()
        self._outbox.abandon()
        self.loop.stop()

    def leave_fork(self, error: BaseException | None) -> None:
        """End the process if it is one that a handler forked, as a program would end."""
        if fds.forked():
            end_fork(error)

    # --- control -----------------------------------------------------------------------

    def _on_control(self, link: ControlLink, frame: list[Any]) -> None:
        handler = self._handlers.get(frame[0])
        if handler is not None:
            handler(frame)
        elif self._client is not None:
            self._client.handle(frame)

    def _on_control_closed(self, link: ControlLink, problem: Exception | None) -> None:
        if problem is None or isinstance(problem, TruncatedFrameError):
            # The root is gone, perhaps in the middle of a frame. Its sockets may close before its
            # end of the lifeline, and should we just leave then, nobody would be there to end
            # what we have started.
            os.killpg(os.getpgrp(), signal.SIGKILL)
        self._say(str(problem))
        os._exit(EXIT_SOFTWARE)

    def _on_start(self, frame: list[Any]) -> None:
        _, sid, incarnation, spec = frame
        try:
            if spec["process"] and not self._prepared:
                prepare_process(spec["process"])
                self._prepared = True
            server = self._build(spec)
        except BaseException as error:
            self._not_ready(sid, incarnation, _init_failed(error), error)
            self._leave_if_empty()
            return
        server._noex_ref = Ref(  # pyright: ignore[reportPrivateUsage]
            self._boot.node, sid, label=sys.intern(spec["label"])
        )
        mailbox = self._mailboxes[sid] = Mailbox(
            self, sid, incarnation, server, tuple(spec["mailbox"])
        )
        mailbox.start()

    def task_for(self, mailbox: Mailbox) -> asyncio.Task[None]:
        """Return a new task that serves a server."""
        name = f"noex-mp {mailbox.server.__class__.__qualname__}"
        task = self.loop.create_task(mailbox.run(), name=name, context=mailbox.context)
        self._tasks.add(task)
        task.add_done_callback(partial(self._task_done, mailbox))
        return task

    def _build(self, spec: dict[str, Any]) -> GenServer[Any, Any, Any]:
        # Taken out, so that large arguments are not kept twice.
        server_class, args, kwargs = unpack_payload(
            spec["server"], spec.pop("payload"), allow_pickle=self._allow_pickle
        )
        if extra := spec.pop("extra", b""):
            # What `start_child` was given on top of a template.
            more = unpack_payload(spec["server"], extra, allow_pickle=self._allow_pickle)
            args, kwargs = [*args, *more[1]], {**kwargs, **more[2]}
        server: GenServer[Any, Any, Any] = server_class(*args, **kwargs)
        return server

    def _task_done(self, mailbox: Mailbox, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._mailboxes.get(mailbox.sid) is not mailbox:
            return
        if mailbox.killed is not None:
            self._drop_killed(mailbox, mailbox.killed)
            return
        # The loop of the server is over and the server has not ended: its own code has
        # cancelled it, or we have a bug. Either way nobody serves it any more.
        error = None if task.cancelled() else task.exception()
        error = error or RuntimeError("the server's task was cancelled from within")
        self.ended(mailbox, Crash(type(error).__qualname__, str(error)), error)

    def _on_stop(self, frame: list[Any]) -> None:
        _, sid, reason = frame
        mailbox = self._mailboxes.get(sid)
        if mailbox is None:
            return
        self.put_behind_all(mailbox, [Stop(reason)])

    def put_behind_all(self, mailbox: Mailbox, items: Sequence[object]) -> None:
        """Queue what the root has to say behind what was sent before it: that is in the sockets."""
        mailbox.idle = False
        self._draining = True
        for link in (*self._links.values(), *self._orphans):
            if link.resuming:
                link.resuming = False
                link.arrived = link.unpacker
                self._on_messages(link)
            link.drain()
        self._draining = False
        for item in items:
            mailbox.put(None, item)

    def _on_signal(self, frame: list[Any]) -> None:
        _, sid, incarnation, sender, reason, report = frame
        mailbox = self._mailboxes.get(sid)
        if mailbox is not None and mailbox.incarnation == incarnation:
            mailbox.hear([Exit(self._address(sender), reason, report)])

    def _address(self, found: list[Any] | None) -> Address | None:
        if found is None:
            return None
        sid, label, kind = found
        if kind == "supervisor":
            from noex_mp.client.supervisors import SupervisorRef

            return SupervisorRef(self._boot.node, sid, label=label)
        return Ref[Any](self._boot.node, sid, label=label)

    def tell_root(self, frame: list[Any]) -> None:
        """Send the root what a server has to say."""
        self._control.post(frame)

    def _on_kill(self, frame: list[Any]) -> None:
        mailbox = self._mailboxes.get(frame[1])
        if mailbox is not None:
            mailbox.kill(frame[2])

    def _on_leave(self, frame: list[Any]) -> None:
        self._leave()

    def _on_link(self, frame: list[Any]) -> None:
        _, link_id, peer, trusted, is_worker = frame
        if is_worker:
            self._servers.add(link_id)
        fd = self._control.take_fd()
        if fd == NO_FD:
            # The other end reads its end, and the root makes another link in a moment.
            self.complain(peer, OSError("no file descriptor is free to serve it"))
            return
        link = (self._spinner.link if self._spinner else Link)(
            self.loop,
            fds.unix_socket(fd),
            peer=peer,
            on_frames=self._on_messages,
            on_close=self._on_link_closed,
            allow_pickle=self._allow_pickle,
            trusted=trusted,
        )
        give_back_buffer(link.unpacker)
        link.state = link_id
        link.targets = {}
        self._links[link_id] = link

    def _on_link_closed(self, link: Link, problem: Exception | None) -> None:
        # Its cells are kept until the root has asked for them (UNLINK).
        self._orphans.discard(link)
        if problem is not None:
            self._say(f"link closed: {problem}")
            if isinstance(problem.__cause__, MemoryError):
                self._out_of_memory()

    def _on_unlink(self, frame: list[Any]) -> None:
        _, link_id, peer_is_gone = frame
        self._servers.discard(link_id)
        begun: dict[int, int] = {}
        if link_id in self._links:
            link = self._links.pop(link_id)
            if peer_is_gone:
                self._outlive(link)
                return
            for sid, cells in self._kept_cells.items():
                # The news of its end may not have been sent yet.
                begun.update(
                    (sid, self.cells[cell]) for cell in cells if self._is_of(cell, link_id)
                )
            for sid, target in link.targets.items():
                begun[sid] = self.cells[target.cell]
                target.mailbox.drop(target)
                target.mailbox.senders -= 1
                self._free_cell(target.cell)
            link.close()
        self._control.post([UNLINKED, link_id, begun])

    def _outlive(self, link: Link) -> None:
        """Go on with what a client that is gone had sent; nobody asks what of it has begun."""
        for target in link.targets.values():
            # Its share is for others now: it sends nothing more.
            target.mailbox.senders -= 1
            self._free_cell(target.cell)
            target.cell = self._nobodys_cell()
        link.state = NOBODY
        if not link.closed:
            self._orphans.add(link)

    def _nobodys_cell(self) -> int:
        if not self._shared_cell:
            self._shared_cell = self._new_cell(SHARED, NOBODY)
        return self._shared_cell

    def _on_forget(self, frame: list[Any]) -> None:
        for cell in self._kept_cells.pop(frame[1], ()):
            self._free_cell(cell)

    # --- messages ----------------------------------------------------------------------

    def _receiver(self) -> Callable[[Link], None]:
        """Return the function that takes the messages which have arrived on a link.

        The hot path of every call. It is made once, since a lone message would pay more for
        looking up all these than for its handler.
        """
        cells, outbox = self.cells, self._outbox
        times, numbers = self.record.times, self.record.numbers
        pack, buffers = self.encoder.pack, self.encoder.buffers
        clock, shared = time.monotonic, self._shared

        def on_messages(link: Link) -> None:
            link.resuming = False
            targets: dict[int, Target] = link.targets
            reader = link.reader
            failures = reader.failures
            # The last reply; those before it are in the outbox. A lone one leaves without it.
            held: bytes | None = None
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
                        self._on_other(link, frame)
                        if kind != BUFFERS and reader.first_at is not None:
                            reader.first_at = link.unpacker.tell()
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
                        self._undecodable(target, frame, failures)  # pyright: ignore[reportUnknownArgumentType]
                        last_sid = 0
                        continue
                    handler = mailbox.inline.get(frame[3])
                    if handler is None or not mailbox.idle:
                        # Bound at its first use.
                        handler = None if handler else mailbox.bind(frame[3])
                        if handler is None or not mailbox.idle:
                            if reader.first_at is not None:
                                target.measured, target.size = frame, reader.size_of_first()
                            mailbox.put(target, frame)
                            continue
                    if held is not None:
                        # What follows may be slow, or end the process.
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
                            continue
                    if backlog:
                        # Replies that the socket has not taken would be lost with us: begin no
                        # more. The server's task comes back to it.
                        mailbox.put(target, frame)
                        continue
                    cells[cell] = frame[2]
                    if handler is not running:
                        running = handler
                        times[cell] = now
                        if handler is not target.handler:  # pyright: ignore[reportUnknownMemberType]
                            target.handler = handler
                            cells[cell + AT_OPERATION] = numbers[frame[3]]
                        if reader.first_at is not None:
                            cells[cell + AT_SIZE] = reader.size_of_first()
                            cells[cell + AT_SIZED] = frame[2]
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
                            except Exception:
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
                        if self._draining:
                            continue
                        link.resuming = True
                        self.loop.call_soon(self._resume, link)
                        if shared:
                            # What follows for this server waits in its queue, and what follows
                            # for its neighbours does not. Last: its task comes after that.
                            mailbox.wake()
                        break
            except Exception as error:
                problem = reader.translate(error)
            inline.target = outer
            if running is not None:
                times[cell] = 0.0
            # What is done leaves, also ahead of the end of a link that is of no more use.
            if outbox.end:
                if held is not None:
                    outbox.add(link, held)
                outbox.flush(link)
            elif held is not None:
                link.send(held)
            if problem is not None:
                link.close(problem)
            # Nor is more read, unless the server is about to end.
            if not self._draining:
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
            link.arrived = link.unpacker
            self._on_messages(link)

    def _on_other(self, link: Link, frame: list[Any]) -> None:
        kind = frame[0]
        if kind == BUFFERS:
            link.begin_buffers(frame)
        elif kind == OPEN:
            self._open(link, frame[1], frame[2])
        elif kind not in _ABOUT_MESSAGES:
            raise ValueError(f"a frame of kind {kind!r}")
        elif (target := link.targets.get(frame[1])) is not None:
            if kind == ASK:
                target.mailbox.asked(target, frame)
            elif kind == CANCEL:
                target.mailbox.cancel(target, frame[2])
            else:
                target.mailbox.probed(target, frame[2], frame[3])

    def _open(self, link: Link, sid: int, incarnation: int) -> None:
        mailbox = self._mailboxes.get(sid)
        if mailbox is None or mailbox.incarnation != incarnation:
            # It has ended; the root tells the sender.
            return
        is_orphan = link.state == NOBODY
        cell = self._nobodys_cell() if is_orphan else self._new_cell(sid, link.state)
        mailbox.senders += not is_orphan
        link.targets[sid] = Target(mailbox, link, cell, is_server=link.state in self._servers)

    def _new_cell(self, sid: int, link_id: int) -> int:
        if self._free_cells:
            cell = self._free_cells.pop()
        else:
            cell = self._next_cell + BEGUN
            self._next_cell += CELL_WORDS
        self.record.empty(cell)
        self.cells[cell - BEGUN + SID] = sid
        # Last: from here on it counts.
        self.cells[cell - BEGUN + LINK_ID] = link_id
        return cell

    def _is_of(self, cell: int, link_id: int) -> bool:
        return self.cells[cell - BEGUN + LINK_ID] == link_id

    def _free_cell(self, cell: int) -> None:
        self.cells[cell - BEGUN + LINK_ID] = 0
        self._free_cells.append(cell)

    def _undecodable(self, target: Target | None, frame: list[Any], failures: list[Any]) -> None:
        if failures and target is not None:
            # In its turn: what waits before it has not begun.
            target.mailbox.put(target, [*frame[:3], failures[0]])
        failures.clear()

    def count_dropped(self, sid: int) -> None:
        """Tell the root of a message that the mailbox had no room for."""
        self._control.post([DROPPED, sid, 1])

    def complain(self, what: str, error: BaseException) -> None:
        """Tell the log about a message that could not be handled and has no caller to hear it."""
        self._say(f"{what}: {type(error).__name__}: {error}")

    def _say(self, text: str) -> None:
        # Not through `sys.stderr`: a file of the user's may have its number by now.
        with contextlib.suppress(OSError):
            os.write(self._boot.stderr_fd, f"noex-mp: {text}\n".encode(errors="replace"))

    def complain_of_end(self) -> None:
        """Tell the log about the exception that a server's `terminate` has just raised."""
        with contextlib.suppress(OSError):
            os.write(self._boot.stderr_fd, traceback.format_exc().encode(errors="replace"))

    # --- what becomes of a server ------------------------------------------------------

    def ready(self, mailbox: Mailbox) -> None:
        """Tell the root that a server's `init` has returned."""
        mailbox.ready = True
        self._control.post([READY, mailbox.sid, mailbox.incarnation])

    def not_ready(self, mailbox: Mailbox, outcome: Ignore | Stop | BaseException) -> None:
        """Tell the root that a server's `init` raised, or returned `Ignore` or `Stop`."""
        error = outcome if isinstance(outcome, BaseException) else None
        reason: ExitReason
        if isinstance(outcome, Ignore):
            reason = Normal()
        elif isinstance(outcome, Stop):
            reason = InitFailed(f"it returned {outcome!r}")
        else:
            reason = _init_failed(outcome)
        if mailbox.killed is not None:
            reason, error = mailbox.killed, None
        self._not_ready(mailbox.sid, mailbox.incarnation, reason, error)
        self._forget(mailbox)

    def _not_ready(
        self, sid: int, incarnation: int, reason: ExitReason, error: BaseException | None
    ) -> None:
        self.leave_fork(error)
        payload = pack_error(self.encoder, error)
        self._tell_end([NOT_READY, sid, incarnation, reason, payload, _traceback_of(error)])

    def ended(self, mailbox: Mailbox, reason: ExitReason, error: BaseException | None) -> None:
        """Tell the root that a server has ended; the last one takes the process with it."""
        sid, incarnation = mailbox.sid, mailbox.incarnation
        payload, trace = pack_error(self.encoder, error), _traceback_of(error)
        begun = self._end_on_links(sid, incarnation)
        evidence = mailbox.evidence
        if is_abnormal(reason) and not self._shared:
            evidence = {**evidence, "rss": rss_of(os.getpid())}
        self._tell_end([EXITED, sid, incarnation, reason, payload, trace, begun, evidence])
        self._forget(mailbox)

    def _tell_end(self, frame: list[Any]) -> None:
        if self._client is not None and self._shared:
            # What it has sent comes before the news of its end, wherever that is heard.
            self._client.when_sent(partial(self._control.post, frame), END_IS_TOLD_AFTER)
        else:
            self._control.post(frame)

    def _drop_killed(self, mailbox: Mailbox, reason: ExitReason) -> None:
        if mailbox.ready:
            self.ended(mailbox, reason, None)
        else:
            self._not_ready(mailbox.sid, mailbox.incarnation, reason, None)
            self._forget(mailbox)

    def _end_on_links(self, sid: int, incarnation: int) -> dict[int, int]:
        """Take nothing more for a server; return what it had begun, by link."""
        mark = pack_plain([END, sid, incarnation])
        begun: dict[int, int] = {}
        for link in self._orphans:
            link.targets.pop(sid, None)
        for link_id, link in self._links.items():
            target: Target | None = link.targets.pop(sid, None)
            if target is not None:
                begun[link_id] = self.cells[target.cell]
                self._kept_cells.setdefault(sid, []).append(target.cell)
                link.send(mark)
        return begun

    def _forget(self, mailbox: Mailbox) -> None:
        del self._mailboxes[mailbox.sid]
        if self._client is not None:
            self._client.forget_watcher(mailbox)
        self._leave_if_empty()

    def on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Take what nobody has caught: without memory for a callback there is no going on."""
        if isinstance(context.get("exception"), MemoryError) and "handle" in context:
            self._out_of_memory()
        loop.default_exception_handler(context)

    def _out_of_memory(self) -> NoReturn:
        reason = Crash("MemoryError", "its process had no memory left to go on")
        with contextlib.suppress(Exception):
            # For its last words a limit that it has set itself is lifted.
            limit = resource.getrlimit(resource.RLIMIT_AS)[1]
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            for sid, mailbox in self._mailboxes.items():
                begun = self._end_on_links(sid, mailbox.incarnation)
                end = [sid, mailbox.incarnation, reason, b"", ""]
                self._control.post(
                    [EXITED, *end, begun, {}] if mailbox.ready else [NOT_READY, *end]
                )
            self._control.send_all_blocking(LAST_FLUSH)
        os._exit(EXIT_SOFTWARE)

    def _leave_if_empty(self) -> None:
        # A placement group's worker is told when to leave: another member may be on its way.
        if not self._mailboxes and not self._shared:
            self._leave()

    def _leave(self) -> None:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        if self._client is not None:
            self._client.flush_blocking(LAST_FLUSH)
        send_all(self._links.values(), LAST_FLUSH)
        self._control.send_all_blocking(LAST_FLUSH)
        os._exit(0)


def _init_failed(error: BaseException) -> InitFailed:
    return InitFailed(f"{type(error).__name__}: {error}")


def _traceback_of(error: BaseException | None) -> str:
    return "" if error is None else readable("".join(traceback.format_exception(error)))
