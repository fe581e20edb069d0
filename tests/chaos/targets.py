"""The servers that a chaos run kills."""

from __future__ import annotations

import asyncio
import os
from time import perf_counter

from noex_mp import GenServer, call, cast
from tests.chaos.ledger import Ledger

__all__ = ["Target"]


class Target(GenServer, max_messages=200):
    """Notes each message in the ledger, and looks whether they come in order."""

    def __init__(self, index: int, ledger: tuple[str, int, int]) -> None:
        self._index = index
        self._ledger = Ledger(*ledger)
        self._last: dict[int, int] = {}

    def init(self) -> None:
        self._ledger.started(self._index, os.getpid())

    def terminate(self, reason: object) -> None:
        self._ledger.close()

    def _begin(self, sender: int, number: int) -> None:
        self._ledger.begin(number)
        last = self._last.get(sender, -1)
        if number <= last:
            raise AssertionError(f"sender {sender}: message {number} came after {last}")
        self._last[sender] = number

    @call
    def work(self, sender: int, number: int, seconds: float) -> int:
        self._begin(sender, number)
        end = perf_counter() + seconds
        while perf_counter() < end:
            pass
        return number

    @call
    async def wait(self, sender: int, number: int, seconds: float) -> int:
        self._begin(sender, number)
        await asyncio.sleep(seconds)
        return number

    @call(idempotent=True)
    def look(self, sender: int, number: int) -> int:
        self._begin(sender, number)
        return number

    @cast
    def note(self, sender: int, number: int) -> None:
        self._begin(sender, number)
