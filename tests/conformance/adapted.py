"""Our executor as CPython's tests look at theirs: below the surface, too.

Where a test asks for an inside of theirs, and means something that ours promises as well, this
answers for ours. Nothing here changes what an executor does.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final

import psutil

import noex_mp
from noex_mp import RemoteProtocolError, UnencodableError, WorkerExitedError
from noex_mp.pools.background import Background

__all__ = ["ERRORS", "ProcessPoolExecutor", "lanes"]

ERRORS: Final = {
    # A process has died, or what was sent cannot be read: the task fails, and not the pool.
    "BrokenProcessPool": (WorkerExitedError, RemoteProtocolError),
    "PicklingError": UnencodableError,
}
"""What stands for the errors that the suite expects."""


def lanes() -> list[psutil.Process]:
    """Return the processes of all executors: those that the node has forked."""
    return [lane for root in psutil.Process().children() for lane in root.children(recursive=True)]


def wait_until_up(background: Background) -> None:
    """Return once an executor has its processes, if it has begun."""
    inside = vars(background)
    while (thread := inside["_thread"]) is not None and thread.is_alive():
        dispatcher = inside["_dispatcher"]
        if dispatcher is not None and dispatcher.refs:
            break
        time.sleep(0.001)


class Processes:
    """The processes of an executor, by their pids; also when they have ended."""

    def __init__(self) -> None:
        self._all: dict[int, Process] = {}

    def note(self) -> None:
        """Remember those that there are."""
        for lane in lanes():
            self._all.setdefault(lane.pid, Process(lane))

    def values(self) -> list[Process]:
        return list(self._all.values())

    def __len__(self) -> int:
        return len(self._all)


class Process:
    """One of them, as `multiprocessing` has it."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process

    def join(self) -> None:
        self._process.wait(10)

    def terminate(self) -> None:
        self._process.kill()


class _NoQueue:
    """What is between an executor and its processes: sockets, which leave nothing to be joined."""

    def join_thread(self) -> None:
        """Do nothing."""


class ProcessPoolExecutor(noex_mp.ProcessPoolExecutor):
    """Ours, with the insides that the suite looks at."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._seen = Processes()
        self._call_queue = _NoQueue()

    @property
    def _processes(self) -> Processes:
        wait_until_up(self._background)
        self._seen.note()
        return self._seen

    @property
    def _executor_manager_thread(self) -> Any:
        return vars(self._background)["_thread"]

    def map(self, *args: Any, **options: Any) -> Iterator[Any]:
        return _once_let_go(super().map(*args, **options), vars(self._background)["_lock"])

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        wait_until_up(self._background)
        if not cancel_futures:
            # It looks at all processes of the machine: meanwhile tasks would begin.
            self._seen.note()
        super().shutdown(wait, cancel_futures=cancel_futures)


def _once_let_go(results: Iterator[Any], lock: Any) -> Iterator[Any]:
    # The suite looks at once who still has a result, and the thread may just be letting it go.
    while True:
        try:
            yield _next(results, lock)
        except StopIteration:
            return


def _next(results: Iterator[Any], lock: Any) -> Any:
    result = next(results)
    with lock:
        return result
