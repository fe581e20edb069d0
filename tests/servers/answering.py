"""Servers with answers of any size, and what goes wrong between two of them."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

from noex_mp import (
    CallCycleError,
    Continue,
    GenServer,
    Ignore,
    Ref,
    Reply,
    Timeout,
    TimeoutAfter,
    call,
    cast,
    current_call,
    send_after,
)
from noex_mp.core.reasons import ExitReason
from tests.servers.busy import Busy
from tests.servers.counters import blow, listen

__all__ = ["Answering", "Choosy", "Mistaken", "Racing", "SelfCalling", "Starting"]


class Answering(GenServer):
    """Answers with as much as it is asked for, and writes down how much it has handled."""

    def __init__(self, path: str = "") -> None:
        self.path = path
        self.handled = 0

    @call
    def big(self, size: int) -> bytes:
        return b"x" * size

    @call
    async def big_slowly(self, size: int) -> bytes:
        await asyncio.sleep(0)
        return b"x" * size

    @call
    async def take_a_moment(self) -> None:
        await asyncio.sleep(0.3)

    @call
    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    @call
    def os_pid(self) -> int:
        return os.getpid()

    @cast
    def put(self, data: bytes) -> None:
        self.handled += 1

    @call
    def count(self) -> int:
        return self.handled

    @call
    async def look_from_a_thread(self, coming: str, seconds: float) -> bool:
        """Ask all the time, in a thread, whether the call was cancelled; return the last answer."""
        return await asyncio.to_thread(self._look, coming, seconds)

    def _look(self, coming: str, seconds: float) -> bool:
        here, end = current_call(), time.monotonic() + seconds
        assert here is not None
        blow(coming)
        while not here.cancelled and time.monotonic() < end:
            pass
        return here.cancelled

    @call
    async def run_out_of_memory(self) -> None:
        """Raise `MemoryError` where nobody catches it, a moment later."""
        asyncio.get_running_loop().call_later(0.05, self._raise)

    def _raise(self) -> None:
        raise MemoryError

    def terminate(self, reason: ExitReason) -> None:
        if self.path:
            Path(self.path).write_text(str(self.handled))


class Starting(GenServer):
    """Waits in its `init` until told to go on."""

    def __init__(self, coming: str, going: str) -> None:
        self.coming, self.going = coming, going

    async def init(self) -> None:
        await asyncio.to_thread(blow, self.coming)
        await asyncio.to_thread(listen, self.going)


class Choosy(GenServer):
    """Is only wanted where a file is not there yet."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def init(self) -> Ignore | None:
        return Ignore() if self.path.exists() else None

    @call
    def crash(self) -> None:
        self.path.touch()
        raise RuntimeError("on purpose")


class Racing(GenServer):
    """Waits for whoever answers first."""

    @call
    async def first_of(self, back: Ref[Racing], other: Ref[Answering]) -> str:
        """Ask one that asks back, and another."""
        back_call, other_call = Racing.ask(back, self.ref), Answering.take_a_moment(other)
        done, _ = await asyncio.wait((back_call, other_call), return_when=asyncio.FIRST_COMPLETED)
        return "back" if back_call in done else "other"

    @call
    async def ask(self, other: Ref[Racing]) -> int:
        return await Racing.one(other)

    @call
    def one(self) -> int:
        return 1


class SelfCalling(GenServer):
    """Calls itself in one of its callbacks, and notes elsewhere what comes of it."""

    def __init__(self, place: str, log: Ref[Busy]) -> None:
        self.place, self.log = place, log

    async def _call_if(self, place: str) -> None:
        if place != self.place:
            return
        try:
            await SelfCalling.one(self.ref.within(None))
        except CallCycleError as error:
            await Busy.note(self.log, type(error).__name__)

    async def init(self) -> Continue | TimeoutAfter | None:
        await self._call_if("init")
        if self.place == "timeout":
            return TimeoutAfter(0.01)
        return Continue("more") if self.place == "handle_continue" else None

    async def handle_continue(self, argument: object) -> None:
        await self._call_if("handle_continue")

    async def handle_info(self, message: object) -> None:
        await self._call_if("timeout" if isinstance(message, Timeout) else "handle_info")

    async def handle_cast(self, request: object) -> None:
        await self._call_if("handle_cast")

    async def terminate(self, reason: ExitReason) -> None:
        await self._call_if("terminate")

    @call
    def remind(self) -> None:
        send_after(self.ref, "now", 0.001)

    @call
    def one(self) -> int:
        return 1


class Mistaken(GenServer):
    """Returns what a callback may not return, where it is told to."""

    def __init__(self, place: str = "", outcome: Any = 5) -> None:
        self.place, self.outcome = place, outcome

    def _outcome_if(self, place: str) -> Any:
        return self.outcome if place == self.place else None

    def init(self) -> Any:
        if self.place == "handle_continue":
            return Continue()
        return self._outcome_if("init")

    def handle_continue(self, argument: object) -> Any:
        return self._outcome_if("handle_continue")

    async def handle_info(self, message: object) -> Any:
        assert message == "hello"
        return self._outcome_if("handle_info")

    @call
    def get(self) -> Any:
        return self._outcome_if("get")

    @call
    async def get_slowly(self) -> Any:
        await asyncio.sleep(0)
        return self._outcome_if("get_slowly")

    @call
    def reply_and(self) -> Any:
        return Reply(1, then=self._outcome_if("reply_and"))

    @cast
    def put(self) -> Any:
        return self._outcome_if("put")

    @call
    def remind(self) -> None:
        send_after(self.ref, "hello", 0)
