"""Monitors and links: how a server, or a program, hears of the end of another.

```python
class Cache(GenServer):
    def init(self) -> None:
        self.watching = monitor(self.source)

    def handle_info(self, message: Down) -> None:
        self.entries.clear()
```

A monitor only watches. A link is for two servers of which neither is of use without the other: the
end of one ends the other, unless that traps exits. Both mean one incarnation of a server: one that
was restarted is watched again with a new `monitor`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self, final, get_args

from noex_mp.client import current
from noex_mp.core.messages import Down, Exit, Monitor
from noex_mp.core.reasons import ExitReason, ExitReport
from noex_mp.core.ref import Address, Ref
from noex_mp.errors import NodeDownError, NoNodeError
from noex_mp.wire.envelopes import DEMONITOR, MONITOR

if TYPE_CHECKING:
    from noex_mp.client.client import Client

__all__ = [
    "Server",
    "Watch",
    "Watcher",
    "Watching",
    "current_server",
    "demonitor",
    "exit_on",
    "install",
    "link",
    "monitor",
    "trap_exits",
    "unlink",
    "watch",
    "watch_on",
]


class Watcher(Protocol):
    """Who hears of ends: a server, or the loop of a program."""

    def hear(self, messages: Sequence[Down | Exit]) -> None:
        """Take messages, behind what the server that has ended had sent before."""
        ...

    def unhear(self, monitor: Monitor) -> bool:
        """Drop the `Down` of a monitor that waits; return whether there was one."""
        ...

    def node_down(self) -> None:
        """Note that nothing more comes: the root is gone."""
        ...


class Server(Watcher, Protocol):
    """The server in whose name code runs.

    Attributes:
        sid: Its number in the node.
        incarnation: Which start of it this is.
    """

    @property
    def sid(self) -> int:
        """Its number in the node."""
        ...

    @property
    def incarnation(self) -> int:
        """Which start of it this is."""
        ...

    def link(self, other: Address) -> None:
        """Link it with another."""
        ...

    def unlink(self, other: Address) -> None:
        """Undo that."""
        ...

    def trap_exits(self, on: bool) -> bool:
        """Set whether it traps exits; return what was set before."""
        ...


def _no_server() -> Server | None:
    return None


_current_server: Callable[[], Server | None] = _no_server


def install(current_server: Callable[[], Server | None]) -> None:
    """Set how the server in whose name code runs is found. For the worker, when it starts."""
    global _current_server
    _current_server = current_server


def current_server() -> Server | None:
    """Return the server in whose name code runs, or None.

    Raises:
        NoNodeError: This is another thread of its process.
    """
    return _current_server()


class Watching:
    """The monitors of one client: who hears of what."""

    def __init__(self, post: Callable[[list[Any]], None]) -> None:
        self._post = post
        # Not from one: what another process has counted is to mean nothing here.
        self._numbers = itertools.count(int.from_bytes(os.urandom(6), "little"))
        # With whether it lasts.
        self._known: dict[int, tuple[Monitor, Watcher, bool]] = {}
        self._of: dict[Watcher, dict[int, None]] = {}

    def add(self, ref: Address, watcher: Watcher, *, is_lasting: bool = False) -> Monitor:
        """Let a watcher hear of the end of somebody."""
        monitor = Monitor(ref, next(self._numbers))
        self._known[monitor.number] = (monitor, watcher, is_lasting)
        self._of.setdefault(watcher, {})[monitor.number] = None
        self._post([MONITOR, monitor.number, ref.sid or ref.name, is_lasting])
        return monitor

    def remove(self, number: int, watcher: Watcher) -> bool:
        """Let a watcher not hear of it; return whether it would have."""
        known = self._known.get(number)
        if known is None or known[1] is not watcher:
            return False
        self._drop(number)
        self._post([DEMONITOR, number])
        return True

    def _drop(self, number: int) -> None:
        watcher = self._known.pop(number)[1]
        numbers = self._of[watcher]
        del numbers[number]
        if not numbers:
            del self._of[watcher]

    def forget(self, watcher: Watcher) -> None:
        """Note that a watcher has ended."""
        for number in list(self._of.get(watcher, ())):
            self.remove(number, watcher)

    def heard(self, frame: list[Any]) -> None:
        """Take the root's news of an end."""
        _, numbers, _, *news = frame
        of: dict[Watcher, list[int]] = {}
        for number in numbers:
            # Unless it was taken back while the news was on its way.
            if number in self._known:
                of.setdefault(self._known[number][1], []).append(number)
        for watcher, its in of.items():
            # One after the other: before the first hears, others in its process may run, and take
            # theirs back.
            messages = [self._down(number, *news) for number in its if number in self._known]
            if messages:
                watcher.hear(messages)

    def _down(
        self, number: int, reason: ExitReason, report: ExitReport | None, restart: int | None
    ) -> Down:
        monitor, _, is_lasting = self._known[number]
        if restart is None or not is_lasting:
            self._drop(number)
        return Down(monitor.ref, monitor, reason, report, restart)

    def node_down(self) -> None:
        """Note that nothing more comes: the root is gone."""
        watchers = list(self._of)
        self._known.clear()
        self._of.clear()
        for watcher in watchers:
            watcher.node_down()


def monitor(ref: Address) -> Monitor:
    """Watch a server: when it ends, a `Down` comes to the `handle_info` of the server that asks.

    It comes once, after everything that the watched server had sent, and says whether a restart
    follows. Where there is nothing to watch, its reason is `NoServer()`, and it comes at once. It
    is about the incarnation that runs now, or that comes if the server is just being restarted.
    To watch the same server twice gives two of them.

    Args:
        ref: The server, or a supervisor.

    Returns:
        What the `Down` carries, and `demonitor` takes.

    Raises:
        NoNodeError: This code runs in no server, or in another thread; in a program, use `watch`.
        NodeDownError: That is a server of another node.
        TypeError: That is nobody's address.

    Example:
        ```python
        self.watching = monitor(self.source)
        ```
    """
    server = _server("monitor", "In a program: async for down in watch(ref).")
    _check(ref, "monitor")
    return current.client(ref.node or None).watching.add(ref, server)


def demonitor(monitor: Monitor, *, flush: bool = False) -> bool:
    """Watch no more.

    Args:
        monitor: What `monitor` has returned.
        flush: Whether to drop a `Down` that has come and was not handled. Nothing of this monitor
            comes after that.

    Returns:
        Whether it still watched, or its `Down` was dropped. Of another server's it is False.

    Raises:
        NoNodeError: This code runs in no server, or in another thread.
        TypeError: That is no monitor.
    """
    server = _server("demonitor", "A watch ends with its close().")
    if not isinstance(monitor, Monitor):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"demonitor takes what monitor has returned, got {monitor!r:.60}")
    was_watching = current.client(monitor.ref.node or None).watching.remove(monitor.number, server)
    return was_watching or (flush and server.unhear(monitor))


def link(ref: Address) -> None:
    """Link the server that asks with another: the end of one is the end of the other.

    When one of them ends, the other ends with the reason `Linked(...)`, without its `terminate`
    unless the first was shut down. If it traps exits, an `Exit` comes to its `handle_info`.
    `Normal()` ends nobody else. All of a chain of links are told the first reason. If there is
    nobody to be linked to, the reason is `NoServer()`, at once.

    Two servers have one link at most; their supervisors do with either what they always do. After
    a restart there is no link: link in `init`. A supervisor is told nothing.

    Args:
        ref: The other server.

    Raises:
        NoNodeError: This code runs in no server, or in another thread.
        NodeDownError: That is a server of another node.
        TypeError: That is nobody's address.

    Example:
        ```python
        def init(self) -> None:
            link(self.connection)
        ```
    """
    server = _server("link", "In a program: async for down in watch(ref).")
    _check(ref, "link")
    current.client(ref.node or None)
    server.link(ref)


def unlink(ref: Address) -> None:
    """Undo `link`, from whichever side. To unlink what is not linked is no error.

    An `Exit` that has come and was not handled stays.

    Raises:
        NoNodeError: This code runs in no server, or in another thread.
        NodeDownError: That is a server of another node.
        TypeError: That is nobody's address.
    """
    server = _server("unlink", "Only servers have links.")
    _check(ref, "unlink")
    current.client(ref.node or None)
    server.unlink(ref)


def trap_exits(on: bool = True) -> bool:
    """Let exit signals come to the `handle_info` of the server that asks, as an `Exit`.

    It holds for this incarnation: say it in `init`.

    Args:
        on: Whether to trap them from now on.

    Returns:
        What was set before.

    Raises:
        NoNodeError: This code runs in no server, or in another thread.
    """
    return _server("trap_exits", "Only servers are sent exit signals.").trap_exits(on)


def watch(ref: Address) -> Watch:
    """Watch a server from a program: yield a `Down` for each of its ends, to the last.

    The watch begins with this call and ends with the last `Down`, with `close`, or with the object
    itself. Each `Down` comes after the replies that the server had sent.

    Args:
        ref: The server, or a supervisor.

    Raises:
        NoNodeError: There is no node here, or no event loop runs in this thread.
        NodeDownError: The node is gone; also while iterating.
        TypeError: That is nobody's address.

    Example:
        ```python
        async for down in watch(counter):
            print(down.reason, "restarts" if down.restart else "is gone")
        ```
    """
    return watch_on(current.client(_check(ref, "watch").node or None), ref)


def watch_on(client: Client, ref: Address) -> Watch:
    """Watch a server of a client's node."""
    return Watch(client.loop, client.watching, ref)


class _Ends:
    """What has come for one `Watch`. The table of monitors keeps this alive, and not the watch."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        # Not an `asyncio.Event`: a thread without an event loop may be what waits.
        self._waiters: list[asyncio.Future[None]] = []
        self.waiting: deque[Down] = deque()
        self.is_over = False
        self.is_lost = False

    def hear(self, messages: Sequence[Down | Exit]) -> None:
        for message in messages:
            assert isinstance(message, Down)  # a program is sent no exit signals
            self.waiting.append(message)
            self.is_over = message.restart is None
        self.wake()

    def unhear(self, monitor: Monitor) -> bool:
        return False

    def node_down(self) -> None:
        self.is_lost = not self.is_over
        self.wake()

    def wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def change(self) -> None:
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        await waiter


@final
class Watch:
    """The ends of one server, as they come; see `watch`.

    Of several tasks that iterate, each end comes to one.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, watching: Watching, ref: Address) -> None:
        self._loop = loop
        self._watching = watching
        self._ends = _Ends(loop)
        self._number = watching.add(ref, self._ends, is_lasting=True).number

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Down:
        ends = self._ends
        while not ends.waiting:
            if ends.is_lost:
                raise NodeDownError("the node has stopped, so there is nobody to watch any more")
            if ends.is_over:
                raise StopAsyncIteration
            await ends.change()
        return ends.waiting.popleft()

    def close(self) -> None:
        """Watch no more; whoever iterates comes to the end."""
        self._watching.remove(self._number, self._ends)
        self._ends.is_over = True
        self._ends.wake()

    def __del__(self) -> None:
        # Perhaps in another thread, or when nothing runs any more.
        ends: _Ends | None = getattr(self, "_ends", None)
        if ends is not None and not ends.is_over and not ends.is_lost:
            with contextlib.suppress(Exception):
                self._loop.call_soon_threadsafe(self._watching.remove, self._number, ends)


def _server(name: str, otherwise: str) -> Server:
    server = _current_server()
    if server is None:
        raise NoNodeError(
            f"{name}() is for servers, in their init or a handler, and this is neither\n{otherwise}"
        )
    return server


def _check(ref: Address, function: str) -> Address:
    if isinstance(getattr(ref, "sid", None), int) and hasattr(ref, "node"):
        return ref
    raise TypeError(
        f"{function} takes a Ref, got {ref!r:.60}\nThat is what spawn(...) gave you, or named(...)."
    )


async def exit_on(client: Client, ref: Ref[Any], reason: ExitReason) -> None:
    """Send an exit signal to a server of a client's node.

    Raises:
        TypeError: That is no exit reason.
    """
    if not isinstance(reason, get_args(ExitReason)):
        raise TypeError(
            f"expected an exit reason, got {reason!r:.60}\n"
            f'Write for example exit(Crash("Stale", "its data are old")).'
        )
    await client.request("exit", ref.sid or ref.name, reason)
