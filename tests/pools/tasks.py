"""What the tests of pools have their processes do. By name, so that it can be imported there."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from pathlib import Path

from noex_mp import Pool, ProcessPoolExecutor

__all__ = [
    "asks",
    "asks_another",
    "begin_to_compute_in_c",
    "die",
    "die_of",
    "double",
    "halve",
    "later",
    "pid",
    "sum_in_a_pool",
    "wait_for",
]


def double(value: int) -> int:
    return 2 * value


def pid() -> int:
    return os.getpid()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def sum_in_a_pool(count: int) -> int:
    with ProcessPoolExecutor(max_workers=1) as pool:
        return sum(pool.map(double, range(count)))


async def later(value: int) -> int:
    await asyncio.sleep(0)
    return value


def halve(value: int) -> int:
    if value % 2:
        raise ValueError(f"{value} is odd")
    return value // 2


def die_of(value: int, deadly: int, once: Path | None = None) -> int:
    """Kill the process if the value is the deadly one: always, or the first time only."""
    if value == deadly and not (once is not None and once.exists()):
        if once is not None:
            once.touch()
        die()
    return value


def wait_for(started: str, gate: str) -> str:
    """Write to one FIFO, and return what comes out of the other."""
    with open(started, "w") as there:
        there.write("x")
    with open(gate) as here:
        return here.read()


def begin_to_compute_in_c(begun: str) -> bool:
    """Write to a FIFO, and then match a pattern that takes for ever, with the GIL held."""
    Path(begun).write_text("computing")
    return re.match(r"(a+)+$", "a" * 64 + "b") is not None


def asks(pool: ProcessPoolExecutor, value: int) -> int:
    """Ask the pool that it is given."""
    return pool.submit(double, value).result()


async def asks_another(value: int) -> int:
    """Ask a pool of its own."""
    async with Pool(size=1) as pool:
        return await pool.run(abs, -value)
