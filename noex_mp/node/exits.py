"""Gathers the evidence of an exit into one report."""

from __future__ import annotations

import os
import signal

from noex_mp.core.reasons import (
    Crash,
    Exited,
    ExitReason,
    ExitReport,
    Killed,
    Shutdown,
    ShutdownTimedOut,
    Unknown,
)
from noex_mp.node.children import Child
from noex_mp.node.members import Member
from noex_mp.node.workers import Worker

__all__ = ["reason_of_death", "reason_of_status", "report_exit"]


def reason_of_status(status: int | None) -> ExitReason:
    """Return what a wait status says; None means that nobody knows it."""
    if status is None:
        return Unknown("its process is gone, and nobody could learn its exit status")
    if os.WIFSIGNALED(status):
        return Killed(_signal_name(os.WTERMSIG(status)))
    return Exited(os.WEXITSTATUS(status))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def reason_of_death(child: Child, worker: Worker) -> ExitReason:
    """Return why an incarnation ended: its own word comes first, then our deeds, then the kernel.

    A server that said how it ends and is killed in the middle of its last act has ended as it
    said.
    """
    if child.exited is not None:
        return child.exited[0]
    if worker.problem is not None:
        return Crash(type(worker.problem).__qualname__, str(worker.problem))
    if child.killed_after is not None:
        return ShutdownTimedOut(child.killed_after)
    if child.killed_in_a_hurry:
        return Killed("SIGKILL")
    if child.killed_on_request:
        return child.stop_reason or Shutdown()
    if child.struck is not None:
        return child.struck
    return reason_of_status(worker.dead.result())


def _shared(worker: Worker) -> str:
    """Return what the death of a placement group's worker meant for the others, in words."""
    if not worker.shared or worker.alive:
        return ""
    text = f"with all of placement {worker.label!r} ({worker.toll} servers)"
    return f"{text}, because {worker.condemned}" if worker.condemned else text


def report_exit(
    member: Member, worker: Worker | None, reason: ExitReason, following: str
) -> ExitReport:
    """Return the report of an incarnation's end.

    Args:
        member: A server, or a supervisor.
        worker: Where the server lived.
        reason: Why it ended.
        following: What the supervisor does next, in words.
    """
    exited = member.exited if isinstance(member, Child) else None
    trace = exited[2] if exited else ""
    return ExitReport(
        server=member.title,
        sid=member.sid,
        incarnation=member.incarnation,
        reason=reason,
        os_pid=worker.os_pid if worker else 0,
        uptime=member.uptime(),
        requested=member.stop_reason is not None,
        traceback=trace or (worker.last_words.text if worker else ""),
        shared=_shared(worker) if worker and exited is None else "",
        next=following,
    )
