"""The runtime for programs and threads without an event loop: everything here blocks.

```python
from noex_mp import sync

counter = sync.spawn(Counter, start=10)
Counter.increment.sync(counter, by=3)  # 13
```

The functions have the names of those in `noex_mp` that are awaited, and do the same; `whereis`
blocks nowhere, and is the same one. Registries, groups and pools have a `.sync` of their own. The
implicit node is one for the whole process: the first `spawn` starts it in the background, and it
ends with the interpreter or by `shutdown`. `with Node(tree) as node` starts one of your own, and
gives you a `BlockingNode`.

Any thread may call, many at once; each has connections of its own, which end with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar, overload

from typing_extensions import ParamSpec

from noex_mp.client import current
from noex_mp.client.api import (
    check_stop,
    module_to_preload,
    spawn_on,
    spec_of,
    stop_on,
)
from noex_mp.client.blocking import ThreadEnd, refuse_in_a_loop, this_thread
from noex_mp.client.monitors import Watch, exit_on, watch_on
from noex_mp.client.registry import whereis
from noex_mp.core.gen_server import GenServer
from noex_mp.core.messages import Call, Down
from noex_mp.core.reasons import ExitReason
from noex_mp.core.ref import CALLBACK, Address, Ref
from noex_mp.core.specs import Spawnable, Tree

if TYPE_CHECKING:
    from noex_mp.client.blocking_supervisors import BlockingSupervisor
    from noex_mp.client.supervisors import SupervisorRef
    from noex_mp.node.blocking_node import BlockingNode
    from noex_mp.services.application import Application
    from noex_mp.services.blocking import BlockingApplication

__all__ = [
    "BlockingApplication",
    "BlockingNode",
    "BlockingSupervisor",
    "call",
    "cast",
    "current_node",
    "exit",
    "is_running",
    "shutdown",
    "spawn",
    "start_application",
    "start_supervisor",
    "stop",
    "stop_applications",
    "supervisor",
    "watch",
    "whereis",
]

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")
S = TypeVar("S", bound=GenServer[Any, Any, Any])


@overload
def spawn(server: Spawnable[S], /) -> Ref[S]: ...
@overload
def spawn(server: Callable[P, S], /, *args: P.args, **kwargs: P.kwargs) -> Ref[S]: ...
def spawn(server: Any, /, *args: Any, **kwargs: Any) -> Ref[Any]:
    """Start a server in a worker process of its own, and return its address.

    It runs on the current node: that of the `with Node(...)` around this code, else the only
    one of this process, else the implicit one, which is started. In a thread of a server, it is
    the server's own node.

    Args:
        server: The class, followed by the constructor's arguments; or `child(...)`, with
            options.

    Returns:
        The server's `Ref`, once its `init` has returned.

    Raises:
        NoNodeError: An event loop runs in this thread, or several nodes run and nothing says
            which one is meant.
        InitFailedError, InitTimedOutError, AlreadyRegisteredError, BadChildSpecError,
            NotImportableError, UnencodableError: As `noex_mp.spawn`.

    Example:
        ```python
        counter = sync.spawn(Counter, start=10)
        visits = sync.spawn(child(Counter).options(name="visits"))
        ```
    """
    end = _end("spawn")
    spec = spec_of(server, args, kwargs)
    node = current.node_of_thread() or _implicit_node(module_to_preload(spec))
    return end.run(spawn_on(end.client(node), spec))


def _implicit_node(preload: str | None = None) -> str:
    from noex_mp.node.implicit import blocking_implicit_node

    return blocking_implicit_node(preload)


def stop(ref: Ref[Any], reason: ExitReason | None = None, timeout: float | None = 5.0) -> None:
    """End a server for good, and return once it has ended; see `noex_mp.stop`.

    Args:
        reason: What `terminate` and the exit report are told; `Shutdown()` by default.
        timeout: How long the server may take, in seconds; then its process group gets
            SIGTERM, and SIGKILL after that. None waits without limit.

    Raises:
        NoServerError: It was given by name, and nobody has that name.
        NoNodeError: An event loop runs in this thread, or there is no node.
        ConfigError: The timeout is no time.
        TypeError: That is no `Ref`, or no exit reason.
    """
    end = _end("stop")
    check_stop(ref, reason, timeout)
    client = end.client(ref.node or None)
    with contextlib.suppress(TimeoutError):
        end.run(client.drained(ref), timeout)
    end.run(stop_on(client, ref, reason, timeout))


def exit(ref: Ref[Any], reason: ExitReason) -> None:  # noqa: A001 - it is `Ref.exit`
    """Send a server an exit signal; `await ref.exit(reason)` without a loop.

    Raises:
        NoNodeError: An event loop runs in this thread, or there is no node.
        NoServerError: It was given by name, and nobody has that name.
        TypeError: That is no exit reason.
    """
    end = _end("exit")
    end.run(exit_on(end.client(ref.node or None), ref, reason))


def watch(ref: Address) -> Iterator[Down]:
    """Watch a server, from now on: yield a `Down` for each of its ends; see `noex_mp.watch`.

    Raises:
        NoNodeError: An event loop runs in this thread, or there is no node.
        NodeDownError: The node is gone; also while iterating.

    Example:
        ```python
        for down in sync.watch(counter):
            print(down.reason, "restarts" if down.restart else "is gone")
        ```
    """
    end = _end("watch")
    return _ends_of(end, watch_on(end.client(ref.node or None), ref))


def _ends_of(end: ThreadEnd, ends: Watch) -> Iterator[Down]:
    try:
        while True:
            yield end.run(ends.__anext__())
    except StopAsyncIteration:
        return
    finally:
        ends.close()


def supervisor(name: str | SupervisorRef) -> BlockingSupervisor:
    """Return a supervisor of the current node; its methods block. See `noex_mp.supervisor`.

    Args:
        name: Its name, or the path of ids that leads to it; or its address.

    Example:
        ```python
        room = sync.supervisor("rooms").start_child(child(Room, "lobby"))
        ```
    """
    from noex_mp.client.blocking_supervisors import BlockingSupervisor
    from noex_mp.client.supervisors import supervisor

    return BlockingSupervisor(supervisor(name) if isinstance(name, str) else name)


def start_supervisor(tree: Tree) -> BlockingSupervisor:
    """Start a supervisor, with all that stands in it; return it. See `noex_mp.start_supervisor`.

    Raises:
        NoNodeError: An event loop runs in this thread, or several nodes run and nothing says
            which one is meant.
        BadChildSpecError, AlreadyRegisteredError, InitFailedError, InitTimedOutError: As
            `noex_mp.start_supervisor`.

    Example:
        ```python
        front = sync.start_supervisor(Supervisor(child(Cache), child(Web), name="front"))
        front.stop()
        ```
    """
    end = _end("start_supervisor")
    from noex_mp.client.blocking_supervisors import BlockingSupervisor
    from noex_mp.client.supervisors import start_supervisor_on

    client = end.client(current.node_of_thread() or _implicit_node())
    return BlockingSupervisor(end.run(start_supervisor_on(client, tree)))


def start_application(application: Application[C]) -> BlockingApplication[C]:
    """Start an application, and before it what it depends on. See `noex_mp.start_application`.

    Raises:
        NoNodeError: An event loop runs in this thread, or several nodes run and nothing says
            which one is meant.
        AlreadyRegisteredError, BadChildSpecError, BadConfigError, InitFailedError,
            InitTimedOutError: As `noex_mp.start_application`.

    Example:
        ```python
        shop = sync.start_application(shop_application)
        shop.wait()
        ```
    """
    _end("start_application")
    from noex_mp.services.blocking import start_application

    return start_application(application)


def stop_applications() -> None:
    """Stop all applications that were started with `sync.start_application`, the last first.

    Raises:
        NoNodeError: An event loop runs in this thread.
    """
    _end("stop_applications")
    from noex_mp.services.blocking import stop_applications

    stop_applications()


def is_running(ref: Ref[Any]) -> bool:
    """Ask the root whether the server is up; `await ref.is_running()` without a loop.

    Raises:
        NoNodeError: An event loop runs in this thread, or there is no node.
    """
    end = _end("is_running")
    return end.run(current.is_running_on(end.client(ref.node or None), ref))


@overload
def call(ref: Ref[Any], request: Call[R]) -> R: ...
@overload
def call(ref: Ref[Any], request: object) -> Any: ...
def call(ref: Ref[Any], request: object) -> Any:
    """Send a request to the server's `handle_call`, and return the reply.

    `await ref.call(request)` without a loop.

    Raises:
        NoNodeError: An event loop runs in this thread, or there is no node.
        UnencodableError: The request cannot be sent.

    Example:
        ```python
        top = sync.call(stack, Pop())
        ```
    """
    return this_thread().invoke(ref, CALLBACK, (request,), {})


def cast(ref: Ref[Any], message: object) -> None:
    """Send a message to the server's `handle_cast`; return when the sender's window has taken it.

    `await ref.cast(message)` without a loop.

    Raises:
        NoNodeError: An event loop runs in this thread, or there is no node.
        UnencodableError: The message cannot be sent.
    """
    this_thread().cast(ref, CALLBACK, (message,), {})


def current_node() -> BlockingNode:
    """Return the node of this thread: that of the `with Node(...)` around it, else the only one.

    Raises:
        NoNodeError: An event loop runs in this thread, or there is no node.

    Example:
        ```python
        counter = sync.spawn(Counter)
        sync.current_node().on_event(lambda event: print(event.kind, event.server))
        ```
    """
    _end("current_node")
    from noex_mp.node.implicit import blocking_current_node

    return blocking_current_node()


def shutdown() -> None:
    """Stop the implicit node of the threads without an event loop, if there is one.

    Raises:
        NoNodeError: An event loop runs in this thread.
    """
    _end("shutdown")
    from noex_mp.node.implicit import blocking_shutdown

    blocking_shutdown()


def _end(name: str) -> ThreadEnd:
    refuse_in_a_loop(f"noex_mp.sync.{name}", f"Await noex_mp.{name}(...) instead.")
    return this_thread()


def __getattr__(name: str) -> Any:
    # The root's side of things is loaded when somebody starts a node.
    if name == "BlockingNode":
        from noex_mp.node.blocking_node import BlockingNode

        return BlockingNode
    if name == "BlockingApplication":
        from noex_mp.services.blocking import BlockingApplication

        return BlockingApplication
    if name == "BlockingSupervisor":
        from noex_mp.client.blocking_supervisors import BlockingSupervisor

        return BlockingSupervisor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
