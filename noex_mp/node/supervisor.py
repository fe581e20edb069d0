"""Carries out what `supervision` decides: starts servers, hears of their ends, starts them again.

A server that runs has no task. A start has one, the first and each after an end: it asks for a
worker, waits for the server's answer, and is over. An end is heard of in two ways, and both come
to `_ended`, which asks for a plan: the worker has died (`worker_died`), with all that lived in it;
or the server has said so, in the worker of a placement group, which lives on (`server_ended`).

Stopping a server sets its `stop_reason`, makes it end, and waits until it is over.
"""

from __future__ import annotations

import asyncio
import errno
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any, Final, NamedTuple

from noex_mp.core.reasons import (
    ExitReason,
    ExitReport,
    InitFailed,
    InitTimedOut,
    Shutdown,
    ShutdownTimedOut,
    Unknown,
    is_abnormal,
    render,
)
from noex_mp.core.specs import ShutdownLimit, Supervisor
from noex_mp.errors import (
    InitFailedError,
    InitTimedOutError,
    NodeDownError,
    OutOfDescriptorsError,
    StartError,
)
from noex_mp.node.children import Child
from noex_mp.node.directory import Directory
from noex_mp.node.events import Event, Listener
from noex_mp.node.exits import reason_of_death, reason_of_status, report_exit
from noex_mp.node.placements import Placements
from noex_mp.node.workers import Worker
from noex_mp.supervision import plan as plans
from noex_mp.supervision.plan import plan_exit
from noex_mp.supervision.shutdown import GRACE, Step, plan_shutdown, stop_steps
from noex_mp.wire.envelopes import FORGET, KILL, START, STOP

__all__ = ["Siblings", "StartFailedError", "Supervision"]

# The system has no descriptor, process or memory for a worker. That passes, so it is no fault of
# the server's, and does not count against its restarts.
SHORTAGES: Final = frozenset(
    (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOBUFS, errno.ENOSPC)
)

# When to look again, in seconds.
START_AGAIN: Final = 0.1


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


class _Ended(NamedTuple):
    """How an attempt to start, or an incarnation, ended."""

    reason: ExitReason
    error: bytes
    worker: Worker | None
    refusal: StartError | None = None


class Siblings:
    """Children that share one restart budget: those of the tree, or a single spawned server.

    Attributes:
        tree: What decides.
        on_give_up: Is called with the child whose exit was one too many.
        last_death: The number of the last worker whose death was counted.
    """

    __slots__ = ("last_death", "on_give_up", "tree")

    def __init__(self, tree: plans.Tree, on_give_up: Callable[[Child], None] | None = None) -> None:
        self.tree = tree
        self.on_give_up = on_give_up
        self.last_death = 0

    def plan(self, child: Child, ended: _Ended) -> plans.Plan:
        """Decide what follows from an end; the death of a worker counts once."""
        worker = ended.worker
        death = worker.number if worker and not worker.alive and child.exited is None else 0
        counted = death != 0 and death == self.last_death
        now = time.monotonic()
        plan = plan_exit(self.tree, child.id, ended.reason, now=now, counted=counted)
        if plan.restarts != self.tree.restarts:
            self.last_death = death
            self.tree = replace(self.tree, restarts=plan.restarts)
        return plan


class Supervision:
    """The servers of a node, kept alive.

    Attributes:
        gave_up: Done when the tree's supervisor has given up: the report of the last straw.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        directory: Directory,
        *,
        start_worker: Callable[[Child], Awaitable[Worker]],
        listener: Listener,
    ) -> None:
        self._loop = loop
        self._directory = directory
        self._placements = Placements(start_worker)
        self._listener = listener
        self._tasks: set[asyncio.Task[None]] = set()
        self._static: list[Child] = []
        self._dynamic: dict[int, Child] = {}
        self.spec: Supervisor | None = None
        self.gave_up: asyncio.Future[ExitReport] = loop.create_future()
        self._fast = asyncio.Event()
        self._stopping = False

    # --- starting ----------------------------------------------------------------------

    async def start_tree(self, spec: Supervisor, children: list[dict[str, Any]]) -> None:
        """Start the children of a tree from left to right, each ready before the next.

        Raises:
            StartFailedError: One did not start; those before it have been stopped, in reverse.
            NodeDownError: The node was stopped meanwhile.
        """
        self.spec = spec
        siblings = Siblings(plans.Tree.from_spec(spec), on_give_up=self._give_up)
        for wire in children:
            if self._stopping:
                raise NodeDownError("the node is stopping and starts no servers")
            child = Child(self._directory.next_sid(), wire, "permanent")
            child.siblings = siblings
            self._add(child, wire)
            self._static.append(child)
            try:
                await self._begin(child)
            except StartFailedError:
                await self.stop_all(Shutdown("a sibling did not start"))
                raise

    async def spawn(self, wire: dict[str, Any]) -> Child:
        """Start a server under the node's own supervisor, with a restart budget of its own.

        Raises:
            StartFailedError: It did not start.
            AlreadyRegisteredError: Its name is taken.
            BadChildSpecError: Its placement group's process is not what it asks for.
            NodeDownError: The node is stopping.
        """
        if self._stopping:
            raise NodeDownError("the node is stopping and starts no servers")
        child = Child(self._directory.next_sid(), wire, "transient")
        self._add(child, wire)
        self._dynamic[child.sid] = child
        await self._begin(child)
        if child.incarnation == 1 and child.is_over and child.answer == "ignored":
            raise StartFailedError(InitFailedError(child.title, "its init returned Ignore()"), b"")
        return child

    def _add(self, child: Child, wire: dict[str, Any]) -> None:
        self._directory.add(child)
        if wire["placement"] is not None:
            try:
                self._placements.join(child, wire["placement"])
            except BaseException:
                self._directory.gone(child)
                raise

    async def _begin(self, child: Child) -> None:
        child.starting = True
        task = self._run(child, self._start_first(child), f"start of {child.title}")
        # Should the caller be cancelled, the start goes on to its end all the same.
        await asyncio.shield(task)

    def _run(self, child: Child, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = self._loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(partial(self._task_done, child))
        return task

    def _task_done(self, child: Child, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, StartFailedError):
            self._failed(child, error)

    def _failed(self, child: Child, error: BaseException) -> None:
        # Our own bug, and nobody supervises the server any more: it must not run on alone.
        self._loop.call_exception_handler({"message": "a supervisor failed", "exception": error})
        if child.worker is not None:
            child.worker.condemned = f"of a bug in noex-mp: {error!r}"
            child.worker.signal_group(signal.SIGKILL)
        report = report_exit(child, child.worker, Unknown(f"a bug in noex-mp: {error!r}"), "")
        if not child.is_over:
            self._let_go(child, report, b"")
        if child in self._static and not self.gave_up.done():
            self.gave_up.set_result(report)

    # --- one start ---------------------------------------------------------------------

    async def _start_first(self, child: Child) -> None:
        ended = await self._start(child)
        child.starting = False
        if ended is None:
            self._look_for_end(child)
            return
        report = self._report(child, ended, "it was not started")
        self._let_go(child, report, ended.error)
        if child.answer != "ignored":
            self._tell("not_started", child, report)
            raise StartFailedError(_start_error(child, ended), ended.error)

    async def _start_again(self, child: Child) -> None:
        while (ended := await self._start(child)) is not None:
            if not self._restarts(child, ended):
                return
        child.starting = False
        self._look_for_end(child)

    async def _start(self, child: Child) -> _Ended | None:
        """Start an incarnation; return None once it is ready, else how that failed."""
        child.begin()
        self._tell("starting", child)
        try:
            worker = await self._worker_for(child)
        except OutOfDescriptorsError as error:
            return _Ended(InitFailed("no file descriptors are free"), b"", None, error)
        except Exception as error:
            return _Ended(InitFailed(f"no worker process: {error}"), b"", None)
        child.worker = worker
        if child.stop_reason is not None:
            if worker.shared:
                return _Ended(child.stop_reason, b"", None)
            worker.signal_group(signal.SIGKILL)
        worker.residents[child.sid] = child
        if not worker.alive:
            child.answered("dead")
        worker.connection.post_big([START, child.sid, child.incarnation, _start_of(child)])
        if child.restart == "temporary":
            # Its arguments may be large, and nobody needs them again.
            child.spec = {**child.spec, "payload": b""}
        ended = await self._wait_for_init(child, worker)
        if ended is None:
            if child.stop_reason is None:
                child.state = "running"
            self._tell("restarted" if child.incarnation > 1 else "started", child)
            self._directory.up(child)
        else:
            worker.residents.pop(child.sid, None)
        return ended

    async def _worker_for(self, child: Child) -> Worker:
        """Return a new worker; for a restart, as soon as the system has what it takes."""
        told = False
        while True:
            try:
                return await self._placements.worker_for(child)
            except OSError as error:
                ending = child.stop_reason is not None or self._stopping
                if child.incarnation == 1 or ending or error.errno not in SHORTAGES:
                    raise
            if not told:
                told = True
                self._tell("waiting", child)
            await asyncio.sleep(START_AGAIN)

    async def _wait_for_init(self, child: Child, worker: Worker) -> _Ended | None:
        # Its answer, its death, and the time limit race.
        if child.answer is None and not await child.change(child.init_timeout):
            child.answered("late")
        match child.answer:
            case "ready":
                return None
            case "ignored" | "refused":
                await self._await_end(worker)
                assert child.exited is not None
                return _Ended(child.exited[0], child.exited[1], worker)
            case "late":
                reason = InitTimedOut(child.init_timeout or 0.0)
                await self._end_by_force(child, worker, reason)
                return _Ended(reason, b"", worker)
            case _:
                if child.stop_reason is not None:
                    # We have killed it: see `_ask`.
                    return _Ended(child.stop_reason, b"", worker)
                status = render(reason_of_status(worker.dead.result()))
                return _Ended(InitFailed(f"its worker process ended in it: {status}"), b"", worker)

    async def _await_end(self, worker: Worker) -> None:
        if worker.shared:
            return
        # It ends by itself; should it hang in that, it is of no use to anybody.
        await asyncio.wait((worker.dead,), timeout=1.0)
        worker.signal_group(signal.SIGKILL)
        await worker.dead

    async def _end_by_force(self, child: Child, worker: Worker, reason: ExitReason) -> None:
        """End an incarnation that has not become ready, and its worker if there is no other way."""
        if worker.shared:
            worker.connection.post([KILL, child.sid, reason])
            deadline = self._loop.time() + GRACE
            while child.exited is None and worker.alive:
                if not await child.change(max(0.0, deadline - self._loop.time())):
                    break
            if child.exited is not None or not worker.alive:
                return
            worker.condemned = f"{child.title} {render(reason)}"
        worker.signal_group(signal.SIGKILL)
        await worker.dead

    # --- the end of an incarnation -----------------------------------------------------

    def worker_died(self, worker: Worker) -> None:
        """Take the news of a worker's death: every server in it has ended."""
        residents = [worker.residents[sid] for sid in sorted(worker.residents)]
        worker.residents.clear()
        for child in residents:
            if child.starting:
                child.answered("dead")
            else:
                self._ended(child)

    def server_ended(self, child: Child) -> None:
        """Take a server's word that it has ended."""
        if child.starting:
            child.answered("refused")
        elif child.worker is not None and child.worker.shared:
            self._ended(child)

    def _look_for_end(self, child: Child) -> None:
        # It may have ended while its start was still being told.
        worker = child.worker
        if worker is None or child.is_over:
            return
        if not worker.alive or (worker.shared and child.exited is not None):
            self._ended(child)

    def _ended(self, child: Child) -> None:
        worker = child.worker
        if worker is None or child.is_over:
            return
        try:
            error = child.exited[1] if child.exited else b""
            if self._restarts(child, _Ended(reason_of_death(child, worker), error, worker)):
                child.starting = True
                self._run(child, self._start_again(child), f"restart of {child.title}")
        except Exception as error:
            self._failed(child, error)

    def _restarts(self, child: Child, ended: _Ended) -> bool:
        """Tell all who care of an exit; return whether the server is to be started again."""
        if child.stop_reason is not None or self._stopping or child.answer == "ignored":
            report = self._report(child, ended, "stays down")
            self._down(child, report, ended)
            self._let_go(child, report, ended.error)
            return False
        if child.siblings is None:
            only = plans.Child(child.id, child.restart)
            child.siblings = Siblings(plans.Tree((only,)))
        plan = child.siblings.plan(child, ended)
        report = self._report(child, ended, plan.next)
        child.state = "restarting"
        self._down(child, report, ended)
        if child.id in plan.start:
            return True
        self._let_go(child, report, ended.error)
        if plan.give_up and child.siblings.on_give_up is not None:
            child.siblings.on_give_up(child)
        return False

    def _report(self, child: Child, ended: _Ended, following: str) -> ExitReport:
        child.report = report_exit(child, ended.worker, ended.reason, following)
        child.error = ended.error
        return child.report

    def _down(self, child: Child, report: ExitReport, ended: _Ended) -> None:
        worker = ended.worker
        if worker is not None:
            self._directory.down(child, worker, report, ended.error)
            if worker.alive:
                worker.residents.pop(child.sid, None)
                worker.connection.post([FORGET, child.sid])
        kind = "crashed" if is_abnormal(ended.reason) and not report.requested else "exited"
        self._tell(kind, child, report)

    def _let_go(self, child: Child, report: ExitReport, error: bytes) -> None:
        child.report = report
        child.error = error
        self._dynamic.pop(child.sid, None)
        self._placements.leave(child)
        self._directory.gone(child)
        child.end()

    def _give_up(self, child: Child) -> None:
        assert child.report is not None
        self._stopping = True
        self._tell("gave_up", child, child.report)
        task = self._loop.create_task(self._end(child.report), name="end of the tree")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end(self, report: ExitReport) -> None:
        # The others go in order, and only then does the supervisor itself.
        await self.stop_all(Shutdown("their supervisor gave up"))
        if not self.gave_up.done():
            self.gave_up.set_result(report)

    def _tell(self, kind: str, child: Child, report: ExitReport | None = None) -> None:
        try:
            self._listener(Event.of(kind, child, report))
        except Exception as error:
            # The listener's bug, which must not become a server's.
            self._loop.call_exception_handler({"message": "a listener failed", "exception": error})

    # --- stopping ----------------------------------------------------------------------

    async def stop(self, child: Child, reason: ExitReason, limit: ShutdownLimit) -> None:
        """End a server for good; return once it has ended."""
        if child.stop_reason is None:
            child.stop_reason = reason
            self._tell("stopping", child)
        shared = child.placement is not None
        for step in stop_steps(limit, fast=self._fast.is_set(), shared=shared):
            if await self._try(child, step):
                break
            if step.action == "ask" and not self._fast.is_set():
                child.killed_after = step.limit
        await child.over()

    async def _try(self, child: Child, step: Step) -> bool:
        """Take one step to end a server; return whether it is over."""
        worker = child.worker
        if step.action == "ask":
            self._ask(child, worker)
        elif worker is not None:
            self._force(child, worker, step)
        over = child.over()
        if over.done():
            return True
        waiting: list[asyncio.Future[Any]] = [over]
        if step.action == "ask":
            waiting.append(self._loop.create_task(self._fast.wait()))
        await asyncio.wait(waiting, timeout=step.limit, return_when=asyncio.FIRST_COMPLETED)
        for hurry in waiting[1:]:
            hurry.cancel()
        return child.is_over

    def _ask(self, child: Child, worker: Worker | None) -> None:
        if worker is None:
            return
        if child.state == "running" or (child.state == "starting" and child.answer == "ready"):
            child.state = "stopping"
            worker.connection.post([STOP, child.sid, child.stop_reason])
        elif child.state in ("starting", "restarting"):
            # It has no state worth saving yet.
            child.killed_on_request = True
            if worker.shared:
                worker.connection.post([KILL, child.sid, child.stop_reason])
            else:
                worker.signal_group(signal.SIGKILL)

    def _force(self, child: Child, worker: Worker, step: Step) -> None:
        child.killed_on_request = True
        if step.action == "evict":
            limit = child.killed_after
            reason = child.stop_reason if limit is None else ShutdownTimedOut(limit)
            worker.connection.post([KILL, child.sid, reason])
        else:
            if worker.shared:
                worker.condemned = f"{child.title} did not stop"
            worker.signal_group(signal.SIGTERM if step.action == "terminate" else signal.SIGKILL)

    async def stop_all(self, reason: ExitReason) -> None:
        """Stop every server: the spawned ones first, then the tree, each in reverse order."""
        self._stopping = True
        children = [c for c in (*self._static, *self._dynamic.values()) if not c.is_over]
        by_id = {str(c.sid): c for c in children}
        for wave in plan_shutdown([(str(c.sid), c.shutdown) for c in children]):
            await asyncio.gather(
                *(self.stop(by_id[s.id], reason, by_id[s.id].shutdown) for s in wave)
            )

    def hurry(self) -> None:
        """Stop waiting for servers that take their time to stop."""
        self._fast.set()
        for child in (*self._static, *self._dynamic.values()):
            if child.worker is not None and not child.is_over:
                child.stop_reason = child.stop_reason or Shutdown("fast stop")
                child.killed_in_a_hurry = True
                child.worker.signal_group(signal.SIGKILL)


def _start_error(child: Child, ended: _Ended) -> StartError:
    if ended.refusal is not None:
        return ended.refusal
    if isinstance(ended.reason, InitTimedOut):
        return InitTimedOutError(child.title, ended.reason.limit)
    detail = ended.reason.detail if isinstance(ended.reason, InitFailed) else render(ended.reason)
    return InitFailedError(child.title, detail)


def _start_of(child: Child) -> dict[str, Any]:
    return {
        **child.spec,
        "label": child.label,
        "process": child.process,
        # As a list: the first tuple that a worker unpacks costs it 40 KiB.
        "mailbox": list(child.mailbox),
    }
