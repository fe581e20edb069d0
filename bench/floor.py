"""The floor: a blocking ping-pong of 40 bytes between two processes, in C and in Python.

Whatever a call costs, the kernel's part of it is this. `python -m bench.floor` prints both.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter_ns

__all__ = [
    "MESSAGE_SIZE",
    "ROUNDS",
    "Numbers",
    "build",
    "c_floor",
    "compiler",
    "fan_out",
    "floor",
    "floor_across_cores",
    "percentiles",
    "python_floor",
]

Numbers = dict[str, float]
"""What one run of a measurement found, by name."""

MESSAGE_SIZE = 40
ROUNDS = 20_000
_WARM_UP = 2_000
_SOURCE = Path(__file__).with_name("floor.c")
_BUILD = Path(__file__).with_name(".build")


def floor() -> Numbers:
    """Measure the floor in C where there is a compiler, else in Python.

    Returns:
        `p50` and `p99` in µs, `per_second` in round trips per second.
    """
    return c_floor() if compiler() else python_floor()


def compiler() -> str | None:
    """Return the C compiler of this machine, or None."""
    return shutil.which("cc")


def floor_across_cores() -> Numbers:
    """Measure the floor in C with each process on a core of its own.

    Raises:
        RuntimeError: There is no compiler, or only one core.
    """
    cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cpus) < 2 or not compiler():
        raise RuntimeError("it takes two cores, and a C compiler")
    return c_floor(cpus[0], cpus[1])


def c_floor(*cpus: int) -> Numbers:
    """Measure the floor in C. There must be a `compiler()`.

    Args:
        cpus: None, or the two on which the processes run.
    """
    return _run_c(ROUNDS, MESSAGE_SIZE, *cpus)


def _run_c(*arguments: int | str) -> Numbers:
    command = [str(build()), *map(str, arguments)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    numbers: Numbers = json.loads(output)
    return numbers


def build() -> Path:
    """Compile the floor where it is missing or older than its source, and return the program."""
    program = _BUILD / "floor"
    if not program.exists() or program.stat().st_mtime < _SOURCE.stat().st_mtime:
        _BUILD.mkdir(exist_ok=True)
        # Under another name first: a second benchmark may be running the old one.
        fresh = program.with_suffix(f".{os.getpid()}")
        subprocess.run(["cc", "-O2", "-o", fresh, _SOURCE], check=True)
        fresh.replace(program)
    return program


def python_floor() -> Numbers:
    """Measure the floor in Python: `os.read` and `os.write`, nothing packed."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        ours.close()
        _echo(theirs.fileno())
    theirs.close()
    message = b"x" * MESSAGE_SIZE
    took: list[int] = []
    fd = ours.fileno()
    began = 0
    for i in range(-_WARM_UP, ROUNDS):
        start = perf_counter_ns()
        if i == 0:
            began = start
        os.write(fd, message)
        os.read(fd, MESSAGE_SIZE)
        if i >= 0:
            took.append(perf_counter_ns() - start)
    whole = perf_counter_ns() - began
    ours.close()
    os.waitpid(child, 0)
    return {**percentiles(took), "per_second": ROUNDS * 1e9 / whole}


def fan_out(width: int = 100, rounds: int = 200) -> Numbers:
    """Measure in C one message to each of many processes, and an answer from each.

    Raises:
        RuntimeError: There is no compiler.
    """
    if not compiler():
        raise RuntimeError("it takes a C compiler")
    return {"ms": _run_c("fan-out", rounds, MESSAGE_SIZE, width)["p50"] / 1e3}


def _echo(fd: int) -> None:
    # 40 bytes never arrive in pieces on a Unix socket with an empty buffer.
    try:
        while data := os.read(fd, MESSAGE_SIZE):
            os.write(fd, data)
    finally:
        os._exit(0)


def percentiles(nanoseconds: Sequence[int]) -> Numbers:
    """Return `p50` and `p99` in µs."""
    ordered = sorted(nanoseconds)
    return {
        "p50": statistics.median(ordered) / 1e3,
        "p99": ordered[len(ordered) * 99 // 100] / 1e3,
    }


if __name__ == "__main__":
    print(json.dumps({"c": c_floor() if compiler() else None, "python": python_floor()}))
