"""Looks at a worker in which a handler takes too long: what it is doing, before it is killed.

```text
/proc/PID/stat        its state, and how long it has computed
/proc/PID/syscall     the system call in which it waits
```

A system call that a signal interrupts goes on as something else, so that comes first. Then the
worker writes its stacks (see `stacks`). Last it is asked by a signal that only Python code can
answer (see `worker.watched`): if it computes and does not, it is in C, with the GIL held.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from noex_mp.core.reasons import Hung
from noex_mp.node.black_box import OwnCell
from noex_mp.node.stacks import ask_for_stack, forget_stack
from noex_mp.node.system_calls import name_of
from noex_mp.node.workers import Worker
from noex_mp.supervision.verdict import Answer, Look, computes, is_worth_asking, judge
from noex_mp.transport import fds
from noex_mp.transport.platform import FALLBACKS, WITNESS_SIGNAL

__all__ = ["is_traced", "look_at", "reach_verdict"]

# How long to look whether it computes, in seconds.
LOOK: Final = 0.02

# How long a process that waits has for an answer, in seconds.
PATIENCE: Final = 0.1

# How long one may compute without an answer, in seconds of its own: Python code hears a signal
# between two instructions. And how long at most, where others take all the CPUs.
COMPUTED: Final = 0.015
STARVED: Final = 0.5

STEP: Final = 0.002


def look_at(os_pid: int) -> Look | None:
    """Return what the main thread of a process does; None where the system does not say."""
    if sys.platform != "linux" or FALLBACKS:
        return None
    try:
        # Behind the name of the program, which may hold anything.
        said = Path(f"/proc/{os_pid}/stat").read_text().rpartition(")")[2].split()
        ticks = int(said[11]) + int(said[12])
    except (OSError, ValueError, IndexError):
        return None
    cpu = ticks / os.sysconf("SC_CLK_TCK")
    with contextlib.suppress(OSError, ValueError, IndexError):
        # The same, exactly.
        cpu = int(Path(f"/proc/{os_pid}/schedstat").read_text().split()[0]) / 1e9
    return Look(said[0], cpu, _system_call_of(os_pid))


def _system_call_of(os_pid: int) -> str:
    with contextlib.suppress(OSError, ValueError, IndexError):
        number = int(Path(f"/proc/{os_pid}/syscall").read_text().split()[0])
        return name_of(number) if number >= 0 else ""
    return ""


def is_traced(os_pid: int) -> bool:
    """Return whether a debugger holds a process: that may stop it for as long as it likes."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        status = Path(f"/proc/{os_pid}/status").read_text()
        return int(status.partition("TracerPid:")[2].split()[0]) != 0
    return False


async def reach_verdict(
    worker: Worker, read: Callable[[], OwnCell], limit: float, since: float
) -> Hung | None:
    """Let a worker say where it is, and return what it does; None if the handler has just ended.

    Args:
        worker: Where the server lives.
        read: Reads the server's own cell.
        limit: How long a handler of it may take, in seconds.
        since: Since when it has been at work.
    """
    before = look_at(worker.os_pid)
    await asyncio.sleep(LOOK)
    after = look_at(worker.os_pid)
    cell = read()
    if not worker.alive or cell.since != since:
        return None
    if before is None or after is None:
        await ask_for_stack(worker)
        return _unless_over(worker, read, since, Hung(limit, "unknown", "", cell.callback))
    if after.state not in "Tt":
        await ask_for_stack(worker)
    answer: Answer = "unasked"
    if is_worth_asking(before, after):
        answer = await _ask(worker, read, cell, is_computing=computes(before, after))
    verdict = judge(before, after, answer)
    call = after.system_call if verdict == "blocked" else ""
    return _unless_over(worker, read, since, Hung(limit, verdict, call, cell.callback))


def _unless_over(
    worker: Worker, read: Callable[[], OwnCell], since: float, hung: Hung
) -> Hung | None:
    if read().since == since:
        return hung
    # It has ended while we looked, and what runs now has done nothing.
    forget_stack(worker)
    return None


async def _ask(
    worker: Worker, read: Callable[[], OwnCell], before: OwnCell, *, is_computing: bool
) -> Answer:
    if WITNESS_SIGNAL is None or not worker.can_be_signalled:
        return "unasked"
    fds.send_signal(worker.pidfd, worker.os_pid, WITNESS_SIGNAL)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + (STARVED if is_computing else PATIENCE)
    asked = look_at(worker.os_pid)
    while worker.alive and loop.time() < deadline:
        await asyncio.sleep(STEP)
        # Before its answer is looked for: it may compute, and answer, between two of our lines.
        now = look_at(worker.os_pid)
        cell = read()
        if cell.heard != before.heard and cell.is_waiting:
            return "waits"
        if cell.ran != before.ran:
            return "runs"
        if is_computing and asked and now and now.cpu - asked.cpu > COMPUTED:
            break
    return "none"
