"""Where the microseconds of a call go, each step by itself: `python -m bench.stages`.

What is timed is the runtime's own code and the kernel's, with the message of a call that carries
one small integer. `send` and `recv` are part of the floor; the rest of a call comes on top of it.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import statistics
import sys
from collections.abc import Callable, Coroutine
from time import perf_counter_ns
from timeit import Timer
from typing import Any

import uvloop

from bench.floor import Numbers, floor
from bench.runtime import call_sync, on_loop
from bench.servers import Echo
from noex_mp.wire.codec import Encoder
from noex_mp.wire.envelopes import CALL, REPLY
from noex_mp.wire.stream import FrameReader

__all__ = ["main"]

REQUEST: list[Any] = [CALL, 7, 12_345, "ping", 1]
ANSWER = [REPLY, 7, 12_345, 1]
TURNS = 20_000


def main() -> None:
    """Print each step, how often a call takes it, and what a whole call takes."""
    if sys.platform == "linux":
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    encoder = Encoder()
    kernel = _kernel()
    steps = [
        ("pack a frame", 2, _pack(encoder)),
        ("`send` (the kernel's)", 2, kernel["send"]),
        ("`epoll_wait` that finds something (the kernel's)", 2, kernel["epoll"]),
        ("`recv` (the kernel's)", 2, kernel["recv"]),
        ("feed and unpack a frame", 2, _unpack(encoder)),
        ("find the handler and run it", 1, _handler()),
        ("make a future, set it, let the loop wake its task", 1, _on_loop(_future)),
    ]
    floors = [floor() for _ in range(5)]
    calls = [on_loop(call_sync) for _ in range(5)]
    floor_us, call_us = _p50(floors), _p50(calls)
    beside = sum(us * times for name, times, us in steps if "kernel" not in name or "epoll" in name)
    lines = [("step", "µs each", "times in a call", "µs")]
    lines += [(name, f"{us:.2f}", f"{times}", f"{us * times:.1f}") for name, times, us in steps]
    lines += [
        ("**the C floor**: 2 `send`, 2 `recv`, 2 switches", "", "", f"{floor_us:.1f}"),
        (
            "the rest: operation, route, link, loops, colder caches",
            "",
            "",
            f"{call_us - floor_us - beside:.1f}",
        ),
        ("**a whole call**, p50", "", "", f"{call_us:.1f}"),
    ]
    lines.insert(1, ("---", "--:", "--:", "--:"))
    print("\n".join(f"| {' | '.join(line)} |" for line in lines))


def _p50(runs: list[Numbers]) -> float:
    return statistics.median(run["p50"] for run in runs)


def _best(step: Callable[[], object], number: int = 20_000) -> float:
    """Return the time of one `step` in µs."""
    return min(Timer(step).repeat(7, number)) / number * 1e6


def _pack(encoder: Encoder) -> float:
    both = _best(lambda: encoder.pack(REQUEST)) + _best(lambda: encoder.pack(ANSWER))
    return both / 2


def _unpack(encoder: Encoder) -> float:
    reader = FrameReader(peer="itself")
    data = encoder.pack(REQUEST)

    def one() -> None:
        reader.feed(data)
        for _ in reader.unpacker:
            pass

    return _best(one)


def _kernel() -> dict[str, float]:
    """Return the times of the system calls, by name: one after the other, nobody wakes up."""
    ours, theirs = socket.socketpair()
    epoll = select.epoll()
    epoll.register(theirs.fileno(), select.EPOLLIN)
    data = b"x" * 14
    took: dict[str, list[int]] = {"send": [], "epoll": [], "recv": []}
    with ours, theirs, epoll:
        for _ in range(TURNS):
            at = [perf_counter_ns()]
            ours.send(data)
            at.append(perf_counter_ns())
            epoll.poll(0)
            at.append(perf_counter_ns())
            theirs.recv(65_536)
            at.append(perf_counter_ns())
            for name, start, end in zip(took, at, at[1:], strict=False):
                took[name].append(end - start)
    return {name: statistics.median(times) / 1e3 for name, times in took.items()}


def _handler() -> float:
    handlers = {"ping": Echo().ping}
    frame: list[Any] = REQUEST
    return _best(lambda: handlers[frame[3]](frame[4]))


def _on_loop(main: Callable[[], Coroutine[Any, Any, float]]) -> float:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


async def _future() -> float:
    """Return what a future costs that is done in the next turn of the loop."""
    loop = asyncio.get_running_loop()
    start = perf_counter_ns()
    for _ in range(TURNS):
        future: asyncio.Future[None] = loop.create_future()
        loop.call_soon(future.set_result, None)
        await future
    return (perf_counter_ns() - start) / TURNS / 1e3


if __name__ == "__main__":
    main()
