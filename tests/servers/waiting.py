"""A server whose async operations wait, or do not, in every way there is."""

from __future__ import annotations

import asyncio
import os
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from typing_extensions import override

from noex_mp import ConfigError, ExitReason, GenServer, call, cast, current_call, stop
from tests.servers.counters import blow, listen

__all__ = ["Promising", "Stubborn", "Waiting"]

_seen: ContextVar[str] = ContextVar("seen", default="nothing")


class Waiting(GenServer, expected=(TimeoutError, ValueError, asyncio.CancelledError)):
    """Waits."""

    def __init__(self) -> None:
        self._events: list[str] = []
        self._gate = asyncio.Event()
        self._first_task: asyncio.Task[Any] | None = None

    @call
    async def at_once(self, value: int) -> int:
        """Return without a wait."""
        return value

    @call
    async def tasks_are_one(self) -> bool:
        """Tell whether the current task is the same before and after a wait, and each time."""
        before = asyncio.current_task()
        await asyncio.sleep(0)
        after = asyncio.current_task()
        self._first_task = self._first_task or before
        return before is not None and before is after is self._first_task

    @call
    async def remember(self, value: str) -> str:
        """Set a context variable, wait, and return it."""
        _seen.set(value)
        await asyncio.sleep(0)
        return _seen.get()

    @call
    async def recall(self) -> str:
        """Return the context variable."""
        return _seen.get()

    @call
    def recall_inline(self) -> str:
        """Return the context variable, without a coroutine."""
        return _seen.get()

    @call
    async def give_up(self, seconds: float) -> None:
        """Wait for what never comes, for so long."""
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().create_future()

    @call
    async def gather(self, count: int) -> list[int]:
        """Return the results of tasks of a group."""

        async def one(n: int) -> int:
            await asyncio.sleep(0)
            return n

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(n)) for n in range(count)]
        return [task.result() for task in tasks]

    @call
    async def cancel_itself(self) -> str:
        """Cancel the task at its wait, and go on."""
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            task.uncancel()
            await asyncio.sleep(0)
            return "went on"
        return "was not cancelled"

    @call
    async def fail(self, *, wait: bool) -> None:
        """Raise, after a wait or without."""
        if wait:
            await asyncio.sleep(0)
        raise ValueError("as asked")

    @cast
    async def pass_gate(self, name: str) -> None:
        """Wait at the gate, and note it."""
        self._events.append(f"{name} comes")
        await self._gate.wait()
        self._events.append(f"{name} goes")

    @cast
    async def wait_a_turn_and_open(self) -> None:
        """Open the gate for those behind."""
        await asyncio.sleep(0)
        self._gate.set()

    @cast
    def note(self, text: str) -> None:
        """Note a text."""
        self._events.append(text)

    @call
    async def output_of(self, *command: str) -> bytes:
        """Run a program, and return what it prints."""
        pipe = asyncio.subprocess.PIPE
        program = await asyncio.create_subprocess_exec(*command, stdout=pipe)
        output, _ = await program.communicate()
        return output

    @call
    async def events(self) -> list[str]:
        """Return what was noted."""
        return self._events


def _touch(path: Path) -> None:
    path.touch()


class Stubborn(GenServer):
    """Takes its time to stop, stops itself, or dies on request."""

    def __init__(self, stopping: str = "", release: str = "") -> None:
        self._stopping = stopping
        self._release = release

    @call
    def size(self, size: int) -> bytes:
        """Return so many bytes."""
        return bytes(size)

    @call
    def os_pid(self) -> int:
        """Return the process."""
        return os.getpid()

    @call
    async def stop_itself(self) -> str:
        """Wait for the end of this very server, and return what comes of it."""
        try:
            await stop(self.ref, timeout=None)
        except ConfigError as error:
            return str(error)
        return "stopped"

    @cast
    def promise(self, marker: str) -> Any:
        """Return a coroutine from a plain method."""
        return self._write(Path(marker))

    async def _write(self, marker: Path) -> None:
        await asyncio.sleep(0)
        _touch(marker)

    @override
    def terminate(self, reason: ExitReason) -> None:
        if self._release:
            blow(self._stopping)
            listen(self._release)


class Promising(GenServer):
    """Has `def` operations that return what is to be awaited."""

    def __init__(self) -> None:
        self._events: list[str] = []

    @call
    def events(self) -> list[str]:
        """Return what has happened."""
        return self._events

    @call
    def time_left(self) -> Any:
        """Return how much time is left after a wait."""
        return self._time_left()

    async def _time_left(self) -> float | None:
        await asyncio.sleep(0)
        running = current_call()
        return running.time_left if running is not None else -1.0

    @call
    def pause(self, started: str) -> Any:
        """Say that it has begun (a fifo), and wait for ever."""
        return self._pause(started)

    async def _pause(self, started: str) -> None:
        try:
            await asyncio.to_thread(blow, started)
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self._events.append("cancelled")
            raise

    @call
    def note_later(self) -> Any:
        """Return what notes that it has run."""
        return self._note()

    async def _note(self) -> None:
        self._events.append("ran")

    @call
    def ask_itself(self) -> Any:
        """Wait for a call to this server."""
        return self._ask_itself()

    async def _ask_itself(self) -> list[str]:
        return await Promising.events(self.ref)

    @call
    def fail(self) -> Any:
        """Return a future that has failed with a TypeError."""
        future = asyncio.get_running_loop().create_future()
        future.set_exception(TypeError("its own"))
        return future
