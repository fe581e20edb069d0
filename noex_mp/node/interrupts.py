"""Stops what a worker runs, for whoever has sent it: a task of a pool that is cancelled, or late.

Each time one step of a ladder is asked for (see `core.stop_requests`), and whoever asks decides
when the next is due. The root writes the request where the worker finds it, and wakes its main
thread by a signal. The last step is its own: it kills the worker. Before that it stops the process,
and looks once more: the task may just have ended, and the next one has done nothing.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from typing import Any, Final

from noex_mp.core.reasons import Hung, Verdict
from noex_mp.core.stop_requests import CANCEL, EXCEPTION, KILL, CallState, state_of
from noex_mp.node.black_box import StartedCell, add_request, signals_heard, started_cell
from noex_mp.node.children import Child
from noex_mp.node.directory import Directory
from noex_mp.node.stacks import ask_for_stack, forget_stack
from noex_mp.node.verdicts import LOOK, look_at
from noex_mp.node.workers import Worker
from noex_mp.supervision.verdict import Answer, judge
from noex_mp.transport import fds
from noex_mp.transport.platform import INTERRUPT_SIGNAL

__all__ = ["Interrupts"]

# How long a process may take to be stopped (SIGSTOP), in seconds, and how often to look.
PATIENCE: Final = 0.1
STEP: Final = 0.001


class Interrupts:
    """Stops single calls.

    Attributes:
        methods: What may be asked, by name.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, directory: Directory) -> None:
        self._loop = loop
        self._directory = directory
        self._kills: dict[Worker, asyncio.Task[None]] = {}
        self.methods: dict[str, Callable[..., Any]] = {"interrupt": self._interrupt}

    async def stop(self) -> None:
        """Stop stopping: no worker is left."""
        kills = list(self._kills.values())
        for kill in kills:
            kill.cancel()
        await asyncio.gather(*kills, return_exceptions=True)

    def _interrupt(
        self, sid: int, link_id: int, seq: int, rung: int, at_least: float, what: str
    ) -> list[Any]:
        """Go one step towards the end of a call.

        Args:
            sid: The server that has it.
            link_id: On which link it was sent ...
            seq: ... and its number there.
            rung: How far to go.
            at_least: Nothing happens if it has not run for so long, in seconds.
            what: What it does, for people.

        Returns:
            Where the call is, and for how long it has run, in seconds.
        """
        child = self._directory.get(sid)
        worker = child.worker if child is not None else None
        if child is None or worker is None or not worker.can_be_signalled:
            return ["gone", 0.0]
        cell = started_cell(worker.slot, sid, link_id)
        state, age = _look(cell, seq)
        if age < at_least or (state == "over" and cell.begun > seq):
            return [state, age]
        if rung != KILL:
            add_request(worker.slot, link_id, seq, rung)
            # What was seen before is no answer: the call may have begun between the two, and not
            # have found the request. Each side writes first and reads then: we the request and what
            # has begun, a worker that, with the number of the call, and the requests. So one of us
            # sees the other: what waits at this look finds the request before it begins. (No
            # processor holds back a write for as long as a worker needs from there to here: the
            # interpreter writes hundreds of words between.)
            state, age = _look(started_cell(worker.slot, sid, link_id), seq)
        if state == "running" and rung in (CANCEL, EXCEPTION):
            # Also out of a system call.
            _signal(worker, INTERRUPT_SIGNAL)
        elif state == "running" and rung == KILL and worker not in self._kills:
            task = self._loop.create_task(
                self._kill(child, worker, link_id, seq, what), name=f"end of {child.title}"
            )
            self._kills[worker] = task
            task.add_done_callback(lambda _: self._kills.pop(worker, None))
        return [state, age]

    async def _kill(self, child: Child, worker: Worker, link_id: int, seq: int, what: str) -> None:
        before = look_at(worker.os_pid)
        await asyncio.sleep(LOOK)
        after = look_at(worker.os_pid)
        was_stopped = after is not None and after.state in "Tt"
        answer: Answer = "runs" if await _answers(worker) else "none"
        if not was_stopped:
            await ask_for_stack(worker)
        await _hold(worker)
        if not worker.can_be_signalled:
            return
        state, age = _look(started_cell(worker.slot, child.sid, link_id), seq)
        if child.worker is not worker or child.exited is not None or state != "running":
            # It has ended, and what runs now is another.
            forget_stack(worker)
            if not was_stopped:
                _signal(worker, signal.SIGCONT)
            return
        verdict: Verdict = "unknown"
        if before is not None and after is not None:
            verdict = judge(before, after, answer)
        call = after.system_call if after is not None and verdict == "blocked" else ""
        child.task_stopped = True
        child.hung = Hung(round(age, 2), verdict, call, what)
        worker.signal_group(signal.SIGKILL)


def _signal(worker: Worker, number: int) -> bool:
    """Send a signal to a worker, and not to its group; return whether it is there."""
    if not worker.can_be_signalled:
        return False
    fds.send_signal(worker.pidfd, worker.os_pid, number)
    return True


async def _answers(worker: Worker) -> bool:
    """Return whether Python code of a worker runs when it gets a signal."""
    before = signals_heard(worker.slot)
    if not _signal(worker, INTERRUPT_SIGNAL):
        return False
    await asyncio.sleep(LOOK)
    return signals_heard(worker.slot) != before


def _look(cell: StartedCell, seq: int) -> tuple[CallState, float]:
    state = state_of(seq, cell.begun, cell.since)
    return state, max(0.0, time.monotonic() - cell.since) if state == "running" else 0.0


async def _hold(worker: Worker) -> None:
    """Stop a process: what it is at cannot change any more."""
    deadline = time.monotonic() + PATIENCE
    is_there = _signal(worker, signal.SIGSTOP)
    while is_there and worker.alive and time.monotonic() < deadline:
        await asyncio.sleep(STEP)
        look = look_at(worker.os_pid)
        if look is None or look.state in "TtZX":
            break
