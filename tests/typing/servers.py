"""Servers in every form that the type checkers must understand."""

from __future__ import annotations

from typing import Any, assert_never

from typing_extensions import override

from noex_mp.core.gen_server import From, GenServer
from noex_mp.core.messages import Call, Cast, Timeout
from noex_mp.core.operations import call, cast
from noex_mp.core.outcomes import Continue, NoReply, Outcome, Reply, Stop, TimeoutAfter


class Counter(GenServer, restart="transient", expected=(ValueError,)):
    """Counts, and forgets its count when it crashes."""

    def __init__(self, start: int = 0) -> None:
        self._value = start
        self._waiting: list[tuple[int, From[int]]] = []

    @call
    async def increment(self, by: int = 1) -> int:
        """Add `by` and return the new value."""
        if by < 0:
            raise ValueError(f"by must not be negative, got {by}")
        self._value += by
        self._wake()
        return self._value

    @call
    def value(self) -> int:
        return self._value

    @call
    def nothing(self) -> None:
        return None

    @call
    def maybe(self, key: str, *more: str, loud: bool = False) -> dict[str, int] | None:
        return {key: len(more)} if loud else None

    @call(idempotent=True)
    def lookup(self, key: str) -> list[str]:
        return [key]

    @call(idempotent=True)
    async def slow_lookup(self, key: str) -> list[str]:
        return [key]

    @call
    def store(self, value: Any) -> int:
        return len(str(value))

    @call
    async def store_many(self, *values: object) -> int:
        return len(values)

    @call
    def configure(self, /, **options: str) -> int:
        return len(options)

    @call
    def store_and_stop(self, value: object) -> Reply[int]:
        return Reply(len(str(value)), then=Stop())

    @cast
    async def reset(self) -> None:
        """Start again from zero."""
        self._value = 0

    @cast
    def add(self, by: int) -> None:
        self._value += by

    @cast
    def finish(self) -> Stop:
        return Stop()

    @cast
    async def finish_soon(self) -> TimeoutAfter | None:
        return TimeoutAfter(0.1) if self._value else None

    @call
    async def close(self) -> Reply[int]:
        """Return the final value and stop."""
        return Reply(self._value, then=Stop())

    @call
    def close_now(self) -> Reply[int]:
        return Reply(self._value, then=Stop())

    @call
    async def wait_for(self, sender: From[int], target: int) -> NoReply:
        """Reply once the count reaches `target`."""
        self._waiting.append((target, sender))
        self._wake()
        return NoReply()

    @call
    def wait_for_sync(self, sender: From[int], target: int = 3) -> NoReply:
        self._waiting.append((target, sender))
        return NoReply()

    @call
    async def now_or_later(self, sender: From[int], target: int) -> Reply[int] | NoReply:
        if self._value >= target:
            return Reply(self._value)
        self._waiting.append((target, sender))
        return NoReply()

    @call
    def reply_or_later(self, sender: From[str], target: int) -> Outcome[str]:
        return Reply(str(target)) if target else NoReply()

    def _wake(self) -> None:
        for target, sender in self._waiting:
            if self._value >= target:
                sender.reply(self._value)
        self._waiting = [(t, s) for t, s in self._waiting if t > self._value]


class LoudCounter(Counter):
    """A subclass; its Ref is good for the operations of its base."""

    @call
    def shout(self) -> str:
        return str(self._value) + "!"


class Push(Cast, frozen=True):
    """Put `item` on top."""

    item: str


class Pop(Call[str], frozen=True):
    """Take the top item. The stack stops once it is empty."""


class Size(Call[int], frozen=True):
    """Count the items."""


class Stack(GenServer[Pop | Size, Push, object]):
    """Keeps strings, newest first."""

    def __init__(self) -> None:
        self._items: list[str] = []

    @override
    async def init(self) -> Continue:
        return Continue("load")

    @override
    async def handle_call(self, request: Pop | Size, sender: From[Any]) -> Outcome[Any]:
        match request:
            case Pop():
                item = self._items.pop()
                return request.reply(item, then=None if self._items else Stop())
            case Size():
                return request.reply(len(self._items))
            case _:
                assert_never(request)

    @override
    async def handle_cast(self, request: Push) -> None:
        self._items.append(request.item)

    @override
    async def handle_info(self, message: object) -> Stop | None:
        return Stop() if isinstance(message, Timeout) else None

    @override
    async def handle_continue(self, argument: Any) -> None:
        self._items.append(str(argument))


class SyncStack(GenServer[Pop, Push]):
    """The same callbacks as plain methods."""

    @override
    def init(self) -> None:
        self._items: list[str] = []

    @override
    def handle_call(self, request: Pop, sender: From[str]) -> Reply[str]:
        return Reply(self._items.pop())

    @override
    def handle_cast(self, request: Push) -> None:
        self._items.append(request.item)

    @override
    def handle_info(self, message: Any) -> TimeoutAfter:
        return TimeoutAfter(1.0)

    @override
    def terminate(self, reason: object) -> None:
        self._items.clear()
