"""What this platform has: decided once, when it is imported, and never asked again.

Linux is the home of noex-mp, and does with one call to the kernel what other systems do not do at
all. Wherever it is used there is a **fall-back** beside it, in the same small function:

| Linux | elsewhere |
|---|---|
| pidfd: a death is an event, a signal meets no stranger | the zygote's report, the end of a link |
| memfd, opened once more through /proc | a temporary file without a name, one for each worker |
| lifeline by signal (`O_ASYNC`, `F_SETSIG`) | a thread that reads the lifeline, and the zygote |
| subreaper: what escapes a dead worker is found | it is not found |
| `SOCK_SEQPACKET` | a stream, with a header before each packet |
| timerfd | timers of the event loop |
| `waitid` that leaves the zombie | `waitpid` |
| /proc | /dev/fd, psutil |
| a real-time signal asks a worker for its stack before we kill it | nobody asks |

`NOEX_MP_FALLBACKS=1` takes the fall-backs on Linux too: that is how they are tested. Branches are
written `if sys.platform == "linux" and not FALLBACKS`, since type checkers understand that.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import sys
from typing import Final

__all__ = [
    "DUMP_SIGNAL",
    "FALLBACKS",
    "INTERRUPT_SIGNAL",
    "WITNESS_SIGNAL",
    "is_open",
    "open_fds",
    "peer_of",
    "rss_of",
]

#: Whether to do without what only Linux has. (A Python may be built without pidfds there too.)
FALLBACKS: Final = (
    sys.platform != "linux"
    or os.environ.get("NOEX_MP_FALLBACKS", "0") not in ("", "0")
    or not hasattr(os, "pidfd_open")
)

_LAST_SIGNAL: int | None = getattr(signal, "SIGRTMAX", None)
#: At this signal a worker writes the stacks of its threads into the black box. Programs have their
#: own uses for SIGUSR1 and SIGUSR2; of the real-time signals the first belong to the C library and
#: to systemd, and the last to Valgrind. None where there are no real-time signals.
DUMP_SIGNAL: Final = _LAST_SIGNAL - 4 if _LAST_SIGNAL else None
#: At this one a worker in which a handler takes too long answers from Python code, if any can run.
WITNESS_SIGNAL: Final = _LAST_SIGNAL - 5 if _LAST_SIGNAL else None

#: At this one the lane of a pool looks whether the task that it runs is to stop. It is ignored
#: wherever nobody listens, so it does no harm to a process that does not, or not any more.
INTERRUPT_SIGNAL: Final = signal.SIGURG

_PAGE_SIZE: Final = os.sysconf("SC_PAGE_SIZE")

_FD_FOLDER: Final = "/dev/fd" if FALLBACKS else "/proc/self/fd"
# sys/un.h on macOS. struct xucred holds a version, the user's id, and the groups.
_SOL_LOCAL: Final = 0
_LOCAL_PEERCRED: Final = 1
_LOCAL_PEERPID: Final = 2
_XUCRED_SIZE: Final = 76


def open_fds() -> list[int]:
    """Return the numbers of all open descriptors of this process."""
    return [int(fd) for fd in os.listdir(_FD_FOLDER) if is_open(int(fd))]


def is_open(fd: int) -> bool:
    """Return whether there is a descriptor of this number."""
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def peer_of(sock: socket.socket) -> tuple[int, int]:
    """Return the os pid and the user id of the process at the other end of a Unix socket."""
    if sys.platform == "linux":
        os_pid, uid, _ = struct.unpack(
            "iIi", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        )
        return os_pid, uid
    credentials = sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED_SIZE)
    return sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERPID), struct.unpack_from("II", credentials)[1]


def rss_of(os_pid: int) -> int | None:
    """Return the memory that a process has, in bytes; None if nobody knows.

    Pages that it shares with the process it was forked from count as well.
    """
    if sys.platform != "linux":
        return None
    try:
        # Each worker does this: a file of Python's would cost it 0.2 MB of pages of its own.
        statm = os.open(f"/proc/{os_pid}/statm", os.O_RDONLY | os.O_CLOEXEC)
        try:
            pages = int(os.read(statm, 128).split()[1])
        finally:
            os.close(statm)
    except (OSError, ValueError, IndexError):
        return None
    return pages * _PAGE_SIZE
