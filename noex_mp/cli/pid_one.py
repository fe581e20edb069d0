"""What the first process of a container has to do besides: reap, and pass signals on.

The kernel gives process 1 duties. Orphans of the whole container become its children, and stay
zombies until it waits for them. A signal that it has no handler for does nothing. And when it
ends, everything else in the container is killed.

The node takes over none of that: a process that waits for *any* child would take the wait
status of its own children away from whoever started them. Instead process 1 forks at once, while
it is small and has one thread. The child is the node. The parent does the above, and ends as the
node ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from typing import Final

__all__ = ["stay_behind_as_pid_one"]

# What is not passed on: news of our own children, and what nobody can wait for.
_KEPT: Final = frozenset({signal.SIGCHLD, signal.SIGKILL, signal.SIGSTOP})

# What a terminal's keys send goes to the whole foreground group: the node has it already.
_KEYS: Final = frozenset({signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP})
_FROM_THE_KERNEL: Final = 0x80  # SI_KERNEL, asm-generic/siginfo.h

# How long what a killed node leaves behind may take to end, in seconds: others may have left
# something as well.
_LAST_SWEEP: Final = 2.0


def stay_behind_as_pid_one() -> None:
    """If this is process 1, go on in a child, and never return in this one.

    For a process of one thread that has set its signal handlers: the child has them from its
    first moment.
    """
    if sys.platform != "linux" or os.getpid() != 1:
        return
    # Blocked signals wait; so none gets lost around the fork, nor is ignored for being process 1.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    node = os.fork()
    if node == 0:
        if os.environ.get("WATCHDOG_PID") == "1":
            os.environ["WATCHDOG_PID"] = str(os.getpid())
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    os._exit(_outlive(node))


def _outlive(node: int) -> int:
    """Pass signals on and reap, until the node has ended; return its status as a shell has it."""
    if sys.platform != "linux":
        raise NotImplementedError
    status = None
    while status is None:
        news = signal.sigwaitinfo(signal.valid_signals())
        if news.si_signo == signal.SIGCHLD:
            status = _reap(node)
        elif news.si_signo not in _KEYS or news.si_code != _FROM_THE_KERNEL:
            _pass_on(node, news.si_signo)
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return code
    # Killed. Its zygote is ours now, and still ends the workers and removes the socket's file.
    deadline = time.monotonic() + _LAST_SWEEP
    while _has_children() and signal.sigtimedwait(
        [signal.SIGCHLD], max(0.0, deadline - time.monotonic())
    ):
        _reap(node)
    return 128 - code


def _pass_on(node: int, number: int) -> None:
    if number not in _KEPT:
        with contextlib.suppress(ProcessLookupError):
            os.kill(node, number)


def _reap(node: int) -> int | None:
    """Wait for every child that has ended; return the node's wait status if it is among them."""
    status: int | None = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == node:
                status = ended[1]
    return status


def _has_children() -> bool:
    if sys.platform != "linux":
        return False
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT | os.WNOHANG)
    except ChildProcessError:
        return False
    return True
