"""`python -m bench.faults`: do it to each pool, watch, clear away, and print the table."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import monotonic, sleep

import psutil

from bench.faults.experiments import EXPERIMENTS, READY
from bench.faults.sides import SIDES

TIME_LIMIT = 45.0
"""How long one experiment may take, in seconds; a pool that hangs is given up sooner."""

OUTSIDE = 10.0
"""How long we watch a program to which something was done from outside, in seconds."""

PR_SET_CHILD_SUBREAPER = 36


def main(argv: Sequence[str] | None = None) -> int:
    """Make the experiments and print what came of them."""
    parser = argparse.ArgumentParser(prog="python -m bench.faults", description=__doc__)
    parser.add_argument("--only", action="append", choices=EXPERIMENTS, help="may be repeated")
    parser.add_argument("--side", action="append", choices=SIDES, help="may be repeated")
    parser.add_argument("--program", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.program:
        _program(*args.program)
    if sys.platform == "linux":
        # What loses its parent becomes our child: so we find it, and end it.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for side in args.side or SIDES:
        print(f"\n{SIDES[side].title} {SIDES[side].version()}", flush=True)
        for experiment in args.only or EXPERIMENTS:
            print(f"  {experiment:20} {_experiment(experiment, side)}", flush=True)
    return 0


def _program(experiment: str, side: str) -> None:
    said = EXPERIMENTS[experiment](SIDES[side])
    print(said, flush=True)
    # Some leave threads behind that would keep the interpreter waiting.
    os._exit(0)


def _experiment(experiment: str, side: str) -> str:
    if reason := SIDES[side].lacks.get(experiment):
        return reason
    with tempfile.TemporaryDirectory() as folder:
        # Files: whoever is left behind would hold a pipe open.
        out, err = Path(folder, "out"), Path(folder, "err")
        with out.open("wb") as stdout, err.open("wb") as stderr:
            program = subprocess.Popen(
                [sys.executable, "-m", "bench.faults", "--program", experiment, side],
                stdout=stdout, stderr=stderr, start_new_session=True,
            )  # fmt: skip
        try:
            if experiment == "interrupted":
                return _interrupted(program, out, err)
            if experiment == "parent_killed":
                return _parent_killed(program, out)
            program.wait(TIME_LIMIT)
            return _last(out) or f"failed: {_last(err)}"
        except (subprocess.TimeoutExpired, TimeoutError):
            return f"hangs: {_last(err)}"
        finally:
            _clear_away()


def _interrupted(program: subprocess.Popen[bytes], out: Path, err: Path) -> str:
    _wait_until_ready(program, out)
    before = err.read_text()
    start = monotonic()
    os.killpg(program.pid, signal.SIGINT)
    try:
        program.wait(OUTSIDE)
        end = f"ended after {monotonic() - start:.1f} s, exit status {program.returncode}"
    except subprocess.TimeoutExpired:
        end = f"not ended after {OUTSIDE:g} s"
    said = err.read_text()[len(before) :]
    return (
        f"{end}; {len(said.splitlines())} lines, {said.count('Traceback (most')} tracebacks; "
        f"{len(_children())} processes left"
    )


def _parent_killed(program: subprocess.Popen[bytes], out: Path) -> str:
    _wait_until_ready(program, out)
    others = psutil.Process(program.pid).children(recursive=True)
    start = monotonic()
    program.kill()
    program.wait()
    _, alive = psutil.wait_procs(others, OUTSIDE)
    busy = sum(process.cpu_percent(0.5) > 2 for process in alive)
    if alive:
        return f"{len(alive)} of {len(others)} processes live on, {busy} of them busy"
    return f"all {len(others)} processes gone after {monotonic() - start:.1f} s"


def _wait_until_ready(program: subprocess.Popen[bytes], out: Path) -> None:
    end = monotonic() + TIME_LIMIT
    while READY not in out.read_text():
        if program.poll() is not None or monotonic() > end:
            raise TimeoutError
        sleep(0.02)
    # The tasks get to where they wait or compute.
    sleep(0.5)


def _clear_away() -> None:
    """End all that the program has left, by its pid, until nothing more comes up."""
    while children := _children():
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(children, 1.0)


def _children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def _last(file: Path) -> str:
    lines = file.read_text().strip().splitlines()
    return lines[-1] if lines else ""


if __name__ == "__main__":
    sys.exit(main())
