"""Servers that write down when they start and stop, for trees of them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from typing_extensions import override

from noex_mp import (
    ConfigError,
    GenServer,
    NoServerError,
    Ref,
    Reply,
    Stop,
    call,
    child,
    supervisor,
)
from tests.servers.counters import Counter, blow

__all__ = ["Diarist", "Early", "Leaf", "Starter"]


class Diarist(GenServer):
    """Keeps a diary with its siblings: a sign and its name for whatever happens to it."""

    def __init__(self, name: str, diary: str) -> None:
        self.name = name
        self.diary = Path(diary)

    def _note(self, what: str) -> None:
        with open(self.diary, "a") as file:
            file.write(f"{what}{self.name}\n")

    @call
    def os_pid(self) -> int:
        """Return its process."""
        return os.getpid()

    @call
    def me(self) -> Ref[Any]:
        """Return its address."""
        return self.ref


class Leaf(Diarist):
    """What it does in its start depends on its name."""

    @override
    def init(self) -> None:
        if self.name == "bad":
            raise ValueError("bad by name")
        if self.name == "shy":
            self._fail_as_often_as_told()
        if self.name == "slow" and self.diary.with_suffix(".stuck").exists():
            blow(str(self.diary.with_suffix(".slow")))
            while True:
                time.sleep(60)
        self._note("+")

    def _fail_as_often_as_told(self) -> None:
        left = self.diary.with_suffix(".fail")
        if left.exists() and (text := left.read_text()):
            left.write_text(text[1:])
            self._note("!")
            raise ValueError("not yet")

    @call
    def finish(self) -> Reply[None]:
        """End, since its work is done."""
        return Reply(None, Stop())

    @override
    def terminate(self, reason: object) -> None:
        self._note("-")


class Starter(GenServer):
    """Has to do with supervisors itself."""

    @call
    async def start_room(self) -> Ref[Counter]:
        """Start a server somewhere else in the tree."""
        return await supervisor("rooms").start_child(child(Counter))

    @call
    async def end_me(self, how: str) -> str:
        """Ask for the end of this server's own supervisor, or of itself."""
        try:
            if how == "stop":
                await supervisor("front").stop()
            else:
                await supervisor("front").terminate_child("Starter")
        except ConfigError as error:
            return str(error)
        return "no error"


class Early(GenServer):
    """Asks its own supervisor for a sibling while that is starting."""

    @override
    async def init(self) -> None:
        self.refusal: tuple[str, str] | None = None
        try:
            await supervisor("front").start_child(child(Counter))
        except NoServerError as error:
            self.refusal = error.state, str(error)

    @call
    def refused(self) -> tuple[str, str] | None:
        """Return the state of the supervisor, and what was said of it."""
        return self.refusal
