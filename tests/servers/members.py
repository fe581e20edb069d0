"""Servers that share a worker with others."""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from typing import Any

from noex_mp import ExitReport, GenServer, Ref, ServerExitedError, call, cast, child, spawn, stop
from tests.servers.counters import blow, listen


class Member(GenServer, placement="rooms"):
    """A member of the group `rooms`."""

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.notes: list[Any] = []

    @call
    def os_pid(self) -> int:
        return os.getpid()

    @call
    def own(self) -> Ref[Member]:
        return self.ref

    @call
    def echo(self, value: object) -> object:
        return value

    @cast
    def note(self, value: object) -> None:
        self.notes.append(value)

    @call
    def all(self) -> list[Any]:
        return self.notes

    @call
    def work(self, number: int) -> int:
        """Take longer than a turn."""
        return self._work(number)

    @call
    async def work_slowly(self, number: int) -> int:
        """The same, in a coroutine that never waits."""
        return self._work(number)

    def _work(self, number: int) -> int:
        end = time.perf_counter() + 0.001
        while time.perf_counter() < end:
            pass
        return number

    @call
    def crash(self) -> None:
        raise ValueError("on purpose")

    @call
    def exit_process(self, code: int) -> None:
        os._exit(code)

    @call
    def segfault(self) -> None:
        ctypes.string_at(0)

    @call
    async def doze(self, whistle: str) -> None:
        """Blow the whistle, then wait for ever; can be cancelled."""
        blow(whistle)
        await asyncio.Event().wait()

    @call
    async def never_mind(self, whistle: str) -> None:
        """The same, and cannot be cancelled."""
        blow(whistle)
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                blow(whistle)

    @call
    def hang(self, whistle: str) -> None:
        """Block the whole process."""
        blow(whistle)
        while True:
            time.sleep(1)

    @call
    def wait_for(self, whistle: str, told: str) -> None:
        """Block the process until the whistle is blown."""
        blow(told)
        listen(whistle)

    @call
    async def ask(self, other: Ref[Member], value: object) -> object:
        return await Member.echo(other, value)

    @call
    async def make_crash(self, other: Ref[Member]) -> ExitReport:
        try:
            await Member.crash(other)
        except ServerExitedError as error:
            return error.report
        raise AssertionError("it lives")

    @call
    async def hire(self, number: int) -> Ref[Member]:
        return await spawn(child(Member, number))

    @call
    async def fire(self, other: Ref[Member]) -> None:
        await stop(other)


class Stuck(GenServer, placement="rooms"):
    """Blocks its process in `init`."""

    def init(self) -> None:
        while True:
            time.sleep(1)


class Waiting(GenServer, placement="rooms"):
    """Waits for ever in `init`."""

    async def init(self) -> None:
        await asyncio.Event().wait()
