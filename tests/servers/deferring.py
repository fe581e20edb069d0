"""A server that replies when it is told to."""

from __future__ import annotations

from typing import Any

from noex_mp import From, GenServer, NoReply, call

__all__ = ["Deferring"]


class Deferring(GenServer):
    """Keeps who waits, each under a name."""

    def __init__(self) -> None:
        self.waiting: dict[str, From[Any]] = {}
        self.left: list[str] = []

    @call
    def ask(self, sender: From[int], name: str) -> NoReply:
        self.waiting[name] = sender
        sender.when_cancelled(lambda: self.left.append(name))
        return NoReply()

    @call
    def reply(self, name: str, value: int) -> None:
        self.waiting[name].reply(value)

    @call
    def refuse(self, name: str, why: str) -> None:
        self.waiting[name].fail(ValueError(why))

    @call
    def is_wanted(self, name: str) -> tuple[bool, float | None]:
        sender = self.waiting[name]
        return not sender.cancelled, sender.time_left

    @call
    def has_asked(self, name: str) -> bool:
        return name in self.waiting

    @call
    def who(self, name: str) -> object:
        return self.waiting[name].caller

    @call
    def who_left(self) -> list[str]:
        return self.left

    @call
    def block(self, coming: str, going: str) -> None:
        with open(coming, "wb", buffering=0) as there:
            there.write(b"x")
        with open(going, "rb", buffering=0) as here:
            here.read(1)
