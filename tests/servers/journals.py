"""A server that keeps numbers on disk, to be tried out with faults."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from noex_mp import From, GenServer, NoReply, Reply, Stop, call, cast
from noex_mp.core.reasons import ExitReason


class KeptError(Exception):
    """It is there already."""


class Journal(GenServer, expected=(KeptError,)):
    """Keeps numbers, one a line."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._kept: list[int] = []
        self._waiting: list[From[int]] = []

    def init(self) -> None:
        if self._path.exists():
            self._kept = [int(line) for line in self._path.read_text().split()]

    def terminate(self, reason: ExitReason) -> None:
        self._write("0")

    def _write(self, line: str) -> None:
        with self._path.open("a") as file:
            file.write(f"{line}\n")

    @call
    def keep(self, number: int) -> int:
        if number in self._kept:
            raise KeptError(number)
        self._kept.append(number)
        self._write(str(number))
        return len(self._kept)

    @call
    async def keep_slowly(self, number: int) -> int:
        await asyncio.sleep(0)
        return self.keep(number)

    @call
    def keep_later(self, sender: From[int], number: int) -> NoReply:
        self.keep(number)
        sender.reply(len(self._kept))
        return NoReply()

    @call(idempotent=True)
    def all(self) -> list[int]:
        return self._kept

    @call(idempotent=True)
    def os_pid(self) -> int:
        return os.getpid()

    @cast
    def note(self, number: int) -> None:
        self.keep(number)

    @cast
    def leave(self) -> Stop:
        return Stop()

    @call
    def step_down(self, number: int) -> Reply[int]:
        return Reply(number, then=Stop())

    def handle_cast(self, request: int) -> None:
        self.keep(request)
