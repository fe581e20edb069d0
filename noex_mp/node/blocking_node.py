"""`BlockingNode`: a running node for a program without an event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar, overload

from typing_extensions import ParamSpec

from noex_mp.client.api import spawn_on, spec_of
from noex_mp.client.blocking import this_thread
from noex_mp.client.dead_letters import dead_letters_on, drop_on, retry_on
from noex_mp.client.events import Listener
from noex_mp.client.reports import RELOAD_TIMEOUT, exits_on, health_on, ps_on, reload_on
from noex_mp.core.dead_letters import DeadLetter
from noex_mp.core.gen_server import GenServer
from noex_mp.core.health import Health
from noex_mp.core.reasons import ExitReport
from noex_mp.core.ref import Ref
from noex_mp.core.reloaded import Reloaded
from noex_mp.core.specs import Spawnable
from noex_mp.node.listeners import BUFFER, BlockingEvents

__all__ = ["BlockingNode"]

S = TypeVar("S", bound=GenServer[Any, Any, Any])
P = ParamSpec("P")


class _Running(Protocol):
    """What of a `Node` is needed here."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str | None: ...
    def blocking_events(self, buffer: int = BUFFER) -> BlockingEvents: ...
    def on_event(self, callback: Listener, buffer: int = BUFFER) -> Callable[[], None]: ...
    def wait_blocking(self, timeout: float | None = None) -> None: ...
    def stop_blocking(self) -> None: ...


class BlockingNode:
    """A running node, in the hands of a program without an event loop: its methods block.

    ```python
    with Node(tree, name="shop") as node:
        Orders.place.sync(named("orders", Orders), "tea")
        node.wait()
    ```

    Inside the `with` it is the current node of this thread, and of every thread as long as it is
    the only node of the process.
    """

    def __init__(self, node: _Running) -> None:
        self._node = node

    @property
    def id(self) -> str:
        """The id that the refs of this node's servers carry."""
        return self._node.id

    @property
    def name(self) -> str | None:
        """What the command line calls it."""
        return self._node.name

    @overload
    def spawn(self, server: Spawnable[S], /) -> Ref[S]: ...
    @overload
    def spawn(self, server: Callable[P, S], /, *args: P.args, **kwargs: P.kwargs) -> Ref[S]: ...
    def spawn(self, server: Any, /, *args: Any, **kwargs: Any) -> Ref[Any]:
        """Start a server on this node; see `noex_mp.sync.spawn`."""
        spec = spec_of(server, args, kwargs)
        end = this_thread()
        return end.run(spawn_on(end.client(self.id), spec))

    def ps(self) -> list[dict[str, Any]]:
        """Return the servers of this node, each as plain values."""
        end = this_thread()
        return end.run(ps_on(end.client(self.id)))

    def events(self, buffer: int = BUFFER) -> BlockingEvents:
        """Return what happens from now on: `for event in node.events()`; see `Node.events`."""
        return self._node.blocking_events(buffer)

    def on_event(self, callback: Listener, buffer: int = BUFFER) -> Callable[[], None]:
        """Call a function with each event, in a thread of the node's own; see `Node.on_event`."""
        return self._node.on_event(callback, buffer)

    def exits(self, server: str | None = None) -> list[ExitReport]:
        """Return the last exit reports; see `Node.exits`."""
        end = this_thread()
        return end.run(exits_on(end.client(self.id), server))

    def health(self) -> Health:
        """Return how the node is; see `Node.health`."""
        end = this_thread()
        return end.run(health_on(end.client(self.id)))

    def reload(self, timeout: float | None = RELOAD_TIMEOUT) -> Reloaded:
        """Give all servers the code that stands in their files now; see `Node.reload`."""
        end = this_thread()
        return end.run(reload_on(end.client(self.id), timeout))

    def dead_letters(self) -> list[DeadLetter]:
        """Return the messages that are not delivered any more; see `Node.dead_letters`."""
        end = this_thread()
        return end.run(dead_letters_on(end.client(self.id)))

    def retry(self, letter: DeadLetter, timeout: float | None = 5.0) -> Any:
        """Send a dead letter's message again; see `Node.retry`."""
        end = this_thread()
        return end.run(retry_on(end.client(self.id), letter, timeout))

    def drop(self, letter: DeadLetter) -> None:
        """Forget a dead letter; see `Node.drop`."""
        end = this_thread()
        end.run(drop_on(end.client(self.id), letter))

    def wait(self, timeout: float | None = None) -> None:
        """Block until the node has been stopped, or its tree has ended, or gives up.

        Args:
            timeout: How long to wait, in seconds; None is for ever.

        Raises:
            MaxRestartsExceededError: Its children died more often than it allows.
            TimeoutError: The node still runs.
        """
        self._node.wait_blocking(timeout)

    def stop(self) -> None:
        """Stop all servers in reverse order, and the node; every call waits until it is done."""
        self._node.stop_blocking()
