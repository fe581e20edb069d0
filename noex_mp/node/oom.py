"""Whether the kernel has killed for want of memory: its own counters, before and after.

```text
/sys/fs/cgroup/.../memory.events         cgroup v2    oom_kill 3
/sys/fs/cgroup/memory/.../memory.oom_control   v1     oom_kill 3
/proc/vmstat                             the machine  oom_kill 3
```

The kernel counts before it sends the signal, so the count is there when the death is known.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

__all__ = ["OomCounter"]

_CGROUPS: Final = Path("/sys/fs/cgroup")
_MACHINE: Final = Path("/proc/vmstat")


class OomCounter:
    """Counts the OOM kills where a node runs, and which of them a death has explained."""

    def __init__(self, file: Path | None = None) -> None:
        """Find the counter of this process.

        Args:
            file: Where it stands; None means that of the cgroup, else of the machine.
        """
        self._file = file or _counter_of_this_process()
        self._explained = self.read()

    def read(self) -> int:
        """Return how many processes have been killed so far; 0 if nobody knows."""
        if self._file is None:
            return 0
        return _read(self._file) or 0

    def explains(self, since: int) -> bool:
        """Return whether a death by SIGKILL is one that the kernel has counted; take it as such.

        Args:
            since: What the counter said when the process started.
        """
        now = self.read()
        if now <= max(since, self._explained):
            return False
        self._explained = max(since, self._explained) + 1
        return True


def _counter_of_this_process() -> Path | None:
    return next((file for file in _candidates() if _read(file) is not None), None)


def _candidates() -> Iterator[Path]:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            # Inside of a container its own group may be mounted at the top.
            if "memory" in controllers.split(","):
                yield _CGROUPS / "memory" / path.lstrip("/") / "memory.oom_control"
                yield _CGROUPS / "memory" / "memory.oom_control"
            elif not controllers:
                yield _CGROUPS / path.lstrip("/") / "memory.events"
                yield _CGROUPS / "memory.events"
    yield _MACHINE


def _read(file: Path) -> int | None:
    """Return what a counter says; None if it is none."""
    with contextlib.suppress(OSError, ValueError):
        for line in file.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return None
