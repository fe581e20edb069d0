"""A node whose events and output a test can wait for, and the event loops to try it on."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import os
import select
import signal
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
import uvloop

from noex_mp import Node, Ref, Shutdown, child, spawn, whereis
from noex_mp.client.current import current
from noex_mp.client.events import Event, Listener, Wants
from noex_mp.node.config import RootConfig
from noex_mp.node.output import Sink
from noex_mp.node.workers import Worker
from noex_mp.transport.platform import FALLBACKS
from tests.servers.counters import Counter
from tests.servers.faulty import Start

SERVERS = ("tests.servers.counters", "tests.servers.faulty")


class ObservedNode(Node):
    """Keeps the events and the lines that its root hears of.

    Attributes:
        seen: All events so far.
        lines: What servers wrote to standard error.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        options.setdefault("preload", SERVERS)
        super().__init__(*args, **options)
        self.seen: list[Event] = []
        self.lines: list[str] = []
        self.look_from_here()

    def look_from_here(self) -> None:
        """Forget what there was to see so far, and tell the running loop of what comes."""
        self.seen.clear()
        self.lines.clear()
        self._user_loop = asyncio.get_running_loop()
        self._news = asyncio.Event()

    def root_config(
        self,
        *,
        sink: Sink,
        listener: Listener | None = None,
        wants: Wants | None = None,
        name: str | None = None,
    ) -> RootConfig:
        return super().root_config(sink=self._on_line, listener=self._on_event, name=name)

    def _on_event(self, event: Event) -> None:
        self._tell(self.seen, event)

    def _on_line(self, label: str, stream: str, line: bytes) -> None:
        if stream == "stderr":
            self._tell(self.lines, line.decode())

    def _tell(self, kept: list[Any], value: object) -> None:
        def note() -> None:
            kept.append(value)
            self._news.set()

        with contextlib.suppress(RuntimeError):
            self._user_loop.call_soon_threadsafe(note)

    async def event(self, kind: str, ref: Ref[Any] | None = None, nth: int = 1) -> Event:
        """Wait for the nth event of a kind, of one server or of all."""
        while True:
            found = [
                event
                for event in self.seen
                if event.kind == kind and (ref is None or event.sid == ref.sid)
            ]
            if len(found) >= nth:
                return found[nth - 1]
            self._news.clear()
            await self._news.wait()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds of what there is to hear."""
        while not holds():
            self._news.clear()
            await self._news.wait()

    async def line(self, text: str) -> str:
        """Wait for a line on standard error that holds `text`."""
        while True:
            for line in self.lines:
                if text in line:
                    return line
            self._news.clear()
            await self._news.wait()

    def worker_of(self, ref: Ref[Any]) -> Worker:
        """Return what the root knows of the process of a server, or of its start."""
        assert self._root is not None
        server = self._root._directory.get(ref.sid)  # pyright: ignore[reportPrivateUsage]
        assert server is not None
        assert server.worker is not None
        return server.worker

    def os_pid_of(self, ref: Ref[Any]) -> int:
        """Return the process of a server, or of its start, without asking it."""
        return self.worker_of(ref).os_pid

    def kill(self, ref: Ref[Any]) -> int:
        """Kill a server's process from outside; return which it was."""
        os_pid = self.os_pid_of(ref)
        os.kill(os_pid, signal.SIGKILL)
        return os_pid

    @contextlib.asynccontextmanager
    async def stalled(self) -> AsyncGenerator[None]:
        """Let the root do nothing meanwhile; then it finds all that has come, at once."""
        assert self._root is not None
        go_on, stalls = threading.Event(), asyncio.Event()

        def stall() -> None:
            self._user_loop.call_soon_threadsafe(stalls.set)
            go_on.wait()

        self._root._loop.call_soon_threadsafe(stall)  # pyright: ignore[reportPrivateUsage]
        await stalls.wait()
        try:
            yield
        finally:
            go_on.set()

    @property
    def zygote(self) -> int:
        """The zygote's os pid."""
        assert self._root is not None
        zygote = self._root._zygotes.generation.zygote  # pyright: ignore[reportPrivateUsage]
        assert zygote is not None
        return zygote.os_pid

    @property
    def zygotes(self) -> set[int]:
        """The os pids of all zygotes, those of old code included."""
        assert self._root is not None
        return self._root._zygotes.os_pids  # pyright: ignore[reportPrivateUsage]

    @contextlib.asynccontextmanager
    async def lent(self) -> AsyncGenerator[Self]:
        """Be the current node, as if it were new; in the end it has no servers any more."""
        assert self._loop is not None
        assert self._clients is not None
        self.look_from_here()
        token = current.set(self.id)
        try:
            yield self
        finally:
            current.reset(token)
            ending = asyncio.run_coroutine_threadsafe(self._end_all_servers(), self._loop)
            await asyncio.wrap_future(ending)
            self._clients.close()
            # Once around, in which the client of this loop closes what it has open.
            await asyncio.sleep(0)

    async def _end_all_servers(self) -> None:
        """As the end of a node does it; in the root's loop."""
        assert self._root is not None
        stops = self._root._supervision._stops  # pyright: ignore[reportPrivateUsage]
        await stops.stop_everything(Shutdown("the test is over"))
        for worker in self._root._workers.all():  # pyright: ignore[reportPrivateUsage]
            worker.signal_group(signal.SIGKILL)
            await worker.dead


_lendable: dict[str, ObservedNode] = {}


@pytest.fixture(scope="module")
def shared_nodes(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run a node for a whole module, one on each event loop; `shared_node` lends it to a test."""
    if FALLBACKS:
        yield
        return
    module: object = request.node
    assert isinstance(module, pytest.Module)
    tries_both = hasattr(module.obj, "on_both_loops")
    with pytest.MonkeyPatch.context() as patch:
        for loop in {_runtime_loop(), *(("asyncio", "uvloop") if tries_both else ())}:
            patch.setenv("NOEX_MP_LOOP", loop)
            _lendable[loop] = asyncio.run(_start_node())
    yield
    while _lendable:
        asyncio.run(_lendable.popitem()[1].stop())


async def _start_node() -> ObservedNode:
    node = await ObservedNode().start()
    async with node.lent():
        # What a node opens at the first use of it and keeps, no test is to be blamed for.
        await spawn(child(Counter).options(name="first"))
        whereis("first", Counter)
    return node


def _runtime_loop() -> str:
    return os.environ.get("NOEX_MP_LOOP", "uvloop")


def shared_node() -> contextlib.AbstractAsyncContextManager[ObservedNode]:
    """Borrow the module's node: for a test that needs some node, and whose subject it is not.

    ```python
    pytestmark = pytest.mark.usefixtures("shared_nodes")

    async with shared_node() as node:
        counter = await spawn(Counter)
    ```
    """
    # With the fall-backs a node keeps a file open for each worker it has had at once, for which a
    # test would be blamed: there each has a node of its own.
    return ObservedNode() if FALLBACKS else _lendable[_runtime_loop()].lent()


def set_done(future: asyncio.Future[None]) -> None:
    """Set a future that may be done already."""
    if not future.done():
        future.set_result(None)


class Whistle:
    """A fifo with which a server tells the test that it has come to a place, or the reverse."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = str(path)
        # Open for both, so that neither side waits for the other, and no byte is lost.
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)

    async def heard(self) -> None:
        """Wait until a server blows it."""
        loop = asyncio.get_running_loop()
        heard: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._fd, set_done, heard)
        try:
            await heard
        finally:
            loop.remove_reader(self._fd)
        os.read(self._fd, 1)

    def wait(self) -> None:
        """The same, and the event loop stands still meanwhile."""
        select.select([self._fd], [], [])
        os.read(self._fd, 1)

    def blow(self, times: int = 1) -> None:
        """Let servers go on that listen to it."""
        os.write(self._fd, b"x" * times)

    def close(self) -> None:
        os.close(self._fd)


class Whistles:
    """Makes whistles in a test's folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: list[Whistle] = []

    def __call__(self, name: str = "") -> Whistle:
        whistle = Whistle(self._folder / (name or f"whistle-{len(self._made)}"))
        self._made.append(whistle)
        return whistle

    def close(self) -> None:
        for whistle in self._made:
            whistle.close()


@pytest.fixture
def whistles(tmp_path: Path) -> Iterator[Whistles]:
    made = Whistles(tmp_path)
    yield made
    made.close()


async def stuck_in_its_restart(node: ObservedNode, folder: Path, whistles: Whistles) -> Ref[Start]:
    """Return a server that has died, and whose second start loops for ever in its `init`."""
    in_init = whistles("marker.fifo")
    spec = child(Start, how="loop unless first", marker=str(folder / "marker"))
    start = await spawn(spec.options(init_timeout=None))
    await Start.os_pid(start)
    node.kill(start)
    await in_init.heard()
    return start


Test = Callable[..., Coroutine[Any, Any, None]]


def on_all_loops(test: Test) -> Callable[..., None]:
    """Run a test on asyncio and on uvloop, the user's loop and the runtime's: all four pairs."""
    run: Callable[..., None] = _on(
        "asyncio-asyncio", "asyncio-uvloop", "uvloop-asyncio", "uvloop-uvloop"
    )(test)
    return run


def on_both_loops(test: Test) -> Callable[..., None]:
    """Run a test on asyncio everywhere, and on uvloop everywhere."""
    run: Callable[..., None] = _on("asyncio-asyncio", "uvloop-uvloop")(test)
    return run


def _on(*pairs: str) -> Callable[[Test], Any]:
    def decorate(test: Test) -> Any:
        @pytest.mark.parametrize("loops", pairs)
        @functools.wraps(test)
        def run(loops: str, monkeypatch: pytest.MonkeyPatch, **fixtures: Any) -> None:
            ours, theirs = loops.split("-")
            monkeypatch.setenv("NOEX_MP_LOOP", theirs)
            factory = asyncio.new_event_loop if ours == "asyncio" else uvloop.new_event_loop
            with asyncio.Runner(loop_factory=factory) as runner:
                runner.run(test(**fixtures))

        # What pytest looks at to find out which fixtures the test takes.
        signature = inspect.signature(test)
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        extra = [inspect.Parameter(name, kind) for name in ("loops", "monkeypatch")]
        parameters = [*extra, *signature.parameters.values()]
        run.__dict__["__signature__"] = signature.replace(parameters=parameters)
        return run

    return decorate


async def kill_zygote(node: ObservedNode) -> None:
    """Kill it, and wait until it is dead."""
    old = node.zygote
    pidfd = os.pidfd_open(old)
    os.kill(old, signal.SIGKILL)
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    loop.add_reader(pidfd, set_done, ended)
    await ended
    loop.remove_reader(pidfd)
    os.close(pidfd)
