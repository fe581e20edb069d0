"""Who is where: the servers of a node, their names, and the links between processes.

The directory tells each client where a server is when it first asks, and again whenever that
changes. It makes the data links and hands out their ends; no call passes through it.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
from collections.abc import Callable, Iterator
from typing import Final

from noex_mp.core.reasons import ExitReport, Unknown
from noex_mp.node.children import Child
from noex_mp.node.connection import Connection
from noex_mp.node.members import Member
from noex_mp.node.registries import Registries
from noex_mp.node.workers import Worker
from noex_mp.transport import fds
from noex_mp.wire.envelopes import DOWN, GONE, LINK, LINK_DOWN, LOCATED, UNLINK

__all__ = ["Directory"]

# A link ends when its worker dies, and the news of that needs a moment. If the worker is alive
# after this time, in seconds, only the link is broken, and the client gets another.
RELINK_AFTER: Final = 0.1

# A client that gets no link is worth a line in the log once in so many seconds.
COMPLAIN_AGAIN: Final = 1.0

# The reports of so many servers that are gone for good are kept, for whoever calls them.
REMEMBERED: Final = 1000


class Directory:
    """The servers of one node."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        say: Callable[[str], None],
        registries: Registries,
        has_room: Callable[[Connection, Worker], bool] = lambda connection, worker: True,
    ) -> None:
        """Make the directory of a node.

        Args:
            say: Takes a line for the log.
            registries: Where the names are.
            has_room: Tells whether a client may have a link to a worker, as far as descriptors go.
        """
        self._loop = loop
        self._has_room = has_room
        self._registries = registries
        self._say = say
        self._silent_until = 0.0
        self._children: dict[int, Child] = {}
        # Supervisors are no servers: nobody sends to them.
        self._supervisors: dict[int, Member] = {}
        self._gone: dict[int, Child] = {}
        self._sids = itertools.count(1)
        self._link_ids = itertools.count(1)
        # Links that a worker was told to end, and why.
        self._unlinking: dict[int, str] = {}

    # --- servers and names -------------------------------------------------------------

    def __iter__(self) -> Iterator[Child]:
        return iter(list(self._children.values()))

    def next_sid(self) -> int:
        """Return a number that no server of this node has had."""
        return next(self._sids)

    def add(self, member: Member) -> None:
        """Enter a server or a supervisor and claim its name, before anything of it runs.

        Raises:
            AlreadyRegisteredError: Another has the name.
        """
        self._registries.claim_own(member)
        if isinstance(member, Child):
            self._gone.pop(member.sid, None)
            self._children[member.sid] = member
        else:
            self._supervisors[member.sid] = member

    def get(self, sid: int) -> Child | None:
        """Return the server with this number, unless it is gone."""
        return self._children.get(sid)

    def known(self, sid: int) -> Child | None:
        """Return the server with this number, also if it is gone and not yet forgotten."""
        return self._children.get(sid) or self._gone.get(sid)

    def supervisor(self, sid: int) -> Member | None:
        """Return the supervisor with this number, unless it is gone."""
        return self._supervisors.get(sid)

    def named(self, name: str) -> Member | None:
        """Return the server or supervisor that has this name."""
        sid = self._registries.holder_of(name)
        return None if sid is None else self._children.get(sid) or self._supervisors.get(sid)

    def names(self) -> list[str]:
        """Return the names in use."""
        return self._registries.names()

    # --- who is told what --------------------------------------------------------------

    def locate(self, connection: Connection, sid: int) -> None:
        """Tell a client where a server is, now and after every restart."""
        child = self._children.get(sid)
        if child is None:
            gone = self._gone.get(sid)
            connection.post([GONE, sid, gone and gone.report, gone.error if gone else b""])
            return
        connection.located.add(sid)
        if child.watchers is None:
            child.watchers = set()
        child.watchers.add(connection)
        if child.is_up:
            self._tell_location(connection, child)

    def up(self, child: Child) -> None:
        """Tell all who wait for it that an incarnation is ready."""
        for connection in list(child.watchers or ()):
            self._tell_location(connection, child)

    def down(self, child: Child, worker: Worker, report: ExitReport, error: bytes) -> None:
        """Tell all clients that an incarnation has ended, and which messages had begun."""
        for connection in list(child.watchers or ()):
            mark, begun = _begun_of(child, worker, connection)
            connection.post([DOWN, child.sid, child.incarnation, mark, begun, report, error])
            if connection.asks_again:
                self._unwatch(connection, child)

    def worker_died(self, worker: Worker) -> None:
        """Take the links to a dead worker from its clients; what it left unsent goes with that."""
        self.forget(worker.connection)
        for link_id, connection in worker.links.items():
            if connection.links.pop(worker, 0) == link_id:
                worker.lost_links[connection] = link_id
                replies = worker.last_words.replies.get(link_id, b"")
                connection.post([LINK_DOWN, link_id, replies])
        worker.links.clear()

    def gone(self, member: Member) -> None:
        """Free the name of one that does not come back by itself, then say so."""
        self._registries.free_own(member)
        self._supervisors.pop(member.sid, None)
        if not isinstance(member, Child):
            return
        self._children.pop(member.sid, None)
        self._gone[member.sid] = member
        if len(self._gone) > REMEMBERED:
            del self._gone[next(iter(self._gone))]
        for connection in member.watchers or ():
            connection.located.discard(member.sid)
            connection.post([GONE, member.sid, member.report, member.error])
        member.watchers = None

    def _unwatch(self, connection: Connection, child: Child) -> None:
        connection.located.discard(child.sid)
        if child.watchers is not None:
            child.watchers.discard(connection)

    def forget(self, connection: Connection) -> None:
        """Note that a client is gone, and let the workers end its links."""
        for sid in connection.located:
            child = self._children.get(sid)
            if child is not None and child.watchers is not None:
                child.watchers.discard(connection)
        connection.located.clear()
        for worker, link_id in connection.links.items():
            worker.links.pop(link_id, None)
            worker.connection.post([UNLINK, link_id, True])
        connection.links.clear()

    # --- links -------------------------------------------------------------------------

    def _tell_location(self, connection: Connection, child: Child) -> None:
        worker = child.worker
        if worker is None or not worker.alive or connection.closed:
            return
        mailbox = (*child.mailbox, max(1, len(child.watchers or ())))
        link_id = connection.links.get(worker)
        if link_id is not None:
            connection.post([LOCATED, child.sid, child.incarnation, link_id, False, mailbox])
            return
        if not self._has_room(connection, worker):
            kept = "and the others are kept for restarts"
            self._tell_later(connection, child, worker, f"{fds.usage_in_words()}, {kept}")
            return
        try:
            near, far = fds.socketpair()
        except OSError as error:
            is_full = error.errno == errno.EMFILE
            problem = fds.usage_in_words() if is_full else error.strerror
            self._tell_later(connection, child, worker, problem or "")
            return
        link_id = next(self._link_ids)
        connection.links[worker] = link_id
        worker.links[link_id] = connection
        worker.connection.post(
            [LINK, link_id, connection.label, connection.trusted, connection.worker is not None],
            fds.disown(far.detach()),
        )
        connection.post(
            [LOCATED, child.sid, child.incarnation, link_id, True, mailbox],
            fds.disown(near.detach()),
        )

    def _tell_later(
        self, connection: Connection, child: Child, worker: Worker, problem: str
    ) -> None:
        # No descriptor is free. The calls wait meanwhile, as long as they have time.
        self._complain(connection, child, problem)
        self._loop.call_later(RELINK_AFTER, self._tell_location_again, connection, child, worker)

    def _complain(self, connection: Connection, child: Child, problem: str) -> None:
        now = self._loop.time()
        if now >= self._silent_until:
            self._silent_until = now + COMPLAIN_AGAIN
            whose = f"calls of {connection.label} to {child.title}"
            self._say(f"{whose} wait, since it gets no link: {problem}")

    def _tell_location_again(self, connection: Connection, child: Child, worker: Worker) -> None:
        if child.is_up_in(worker):
            self._tell_location(connection, child)

    def link_lost(self, connection: Connection, link_id: int, problem: str) -> None:
        """Take a client's word that a data link has ended at its end.

        Mostly its worker is dead, and we hear of that in a moment. Otherwise:

        1. The worker is told to end the link too, to drop what came on it and has not begun,
           and to say what has.
        2. By its answer the client sorts its calls, and gets another link.
        """
        for worker, known in connection.links.items():
            if known == link_id:
                self._loop.call_later(RELINK_AFTER, self._unlink, connection, worker, problem)

    def _unlink(self, connection: Connection, worker: Worker, problem: str) -> None:
        link_id = connection.links.get(worker)
        if link_id is not None and worker.alive and not connection.closed:
            self._unlinking[link_id] = problem
            worker.connection.post([UNLINK, link_id, False])

    def unlinked(self, worker: Worker, link_id: int, begun: dict[int, int]) -> None:
        """Take a worker's word that it has ended a data link, and what it had begun."""
        problem = self._unlinking.pop(link_id, None)
        connection = worker.links.pop(link_id, None)
        if connection is None or problem is None or connection.links.pop(worker, 0) != link_id:
            return
        connection.post([LINK_DOWN, link_id, b""])
        for child in self:
            if child.is_up_in(worker) and child.sid in connection.located:
                if problem:
                    self._complain(connection, child, problem)
                report = _broken(child, problem)
                last = begun.get(child.sid, 0)
                connection.post([DOWN, child.sid, child.incarnation, 0, last, report, b""])
                if connection.asks_again:
                    self._unwatch(connection, child)
                else:
                    self._tell_location(connection, child)


def _begun_of(child: Child, worker: Worker, connection: Connection) -> tuple[int, int]:
    """Return the link on which an END comes, or 0, and the last message begun; 0 is none."""
    link_id = connection.links.get(worker) or worker.lost_links.get(connection, 0)
    # A server that has ended by itself has said what it had begun, and on which links.
    begun = child.begun.get(link_id) if child.begun else None
    if begun is None:
        # Without a link nothing of it has begun; freed cells stand under link 0.
        cells = worker.last_words.begun
        return 0, cells.get((link_id, child.sid), 0) if link_id else 0
    return link_id, begun


def _broken(child: Child, problem: str) -> ExitReport:
    return ExitReport(
        server=child.title,
        sid=child.sid,
        incarnation=child.incarnation,
        reason=Unknown(f"the link to it broke: {problem or 'it was closed'}"),
        os_pid=child.worker.os_pid if child.worker else 0,
        uptime=child.uptime(),
        next="it runs on",
    )
