"""Why nothing outlives the root: the lifeline, subreapers, and how to find one's children.

The **lifeline** is one pipe per node that never carries a byte. Its write end is in the root
alone, so it closes when the root ends, however the root ends. Every worker has its own
description of the read end and asks the kernel to answer that with SIGKILL for its whole
process group: no code of the worker has to run, so it works in a busy loop, and in C code that
never gives the GIL back.

A grandchild that leaves the group (setsid) is not reached. For it there are **subreapers**:
what a dead worker leaves behind becomes a child of the zygote, which ends it.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
from pathlib import Path
from typing import Final

from noex_mp.transport.fds import high, own
from noex_mp.transport.libc import libc

_PR_SET_CHILD_SUBREAPER: Final = 36
# Not in the fcntl module before Python 3.13; the number is the same on every Linux.
_F_SETSIG: Final = 10


def create_lifeline() -> tuple[int, int]:
    """Return the read and the write end of a new lifeline, both high and owned.

    The write end stays in this process, until it ends or `fds.close` closes it.
    """
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    return own(high(read_end)), own(high(write_end))


def arm(read_end: int) -> int:
    """Tie this process's group to the lifeline; return the descriptor that holds the tie.

    The caller leads its process group. When the root ends, the kernel kills the group. Closing
    the returned descriptor unties it. If the root has ended already, this does not return.
    """
    # A description of our own: one that several processes share has only one owner.
    tie = own(high(_open_again(read_end, os.O_RDONLY | os.O_NONBLOCK)))
    fcntl.fcntl(tie, _F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(tie, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(tie, fcntl.F_SETFL, fcntl.fcntl(tie, fcntl.F_GETFL) | os.O_ASYNC)
    # The root may have ended before the kernel was told.
    if is_cut(tie):
        os.killpg(os.getpgrp(), signal.SIGKILL)
    return tie


def is_cut(read_end: int) -> bool:
    """Return whether the lifeline's write end is closed: the root has ended."""
    poll = select.poll()
    poll.register(read_end, 0)
    return bool(poll.poll(0))


def own_description(fd: int, flags: int = os.O_RDWR) -> int:
    """Open what `fd` stands for once more: a descriptor with its own offset and flags."""
    return own(high(_open_again(fd, flags)))


def _open_again(fd: int, flags: int) -> int:
    return os.open(f"/proc/self/fd/{fd}", flags | os.O_CLOEXEC)


def become_subreaper() -> None:
    """Become the parent of what this process's descendants leave behind, where Linux can."""
    if hasattr(libc(), "prctl"):
        libc().prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children() -> list[int]:
    """Return the os pids of this process's children, zombies included.

    Only right in a process of one thread: the kernel lists children by the thread.
    """
    pid = os.getpid()
    try:
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    except FileNotFoundError:
        # The kernel was built without CONFIG_PROC_CHILDREN.
        return [child for child in _all_os_pids() if _parent_of(child) == pid]


def _all_os_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _parent_of(os_pid: int) -> int | None:
    try:
        status = Path(f"/proc/{os_pid}/stat").read_text()
    except OSError:
        return None
    # The second field, the name in brackets, may hold blanks and brackets itself.
    return int(status.rpartition(")")[2].split()[1])
