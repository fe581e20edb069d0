"""`python -m bench.peers`: measure the peers and ourselves, each in a process of its own."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.floor import Numbers, floor
from bench.peers.operations import OPERATIONS, Peer, drive, run

TIME_LIMIT = 120.0
"""How long one peer may take for one round, in seconds."""

ADAPTERS = {
    "ours": "bench.peers.ours:Ours",
    "executor": "bench.peers.executors:Executor",
    "loky": "bench.peers.executors:Loky",
    "pyro": "bench.peers.pyro:Pyro",
    "thespian": "bench.peers.thespian:Thespian",
    "xoscar": "bench.peers.xoscar:Xoscar",
    "ray": "bench.peers.ray:Ray",
    "dask": "bench.peers.dask:Dask",
}

FLOOR = "floor"

# Title, operation, number, decimals.
COLUMNS = [
    ("call p50, µs", "calls", "p50", 1),
    ("p99, µs", "calls", "p99", 0),
    ("64 in flight, /s", "in_flight", "per_second", 0),
    ("one-way, /s", "one_way", "per_second", 0),
    ("16 MiB, ms", "big", "ms", 1),
    ("start, ms", "start", "ms", 1),
    ("kill to reply, ms", "kill", "ms", 1),
]

Found = dict[str, Numbers | str]
"""What one peer's process found, by operation; a string says why there is nothing."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison and print its table."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("--only", action="append", choices=ADAPTERS, help="may be repeated")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--measure", choices=[*ADAPTERS, FLOOR], help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.measure:
        _measure(args.measure)
        return 0
    names: list[str] = args.only or list(ADAPTERS)
    rounds = [_one_round([FLOOR, *names], number) for number in range(1, args.rounds + 1)]
    print(_report(names, rounds))
    return 0


# --- in the peer's process ---------------------------------------------------------------------


def _measure(name: str) -> None:
    if sys.platform == "linux":
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    if name == FLOOR:
        _print("calls", floor())
        return
    peer = _adapter(name)()
    drive(peer, _print_all(peer))
    sys.stdout.flush()
    # Some leave threads behind that would keep the interpreter, and the round, waiting.
    os._exit(0)


async def _print_all(peer: Peer) -> None:
    async for operation, found in run(peer):
        _print(operation, found)


def _print(operation: str, found: Numbers | str) -> None:
    print(json.dumps([operation, found]), flush=True)


def _adapter(name: str) -> type[Peer]:
    module, _, attribute = ADAPTERS[name].partition(":")
    adapter: type[Peer] = getattr(importlib.import_module(module), attribute)
    return adapter


# --- in ours -----------------------------------------------------------------------------------


def _one_round(names: list[str], number: int) -> dict[str, Found]:
    order = random.sample(names, len(names))
    found: dict[str, Found] = {}
    for name in order:
        if sys.stderr.isatty():
            print(f"\r\x1b[Kround {number}: {name}", end="", file=sys.stderr, flush=True)
        found[name] = _in_a_process(name)
    return found


def _in_a_process(name: str) -> Found:
    """Run one peer; one that hangs or fails keeps what it has found so far."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.peers", "--measure", name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    problem = ""
    try:
        out, err = process.communicate(timeout=TIME_LIMIT)
        if process.returncode:
            problem = (err.strip().splitlines() or [f"exit status {process.returncode}"])[-1]
    except subprocess.TimeoutExpired:
        problem = f"took more than {TIME_LIMIT:g} s"
        out = _end(process)
    finally:
        _kill_group(process.pid)
    # A library may print too.
    lines = [json.loads(line) for line in out.splitlines() if line.startswith('["')]
    found: Found = dict(lines)
    if problem:
        found.update({o: problem for o in OPERATIONS if o not in found})
    return found


def _end(process: subprocess.Popen[str]) -> str:
    _kill_group(process.pid)
    try:
        return process.communicate(timeout=5)[0]
    except subprocess.TimeoutExpired as expired:
        # Somebody who left the group holds the pipe.
        output = expired.output or b""
        return output.decode() if isinstance(output, bytes) else output


def _kill_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


# --- showing -----------------------------------------------------------------------------------


def _report(names: list[str], rounds: list[dict[str, Found]]) -> str:
    floors = [_value(found[FLOOR], "calls", "p50") for found in rounds]
    head = ["", *(title for title, *_ in COLUMNS), "x floor"]
    lines = [head, ["-" * 3, *["--:"] * (len(head) - 1)]]
    notes: list[str] = []
    for name in names:
        cells = [_cell([r[name] for r in rounds], *column[1:]) for column in COLUMNS]
        calls = [_value(r[name], "calls", "p50") for r in rounds]
        ratios = [c / f for c, f in zip(calls, floors, strict=True) if c and f]
        ratio = f"{statistics.median(ratios):.1f}" if ratios else ""
        lines.append([_title(name), *cells, ratio])
        notes += _notes(name, rounds)
    known = [f for f in floors if f]
    lines.append(["C ping-pong, the floor", f"{statistics.median(known):.1f}" if known else "",
                  *[""] * (len(COLUMNS) - 1), "1"])  # fmt: skip
    return "\n".join([_machine(len(rounds)), "", *_aligned(lines), "", *notes])


def _aligned(lines: list[list[str]]) -> list[str]:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return [
        "| "
        + " | ".join(
            # What says how to align is as wide as the rest; names from the left, numbers not.
            "-" * (width - 1) + ":" if cell == "--:" else "-" * width if cell == "---"
            else cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in lines
    ]  # fmt: skip


def _value(found: Found, operation: str, number: str) -> float | None:
    numbers = found.get(operation)
    return numbers[number] if isinstance(numbers, dict) else None


def _cell(rounds: list[Found], operation: str, number: str, decimals: int) -> str:
    values = [v for found in rounds if (v := _value(found, operation, number)) is not None]
    return f"{statistics.median(values):,.{decimals}f}" if values else "-"


def _title(name: str) -> str:
    # Loading an adapter loads its library, so one that is not installed has but its name.
    try:
        adapter = _adapter(name)
    except ImportError:
        return name
    version = importlib.metadata.version(adapter.package) if adapter.package else ""
    return f"{adapter.title} {version}".strip()


def _notes(name: str, rounds: list[dict[str, Found]]) -> list[str]:
    reasons = {
        f"{operation}: {text}": None
        for found in rounds
        for operation, text in found[name].items()
        if isinstance(text, str)
    }
    try:
        settings = _adapter(name).settings
    except ImportError as error:
        return [f"- {name}: {error}"]
    texts = [text for text in (settings, *reasons) if text]
    return [f"- {_title(name)}: {'; '.join(texts)}"] if texts else []


def _machine(rounds: int) -> str:
    return (
        f"{_cpu()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}; everything on one core; asyncio's own loop in the "
        f"caller; medians of {rounds} round{'s' if rounds > 1 else ''}."
    )


def _cpu() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    sys.exit(main())
