"""Which client speaks for this code: the seam between a `Ref` and the client layer.

A `Ref` is a small value and knows the id of its node, nothing more. The first message to it
in an event loop comes here, and is given the route of that loop's client; the `Ref` keeps it.

A node (embedded in a program) and a worker both `join` here, each with a function that returns
the client of an event loop. `current_node` says which node is meant where a call names none:
the innermost `async with Node(...)`, the worker's own, else the implicit one, which
`start_implicit` starts on first use.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from noex_mp.core import ref as core_ref
from noex_mp.core.ref import Ref
from noex_mp.core.registrations import GLOBAL, IS_OWN
from noex_mp.core.running_loop import note_hidden, running_loop
from noex_mp.errors import NodeDownError, NoNodeError
from noex_mp.transport import fds

if TYPE_CHECKING:
    from noex_mp.client.client import Client
    from noex_mp.client.local_names import LocalNames
    from noex_mp.core.reasons import ExitReason
    from noex_mp.core.ref import Route
    from noex_mp.core.registrations import Claim

    ClientOf = Callable[[asyncio.AbstractEventLoop], Client]

__all__ = [
    "client",
    "client_on",
    "current",
    "is_running_on",
    "join",
    "leave",
    "node_of_thread",
    "set_implicit",
]

_clients: dict[str, ClientOf] = {}
_names: dict[str, LocalNames] = {}
_process_node: str | None = None
_implicit: Callable[[str | None, bool], Awaitable[str]] | None = None

#: The implicit node of each event loop that has one, by its id.
implicit: dict[asyncio.AbstractEventLoop, str] = {}

#: The innermost node of this context, by its id.
current: ContextVar[str | None] = ContextVar("noex_mp_node", default=None)


def join(node: str, client_of: ClientOf, names: LocalNames, *, whole_process: bool = False) -> None:
    """Make a node reachable from this process.

    Args:
        node: Its id.
        client_of: Returns the client of an event loop.
        names: Its registries.
        whole_process: It is the node of everything here: a worker's own.
    """
    global _process_node
    fds.call_in_forks(_forget_the_parents)
    _clients[node] = client_of
    _names[node] = names
    if whole_process:
        _process_node = node


def leave(node: str) -> None:
    """Forget a node that has ended."""
    _clients.pop(node, None)
    names = _names.pop(node, None)
    if names is not None:
        names.close()


def set_implicit(start: Callable[[str | None, bool], Awaitable[str]]) -> None:
    """Set the function that returns the id of the implicit node, and starts it if need be.

    It is given a module to preload, or None, and whether that is not necessary.
    """
    global _implicit
    _implicit = start


def is_worker() -> bool:
    """Return whether this process is a worker, with a node of its own around it."""
    return _process_node is not None


def client(node: str | None = None) -> Client:
    """Return the running loop's client of a node.

    Args:
        node: The node's id; None means the current one, which must exist.

    Raises:
        NoNodeError: There is no such node here, or no event loop runs in this thread.
        NodeDownError: The node has stopped.
    """
    loop = running_loop()
    if loop is None:
        if fds.forked() and not _clients:
            # Also where the parent's loop was running: it does not, in this process.
            raise _forked_error()
        raise NoNodeError(
            "there is no running event loop in this thread\n"
            "Call servers from a coroutine, or without a loop: Counter.get.sync(ref)."
        )
    node = node or current.get() or _process_node or implicit.get(loop)
    if node is None:
        raise NoNodeError(
            "there is no node here\nStart one: async with Node(...), or await spawn(...)."
        )
    return client_on(node, loop)


def client_on(node: str, loop: asyncio.AbstractEventLoop) -> Client:
    """Return a loop's client of a node.

    Raises:
        NoNodeError: This process was forked from that of the node.
        NodeDownError: The node has stopped.
    """
    client_of = _clients.get(node)
    if client_of is None and fds.forked():
        raise _forked_error()
    if client_of is None:
        raise NodeDownError(f"the node {node} has stopped, or is not of this process")
    return client_of(loop)


def local_names(node: str | None = None) -> LocalNames:
    """Return this process's copy of a node's registries, in any thread.

    Args:
        node: The node's id; None means the current one.

    Raises:
        NoNodeError: There is no node here, or several run and nothing says which one is meant.
        NodeDownError: The node has stopped.
    """
    node = node or current.get() or _process_node
    if node is None:
        loop = running_loop()
        node = (loop and implicit.get(loop)) or node_of_thread()
    found = _names.get(node or "")
    if found is not None:
        return found
    if fds.forked():
        raise _forked_error()
    if node is None:
        raise NoNodeError("there is no node here\nStart one: async with Node(...).")
    raise NodeDownError(f"the node {node} has stopped, or is not of this process")


def claimed_at_run_time(node: str, name: str) -> Claim | None:
    """Return who has claimed a name of a node at run time: not the child that is called so."""
    names = _names.get(node)
    table = names.table(GLOBAL) if names is not None else None
    claim = table.first(name) if table is not None else None
    return claim if claim is not None and not claim.flags & IS_OWN else None


def node_of_thread() -> str | None:
    """Return the node that a thread without an event loop means; None if none runs here.

    A thread does not inherit the `with Node(...)` of whoever has started it, so a node that is
    the only one of the process is meant by every thread.

    Raises:
        NoNodeError: Several run here, and nothing says which one is meant.
    """
    node = current.get() or _process_node
    if node is not None or not _clients:
        return node
    nodes = list(_clients)
    if len(nodes) > 1:
        raise NoNodeError(
            f"{len(nodes)} nodes run in this process, and this thread is in no `with Node(...)`\n"
            "Name the node: node.spawn(...), or pass the thread the Ref."
        )
    return nodes[0]


def _forked_error() -> NoNodeError:
    return NoNodeError(
        "this process was forked from one that has a node, and cannot use that node\n"
        "Start one here (async with Node(...)), or call from the parent."
    )


def _forget_the_parents() -> None:
    # In a child that the program has forked: its parent's nodes cannot be used here.
    global _process_node
    _clients.clear()
    _names.clear()
    implicit.clear()
    _process_node = None
    note_hidden(None)


async def client_or_implicit(preload: str | None = None, *, if_possible: bool = False) -> Client:
    """Return the running loop's client of the current node; start the implicit one if needed.

    Args:
        preload: A module that the implicit node imports ahead, if it is to be started.
        if_possible: It may do without that module.

    Raises:
        NoNodeError: The implicit node cannot be started here.
        PreloadError: The module cannot be imported ahead.
    """
    if (current.get() or _process_node) is not None:
        return client()
    if _implicit is None:
        raise NoNodeError("there is no node here\nStart one: async with Node(...).")
    return client(await _implicit(preload, if_possible))


async def is_running_on(its_client: Client, ref: Ref[Any]) -> bool:
    """Ask a client's root whether a server is up."""
    running: bool = await its_client.request("is_running", ref.sid or ref.name)
    return running


async def _is_running(ref: Ref[Any]) -> bool:
    return await is_running_on(client(ref.node or None), ref)


async def _send_exit(ref: Ref[Any], reason: ExitReason) -> None:
    # Few do: it is loaded then.
    from noex_mp.client.monitors import exit_on

    await exit_on(client(ref.node or None), ref, reason)


def _connect(ref: Ref[Any]) -> Any:
    its_client = client(ref.node or None)
    route = its_client.way_to(ref)
    if not ref.sid and claimed_at_run_time(its_client.node, ref.name or "") is not None:
        borrowed: Any = _Borrowed(route)
        return borrowed if ref.said is None else _Saying(borrowed, ref.said)
    return route if ref.said is None else _Saying(route, ref.said)


class _Borrowed:
    """The route of a ref by a name that was claimed at run time: the ref asks again each time."""

    thread = 0

    def __init__(self, route: Route) -> None:
        self.is_running = route.is_running
        self.invoke, self.cast, self.cast_nowait = route.invoke, route.cast, route.cast_nowait


class _Saying:
    """A route whose messages have some keyword arguments more."""

    def __init__(self, route: Route, said: dict[str, Any]) -> None:
        self._route = route
        self._said = said
        self.is_running = route.is_running

    @property
    def thread(self) -> int:
        return self._route.thread

    def invoke(
        self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any], timeout: float | None
    ) -> asyncio.Future[Any]:
        return self._route.invoke(operation, args, {**kwargs, **self._said}, timeout)

    def cast(
        self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any], timeout: float | None
    ) -> asyncio.Future[None]:
        return self._route.cast(operation, args, {**kwargs, **self._said}, timeout)

    def cast_nowait(
        self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any], timeout: float | None
    ) -> None:
        self._route.cast_nowait(operation, args, {**kwargs, **self._said}, timeout)


def _this_thread() -> Any:
    # It installs itself. Most programs have no use for it.
    from noex_mp.client import blocking

    return blocking.this_thread()


core_ref.install(_connect, _is_running, _send_exit)
core_ref.install_blocking(_this_thread)
