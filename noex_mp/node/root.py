"""The control plane: one object on one event loop that keeps a node's servers alive.

`Root` owns the zygote, the workers, the directory and the supervision, and takes what processes
say on their control links. Under `noex-mp run` its loop is the program's main loop; embedded in
a program it has a thread of its own (see `node`). It imports nothing of the user's: servers are
names and payloads here.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, get_args

from noex_mp.client.api import servers_of_wire
from noex_mp.client.events import Listener
from noex_mp.core.reasons import ExitReason, ExitReport, Normal, Shutdown
from noex_mp.core.report_plain import as_plain
from noex_mp.errors import (
    ConfigError,
    MaxRestartsExceededError,
    NoServerError,
    RemoteProtocolError,
)
from noex_mp.node.black_box import BlackBox
from noex_mp.node.branches import Branch
from noex_mp.node.children import Child
from noex_mp.node.connection import Connection
from noex_mp.node.control_socket import PROGRAM_BOUNDS, Complaints, ControlSocket
from noex_mp.node.directory import Directory
from noex_mp.node.events import Events
from noex_mp.node.members import Member
from noex_mp.node.monitors import Monitors
from noex_mp.node.output import Sink
from noex_mp.node.requests import SupervisorRequests
from noex_mp.node.signals import Signals
from noex_mp.node.sources import Sources
from noex_mp.node.starts import StartFailedError
from noex_mp.node.strays import Strays
from noex_mp.node.supervisor import Supervision
from noex_mp.node.workers import Worker, Workers
from noex_mp.node.zygote import Zygote, config_of_this_process, main_of_this_process
from noex_mp.transport import fds, lifeline
from noex_mp.transport.control_link import NO_FD, ControlLink
from noex_mp.wire.codec import Encoder
from noex_mp.wire.envelopes import (
    CONNECT,
    DEMONITOR,
    DROPPED,
    EXITED,
    HELLO,
    LINK_LOST,
    LOCATE,
    LOST,
    MONITOR,
    NOT_READY,
    PROTOCOL_VERSION,
    READY,
    REQUEST,
    RESPONSE,
    TIE,
    TRAP,
    UNLINKED,
    UNTIE,
)
from noex_mp.wire.payload import unpack_error

__all__ = ["Root", "RootConfig"]

# So many requests of one local program may be in work at a time.
MAX_REQUESTS: Final = 256

# How long a worker without servers may take to end, in seconds.
LAST_ACT: Final = 1.0


@dataclass(frozen=True, kw_only=True)
class RootConfig:
    """What a node is made of, besides its tree.

    Attributes:
        name: What the CLI calls it, or None: it has no control socket then.
        preload: The modules that the zygote imports.
        with_main: Whether the zygote runs the user's script too.
        allow_native_threads: Native threads that the preload may leave.
        allow_pickle: Whether pickle is the last resort for arguments.
        core_dumps: Whether a crashing worker may write a core file.
        debug: Whether exit reports hold what the last message was called with.
        spin: Whether loops do not go to sleep while an answer may be near.
        embedded: Whether the program around the root makes calls, with descriptors of its process.
        listener: Hears of every event.
        sink: Gets what workers print.
    """

    name: str | None = None
    preload: Sequence[str] = ()
    with_main: bool = False
    allow_native_threads: Sequence[str] = ()
    allow_pickle: bool = True
    core_dumps: bool = False
    debug: bool = False
    spin: bool = False
    embedded: bool = False
    listener: Listener = field(default=lambda event: None)
    sink: Sink = field(default=lambda label, stream, line: None)


# What ends servers: none may wait for its own end. The last parameter says who asks.
_ENDS: Final = frozenset({"stop", "terminate_child", "stop_supervisor"})

# What a program outside of the node may ask for: nothing that runs code of its choice.
FOR_PROGRAMS: Final = frozenset({"stop", "whereis", "is_running", "names", "ps", "exits"})


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
        self._events = Events(self.id, loop, config.listener)
        self._directory = Directory(loop, self._say, self._events)
        self._workers = Workers(
            loop,
            black_box=self._black_box,
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
        self._monitors = Monitors()
        self._signals = Signals(loop, self._directory)
        self._supervision = Supervision(
            loop,
            self._directory,
            start_worker=self._start_worker,
            events=self._events,
            on_end=self._on_end,
        )
        self.ended = self._supervision.ended
        self._supervisors = SupervisorRequests(
            self._directory, self._supervision, prepare_code=self._prepare_code
        )
        self._with_main = config.with_main
        self._zygotes: list[Zygote] = []
        # With those that are about to end because nobody needs them any more.
        self._all_zygotes: list[Zygote] = []
        self._strays = Strays(loop, self.id, self._keepers)
        self._zygote_task: asyncio.Task[Zygote] | None = None
        self._renewal: asyncio.Task[None] | None = None
        self._sources = Sources(())
        self._connections: set[Connection] = set()
        self._door: ControlSocket | None = None
        self._complaints = Complaints(loop, self._say)
        self._tasks: set[asyncio.Task[Any]] = set()
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
            REQUEST: self._on_request,
        }
        self._methods: dict[str, Callable[..., Any]] = {
            "spawn": self._spawn,
            "stop": self._stop,
            "exit": self._exit,
            "whereis": self._whereis,
            "is_running": self._is_running,
            "names": self._names,
            "ps": self._ps,
            "exits": self._exits,
            **self._supervisors.methods,
            "stop_supervisor": self._stop_supervisor,
        }

    # --- start and end -----------------------------------------------------------------

    async def start(self) -> None:
        """Start the zygote and open the control socket; servers may be started then.

        Raises:
            PreloadError: The application could not be preloaded.
            AlreadyRegisteredError: A running node has this name.
        """
        if self._config.name is not None:
            self._open_control_socket(self._config.name)
        zygote = await self._current_zygote()
        await zygote.ready()

    async def start_tree(self, tree: dict[str, Any]) -> None:
        """Start a tree.

        Args:
            tree: Its description, as `entry_to_wire` makes it.

        Raises:
            StartError: A child did not start; its error is the cause.
        """
        try:
            await self._supervision.start_tree(tree)
        except StartFailedError as failure:
            cause = unpack_error(failure.cause, allow_pickle=self._config.allow_pickle)
            raise failure.error from cause

    async def stop(self, reason: ExitReason | None = None) -> None:
        """Stop all servers in reverse order, then everything else; every call waits for it."""
        if self._stopping is None:
            self._stopping = self._loop.create_task(self._stop_everything(reason))
        await asyncio.shield(self._stopping)

    async def _stop_everything(self, reason: ExitReason | None) -> None:
        await self._supervision.stop_all(reason or Shutdown("the node is stopping"))
        for worker in self._workers.all():
            # Only one whose last server is just ending by itself can be left.
            if worker.leaving:
                await asyncio.wait((worker.dead,), timeout=LAST_ACT)
            worker.signal_group(signal.SIGKILL)
            await worker.dead
        if self._zygote_task is not None:
            await asyncio.wait((self._zygote_task,))
        self._zygote_task = None
        await asyncio.gather(*(zygote.close() for zygote in self._zygotes))
        if self._renewal is not None:
            # It has heard of the end of its zygote, or has only just begun.
            await asyncio.wait((self._renewal,))
            await asyncio.gather(*(zygote.close() for zygote in self._zygotes))
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._strays.none_left()
        self._events.close()
        self._close()

    def hurry(self) -> None:
        """Stop waiting for servers that take their time to stop."""
        self._supervision.hurry()

    def _close(self) -> None:
        for connection in list(self._connections):
            connection.control.close()
        if self._door is not None:
            self._door.close()
        self._black_box.close()
        fds.close(self._lifeline_read)
        fds.close(self._lifeline_write)

    # --- the zygote --------------------------------------------------------------------

    def _current_zygote(self) -> asyncio.Task[Zygote]:
        task = self._zygote_task
        if task is None or (task.done() and (task.cancelled() or task.exception())):
            task = self._zygote_task = self._loop.create_task(
                self._start_zygote(with_main=self._with_main)
            )
            # It may be started ahead of need; whoever needs it hears how that went.
            task.add_done_callback(lambda task: task.cancelled() or task.exception())
        return task

    async def _start_zygote(self, *, with_main: bool) -> Zygote:
        config = config_of_this_process(
            preload=list(self._config.preload),
            **main_of_this_process(),
            main_later=not with_main,
            allow_native_threads=list(self._config.allow_native_threads),
            label=self._config.name or self.id,
            environ={**os.environ, **self._strays.marks},
        )
        zygote = await Zygote.start(
            self._loop,
            config,
            self._lifeline_read,
            on_exit=self._workers.on_exit,
            on_death=lambda: self._on_zygote_death(zygote),
        )
        self._zygotes.append(zygote)
        self._all_zygotes = [each for each in self._all_zygotes if not each.ended] + [zygote]
        if self._door is not None:
            zygote.unlink_at_end(str(self._door.path))
        # Now, while the zygote starts its interpreter: a change after this one is noticed.
        self._sources = Sources(self._config.preload)
        return zygote

    def _on_zygote_death(self, zygote: Zygote) -> None:
        # Its workers go on, and what starts from now on comes from a new one.
        if zygote in self._zygotes:
            self._zygotes.remove(zygote)
        self._workers.on_zygote_death(zygote)
        self._strays.expect()
        current = self._zygote_task
        dead = current is not None and current.done() and not current.exception()
        if current is not None and dead and current.result() is zygote:
            self._zygote_task = None
            if zygote.was_ready and self._stopping is None:
                # Ahead of the next restart. One that cannot even preload waits for that.
                self._current_zygote()

    def _keepers(self) -> set[int]:
        zygotes = {zygote.os_pid for zygote in self._all_zygotes if not zygote.ended}
        return zygotes | {worker.os_pid for worker in self._workers.all()}

    async def _renew_zygote(self, *, with_main: bool) -> None:
        """Let the workers that start from now on come from a new zygote, with the code of now.

        Raises:
            PreloadError: The new one could not preload the application; the old one goes on.
        """
        if self._renewal is None:
            self._renewal = self._loop.create_task(self._renew(with_main=with_main))
            self._renewal.add_done_callback(self._renewed)
        await asyncio.shield(self._renewal)

    async def _renew(self, *, with_main: bool) -> None:
        if self._zygote_task is not None:
            # One that is just being executed must be known before it is replaced.
            await asyncio.wait((self._zygote_task,))
        sources = self._sources
        task = self._loop.create_task(self._start_zygote(with_main=with_main))
        try:
            await (await task).ready()
        except BaseException:
            self._sources = sources
            raise
        self._with_main, self._zygote_task = with_main, task

    def _renewed(self, renewal: asyncio.Task[None]) -> None:
        self._renewal = None
        if not renewal.cancelled():
            renewal.exception()
        self._retire_zygotes()

    def _retire_zygotes(self) -> None:
        """End the zygotes of old code that have no workers any more."""
        if self._stopping is not None or self._renewal is not None:
            return
        current = self._zygote_task
        for zygote in list(self._zygotes):
            is_current = current is not None and current.done() and zygote is current.result()
            if not is_current and zygote.was_ready and not self._workers.of(zygote):
                self._zygotes.remove(zygote)
                closing = self._loop.create_task(zygote.close())
                self._tasks.add(closing)
                closing.add_done_callback(self._tasks.discard)

    def _warn_of_changes(self, label: str, server: str) -> None:
        for warning in self._sources.changed(server.partition(":")[0]):
            self._config.sink(label, "stderr", f"noex-mp: {warning}\n".encode())

    async def _start_worker(self, child: Child) -> Worker:
        group = child.placement
        label = child.title if group is None else group.name
        self._warn_of_changes(label, child.spec["server"])
        shared = group is not None
        start = partial(
            self._workers.start,
            label=label,
            shared=shared,
            process=child.process,
            # A restart always has room: what the last worker had, and what is kept back.
            needs_room=child.report is None,
        )
        try:
            return await start(await self._current_zygote())
        except ConnectionResetError:
            # The zygote died under the request; its successor gets it.
            await asyncio.sleep(0)
            return await start(await self._current_zygote())

    def _on_dead(self, worker: Worker) -> None:
        self._monitors.forget(worker.connection)
        self._directory.worker_died(worker)
        self._supervision.worker_died(worker)
        if worker.zygote is None:
            self._strays.expect()
        if len(self._zygotes) > 1:
            self._loop.call_soon(self._retire_zygotes)

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
            if connection.trusted and connection.worker is None:
                linked.update(connection.links)
        return linked

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
            child.answered("ready")

    def _on_not_ready(self, connection: Connection, frame: list[Any]) -> None:
        child = self._incarnation_of(connection, frame[1], frame[2])
        if child is not None:
            child.exited = (frame[3], frame[4], frame[5])
            ignored = isinstance(frame[3], Normal) and child.stop_reason is None
            child.answered("ignored" if ignored else "refused")

    def _on_exited(self, connection: Connection, frame: list[Any]) -> None:
        child = self._incarnation_of(connection, frame[1], frame[2])
        if child is not None:
            child.exited = (frame[3], frame[4], frame[5])
            child.begun, child.evidence = frame[6], frame[7]
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
        self._monitors.add(connection, number, self._known(target), is_lasting=is_lasting)

    def _on_demonitor(self, connection: Connection, frame: list[Any]) -> None:
        self._monitors.remove(connection, frame[1])

    def _on_tie(self, connection: Connection, frame: list[Any]) -> None:
        child = self._incarnation_of(connection, frame[1], frame[2])
        if child is not None:
            self._signals.link(child, self._known(frame[3]))

    def _on_untie(self, connection: Connection, frame: list[Any]) -> None:
        child = self._incarnation_of(connection, frame[1], frame[2])
        if child is not None:
            self._signals.unlink(child, self._known(frame[3]))

    def _on_trap(self, connection: Connection, frame: list[Any]) -> None:
        child = self._incarnation_of(connection, frame[1], frame[2])
        if child is not None:
            child.traps = frame[3]

    def _on_end(self, member: Member, restart: int | None) -> None:
        self._signals.ended(member, for_good=restart is None)
        self._monitors.ended(member, restart)

    def _known(self, target: int | str) -> Member | None:
        if isinstance(target, int):
            return self._directory.known(target) or self._directory.supervisor(target)
        return self._find(target) or self._supervisors.find(target)

    def _on_request(self, connection: Connection, frame: list[Any]) -> None:
        _, request, method, *parameters = frame
        connection.requests += 1
        if connection.requests > MAX_REQUESTS and not connection.trusted:
            problem = f"more than {MAX_REQUESTS} requests at a time"
            raise RemoteProtocolError(connection.label, problem)
        task = self._loop.create_task(self._answer(connection, request, method, parameters))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(
        self, connection: Connection, request: int, method: str, parameters: list[Any]
    ) -> None:
        try:
            if not connection.trusted and method not in FOR_PROGRAMS:
                raise ConfigError(f"only the node's own processes may ask it to {method}")
            if method in _ENDS:
                self._refuse_own_end(connection, method, *parameters)
            value = await self._methods[method](*parameters)
        except StartFailedError as failure:
            answer: list[Any] = [RESPONSE, request, False, [failure.error, failure.cause]]
        except Exception as error:
            answer = [RESPONSE, request, False, [error, b""]]
        else:
            answer = [RESPONSE, request, True, value]
        connection.requests -= 1
        if not connection.closed:
            connection.post(answer)

    def _refuse_own_end(self, connection: Connection, method: str, *parameters: Any) -> None:
        worker = connection.worker
        if worker is None:
            return
        key = parameters[1] if method == "terminate_child" else None
        asker: int = parameters[-1]
        for child in self._would_end(parameters[0], key):
            # In a worker of its own it is the only one who can ask.
            if child.worker is worker and (not worker.shared or child.sid == asker):
                raise ConfigError(
                    "a server cannot wait for its own end\n"
                    "Let the handler return Stop(), or Reply(value, then=Stop())."
                )

    def _would_end(self, target: int | str, key: int | str | None) -> list[Child]:
        """Return the servers whose end somebody asks for.

        Args:
            target: A server, or a supervisor.
            key: Which child of the supervisor is meant; None means itself.
        """
        member: Member | None
        if key is not None:
            member = self._supervisors.child_of(self._supervisors.get(target), key)
        else:
            member = self._find(target) or self._supervisors.find(target)
        if isinstance(member, Branch):
            return list(member.children())
        return [member] if isinstance(member, Child) else []

    async def _spawn(self, wire: dict[str, Any]) -> list[Any]:
        await self._prepare_code(wire)
        child = await self._supervision.spawn(wire)
        return [child.sid, child.label]

    async def _prepare_code(self, entry: dict[str, Any]) -> None:
        """Let a zygote have the script, and code that was reloaded, before what needs them."""
        servers = [wire for wire in servers_of_wire(entry) if wire["by_name"]]
        needs_main = not self._with_main and any(
            wire["server"].startswith("__main__:") for wire in servers
        )
        if servers and (needs_main or self._sources.reloaded()):
            await self._renew_zygote(with_main=needs_main or self._with_main)

    async def _stop(self, target: int | str, reason: Any, limit: Any, asker: int = 0) -> None:
        child = self._find(target)
        _check_limit(limit)
        if child is not None:
            await self._supervision.stop(child, _reason(reason), limit)
        elif isinstance(target, str):
            raise NoServerError(repr(target))

    async def _exit(self, target: int | str, reason: ExitReason) -> None:
        child = self._find(target)
        if child is not None:
            self._signals.exit(child, reason)
        elif isinstance(target, str):
            raise NoServerError(repr(target))

    async def _stop_supervisor(
        self, where: int | str, reason: Any, limit: Any, asker: int = 0
    ) -> None:
        branch = self._supervisors.find(where)
        _check_limit(limit)
        if branch is not None:
            await self._supervision.stop(branch, _reason(reason), limit)
        elif isinstance(where, str):
            self._supervisors.get(where)

    def servers(self) -> list[Child]:
        """Return the servers that there are."""
        return list(self._directory)

    async def _whereis(self, name: str) -> list[Any] | None:
        child = self._find(name)
        return None if child is None or child.is_over else [child.sid, child.label]

    async def _is_running(self, target: int | str) -> bool:
        member = self._find(target) or self._supervisors.find(target)
        return member is not None and member.state == "running"

    async def _names(self) -> list[str]:
        return self._directory.names()

    async def _ps(self) -> list[dict[str, Any]]:
        return [
            {
                "sid": child.sid,
                "id": child.id,
                "path": child.path,
                "name": child.name,
                "server": child.label,
                "state": child.state,
                "placement": child.placement.name if child.placement else None,
                "os_pid": child.worker.os_pid if child.worker else None,
                "restarts": child.incarnation - 1,
                "dropped": child.dropped,
                "uptime": round(child.uptime(), 3),
            }
            for child in self._directory
        ]

    async def _exits(self, name: str | None = None) -> list[dict[str, Any]]:
        return [as_plain(report) for report in self._supervision.exits.of(name)]

    def _find(self, target: int | str) -> Child | None:
        if isinstance(target, int):
            return self._directory.get(target)
        found = self._directory.named(target)
        if found is None and target.startswith("/"):
            found = self._supervisors.at_path(target)
        return found if isinstance(found, Child) else None

    def give_up_error(self, report: ExitReport) -> MaxRestartsExceededError:
        """Return the error of a tree that gave up."""
        top = self._supervision.top
        assert top is not None
        return MaxRestartsExceededError(top.title, *top.limits, report)


def _check_limit(limit: Any) -> None:
    if limit is not None and limit != "brutal_kill" and not isinstance(limit, int | float):
        raise ConfigError(f"expected seconds, None or 'brutal_kill' as limit, got {limit!r}")


def _reason(said: Any) -> ExitReason:
    """Return why a server is to stop; a program outside of the node can only say it in words."""
    return said if isinstance(said, get_args(ExitReason)) else Shutdown(str(said))
