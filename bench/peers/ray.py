"""Ray: actors in worker processes of a local cluster."""

from __future__ import annotations

import importlib
from typing import Any, ClassVar

from bench.peers.echo import Echo
from bench.peers.operations import Peer

__all__ = ["Ray"]

_ray: Any = importlib.import_module("ray")


class Ray(Peer):
    """An actor is a process of the cluster."""

    title = "Ray"
    package = "ray"
    settings = (
        "ray.init(num_cpus=8), since it counts the CPUs, and we give it one; no dashboard; actors "
        "with max_restarts and max_task_retries of -1, since its default is to lose them"
    )
    lacks: ClassVar[dict[str, str]] = {}

    def open(self) -> None:
        """Start a cluster, and an actor."""
        _ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False)
        self._class: Any = _ray.remote(max_restarts=-1, max_task_retries=-1)(Echo)
        self._echo: Any = self._class.remote()
        self._others: list[Any] = []

    def close(self) -> None:
        """Stop the cluster."""
        _ray.shutdown()

    def ping(self, value: int) -> Any:
        """Call."""
        return _ray.get(self._echo.ping.remote(value))

    def pings(self, width: int) -> None:
        """Call all, then get all."""
        _ray.get([self._echo.ping.remote(i) for i in range(width)])

    def note(self) -> None:
        """Call, and do not look at the result."""
        self._echo.note.remote(1)

    def seen(self) -> Any:
        """Call."""
        return _ray.get(self._echo.seen.remote())

    def measure(self, data: bytes) -> Any:
        """Call; the argument goes through shared memory."""
        return _ray.get(self._echo.measure.remote(data))

    def another(self) -> None:
        """Create one more actor."""
        echo = self._class.remote()
        # Kept: an actor that nobody refers to is ended.
        self._others.append(echo)
        assert _ray.get(echo.ping.remote(1)) == 1

    def os_pid(self) -> Any:
        """Call."""
        return _ray.get(self._echo.os_pid.remote())

    def next_reply(self) -> None:
        """Call: it is tried again by itself."""
        assert self.ping(1) == 1
