"""Who sends in a chaos run: a fixed number of messages in each second, whatever the servers do."""

from __future__ import annotations

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from noex_mp import (
    CallTimedOutError,
    GenServer,
    MailboxFullError,
    NoexError,
    Ref,
    ServerExitedError,
    call,
)
from noex_mp.client.blocking import this_thread
from noex_mp.client.route import Route
from tests.chaos.ledger import Kind, Ledger, Outcome
from tests.chaos.targets import Target

__all__ = ["BlockingSender", "Load", "Sender", "Sending", "Share", "ends"]

TICK: Final = 0.01
"""How often a sender sends what is due, in seconds."""

MOST_OUT: Final = 3000
"""A sender that has so many messages out sends no more for the moment."""

MOST_WAYS: Final = 200
"""So many ways to servers one process knows the numbers of."""

LIMITS: Final = (0.25, 1.0, 5.0)
"""The time limits of the calls, in seconds."""

BUSY: Final = (0.0, 0.0, 0.0001, 0.001)
"""How long handlers take, in seconds."""


@dataclass(frozen=True)
class Share:
    """What one sender does.

    Attributes:
        sender: Its number.
        first: The number of its first message.
        messages: How many it may send at most.
        rate: How many calls in a second.
    """

    sender: int
    first: int
    messages: int
    rate: float


@dataclass(frozen=True)
class Load:
    """What all senders do.

    Attributes:
        casts: How many casts for each call.
        seed: Of all that is random.
    """

    casts: float
    seed: int


class _Ends:
    """What the runtime says in this process at each death of a server: which messages had begun.

    Attributes:
        all: The number of the way there (each event loop, and each thread, has its own to each
            server), and that of the last message on it that had begun.
    """

    def __init__(self) -> None:
        self.all: list[tuple[int, int]] = []
        # A thread gets another way after each death; those that it has used last are kept.
        self._ways: OrderedDict[Route, int] = OrderedDict()
        self._count = 0
        ended = Route.ended

        def noted(route: Route, *args: Any) -> int:
            self.all.append((self.way(route), args[0]))
            return ended(route, *args)

        setattr(Route, "ended", noted)  # noqa: B010

    def way(self, route: Route) -> int:
        """Return the number of a way, which no other in this process has."""
        if route not in self._ways:
            self._count += 1
            self._ways[route] = self._count
            if len(self._ways) > MOST_WAYS:
                self._ways.popitem(last=False)
        self._ways.move_to_end(route)
        return self._ways[route]


ends = _Ends()


class _Sending:
    """What both kinds of senders share."""

    def __init__(
        self, share: Share, load: Load, ledger: Ledger, targets: list[Ref[Target]]
    ) -> None:
        self._share = share
        self._load = load
        self._ledger = ledger
        self._targets = targets
        self._random = random.Random(f"{load.seed} {share.sender}")
        self._numbers: Iterator[int] = iter(range(share.first, share.first + share.messages))
        self._worst = 0.0
        self._lag = 0.0
        self._held_back = 0

    def figures(self) -> dict[str, float]:
        """Return how late the latest answer and the event loop were, and what was held back."""
        return {"late": self._worst, "lag": self._lag, "held_back": float(self._held_back)}

    def _next(self) -> tuple[int, Kind]:
        number = next(self._numbers)
        if self._random.random() < self._load.casts / (1 + self._load.casts):
            kind = Kind.CAST
        else:
            kind = Kind.IDEMPOTENT if self._random.random() < 0.25 else Kind.CALL
        self._ledger.sent(number, kind)
        return number, kind

    def _outcome(self, number: int, kind: Kind, reply: object) -> Outcome:
        if kind is Kind.CAST or reply == number:
            return Outcome.GOOD
        return Outcome.WRONG

    def _ended(self, number: int, outcome: Outcome, due: float) -> None:
        self._ledger.came(number, outcome)
        self._worst = max(self._worst, time.monotonic() - due)


def _outcome_of(error: BaseException) -> Outcome:
    match error:
        case ServerExitedError():
            return Outcome.EXITED
        case CallTimedOutError():
            return Outcome.TIMED_OUT
        case MailboxFullError():
            return Outcome.REFUSED
        case _:
            return Outcome.OTHER


class Sender(_Sending):
    """Sends from an event loop, without a task for each message."""

    def __init__(
        self, share: Share, load: Load, ledger: Ledger, targets: list[Ref[Target]]
    ) -> None:
        super().__init__(share, load, ledger, targets)
        self._out = 0
        self._ticked = 0.0

    async def run(self, seconds: float) -> None:
        """Send, until the time is over and each message has its outcome."""
        loop = asyncio.get_running_loop()
        start, sent = loop.time(), 0.0
        self._worst, self._lag, self._held_back = 0.0, 0.0, 0
        self._ticked = time.monotonic()
        rate = self._share.rate * (1 + self._load.casts)
        while (past := loop.time() - start) < seconds:
            while sent < past * rate:
                sent += 1
                if self._out < MOST_OUT:
                    self._send(*self._next())
                else:
                    self._held_back += 1
            await self._tick()
        while self._out:
            await self._tick()

    async def _tick(self) -> None:
        await asyncio.sleep(TICK)
        # Also what sending has taken since the last one.
        last, self._ticked = self._ticked, time.monotonic()
        self._lag = max(self._lag, self._ticked - last - TICK)

    async def reach_all(self) -> None:
        """Call each server once: what was sent to it before has its end then."""
        for target in self._targets:
            number, _ = self._next()
            self._ledger.sent(number, Kind.IDEMPOTENT)
            reply = await Target.look(target.within(30), self._share.sender, number)
            self._ledger.came(number, self._outcome(number, Kind.IDEMPOTENT, reply))

    def _send(self, number: int, kind: Kind) -> None:
        limit = self._random.choice(LIMITS)
        due = time.monotonic() + limit
        target = self._random.choice(self._targets).within(limit)
        try:
            future = self._message(number, kind, target)
        except MailboxFullError:
            self._ended(number, Outcome.REFUSED, due)
            return
        if future is None:
            self._ended(number, Outcome.GOOD, due)
            return
        self._out += 1
        future.add_done_callback(partial(self._done, number, kind, due))

    def _message(self, number: int, kind: Kind, target: Ref[Target]) -> asyncio.Future[Any] | None:
        sender = self._share.sender
        if kind is Kind.IDEMPOTENT:
            return Target.look(target, sender, number)
        if kind is Kind.CALL:
            if self._random.random() < 0.2:
                return Target.wait(target, sender, number, self._random.choice(BUSY))
            return Target.work(target, sender, number, self._random.choice(BUSY))
        future = None
        if self._random.random() < 0.2:
            Target.note.nowait(target, sender, number)
        else:
            future = Target.note(target, sender, number)
        route: Any = target._route  # pyright: ignore[reportPrivateUsage]
        self._ledger.numbered(number, ends.way(route), route.seq)
        return future

    def _done(self, number: int, kind: Kind, due: float, future: asyncio.Future[Any]) -> None:
        self._out -= 1
        error = future.exception()
        outcome = _outcome_of(error) if error else self._outcome(number, kind, future.result())
        self._ended(number, outcome, due)


class BlockingSender(_Sending):
    """Sends from a thread without an event loop, one message after the other."""

    def run(self, seconds: float) -> None:
        """Send, until the time is over."""
        start, sent = time.monotonic(), 0.0
        self._worst, self._lag, self._held_back = 0.0, 0.0, 0
        rate = self._share.rate * (1 + self._load.casts)
        while (past := time.monotonic() - start) < seconds:
            if sent >= past * rate:
                time.sleep(TICK)
                continue
            sent += 1
            self._send(*self._next())

    def reach_all(self) -> None:
        """Call each server once."""
        for target in self._targets:
            number, _ = self._next()
            self._ledger.sent(number, Kind.IDEMPOTENT)
            reply = Target.look.sync(target.within(30), self._share.sender, number)
            self._ledger.came(number, self._outcome(number, Kind.IDEMPOTENT, reply))

    def _send(self, number: int, kind: Kind) -> None:
        limit = self._random.choice(LIMITS)
        due = time.monotonic() + limit
        target = self._random.choice(self._targets).within(limit)
        sender = self._share.sender
        try:
            reply: object = None
            if kind is Kind.CAST:
                # Ahead: while it is sent, its server may die, and the way be gone.
                here = this_thread()
                here._loop.catch_up()  # pyright: ignore[reportPrivateUsage]
                route = here.client().way_to(target)
                self._ledger.numbered(number, ends.way(route), route.seq + 1)
                Target.note.sync(target, sender, number)
            elif kind is Kind.IDEMPOTENT:
                reply = Target.look.sync(target, sender, number)
            else:
                reply = Target.work.sync(target, sender, number, self._random.choice(BUSY))
            outcome = self._outcome(number, kind, reply)
        except NoexError as error:
            outcome = _outcome_of(error)
        self._ended(number, outcome, due)


class Sending(GenServer):
    """Sends from a worker of its own."""

    def __init__(self) -> None:
        self._sender: Sender | None = None
        self._ledger: Ledger | None = None

    def terminate(self, reason: object) -> None:
        if self._ledger is not None:
            self._ledger.close()

    @call
    def prepare(
        self, share: Share, load: Load, ledger: tuple[str, int, int], targets: list[Ref[Target]]
    ) -> None:
        self._ledger = Ledger(*ledger)
        self._sender = Sender(share, load, self._ledger, targets)

    @call
    async def send(self, seconds: float) -> dict[str, float]:
        assert self._sender is not None
        await self._sender.run(seconds)
        return self._sender.figures()

    @call
    async def reach_all(self) -> None:
        assert self._sender is not None
        await self._sender.reach_all()

    @call
    def ends(self) -> list[tuple[int, int]]:
        return ends.all
