"""Gathers the evidence of an exit into one report."""

from __future__ import annotations

import os
import signal
import time
from itertools import pairwise
from pathlib import Path
from typing import Final

from noex_mp.core.reasons import (
    Begun,
    Crash,
    Exited,
    ExitReason,
    ExitReport,
    Hung,
    InitTimedOut,
    Killed,
    OutOfMemory,
    Replaced,
    Rule,
    Shutdown,
    ShutdownTimedOut,
    Unknown,
)
from noex_mp.core.report_bounds import bounded
from noex_mp.node.black_box import Message
from noex_mp.node.children import Child
from noex_mp.node.connection import Connection
from noex_mp.node.members import Member
from noex_mp.node.workers import Worker

__all__ = ["reason_of_death", "reason_of_end", "report_exit"]

# Of so many messages of a server the attempts are counted, those that were tried last.
_REMEMBERED: Final = 8

# How faulthandler shows what is at the bottom of every worker's stack: how it was forked, and last
# the command that was executed.
_OURS: Final = f'  File "{Path(__file__).parent.parent / "worker"}/'
_STARTS: Final = tuple(f"{_OURS}{name}.py" for name in ("bootstrap", "fresh", "zygote"))
_COMMAND: Final = '  File "<string>", line 1 in <module>'


def reason_of_end(worker: Worker) -> ExitReason:
    """Return why a process ended, as far as no single server of it is the reason."""
    if worker.ran_over is not None:
        return worker.ran_over
    if worker.ran_out_of_memory and not worker.condemned:
        return OutOfMemory()
    return reason_of_status(worker.dead.result())


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
    if child.hung is not None:
        return child.hung
    if child.killed_after is not None:
        return ShutdownTimedOut(child.killed_after)
    if child.killed_in_a_hurry:
        return Killed("SIGKILL")
    if child.killed_on_request:
        return child.stop_reason or Shutdown()
    if child.struck is not None:
        return child.struck
    return reason_of_end(worker)


def _shared(worker: Worker) -> str:
    """Return what the death of a placement group's worker meant for the others, in words."""
    if not worker.shared or worker.alive:
        return ""
    text = f"with all of placement {worker.label!r} ({worker.toll} servers)"
    return f"{text}, because {worker.condemned}" if worker.condemned else text


def report_exit(
    member: Member,
    worker: Worker | None,
    reason: ExitReason,
    following: str,
    *,
    node_stops: bool = False,
) -> ExitReport:
    """Return the report of an incarnation's end.

    Args:
        member: A server, or a supervisor.
        worker: Where the server lived.
        reason: Why it ended.
        following: What the supervisor does next, in words.
        node_stops: Whether all servers are being stopped.
    """
    exited = member.exited if isinstance(member, Child) else None
    rss, rss_age = _rss(member, worker) if worker else (None, 0.0)
    report = ExitReport(
        server=member.title,
        sid=member.sid,
        incarnation=member.incarnation,
        reason=reason,
        os_pid=worker.os_pid if worker else 0,
        uptime=member.uptime(),
        requested=member.stop_reason is not None,
        rule=_rule(member, worker, reason, node_stops=node_stops),
        traceback=exited[2] if exited else "",
        stack=_without_our_frames(worker.last_words.text) if worker else "",
        message=_message(member, worker) if worker else None,
        mailbox=_waiting(member, worker) if worker else 0,
        rss=rss,
        rss_age=rss_age,
        peak_rss=_peak_rss(worker, rss) if worker else None,
        oom_kills=worker.oom_kills if worker and not worker.alive else 0,
        stderr=worker.last_errors if worker else (),
        time=time.time(),
        shared=_shared(worker) if worker and exited is None else "",
        next=following,
    )
    return bounded(report)


def _rule(member: Member, worker: Worker | None, reason: ExitReason, *, node_stops: bool) -> Rule:
    """Return which of our rules ended an incarnation."""
    if isinstance(reason, InitTimedOut):
        return "init_timeout"
    if isinstance(reason, ShutdownTimedOut):
        return "shutdown_timeout"
    if isinstance(reason, Hung):
        stopped = isinstance(member, Child) and member.task_stopped
        return "task_stop" if stopped else "hang_timeout"
    if isinstance(reason, OutOfMemory) and reason.limit is not None:
        return "memory_limit"
    if isinstance(member, Child) and member.killed_in_a_hurry:
        return "hurry"
    if isinstance(member, Child) and member.struck is not None:
        return "exit_signal"
    if worker is not None and not worker.alive:
        if worker.problem is not None:
            return "protocol"
        if worker.condemned:
            return "placement"
    if isinstance(member.stop_reason, Replaced):
        return "reload"
    return "" if member.stop_reason is None else _who_stopped(member, node_stops=node_stops)


def _who_stopped(member: Member, *, node_stops: bool) -> Rule:
    parent = member.parent
    if node_stops:
        return "node"
    if parent is None or (parent.is_dynamic and not parent.is_ending):
        return "stop"
    if parent.is_ending or parent.starting:
        return "supervisor"
    return "group" if member.pauses or member in parent.going_down else "stop"


def _message(member: Member, worker: Worker) -> Begun | None:
    """Return what a server was working on; count how often that has been so of this message."""
    if not isinstance(member, Child):
        return None
    said = member.evidence.get("message")
    last = Message(*said) if said else worker.last_words.messages.get(member.sid)
    if last is None:
        return None
    whose = worker.links.get(last.link_id) or _lost(worker, last.link_id)
    attempts = _attempts(member, whose, last.seq) if whose is not None else 1
    return Begun(
        operation=last.operation,
        size=last.size,
        age=last.age,
        attempts=attempts,
        arguments=last.arguments,
        steps=last.steps,
    )


def _attempts(member: Child, whose: Connection, seq: int) -> int:
    """Return how often a server has ended while it worked on a message, this time included."""
    known = member.attempts
    # Its sender keeps the number where it sends it again.
    known[whose, seq] = attempts = known.pop((whose, seq), 0) + 1
    if len(known) > _REMEMBERED:
        del known[next(iter(known))]
    return attempts


def _lost(worker: Worker, link_id: int) -> Connection | None:
    return next((each for each, lost in worker.lost_links.items() if lost == link_id), None)


def _waiting(member: Member, worker: Worker) -> int:
    said: int | None = member.evidence.get("waiting") if isinstance(member, Child) else None
    return worker.last_words.waiting.get(member.sid, 0) if said is None else said


def _rss(member: Member, worker: Worker) -> tuple[int | None, float]:
    """Return the last memory of a process that anybody has seen, and how long ago that was."""
    said: int | None = member.evidence.get("rss") if isinstance(member, Child) else None
    seen = worker.rss if said is None else said
    last = worker.last_words
    return (last.rss, last.rss_age) if seen is None else (seen, 0.0)


def _peak_rss(worker: Worker, rss: int | None) -> int | None:
    # The kernel's own peak lags behind by some pages.
    return max((each for each in (worker.peak_rss, rss) if each is not None), default=None)


def _without_our_frames(stack: str) -> str:
    """Return a stack without what is below of each worker: how it was forked, and started."""
    lines = stack.lstrip("\n").splitlines()
    kept = (
        line
        for above, line in pairwise(["", *lines])
        if not line.startswith(_STARTS)
        # What the user has given to `exec` looks the same, and is not there.
        and not (line == _COMMAND and above.startswith(_OURS))
    )
    return "\n".join(kept).rstrip()
