"""What takes the results of many tasks in an event loop: all together, or as they come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from typing import Any, Final

from noex_mp.pools.chunks import Failure
from noex_mp.pools.weights import weight_of_all

__all__ = [
    "AHEAD",
    "AHEAD_BYTES",
    "AsTheyCome",
    "Gathered",
    "Ordered",
    "Stream",
    "in_asyncio",
]

# So many results wait to be taken, for each lane, and so many bytes as far as that can be seen;
# then no further task begins.
AHEAD: Final = 1024
AHEAD_BYTES: Final = 64 * 2**20

Report = Callable[[int], object]
"""Is told how many tasks are done."""


def _reported(report: Report | None, done: int) -> BaseException | None:
    """Tell how many tasks are done; return what that has raised.

    It is a function of the user's, and is called where replies are read: other calls go on.
    """
    try:
        if report is not None:
            report(done)
    except BaseException as error:  # a cancellation, too, is that of its map
        return error
    return None


def _as_of_a_coroutine(error: BaseException) -> BaseException:
    """Return an error as it leaves a coroutine: no future takes a `StopIteration`."""
    if not isinstance(error, StopIteration):
        return error
    failure = RuntimeError(f"what reports the progress raised {type(error).__name__}")
    failure.__cause__ = error
    return failure


def in_asyncio(error: BaseException) -> BaseException:
    """Return an error as it is called in an event loop: executors cancel with one of their own."""
    return asyncio.CancelledError() if isinstance(error, CancelledError) else error


class Gathered:
    """The results of a `map`, all together.

    Attributes:
        future: The list of them, or the first error.
        is_over: Whether nobody wants any further result.
        wants_more: Whether there is room for further results: always.
    """

    wants_more = True

    def __init__(self, loop: asyncio.AbstractEventLoop, report: Report | None = None) -> None:
        self.future: asyncio.Future[list[Any]] = loop.create_future()
        self.is_over = False
        self._report = report
        self._results: list[Any] = []
        self._done = 0
        self._count: int | None = None

    def put(self, start: int, results: Sequence[Any], error: BaseException | None = None) -> None:
        """Take results, the first of them that of task number `start`."""
        there = len(self._results)
        if start > there:
            self._results += [None] * (start - there)
        # What lies behind the end is appended.
        self._results[start : start + len(results)] = results
        self._done += len(results)
        error = error or _reported(self._report, self._done)
        if error is not None:
            self._fail(error)
        self._note_if_done()

    def exhausted(self, count: int, error: BaseException | None) -> None:
        """Note how many results there will be."""
        self._count = count
        if error is not None:
            self._fail(error)
        self._note_if_done()

    def _fail(self, error: BaseException) -> None:
        self.is_over = True
        if self.future.done():
            return
        if isinstance(error, CancelledError):
            self.future.cancel()
        else:
            self.future.set_exception(_as_of_a_coroutine(error))

    def _note_if_done(self) -> None:
        if self._done == self._count and not self.future.done():
            self.future.set_result(self._results)


class Stream:
    """The results of an `imap`: so many as nobody has taken yet, up to a bound.

    Args:
        loop: The event loop.
        lanes: How many lanes there are.
        report: Is told how many tasks are done.

    Attributes:
        is_over: Whether nobody wants any further result.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, lanes: int, report: Report | None = None
    ) -> None:
        self.is_over = False
        self._loop = loop
        self._lanes = lanes
        self._report = report
        self._ready: list[Any] = []
        # How many wait for one before them; and of both, how many bytes they have.
        self._held = 0
        self._ready_bytes = self._held_bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._given = 0
        # How many results there will be, once that is known.
        self._count: int | None = None
        self._error: BaseException | None = None

    @property
    def wants_more(self) -> bool:
        """Whether there is room for further results."""
        return (
            len(self._ready) + self._held < self._lanes * AHEAD
            and self._ready_bytes + self._held_bytes < self._lanes * AHEAD_BYTES
        )

    def put(self, start: int, results: Sequence[Any], error: BaseException | None = None) -> None:
        """Take results, the first of them that of task number `start`."""
        raise NotImplementedError

    async def batch(self) -> list[Any]:
        """Return the next results, at least one; none once all have been returned.

        Raises:
            Exception: What the reading of the tasks has raised, behind the last result.
        """
        while not self._ready:
            if self._count is not None and self._given >= self._count:
                if self._error is not None:
                    raise in_asyncio(self._error)
                return []
            self._waiter = self._loop.create_future()
            await self._waiter
        batch, self._ready = self._ready, []
        self._ready_bytes = 0
        self._given += len(batch)
        return batch

    def exhausted(self, count: int, error: BaseException | None) -> None:
        """Note how many results there will be."""
        self._count = count
        self._error = error
        self._wake()

    def _take(self, results: Sequence[Any], size: int) -> None:
        self._ready += results
        self._ready_bytes += size
        if error := _reported(self._report, self._given + len(self._ready)):
            self._report = None
            self._ready.append(Failure(error))
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class AsTheyCome(Stream):
    """Gives out results in the order in which they come."""

    def put(self, start: int, results: Sequence[Any], error: BaseException | None = None) -> None:
        """Take results, the first of them that of task number `start`."""
        self._take(results, weight_of_all(results))


class Ordered(Stream):
    """Gives out results in the order of their tasks."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, lanes: int, report: Report | None = None
    ) -> None:
        super().__init__(loop, lanes, report)
        self._early: dict[int, tuple[Sequence[Any], int]] = {}
        self._next = 0

    def put(self, start: int, results: Sequence[Any], error: BaseException | None = None) -> None:
        """Take results, the first of them that of task number `start`."""
        size = weight_of_all(results)
        self._early[start] = results, size
        self._held += len(results)
        self._held_bytes += size
        while (found := self._early.pop(self._next, None)) is not None:
            results, size = found
            self._next += len(results)
            self._held -= len(results)
            self._held_bytes -= size
            self._take(results, size)
