"""An application for tests of the command line; they run it as `app:tree`."""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
import subprocess
import sys
import time
from typing import NamedTuple

from noex_mp import (
    Event,
    From,
    GenServer,
    Node,
    NoReply,
    PoisonedMessageError,
    Supervisor,
    call,
    child,
    named,
)


class Refused(Exception):
    """An error that belongs to the contract."""


@dataclasses.dataclass(frozen=True)
class Item:
    name: str
    tags: frozenset[str]


class Point(NamedTuple):
    x: int
    y: int


class Counter(GenServer, expected=(Refused,)):
    def __init__(self, start: int = 0) -> None:
        self.value = start

    @call
    def increment(self, by: int = 1) -> int:
        self.value += by
        return self.value

    @call
    def crash(self) -> None:
        raise ValueError("this is the end")

    @call
    def refuse(self) -> None:
        raise Refused("not today")

    @call
    def items(self) -> list[object]:
        day = dt.date(2020, 2, 29)
        return [Item("tea", frozenset({"b", "a"})), (1, 2), {3, 1}, day, Point(1, 2), b"raw"]

    @call
    def say(self, text: str) -> None:
        print(text)
        print(text.upper(), file=sys.stderr)

    @call
    def never(self, sender: From[None]) -> NoReply:
        print("never replies")
        return NoReply()


class Library(GenServer):
    """Has what is hard to show."""

    @call
    def text(self) -> str:
        return "Ω ünï"

    @call
    def large(self) -> int:
        return 10**5000

    @call
    def deep(self) -> list[object]:
        value: list[object] = []
        for _ in range(900):
            value = [value]
        return value


class Loud(Counter):
    def init(self) -> None:
        print("ready in", os.getpid())


class Explorer(GenServer):
    """Looks at where it lives."""

    @call
    def os_pid(self) -> int:
        return os.getpid()

    @call
    def print_much(self, lines: int) -> None:
        for number in range(lines):
            print("line", number, "of many")

    @call
    def variables(self) -> list[str]:
        return sorted(os.environ)

    @call
    def leave_an_orphan(self) -> int:
        # A process of a session of its own, whose parent ends.
        script = "(setsid sleep 1000 & echo $!)"
        return int(subprocess.run(["sh", "-c", script], capture_output=True, check=True).stdout)


class Taster(GenServer):
    """Dies of what it tastes, unless there is a cure."""

    @call(idempotent=True)
    def taste(self, item: Item, cure: str) -> Item:
        if not os.path.exists(cure):
            os._exit(3)
        return item


class Cook(GenServer, expected=(PoisonedMessageError,)):
    @call
    async def serve(self, cure: str) -> None:
        await Taster.taste(named("taster", Taster), Item("tea", frozenset("a")), cure)


class FailingInit(GenServer):
    def init(self) -> None:
        raise Refused("no init today")


class HangingInit(GenServer):
    def init(self) -> None:
        print("init hangs")
        _wait_for_ever()


class HangingEnd(GenServer):
    def terminate(self, reason: object) -> None:
        print("the end hangs")
        _wait_for_ever()


def _wait_for_ever() -> None:
    read_end, _ = os.pipe()
    os.read(read_end, 1)


tree = Supervisor(
    child(Counter, start=10).options(name="visits"),
    child(Counter).options(id="second"),
)
life = Supervisor(child(Explorer).options(name="explorer"))
library = Supervisor(child(Library).options(name="bücher"))
loud = Supervisor(child(Loud))
kitchen = Supervisor(
    child(Taster).options(name="taster"), child(Cook).options(name="cook"), max_restarts=100
)
node = Node(Supervisor(child(Counter)), name="of-its-own")
listened_to = Node(tree)


@listened_to.on_event
def _listen(event: Event) -> None:
    # As it is slow, the node has stopped before it has come to the end.
    time.sleep(0.03)
    print("heard", event.kind, event.server, flush=True)


fails_to_start = Supervisor(child(Counter), child(FailingInit))
hangs_at_start = Supervisor(child(Counter), child(HangingInit).options(init_timeout=None))
hangs_at_end = Supervisor(child(HangingEnd).options(shutdown=None), child(Counter))
gives_up_soon = Supervisor(child(Counter), child(Counter).options(id="weak"), max_restarts=0)


def make() -> Supervisor:
    return tree
