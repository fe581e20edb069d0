"""Servers that end in the middle of some messages, as often as they get them."""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

from noex_mp import From, GenServer, NoReply, PoisonedMessageError, Ref, call
from tests.servers.counters import blow, listen


def _allocate() -> None:
    room = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + 2**26
    resource.setrlimit(resource.RLIMIT_AS, (room, resource.getrlimit(resource.RLIMIT_AS)[1]))
    bytearray(2**30)


def _raise() -> None:
    raise ValueError("this is poison")


DEATHS: dict[str, Callable[[], object]] = {
    "exit": lambda: os._exit(3),
    "segfault": lambda: ctypes.string_at(0),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "memory": _allocate,
    "raise": _raise,
}


class Poisonous(GenServer):
    """Dies of `swallow`, unless the file that it names is there: then it is cured."""

    def __init__(self) -> None:
        self.noted: list[int] = []
        self.waiting: list[From[str]] = []

    @call(idempotent=True)
    def swallow(self, how: str, cure: str = "", load: bytes = b"") -> str:
        return self._swallow(how, cure)

    @call(idempotent=True)
    async def swallow_slowly(self, how: str, cure: str = "") -> str:
        await asyncio.sleep(0)
        return self._swallow(how, cure)

    @call(idempotent=True, max_deliveries=1)
    def swallow_once(self, how: str) -> str:
        return self._swallow(how, "")

    @call(idempotent=True, max_deliveries=None)
    def swallow_for_ever(self, how: str, deaths: str, times: int) -> str:
        """Die so many times; the file counts them."""
        with open(deaths, "a+") as file:
            file.seek(0)
            done = len(file.read())
            file.write("x")
        return "well" if done >= times else self._swallow(how, "")

    def _swallow(self, how: str, cure: str) -> str:
        if not cure or not Path(cure).exists():
            DEATHS[how]()
        return "well"

    @call(idempotent=True)
    def tell_and_swallow(self, started: str, release: str) -> str:
        """Say that it has begun, and die when it is told to."""
        blow(started)
        listen(release)
        return self._swallow("kill", "")

    @call
    def me(self) -> Ref[Poisonous]:
        return self.ref

    @call
    def note(self, number: int) -> int:
        self.noted.append(number)
        return number

    @call
    def all(self) -> list[int]:
        return self.noted

    @call(idempotent=True)
    def wait(self, sender: From[str], started: str) -> NoReply:
        """Be answered by `answer`."""
        self.waiting.append(sender)
        blow(started)
        return NoReply()

    @call
    def answer(self) -> int:
        for sender in self.waiting:
            sender.reply("answered")
        return len(self.waiting)

    @call
    def kill(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    @call
    def block(self, started: str) -> None:
        blow(started)
        signal.pause()


class Feeder(GenServer, expected=(PoisonedMessageError,)):
    """Calls a poisonous server from its own process."""

    @call
    async def feed(self, ref: Ref[Poisonous], how: str) -> str:
        return await Poisonous.swallow(ref, how)

    @call
    async def feed_and_tell(self, ref: Ref[Poisonous], started: str, release: str) -> str:
        return await Poisonous.tell_and_swallow(ref.within(None), started, release)
