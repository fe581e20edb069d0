"""`Node`: the runtime in somebody's program.

The control plane gets a thread and an event loop of its own, so that a blocked loop of the user's
delays neither a restart nor the command line. The user's loop is a client like any other: its
calls go straight to the workers.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import os
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from contextvars import Token
from dataclasses import replace
from functools import partial
from time import monotonic
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar, overload

from typing_extensions import ParamSpec

from noex_mp.client import current
from noex_mp.client.api import (
    allowed_cpus,
    entry_to_wire,
    servers_of,
    servers_of_wire,
    spawn_on,
    spec_of,
)
from noex_mp.client.blocking import catch_up, refuse_in_a_loop, this_thread
from noex_mp.client.dead_letters import dead_letters_on, drop_on, retry_on
from noex_mp.client.events import Event, EventKind, Listener, Wants
from noex_mp.client.local_names import LocalNames
from noex_mp.client.registry import Registry
from noex_mp.client.reports import RELOAD_TIMEOUT, exits_on, health_on, ps_on, reload_on
from noex_mp.core.dead_letters import DeadLetter
from noex_mp.core.gen_server import GenServer
from noex_mp.core.health import Health
from noex_mp.core.reasons import ExitReport
from noex_mp.core.ref import Ref
from noex_mp.core.registrations import GROUPS
from noex_mp.core.reloaded import Reloaded
from noex_mp.core.specs import Spawnable, Tree
from noex_mp.errors import ConfigError, NodeDownError
from noex_mp.node import shortages
from noex_mp.node.blocking_node import BlockingNode
from noex_mp.node.clients import Clients
from noex_mp.node.config import RootConfig
from noex_mp.node.control_socket import check_name
from noex_mp.node.event_log import EventLog
from noex_mp.node.listeners import BUFFER, BlockingEvents, EventStream, Listeners
from noex_mp.node.output import OurOutput, Sink
from noex_mp.node.preloading import refuse_while_preloading
from noex_mp.node.registry_files import SavedRegistry
from noex_mp.node.root import Root
from noex_mp.supervision.validate import validate
from noex_mp.transport import fds
from noex_mp.transport.loops import keep_apart, new_event_loop
from noex_mp.wire.classes import goes_by_name
from noex_mp.wire.codec import Encoder

__all__ = ["Node", "running"]

S = TypeVar("S", bound=GenServer[Any, Any, Any])
P = ParamSpec("P")

# How long the servers may take to stop when a program just ends, in seconds.
EXIT_PATIENCE: Final = 5.0

# What pools need in each of their processes, whose node may be up before anybody wants a pool. By
# name: pools stand on nodes.
ANYWAY: Final = ("noex_mp.pools.lane",)

_NOT_STARTED: Final = "this node has not been started"

#: The nodes of this process that have been started and not stopped.
running: Final[set[Node]] = set()


class Node:
    """A supervision tree and everything that runs it.

    ```python
    async with Node(tree, name="shop") as node:
        await Orders.place(named("orders", Orders), "tea")
        await node.wait()
    ```

    A node can be started once. Inside the `async with` it is the current node: `spawn` starts
    servers there. A program without an event loop writes `with Node(tree) as node`, and gets a
    `BlockingNode`.

    Crashes, a tree that gives up and casts that are lost are logged by the logger `noex_mp`.
    """

    def __init__(
        self,
        tree: Tree | None = None,
        *,
        name: str | None = None,
        preload: Sequence[str] = (),
        allow_native_threads: Sequence[str] = (),
        pickle: bool = True,
        core_dumps: bool = False,
        debug: bool = False,
        latency: Literal["spin"] | None = None,
        persist: Mapping[Registry, str | os.PathLike[str]] | None = None,
    ) -> None:
        """Describe a node; nothing starts yet.

        Args:
            tree: What to start; None starts nothing but what is spawned.
            name: What the command line calls it (`noex-mp ps --node NAME`). None opens no
                control socket.
            preload: Modules that are imported once, before the first worker is forked; those of
                the tree's servers are, anyway. `"__main__"` stands for the program's script.
            allow_native_threads: Modules that may leave native threads behind when they are
                imported, and threads, by name. Each is a risk: threads do not survive a fork.
            pickle: Whether arguments of types that nothing else covers are pickled.
            core_dumps: Whether a crashing worker may write a core file.
            debug: Whether exit reports hold the arguments of the message that had begun, cut. Each
                message pays for that, and reports go to logs: think of secrets.
            latency: `"spin"` halves the time of a lone call, and more: whoever has sent one looks
                for the answer for a moment (100 µs at most) instead of going to sleep. It pays
                where cores are idle, and gives up where it does not. None: sleep at once.
            persist: Registries that are to outlive the node, each with its file. Servers with a
                name get back what they had registered there when they are ready in the next node.

        Raises:
            ConfigError: There is no such latency, or that can be no name, or no registry.
        """
        if name is not None:
            check_name(name, 'name="shop"')
        if latency not in (None, "spin"):
            raise ConfigError(f'expected latency to be "spin" or None, got {latency!r:.60}')
        self._spin = latency is not None
        self._persist = _saved(persist or {})
        self.tree = tree
        self.name = name
        self._preload = tuple(preload)
        self._allow_native_threads = tuple(allow_native_threads)
        self._pickle = pickle
        self._core_dumps = core_dumps
        self._debug = debug
        self._root: Root | None = None
        self._os_pid = 0
        self._output = OurOutput()
        self._log = EventLog()
        self._listeners = Listeners()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._clients: Clients | None = None
        self._token: Token[str | None] | None = None
        self._stopping: concurrent.futures.Future[None] | None = None
        self._is_up = False
        # How the tree gave up; None if it did not before the node was stopped.
        self._over: concurrent.futures.Future[ExitReport | None] = concurrent.futures.Future()

    # --- as a value --------------------------------------------------------------------

    def root_config(
        self,
        *,
        sink: Sink,
        listener: Listener = lambda event: None,
        wants: Wants = lambda kind: True,
        name: str | None = None,
    ) -> RootConfig:
        """Return what a root needs to know of this node; for `noex-mp run`.

        Args:
            sink: Gets what workers print.
            listener: Hears of events, besides those who listen to the node.
            wants: Which events it wants.
            name: What the CLI calls the node, if not as the node says.
        """
        # What is executed afresh is not preloaded: perhaps it cannot live with a fork.
        specs = servers_of(self.tree) if self.tree else ()
        servers = [spec.server for spec in specs if spec.start != "exec"]
        names = [server.__module__ for server in servers if goes_by_name(server)]
        # First ours: a thread that a module leaves may begin only while the next is imported.
        modules = dict.fromkeys((*ANYWAY, *self._preload, *names))
        return RootConfig(
            name=name or self.name,
            preload=[module for module in modules if module != "__main__"],
            with_main="__main__" in modules,
            allow_native_threads=self._allow_native_threads,
            allow_pickle=self._pickle,
            core_dumps=self._core_dumps,
            debug=self._debug,
            spin=self._spin,
            has_tree=self.tree is not None,
            persist=self._persist,
            sink=sink,
            listener=partial(self._hear, listener),
            wants=partial(self._wants, wants),
        )

    def _hear(self, listener: Listener, event: Event) -> None:
        self._listeners.hear(event)
        listener(event)

    def _wants(self, wants: Wants, kind: EventKind) -> bool:
        return wants(kind) or self._listeners.is_anybody_there

    def close_listeners(self) -> None:
        """End all streams of events; for `noex-mp run`. A node that stops does it by itself."""
        self._listeners.close()

    def wire_tree(self) -> dict[str, Any] | None:
        """Return the tree as plain values; None if there is none.

        Raises:
            BadChildSpecError: The tree has mistakes; the text lists all of them.
            UnencodableError: An argument cannot be sent.
        """
        if self.tree is None:
            return None
        validate(self.tree, allowed_cpus())
        encoder = Encoder(allow_pickle=self._pickle)
        tree = entry_to_wire(encoder, self.tree, self.tree.id or "root")
        _share_processes(list(servers_of_wire(tree)))
        return tree

    # --- start and stop ----------------------------------------------------------------

    async def start(self) -> Self:
        """Start the node and its tree; `async with` does it for you.

        Raises:
            BadChildSpecError: The tree has mistakes; nothing was started.
            PreloadError: The application could not be preloaded.
            StartError: A child did not start; those before it were stopped again.
        """
        self._listeners.use(asyncio.get_running_loop())
        root = self._launch()
        try:
            await asyncio.wrap_future(root)
        except BaseException:
            await self.stop()
            raise
        self._open()
        return self

    def start_blocking(self) -> BlockingNode:
        """Start the node from a thread without an event loop; `with` does it for you.

        Raises:
            BadChildSpecError, PreloadError, StartError: As `start`.
        """
        refuse_in_a_loop("with Node(...)", "Write async with Node(...) instead.")
        starting = self._launch()
        try:
            starting.result()
        except BaseException:
            starting.cancel()
            self.stop_blocking()
            raise
        self._open()
        return BlockingNode(self)

    def _open(self) -> None:
        self._is_up = True
        assert self._clients is not None
        assert self._root is not None
        names = LocalNames(self.id, self._root.names_fd(), allow_pickle=self._pickle)
        current.join(self.id, self._clients.of, names)

    def _launch(self) -> concurrent.futures.Future[None]:
        refuse_while_preloading()
        if self._thread is not None:
            raise ConfigError("this node was started before; make another")
        tree = self.wire_tree()
        self._os_pid = os.getpid()
        fds.open_standard_fds()
        config = self.root_config(sink=self._output, listener=self._log, wants=self._log.wants)
        config = replace(config, embedded=True)
        with shortages.told("the node", fds_needed=shortages.FDS_OF_A_NODE):
            self._loop = new_event_loop()
            keep_apart(self._loop)
            self._root = Root(self._loop, config)
        self._clients = Clients(
            self._connect, self._root.id, allow_pickle=self._pickle, spin=self._spin
        )
        self._root.ended.add_done_callback(lambda ended: self._set_over(ended.result()))
        self._thread = threading.Thread(target=self._run, name="noex-mp control", daemon=True)
        self._thread.start()
        running.add(self)
        starting = self._start_root(self._root, tree)
        return asyncio.run_coroutine_threadsafe(starting, self._loop)

    async def _start_root(self, root: Root, tree: dict[str, Any] | None) -> None:
        with shortages.told("the node", fds_needed=shortages.FDS_OF_A_NODE):
            await root.start()
        if tree is not None:
            await root.start_tree(tree)

    def _connect(self, sock: socket.socket, label: str, *, asks_again: bool) -> None:
        assert self._root is not None
        assert self._loop is not None
        connect = partial(self._root.connect, sock, label, asks_again=asks_again)
        self._loop.call_soon_threadsafe(connect)

    def _run(self) -> None:
        loop, root = self._loop, self._root
        assert loop is not None
        assert root is not None
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            loop.close()

    async def stop(self) -> None:
        """Stop all servers in reverse order, and the node; every call waits until it is done.

        What this event loop has sent to servers so far reaches them first.
        """
        if not self._is_ours_to_stop():
            return
        assert self._clients is not None
        client = self._clients.get(asyncio.get_running_loop())
        try:
            if client is not None:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(client.all_drained(), EXIT_PATIENCE)
            self._clients.forget_closed_loops()
        finally:
            # Also if this caller is cancelled: what has begun to stop goes on to its end.
            stopping = self._begin_stop()
        await asyncio.shield(asyncio.wrap_future(stopping))
        self._finish()

    def stop_blocking(self) -> None:
        """Stop the node from a thread without an event loop; as `stop`."""
        if not self._is_ours_to_stop():
            return
        assert self._clients is not None
        try:
            with contextlib.suppress(TimeoutError, NodeDownError):
                this_thread().run(this_thread().client(self.id).all_drained(), EXIT_PATIENCE)
            self._clients.forget_closed_loops()
        finally:
            stopping = self._begin_stop()
        stopping.result()
        self._finish()
        catch_up()

    def _is_ours_to_stop(self) -> bool:
        # In a fork of the program, too, a `with Node(...)` ends: the node is the parent's.
        return self._thread is not None and self._os_pid == os.getpid()

    def _begin_stop(self) -> concurrent.futures.Future[None]:
        assert self._root is not None
        assert self._loop is not None
        if self._stopping is None:
            self._stopping = asyncio.run_coroutine_threadsafe(self._root.stop(), self._loop)
        return self._stopping

    def _finish(self) -> None:
        assert self._root is not None
        assert self._loop is not None
        assert self._clients is not None
        if self not in running:
            return
        running.discard(self)
        self._set_over(None)
        current.leave(self._root.id)
        self._clients.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        if self._thread is not None:
            self._thread.join()
        self._listeners.close()
        self._log.close()
        self._output.close()

    def stop_at_exit(self) -> None:
        """Stop the node from a program that is about to end, within 5 s."""
        end = monotonic() + EXIT_PATIENCE
        assert self._clients is not None
        self._clients.flush_idle_loops()
        try:
            self._begin_stop().result(max(0.0, end - monotonic()))
        except TimeoutError:
            # The lifeline ends what is left.
            return
        self._finish()
        catch_up()

    async def wait(self) -> None:
        """Wait until the node has been stopped, or its tree has ended, or gives up.

        Raises:
            MaxRestartsExceededError: Its children died more often than it allows.
            NodeDownError: It has not been started, or did not start.
        """
        self._refuse_unless_launched()
        self._raise_if_given_up(await asyncio.shield(asyncio.wrap_future(self._over)))

    def wait_blocking(self, timeout: float | None = None) -> None:
        """As `wait`, from a thread without an event loop.

        Raises:
            MaxRestartsExceededError: Its children died more often than it allows.
            NodeDownError: It has not been started, or did not start.
            TimeoutError: That took more than `timeout` seconds.
        """
        self._refuse_unless_launched()
        self._raise_if_given_up(self._over.result(timeout))

    def _refuse_unless_launched(self) -> None:
        if self._thread is None:
            raise NodeDownError(_NOT_STARTED)

    def _raise_if_given_up(self, report: ExitReport | None) -> None:
        if report is not None:
            assert self._root is not None
            raise self._root.give_up_error(report)
        if not self._is_up:
            # Somebody waited already while it was starting, or asks after that.
            raise NodeDownError(_NOT_STARTED)

    def _set_over(self, report: ExitReport | None) -> None:
        if not self._over.done():
            self._over.set_result(report)

    async def __aenter__(self) -> Self:
        await self.start()
        assert self._root is not None
        self._token = current.current.set(self._root.id)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave_context()
        await self.stop()

    def __enter__(self) -> BlockingNode:
        node = self.start_blocking()
        self._token = current.current.set(node.id)
        return node

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave_context()
        self.stop_blocking()

    def _leave_context(self) -> None:
        if self._token is not None:
            with contextlib.suppress(ValueError):
                current.current.reset(self._token)

    # --- use ---------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """The id that the refs of this node's servers carry.

        Raises:
            NodeDownError: The node has not been started.
        """
        if self._root is None:
            raise NodeDownError(_NOT_STARTED)
        return self._root.id

    @overload
    async def spawn(self, server: Spawnable[S], /) -> Ref[S]: ...
    @overload
    async def spawn(
        self, server: Callable[P, S], /, *args: P.args, **kwargs: P.kwargs
    ) -> Ref[S]: ...
    async def spawn(self, server: Any, /, *args: Any, **kwargs: Any) -> Ref[Any]:
        """Start a server on this node; see `noex_mp.spawn`."""
        return await spawn_on(current.client(self.id), spec_of(server, args, kwargs))

    async def ps(self) -> list[dict[str, Any]]:
        """Return the servers of this node, each as plain values."""
        return await ps_on(current.client(self.id))

    def events(self, buffer: int = BUFFER) -> EventStream:
        """Return what happens to servers and supervisors, from now on, as a stream.

        It ends when the node has stopped, after the last event. A node that has not been started
        yet may be listened to as well.

        Args:
            buffer: How many events may wait for you. If you are slower than they come, the oldest
                are lost, and the next one that you get says how many: `Event.missed`.

        Raises:
            ConfigError: The buffer has no room for an event.

        Example:
            ```python
            async for event in node.events():
                if event.kind == "crashed":
                    print(event.server, event.report.summary)
            ```
        """
        return self._listeners.stream(buffer)

    def blocking_events(self, buffer: int = BUFFER) -> BlockingEvents:
        """As `events`, for a thread without an event loop: `for event in ...`."""
        return self._listeners.blocking(buffer)

    def on_event(self, callback: Listener, buffer: int = BUFFER) -> Callable[[], None]:
        """Call a function with each event, from now on; return a function that ends that.

        It is called in the event loop that the node was started in. In a program without one,
        and under `noex-mp run`, a thread calls all the callbacks of the node, one after the
        other. One that raises is logged, and called again with the next event.

        Args:
            callback: Takes an `Event`; no coroutine function.
            buffer: As in `events`.

        Raises:
            ConfigError: The buffer has no room for an event.
            TypeError: That cannot be called, or is a coroutine function.

        Example:
            ```python
            stop_listening = node.on_event(lambda event: print(event.kind, event.server))
            ```
        """
        return self._listeners.call(callback, buffer)

    async def exits(self, server: str | None = None) -> list[ExitReport]:
        """Return the last exit reports, the newest last: 200, and at most 10 of one server.

        Args:
            server: Only those of this one: its name, path of ids, id or os pid. None means all.

        Example:
            ```python
            for report in await node.exits("visits"):
                print(report.text)
            ```
        """
        return await exits_on(current.client(self.id), server)

    async def reload(self, timeout: float | None = RELOAD_TIMEOUT) -> Reloaded:
        """Give all servers the code that stands in their files now, one by one, while they serve.

        Each handles what has arrived, ends with `Replaced()`, and starts again; who calls it
        meanwhile waits. The program's own modules stay as they are. One reload comes after the
        other.

        Args:
            timeout: How long the import of the new code may take, in seconds; None means as long
                as it takes.

        Returns:
            How many servers were replaced, and who runs on with the old code.

        Raises:
            PreloadError: The new code cannot be imported, or not in time; nothing was replaced.
            ReloadFailedError: A server did not start with it; all have the old code again.
            NodeDownError: The node has been stopped.

        Example:
            ```python
            done = await node.reload()
            print(f"{done.replaced} servers have the new code")
            ```
        """
        return await reload_on(current.client(self.id), timeout)

    async def health(self) -> Health:
        """Return how the node is: whether its tree has started and its applications run.

        Example:
            ```python
            if not (found := await node.health()).ready:
                print(found.not_ready)
            ```
        """
        return await health_on(current.client(self.id))

    async def dead_letters(self) -> list[DeadLetter]:
        """Return the messages that are not delivered any more, the oldest first.

        A call to an operation marked `@call(idempotent=True)` becomes one when its server has ended
        in the middle of it three times, or as often as its `max_deliveries` says.

        Example:
            ```python
            for letter in await node.dead_letters():
                print(letter.summary)
            ```
        """
        return await dead_letters_on(current.client(self.id))

    async def retry(self, letter: DeadLetter, timeout: float | None = 5.0) -> Any:
        """Send a dead letter's message again, to the same server, and return the reply.

        Its deliveries are counted anew. Once the reply has come the letter is forgotten; if the
        server ends of it as often as before, it stays what it is, under its number.

        Args:
            letter: What `dead_letters` returns, or a `dead_letter` event has.
            timeout: How long to wait for the reply, in seconds; None is for ever.

        Raises:
            NoDeadLetterError: It is not there any more, or too large to be kept.
            PoisonedMessageError: The server ended of it again.
            NoServerError, CallTimedOutError, ServerExitedError: As of any call.
        """
        return await retry_on(current.client(self.id), letter, timeout)

    async def drop(self, letter: DeadLetter) -> None:
        """Forget a dead letter. To drop one that is not there any more is no error."""
        await drop_on(current.client(self.id), letter)


def _saved(persist: Mapping[Registry, str | os.PathLike[str]]) -> dict[str, SavedRegistry]:
    """Return which registry is in which file.

    Raises:
        ConfigError: One is no registry of the user's.
    """
    saved: dict[str, SavedRegistry] = {}
    for registry, path in persist.items():
        is_one = isinstance(registry, Registry)  # pyright: ignore[reportUnnecessaryIsInstance]
        if not is_one or not registry.name or registry.name == GROUPS:
            raise ConfigError(
                f"persist takes registries of yours, each with its file, got {registry!r:.60}\n"
                f'Write persist={{Registry("rooms"): "rooms.registry"}}.'
            )
        is_unique = registry.keys == "unique"
        saved[registry.name] = SavedRegistry(registry.name, is_unique, os.path.abspath(path))
    return saved


def _share_processes(children: list[dict[str, Any]]) -> None:
    """Let each member of a placement ask for what any of them asks of their process."""
    asked: dict[str, dict[str, Any]] = {}
    for child in children:
        if child["placement"] is not None:
            asked.setdefault(child["placement"], {}).update(child["process"] or {})
    for child in children:
        if child["placement"] is not None:
            child["process"] = asked[child["placement"]] or None


os.register_at_fork(after_in_child=running.clear)


@atexit.register
def _stop_all_at_exit() -> None:
    for node in list(running):
        node.stop_at_exit()
