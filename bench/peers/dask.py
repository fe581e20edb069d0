"""Dask: an actor in a worker process of a local cluster."""

from __future__ import annotations

import importlib
from typing import Any, ClassVar

from bench.peers.echo import Echo
from bench.peers.operations import Peer

__all__ = ["Dask"]

_distributed: Any = importlib.import_module("distributed")


class Dask(Peer):
    """A cluster with one worker of one thread, and an actor there."""

    title = "Dask actor"
    package = "distributed"
    settings = "LocalCluster(n_workers=1, threads_per_worker=1), no dashboard"
    lacks: ClassVar[dict[str, str]] = {
        "one_way": "every call has a result",
        "kill": "the actor is lost",
    }

    def open(self) -> None:
        """Start a cluster, and an actor."""
        self._cluster: Any = _distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=None
        )
        self._client: Any = _distributed.Client(self._cluster)
        self._workers = 1
        self._echo: Any = self._client.submit(Echo, actor=True).result()

    def close(self) -> None:
        """Stop the cluster."""
        self._client.close()
        self._cluster.close()

    def ping(self, value: int) -> Any:
        """Call."""
        return self._echo.ping(value).result()

    def pings(self, width: int) -> None:
        """Call all, then wait for all."""
        for reply in [self._echo.ping(i) for i in range(width)]:
            reply.result()

    def measure(self, data: bytes) -> Any:
        """Call."""
        return self._echo.measure(data).result()

    def another(self) -> None:
        """Start one more worker, and an actor there."""
        before = set(self._client.scheduler_info()["workers"])
        self._workers += 1
        self._cluster.scale(self._workers)
        self._client.wait_for_workers(self._workers)
        (address,) = set(self._client.scheduler_info()["workers"]) - before
        echo = self._client.submit(Echo, actor=True, workers=[address], pure=False).result()
        assert echo.ping(1).result() == 1
