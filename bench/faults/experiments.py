"""What is done to a pool, and how what came of it is told."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

import psutil

from bench.faults import tasks
from bench.faults.sides import WORKERS, Side

__all__ = ["EXPERIMENTS", "READY"]

READY = "ready"
"""What a program says that is then dealt with from outside."""

PATIENCE = 5.0
"""After so many seconds, what has not come is said never to come."""

New = Callable[..., Side]


def killed(new: New) -> str:
    """A worker is killed while 20 tasks are at work and wait."""
    side = new()
    futures = [side.submit(tasks.nap, 0.1) for _ in range(20)]
    os.kill(side.result(futures[0], 2 * PATIENCE), signal.SIGKILL)
    return _told(side, _tally(side, futures), _afterwards(side))


def two_arguments(new: New) -> str:
    """A task raises an error whose class takes two arguments."""
    return _one_bad(new, tasks.raises_two_arguments)


def unpicklable_error(new: New) -> str:
    """A task raises an error that cannot be pickled."""
    return _one_bad(new, tasks.raises_unpicklable)


def unpicklable_result(new: New) -> str:
    """A task returns what cannot be pickled."""
    return _one_bad(new, tasks.returns_a_lock)


def memory(new: New) -> str:
    """A task takes more memory than `RLIMIT_AS` allows."""
    return _one_bad(new, tasks.grows)


def _one_bad(new: New, task: Callable[[], Any]) -> str:
    side = new()
    others = [side.submit(tasks.nap, 0.1) for _ in range(3)]
    bad = side.submit(task)
    others += [side.submit(tasks.nap, 0.1) for _ in range(3)]
    found = _of(side, bad, 2 * PATIENCE)
    return _told(side, found, f"others: {_tally(side, others)}", _afterwards(side))


def stuck(new: New) -> str:
    """A task computes in C for ever, and holds the GIL; it gets one second."""
    side = new()
    _warm_up(side)
    start = monotonic()
    found = _of(side, side.submit_limited(tasks.computes_in_c, 1.0), 1.0 + side.grace)
    took = f"{found} after {monotonic() - start:.1f} s"
    after = _afterwards(side)
    busy = any(child.cpu_percent(0.5) > 2 for child in psutil.Process().children(recursive=True))
    return _told(side, took, after, "the worker computes on" if busy else "no worker computes")


def recursion(new: New) -> str:
    """Two tasks, on two workers, each give a task to the same pool and wait for it."""
    side = new()
    futures = [side.submit_nested(value) for value in range(WORKERS)]
    return _told(side, _tally(side, futures, 2 * PATIENCE), _afterwards(side))


def fork_with_threads(new: New) -> str:
    """The pool starts while another thread holds a lock, which the tasks take."""
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with tasks.LOCK:
            held.set()
            done.wait()

    threading.Thread(target=hold).start()
    held.wait()
    side = new()
    futures = [side.submit(tasks.holds_a_lock) for _ in range(4)]
    done.set()
    return _told(side, _tally(side, futures))


def max_tasks(new: New) -> str:
    """Workers are replaced after 2 tasks, and there are 10."""
    side = new(max_tasks=2)
    futures = [side.submit(tasks.nap, 0.05) for _ in range(10)]
    return _told(side, _tally(side, futures, 2 * PATIENCE))


def interrupted(new: New) -> str:
    """Ctrl-C while 2 of 8 tasks of a minute are at work."""
    with new() as side:
        _warm_up(side)
        futures = [side.submit(tasks.nap, 60.0) for _ in range(8)]
        print(READY, flush=True)
        for future in futures:
            side.result(future, 600.0)
    raise AssertionError("Ctrl-C was not heard")


def parent_killed(new: New) -> str:
    """Kill -9 of the program; one worker is idle, and one computes in C."""
    with new() as side:
        _warm_up(side)
        busy = side.submit(tasks.computes_in_c)
        print(READY, flush=True)
        side.result(busy, 600.0)
    raise AssertionError("it is alive")


# --- saying what came of it ---------------------------------------------------------------------


def _warm_up(side: Side) -> None:
    for future in [side.submit(tasks.nap, 0.2) for _ in range(WORKERS)]:
        side.result(future, 2 * PATIENCE)


def _told(side: Side, *found: str) -> str:
    """Put it together, and add whether the pool can be ended."""
    ending = threading.Thread(target=side.__exit__, args=(None, None, None), daemon=True)
    ending.start()
    ending.join(PATIENCE)
    return "; ".join([*found, *(["its end hangs"] if ending.is_alive() else [])])


def _tally(side: Side, futures: Sequence[Any], seconds: float = PATIENCE) -> str:
    end = monotonic() + seconds
    found = Counter(_of(side, future, max(0.05, end - monotonic())) for future in futures)
    return ", ".join(f"{count} {word}" for word, count in found.most_common())


def _of(side: Side, future: Any, seconds: float = PATIENCE) -> str:
    """Return what became of one task, in a word."""
    try:
        side.result(future, seconds)
    except Exception as error:
        name = type(error).__name__
        return "never" if name == side.not_yet else name
    return "done"


def _afterwards(side: Side) -> str:
    """Return whether the pool takes another task."""
    try:
        found = _of(side, side.submit(tasks.same, 1))
    except Exception as error:
        found = type(error).__name__
    return {"done": "goes on", "never": "then hangs"}.get(found, f"then refuses: {found}")


EXPERIMENTS: dict[str, Callable[[New], str]] = {
    "killed": killed,
    "two_arguments": two_arguments,
    "unpicklable_error": unpicklable_error,
    "unpicklable_result": unpicklable_result,
    "memory": memory,
    "stuck": stuck,
    "recursion": recursion,
    "fork_with_threads": fork_with_threads,
    "max_tasks": max_tasks,
    "interrupted": interrupted,
    "parent_killed": parent_killed,
}
