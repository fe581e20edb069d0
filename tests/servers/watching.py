"""Servers that watch others, or are linked to them."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from noex_mp import (
    Down,
    Exit,
    From,
    GenServer,
    Monitor,
    NodeDownError,
    NoNodeError,
    NoReply,
    Ref,
    Stop,
    call,
    cast,
    demonitor,
    link,
    monitor,
    trap_exits,
    unlink,
)
from tests.servers.counters import blow, listen


class Watcher(GenServer[Any, Any, Any]):
    """Keeps what it hears, and says so to whoever waits."""

    def __init__(
        self,
        *,
        traps: bool = False,
        watches: Any = None,
        links: Any = None,
        says_farewell: str = "",
    ) -> None:
        self.notes: list[Any] = []
        self.traps = traps
        self.watches = watches
        self.links = links
        self.says_farewell = says_farewell
        self.waiting: tuple[From[list[Any]], int] | None = None

    def init(self) -> None:
        if self.traps:
            trap_exits()
        if self.watches is not None:
            monitor(self.watches)
        if self.links is not None:
            link(self.links)

    def handle_info(self, message: Any) -> None:
        self._heard(message)

    def _heard(self, message: Any) -> None:
        self.notes.append(message)
        if self.waiting is not None and len(self.notes) >= self.waiting[1]:
            self.waiting[0].reply(list(self.notes))
            self.waiting = None

    @call
    def heard(self, sender: From[list[Any]], count: int) -> NoReply:
        """Return what it has heard, once that is so much."""
        self.waiting = (sender, count)
        if len(self.notes) >= count:
            sender.reply(list(self.notes))
            self.waiting = None
        return NoReply()

    @cast
    def note(self, value: object) -> None:
        self._heard(value)

    @cast
    def note_slowly(self, value: object) -> None:
        """Take so long that many of them are more than one batch."""
        end = time.perf_counter() + 100e-6
        while time.perf_counter() < end:
            pass
        self._heard(value)

    @cast
    def note_size(self, value: bytes) -> None:
        self._heard(len(value))

    @call
    def all(self) -> list[Any]:
        return self.notes

    @call
    def os_pid(self) -> int:
        return os.getpid()

    @call
    async def settle(self) -> None:
        """Return once the root has heard all that this process has said."""
        await self.ref.is_running()

    @call
    def watch(self, ref: Any) -> Monitor:
        return monitor(ref)

    @call
    async def watch_slowly(self, ref: Any) -> Monitor:
        return monitor(ref)

    @call
    def watch_often(self, ref: Any, times: int) -> None:
        for _ in range(times):
            monitor(ref)

    @call
    def unwatch(self, watched: Monitor, *, flush: bool = False) -> bool:
        return demonitor(watched, flush=flush)

    @call
    def unwatch_late(self, watched: Monitor, path: str, *, flush: bool) -> bool:
        """Block until somebody lets it go on, and only then watch no more."""
        listen(path)
        return demonitor(watched, flush=flush)

    @call
    async def unwatch_later(self, watched: Monitor, path: str, *, flush: bool) -> bool:
        """Wait likewise, while the event loop takes in what comes."""
        await asyncio.to_thread(listen, path)
        return demonitor(watched, flush=flush)

    @call
    def link_with(self, ref: Any) -> None:
        link(ref)

    @call
    def unlink_from(self, ref: Any) -> None:
        unlink(ref)

    @call
    def trap(self, on: bool) -> bool:
        return trap_exits(on)

    @call
    async def try_in_thread(self, what: str, ref: Any) -> str:
        """Return the error of a thread that does what is for the event loop."""
        functions: dict[str, Callable[[Any], object]] = {
            "monitor": monitor,
            "link": link,
            "unlink": unlink,
            "trap_exits": trap_exits,
        }
        try:
            await asyncio.to_thread(functions[what], ref)
        except NoNodeError as error:
            return str(error)
        return ""

    @call
    async def try_to_link(self, ref: Any) -> str:
        """Return the error of a link to what is of another node."""
        try:
            link(ref)
        except NodeDownError as error:
            return str(error)
        return ""

    @call
    def block(self, path: str) -> None:
        """Let nobody else in until somebody blows; say so first."""
        blow(path)
        listen(path + ".on")

    @call
    def crash(self, text: str = "on purpose") -> None:
        raise ValueError(text)

    @cast
    def end(self, reason: Any) -> Stop:
        return Stop(reason)

    @cast
    async def tell_and_die(self, other: Ref[Watcher], count: int, how: str) -> Stop | None:
        """Send another server a number of casts, and end at once."""
        await Watcher.os_pid(other)
        for number in range(count):
            Watcher.note_slowly.nowait(other, number)
        if how == "kill":
            # What is sent leaves at the next turn.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "crash":
            raise ValueError("on purpose")
        return Stop()

    @cast
    async def tell_much_and_end(self, other: Ref[Watcher], size: int, path: str) -> Stop:
        """Send more than a socket takes, and end; say when."""
        await Watcher.os_pid(other)
        Watcher.note_size.nowait(other, b"first")
        blow(path)
        await asyncio.to_thread(listen, path + ".on")
        for _ in range(10):
            Watcher.note_size.nowait(other, b"x" * size)
        blow(path)
        return Stop()

    def terminate(self, reason: object) -> None:
        if self.says_farewell:
            blow(self.says_farewell)

    @call
    def spin(self, path: str) -> None:
        """Compute for ever, and let nobody else in; say so first."""
        blow(path)
        while True:
            time.sleep(0)


class Loud(GenServer):
    """Tells another much in its second `init`, which fails."""

    def __init__(self, other: Ref[Watcher], marker: str) -> None:
        self.other = other
        self.marker = Path(marker)

    def init(self) -> None:
        if not self.marker.exists():
            self.marker.touch()
            return
        self.marker.unlink()
        blow(f"{self.marker}.fifo")
        listen(f"{self.marker}.fifo.on")
        for _ in range(10):
            Watcher.note_size.nowait(self.other, b"x" * 300_000)
        raise ValueError("on purpose")

    @call
    async def tell(self) -> None:
        await Watcher.note_size(self.other, b"first")

    @call
    def crash(self) -> None:
        raise ValueError("on purpose")


class Persistent(GenServer[Any, Any, Any]):
    """Watches again whenever it hears of an end, and says which incarnations follow."""

    def __init__(self, watched: Any) -> None:
        self.watched = watched
        self.following: list[int | None] = []
        self.waiting: tuple[From[list[int | None]], int] | None = None

    def init(self) -> None:
        monitor(self.watched)

    def handle_info(self, message: Any) -> None:
        if isinstance(message, Down):
            monitor(self.watched)
            self.following.append(message.restart)
            self._say()

    @call
    def heard(self, sender: From[list[int | None]], count: int) -> NoReply:
        """Reply with what it has heard once that is so much."""
        self.waiting = sender, count
        self._say()
        return NoReply()

    def _say(self) -> None:
        if self.waiting is not None and len(self.following) >= self.waiting[1]:
            self.waiting[0].reply(self.following)
            self.waiting = None


def is_down(message: object, ref: object) -> bool:
    return isinstance(message, Down) and message.ref == ref


def is_exit(message: object, ref: object) -> bool:
    return isinstance(message, Exit) and message.ref == ref
