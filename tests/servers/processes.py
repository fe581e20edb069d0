"""A server that looks at its own process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

from noex_mp import GenServer, call

IMPORTED_IN = os.getpid()


class Looking(GenServer):
    """Tells what its process is like."""

    @call
    def os_pid(self) -> int:
        return os.getpid()

    @call
    def imported_in(self) -> int:
        """The process that imported this module."""
        return IMPORTED_IN

    @call
    def variable(self, name: str) -> str | None:
        return os.environ.get(name)

    @call
    def seconds_east(self) -> int:
        """How far its clock is ahead of Greenwich."""
        return time.localtime().tm_gmtoff

    @call
    def nice(self) -> int:
        return os.getpriority(os.PRIO_PROCESS, 0)

    @call
    def cpus(self) -> list[int]:
        return sorted(os.sched_getaffinity(0))

    @call
    def parent(self) -> int:
        return os.getppid()

    @call
    def group(self) -> int:
        return os.getpgrp()

    @call
    def path(self) -> list[str]:
        return sys.path

    @call
    def low_fds(self) -> list[int]:
        """Which low numbers are in use."""
        return [fd for fd in map(int, os.listdir("/proc/self/fd")) if fd < 100]

    @call
    def handlers(self) -> list[bool]:
        """Whether SIGTERM and SIGHUP end the process, and SIGINT does."""
        numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
        return [signal.getsignal(number) is signal.SIG_DFL for number in numbers]

    @call
    def ignores(self, number: int) -> bool:
        return signal.getsignal(number) is signal.SIG_IGN

    @call
    def hears(self, number: int) -> list[int]:
        heard: list[int] = []
        signal.signal(number, lambda number, frame: heard.append(number))
        os.kill(os.getpid(), number)
        return heard

    @call
    def status_after(self, number: int) -> int:
        """Execute a program that sends itself a signal; return its status."""
        code = f"import os; os.kill(os.getpid(), {number})"
        return subprocess.run([sys.executable, "-S", "-c", code], check=False).returncode

    @call
    def threads(self) -> int:
        return threading.active_count()

    @call
    def say(self, text: str) -> None:
        print(text, file=sys.stderr)

    @call
    def segfault(self) -> None:
        import ctypes

        ctypes.string_at(0)
