"""What each peer is asked for, and the base that its adapter fills in."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import statistics
from collections.abc import AsyncIterator, Coroutine
from time import perf_counter, perf_counter_ns
from typing import Any, ClassVar

from bench.floor import Numbers, percentiles

__all__ = ["OPERATIONS", "Peer", "run"]

BIG = 16 * 1024 * 1024
IN_FLIGHT = 64
CASTS = 2_000

WARM_UP = 300
CALLS = 5_000
SECONDS = 1.0
"""An operation is repeated until it has run so often, or so long."""


class Peer:
    """A library, as this benchmark uses it.

    An adapter overrides what its library can do; each method returns its result or, in an
    adapter that `awaits`, something to be awaited for it.

    Attributes:
        title: What the table calls it.
        package: The distribution that tells its version.
        settings: What is not as the library has it by itself, and why.
        lacks: Why an operation is not there, by the operation's name.
        awaits: Whether it is used from an event loop: asyncio's own, for all.
    """

    title: ClassVar[str]
    package: ClassVar[str] = ""
    settings: ClassVar[str] = ""
    lacks: ClassVar[dict[str, str]] = {}
    awaits: ClassVar[bool] = False

    def open(self) -> Any:
        """Start a worker with an `Echo` in it."""
        raise NotImplementedError

    def close(self) -> Any:
        """Stop everything."""
        raise NotImplementedError

    def ping(self, value: int) -> Any:
        """Call `Echo.ping`."""
        raise NotImplementedError

    def pings(self, width: int) -> Any:
        """Send `width` calls before the first reply is awaited, and wait for all replies."""
        raise NotImplementedError

    def note(self) -> Any:
        """Send `Echo.note(1)`, for which nobody waits."""
        raise NotImplementedError

    def seen(self) -> Any:
        """Call `Echo.seen`, once what was noted before has been handled."""
        raise NotImplementedError

    def measure(self, data: bytes) -> Any:
        """Call `Echo.measure`."""
        raise NotImplementedError

    def another(self) -> Any:
        """Start one more worker, and wait for its first reply."""
        raise NotImplementedError

    def os_pid(self) -> Any:
        """Call `Echo.os_pid`."""
        raise NotImplementedError

    def next_reply(self) -> Any:
        """Do what a user has to after the worker's death until `Echo.ping` is answered again."""
        raise NotImplementedError


def run(peer: Peer) -> AsyncIterator[tuple[str, Numbers | str]]:
    """Yield each operation's name, and its numbers or why there are none."""
    return _all(peer)


async def _all(peer: Peer) -> AsyncIterator[tuple[str, Numbers | str]]:
    await _settle(peer.open())
    for name, operation in OPERATIONS.items():
        if name in peer.lacks:
            yield name, peer.lacks[name]
            continue
        try:
            yield name, await operation(peer)
        except Exception as error:
            yield name, f"{type(error).__name__}: {error}"[:200]
    await _settle(peer.close())


async def _settle(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result


async def _calls(peer: Peer) -> Numbers:
    """A call at a time."""
    for i in range(WARM_UP):
        await _settle(peer.ping(i))
    took: list[int] = []
    end = perf_counter() + SECONDS
    for i in range(CALLS):
        start = perf_counter_ns()
        # No further function in between: it would weigh on the fast ones.
        reply = peer.ping(i)
        if peer.awaits:
            reply = await reply
        took.append(perf_counter_ns() - start)
        assert reply == i
        if perf_counter() > end:
            break
    return percentiles(took)


async def _in_flight(peer: Peer) -> Numbers:
    """64 calls in flight."""
    rates: list[float] = []
    end = perf_counter() + SECONDS
    while perf_counter() < end and len(rates) < CALLS:
        start = perf_counter()
        await _settle(peer.pings(IN_FLIGHT))
        rates.append(IN_FLIGHT / (perf_counter() - start))
    return {"per_second": statistics.median(rates)}


async def _one_way(peer: Peer) -> Numbers:
    """Messages without a reply; a call behind them says that all have been handled."""
    before: int = await _settle(peer.seen())
    rates: list[float] = []
    end = perf_counter() + SECONDS
    while perf_counter() < end and len(rates) < 100:
        start = perf_counter()
        for _ in range(CASTS):
            sent = peer.note()
            if peer.awaits:
                await sent
        seen: int = await _settle(peer.seen())
        rates.append(CASTS / (perf_counter() - start))
        assert seen == before + len(rates) * CASTS, f"{seen} seen"
    return {"per_second": statistics.median(rates)}


async def _big(peer: Peer) -> Numbers:
    """A call with 16 MiB of bytes."""
    data = os.urandom(BIG)
    took: list[float] = []
    for _ in range(10):
        start = perf_counter()
        assert await _settle(peer.measure(data)) == BIG
        took.append((perf_counter() - start) * 1e3)
    return {"ms": statistics.median(took[3:])}


async def _start(peer: Peer) -> Numbers:
    """One more worker, to its first reply."""
    took: list[float] = []
    for _ in range(5):
        start = perf_counter()
        await _settle(peer.another())
        took.append((perf_counter() - start) * 1e3)
    return {"ms": statistics.median(took)}


async def _kill(peer: Peer) -> Numbers:
    """Kill -9 to the next good reply."""
    took: list[float] = []
    # More often in a few seconds, and a supervisor would give up: rightly.
    for _ in range(3):
        os_pid: int = await _settle(peer.os_pid())
        start = perf_counter()
        os.kill(os_pid, signal.SIGKILL)
        await _settle(peer.next_reply())
        took.append((perf_counter() - start) * 1e3)
        assert await _settle(peer.os_pid()) != os_pid
    return {"ms": statistics.median(took)}


OPERATIONS = {
    "calls": _calls,
    "in_flight": _in_flight,
    "one_way": _one_way,
    "big": _big,
    "start": _start,
    "kill": _kill,
}


def drive(peer: Peer, main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine over `peer`: in an event loop only if the peer awaits anything."""
    if peer.awaits:
        asyncio.run(main)
        return
    try:
        main.send(None)
    except StopIteration:
        return
    raise RuntimeError(f"{peer.title} does not await, and yet something waits")
