"""Servers that are slow on request, call others, and note what happens to them."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from typing_extensions import override

from noex_mp import (
    CallCycleError,
    CallTimedOutError,
    From,
    GenServer,
    NoReply,
    Ref,
    Reply,
    call,
    cancel_timer,
    cast,
    current_call,
    send_after,
    send_interval,
)
from tests.servers.counters import blow, listen

__all__ = ["Busy", "DropsNewest", "DropsOldest", "Rejects", "Ticking"]


async def _awaited(call: asyncio.Future[list[str]]) -> list[str]:
    return await call


class Busy(GenServer, expected=(CallCycleError, CallTimedOutError)):
    """Waits where it is told to, and calls whom it is told to call."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._kept: object = None

    @cast
    def note(self, value: Any) -> None:
        """Note a value."""
        self.seen.append(value)

    @call
    def notes(self) -> list[Any]:
        """Return what was noted."""
        return self.seen

    @call
    def echo(self, value: Any) -> Any:
        """Note and return a value."""
        self.seen.append(value)
        return value

    @call
    async def wait_for_a_future(self) -> None:
        """Wait for a future, and note how it ends."""
        self.seen.append("begun")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def ended(future: asyncio.Future[None]) -> None:
            self.seen.append("cancelled" if future.cancelled() else "done")

        future.add_done_callback(ended)
        await future

    @call
    def block(self, coming: str, going: str) -> str:
        """Stand still, the whole process, until told to go on."""
        blow(coming)
        listen(going)
        return "went on"

    @cast
    def block_cast(self, coming: str, going: str) -> None:
        """The same, without a reply."""
        blow(coming)
        listen(going)

    @call
    async def wait(self, coming: str) -> str:
        """Wait for ever, and note how that ends."""
        blow(coming)
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.seen.append("cancelled")
            raise
        return "never"

    @call
    async def wait_and_note(self, coming: str, going: str) -> None:
        """Wait until told to go on, and note whether somebody still waits for it."""
        await asyncio.to_thread(blow, coming)
        await asyncio.to_thread(listen, going)
        here = current_call()
        assert here is not None
        self.seen += ["went on", f"cancelled: {here.cancelled}"]

    @call
    async def wait_stubbornly(self, coming: str) -> str:
        """Wait, swallow the cancel, and answer all the same."""
        blow(coming)
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.seen.append("swallowed")
        return "here I am"

    @call
    def spin_until_cancelled(self, coming: str, limit: float) -> bool:
        """Compute until nobody waits any more, without a wait."""
        blow(coming)
        end = time.monotonic() + limit
        while time.monotonic() < end:
            here = current_call()
            if here is not None and here.cancelled:
                self.seen.append("noticed")
                return True
        self.seen.append("overlooked")
        return False

    @call
    def time_left(self) -> float | None:
        """Return what is left of the caller's time."""
        here = current_call()
        assert here is not None
        assert here.operation == "time_left"
        return here.time_left

    @cast
    def note_current_call(self) -> None:
        """Note whether a cast has a current call."""
        self.seen.append(current_call() is None)

    @call
    async def ask_time_left(self, other: Ref[Busy], *, first_wait: bool) -> float | None:
        """Ask another server, with a limit of its own, how much time it has."""
        if first_wait:
            await asyncio.sleep(0)
        return await Busy.time_left(other.within(60.0))

    @call
    def ask_time_left_later(self, sender: From[float | None], other: Ref[Busy]) -> NoReply:
        """The same from a plain handler, which is over when the reply comes."""
        asked = Busy.time_left(other.within(60.0))
        asked.add_done_callback(lambda reply: sender.reply(reply.result()))
        return NoReply()

    @call
    async def ask_time_left_in_a_thread(self, other: Ref[Busy]) -> float | None:
        """The same, from a thread."""
        return await asyncio.to_thread(Busy.time_left.sync, other.within(60.0))

    @call
    async def ask_time_left_in_an_executor(self, other: Ref[Busy]) -> float | None:
        """The same, from a thread that knows nothing of this call."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, Busy.time_left.sync, other.within(60.0))

    @call
    async def ask_too_late(self, other: Ref[Busy]) -> None:
        """Call when the own caller's time is over."""
        here = current_call()
        assert here is not None
        assert here.time_left is not None
        await asyncio.sleep(here.time_left + 0.2)
        try:
            await Busy.echo(other, "too late")
        except CallTimedOutError:
            self.seen.append("refused")

    @call
    async def leave_task(self, other: Ref[Busy], coming: str, going: str) -> str:
        """Reply, and let a task call another server after that."""

        async def later() -> None:
            await asyncio.get_running_loop().run_in_executor(None, listen, going)
            self.seen.append(await Busy.time_left(other.within(60.0)))
            blow(coming)

        task = asyncio.create_task(later())
        self._tasks.add(task)
        return "done"

    @call
    async def pass_on(self, path: list[Ref[Busy]]) -> list[str]:
        """Call the next of the path with the rest of it; return who was there."""
        if not path:
            return ["end"]
        return ["on", *(await Busy.pass_on(path[0].within(None), path[1:]))]

    @call
    async def pass_on_by(self, how: str, path: list[Ref[Busy]]) -> list[str]:
        """Do the same, with the call wrapped in something of asyncio's."""
        following = Busy.pass_on(path[0].within(None), path[1:])
        if how == "wait_for":
            return await asyncio.wait_for(following, 60)
        if how == "gather":
            return (await asyncio.gather(following, asyncio.sleep(0)))[0]
        if how == "shield":
            return await asyncio.shield(following)
        if how == "task group":
            async with asyncio.TaskGroup() as group:
                asked = group.create_task(_awaited(following))
                group.create_task(asyncio.sleep(0))
            return asked.result()
        assert how == "task"

        async def in_task() -> list[str]:
            return await following

        return await asyncio.create_task(in_task())

    @call
    async def pass_on_when_told(self, coming: str, going: str, path: list[Ref[Busy]]) -> list[str]:
        """Say that this has begun, wait for a sign, then call the next of the path."""
        await asyncio.to_thread(blow, coming)
        await asyncio.to_thread(listen, going)
        return await Busy.pass_on(path[0].within(None), path[1:])

    @call
    async def call_when_told(self, other: Ref[Busy], coming: str, going: str) -> str:
        """Say that this has begun, wait for a sign, then call another server."""
        blow(coming)
        await asyncio.get_running_loop().run_in_executor(None, listen, going)
        value: str = await Busy.echo(other.within(None), "hello")
        return value

    @call
    async def call_without_waiting(self, other: Ref[Busy], going: str) -> str:
        """Call another server, and wait for something else."""
        asked = Busy.ask_back(other.within(None), self.ref)
        await asyncio.get_running_loop().run_in_executor(None, listen, going)
        self._kept = asked
        return "done"

    @call
    async def ask_back(self, other: Ref[Busy]) -> list[Any]:
        """Call whoever called."""
        return await Busy.notes(other.within(None))

    @call
    def reply_later(self, sender: From[str], other: Ref[Busy], coming: str) -> NoReply:
        """Call another server from a task, and reply when it has replied."""

        async def ask() -> None:
            blow(coming)
            sender.reply(str(await Busy.ask_back(other.within(None), self.ref)))

        self._tasks.add(asyncio.create_task(ask()))
        return NoReply()

    @cast
    async def flood(self, other: Ref[Busy], count: int) -> None:
        """Cast to another server, waiting for its window."""
        for n in range(count):
            await Busy.note(other.within(None), n)

    @call
    def count(self) -> int:
        """Return how much was noted."""
        return len(self.seen)

    @call
    def stop_here(self) -> Reply[int]:
        """Return the number of notes, and forget them."""
        seen, self.seen = self.seen, []
        return Reply(len(seen))


class DropsOldest(Busy, max_messages=10, when_full="drop_oldest"):
    """Keeps the newest ten."""


class DropsNewest(Busy, max_messages=10, when_full="drop_newest"):
    """Keeps the oldest ten."""


class Rejects(Busy, max_messages=10, when_full="reject"):
    """Takes ten."""


class Ticking(GenServer):
    """Sets timers for itself."""

    def __init__(self, signal: str = "") -> None:
        self._signal = signal
        self.heard: list[Any] = []
        self._timer: Any = None

    @call
    def after(self, message: Any, seconds: float) -> None:
        """Set a timer."""
        self._timer = send_after(self.ref, message, seconds)

    @call
    def every(self, message: Any, seconds: float) -> None:
        """Set an interval."""
        self._timer = send_interval(self.ref, message, seconds)

    @call
    def every_and_block(self, message: Any, seconds: float, blocked: float) -> None:
        """Set an interval, and keep the process busy for some time from that moment."""
        self.every(message, seconds)
        self.block(blocked)

    @call
    def count_and_block(self, seconds: float) -> int:
        """Return how much it has heard, and keep the process busy from that moment."""
        self.block(seconds)
        return len(self.heard)

    @call
    def cancel(self) -> float | None:
        """Take the timer back."""
        return cancel_timer(self._timer)

    @call
    async def cancel_what_has_fired(self, seconds: float) -> float | None:
        """Take a timer back that has fired while this handler kept the server busy."""
        timer = send_after(self.ref, "fired", seconds)
        await asyncio.sleep(4 * seconds)
        return cancel_timer(timer)

    @call
    def block(self, seconds: float) -> None:
        """Keep the process busy: what a slow handler does to an interval."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pass

    @call
    def all(self) -> list[Any]:
        """Return what was heard."""
        return self.heard

    @override
    def handle_info(self, message: Any) -> None:
        self.heard.append(message)
        if self._signal:
            blow(self._signal)
