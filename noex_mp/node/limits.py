"""Watches servers that have limits: how long a handler may take, how much memory there may be."""

from __future__ import annotations

from functools import partial

from noex_mp.node.children import Child
from noex_mp.node.events import Events
from noex_mp.node.hangs import HangWatch
from noex_mp.node.memory import MemoryWatch
from noex_mp.node.workers import Worker
from noex_mp.wire.envelopes import PRESSURE

__all__ = ["Limits"]


class Limits:
    """Has one watch for each server with a `hang_timeout`, and one for each limited worker."""

    def __init__(self, events: Events) -> None:
        self._events = events

    def started(self, child: Child, worker: Worker) -> None:
        """Watch the memory of a worker in which a server starts."""
        limit = (child.process or {}).get("memory_limit")
        if limit is not None and worker.watch is None and worker.alive:
            worker.watch = MemoryWatch(worker, limit, partial(self._on_pressure, worker, limit))

    def ready(self, child: Child, worker: Worker) -> None:
        """Watch the handlers of a server whose `init` has returned."""
        if child.hang_timeout is not None:
            child.watch = HangWatch(child, worker)
        if worker.watch is not None and worker.watch.pressure:
            # That was told while there was nobody to hear of it.
            _warn(child, worker, worker.watch.pressure, worker.watch.limit)

    def _on_pressure(self, worker: Worker, limit: int, used: int) -> None:
        text = f"memory_limit of {limit / 2**20:.4g} MiB"
        for child in list(worker.residents.values()):
            self._events.tell("memory_pressure", child, count=used, detail=text)
            if child.is_up:
                _warn(child, worker, used, limit)


def _warn(child: Child, worker: Worker, used: int, limit: int) -> None:
    worker.connection.post([PRESSURE, child.sid, child.incarnation, used, limit])
