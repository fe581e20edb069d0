"""The control plane: one object on one event loop that keeps a node's servers alive.

`Root` owns the zygote, the workers, the directory and the supervision, and takes what processes
say on their control links. Under `noex-mp run` its loop is the program's main loop; embedded in
a program it has a thread of its own (see `node`). It imports nothing of the user's: servers are
names and payloads here.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import socket
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any, Final

from noex_mp.core.health import Health
from noex_mp.core.reasons import ExitReason, ExitReport, Normal, Shutdown
from noex_mp.errors import (
    MaxRestartsExceededError,
    RemoteProtocolError,
)
from noex_mp.node.answers import Answers
from noex_mp.node.black_box import BlackBox
from noex_mp.node.children import Child
from noex_mp.node.config import RootConfig
from noex_mp.node.connection import Connection
from noex_mp.node.control_socket import PROGRAM_BOUNDS, Complaints, ControlSocket
from noex_mp.node.directory import Directory
from noex_mp.node.events import Events
from noex_mp.node.fresh_ends import End, FreshEnds
from noex_mp.node.health import health_of
from noex_mp.node.interrupts import Interrupts
from noex_mp.node.leases import Leases
from noex_mp.node.members import Member
from noex_mp.node.monitors import Monitors
from noex_mp.node.registries import Registries
from noex_mp.node.registry_files import RegistryFiles
from noex_mp.node.reload import Reload
from noex_mp.node.signals import Signals
from noex_mp.node.starts import StartFailedError
from noex_mp.node.supervisor import Supervision
from noex_mp.node.worker_starts import WorkerStarts
from noex_mp.node.workers import Worker, Workers
from noex_mp.node.zygotes import Preload
from noex_mp.transport import fds, lifeline
from noex_mp.transport.control_link import NO_FD, ControlLink
from noex_mp.wire.codec import Encoder
from noex_mp.wire.envelopes import (
    CONNECT,
    DEMONITOR,
    DROPPED,
    EXITED,
    HELLO,
    LEASES,
    LINK_LOST,
    LOCATE,
    LOST,
    MONITOR,
    NOT_READY,
    PROTOCOL_VERSION,
    READY,
    REQUEST,
    REQUESTS,
    STOPPED,
    TIE,
    TRAP,
    UNLINKED,
    UNTIE,
    UNWATCH_KEY,
    WATCH_KEY,
)
from noex_mp.wire.payload import unpack_error

__all__ = ["Root"]

# How long a worker without servers may take to end, in seconds.
LAST_ACT: Final = 1.0


class Root:
    """A node's control plane.

    Attributes:
        id: The node's id; every `Ref` of its servers carries it.
        ended: Done when the tree has ended by itself: the exit that was one too many, or None where
            the tree has done its work.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, config: RootConfig) -> None:
        fds.raise_fd_limit()
        self.id = secrets.token_hex(8)
        self._loop = loop
        self._config = config
        self._token = secrets.token_bytes(16)
        self._lifeline_read, self._lifeline_write = lifeline.create_lifeline()
        self._black_box = BlackBox()
        self._leases = Leases(loop)
        self._events = Events(self.id, loop, config.listener, config.wants)
        self._registry_files = RegistryFiles(loop, config.persist, self._say)
        self._registries = Registries(
            self._events,
            self._known,
            self._registry_files,
            is_stopping=lambda: self._supervision.is_stopping,
        )
        self._directory = Directory(loop, self._say, self._registries, self._has_room)
        self._workers = Workers(
            loop,
            black_box=self._black_box,
            names_fd=self._registries.log.fd,
            leases=self._leases,
            sink=config.sink,
            fields={
                "node": self.id,
                "token": self._token,
                "core_dumps": config.core_dumps,
                "spin": config.spin,
                "debug": config.debug,
            },
            on_frame=self._on_frame,
            on_dead=self._on_dead,
            linked=self._linked if config.embedded else None,
            allow_pickle=config.allow_pickle,
        )
        self._fresh_ends = FreshEnds(loop)
        self._monitors = Monitors()
        self._signals = Signals(loop, self._directory)
        self._worker_starts = WorkerStarts(
            loop, config, self._workers, node=self.id, lifeline=self._lifeline_read
        )
        self._supervision = Supervision(
            loop,
            self._directory,
            start_worker=self._worker_starts.start,
            events=self._events,
            on_end=self._on_end,
        )
        self.ended = self._supervision.ended
        self._zygotes = self._worker_starts.zygotes
        self._reload = Reload(self._zygotes, self._supervision, config.look_ahead)
        self._interrupts = Interrupts(loop, self._directory)
        self._answers = Answers(
            self.id,
            loop,
            self._directory,
            self._supervision,
            self._signals,
            self._worker_starts,
            self._reload,
            self._events,
            {**self._registries.methods, **self._interrupts.methods},
            health=self.health,
        )
        self._connections: set[Connection] = set()
        self._door: ControlSocket | None = None
        self._complaints = Complaints(loop, self._say)
        self._stopping: asyncio.Task[None] | None = None
        self._handlers: dict[int, Callable[[Connection, list[Any]], None]] = {
            HELLO: self._on_hello,
            READY: self._on_ready,
            NOT_READY: self._on_not_ready,
            EXITED: self._on_exited,
            LOCATE: self._on_locate,
            LOST: self._on_lost,
            DROPPED: self._on_dropped,
            LINK_LOST: self._on_link_lost,
            UNLINKED: self._on_unlinked,
            CONNECT: self._on_connect,
            MONITOR: self._on_monitor,
            DEMONITOR: self._on_demonitor,
            TIE: self._on_tie,
            UNTIE: self._on_untie,
            TRAP: self._on_trap,
            WATCH_KEY: self._on_watch_key,
            UNWATCH_KEY: self._on_unwatch_key,
            LEASES: self._on_leases,
            REQUEST: self._answers.take,
            REQUESTS: self._answers.take_all,
        }

    # --- start and end -----------------------------------------------------------------

    async def start(self) -> None:
        """Start the zygote and open the control socket; servers may be started then.

        Raises:
            PreloadError: The application could not be preloaded.
            AlreadyRegisteredError: A running node has this name.
        """
        self._registry_files.read()
        if self._config.name is not None:
            self._open_control_socket(self._config.name)
        await self._worker_starts.ready()

    async def start_tree(self, tree: dict[str, Any]) -> None:
        """Start a tree.

        Args:
            tree: Its description, as `entry_to_wire` makes it.

        Raises:
            StartError: A child did not start; its error is the cause.
        """
        with self._told_in_full():
            await self._supervision.start_tree(tree)

    async def restart_tree(self, tree: dict[str, Any], preload: Preload) -> None:
        """Stop all servers, and start a new tree, with the code of now; or the old one again.

        Args:
            tree: Its description.
            preload: What its zygote imports.

        Raises:
            PreloadError: The new code cannot be imported, and nothing has happened.
            StartError: A child did not start; the old tree was started again.
            NodeDownError: The node was stopped meanwhile.
        """
        with self._told_in_full():
            await self._reload.restart_tree(tree, preload)

    @contextlib.contextmanager
    def _told_in_full(self) -> Generator[None]:
        try:
            yield
        except StartFailedError as failure:
            cause = unpack_error(failure.cause, allow_pickle=self._config.allow_pickle)
            raise failure.error from cause

    async def stop(self, reason: ExitReason | None = None) -> None:
        """Stop all servers in reverse order, then everything else; every call waits for it."""
        if self._stopping is None:
            self._zygotes.is_stopping = True
            self._stopping = self._loop.create_task(self._stop_everything(reason))
        await asyncio.shield(self._stopping)

    async def _stop_everything(self, reason: ExitReason | None) -> None:
        self._reload.stop_looking()
        await self._supervision.stop_all(reason or Shutdown("the node is stopping"))
        for worker in self._workers.all():
            # Only one whose last server is just ending by itself can be left.
            if worker.leaving:
                await asyncio.wait((worker.dead,), timeout=LAST_ACT)
            worker.signal_group(signal.SIGKILL)
            await worker.dead
        await self._zygotes.close()
        await self._interrupts.stop()
        await self._answers.all_given()
        await self._worker_starts.no_strays_left()
        await self._registry_files.close()
        self._events.close()
        self._close()

    def hurry(self) -> None:
        """Stop waiting for servers that take their time to stop."""
        self._supervision.hurry()

    def _close(self) -> None:
        for connection in list(self._connections):
            connection.post([STOPPED])
            connection.control.close()
        if self._door is not None:
            self._door.close()
        self._black_box.close()
        self._leases.close()
        self._registries.log.close()
        fds.close(self._lifeline_read)
        fds.close(self._lifeline_write)

    def _on_dead(self, worker: Worker) -> None:
        # First of all: nobody who hears of an end may find what the server was registered as.
        for child in worker.residents.values():
            self._registries.ended(child)
        self._registries.watches.forget(worker.connection)
        self._monitors.forget(worker.connection)
        self._directory.worker_died(worker)
        self._supervision.worker_died(worker)
        self._worker_starts.worker_died(worker)
        self._leases.worker_died(worker.span)

    # --- processes that talk to us -----------------------------------------------------

    def connect(
        self,
        sock: socket.socket,
        label: str,
        *,
        trusted: bool = True,
        worker: Worker | None = None,
        asks_again: bool = False,
    ) -> Connection:
        """Take a new client: an event loop or a thread, or a local program like the CLI."""
        connection = Connection(label, trusted=trusted, worker=worker, asks_again=asks_again)
        connection.attach(
            ControlLink(
                self._loop,
                sock,
                peer=label,
                on_frame=lambda link, frame: self._on_frame(connection, frame),
                on_close=lambda link, problem: self._on_disconnect(connection, problem),
                encoder=Encoder(allow_pickle=trusted and self._config.allow_pickle),
                allow_pickle=self._config.allow_pickle,
                trusted=trusted,
                bounds=None if trusted else PROGRAM_BOUNDS,
            )
        )
        self._connections.add(connection)
        return connection

    def _linked(self) -> set[Worker]:
        """Return the workers that an event loop of the program around us has a link to."""
        linked: set[Worker] = set()
        for connection in self._connections:
            if _is_of_the_program(connection):
                linked.update(connection.links)
        return linked

    def _has_room(self, connection: Connection, worker: Worker) -> bool:
        """Return whether a client may have a link, of which one end stays in this process.

        The first one to each worker may: room is kept for that. More must leave what is kept.
        """
        if not (self._config.embedded and _is_of_the_program(connection)):
            return True
        linked = self._linked()
        return worker not in linked or self._workers.have_room_to_spare(linked)

    def _on_disconnect(self, connection: Connection, problem: Exception | None) -> None:
        if problem is not None and connection.trusted:
            line = f"noex-mp: control link closed: {problem}\n"
            self._config.sink(connection.label, "stderr", line.encode())
        elif problem is not None:
            self._complaints(f"disconnected {problem}")
        self._connections.discard(connection)
        if self._door is not None:
            self._door.forget(connection)
        self._monitors.forget(connection)
        self._registries.watches.forget(connection)
        self._directory.forget(connection)

    def _open_control_socket(self, name: str) -> None:
        try:
            self._door = ControlSocket(self._loop, name, self._let_in, self._complaints)
        except OSError as error:
            # Servers run without it as well; a container may have nothing that can be written.
            self._say(
                f"no control socket, so noex-mp ps and call will not find this node: {error}\n"
                f"Set XDG_RUNTIME_DIR to a private folder that can be written."
            )
        else:
            self._zygotes.unlinks = str(self._door.path)

    def _let_in(self, sock: socket.socket, label: str) -> Connection:
        return self.connect(sock, label, trusted=False)

    def _say(self, text: str) -> None:
        for line in text.splitlines():
            self._config.sink("noex-mp", "stderr", f"{line}\n".encode())

    def _on_frame(self, connection: Connection, frame: list[Any]) -> None:
        if not connection.trusted and self._door is not None:
            self._door.heard(connection)
        try:
            self._handlers[frame[0]](connection, frame)
        except RemoteProtocolError:
            raise
        except Exception as error:
            # Its link ends, with this as the reason; nobody else's does.
            problem = f"a control frame that makes no sense: {frame!r:.200} ({error!r:.200})"
            raise RemoteProtocolError(connection.label, problem) from error

    # --- what workers say --------------------------------------------------------------

    def _on_hello(self, connection: Connection, frame: list[Any]) -> None:
        _, number, version, token = frame
        worker = connection.worker
        if worker is None or (number, version, token) != (
            worker.number,
            PROTOCOL_VERSION,
            self._token,
        ):
            connection.control.close()

    def _incarnation_of(self, connection: Connection, sid: int, incarnation: int) -> Child | None:
        child = self._directory.get(sid)
        if child is None or child.worker is None or child.worker is not connection.worker:
            return None
        return child if child.incarnation == incarnation else None

    def _on_ready(self, connection: Connection, frame: list[Any]) -> None:
        child = self._incarnation_of(connection, frame[1], frame[2])
        if child is not None:
            self._registries.ready(child)
            child.answered("ready")

    def _on_not_ready(self, connection: Connection, frame: list[Any]) -> None:
        child = self._incarnation_of(connection, frame[1], frame[2])
        if child is not None:
            child.exited = (frame[3], frame[4], frame[5])
            self._registries.ended(child)
            ignored = isinstance(frame[3], Normal) and child.stop_reason is None
            child.answered("ignored" if ignored else "refused")

    def _on_exited(self, connection: Connection, frame: list[Any]) -> None:
        child = self._incarnation_of(connection, frame[1], frame[2])
        if child is not None:
            child.exited = (frame[3], frame[4], frame[5])
            child.begun, child.evidence = frame[6], frame[7]
            self._registries.ended(child)
            with self._fresh_ends.reading():
                self._supervision.server_ended(child)

    # --- what clients say --------------------------------------------------------------

    def _on_locate(self, connection: Connection, frame: list[Any]) -> None:
        self._directory.locate(connection, frame[1])

    def _on_lost(self, connection: Connection, frame: list[Any]) -> None:
        _, sid, incarnation, count = frame
        child = self._directory.known(sid)
        if child is None or child.report is None:
            return
        # It may have started again by now; what was lost was lost with the one before. Of one
        # still further back we have no report any more.
        is_last = child.report.incarnation == incarnation
        report = replace(child.report, casts_lost=count) if is_last else None
        self._supervision.exits.lost(sid, incarnation, count)
        self._events.tell(
            "messages_lost",
            child,
            report=report,
            incarnation=incarnation,
            attempt=0,
            os_pid=report.os_pid if report else 0,
            count=count,
        )

    def _on_dropped(self, connection: Connection, frame: list[Any]) -> None:
        child = self._directory.known(frame[1])
        if child is not None:
            self._events.mailbox_full(child, frame[2])

    def _on_link_lost(self, connection: Connection, frame: list[Any]) -> None:
        self._directory.link_lost(connection, frame[1], frame[2])

    def _on_unlinked(self, connection: Connection, frame: list[Any]) -> None:
        if connection.worker is not None:
            self._directory.unlinked(connection.worker, frame[1], frame[2])

    def _on_connect(self, connection: Connection, frame: list[Any]) -> None:
        fd = connection.control.take_fd()
        if fd == NO_FD:
            # The thread reads the end of it: its node is down, as far as it can see.
            self._complaints(f"{frame[1]} cannot make calls: {fds.usage_in_words()}")
            return
        sock = fds.high_socket(socket.socket(fileno=fd))
        if connection.worker is None:
            sock.close()
            return
        self.connect(sock, frame[1], worker=connection.worker, asks_again=True)

    # --- monitors and links ------------------------------------------------------------

    def _on_monitor(self, connection: Connection, frame: list[Any]) -> None:
        if not connection.trusted:
            # It could ask for any number of them.
            problem = "a monitor, which is for the node's own processes"
            raise RemoteProtocolError(connection.label, problem)
        _, number, target, is_lasting = frame
        member = self._known(target)
        # Supervisors are forgotten when they are gone, and their reports later.
        report = member.report if member else self._supervision.exits.last_of(target)
        end = self._fresh_ends.of(target)
        self._monitors.add(connection, number, member, report, end=end, is_lasting=is_lasting)

    def _on_demonitor(self, connection: Connection, frame: list[Any]) -> None:
        self._monitors.remove(connection, frame[1])

    def _on_tie(self, connection: Connection, frame: list[Any]) -> None:
        child = self._incarnation_of(connection, frame[1], frame[2])
        if child is not None:
            self._signals.link(child, self._known(frame[3]), self._fresh_ends.of(frame[3]))

    def _on_untie(self, connection: Connection, frame: list[Any]) -> None:
        child = self._incarnation_of(connection, frame[1], frame[2])
        if child is not None:
            self._signals.unlink(child, self._known(frame[3]))

    def _on_trap(self, connection: Connection, frame: list[Any]) -> None:
        child = self._incarnation_of(connection, frame[1], frame[2])
        if child is not None:
            child.traps = frame[3]

    def _on_watch_key(self, connection: Connection, frame: list[Any]) -> None:
        if not connection.trusted:
            problem = "a watch of a key, which is for the node's own processes"
            raise RemoteProtocolError(connection.label, problem)
        self._registries.watches.add(connection, *frame[1:])

    def _on_unwatch_key(self, connection: Connection, frame: list[Any]) -> None:
        self._registries.watches.remove(connection, frame[1])

    def _on_leases(self, connection: Connection, frame: list[Any]) -> None:
        fd = connection.control.take_fd()
        if connection.worker is None:
            fds.close_all([fd])
            raise RemoteProtocolError(connection.label, "leases, which only a worker has")
        self._leases.hold(connection.worker.span, fd)

    def _known(self, target: int | str) -> Member | None:
        return self._answers.known(target)

    def _on_end(self, member: Member, restart: int | None) -> None:
        end = End(member, restart)
        self._registries.ended(member)
        self._fresh_ends.add(end)
        self._signals.ended(end)
        self._monitors.ended(end)

    def names_fd(self) -> int:
        """Return a new descriptor that reads the log of names."""
        return self._registries.log.open()

    def servers(self) -> list[Child]:
        """Return the servers that there are."""
        return list(self._directory)

    def health(self) -> Health:
        """Return how the node is."""
        return health_of(
            self._supervision.top,
            self._supervision.spawned,
            has_tree=self._config.has_tree,
            stopping=self._stopping is not None or self._supervision.is_stopping,
        )

    def give_up_error(self, report: ExitReport) -> MaxRestartsExceededError:
        """Return the error of a tree that gave up."""
        top = self._supervision.top
        assert top is not None
        return top.excess or MaxRestartsExceededError(top.title, *top.limits, report)


def _is_of_the_program(connection: Connection) -> bool:
    return connection.trusted and connection.worker is None
