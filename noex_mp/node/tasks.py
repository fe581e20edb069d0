"""The tasks that are at work on members, and what becomes of a member when our own code fails."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from functools import partial
from typing import Any

from noex_mp.core.reasons import Unknown
from noex_mp.node.branches import Branch
from noex_mp.node.children import Child
from noex_mp.node.exits import report_exit
from noex_mp.node.members import Member
from noex_mp.node.starts import StartFailedError
from noex_mp.node.tree import Tree

__all__ = ["Tasks"]


class Tasks:
    """Runs what takes its time: starts, restarts and ends."""

    def __init__(self, loop: asyncio.AbstractEventLoop, tree: Tree) -> None:
        self._loop = loop
        self._tree = tree
        self._tasks: set[asyncio.Task[Any]] = set()

    def run(self, member: Member, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Let a task work on a member."""
        task = self._loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(partial(self._done, member))
        return task

    def _done(self, member: Member, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, StartFailedError):
            self.failed(member, error)

    def failed(self, member: Member, error: BaseException) -> None:
        """End a member at which our own code has failed.

        Nobody supervises it any more: it must not run on alone.
        """
        self._loop.call_exception_handler({"message": "a supervisor failed", "exception": error})
        reason = Unknown(f"a bug in noex-mp: {error!r}")
        children = [member] if isinstance(member, Child) else []
        if isinstance(member, Branch):
            children = list(member.children())
        for child in children:
            if child.worker is not None:
                child.worker.condemned = f"of a bug in noex-mp: {error!r}"
                child.worker.signal_group(signal.SIGKILL)
            child.report = report_exit(child, child.worker, reason, "")
            if child.state != "gone":
                self._tree.let_go(child)
        if member.parent is not self._tree.spawned and not self._tree.ended.done():
            self._tree.ended.set_result(report_exit(member, None, reason, ""))
