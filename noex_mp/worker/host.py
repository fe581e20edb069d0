"""A worker process: it takes servers from the root and messages from everybody.

One event loop does all of it. The root's frames come on the control link: start this server,
serve that client. Each client has a link of its own (see `links`), and what arrives there is for
the `receiver`: it runs messages at once or puts them into the mailbox of their server (see
`mailbox`).
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import signal
import sys
from _thread import get_ident
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

from noex_mp.client import current, monitors, timers
from noex_mp.client.local_names import LocalNames
from noex_mp.core import current_call, interjections, stop_requests
from noex_mp.core.black_box import (
    INBOX_OFFSET,
    INBOX_SIZE,
    OUTBOX_OFFSET,
    OUTBOX_SIZE,
    REQUESTS_OFFSET,
    REQUESTS_SIZE,
    TEXT_OFFSET,
)
from noex_mp.core.gen_server import GenServer
from noex_mp.core.messages import Exit, MemoryPressure
from noex_mp.core.outcomes import Ignore, Stop
from noex_mp.core.reasons import Crash, ExitReason
from noex_mp.core.ref import Address, Ref
from noex_mp.errors import NoNodeError, TruncatedFrameError
from noex_mp.transport import fds, private_memory, shared_file
from noex_mp.transport.control_link import ControlLink
from noex_mp.transport.link import Link
from noex_mp.transport.loops import give_back_buffer, keep_apart, new_high_event_loop
from noex_mp.transport.spin import Spinner
from noex_mp.wire import cut_over
from noex_mp.wire.codec import Encoder
from noex_mp.wire.envelopes import (
    DROPPED,
    FORGET,
    HELLO,
    KILL,
    LEASES,
    LEAVE,
    LINK,
    PRESSURE,
    PROTOCOL_VERSION,
    SIGNAL,
    START,
    STOP,
    UNLINK,
)
from noex_mp.wire.payload import unpack_arguments, unpack_payload
from noex_mp.worker import activation
from noex_mp.worker.activation import inline
from noex_mp.worker.begun import BegunRecord
from noex_mp.worker.bootstrap import EXIT_SOFTWARE, Boot, end_fork
from noex_mp.worker.cells import Cells
from noex_mp.worker.clients import Clients
from noex_mp.worker.complaints import Complaints
from noex_mp.worker.ends import Ends
from noex_mp.worker.inbox import Inbox
from noex_mp.worker.links import Links
from noex_mp.worker.mailbox import Mailbox
from noex_mp.worker.outbox import Outbox
from noex_mp.worker.process import prepare_process
from noex_mp.worker.queued import Arrival
from noex_mp.worker.receiver import Receiver
from noex_mp.worker.watched import WatchedMailbox, Witness
from noex_mp.worker.watching import WatchingServer

__all__ = ["Host", "main"]


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
        record: The worker's part of the black box: which messages have begun.
        inbox: Its part for what has just arrived.
        complaints: What people are to hear.
        memory_limit: How much private memory the process may have, in bytes, or None.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, boot: Boot) -> None:
        self.loop = loop
        self._boot = boot
        self._thread = get_ident()
        self._allow_pickle: bool = boot.fields["allow_pickle"]
        cut_over.here.bytes_from = boot.fields["bytes_from"]
        self.encoder = Encoder(allow_pickle=self._allow_pickle)
        self.complaints = Complaints(boot.stderr_fd)
        spinner = Spinner(loop) if boot.fields["spin"] else None
        slot: int = boot.fields["slot"]
        mine = memoryview(mmap.mmap(boot.black_box_fd, TEXT_OFFSET, offset=slot))
        self.record = BegunRecord(mine, with_arguments=boot.fields["debug"])
        self.inbox = Inbox(mine[INBOX_OFFSET : INBOX_OFFSET + INBOX_SIZE])
        self._outbox = Outbox(mine[OUTBOX_OFFSET : OUTBOX_OFFSET + OUTBOX_SIZE])
        self._requests = mine[REQUESTS_OFFSET : REQUESTS_OFFSET + REQUESTS_SIZE].cast("Q")
        self._mailboxes: dict[int, Mailbox] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._shared: bool = boot.fields.get("shared", False)
        self._prepared = False
        self.memory_limit: int | None = None
        self._witness = Witness(loop, boot)
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
        self._receiver = Receiver(
            loop, self.record, self.inbox, self._outbox, self.encoder, shared=self._shared
        )
        self._cells = Cells(self.record)
        self._links = Links(
            self._receiver,
            self._cells,
            self._mailboxes,
            control=self._control,
            complaints=self.complaints,
            new_link=partial(
                spinner.link if spinner else Link, loop, allow_pickle=self._allow_pickle
            ),
            on_no_memory=self._out_of_memory,
        )
        self._clients = Clients(loop, boot, self._control, spinner, self._serving)
        self._ends = Ends(
            self._control, self._links, self._clients, self.encoder, shared=self._shared
        )
        self._handlers: dict[int, Callable[[list[Any]], None]] = {
            START: self._on_start,
            STOP: self._on_stop,
            KILL: self._on_kill,
            LEAVE: self._on_leave,
            LINK: self._links.add,
            UNLINK: self._links.remove,
            FORGET: self._on_forget,
            SIGNAL: self._on_signal,
            PRESSURE: self._on_pressure,
        }

    def start(self) -> None:
        """Become what this process is, and say so to the root."""
        self.record.note_memory()
        os.register_at_fork(after_in_child=self._forked)
        inline.look = self._receiver.read_ahead
        current_call.install(activation.current_call)
        interjections.install(activation.interject)
        requests = stop_requests.StopRequests(self._requests, self._running_call)
        stop_requests.install(requests)
        timers.install(self._delivery)
        monitors.install(self._current_server)
        boot = self._boot
        if boot.shared_fd != fds.NO_FD:
            shared_file.join(boot.shared_fd, boot.fields["span"], self._leases_opened)
        names = LocalNames(boot.node, boot.names_fd, allow_pickle=self._allow_pickle)
        current.join(boot.node, self._clients.of, names, whole_process=True)
        self.say_hello()

    def say_hello(self) -> None:
        """Tell the root who this is."""
        self._control.post([HELLO, self._boot.worker, PROTOCOL_VERSION, self._boot.token])

    def _leases_opened(self, fd: int) -> None:
        if get_ident() == self._thread:
            self._control.post([LEASES], fd)
        else:
            self.loop.call_soon_threadsafe(self._control.post, [LEASES], fd)

    def _running_call(self) -> tuple[int, int] | None:
        waiting = (mailbox.activation for mailbox in self._mailboxes.values())
        running = next(filter(None, waiting), None) or inline.activation()
        if running is None or running.target is None:
            return None
        return running.target.link.state, running.frame[2]

    def _delivery(self, ref: Ref[Any]) -> Arrival | None:
        mailbox = self._mailboxes.get(ref.sid) if ref.node == self._boot.node else None
        return Arrival(mailbox) if mailbox is not None else None

    def _current_server(self) -> WatchingServer | None:
        if get_ident() != self._thread:
            raise NoNodeError(
                "a server watches others, and is linked to them, from its own event loop, not from "
                "another thread\n"
                "Hand that to the loop: loop.call_soon_threadsafe(monitor, ref)."
            )
        running = activation.current() or activation.activation.get()
        if running is None or self._mailboxes.get(running.mailbox.sid) is not running.mailbox:
            return None
        return running.mailbox.watching

    def _serving(self) -> int:
        task = asyncio.current_task(self.loop)
        return next((m.sid for m in self._mailboxes.values() if m.task is task), 0)

    # --- a handler that forks ----------------------------------------------------------

    def _forked(self) -> None:
        # The child must not handle what its parent handles, nor touch what both have mapped. It
        # may do in its handler whatever it likes, and ends when it comes back from there.
        self._links.abandon()
        self._control.abandon()
        self.record.abandon()
        self._receiver.abandon()
        for mailbox in self._mailboxes.values():
            mailbox.abandon()
        self.inbox.abandon()
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
        elif self._clients.own is not None:
            self._clients.own.handle(frame)

    def _on_control_closed(self, link: ControlLink, problem: Exception | None) -> None:
        if problem is None or isinstance(problem, TruncatedFrameError):
            # The root is gone, perhaps in the middle of a frame. Its sockets may close before its
            # end of the lifeline, and should we just leave then, nobody would be there to end
            # what we have started.
            os.killpg(os.getpgrp(), signal.SIGKILL)
        self.complaints.say(str(problem))
        os._exit(EXIT_SOFTWARE)

    def _on_start(self, frame: list[Any]) -> None:
        _, sid, incarnation, spec = frame
        try:
            if spec["process"] and not self._prepared:
                prepare_process(spec["process"])
                self.memory_limit = spec["process"].get("memory_limit")
                private_memory.limit_own(self.memory_limit)
                self._prepared = True
            server = self._build(spec)
        except BaseException as error:
            self.leave_fork(error)
            self._ends.not_built(sid, incarnation, error)
            self._leave_if_empty()
            return
        server._noex_ref = Ref(  # pyright: ignore[reportPrivateUsage]
            self._boot.node, sid, label=sys.intern(spec["label"])
        )
        about = (self, sid, incarnation, server, tuple(spec["mailbox"]))
        mailbox = self._watched_mailbox(about) if spec.get("watched") else Mailbox(*about)
        self._mailboxes[sid] = mailbox
        mailbox.start()

    def _watched_mailbox(
        self, about: tuple[Host, int, int, GenServer[Any, Any, Any], tuple[int, int, str]]
    ) -> WatchedMailbox:
        mailbox = WatchedMailbox(*about, own=self._cells.own(about[1]))
        self._witness.add(mailbox)
        return mailbox

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
            more = unpack_arguments(extra, allow_pickle=self._allow_pickle)
            args, kwargs = [*args, *more[0]], {**kwargs, **more[1]}
        server: GenServer[Any, Any, Any] = server_class(*args, **kwargs)
        return server

    def _task_done(self, mailbox: Mailbox, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._mailboxes.get(mailbox.sid) is not mailbox:
            return
        if mailbox.killed is not None:
            self._ends.killed(mailbox, mailbox.killed)
            self._forget(mailbox)
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
        self._links.read_all()
        for item in items:
            mailbox.put(None, item)

    def _on_signal(self, frame: list[Any]) -> None:
        _, sid, incarnation, sender, reason, report = frame
        mailbox = self._mailboxes.get(sid)
        if mailbox is not None and mailbox.incarnation == incarnation:
            mailbox.watching.hear([Exit(self._address(sender), reason, report)])

    def _on_pressure(self, frame: list[Any]) -> None:
        _, sid, incarnation, used, limit = frame
        mailbox = self._mailboxes.get(sid)
        if mailbox is not None and mailbox.incarnation == incarnation and not mailbox.has_ended:
            mailbox.put(None, MemoryPressure(used, limit))

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

    def _on_forget(self, frame: list[Any]) -> None:
        self._cells.forget(frame[1])

    def count_dropped(self, sid: int) -> None:
        """Tell the root of a message that the mailbox had no room for."""
        self._control.post([DROPPED, sid, 1])

    # --- what becomes of a server ------------------------------------------------------

    def ready(self, mailbox: Mailbox) -> None:
        """Tell the root that a server's `init` has returned."""
        self._ends.ready(mailbox)

    def not_ready(self, mailbox: Mailbox, outcome: Ignore | Stop | BaseException) -> None:
        """Tell the root that a server's `init` raised, or returned `Ignore` or `Stop`."""
        self.leave_fork(outcome if isinstance(outcome, BaseException) else None)
        self._ends.not_ready(mailbox, outcome)
        self._forget(mailbox)

    def ended(self, mailbox: Mailbox, reason: ExitReason, error: BaseException | None) -> None:
        """Tell the root that a server has ended; the last one takes the process with it."""
        self._ends.ended(mailbox, reason, error)
        self._forget(mailbox)

    def _forget(self, mailbox: Mailbox) -> None:
        del self._mailboxes[mailbox.sid]
        if isinstance(mailbox, WatchedMailbox):
            self._witness.remove(mailbox)
            self._cells.free(mailbox.own)
        if self._clients.own is not None:
            self._clients.own.forget_watcher(mailbox.watching)
        self._leave_if_empty()

    def on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Take what nobody has caught: without memory for a callback there is no going on."""
        if isinstance(context.get("exception"), MemoryError) and "handle" in context:
            self._out_of_memory()
        loop.default_exception_handler(context)

    def _out_of_memory(self) -> NoReturn:
        self._ends.out_of_memory(self._mailboxes.values(), self.memory_limit)

    def _leave_if_empty(self) -> None:
        # A placement group's worker is told when to leave: another member may be on its way.
        if not self._mailboxes and not self._shared:
            self._leave()

    def _leave(self) -> None:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        self._ends.flush_blocking()
        os._exit(0)
