"""What a server's options say of its process: variables, nice value, CPUs, memory."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from noex_mp.errors import ConfigError

__all__ = ["prepare_process"]


def prepare_process(options: Mapping[str, Any]) -> None:
    """Make this process what the options say; before any code of the user's runs in it.

    Raises:
        ConfigError: The system does not allow it.
    """
    _set_variables(options.get("env", {}))
    if "nice" in options:
        _set_nice(options["nice"])
    if "cpu_affinity" in options:
        _set_affinity(options["cpu_affinity"])
    if "memory_limit" in options:
        _limit_data(options["memory_limit"])


# How much more than its `memory_limit` a process may ask for, in bytes: address space counts from
# the moment that it is asked for, memory when it is used. 32 threads ask for 256 MiB.
_HEADROOM: Final = 256 * 2**20


def _set_variables(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if "TZ" in variables:
        # Whoever was forked has the time zone of its parent until it looks again.
        time.tzset()


def _set_nice(nice: int) -> None:
    try:
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    except OSError as error:
        now = os.getpriority(os.PRIO_PROCESS, 0)
        raise ConfigError(
            f"the system does not allow nice={nice}: {error.strerror}; a process may become "
            f"nicer, and this one is at {now}\n"
            f"Write nice={now} or more, or give the program the right (RLIMIT_NICE, CAP_SYS_NICE)."
        ) from error


def _set_affinity(cpus: list[int]) -> None:
    if sys.platform != "linux":
        raise ConfigError("only Linux has cpu_affinity=; leave it out")
    try:
        os.sched_setaffinity(0, cpus)
    except OSError as error:
        there = ", ".join(map(str, sorted(os.sched_getaffinity(0))))
        raise ConfigError(
            f"the system does not allow cpu_affinity={set(cpus)}: {error.strerror}\n"
            f"This process may run on: {there}."
        ) from error


def _limit_data(limit: int) -> None:
    """Let the system refuse what is far beyond a limit, however fast it is asked for.

    The root looks from time to time how much is used (see `node.memory`), and a gigabyte is
    written in less time.
    """
    if sys.platform != "linux":
        raise ConfigError("only Linux has memory_limit=; leave it out")
    pages = int(Path("/proc/self/statm").read_text().split()[5])
    most = pages * os.sysconf("SC_PAGE_SIZE") + limit + limit // 4 + _HEADROOM
    # The hard limit stays: the last words of a process may need more.
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    if hard == resource.RLIM_INFINITY or most < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
