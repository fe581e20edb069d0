"""The servers that the benchmark calls. Small on purpose: what is measured is the way there."""

from __future__ import annotations

import asyncio
import os
from time import perf_counter, perf_counter_ns, sleep

from bench.floor import Numbers, percentiles
from noex_mp import From, GenServer, NoReply, Ref, call, cast

__all__ = ["Caller", "Echo", "Hangs"]


class Echo(GenServer):
    """Answers, in every way there is."""

    def __init__(self) -> None:
        self._seen = 0
        self._waiting: list[From[int]] = []

    @call
    def ping(self, value: int) -> int:
        """Return `value`."""
        return value

    @call
    async def ping_async(self, value: int) -> int:
        """Return `value`, from a coroutine."""
        return value

    @cast
    def note(self, value: int) -> None:
        """Count `value` more."""
        self._seen += value

    @call
    def seen(self) -> int:
        """Return how many were noted."""
        return self._seen

    @call
    def measure(self, data: bytes) -> int:
        """Return the length of `data`."""
        return len(data)

    @call
    def take_time(self, seconds: float) -> float:
        """Block for some time; return how long that was, in seconds."""
        start = perf_counter()
        sleep(seconds)
        return perf_counter() - start

    @call
    def os_pid(self) -> int:
        """Return the pid of the worker process."""
        return os.getpid()

    @call
    def never(self, sender: From[int]) -> NoReply:
        """Begin, and do not reply."""
        self._waiting.append(sender)
        return NoReply()


class Caller(GenServer):
    """Calls another server, worker to worker."""

    @call
    async def time_calls(self, target: Ref[Echo], warm_up: int, count: int) -> Numbers:
        """Return `p50` and `p99` in µs of `count` calls, one after the other."""
        for i in range(warm_up):
            await Echo.ping(target, i)
        took: list[int] = []
        for i in range(count):
            start = perf_counter_ns()
            await Echo.ping(target, i)
            took.append(perf_counter_ns() - start)
        return percentiles(took)


class Hangs(GenServer):
    """Never comes back, in every way there is."""

    @call
    def ready(self) -> None:
        """Return: it is up."""

    @call
    def loop(self) -> None:
        """Compute in Python."""
        while True:
            pass

    @call
    def add_up(self) -> int:
        """Compute in C."""
        return sum(range(10**12))

    @call
    def nap(self) -> None:
        """Block in a system call."""
        sleep(600)

    @call
    async def wait(self) -> None:
        """Await what never comes."""
        await asyncio.get_running_loop().create_future()
