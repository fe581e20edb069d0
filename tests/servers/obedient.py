"""A server that starts and ends as it is told, for trees whose children misbehave to order."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from typing_extensions import override

from noex_mp import ExitReason, Ignore, Normal, Reply, Shutdown, Stop, call
from tests.servers.counters import blow
from tests.servers.trees import Diarist

__all__ = ["Obedient"]

REASONS: dict[str, ExitReason] = {
    "normal": Normal(),
    "shutdown": Shutdown(),
    "shutdown with a detail": Shutdown("some detail"),
}


class Obedient(Diarist):
    """Keeps a diary in a folder with its siblings, and finds its orders there.

    Each of its starts takes the next letter of the file `NAME.orders`: `+` starts, `!` raises, `0`
    ignores, and `?` blows the whistle `NAME.asks`, and does what comes through `NAME.told`. The
    letter before `...` is for all further starts.

    Args:
        name: What it writes into the diary: `+name` when it starts, `-name` when it ends.
        folder: Where.
        last: What its `terminate` does: `ask` (and wait for an answer), `hang`, `raise`, `exit`
            the process, or nothing.
    """

    def __init__(self, name: str, folder: str, *, last: str = "") -> None:
        self.folder = Path(folder)
        super().__init__(name, str(self.folder / "diary"))
        self.last = last

    @override
    def init(self) -> Ignore | None:
        order = self._next_order()
        if order == "?":
            order = self._ask()
        self._note(order)
        if order == "!":
            raise ValueError("told to fail")
        return Ignore() if order == "0" else None

    def _next_order(self) -> str:
        orders = self.folder / f"{self.name}.orders"
        left = orders.read_text() if orders.exists() else ""
        if not left:
            return "+"
        if left[1:] != "...":
            orders.write_text(left[1:])
        return left[0]

    def _ask(self) -> str:
        blow(str(self.folder / f"{self.name}.asks"))
        with open(self.folder / f"{self.name}.told", "rb", buffering=0) as told:
            return told.read(1).decode()

    @call
    def end(self, how: str) -> Reply[None]:
        """End by itself: `normal`, `shutdown`, or by a crash."""
        if how == "crash":
            raise ValueError("told to crash")
        return Reply(None, Stop(REASONS[how]))

    @override
    async def terminate(self, reason: object) -> None:
        self._note("-")
        match self.last:
            case "ask":
                self._ask()
            case "hang":
                await asyncio.Event().wait()
            case "raise":
                raise ValueError("told to raise at the end")
            case "exit":
                os._exit(3)
            case _:
                pass
