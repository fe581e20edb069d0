"""Servers that end in the middle of a message, for what the reports say of it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

from noex_mp import From, GenServer, NoReply, call, cast
from tests.servers.counters import blow, listen


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Reported(GenServer, expected=(ValueError,)):
    def __init__(self) -> None:
        self.noted: list[int] = []

    @call
    def echo(self, number: int) -> int:
        return number

    @call
    async def echo_slowly(self, number: int) -> int:
        if number % 3:
            await asyncio.sleep(0)
        return number

    @call
    def echo_later(self, sender: From[int], number: int) -> NoReply:
        sender.reply(number)
        return NoReply()

    @call
    def grow(self, size: int) -> None:
        self.kept = b"x" * size

    @call
    async def nap(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    @call
    def give(self, data: bytes) -> int:
        return len(data)

    @call
    def refuse(self) -> None:
        raise ValueError("expected")

    @cast
    def note(self, number: int) -> None:
        self.noted.append(number)

    @call
    def kill(self, data: bytes, why: str = "") -> None:
        _die()

    @call
    async def kill_slowly(self, data: bytes) -> None:
        await asyncio.sleep(0)
        _die()

    @call
    def crash(self, data: bytes) -> None:
        raise KeyError("crash")

    @call
    async def crash_slowly(self, data: bytes) -> None:
        await asyncio.sleep(0)
        raise KeyError("crash")

    def handle_call(self, request: bytes, sender: From[None]) -> NoReply:
        _die()
        return NoReply()

    @call(idempotent=True)
    def kill_twice(self, path: str) -> str:
        deaths = Path(path)
        count = len(deaths.read_text()) if deaths.exists() else 0
        if count < 2:
            deaths.write_text("x" * (count + 1))
            _die()
        return "done"

    @cast
    def kill_by_cast(self, data: bytes) -> None:
        _die()

    @call
    def hold(self, started: str, go_on: str) -> None:
        blow(started)
        listen(go_on)

    @call
    async def wait(self, started: str) -> None:
        blow(started)
        await asyncio.get_running_loop().create_future()

    @call
    def doze(self, started: str) -> None:
        blow(started)
        time.sleep(600)

    @call
    def say_and_crash(self, lines: int, text: str) -> None:
        for n in range(lines):
            print(f"line {n}", file=sys.stderr)
        raise KeyError(text)
