"""How much private memory a process has, and whether this one has nearly all that it may have.

```text
/proc/PID/statm           quick; counts what a process shares with the one it was forked from
/proc/PID/smaps_rollup    exact, and slow: the kernel looks at every page
```

The root looks at all processes that have a limit, ten times a second (see `node.memory`). A process
that has to know at a certain moment, as between two tasks, looks at itself: `own_memory`.
"""

from __future__ import annotations

import os
import time
from typing import Final

__all__ = [
    "EXACTLY",
    "SHARE",
    "SOFT",
    "OwnMemory",
    "limit_own",
    "own_memory",
    "private_at_most",
    "private_memory",
]

# From which part of the limit on it is nearly all.
SOFT: Final = 0.8

# A worker may write to what it shared, and then has more of its own without having more. So it is
# looked at exactly from time to time as well: not more often than that, in seconds ...
EXACTLY: Final = 1.0

# ... and for so much of a CPU at most: the kernel takes some 20 ms for a GiB, and we wait.
SHARE: Final = 0.0007

# A process that looks at itself does so at most once in this time, in seconds: a look takes as long
# as a short task, and meanwhile the kernel hands out a megabyte or two.
APART: Final = 500e-6

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_PRIVATE: Final = (b"Private_Clean:", b"Private_Dirty:", b"Private_Hugetlb:")


def private_at_most(os_pid: int | str) -> int:
    """Return more than the private memory of a process, in bytes, or just that; 0 if it is gone."""
    try:
        _, resident, shared, *_ = _read(f"/proc/{os_pid}/statm").split()
    except (OSError, ValueError):
        return 0
    return (int(resident) - int(shared)) * _PAGE


def private_memory(os_pid: int | str) -> int:
    """Return the private memory of a process, in bytes; 0 if it is gone."""
    try:
        lines = _read(f"/proc/{os_pid}/smaps_rollup").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(_PRIVATE)) * 1024


def _read(path: str) -> bytes:
    # A fifth of what `Path.read_text` takes, ten times a second. To keep the file open would spare
    # another microsecond, and cost a descriptor for each.
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)


class OwnMemory:
    """The memory of this process, which has a limit.

    Attributes:
        limit: How much it may have, in bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._soft = int(limit * SOFT)
        # What it shares with its zygote and statm counts, by the last exact look.
        self._shared = 0
        self._exact_at = 0.0
        self._looks_at = 0.0

    def nearly_all(self) -> int:
        """Return how much there is if that is 80 % of the limit, else 0; it takes some 10 µs.

        It is 0 as well if somebody has just asked.
        """
        now = time.monotonic()
        if now < self._looks_at:
            return 0
        self._looks_at = now + APART
        most = private_at_most("self")
        if most < self._soft or (most - self._shared < self._soft and now < self._exact_at):
            return 0
        return self.nearly_all_exactly()

    def nearly_all_exactly(self) -> int:
        """Return the same; it takes some 20 ms for a GiB."""
        began = time.thread_time()
        used = private_memory("self")
        took = time.thread_time() - began
        self._exact_at = time.monotonic() + max(EXACTLY, took / SHARE)
        self._shared = max(0, private_at_most("self") - used)
        return used if used >= self._soft else 0


_own: OwnMemory | None = None


def limit_own(limit: int | None) -> None:
    """Set how much this process may have, in bytes. For the worker, when it starts."""
    global _own
    _own = None if limit is None else OwnMemory(limit)


def own_memory() -> OwnMemory | None:
    """Return the memory of this process; None if it has no limit."""
    return _own
