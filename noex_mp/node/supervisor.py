"""Carries out what `supervision` decides: starts servers, waits for their ends, starts them again.

Every server has one task, `_life`: start it, wait until its worker is dead, ask for a plan,
start it again or let it go. Stopping one does not touch that task: it sets `stop_reason`, makes
the worker end, and waits until the life is over.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, NamedTuple

from noex_mp.core.reasons import (
    ExitReason,
    ExitReport,
    InitFailed,
    InitTimedOut,
    Normal,
    Shutdown,
    Unknown,
    is_abnormal,
    render,
)
from noex_mp.core.specs import ShutdownLimit, Supervisor
from noex_mp.errors import InitFailedError, InitTimedOutError, NodeDownError, StartError
from noex_mp.node.children import Child
from noex_mp.node.directory import Directory
from noex_mp.node.events import Event, Listener
from noex_mp.node.exits import reason_of_death, reason_of_status, report_exit
from noex_mp.node.workers import Worker
from noex_mp.supervision import plan as plans
from noex_mp.supervision.plan import plan_exit
from noex_mp.supervision.shutdown import Step, plan_shutdown, stop_steps
from noex_mp.wire.envelopes import START, STOP

__all__ = ["StartFailedError", "Supervision"]

# What an incarnation says of its end when its `init` returned `Ignore()`.
IGNORED: Final = (Normal(), b"", "")


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


@dataclass
class _Group:
    """Children that share one restart budget: the tree, or a single spawned server."""

    tree: plans.Tree
    on_give_up: Callable[[Child], None] | None = None


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
        start_worker: Callable[[str], Awaitable[Worker]],
        listener: Listener,
    ) -> None:
        self._loop = loop
        self._directory = directory
        self._start_worker = start_worker
        self._listener = listener
        self._lives: set[asyncio.Task[None]] = set()
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
        group = _Group(plans.Tree.from_spec(spec), on_give_up=self._give_up)
        for wire in children:
            if self._stopping:
                raise NodeDownError("the node is stopping and starts no servers")
            child = Child(self._loop, self._directory.next_sid(), wire, "permanent")
            self._directory.add(child)
            self._static.append(child)
            try:
                await self._begin(child, group)
            except StartFailedError:
                await self.stop_all(Shutdown("a sibling did not start"))
                raise

    async def spawn(self, wire: dict[str, Any]) -> Child:
        """Start a server under the node's own supervisor, with a restart budget of its own.

        Raises:
            StartFailedError: It did not start.
            AlreadyRegisteredError: Its name is taken.
            NodeDownError: The node is stopping.
        """
        if self._stopping:
            raise NodeDownError("the node is stopping and starts no servers")
        child = Child(self._loop, self._directory.next_sid(), wire, "transient")
        self._directory.add(child)
        self._dynamic[child.sid] = child
        only = plans.Child(child.id, child.restart)
        await self._begin(child, _Group(plans.Tree((only,))))
        if child.incarnation == 1 and child.state == "gone" and child.exited == IGNORED:
            raise StartFailedError(InitFailedError(child.title, "its init returned Ignore()"), b"")
        return child

    async def _begin(self, child: Child, group: _Group) -> None:
        first: asyncio.Future[None] = self._loop.create_future()
        task = self._loop.create_task(
            self._life(child, group, first), name=f"life of {child.title}"
        )
        self._lives.add(task)
        task.add_done_callback(partial(self._life_over, child, first))
        # Should the caller be cancelled, the server's life goes on to its end all the same.
        first.add_done_callback(lambda first: first.cancelled() or first.exception())
        await asyncio.shield(first)

    def _life_over(
        self, child: Child, first: asyncio.Future[None], task: asyncio.Task[None]
    ) -> None:
        self._lives.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        # Our own bug, and nobody supervises the server any more: it must not run on alone.
        self._loop.call_exception_handler({"message": "a supervisor failed", "exception": error})
        if child.worker is not None:
            child.worker.signal_group(signal.SIGKILL)
        report = report_exit(child, child.worker, Unknown(f"a bug in noex-mp: {error!r}"), "")
        if not child.over.done():
            self._let_go(child, report, b"")
        if not first.done():
            first.set_exception(error)
        if child in self._static and not self.gave_up.done():
            self.gave_up.set_result(report)

    # --- the life of one server --------------------------------------------------------

    async def _life(self, child: Child, group: _Group, first: asyncio.Future[None]) -> None:
        ended = await self._start(child)
        if ended is not None:
            report = self._report(child, ended, "it was not started")
            self._let_go(child, report, ended.error)
            if isinstance(ended.reason, Normal):
                first.set_result(None)
            else:
                self._tell("not_started", child, report)
                first.set_exception(StartFailedError(_start_error(child, ended), ended.error))
            return
        first.set_result(None)
        while True:
            if ended is None:
                ended = await self._wait_for_end(child)
            if not self._restarts(child, group, ended):
                return
            ended = await self._start(child)

    async def _start(self, child: Child) -> _Ended | None:
        """Start an incarnation; return None once it is ready, else how that failed."""
        child.begin()
        self._tell("starting", child)
        try:
            worker = await self._start_worker(child.title)
        except Exception as error:
            return _Ended(InitFailed(f"no worker process: {error}"), b"", None)
        child.worker = worker
        if child.stop_reason is not None:
            worker.signal_group(signal.SIGKILL)
        worker.connection.post([START, child.sid, child.incarnation, child.spec])
        ended = await self._wait_for_init(child, worker)
        if ended is None:
            if child.stop_reason is None:
                child.state = "running"
            self._tell("restarted" if child.incarnation > 1 else "started", child)
            self._directory.up(child)
        return ended

    async def _wait_for_init(self, child: Child, worker: Worker) -> _Ended | None:
        # Its answer, its death, and the time limit race.
        await asyncio.wait(
            (child.started, worker.dead),
            timeout=child.init_timeout,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if child.started.done():
            if child.started.result():
                return None
            await self._await_death(worker)
            assert child.exited is not None
            return _Ended(child.exited[0], child.exited[1], worker)
        if worker.dead.done() and child.stop_reason is not None:
            # We have killed it: see `_ask`.
            return _Ended(child.stop_reason, b"", worker)
        if worker.dead.done():
            status = render(reason_of_status(worker.dead.result()))
            return _Ended(InitFailed(f"its worker process ended in it: {status}"), b"", worker)
        worker.signal_group(signal.SIGKILL)
        await worker.dead
        return _Ended(InitTimedOut(child.init_timeout or 0.0), b"", worker)

    async def _await_death(self, worker: Worker) -> None:
        # It ends by itself; should it hang in that, it is of no use to anybody.
        await asyncio.wait((worker.dead,), timeout=1.0)
        worker.signal_group(signal.SIGKILL)
        await worker.dead

    async def _wait_for_end(self, child: Child) -> _Ended:
        assert child.worker is not None
        worker = child.worker
        await worker.dead
        error = child.exited[1] if child.exited else b""
        return _Ended(reason_of_death(child, worker), error, worker)

    def _restarts(self, child: Child, group: _Group, ended: _Ended) -> bool:
        """Tell all who care of an exit; return whether the server is to be started again."""
        if child.stop_reason is not None or self._stopping:
            report = self._report(child, ended, "stays down")
            self._down(child, report, ended)
            self._let_go(child, report, ended.error)
            return False
        plan = plan_exit(group.tree, child.id, ended.reason, now=time.monotonic())
        group.tree = replace(group.tree, restarts=plan.restarts)
        report = self._report(child, ended, plan.next)
        child.state = "restarting"
        self._down(child, report, ended)
        if child.id in plan.start:
            return True
        self._let_go(child, report, ended.error)
        if plan.give_up and group.on_give_up is not None:
            group.on_give_up(child)
        return False

    def _report(self, child: Child, ended: _Ended, following: str) -> ExitReport:
        child.report = report_exit(child, ended.worker, ended.reason, following)
        child.error = ended.error
        return child.report

    def _down(self, child: Child, report: ExitReport, ended: _Ended) -> None:
        if ended.worker is not None:
            self._directory.down(child, ended.worker, report, ended.error)
        kind = "crashed" if is_abnormal(ended.reason) and not report.requested else "exited"
        self._tell(kind, child, report)

    def _let_go(self, child: Child, report: ExitReport, error: bytes) -> None:
        child.state = "gone"
        child.report = report
        child.worker = None
        # Its arguments may be large, and it is remembered for a while.
        child.spec = {}
        self._dynamic.pop(child.sid, None)
        self._directory.gone(child)
        child.over.set_result(None)

    def _give_up(self, child: Child) -> None:
        assert child.report is not None
        self._stopping = True
        self._tell("gave_up", child, child.report)
        task = self._loop.create_task(self._end(child.report), name="end of the tree")
        self._lives.add(task)
        task.add_done_callback(self._lives.discard)

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
        for step in stop_steps(limit, fast=self._fast.is_set()):
            if await self._try(child, step):
                break
            if step.action == "ask" and not self._fast.is_set():
                child.killed_after = step.limit
        await child.over

    async def _try(self, child: Child, step: Step) -> bool:
        """Take one step to end a server; return whether it is over."""
        worker = child.worker
        if step.action == "ask":
            self._ask(child, worker)
        elif worker is not None:
            child.killed_on_request = True
            worker.signal_group(signal.SIGTERM if step.action == "terminate" else signal.SIGKILL)
        hurry = self._loop.create_task(self._fast.wait())
        await asyncio.wait(
            (child.over, hurry) if step.action == "ask" else (child.over,),
            timeout=step.limit,
            return_when=asyncio.FIRST_COMPLETED,
        )
        hurry.cancel()
        return child.over.done()

    def _ask(self, child: Child, worker: Worker | None) -> None:
        if worker is None:
            return
        is_ready = child.started.done() and child.started.result()
        if child.state == "running" or (child.state == "starting" and is_ready):
            child.state = "stopping"
            worker.connection.post([STOP, child.sid, child.stop_reason])
        elif child.state in ("starting", "restarting"):
            # It has no state worth saving yet.
            child.killed_on_request = True
            worker.signal_group(signal.SIGKILL)

    async def stop_all(self, reason: ExitReason) -> None:
        """Stop every server: the spawned ones first, then the tree, each in reverse order."""
        self._stopping = True
        children = [c for c in (*self._static, *self._dynamic.values()) if not c.over.done()]
        by_id = {str(c.sid): c for c in children}
        for wave in plan_shutdown([(str(c.sid), c.shutdown) for c in children]):
            await asyncio.gather(
                *(self.stop(by_id[s.id], reason, by_id[s.id].shutdown) for s in wave)
            )

    def hurry(self) -> None:
        """Stop waiting for servers that take their time to stop."""
        self._fast.set()
        for child in (*self._static, *self._dynamic.values()):
            if child.worker is not None and not child.over.done():
                child.stop_reason = child.stop_reason or Shutdown("fast stop")
                child.killed_on_request = True
                child.worker.signal_group(signal.SIGKILL)


def _start_error(child: Child, ended: _Ended) -> StartError:
    if isinstance(ended.reason, InitTimedOut):
        return InitTimedOutError(child.title, ended.reason.limit)
    detail = ended.reason.detail if isinstance(ended.reason, InitFailed) else render(ended.reason)
    return InitFailedError(child.title, detail)
