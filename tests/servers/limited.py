"""Servers for which a limit is set: they take long in many ways, and take memory."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import signal
import socket
import time
from typing import Any

from typing_extensions import override

from noex_mp import Continue, ExitReason, GenServer, MemoryPressure, call, cast, send_after
from tests.servers.counters import blow, listen

__all__ = ["Eats", "Hangs", "Unreadable"]

MIB = 2**20


def refuse() -> None:
    raise ValueError("not here")


class Unreadable:
    """Can be sent, and cannot be read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return refuse, ()


class Hangs(GenServer):
    """Hangs where it is told to."""

    def __init__(self, *, slow_init: float = 0.0, slow_end: float = 0.0) -> None:
        self._slow_init = slow_init
        self._slow_end = slow_end
        self._done = 0

    @override
    def init(self) -> None:
        time.sleep(self._slow_init)

    @override
    def terminate(self, reason: ExitReason) -> None:
        time.sleep(self._slow_end)

    @call
    def os_pid(self) -> int:
        return os.getpid()

    @call
    def echo(self, value: Any) -> Any:
        return value

    @call
    def loop(self) -> None:
        while True:
            pass

    @call
    def call_python(self) -> None:
        """Compute in Python, in a function of its own each time."""
        while True:
            self._step()

    def _step(self) -> int:
        return self._done + 1

    @call
    def match(self) -> None:
        """Compute in C: it lets signals be handled, and keeps the GIL."""
        re.match("(a*)*b", "a" * 64)

    @call
    def add_up(self) -> int:
        """Compute in C, which does not even look for signals."""
        return sum(range(10**12))

    @call
    def nap(self, seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    @call
    def receive(self) -> bytes:
        ours, self._theirs = socket.socketpair()
        return ours.recv(1)

    @call
    def lock(self, path: str) -> None:
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_EX)

    @call
    async def select(self) -> None:
        """Block where event loops wait, in a handler."""
        import select

        select.epoll().poll()

    @call
    async def wait(self, started: str = "") -> None:
        if started:
            blow(started)
        await self._wait_for_nothing()

    async def _wait_for_nothing(self) -> None:
        await asyncio.get_running_loop().create_future()

    @call
    async def nap_elsewhere(self, seconds: float) -> None:
        await asyncio.to_thread(time.sleep, seconds)

    @call
    def stop_itself(self) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)

    @call
    def fork(self) -> None:
        """Wait for a child that comes back from the handler, and then hang."""
        if os_pid := os.fork():
            os.waitpid(os_pid, 0)
            self.loop()

    @call
    async def fork_slowly(self) -> None:
        await asyncio.sleep(0)
        self.fork()

    @call
    def block(self, coming: str, going: str) -> str:
        blow(coming)
        listen(going)
        return "went on"

    @cast
    def work(self, seconds: float) -> None:
        time.sleep(seconds)
        self._done += 1

    @call
    async def work_slowly(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    @call
    def done(self) -> int:
        return self._done

    @call
    def hang_in_a_timer(self) -> None:
        send_after(self.ref, "hang", 0)

    @call
    def hang_in_continue(self) -> Any:
        return Continue("hang")

    @override
    def handle_info(self, message: Any) -> None:
        self.loop()

    @override
    def handle_continue(self, argument: Any) -> None:
        self.loop()


class Eats(GenServer):
    """Takes memory, and gives it back."""

    def __init__(self, at_start: int = 0) -> None:
        self._kept: list[bytes | bytearray] = []
        self._heard: list[MemoryPressure] = []
        self._at_start = at_start

    @override
    def init(self) -> None:
        if self._at_start:
            self.eat(self._at_start)
            # Until the root has looked.
            time.sleep(0.5)

    @override
    def handle_info(self, message: MemoryPressure) -> None:
        self._heard.append(message)

    @call
    def heard(self) -> list[MemoryPressure]:
        return self._heard

    @call
    def os_pid(self) -> int:
        return os.getpid()

    @call
    def eat(self, mib: int) -> None:
        """Take memory, at once."""
        self._kept.append(bytearray(mib * MIB))

    @call
    def nibble(self, mib: int) -> None:
        """Take as much bit by bit, and wait."""
        for _ in range(mib):
            self._kept.append(bytearray(MIB))
            time.sleep(0.001)
        time.sleep(600)

    @call
    def give_back(self) -> None:
        self._kept.clear()

    @call
    def write_all(self, mib: int, stay: float = 0) -> None:
        """Write to what the zygote has made, and so have a copy of it."""
        from tests.servers import shared_pages

        for start in range(0, mib * MIB, 4096):
            shared_pages.PAGES[start] = 0
        time.sleep(stay)
