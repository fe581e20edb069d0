"""What the tests of pools have their processes do. By name, so that it can be imported there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from queue import Queue

from noex_mp import NoServerError, Pool, ProcessPoolExecutor, current_task
from noex_mp.pools.executor import ExecutorTasks
from noex_mp.pools.pool import PoolTasks

__all__ = [
    "apply",
    "asks",
    "asks_another",
    "asks_the_same",
    "await_long",
    "begin_to_compute_in_c",
    "block_the_loop",
    "die",
    "die_of",
    "die_of_later",
    "double",
    "fill",
    "halve",
    "hold_on",
    "keep_the_gil",
    "later",
    "leave_memory",
    "look_at_token",
    "mark",
    "pid",
    "raise_an",
    "raise_by_token",
    "run_later",
    "sleep_long",
    "spin",
    "start_another",
    "stay_in_a_loop",
    "sum_in_a_pool",
    "tell_behind_a_gate",
    "text_of",
    "tidy_up",
    "wait_for",
]


def double(value: int) -> int:
    return 2 * value


def apply(function: Callable[[int], int], value: int) -> int:
    return function(value)


def raise_an(error: type[BaseException]) -> None:
    raise error


def pid() -> int:
    return os.getpid()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fill(size: int) -> int:
    return len(bytearray(size))


def sum_in_a_pool(count: int) -> int:
    with ProcessPoolExecutor(max_workers=1) as pool:
        return sum(pool.map(double, range(count)))


async def later(value: int) -> int:
    await asyncio.sleep(0)
    return value


def run_later(value: int) -> int:
    """Run a loop of its own, as a plain function may."""
    return asyncio.run(later(value))


def run_with_a_signal(value: int) -> int:
    """Run a coroutine in an event loop that hears of signals."""

    async def listen() -> int:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, print)
        return await later(value)

    return asyncio.run(listen())


def stay_in_a_loop(started: Path) -> None:
    asyncio.run(await_long(started))


def halve(value: int) -> int:
    if value % 2:
        raise ValueError(f"{value} is odd")
    return value // 2


def start_another(told: str) -> None:
    """Start a process that sleeps, write its number to a FIFO, and wait for it."""
    with subprocess.Popen(["sleep", "1000"]) as other:
        Path(told).write_text(f"{other.pid}")


def die_of(value: int, deadly: int, once: Path | None = None) -> int:
    """Kill the process if the value is the deadly one: always, or the first time only."""
    if value == deadly and not (once is not None and once.exists()):
        if once is not None:
            once.touch()
        die()
    return value


async def die_of_later(value: int, deadly: int, once: Path | None = None) -> int:
    await asyncio.sleep(0)
    return die_of(value, deadly, once)


def wait_for(started: str, gate: str) -> str:
    """Write to one FIFO, and return what comes out of the other."""
    with open(started, "w") as there:
        there.write("x")
    with open(gate) as here:
        return here.read()


def put_in(queue: Queue[str], value: str) -> None:
    queue.put(value)


def tell_pid_and_wait(told: Path, gate: Path) -> str:
    """Write to one FIFO who this is, and return what comes out of the other."""
    told.write_text(str(os.getpid()))
    return gate.read_text()


def begin_to_compute_in_c(begun: str) -> int:
    """Write to a FIFO, and then add for days, with the GIL held."""
    Path(begun).write_text("computing")
    return sum(range(10**15))


def tell_behind_a_gate(started: str, gate: str) -> None:
    wait_for(started, gate)
    raise NoServerError("somebody else")


def asks(pool: ExecutorTasks, value: int) -> int:
    """Ask the pool that it is given."""
    return pool.submit(double, value).result()


async def asks_the_same(pool: PoolTasks, value: int) -> int:
    """Ask the pool that it is given, in an event loop."""
    return await pool.run(double, value)


async def asks_another(value: int) -> int:
    """Ask a pool of its own."""
    async with Pool(size=1) as pool:
        return await pool.run(abs, -value)


def mark(path: Path) -> None:
    path.touch()


def spin(seconds: float) -> str:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass
    return "done"


def look_at_token(started: Path) -> str:
    started.touch()
    while not current_task().cancelled:
        time.sleep(0.001)
    return "dropped anyway"


def raise_by_token(started: Path) -> None:
    started.touch()
    while True:
        current_task().raise_if_cancelled()
        time.sleep(0.001)


async def await_long(started: Path) -> None:
    mark(started)
    await asyncio.sleep(1000)


async def block_the_loop(started: Path) -> None:
    await asyncio.sleep(0)
    mark(started)
    time.sleep(1000)  # noqa: ASYNC251 - that is what it is about


def sleep_long(started: Path) -> None:
    started.touch()
    time.sleep(1000)


def tidy_up(started: Path, tidied: Path) -> None:
    started.touch()
    try:
        time.sleep(1000)
    finally:
        tidied.touch()


def keep_the_gil(started: Path) -> None:
    started.touch()
    sum(range(10**15))


def hold_on(started: Path) -> None:
    started.touch()
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(1000)


def leave_memory(size: int) -> None:
    """Leave so many bytes of address space beyond what is in use."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + size, resource.getrlimit(resource.RLIMIT_AS)[1]))


def text_of(size: int) -> str:
    return "x" * size
