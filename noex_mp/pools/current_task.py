"""`current_task`: what the code of a task can know of it, and the guard that stops that code.

```python
def render(pages: int) -> list[bytes]:
    done = []
    for page in range(pages):
        current_task().raise_if_cancelled()
        done.append(draw(page))
    return done
```

The `Guard` of a lane lets a request to stop a task (see `core.stop_requests`) reach the code of
that task and nothing else. It is open while that code runs in the main thread. The root wakes this
thread by a signal; the handler looks who is meant, and raises where that one runs behind an open
guard. It closes the guard first, so it raises at most once for a task, and whoever opens the guard
has an outer `try` around the one that closes it: there is no moment at which it could hit anything
else.
"""

from __future__ import annotations

import _signal  # pyright: ignore[reportMissingModuleSource]
import asyncio
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from types import FrameType
from typing import Any, Final

from noex_mp.core import stop_requests
from noex_mp.core.black_box import ASKED
from noex_mp.core.stop_requests import CANCEL, EXCEPTION, TOKEN
from noex_mp.errors import Rung, TaskCancelledError, TaskInterrupt
from noex_mp.pools.seeds import current_seed
from noex_mp.transport.fds import NO_FD
from noex_mp.transport.platform import INTERRUPT_SIGNAL

__all__ = ["CurrentTask", "Guard", "Steps", "current_task", "rung_name"]

_RUNGS: Final[dict[int, Rung]] = {TOKEN: "token", CANCEL: "cancel", EXCEPTION: "exception"}

_NO_CALL: Final = (0, 0)

# So that it is never what the requests say.
_LOOK_AGAIN: Final = -1


def rung_name(rung: int) -> Rung:
    """Return what people call a rung."""
    return _RUNGS.get(rung, "kill")


class CurrentTask:
    """The task that this code belongs to. Outside of a pool it is one that nobody stops."""

    __slots__ = ("_call", "_is_cancelled", "_requests", "_seen")

    def __init__(self, call: tuple[int, int] | None) -> None:
        self._call = call or _NO_CALL
        self._requests = stop_requests.installed()
        self._seen = 0
        self._is_cancelled = False

    @property
    def seed(self) -> int | None:
        """What its random numbers are made of, as 64 bits; None, if its pool has no `seed=`.

        It is the same each time that the task is run: for generators of its own, as in
        `numpy.random.default_rng(current_task().seed)`.
        """
        return current_seed()

    @property
    def cancelled(self) -> bool:
        """Whether it is to stop: it was cancelled, or its time is over.

        To ask costs next to nothing. Whatever the task returns from then on is dropped, so it may
        return whenever it likes, within its grace (see `docs/stopping.md`).
        """
        requests = self._requests
        if requests.words[ASKED] != self._seen and not self._is_cancelled:
            self._seen = requests.words[ASKED]
            self._is_cancelled = requests.rung_for(self._call) > 0
        return self._is_cancelled

    def raise_if_cancelled(self) -> None:
        """Return if it may go on.

        Raises:
            TaskInterrupt: It is to stop.
        """
        if self.cancelled:
            raise TaskInterrupt


class Guard:
    """What stands between the code of tasks and the requests to stop them.

    Attributes:
        words: The memory in which the requests lie.
        heard: How many of them were looked at; none yet, if one concerns a task that is to come.
        is_open: The code of a task runs in the main thread.
        is_touched: Something is to be done at the end of the task.

    Args:
        at_end: Is called at the end of each task.
    """

    __slots__ = (
        "_at_end",
        "_awaiting",
        "_requests",
        "_rung",
        "_task",
        "_wakes",
        "heard",
        "is_open",
        "is_touched",
        "words",
    )

    def __init__(self, at_end: Callable[[], None] | None = None) -> None:
        self._at_end = at_end
        self._requests = stop_requests.installed()
        self.words = self._requests.words
        self.heard = 0
        self.is_open = False
        self.is_touched = at_end is not None
        # How far the stopping of the task has got here.
        self._rung = 0
        self._task: CurrentTask | None = None
        # In which task of the event loop an `async` function runs.
        self._awaiting: asyncio.Task[Any] | None = None
        # What a signal writes to, so that an event loop which sleeps in C hears of it.
        self._wakes = NO_FD

    def listen(self) -> None:
        """Take the root's signals from now on. Only in a lane."""
        global _guard
        _guard = self
        # Below the module `signal`, which makes enums of what it takes and returns: 25 pages.
        _signal.signal(INTERRUPT_SIGNAL, self._woken)
        self._wakes = _signal.set_wakeup_fd(NO_FD, warn_on_full_buffer=False)
        _signal.set_wakeup_fd(self._wakes, warn_on_full_buffer=False)

    def hear(self) -> None:
        """Look at what is asked, before a task begins.

        Raises:
            TaskCancelledError: The task is not to begin.
        """
        call = self._requests.running()
        if call is None:
            return
        heard = self.words[ASKED]
        self.heard = _LOOK_AGAIN if self._requests.concern_later(call) else heard
        if self._requests.rung_for(call):
            raise TaskCancelledError("dropped")

    def end(self, error: BaseException | None) -> None:
        """Note that the code of a task, which was touched, has come to its end.

        Args:
            error: What it has raised.

        Raises:
            TaskCancelledError: It was stopped.
        """
        rung, self._rung = self._rung, 0
        task, self._task = self._task, None
        self.is_touched = self._at_end is not None
        if self._at_end is not None:
            self._at_end()
        if not rung and task is not None and task.cancelled:
            rung = TOKEN
        if rung:
            raise TaskCancelledError(rung_name(rung)) from _own(error)

    @property
    def task(self) -> CurrentTask | None:
        """The task that runs, or None."""
        is_running = self.is_open or self._awaiting is not None
        if not is_running and self._task is None and not self._rung:
            return None
        if self._task is None:
            self.is_touched = True
            self._task = CurrentTask(self._requests.running())
        return self._task

    # --- an async function ------------------------------------------------------------------

    def awaits(self, task: asyncio.Task[Any] | None) -> None:
        """Note in which task of the event loop an `async` function runs; None once it is over."""
        self._awaiting = task
        if task is not None:
            # A plain task before it may have had an event loop with signals of its own.
            _signal.set_wakeup_fd(self._wakes, warn_on_full_buffer=False)

    # --- the root's signal --------------------------------------------------------------------

    def _woken(self, number: int, frame: FrameType | None) -> None:
        requests = self._requests
        requests.note_heard()
        call = requests.running()
        if call is None:
            return
        rung = requests.rung_for(call)
        if rung < CANCEL:
            return
        awaiting = self._awaiting
        if awaiting is not None and (rung == CANCEL or not self.is_open):
            awaiting.get_loop().call_soon_threadsafe(self._cancel, awaiting, call)
        elif self.is_open:
            self.is_open = False
            self.is_touched = True
            self._rung = EXCEPTION
            raise TaskInterrupt

    def _cancel(self, task: asyncio.Task[Any], call: tuple[int, int]) -> None:
        if self._awaiting is task and self._requests.running() == call:
            self.is_touched = True
            self._rung = max(CANCEL, self._rung)
            task.cancel()


class Steps:
    """Awaits the coroutine of a task; the guard is open while its code runs."""

    __slots__ = ("_coroutine", "_guard")

    def __init__(self, guard: Guard, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._guard = guard
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, Any]:
        guard, coroutine = self._guard, self._coroutine
        step = partial(coroutine.send, None)
        while True:
            try:
                try:
                    guard.is_open = True
                    waits_for = step()
                finally:
                    guard.is_open = False
            except StopIteration as end:
                return end.value
            try:
                sent = yield waits_for
            except BaseException as error:
                step = partial(coroutine.throw, error)
            else:
                step = partial(coroutine.send, sent)


def _own(error: BaseException | None) -> BaseException | None:
    """Return what the code of a task has raised of its own, when it was to stop."""
    return None if isinstance(error, TaskInterrupt | asyncio.CancelledError) else error


_guard: Guard | None = None


def current_task() -> CurrentTask:
    """Return the task that this code belongs to: also in threads that it has started.

    Outside of a pool, as in a unit test, that is one that nobody stops.

    Example:
        ```python
        >>> current_task().cancelled
        False

        ```
    """
    task = _guard.task if _guard is not None else None
    return task or CurrentTask(None)
