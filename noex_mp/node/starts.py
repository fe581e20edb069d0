"""One attempt to start a server: a worker for it, its `init`, and what came of that."""

from __future__ import annotations

import asyncio
import errno
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final, NamedTuple

from noex_mp.core.reasons import ExitReason, InitFailed, InitTimedOut, render
from noex_mp.errors import (
    FileSizeLimitError,
    InitFailedError,
    InitTimedOutError,
    OutOfDescriptorsError,
    StartError,
)
from noex_mp.node.children import Child
from noex_mp.node.directory import Directory
from noex_mp.node.events import Events
from noex_mp.node.exits import reason_of_end
from noex_mp.node.limits import Limits
from noex_mp.node.placements import Placements
from noex_mp.node.stacks import ask_for_stack
from noex_mp.node.workers import Worker
from noex_mp.supervision.shutdown import GRACE
from noex_mp.wire.envelopes import KILL, START

__all__ = ["Ended", "StartFailedError", "Starts"]

# The system has no descriptor, process or memory for a worker. That passes, so it is no fault of
# the server's, and does not count against its restarts.
SHORTAGES: Final = frozenset(
    (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOBUFS, errno.ENOSPC)
)

# When to look again, in seconds.
START_AGAIN: Final = 0.1


class Ended(NamedTuple):
    """How an attempt to start, or an incarnation, ended.

    Attributes:
        reason: Why.
        error: What the server raised, as a payload.
        worker: Where it lived, if anywhere.
        failure: Of a start: what to tell whoever asked for it.
    """

    reason: ExitReason
    error: bytes = b""
    worker: Worker | None = None
    failure: StartError | None = None


class StartFailedError(Exception):
    """A first start failed.

    Attributes:
        error: What the caller of `spawn` is to be told.
        cause: What the server raised, as a payload.
    """

    def __init__(self, error: StartError, cause: bytes) -> None:
        super().__init__(error, cause)
        self.error = error
        self.cause = cause


class Starts:
    """Starts servers, one attempt at a time."""

    def __init__(
        self,
        directory: Directory,
        placements: Placements,
        *,
        events: Events,
        is_stopping: Callable[[], bool],
    ) -> None:
        self._directory = directory
        self._placements = placements
        self._events = events
        self._is_stopping = is_stopping
        self._limits = Limits(events)
        # Workers that come up ahead of the starts they are for.
        self._coming: dict[Child, asyncio.Task[Worker]] = {}

    def prepare(self, child: Child) -> None:
        """Let the worker of a server that starts soon come up meanwhile."""
        if child.placement is None and child not in self._coming:
            loop = asyncio.get_running_loop()
            name = f"worker ahead of {child.title}"
            coming = loop.create_task(self._placements.worker_for(child), name=name)
            self._coming[child] = coming

    async def dismiss(self, children: Iterable[Child]) -> None:
        """End the workers that came up for starts which have not come about."""
        coming = [self._coming.pop(child) for child in children if child in self._coming]
        for worker in await asyncio.gather(*coming, return_exceptions=True):
            if isinstance(worker, Worker):
                worker.retire()

    async def start(self, child: Child) -> Ended | None:
        """Start an incarnation; return None once it is ready, else how that failed."""
        child.begin()
        try:
            worker = await self._worker_for(child)
        except OutOfDescriptorsError as error:
            return Ended(InitFailed("no file descriptors are free"), failure=error)
        except FileSizeLimitError as error:
            return Ended(InitFailed("files may not be large enough"), failure=error)
        except Exception as error:
            return _failed(child, InitFailed(f"no worker process: {error}"))
        child.worker = worker
        self._events.tell("started", child)
        if child.stop_reason is not None:
            if worker.shared:
                return _failed(child, child.stop_reason)
            worker.signal_group(signal.SIGKILL)
        worker.residents[child.sid] = child
        self._limits.started(child, worker)
        if not worker.alive:
            child.answered("dead")
        worker.connection.post_big([START, child.sid, child.incarnation, _start_of(child)])
        if child.restart == "temporary" and not (child.parent and child.parent.is_its_own(child)):
            # Its arguments may be large, and nobody needs them again.
            child.spec = {"server": child.spec["server"]}
        ended = await self._wait_for_init(child, worker)
        if ended is None:
            if child.stop_reason is None:
                child.state = "running"
            self._limits.ready(child, worker)
            self._events.ready(child)
            self._directory.up(child)
        else:
            worker.residents.pop(child.sid, None)
        return ended

    async def _worker_for(self, child: Child) -> Worker:
        """Return a new worker; for a restart, as soon as the system has what it takes."""
        coming = self._coming.pop(child, None)
        if coming is not None:
            # What was missing may be there by now.
            with suppress(OSError, OutOfDescriptorsError):
                worker = await coming
                if worker.takes_servers:
                    return worker
        told = False
        while True:
            try:
                return await self._placements.worker_for(child)
            except OSError as error:
                ending = child.stop_reason is not None or self._is_stopping()
                if child.incarnation == 1 or ending or error.errno not in SHORTAGES:
                    raise
            if not told:
                told = True
                self._events.tell("waiting", child)
            await asyncio.sleep(START_AGAIN)

    async def _wait_for_init(self, child: Child, worker: Worker) -> Ended | None:
        # Its answer, its death, and the time limit race.
        loop, limit = asyncio.get_running_loop(), child.init_timeout
        due = None if limit is None else loop.time() + limit
        while child.answer is None:
            if not await child.change(None if due is None else max(0.0, due - loop.time())):
                child.answered("late")
        match child.answer:
            case "ready":
                return None
            case "ignored" | "refused":
                await self._await_end(worker)
                assert child.exited is not None
                return _failed(child, child.exited[0], child.exited[1], worker)
            case "late":
                late = InitTimedOut(child.init_timeout or 0.0)
                await self._end_by_force(child, worker, late)
                return _failed(child, late, b"", worker)
            case _:
                ours = child.stop_reason or child.struck
                if ours is not None:
                    # We have killed it: see `stops` and `signals`.
                    return _failed(child, ours, b"", worker)
                status = render(reason_of_end(worker))
                reason = InitFailed(f"its worker process ended in it: {status}")
                return _failed(child, reason, b"", worker)

    async def _await_end(self, worker: Worker) -> None:
        if worker.shared:
            return
        # It ends by itself; should it hang in that, it is of no use to anybody.
        if not (await asyncio.wait((worker.dead,), timeout=1.0))[0]:
            await ask_for_stack(worker)
        worker.signal_group(signal.SIGKILL)
        await worker.dead

    async def _end_by_force(self, child: Child, worker: Worker, reason: ExitReason) -> None:
        """End an incarnation that has not become ready, and its worker if there is no other way."""
        if worker.shared:
            worker.connection.post([KILL, child.sid, reason])
            loop = asyncio.get_running_loop()
            deadline = loop.time() + GRACE
            while child.exited is None and worker.alive:
                if not await child.change(max(0.0, deadline - loop.time())):
                    break
            if child.exited is not None or not worker.alive:
                return
            worker.condemned = f"{child.title} {render(reason)}"
        await ask_for_stack(worker)
        worker.signal_group(signal.SIGKILL)
        await worker.dead


def _failed(
    child: Child, reason: ExitReason, error: bytes = b"", worker: Worker | None = None
) -> Ended:
    return Ended(reason, error, worker, _start_error(child, reason))


def _start_error(child: Child, reason: ExitReason) -> StartError:
    if isinstance(reason, InitTimedOut):
        return InitTimedOutError(child.title, reason.limit)
    detail = reason.detail if isinstance(reason, InitFailed) else render(reason)
    return InitFailedError(child.title, detail)


def _start_of(child: Child) -> dict[str, Any]:
    return {
        **child.spec,
        "label": child.label,
        "process": child.process,
        "watched": child.hang_timeout is not None,
        # As a list: the first tuple that a worker unpacks costs it 40 KiB.
        "mailbox": list(child.mailbox),
    }
