"""Thespian: an actor system with a process for each actor."""

from __future__ import annotations

import importlib
from typing import Any, ClassVar

from bench.peers.echo import Echo
from bench.peers.operations import Peer

__all__ = ["EchoActor", "Thespian"]

_actors: Any = importlib.import_module("thespian.actors")

TIMEOUT = 20.0


def _receive(self: Any, message: Any, sender: Any) -> None:
    if message.__class__ is not tuple:
        return
    name: str
    name, argument = message
    if not hasattr(self, "echo"):
        self.echo = Echo()
    method = getattr(self.echo, name)
    reply = method() if argument is None else method(argument)
    if name != "note":
        self.send(sender, reply)


# Made by hand: to a checker, what may not be installed is of any type.
EchoActor: Any = type(
    "EchoActor", (_actors.Actor,), {"receiveMessage": _receive, "__module__": __name__}
)


class Thespian(Peer):
    """An actor is a process, and a call is `ask`."""

    title = "Thespian"
    package = "thespian"
    settings = "multiprocTCPBase: its own default puts all actors into the caller's process"
    lacks: ClassVar[dict[str, str]] = {"kill": "the caller is told nothing, and waits"}

    def open(self) -> None:
        """Start the system, and an actor."""
        self._system: Any = _actors.ActorSystem("multiprocTCPBase", logDefs={"version": 1})
        self._echo: Any = self._system.createActor(EchoActor)

    def close(self) -> None:
        """Stop the system."""
        self._system.shutdown()

    def _ask(self, actor: Any, name: str, argument: Any = None) -> Any:
        reply = self._system.ask(actor, (name, argument), TIMEOUT)
        assert reply is not None, "no reply"
        return reply

    def ping(self, value: int) -> Any:
        """Ask."""
        return self._ask(self._echo, "ping", value)

    def pings(self, width: int) -> None:
        """Tell all, then listen for the replies."""
        for i in range(width):
            self._system.tell(self._echo, ("ping", i))
        for _ in range(width):
            assert self._system.listen(TIMEOUT) is not None, "no reply"

    def note(self) -> None:
        """Tell."""
        self._system.tell(self._echo, ("note", 1))

    def seen(self) -> Any:
        """Ask."""
        return self._ask(self._echo, "seen")

    def measure(self, data: bytes) -> Any:
        """Ask."""
        return self._ask(self._echo, "measure", data)

    def another(self) -> None:
        """Create one more actor."""
        assert self._ask(self._system.createActor(EchoActor), "ping", 1) == 1

    def os_pid(self) -> Any:
        """Ask."""
        return self._ask(self._echo, "os_pid")
