"""Servers that do as they are told: they count, keep lists, and say who they are."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from noex_mp import (
    Call,
    Cast,
    Continue,
    From,
    GenServer,
    NoReply,
    Outcome,
    Ref,
    Reply,
    Stop,
    Timeout,
    TimeoutAfter,
    call,
    cast,
    spawn,
)
from noex_mp.core.reasons import ExitReason


class RefusedError(Exception):
    """An error with a constructor of two arguments and an attribute of its own."""

    def __init__(self, wanted: int, limit: int) -> None:
        super().__init__(f"{wanted} is more than {limit}")
        self.wanted = wanted
        self.limit = limit


class Counter(GenServer, expected=(RefusedError,)):
    """Counts up to 1000."""

    def __init__(self, start: int = 0) -> None:
        self.value = start

    @call
    def increment(self, by: int = 1) -> int:
        if by > 1000:
            raise RefusedError(by, 1000)
        self.value += by
        return self.value

    @call
    async def increment_slowly(self, by: int = 1) -> int:
        await asyncio.sleep(0)
        self.value += by
        return self.value

    @cast
    def add(self, by: int) -> None:
        if by > 1000:
            raise RefusedError(by, 1000)
        self.value += by

    @call
    def os_pid(self) -> int:
        return os.getpid()

    @call
    def environment(self, name: str) -> str | None:
        return os.environ.get(name)

    @call
    def who(self) -> Ref[Counter]:
        return self.ref

    @call
    def fail(self) -> int:
        raise LookupError("no such thing")


class Journal(GenServer):
    """Keeps what it is told, in order, and writes it to a file when it ends."""

    def __init__(self, path: str = "") -> None:
        self.path = path
        self.items: list[Any] = []

    @call
    def record(self, item: object) -> object:
        self.items.append(item)
        return item

    @call
    async def record_slowly(self, item: object) -> object:
        await asyncio.sleep(0)
        self.items.append(item)
        return item

    @cast
    def note(self, item: object) -> None:
        self.items.append(item)

    @call
    def all(self) -> list[Any]:
        return self.items

    @call
    def os_pid(self) -> int:
        return os.getpid()

    @call
    async def pause(self, started: str, release: str) -> None:
        """Say that it has begun (a fifo), and wait until it may go on (another)."""
        await asyncio.to_thread(blow, started)
        await asyncio.to_thread(listen, release)

    @call
    def block(self, started: str, release: str) -> None:
        """The same, and the event loop stands still meanwhile."""
        blow(started)
        listen(release)

    def terminate(self, reason: ExitReason) -> None:
        if self.path:
            with open(self.path, "a") as file:
                file.write(f"{reason!r} {self.items!r}\n")


def blow(fifo: str) -> None:
    with open(fifo, "wb") as file:
        file.write(b"x")


def listen(fifo: str) -> None:
    with open(fifo, "rb") as file:
        file.read(1)


class Caller(GenServer):
    """Calls others, from its own process."""

    @call
    async def increment(self, counter: Ref[Counter], by: int = 1) -> int:
        return await Counter.increment(counter, by)

    @call
    async def pause(self, journal: Ref[Journal], started: str, release: str) -> None:
        await Journal.pause(journal.within(None), started, release)

    @call
    async def start(self, value: int) -> Ref[Counter]:
        return await spawn(Counter, start=value)

    @call
    def os_pid(self) -> int:
        return os.getpid()


class Push(Cast, frozen=True):
    item: str


class Pop(Call[str], frozen=True):
    """Take the top item; the stack stops once it is empty."""


class Size(Call[int], frozen=True):
    pass


class Later(Call[str], frozen=True):
    """Be answered when the next item is pushed."""


class Stack(GenServer[Pop | Size | Later, Push, object]):
    def __init__(self, *items: str) -> None:
        self._items = list(items)
        self._waiting: list[From[str]] = []

    def handle_call(self, request: Pop | Size | Later, sender: From[Any]) -> Outcome[Any]:
        match request:
            case Pop():
                item = self._items.pop()
                return request.reply(item, then=None if self._items else Stop())
            case Size():
                return request.reply(len(self._items))
            case Later():
                self._waiting.append(sender)
                return NoReply()

    async def handle_cast(self, request: Push) -> None:
        self._items.append(request.item)
        waiting, self._waiting = self._waiting, []
        for sender in waiting:
            sender.reply(request.item)


class Turns(GenServer):
    """Goes through every outcome, and keeps what was called."""

    def __init__(self, first: Continue | TimeoutAfter | None = None) -> None:
        self.first = first
        self.seen: list[Any] = []
        self._waiting: list[From[list[Any]]] = []

    def init(self) -> Continue | TimeoutAfter | None:
        self.seen.append("init")
        return self.first

    def handle_continue(self, argument: Any) -> Stop | None:
        self.seen.append(("continue", argument))
        return Stop() if argument == "stop" else None

    def handle_info(self, message: object) -> None:
        assert isinstance(message, Timeout)
        self.seen.append("timeout")
        for sender in self._waiting:
            sender.reply(self.seen)
        self._waiting.clear()

    @call
    def all(self) -> list[Any]:
        return self.seen

    @call
    def reply_and(self, then: Continue | TimeoutAfter | Stop) -> Reply[str]:
        return Reply("reply", then)

    @call
    async def reply_slowly_and(self, then: Continue | TimeoutAfter | Stop) -> Reply[str]:
        await asyncio.sleep(0)
        return Reply("reply", then)

    @cast
    def then(self, then: Continue | TimeoutAfter | Stop) -> Continue | TimeoutAfter | Stop:
        return then

    @call
    def at_timeout(self, sender: From[list[Any]], seconds: float) -> NoReply:
        """Ask for a `Timeout`, and reply when it comes."""
        self._waiting.append(sender)
        return NoReply(then=TimeoutAfter(seconds))

    @call
    def after(self, sender: From[list[Any]], seconds: float) -> NoReply:
        """Reply after some time, whatever comes."""
        loop = asyncio.get_running_loop()
        loop.call_later(seconds, lambda: sender.reply(self.seen))
        return NoReply()

    @call
    def twice(self, sender: From[int]) -> NoReply:
        sender.reply(1)
        sender.reply(2)
        return NoReply()
