"""`concurrent.futures.ProcessPoolExecutor`, and loky's, which has the same interface."""

from __future__ import annotations

import importlib
import os
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, ClassVar

from bench.peers.operations import Peer

__all__ = ["Executor", "Loky"]


class Executor(Peer):
    """A pool of one process; a call is a task."""

    title = "ProcessPoolExecutor"
    settings = "max_workers=1; after a death a new pool is made by hand"
    lacks: ClassVar[dict[str, str]] = {"one_way": "every task has a result"}

    def new(self) -> Any:
        """Return another pool of one process."""
        return ProcessPoolExecutor(max_workers=1)

    def open(self) -> None:
        """Start the pool."""
        self._pool: Any = self.new()
        self._others: list[Any] = []

    def close(self) -> None:
        """Stop all pools."""
        for pool in (self._pool, *self._others):
            pool.shutdown()

    def ping(self, value: int) -> int:
        """Run a task."""
        reply: int = self._pool.submit(_same, value).result()
        return reply

    def pings(self, width: int) -> None:
        """Submit all, then wait."""
        tasks: list[Future[int]] = [self._pool.submit(_same, i) for i in range(width)]
        wait(tasks)

    def measure(self, data: bytes) -> int:
        """Run `len`."""
        size: int = self._pool.submit(len, data).result()
        return size

    def another(self) -> None:
        """Start one more pool."""
        pool = self.new()
        self._others.append(pool)
        assert pool.submit(_same, 1).result() == 1

    def os_pid(self) -> int:
        """Run `os.getpid`."""
        os_pid: int = self._pool.submit(os.getpid).result()
        return os_pid

    def next_reply(self) -> None:
        """Find the pool broken, and make another."""
        while True:
            try:
                self.ping(1)
            except BrokenProcessPool:
                self._pool.shutdown()
                self._pool = self.new()
            else:
                return


class Loky(Executor):
    """The same with loky, whose worker is an interpreter of its own."""

    title = "loky"
    package = "loky"

    def new(self) -> Any:
        """Return another pool of one process."""
        return importlib.import_module("loky").ProcessPoolExecutor(max_workers=1)


def _same(value: int) -> int:
    return value
