"""What the tests of faults of an executor have its processes do."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any, NoReturn

from noex_mp import GenServer, NoServerError, ProcessPoolExecutor, call, spawn
from tests.pools.tasks import die, double


def refuse(*args: object) -> NoReturn:
    raise ValueError("no database")


def die_from_the_third_on(starts: Path) -> None:
    """Kill each process but the first two."""
    with starts.open("ab", buffering=0) as file:
        file.write(b"x")
    if starts.stat().st_size > 2:
        die()


def lock_at_two(value: int) -> object:
    """Return what cannot be sent, once."""
    return threading.Lock() if value == 2 else value


async def lock_at_two_later(value: int) -> object:
    return lock_at_two(value)


def hold(started: str) -> NoReturn:
    """Write to a FIFO, and wait for a signal that ends this process."""
    with open(started, "w") as there:
        there.write("x")
    while True:
        signal.pause()


def report_pid(path: str) -> None:
    """Write this process's pid to a FIFO."""
    with open(path, "w") as there:
        there.write(str(os.getpid()))


class DiesWhenRead:
    """Ends every process but the one that it was made in."""

    def __init__(self) -> None:
        self.home = os.getpid()

    def __reduce__(self) -> Any:
        return _die_unless_in, (self.home,)


def _die_unless_in(home: int) -> None:
    if os.getpid() != home:
        os.kill(os.getpid(), signal.SIGKILL)


class DeadlyServer(GenServer):
    """A server that dies when it is told to."""

    @call
    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


async def raise_as_of_another_server(kind: str) -> None:
    """Raise what the end of a process looks like, though this one lives on."""
    if kind == "gone":
        raise NoServerError("Carts")
    server = await spawn(DeadlyServer)
    await DeadlyServer.die(server)


def sum_in_a_pool(numbers: range) -> int:
    with ProcessPoolExecutor(max_workers=2) as pool:
        return sum(pool.map(double, numbers))


def hold_in_a_pool(report: str) -> None:
    """Have a process of another pool say its pid, and wait there for ever."""
    pool = ProcessPoolExecutor(max_workers=1)
    pool.submit(report_pid, report).result()
    threading.Event().wait()
