"""What a server's options say of its process: variables, nice value, CPUs."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import Any

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
