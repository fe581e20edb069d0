"""The clients of a worker: what its servers, and threads of theirs, call others through."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from threading import get_ident
from typing import Any

from noex_mp.client.client import Client, connect_client
from noex_mp.errors import NoNodeError
from noex_mp.transport import fds
from noex_mp.transport.blocking_loop import BlockingLoop
from noex_mp.transport.control_link import ControlLink
from noex_mp.transport.spin import Spinner
from noex_mp.wire.envelopes import CONNECT
from noex_mp.worker import activation
from noex_mp.worker.bootstrap import Boot

__all__ = ["Clients"]


class Clients:
    """One for the worker's event loop, and one for each thread.

    Attributes:
        own: That of the event loop; None until a server first calls another: many never do.

    Args:
        loop: The worker's event loop.
        boot: What the worker was started with.
        control: Where the client of the loop asks the root.
        spinner: Whoever waits for replies with `latency="spin"`.
        serving: Returns the sid of the server that runs.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        boot: Boot,
        control: ControlLink,
        spinner: Spinner | None,
        serving: Callable[[], int],
    ) -> None:
        self._loop = loop
        self._thread = get_ident()
        self._boot = boot
        self._allow_pickle: bool = boot.fields["allow_pickle"]
        self._control = control
        self._spinner = spinner
        self._serving = serving
        self._of_threads: dict[asyncio.AbstractEventLoop, Client] = {}
        self.own: Client | None = None

    def of(self, loop: asyncio.AbstractEventLoop) -> Client:
        """Return the client of a loop.

        Raises:
            NoNodeError: It is another event loop than the worker's.
        """
        if isinstance(loop, BlockingLoop):
            return self._of_thread(loop)
        if loop is not self._loop:
            raise NoNodeError(
                "a server calls others from its own event loop, not from one of another thread\n"
                "Hand the work to the loop (asyncio.run_coroutine_threadsafe), or use .sync(...)."
            )
        if self.own is None:
            self.own = activation.NestedClient(
                loop,
                self._control,
                self._boot.node,
                allow_pickle=self._allow_pickle,
                spinner=self._spinner,
            )
            self.own.serving = self._serving
        return self.own

    def _of_thread(self, loop: BlockingLoop) -> Client:
        as_loop: Any = loop
        client = self._of_threads.get(as_loop)
        if client is None or client.closed:
            for known in [known for known in list(self._of_threads) if known.is_closed()]:
                self._of_threads.pop(known, None)
            ours, theirs = fds.socketpair()
            connect: list[Any] = [CONNECT, f"a thread of worker {self._boot.worker}"]
            self._post(connect, fds.disown(theirs.detach()))
            client = connect_client(
                as_loop,
                ours,
                self._boot.node,
                allow_pickle=self._allow_pickle,
                asks_again=not loop.always_turns,
                client_class=activation.ThreadClient,
            )
            self._of_threads[as_loop] = client
        return client

    def _post(self, connect: list[Any], fd: int) -> None:
        if get_ident() == self._thread:
            # A plain task of a pool: the loop goes on when it has ended.
            self._control.post(connect, fd)
        else:
            self._loop.call_soon_threadsafe(self._control.post, connect, fd)
