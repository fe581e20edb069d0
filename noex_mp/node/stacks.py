"""Asks a worker where it is before we kill it, and how much memory it has.

A server that hangs in its `init`, or does not stop, is killed; and then the question is where it
hung. The worker answers from a signal handler in C (see `worker.bootstrap`), which writes the
stacks of all its threads into the black box. That takes no GIL, so it works in an endless loop, in
a blocked system call and in C code that keeps the GIL. A process that is stopped (SIGSTOP) does
not answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from noex_mp.node.black_box import blank_stack, stack_in
from noex_mp.node.workers import Worker
from noex_mp.transport import fds
from noex_mp.transport.platform import DUMP_SIGNAL, rss_of

__all__ = ["ask_all_for_stacks", "ask_for_stack", "forget_stack"]

# How long to wait for the answer, in seconds, and how often to look. It has come when nothing new
# is there at the next look.
PATIENCE: Final = 0.05
LOOK: Final = 0.005


async def ask_for_stack(worker: Worker) -> None:
    """Let a worker that is about to be killed say where it is; return within 50 ms."""
    if DUMP_SIGNAL is None or worker.was_asked or not worker.can_be_signalled:
        return
    worker.was_asked = True
    worker.rss = rss_of(worker.os_pid)
    before = stack_in(worker.slot)
    fds.send_signal(worker.pidfd, worker.os_pid, DUMP_SIGNAL)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE
    seen = before
    while worker.alive and loop.time() < deadline:
        await asyncio.sleep(LOOK)
        if not worker.alive:
            return
        now = stack_in(worker.slot)
        if now == seen != before:
            return
        seen = now


def forget_stack(worker: Worker) -> None:
    """Forget where a worker was: it is not killed after all."""
    worker.was_asked = False
    worker.rss = None
    blank_stack(worker.slot)


async def ask_all_for_stacks(workers: Iterable[Worker | None]) -> None:
    """Ask several workers at the same time."""
    await asyncio.gather(*(ask_for_stack(worker) for worker in {*workers} if worker is not None))
