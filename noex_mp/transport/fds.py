"""File descriptors: kept high, known, close-on-exec; passed between processes; pidfds.

```python
ours, theirs = socketpair()
send_fds(request_socket, b"...", [theirs.fileno()])
```

The runtime's descriptors live just below the limit, where user code that closes or reuses low
numbers does not meet them. Each process keeps a register of its own, so that a process which
the *user's* program forks gives them up at once: a copy of the lifeline's write end in such a
child would keep every worker alive after the root's death.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import resource
import signal
import socket
import sys
import threading
from typing import TYPE_CHECKING, Final

from noex_mp.transport.platform import FALLBACKS, is_open

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Above this a larger table only costs memory: the kernel copies it with every fork.
HIGHEST: Final = 4096
ROOM: Final = 256
# What macOS grants whatever its hard limit says, sys/syslimits.h.
_OPEN_MAX: Final = 10240
# The kernel passes at most this many descriptors with one message (SCM_MAX_FD).
MAX_PASSED: Final = 253

# Stands for a descriptor that is not there.
NO_FD: Final = -1

_INT_SIZE: Final = array.array("i").itemsize

# As plain numbers: an operation on the socket module's flags costs a microsecond each time.
_NO_SIGNAL: Final = int(getattr(socket, "MSG_NOSIGNAL", 0))
_CLOSE_ON_EXEC: Final = int(getattr(socket, "MSG_CMSG_CLOEXEC", 0))
_TRUNCATED: Final = int(socket.MSG_CTRUNC | socket.MSG_TRUNC)

# Number -> (device, inode): a number may be closed and reused behind our back, so it alone
# does not say that the descriptor is still ours.
_owned: dict[int, tuple[int, int]] = {}
_forked = False
_forking_a_worker = False
_in_forks: set[Callable[[], object]] = set()
_preloading = False
# Held during every fork. Whoever makes a descriptor that no fork must hold, whatever happens, takes
# it meanwhile: that is the lifeline. Reentrant, since a fork may be the work of the holder itself.
fork_lock = threading.RLock()


class DescriptorsLostError(OSError):
    """A message came without its descriptors: this process has no number free for them.

    Attributes:
        data: The message's bytes, which did arrive.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(
            errno.EMFILE, "a message's file descriptors were lost; raise the limit (ulimit -n)"
        )
        self.data = data


# --- numbers ------------------------------------------------------------------------------------


def raise_fd_limit() -> int:
    """Raise the soft limit of open files to the hard one and return the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # macOS reports "no limit" as hard limit and refuses it as a soft one.
        for limit in (hard, max(soft, _OPEN_MAX)):
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
                break
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def open_standard_fds() -> None:
    """Open what is closed of 0, 1 and 2, so that no other file gets these numbers.

    With one of them as its own, uvloop ends the process.
    """
    for fd in (0, 1, 2):
        if not is_open(fd):
            # The lowest free number, which is this one.
            os.open(os.devnull, os.O_RDWR)


def usage() -> tuple[int, int]:
    """Return how many descriptors this process has open, and how many it may have."""
    folder = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"
    # Linux 6.2 and later say the number as the folder's size; else it has to be counted.
    count = sys.platform == "linux" and os.stat(folder).st_size
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return count or _count(folder), sys.maxsize if limit == resource.RLIM_INFINITY else limit


def usage_in_words() -> str:
    """Return how many descriptors are in use, for people."""
    return "{} of {} file descriptors are in use (ulimit -n)".format(*usage())


def _count(folder: str) -> int:
    try:
        # Without the one that lists the folder.
        return len(os.listdir(folder)) - 1
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def high(fd: int) -> int:
    """Move `fd` to a high number, close-on-exec, and return that; the old one is closed.

    Where no high number is free a lower one does, in the worst case the old one.
    """
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    start = (HIGHEST if soft == resource.RLIM_INFINITY else min(soft, HIGHEST)) - ROOM
    while start > fd:
        try:
            moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, start)
        except OSError as error:
            # EINVAL: the limit was lowered below `start` meanwhile.
            if error.errno not in (errno.EMFILE, errno.EINVAL):
                raise
            start //= 2
            continue
        os.close(fd)
        return moved
    os.set_inheritable(fd, False)
    return fd


def take_numbers_below(limit: int) -> list[int]:
    """Open every free number below `limit`, so that what is opened next gets another.

    Where this process may have no others, half of them are left free.
    """
    taken: list[int] = []
    try:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        while null < limit:
            taken.append(null)
            null = os.dup(null)
        os.close(null)
    except OSError:
        half = len(taken) // 2
        give_back_numbers(taken[half:])
        del taken[half:]
    return taken


def give_back_numbers(taken: Sequence[int]) -> None:
    """Close what `take_numbers_below` has opened."""
    if taken and taken[-1] - taken[0] == len(taken) - 1:
        # Nobody else's in between: one call to the kernel.
        os.closerange(taken[0], taken[-1] + 1)
    else:
        close_all(taken)


# --- the register -------------------------------------------------------------------------------


def own(fd: int) -> int:
    """Note that `fd` belongs to the runtime, and return it.

    A process that the user's program forks gives it up. A number that was closed without
    `disown` is harmless: what it stands for is compared first.
    """
    _owned[fd] = _identity(fd)
    return fd


def disown(fd: int) -> int:
    """Note that `fd` is no longer the runtime's, and return it."""
    _owned.pop(fd, None)
    return fd


def close(fd: int) -> None:
    """Disown and close `fd`."""
    os.close(disown(fd))


def forked() -> bool:
    """Return whether this process is a fork that had to give up a node's descriptors."""
    return _forked


def preloading() -> bool:
    """Return whether this process just imports the application, to fork workers from it later.

    Nobody starts a node then: a script without a main guard would start node after node.
    """
    return _preloading


def set_preloading(*, value: bool) -> None:
    """Set what `preloading` returns."""
    global _preloading
    _preloading = value


def set_forking_a_worker(*, value: bool) -> None:
    """Set whether a fork is one of our own: a worker sorts its descriptors out by itself."""
    global _forking_a_worker
    _forking_a_worker = value


def start_register() -> None:
    """Forget what the parent process owned: this one is a new worker."""
    global _forking_a_worker
    _forking_a_worker = False
    _owned.clear()


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _give_up() -> None:
    """Give up all descriptors of the runtime in a child that the user's program forked.

    Each number gets /dev/null instead of being closed: a socket object of the parent's that is
    collected here, or a loop that still knows it, must not hit a file that reuses the number.
    """
    global _forked
    if _forking_a_worker or not _owned:
        return
    _forked = True
    try:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        null = -1
    for fd, identity in _owned.items():
        with contextlib.suppress(OSError):
            if _identity(fd) != identity:
                continue
            if null < 0:
                os.close(fd)
            else:
                os.dup2(null, fd, inheritable=False)
    if null >= 0:
        os.close(null)
    _owned.clear()


def _give_up_and_unlock() -> None:
    fork_lock.release()
    _give_up()


os.register_at_fork(
    before=fork_lock.acquire,
    after_in_parent=fork_lock.release,
    after_in_child=_give_up_and_unlock,
)


def call_in_forks(hook: Callable[[], object]) -> None:
    """Have a function called in every process that is forked from this one; asked twice, once.

    Not before it is needed: every worker is a fork, and pays some pages of memory for each.
    """
    if hook not in _in_forks:
        _in_forks.add(hook)
        os.register_at_fork(after_in_child=hook)


# --- sockets ------------------------------------------------------------------------------------


def socketpair(
    kind: socket.SocketKind = socket.SOCK_STREAM,
) -> tuple[socket.socket, socket.socket]:
    """Return two connected Unix sockets, high, owned, close-on-exec and non-blocking."""
    left, right = socket.socketpair(socket.AF_UNIX, kind)
    return unix_socket(left.detach(), kind), unix_socket(right.detach(), kind)


def high_socket(low: socket.socket) -> socket.socket:
    """Move a Unix socket to a high number, own it, and return its new object."""
    kind = low.type
    return unix_socket(low.detach(), kind)


def unix_socket(fd: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    """Return the Unix socket that `fd` is, moved to a high number, owned and non-blocking."""
    # Told of its kind, Python need not ask the kernel.
    moved = socket.socket(socket.AF_UNIX, kind, 0, fileno=own(high(fd)))
    moved.setblocking(False)
    return moved


def send_fds(sock: socket.socket, data: bytes, fds: Sequence[int] = ()) -> int:
    """Send one packet, and copies of `fds` with it; return how many bytes were taken.

    Raises:
        BlockingIOError: The socket is full, or too many descriptors are on their way; nothing
            was sent.
    """
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    try:
        return sock.sendmsg([data], ancillary, _NO_SIGNAL)
    except OSError as error:
        if error.errno in (errno.ETOOMANYREFS, errno.ENOBUFS):
            raise BlockingIOError(error.errno, error.strerror) from None
        raise


def recv_fds(sock: socket.socket, size: int, max_fds: int = 8) -> tuple[bytes, list[int]]:
    """Receive one packet of at most `size` bytes and the descriptors that came with it.

    The descriptors are close-on-exec, and the caller's to close. No bytes means the end.

    Raises:
        BlockingIOError: There is no packet yet.
        DescriptorsLostError: The kernel had to drop descriptors; the rest was closed.
    """
    room = socket.CMSG_SPACE(max_fds * _INT_SIZE)
    data, ancillary, got, _ = sock.recvmsg(size, room, _CLOSE_ON_EXEC)
    fds = _descriptors(ancillary) if ancillary else []
    if not _CLOSE_ON_EXEC:
        for fd in fds:
            os.set_inheritable(fd, False)
    if got & _TRUNCATED:
        close_all(fds)
        raise DescriptorsLostError(data)
    return data, fds


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(payload[: len(payload) - len(payload) % _INT_SIZE])
    return list(fds)


def close_all(fds: Sequence[int]) -> None:
    """Close every one of `fds`, also those after one that was closed already."""
    for fd in fds:
        with contextlib.suppress(OSError):
            close(fd)


def anonymous_file(name: str) -> int:
    """Return a new nameless file in memory; `name` is for people who look into /proc.

    Nobody can make it shorter again: who has mapped what is no longer there dies of SIGBUS. Where
    the system has no such thing it is a file in the temporary folder.
    """
    if sys.platform == "linux" and not FALLBACKS:
        fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        # Nor can anybody forbid us to make it longer, or to write.
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
        return fd
    import tempfile

    fd, path = tempfile.mkstemp(prefix=name)
    os.unlink(path)
    return fd


def open_for_reading(fd: int) -> int:
    """Return another descriptor of an anonymous file, which cannot write.

    Where a file without a name cannot be opened once more, it is one that can.
    """
    if sys.platform == "linux" and not FALLBACKS:
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    return os.dup(fd)


# --- pidfds -------------------------------------------------------------------------------------

# _IOWR(0xFF, 11, struct pidfd_info of 64 bytes), linux/pidfd.h.
_PIDFD_GET_INFO: Final = 0xC040FF0B
_PIDFD_INFO_EXIT: Final = 1 << 3
_INFO_SIZE: Final = 64
# PIDFD_SIGNAL_PROCESS_GROUP, linux/pidfd.h
_PROCESS_GROUP: Final = 1 << 2
_EXIT_CODE: Final = slice(60, 64)


def open_pidfd(os_pid: int) -> int:
    """Return a descriptor of a process, which becomes readable when the process ends.

    It is `NO_FD` where the system has no such thing: the death is to be learned otherwise.
    """
    if sys.platform == "linux" and not FALLBACKS:
        return os.pidfd_open(os_pid)
    return NO_FD


def send_signal(pidfd: int, os_pid: int, number: int) -> None:
    """Send a signal to a process that may have ended meanwhile."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if sys.platform == "linux" and not FALLBACKS:
            # The number may be another's by now, and the descriptor never is.
            signal.pidfd_send_signal(pidfd, number)
        else:
            os.kill(os_pid, number)


def send_signal_to_group(pidfd: int, os_pid: int, number: int) -> None:
    """Send a signal to the group that a process leads, or led: it may have ended meanwhile."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if sys.platform == "linux" and not FALLBACKS:
            try:
                signal.pidfd_send_signal(pidfd, number, None, _PROCESS_GROUP)
            except ProcessLookupError:
                return
            except OSError:
                # The kernel is older than 6.9 and knows no such flag.
                pass
            else:
                return
        os.killpg(os_pid, number)


def is_reaped(pidfd: int, os_pid: int) -> bool:
    """Whether somebody has taken the wait status of a process."""
    try:
        # Signal 0 only asks, and reaches even a zombie.
        if sys.platform == "linux" and not FALLBACKS:
            signal.pidfd_send_signal(pidfd, 0)
        else:
            os.kill(os_pid, 0)
    except OSError:
        return True
    return False


def exit_status_of(pidfd: int) -> int | None:
    """Return the wait status of a process that was reaped by whomever, or None.

    None where the kernel cannot tell (before Linux 6.15), or while nobody has reaped it: see
    `is_reaped`.
    `os.waitstatus_to_exitcode` and its like read the status.
    """
    if pidfd == NO_FD:
        return None
    info = bytearray(_INFO_SIZE)
    info[:8] = _PIDFD_INFO_EXIT.to_bytes(8, sys.byteorder)
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, info, True)
    except OSError:
        return None
    if not int.from_bytes(info[:8], sys.byteorder) & _PIDFD_INFO_EXIT:
        return None
    return int.from_bytes(info[_EXIT_CODE], sys.byteorder)
