"""Which node is meant where none is named: the current one, and the implicit one of `spawn`."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from typing import Final

from noex_mp.client import current
from noex_mp.client.blocking import this_thread
from noex_mp.errors import NoNodeError, PreloadError
from noex_mp.node.blocking_node import BlockingNode
from noex_mp.node.node import Node, running
from noex_mp.node.preloading import has_main_guard, refuse_while_preloading
from noex_mp.transport.surroundings import Change, Surroundings
from noex_mp.wire.classes import MAIN

__all__ = [
    "blocking_current_node",
    "blocking_implicit_node",
    "blocking_shutdown",
    "change_since_start",
    "current_node",
    "implicit_node",
    "shutdown",
]

_log: Final = logging.getLogger("noex_mp")

_implicit: dict[asyncio.AbstractEventLoop, asyncio.Task[Node]] = {}
# That of the threads without an event loop: one for the process, which it outlives only in order.
_blocking_implicit: Node | None = None
_started_in: Surroundings | None = None
_blocking_implicit_lock = threading.Lock()
_guards: set[asyncio.Task[None]] = set()


async def implicit_node(preload: str | None = None, if_possible: bool = False) -> str:
    """Return the id of the running loop's implicit node, and start it on first use.

    Args:
        preload: A module that it imports ahead.
        if_possible: It may do without.

    Raises:
        PreloadError: The module cannot be imported ahead.
    """
    loop = asyncio.get_running_loop()
    starting = _implicit.get(loop)
    if starting is None:
        refuse_while_preloading()
        starting = _implicit[loop] = loop.create_task(_start(preload, if_possible))
        guard = loop.create_task(_stop_with_loop(starting), name="noex-mp implicit node")
        _guards.add(guard)
        guard.add_done_callback(_guards.discard)
    try:
        node = await asyncio.shield(starting)
    finally:
        # Not if only this caller was cancelled: others wait for it too. Nor if one of them has
        # begun to start another.
        failed = starting.done() and (starting.cancelled() or starting.exception())
        if failed and _implicit.get(loop) is starting:
            _implicit.pop(loop)
    current.implicit[loop] = node.id
    return node.id


async def _start(preload: str | None, if_possible: bool) -> Node:
    if preload == MAIN and if_possible and not has_main_guard():
        preload = None
    try:
        return await _node(preload).start()
    except PreloadError as error:
        _do_without(preload, if_possible, error)
        return await _node(None).start()


def _node(preload: str | None) -> Node:
    return Node(preload=[] if preload is None else [preload])


def _do_without(module: str | None, if_possible: bool, error: PreloadError) -> None:
    if module is None or not if_possible:
        raise error
    what = "the script" if module == MAIN else module
    _log.warning("%s is not preloaded for the pool: %s", what, error)


async def _stop_with_loop(starting: asyncio.Task[Node]) -> None:
    # `asyncio.run` cancels all tasks when it ends: that is when the node stops.
    loop = asyncio.get_running_loop()
    try:
        node = await asyncio.shield(starting)
    except Exception:
        # Whoever asked for it has been told.
        return
    try:
        await loop.create_future()
    finally:
        _implicit.pop(loop, None)
        current.implicit.pop(loop, None)
        await node.stop()


def current_node() -> Node:
    """Return the node of this code: that of the `async with Node(...)` around it, or the implicit.

    Raises:
        NoNodeError: There is none in this process, or no event loop runs in this thread.

    Example:
        ```python
        counter = await spawn(Counter)
        current_node().on_event(lambda event: print(event.kind, event.server))
        ```
    """
    return _node_with(current.client().node)


def blocking_current_node() -> BlockingNode:
    """Return the node of a thread without an event loop; see `noex_mp.sync.current_node`."""
    return BlockingNode(_node_with(this_thread().client().node))


def _node_with(id: str) -> Node:
    for node in running:
        if node.id == id:
            return node
    raise NoNodeError(
        "this is a server's process, and its node lives in another\n"
        "Listen to events in the program that has started the node."
    )


async def shutdown() -> None:
    """Stop the implicit node of the running loop, if there is one."""
    loop = asyncio.get_running_loop()
    starting = _implicit.pop(loop, None)
    current.implicit.pop(loop, None)
    if starting is not None:
        await (await starting).stop()


def blocking_implicit_node(preload: str | None, if_possible: bool = False) -> str:
    """Return the id of the implicit node of threads without a loop, and start it on first use.

    Args:
        preload: A module that it imports ahead.
        if_possible: It may do without.

    Raises:
        PreloadError: The module cannot be imported ahead.
    """
    global _blocking_implicit
    with _blocking_implicit_lock:
        if _blocking_implicit is None or _blocking_implicit not in running:
            _blocking_implicit = _start_blocking(preload, if_possible)
        return _blocking_implicit.id


def _start_blocking(preload: str | None, if_possible: bool) -> Node:
    global _started_in
    _started_in = Surroundings.now()
    node = _node(preload)
    try:
        node.start_blocking()
    except PreloadError as error:
        _do_without(preload, if_possible, error)
        node = _node(None)
        node.start_blocking()
    return node


def change_since_start(node: str) -> Change | None:
    """Return what has changed around this program since a node has started, as far as it is known.

    Only of the implicit node of threads without a loop: it outlives whoever has needed it first.
    """
    implicit = _blocking_implicit
    if implicit is None or implicit.id != node or _started_in is None:
        return None
    return _started_in.change_to(Surroundings.now())


def blocking_shutdown() -> None:
    """Stop the implicit node of threads without a loop, if there is one."""
    global _blocking_implicit
    with _blocking_implicit_lock:
        node, _blocking_implicit = _blocking_implicit, None
        if node is not None:
            node.stop_blocking()


def _forget_the_parents() -> None:
    # In a child that the program has forked: the nodes are its parent's.
    global _blocking_implicit, _blocking_implicit_lock
    _blocking_implicit = None
    _blocking_implicit_lock = threading.Lock()
    _implicit.clear()
    _guards.clear()


os.register_at_fork(after_in_child=_forget_the_parents)
