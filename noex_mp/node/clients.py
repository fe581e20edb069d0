"""The clients of a program around its node: one for each event loop that makes calls."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from typing import Final, Protocol

from noex_mp.client.client import Client, connect_client
from noex_mp.errors import NodeDownError
from noex_mp.transport import fds
from noex_mp.transport.blocking_loop import BlockingLoop

__all__ = ["Clients"]

# How long it may take to send what event loops have left that do not run any more, in seconds.
FLUSH_PATIENCE: Final = 2.0


class _Connect(Protocol):
    """Gives the root its end of a control link; called in any thread."""

    def __call__(self, sock: socket.socket, label: str, *, asks_again: bool) -> None: ...


class Clients:
    """Makes the clients of one node, and ends them."""

    def __init__(self, connect: _Connect, node: str, *, allow_pickle: bool, spin: bool) -> None:
        """Make no client yet.

        Args:
            connect: Raises RuntimeError if the root runs no more.
            node: The node's id.
            allow_pickle: Whether arguments may be pickled.
            spin: Whether a loop waits awake for an answer that may be near.
        """
        self._connect = connect
        self._node = node
        self._allow_pickle = allow_pickle
        self._spin = spin
        self._clients: dict[asyncio.AbstractEventLoop, Client] = {}

    def get(self, loop: asyncio.AbstractEventLoop) -> Client | None:
        """Return the client of an event loop, if it has one."""
        return self._clients.get(loop)

    def of(self, loop: asyncio.AbstractEventLoop) -> Client:
        """Return the client of an event loop, a new one if need be.

        Raises:
            NodeDownError: The node has stopped.
        """
        client = self._clients.get(loop)
        if client is None or client.closed:
            self.forget_closed_loops()
            client = self._clients[loop] = self._new(loop)
        return client

    def _new(self, loop: asyncio.AbstractEventLoop) -> Client:
        ours, theirs = fds.socketpair()
        label = f"{sys.argv[0] or 'python'} ({threading.current_thread().name})"
        asks_again = isinstance(loop, BlockingLoop) and not loop.always_turns
        try:
            self._connect(theirs, label, asks_again=asks_again)
        except RuntimeError:
            fds.close_all([ours.detach(), theirs.detach()])
            raise NodeDownError("the node has stopped") from None
        return connect_client(
            loop,
            ours,
            self._node,
            allow_pickle=self._allow_pickle,
            asks_again=asks_again,
            spin=self._spin,
        )

    def forget_closed_loops(self) -> None:
        """Send what closed event loops have left, and end their clients."""
        # Two threads may come here at once.
        closed = [loop for loop in list(self._clients) if loop.is_closed()]
        for client in [self._clients.pop(loop, None) for loop in closed]:
            if client is not None:
                client.flush_blocking(FLUSH_PATIENCE)
                client.close()

    def flush_idle_loops(self) -> None:
        """Send what event loops have left that do not run now."""
        for loop, client in list(self._clients.items()):
            if not loop.is_running():
                client.flush_blocking(FLUSH_PATIENCE)

    def close(self) -> None:
        """End all of them, each in its own event loop."""
        for client in self._clients.values():
            try:
                client.loop.call_soon_threadsafe(client.close)
            except RuntimeError:
                # Its loop is closed.
                client.close()
        self._clients.clear()
