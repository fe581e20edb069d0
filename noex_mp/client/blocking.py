"""Calls from threads that have no event loop: each thread is a client of its own, and blocks.

Nothing of the protocol is written twice. A thread has a `BlockingLoop`; on it live the same
clients, routes and links as on any loop, and the thread turns it while it waits. So calls go
straight to the worker over a socket of this very thread, and many threads call at once.

* A thread hears of what happens only while it waits. Its client therefore `asks_again` (see
  `Connection`), and looks what there is before it sends a cast, which is never sent again.
* A plain function that is the task of a pool may block as well: it sees no event loop (see
  `running_loop`), and that of its process stands still anyway.
* When a thread ends, so do its clients. What they had sent is handled all the same: a cast
  returns when it has left the process.
* An exception out of a signal handler (Ctrl-C) that comes in a wait has disturbed nothing. What
  it interrupts anywhere else may be half done: those clients are not used again.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from asyncio import (
    Future,
    _get_running_loop,  # pyright: ignore[reportPrivateUsage] - documented, and never raises
)
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from noex_mp.client import current
from noex_mp.client.client import Client
from noex_mp.client.route import AT_ONCE
from noex_mp.core import ref as core_ref
from noex_mp.errors import NoexError, NoNodeError
from noex_mp.transport.blocking_loop import BlockingLoop

if TYPE_CHECKING:
    from noex_mp.client.route import Route
    from noex_mp.core.ref import Ref, SentOperation

__all__ = ["ThreadEnd", "catch_up", "refuse_in_a_loop", "this_thread"]

T = TypeVar("T")


class ThreadEnd:
    """One thread's end of everything: its loop, its clients, the routes that it has used."""

    def __init__(self) -> None:
        self._loop = BlockingLoop()
        self._clients: dict[str, Client] = {}
        # The routes of its clients, by node and sid.
        self._routes: dict[str, dict[int, Route]] = {}

    # --- messages ----------------------------------------------------------------------

    def invoke(
        self,
        ref: Ref[Any],
        operation: SentOperation,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Send a call and block until the reply has come.

        Raises:
            NoNodeError: An event loop runs in this thread, or there is no node.
        """
        if _get_running_loop() is not None:
            _refuse(ref, operation, "call")
        future: Future[Any] | None = None
        try:
            try:
                route = self._routes[ref.node][ref.sid]
            except KeyError:
                # Not here: the error of a node that has stopped is not to begin with this one.
                route = None
            if route is None:
                route = self._route_to(ref)
            if ref.said is not None:
                kwargs = {**kwargs, **ref.said}
            future = route.invoke(operation, args, kwargs, ref.timeout)
            loop = self._loop
            # A `BlockingLink`, as the loop is what it is.
            link: Any = route.link
            if link is not None and not loop.ready:
                link.wait_a_moment()
            if not future.done():
                loop.run_until(future)
        except NoexError:
            raise
        except BaseException:
            self._interrupted(future)
            raise
        return future.result()

    def cast(
        self,
        ref: Ref[Any],
        operation: SentOperation,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        at_once: bool = False,
    ) -> None:
        """Send a cast and block until the sender's window has taken it, and the socket has.

        Args:
            at_once: It is not to wait for the window.

        Raises:
            NoNodeError: An event loop runs in this thread, or there is no node.
            MailboxFullError: It would have to wait for the window.
        """
        if _get_running_loop() is not None:
            _refuse(ref, operation, "cast")
        future: Future[None] | None = None
        try:
            loop = self._loop
            loop.catch_up()
            client = self.client(ref.node or None)
            timeout = AT_ONCE if at_once else ref.timeout
            route = client.way_to(ref)
            if ref.said is not None:
                kwargs = {**kwargs, **ref.said}
            future = route.cast(operation, args, kwargs, timeout)
            loop.run_until(future)
            loop.run_ready()
            if route.link is None:
                # It was kept until it is known where the server is: this thread has to hear of it.
                self.run(client.drained(ref))
            elif loop.writes:
                # Nobody turns the loop until this thread waits again.
                loop.run_until(client.sent(ref))
        except NoexError:
            raise
        except BaseException:
            self._interrupted(future)
            raise
        future.result()

    def _route_to(self, ref: Ref[Any]) -> Route:
        if not ref.sid:
            # Whoever has the name, in the current node: that may have changed.
            self._loop.catch_up()
        return self.client(ref.node or None).way_to(ref)

    def _interrupted(self, future: Future[Any] | None) -> None:
        if not self._loop.waiting:
            self._start_anew()
            return
        self._loop.waiting = False
        if future is not None:
            future.cancel()
            # Now: this thread may never wait again, and nobody else looks.
            for client in list(self._clients.values()):
                client.sweep()
            self._loop.catch_up()

    # --- everything else ---------------------------------------------------------------

    def client(self, node: str | None = None) -> Client:
        """Return this thread's client of a node.

        Args:
            node: The node's id; None means the current one.

        Raises:
            NoNodeError: There is no current node, or several run and nothing says which.
            NodeDownError: The node has stopped.
        """
        node = node or current.node_of_thread()
        if node is None:
            raise NoNodeError(
                "there is no node here\nStart one: with Node(...), or noex_mp.sync.spawn(...)."
            )
        client = self._clients.get(node)
        if client is None or client.closed:
            # Nodes may have stopped that this thread has not heard of.
            self._loop.catch_up()
            self._clients = {n: known for n, known in self._clients.items() if not known.closed}
            loop: Any = self._loop
            client = self._clients[node] = current.client_on(node, loop)
            self._routes = {n: known.routes for n, known in self._clients.items()}
        return client

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Run a coroutine that waits for nothing but futures of this thread's clients.

        Raises:
            TimeoutError: It took longer than `timeout` seconds.
        """
        try:
            return self._loop.run(coroutine, timeout)
        except BaseException as error:
            if self._loop.waiting or not isinstance(error, Exception):
                self._interrupted(None)
            raise

    # --- the end -----------------------------------------------------------------------

    def _start_anew(self) -> None:
        # First what is left behind: a second Ctrl-C may come on the way.
        clients, self._clients, self._routes = self._clients, {}, {}
        loop, self._loop = self._loop, BlockingLoop()
        _close(loop, clients)

    def close(self) -> None:
        """End the clients: the thread has ended."""
        _close(self._loop, self._clients)


def _close(loop: BlockingLoop, clients: dict[str, Client]) -> None:
    for client in clients.values():
        # One may have been left in the middle of anything.
        with contextlib.suppress(Exception):
            client.close()
    loop.close()


class _Farewell:
    """Closes what a thread has, when the thread ends.

    Only the thread refers to it. Of the rest, tracebacks of errors that it raised may outlive it.
    """

    def __init__(self, end: ThreadEnd) -> None:
        self._end = end
        self._os_pid = os.getpid()

    def __del__(
        self,
        getpid: Callable[[], int] = os.getpid,
        finalizing: Callable[[], bool] = sys.is_finalizing,
    ) -> None:
        # In a process that another thread has forked, this is not the end of a thread: the
        # sockets are the parent's. And when the interpreter ends, not even `os` may be left.
        if not finalizing() and getpid() == self._os_pid:
            self._end.close()


class _Local(threading.local):
    end: ThreadEnd | None = None
    farewell: _Farewell | None = None


_local = _Local()


def this_thread() -> ThreadEnd:
    """Return what this thread has."""
    end = _local.end
    if end is None:
        end = _local.end = ThreadEnd()
        _local.farewell = _Farewell(end)
    return end


def catch_up() -> None:
    """Let this thread do what has become due meanwhile, without waiting."""
    end = _local.end
    if end is not None:
        end._loop.catch_up()  # pyright: ignore[reportPrivateUsage]


def refuse_in_a_loop(what: str, remedy: str) -> None:
    """See that no event loop is seen to run in this thread: whoever blocks would stop it.

    Raises:
        NoNodeError: One does.
    """
    if _get_running_loop() is not None:
        raise NoNodeError(f"{what} blocks, and an event loop runs in this thread\n{remedy}")


def _refuse(ref: Ref[Any], operation: SentOperation, kind: str) -> None:
    if name := operation.name:
        refuse_in_a_loop(f"{name}.sync", f"Write await {ref.label}.{name}(ref, ...) instead.")
    refuse_in_a_loop(f"noex_mp.sync.{kind}", f"Write await ref.{kind}(...) instead.")


def _forget_the_parents() -> None:
    # In a child that the program has forked: the sockets are the parent's.
    global _local
    _local = _Local()


os.register_at_fork(after_in_child=_forget_the_parents)

core_ref.install_blocking(this_thread)
