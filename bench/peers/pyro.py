"""Pyro5: objects behind a daemon, in a process that the user starts."""

from __future__ import annotations

import importlib
import multiprocessing
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, ClassVar

from bench.peers.echo import Echo
from bench.peers.operations import Peer

__all__ = ["Pyro"]


class Pyro(Peer):
    """A daemon in a process of its own; a call is a proxy's method."""

    title = "Pyro5"
    package = "Pyro5"
    settings = "TCP on the loopback, serpent; the process is started, and again, by hand"
    lacks: ClassVar[dict[str, str]] = {"in_flight": "a proxy has one call at a time"}

    def open(self) -> None:
        """Start a process with a daemon."""
        self._processes: list[BaseProcess] = []
        self._proxy = self._new()

    def _new(self) -> Any:
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(target=_serve, args=(theirs,))
        process.start()
        self._processes.append(process)
        return importlib.import_module("Pyro5.api").Proxy(ours.recv())

    def close(self) -> None:
        """Kill all processes."""
        for process in self._processes:
            process.kill()
            process.join()

    def ping(self, value: int) -> int:
        """Call."""
        reply: int = self._proxy.ping(value)
        return reply

    def note(self) -> None:
        """Call a method that is marked as one-way."""
        self._proxy.note(1)

    def seen(self) -> int:
        """Call."""
        seen: int = self._proxy.seen()
        return seen

    def measure(self, data: bytes) -> int:
        """Call; serpent makes base64 of bytes."""
        size: int = self._proxy.measure(data)
        return size

    def another(self) -> None:
        """Start one more process."""
        assert self._new().ping(1) == 1

    def os_pid(self) -> int:
        """Call."""
        os_pid: int = self._proxy.os_pid()
        return os_pid

    def next_reply(self) -> None:
        """Find the connection closed, and start another process."""
        closed = importlib.import_module("Pyro5.errors").CommunicationError
        while True:
            try:
                self._proxy.ping(1)
            except closed:
                self._proxy = self._new()
            else:
                return


class PyroEcho(Echo):
    """The same, for what serpent makes of bytes."""

    def measure(self, data: Any) -> int:
        """Return the length of `data`, which serpent hands over as it came."""
        return len(importlib.import_module("serpent").tobytes(data))


def _serve(pipe: Connection) -> None:
    server = importlib.import_module("Pyro5.server")
    setattr(PyroEcho, "note", server.oneway(PyroEcho.note))  # noqa: B010 - typed
    # What a class inherits is exposed where it is defined.
    server.expose(Echo)
    daemon: Any = server.Daemon()
    pipe.send(str(daemon.register(server.expose(PyroEcho)())))
    daemon.requestLoop()
