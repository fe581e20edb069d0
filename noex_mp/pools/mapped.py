"""The results of a `map`: filled by the thread of the executor, taken by whoever iterates.

A task of a map has no future, only a place in a list: ten thousand of them cost as little as they
can.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Iterator, Sequence
from time import monotonic
from typing import Any, Final

from noex_mp.pools.chunks import Failure
from noex_mp.transport.shared_loop import Later
from noex_mp.wire.exceptions import REMOTE_TRACEBACK

__all__ = ["Results", "as_raised", "in_order"]

_EMPTY: Final[Any] = object()

# As Python says it.
_BY_CAUSE: Final = "The above exception was the direct cause of the following exception:"
_BY_CONTEXT: Final = "During handling of the above exception, another exception occurred:"


class Results:
    """The results of a map, in their order: a sink for its tasks.

    Args:
        count: How many there are to be.
        later: Takes what wakes whoever waits.

    Attributes:
        is_over: Whether nobody wants any further result.
        wants_more: Whether there is room for further results.
    """

    wants_more = True

    def __init__(self, count: int, later: Later) -> None:
        self._values: list[Any] = [_EMPTY] * count
        self._later = later
        self._awaited = -1
        self._arrived = threading.Semaphore(0)
        self.is_over = False

    def __len__(self) -> int:
        """Return how many there are to be."""
        return len(self._values)

    def put(self, start: int, results: Sequence[Any], error: BaseException | None = None) -> None:
        """Note results, the first of them that of task number `start`."""
        end = start + len(results)
        self._values[start:end] = results
        if start <= self._awaited < end:
            self._awaited = -1
            # Whoever takes it is to have it alone, and here others have it on their stacks.
            self._later.append((threading.Semaphore.release, self._arrived))

    def exhausted(self, count: int, error: BaseException | None) -> None:
        """Note that no more results come than so many."""
        if error is not None:
            self.put(count, [Failure(error)] * (len(self._values) - count))

    def take(self, index: int, end: float | None) -> Any:
        """Return a result once it is there, and forget it.

        Raises:
            TimeoutError: It did not come before `end`, by the monotonic clock.
            Exception: What the task has raised.
        """
        values = self._values
        while values[index] is _EMPTY:
            self._awaited = index
            if values[index] is not _EMPTY:
                break
            left = None if end is None else end - monotonic()
            if not self._arrived.acquire(timeout=None if left is None else max(0.0, left)):
                raise TimeoutError
        value, values[index] = values[index], None
        if value.__class__ is Failure:
            raise as_raised(value.error)
        return value


def in_order(results: Results, end: float | None) -> Iterator[Any]:
    """Yield the results in their order; who stops iterating wants no more of them.

    Args:
        results: Those of a map.
        end: When the last one has to be there, by the monotonic clock.
    """
    try:
        for index in range(len(results)):
            # Not kept: it may be large, and is the caller's now.
            yield results.take(index, end)
    finally:
        results.is_over = True


def as_raised(error: BaseException) -> BaseException:
    """Return an error of a task as the standard library has it: its remote traceback is its cause.

    One with a cause of its own keeps that, and then the traceback is the cause of the first of all.
    """
    text = _remote_traceback(error)
    if text is None:
        return error
    # Of more than one module, and of no use to whom nothing fails.
    from concurrent.futures import process

    as_cause: Any = vars(process)["_RemoteTraceback"]
    first = error
    _take_note(first)
    # One that is there already, of a pool in the task, is part of the text.
    while first.__cause__ is not None and not isinstance(first.__cause__, as_cause):
        first = first.__cause__
        _take_note(first)
    # Not plain setattr: a frozen dataclass forbids it.
    object.__setattr__(first, "__cause__", as_cause(f'"""\n{text}"""'))
    return error


def _remote_traceback(error: BaseException) -> str | None:
    """Return what happened in the task, from the first error on, or None: it is not of a task."""
    text = _note(error)
    if text is None:
        return None
    cause = error.__cause__
    before = error.__context__ if cause is None and not error.__suppress_context__ else cause
    if before is None:
        return text
    how = _BY_CAUSE if cause is not None else _BY_CONTEXT
    return f"{''.join(traceback.format_exception(before))}\n{how}\n\n{text}"


def _note(error: BaseException) -> str | None:
    notes: list[str] = vars(error).get("__notes__", [])
    return notes[-1] if notes and notes[-1].startswith(REMOTE_TRACEBACK) else None


def _take_note(error: BaseException) -> None:
    if _note(error) is None:
        return
    notes: list[str] = vars(error)["__notes__"]
    notes.pop()
    if not notes:
        del vars(error)["__notes__"]
