"""The links of a worker: who sends its servers messages, and which of these have begun.

The root hands the worker one end of each (LINK) and takes it back (UNLINK). A client names the
servers that it is going to send to (OPEN), and each then has a started cell of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

from noex_mp.transport import fds
from noex_mp.transport.control_link import NO_FD, ControlLink
from noex_mp.transport.link import Link, send_all
from noex_mp.transport.loops import give_back_buffer
from noex_mp.wire.codec import pack_plain
from noex_mp.wire.envelopes import ASK, BUFFERS, CANCEL, END, OPEN, PROBE, TAKEN, UNLINKED
from noex_mp.worker.activation import inline
from noex_mp.worker.cells import NOBODY, Cells
from noex_mp.worker.complaints import Complaints
from noex_mp.worker.mailbox import Mailbox
from noex_mp.worker.queued import Target
from noex_mp.worker.receiver import Receiver

__all__ = ["Links"]

_ABOUT_MESSAGES: Final = frozenset((ASK, CANCEL, PROBE))


class Links:
    """Those who send the servers of this worker messages.

    Args:
        receiver: Takes the messages.
        cells: Where it is written down which have begun.
        mailboxes: Those of the servers, by sid.
        control: Where the links come from.
        complaints: What people are to hear.
        new_link: Makes a link of a socket.
        on_no_memory: What to do when there is none left for a link.
    """

    def __init__(
        self,
        receiver: Receiver,
        cells: Cells,
        mailboxes: Mapping[int, Mailbox],
        *,
        control: ControlLink,
        complaints: Complaints,
        new_link: Callable[..., Link],
        on_no_memory: Callable[[], object],
    ) -> None:
        self._receiver = receiver
        self._cells = cells
        self._mailboxes = mailboxes
        self._control = control
        self._complaints = complaints
        self._new_link = new_link
        self._on_no_memory = on_no_memory
        self._links: dict[int, Link] = {}
        # Those of clients that are gone, while there is something to read on them.
        self._orphans: set[Link] = set()
        # The links that come from servers.
        self._servers: set[int] = set()
        receiver.on_other = self._on_other

    def __iter__(self) -> Iterator[Link]:
        return iter((*self._links.values(), *self._orphans))

    def add(self, frame: list[Any]) -> None:
        """Take a LINK: somebody is going to send messages."""
        _, link_id, peer, trusted, is_worker = frame
        if is_worker:
            self._servers.add(link_id)
        fd = self._control.take_fd()
        if fd == NO_FD:
            # The other end reads its end, and the root makes another link in a moment.
            self._complaints.of_message(peer, OSError("no file descriptor is free to serve it"))
            return
        link = self._new_link(
            fds.unix_socket(fd),
            peer=peer,
            on_frames=self._receiver.on_messages,
            on_close=self._on_closed,
            trusted=trusted,
        )
        give_back_buffer(link.unpacker)
        link.state = link_id
        link.targets = {}
        link.let_go = partial(_let_go, link)
        link.reader.before_code(partial(self._receiver.keep, link))
        self._links[link_id] = link

    def _on_closed(self, link: Link, problem: Exception | None) -> None:
        # Its cells are kept until the root has asked for them (UNLINK).
        self._orphans.discard(link)
        for target in link.targets.values():
            target.mailbox.caller_is_gone(target)
        if problem is not None:
            self._complaints.say(f"link closed: {problem}")
            if isinstance(problem, MemoryError):
                self._on_no_memory()

    def remove(self, frame: list[Any]) -> None:
        """Take an UNLINK: the client is gone, or the root wants to know what has begun."""
        _, link_id, peer_is_gone = frame
        self._servers.discard(link_id)
        begun: dict[int, int] = {}
        if link_id in self._links:
            link = self._links.pop(link_id)
            if peer_is_gone:
                self._outlive(link)
                return
            # The news of their ends may not have been sent yet.
            begun.update(self._cells.kept_of(link_id))
            for sid, target in link.targets.items():
                begun[sid] = self._cells.begun(target.cell)
                target.mailbox.drop(target)
                target.mailbox.senders -= 1
                self._cells.free(target.cell)
            link.close()
        self._control.post([UNLINKED, link_id, begun])

    def _outlive(self, link: Link) -> None:
        """Go on with what a client that is gone had sent; nobody asks what of it has begun."""
        for target in link.targets.values():
            # Its share is for others now: it sends nothing more.
            target.mailbox.senders -= 1
            self._cells.free(target.cell)
            target.cell = self._cells.nobodys()
        link.state = NOBODY
        if not link.closed:
            self._orphans.add(link)

    def _on_other(self, link: Link, frame: list[Any]) -> None:
        kind = frame[0]
        if kind == BUFFERS:
            link.begin_buffers(frame)
        elif kind == OPEN:
            self._open(link, frame[1], frame[2])
        elif kind == TAKEN:
            link.taken()
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
        cell = self._cells.nobodys() if is_orphan else self._cells.new(sid, link.state)
        mailbox.senders += not is_orphan
        link.targets[sid] = Target(mailbox, link, cell, is_server=link.state in self._servers)

    def close_server(self, sid: int, incarnation: int) -> dict[int, int]:
        """Take nothing more for a server; return what it had begun, by link."""
        mark = pack_plain([END, sid, incarnation])
        begun: dict[int, int] = {}
        for link in self._orphans:
            link.targets.pop(sid, None)
        for link_id, link in self._links.items():
            target: Target | None = link.targets.pop(sid, None)
            if target is not None:
                begun[link_id] = self._cells.begun(target.cell)
                self._cells.keep(sid, target.cell)
                link.send(mark)
        return begun

    def read_all(self) -> None:
        """Take everything that has arrived."""
        self._receiver.drain(self)

    def flush_blocking(self, seconds: float) -> None:
        """Send what has not been sent, as far as the clients take it in that time."""
        send_all(self._links.values(), seconds)

    def abandon(self) -> None:
        """Leave all to the process that this one was forked from."""
        for link in self:
            link.abandon()


def _let_go(link: Link) -> None:
    """Forget the messages of a link that have been handled: one may hold a shared value."""
    for target in link.targets.values():
        target.frame = []
        target.mailbox.let_go()
    inline.forget()
