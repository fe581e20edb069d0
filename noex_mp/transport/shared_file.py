"""The file in memory that the processes of a node share values in, and the locks on it.

```text
file     one for each program with a node; sparse, and never made longer or shorter
span     a TiB of it for each process; only that process puts values into it
```

What lies in it is the matter of `arena`, which a process loads when it shares or reads its first
value. **Memory of the file lives as long as somebody has a lock on it.** There is no ledger that
could be wrong: the kernel drops the locks of a process with its last descriptor, also after
kill -9. They are locks of an *open file description* (`F_OFD_SETLK`), so each process has one of
its own. Only the root has a copy: it keeps that for `GRACE` seconds when the process has died, so
that what it had sent last is still there when its receiver comes to read it. Then the root gives
back what nobody has locked: the dead had no time to do it.

Nobody can make the file shorter (it is sealed), and memory that is given back leaves a hole, which
reads as zeros: whatever a peer does, to read a shared value is no SIGBUS.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import struct
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from noex_mp.transport import fds
from noex_mp.transport.libc import libc
from noex_mp.transport.platform import FALLBACKS
from noex_mp.wire import lending

if TYPE_CHECKING:
    from noex_mp.transport.arena import Arena

__all__ = [
    "GRACE",
    "NO_SPAN",
    "SPAN",
    "Kind",
    "SharedFile",
    "arena",
    "enter",
    "join",
    "leave",
    "lock",
    "punch",
    "reserve",
]

SPAN: Final = 2**40
"""How much of the file belongs to one process, in bytes. None of it is memory until it is used."""

SPANS: Final = 2**22
"""How many there are: a process that comes later shares nothing, and reads all the same."""

NO_SPAN: Final = -1
"""Stands for the span of a process that has none."""

GRACE: Final = 5.0
"""How long the leases of a process outlive it, in seconds."""

# struct flock where a file has 64-bit offsets: type, whence, start, length, pid.
_FLOCK: Final = struct.Struct("hhqqi4x")
# linux/fcntl.h; other systems' modules have no names for them.
_OFD_GETLK: Final = 36
_OFD_SETLK: Final = 37
_OFD_SETLKW: Final = 38
_PUNCH_HOLE: Final = 0x02 | 0x01  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, linux/falloc.h


class Kind:
    """The kinds of locks, as the kernel calls them."""

    READ: Final = fcntl.F_RDLCK
    WRITE: Final = fcntl.F_WRLCK
    NONE: Final = fcntl.F_UNLCK


class SharedFile:
    """The file, as one process has it.

    Attributes:
        fd: For mappings, and for workers to inherit; nothing is ever locked through it.
        span: The number of this process's span.
        users: How many nodes of this process need it.
        on_open: Is given a copy of the description that has this process's locks; the copy is its.
        arena: What this process shares and reads, once it does.
    """

    def __init__(self, fd: int, span: int, on_open: Callable[[int], object] | None = None) -> None:
        self.fd = fds.own(fds.high(fd))
        self.span = span
        self.users = 0
        self.on_open = on_open
        self.arena: Arena | None = None
        self._next_span = itertools.count(1)

    def new_span(self) -> int:
        """Return the number of a span for a new worker."""
        # A node in a worker has none to give away.
        return NO_SPAN if self.span or (span := next(self._next_span)) >= SPANS else span

    def description(self) -> int:
        """Return a new description of the file, for locks."""
        return fds.high(os.open(f"/proc/self/fd/{self.fd}", os.O_RDWR | os.O_CLOEXEC))

    @property
    def has_memory(self) -> bool:
        """Whether anything lies in it."""
        return os.fstat(self.fd).st_blocks > 0

    def sweep(self) -> None:
        """Give back all memory that nobody has locked."""
        if not self.has_memory:
            return
        # What this process itself has locked is to stand in the way.
        fd = self.description()
        try:
            ranges = [(0, SPAN * SPANS)]
            while ranges:
                start, end = ranges.pop()
                found = _lock_in(fd, start, end)
                if found is not None:
                    # The first that the kernel finds is not the first in the file.
                    rest = (start, found[0]), (found[1], end)
                    ranges += [(left, right) for left, right in rest if left < right]
                elif lock(fd, Kind.WRITE, start, end - start):
                    punch(fd, start, end - start)
                else:
                    # Somebody came in between: once more.
                    ranges.append((start, end))
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close it; what is still mapped stays until nobody looks at it any more."""
        lending.enter(None)
        if self.arena is not None:
            self.arena.close()
        fds.close_all([self.fd])


def lock(fd: int, kind: int, start: int, size: int, *, wait: bool = False) -> bool:
    """Lock a range, or turn a lock into another, or end it; return False if others' forbid it."""
    operation = _OFD_SETLKW if wait else _OFD_SETLK
    try:
        fcntl.fcntl(fd, operation, _FLOCK.pack(kind, os.SEEK_SET, start, size, 0))
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        return False
    return True


def _lock_in(fd: int, start: int, end: int) -> tuple[int, int] | None:
    """Return where a lock begins and ends that another has somewhere in a range, or None."""
    wanted = _FLOCK.pack(Kind.WRITE, os.SEEK_SET, start, end - start, 0)
    found = fcntl.fcntl(fd, _OFD_GETLK, wanted)
    kind, _, first, size, _ = _FLOCK.unpack(found)
    return None if kind == Kind.NONE else (first, first + size if size else end)


def reserve(fd: int, start: int, size: int) -> None:
    """Give memory to a range.

    Raises:
        OSError: The machine has none left.
    """
    if sys.platform == "linux":
        os.posix_fallocate(fd, start, size)


def punch(fd: int, start: int, size: int) -> None:
    """Give back the memory of a range: it reads as zeros from now on."""
    from ctypes import c_int64

    libc().fallocate(fd, _PUNCH_HOLE, c_int64(start), c_int64(size))


# --- this process's -----------------------------------------------------------------------------

_here: SharedFile | None = None


def _make() -> SharedFile | None:
    # F_OFD_SETLK came with Linux 3.15; the struct of a 32-bit system is another.
    if sys.platform != "linux" or FALLBACKS or sys.maxsize < 2**32:
        return None
    fd = os.memfd_create("noex-mp-shared", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, SPAN * SPANS)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    except OSError:
        # A limit of the size of files (ulimit -f), most likely: values are copied then.
        os.close(fd)
        return None
    return SharedFile(fd, 0)


def enter() -> SharedFile | None:
    """Return the file for a node of this process, or None where there is no such thing."""
    global _here
    _here = _here or _make()
    if _here is not None:
        _here.users += 1
    return _here


def leave() -> None:
    """Note that a node has stopped that had entered."""
    if _here is not None:
        _here.users -= 1
        close_if_unused()


def close_if_unused() -> None:
    """Close the file if neither a node nor a value needs it any more."""
    global _here
    file = _here
    if file is not None and not file.users and not (file.arena and file.arena.is_in_use):
        _here = None
        file.close()


def join(fd: int, span: int, on_open: Callable[[int], object]) -> None:
    """Take the file that this worker has inherited."""
    global _here
    _here = SharedFile(fd, span, on_open)
    _here.users = 1


def arena() -> Arena | None:
    """Return what this process shares and reads, or None where there is no such thing."""
    global _here
    if fds.forked():
        return None
    _here = _here or _make()
    return _arena_here()


def _arena_here() -> Arena | None:
    if _here is None:
        return None
    if _here.arena is None:
        from noex_mp.transport.arena import Arena

        _here.arena = Arena(_here)
        lending.enter(_here.arena)
    return _here.arena


lending.install(_arena_here)


# --- what the user's program forks --------------------------------------------------------------
# A child keeps what it sees: it gets a description of its own, with a lease on all that its parent
# has at that moment. It shares and reads nothing new.

_pinned: int = fds.NO_FD


def _pin() -> None:
    global _pinned
    if _here is not None and _here.arena is not None and _here.arena.is_in_use:
        with contextlib.suppress(OSError):
            _pinned = _here.arena.pinned()


def _unpin() -> None:
    global _pinned
    if _pinned != fds.NO_FD:
        os.close(_pinned)
        _pinned = fds.NO_FD


def _abandon() -> None:
    global _here, _pinned
    file, _here, _pinned = _here, None, fds.NO_FD
    lending.enter(None)
    if file is not None and file.arena is not None:
        file.arena.abandon()


os.register_at_fork(before=_pin, after_in_parent=_unpin, after_in_child=_abandon)
