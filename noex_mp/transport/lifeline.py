"""Why nothing outlives the root: the lifeline, subreapers, and how to find one's children.

The **lifeline** is one pipe per node that never carries a byte. Its write end is in the root
alone, so it closes when the root ends, however the root ends. Every worker has its own
description of the read end and asks the kernel to answer that with SIGKILL for its whole
process group: no code of the worker has to run, so it works in a busy loop, and in C code that
never gives the GIL back.

A grandchild that leaves the group (setsid) is not reached. For it there are **subreapers**:
what a dead worker leaves behind becomes a child of the zygote, which ends it.

Where the system cannot signal at an end of file, a thread of each worker reads the lifeline. It
needs the GIL to act, so a worker whose C code never gives that back is left to the zygote, which
kills the groups of all its workers when the root ends. Where there are no subreapers, a
grandchild that has left its worker's group is not found.
"""

from __future__ import annotations

import _thread
import contextlib
import fcntl
import os
import select
import signal
import sys
from collections.abc import Generator
from collections.abc import Set as AbstractSet
from operator import itemgetter
from pathlib import Path
from typing import Final, NoReturn

from noex_mp.transport import fds
from noex_mp.transport.fds import high, own
from noex_mp.transport.libc import libc
from noex_mp.transport.platform import FALLBACKS

_PR_SET_CHILD_SUBREAPER: Final = 36
# Not in the fcntl module before Python 3.13; the number is the same on every Linux.
_F_SETSIG: Final = 10
# include/linux/sched.h
_PF_EXITING: Final = 0x4


def create_lifeline() -> tuple[int, int]:
    """Return the read and the write end of a new lifeline, both high and owned.

    The write end stays in this process, until it ends or `fds.close` closes it.
    """
    with fds.fork_lock:
        read_end, write_end = os.pipe()
        return own(high(read_end)), own(high(write_end))


def arm(read_end: int) -> int:
    """Tie this process's group to the lifeline; return the descriptor that holds the tie.

    The caller leads its process group. When the root ends, the kernel kills the group. Closing
    the returned descriptor unties it. If the root has ended already, this does not return.
    """
    if sys.platform != "linux" or FALLBACKS:
        return _arm_thread(read_end)
    # A description of our own: one that several processes share has only one owner.
    tie = own(high(_open_again(read_end, os.O_RDONLY | os.O_NONBLOCK)))
    fcntl.fcntl(tie, _F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(tie, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(tie, fcntl.F_SETFL, fcntl.fcntl(tie, fcntl.F_GETFL) | os.O_ASYNC)
    # The root may have ended before the kernel was told.
    if is_cut(tie):
        os.killpg(os.getpgrp(), signal.SIGKILL)
    return tie


def _arm_thread(read_end: int) -> int:
    tie = own(high(os.dup(read_end)))
    if is_cut(tie):
        os.killpg(os.getpgrp(), signal.SIGKILL)
    # Not one of the threading module's: nobody waits for it, and no list of threads shows it.
    _thread.start_new_thread(_die_with_the_root, (tie,))
    return tie


def _die_with_the_root(tie: int) -> None:
    # The pipe never carries a byte: a read returns at its end, or if the descriptor is closed.
    with contextlib.suppress(OSError):
        if not os.read(tie, 1):
            os.killpg(os.getpgrp(), signal.SIGKILL)


@contextlib.contextmanager
def tied_for_a_while(read_end: int) -> Generator[None]:
    """Tie this process's group to the lifeline for the time of the block.

    In it nothing but the lifeline watches over this process, whatever its code does; threads are
    not welcome there, since it is going to fork.
    """
    if sys.platform == "linux" and not FALLBACKS:
        tie = arm(read_end)
        try:
            yield
        finally:
            fds.close(tie)
        return
    watcher, release = _fork_watcher(read_end)
    try:
        yield
    finally:
        fds.close(release)
        # The application may wait for children of its own, and for any.
        with contextlib.suppress(ChildProcessError):
            os.waitpid(watcher, 0)


def _fork_watcher(read_end: int) -> tuple[int, int]:
    """Fork a process that kills this group at the root's end; return its pid, and what ends it."""
    released, release = os.pipe()
    fds.set_forking_a_worker(value=True)
    watcher = os.fork()
    if watcher == 0:
        _watch_over(read_end, released, release)
    fds.set_forking_a_worker(value=False)
    os.close(released)
    return watcher, own(high(release))


def _watch_over(read_end: int, released: int, release: int) -> NoReturn:
    os.close(release)
    poll = select.poll()
    poll.register(read_end, 0)
    poll.register(released, 0)
    if read_end in dict(poll.poll()):
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(0)


def is_cut(read_end: int) -> bool:
    """Return whether the lifeline's write end is closed: the root has ended."""
    poll = select.poll()
    poll.register(read_end, 0)
    return bool(poll.poll(0))


def own_description(fd: int, flags: int = os.O_RDWR) -> int:
    """Open what `fd` stands for once more: a descriptor with its own offset and flags.

    Where that cannot be, it shares them with `fd`.
    """
    if sys.platform == "linux" and not FALLBACKS:
        return own(high(_open_again(fd, flags)))
    return own(high(os.dup(fd)))


def _open_again(fd: int, flags: int) -> int:
    return os.open(f"/proc/self/fd/{fd}", flags | os.O_CLOEXEC)


def become_subreaper() -> None:
    """Become the parent of what this process's descendants leave behind, where Linux can."""
    if sys.platform == "linux" and not FALLBACKS:
        libc().prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children() -> list[int]:
    """Return the os pids of this process's children, zombies included.

    Only right in a process of one thread: the kernel lists children by the thread.
    """
    pid = os.getpid()
    if sys.platform != "linux" or FALLBACKS:
        import psutil

        return [child.pid for child in psutil.Process().children()]
    try:
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    except FileNotFoundError:
        # The kernel was built without CONFIG_PROC_CHILDREN.
        return [child for child in _all_os_pids() if _parent_of(child) == pid]


def kill_strays(mark: str, keepers: AbstractSet[int]) -> int:
    """Kill the processes that carry a mark and descend from none of the keepers, on Linux.

    Args:
        mark: What their environment holds, as `NAME=value`.
        keepers: Processes that are spared, with all that is below them.

    Returns:
        How many there were. They may not be dead yet, and their deaths may leave others behind.
    """
    if sys.platform != "linux" or FALLBACKS:
        return 0
    strays = [os_pid for os_pid in _all_os_pids() if _is_stray(os_pid, mark, keepers)]
    for os_pid in strays:
        # No descriptor may be free; then the next look has to do.
        with contextlib.suppress(OSError):
            pidfd = os.pidfd_open(os_pid)
            try:
                # Its number may have become another's meanwhile.
                if _is_stray(os_pid, mark, keepers):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            finally:
                os.close(pidfd)
    return len(strays)


def _is_stray(os_pid: int, mark: str, keepers: AbstractSet[int]) -> bool:
    try:
        # As it was when the process began to execute its program; forks have that of their parent.
        environment = Path(f"/proc/{os_pid}/environ").read_bytes()
    except OSError:
        return False  # another user's, or gone by now
    return mark.encode() in environment.split(b"\0") and not _is_below(os_pid, keepers)


def _is_below(os_pid: int, keepers: AbstractSet[int]) -> bool:
    """Return whether a process is one of the keepers or a descendant."""
    # If an ancestor ends while we look, somebody inherits its children: look again. (Not for ever:
    # where /proc hides the processes of other users, the way up ends at one that stays hidden.)
    for _ in range(5):
        ancestor: int | None = os_pid
        while ancestor is not None and ancestor > 1:
            if ancestor in keepers:
                return True
            ancestor = _parent_of(ancestor)
        if ancestor is not None:
            return False
    return False


def is_ending(os_pid: int) -> bool:
    """Return whether a process has begun to end, or is gone; True where nobody can tell.

    Its descriptors close on the way to its end, a moment before its pidfd becomes readable.
    """
    try:
        status = Path(f"/proc/{os_pid}/stat").read_text()
    except OSError:
        return True
    state, flags = itemgetter(0, 6)(status.rpartition(")")[2].split())
    return state in "ZX" or bool(int(flags) & _PF_EXITING)


def _all_os_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _parent_of(os_pid: int) -> int | None:
    try:
        status = Path(f"/proc/{os_pid}/stat").read_text()
    except OSError:
        return None
    # The second field, the name in brackets, may hold blanks and brackets itself.
    return int(status.rpartition(")")[2].split()[1])
