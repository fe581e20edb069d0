"""Many tasks of one function, cut into chunks as lanes ask for more.

A task of a microsecond costs several on its way, so small ones travel together. How many is
decided anew for each chunk: guided self-scheduling (Polychronopoulos and Kuck, 1987: a part of what
is left, so that all lanes end together), bounded by how long tasks have taken so far.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Protocol

from typing_extensions import override

from noex_mp.client.client import raisable
from noex_mp.pools.dispatcher import RUN, RUN_CHUNK, Job
from noex_mp.pools.functions import FunctionCode
from noex_mp.pools.options import NONE, TaskOptions
from noex_mp.pools.weights import weight

if TYPE_CHECKING:
    from noex_mp.core.reasons import ExitReport

__all__ = ["MAX_CHUNK", "Failure", "Single", "Sink", "Source", "check_chunksize", "chunk_size"]

CHUNK_SECONDS: Final = 8e-3
"""So long a chunk is to take: long beside its way there and back, short beside what people note."""

LAST_SECONDS: Final = 2e-3
"""What is left is given out whole if it takes each lane no longer than this."""

MAX_CHUNK: Final = 8192
"""So many tasks are in a chunk at most."""


CHUNK_BYTES: Final = 4 * 2**20
"""So many bytes of arguments, or of results, travel together at most, but for a single task with
more."""


class Failure:
    """Stands among the results of a chunk for a task that has none."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Sink(Protocol):
    """Takes the results of a source."""

    @property
    def is_over(self) -> bool:
        """Whether nobody wants any further result."""
        ...

    @property
    def wants_more(self) -> bool:
        """Whether there is room for further results."""
        ...

    def put(self, start: int, results: Sequence[Any], error: BaseException | None = None) -> None:
        """Take results, the first of them that of task number `start`.

        Args:
            start: The number.
            results: The results; a `Failure` stands for a task that has none.
            error: What the first of these has raised; None if there is no `Failure`.
        """
        ...

    def exhausted(self, count: int, error: BaseException | None) -> None:
        """Note that there are so many tasks in all; reading them may have raised."""
        ...


class Source:
    """Tasks of one function that are not sent yet.

    Args:
        code: The function.
        iterables: Their arguments, an iterable for each.
        sink: Takes the results.
        chunksize: How many tasks a chunk has; None leaves it to us.
        count: How many tasks there are, if that is known.
        options: What else each task is told.

    Attributes:
        pace: How long a task takes, in seconds; 0 if nobody knows.
        result_weight: How many bytes its result has, as far as it can be seen.
    """

    def __init__(
        self,
        code: FunctionCode,
        iterables: Sequence[Iterable[Any]],
        sink: Sink,
        *,
        chunksize: int | None = None,
        count: int | None = None,
        options: TaskOptions = NONE,
    ) -> None:
        self.sink = sink
        self.code = code
        # Each has its time for itself.
        self._chunksize = chunksize if options.timeout is None else 1
        self._rows: Iterator[tuple[Any, ...]] | None = None
        if self._chunksize == 1:
            self._rows = zip(*iterables, strict=False)
        else:
            self._columns = _columns_of(iterables)
        self._left = count
        self.options = options
        self._taken = 0
        self.pace = 0.0
        self.result_weight = 0
        # How many bytes the arguments of a task have, as far as it can be seen.
        self._weight = 0
        if len(iterables) == 1 and iterables[0].__class__ in _SAFE and count:
            self._weight = _weight(iterables, 0)
        self.is_empty = False

    def depth(self, depth: int) -> int:
        """Return how many chunks a lane has at a time.

        Args:
            depth: How many messages of the length it is used to the lane has.
        """
        # The next has to be there when one is done, and no more: how long it takes is bounded. One
        # of a size that the user has chosen may be long, or a single task; or large.
        if self._chunksize is None:
            return 2
        bytes_each = self._chunksize * self._heavier
        return min(depth, max(2, CHUNK_BYTES // bytes_each)) if bytes_each else depth

    @property
    def _heavier(self) -> int:
        # Of what is not read yet nobody knows it.
        return self._weight and max(self._weight, self.result_weight)

    @property
    def is_wanted(self) -> bool:
        """Whether tasks are left, and somebody wants their results now."""
        return not self.is_empty and not self.sink.is_over and self.sink.wants_more

    @property
    def left(self) -> int:
        """How many tasks are left, as far as that is known."""
        return self._left or 0

    def take(self, lanes: int) -> Job | None:
        """Return the next chunk; None if there is none, or nobody wants results now."""
        if self.sink.is_over:
            self.is_empty = True
        if self.is_empty or not self.sink.wants_more:
            return None
        if self._rows is not None:
            return self._next_of(self._rows)
        size = self._chunksize or chunk_size(self.pace, self._left, lanes, self._heavier)
        if self._left is not None and size * lanes >= self._left:
            # All that is left, a chunk for each lane.
            self._chunksize = size
        columns, error = self._columns(size)
        start, count = self._taken, len(columns[0]) if columns else 0
        if count:
            self._weight = max(_weight(columns, 0), _weight(columns, -1))
        self._taken += count
        if self._left is not None:
            self._left -= count
        if count < size:
            self.is_empty = True
            self.sink.exhausted(self._taken, error)
        elif self._left is not None and self._left <= 0:
            # A guess: the length of a data frame is that of its columns, and it yields their names.
            self._left = None
        return _Chunk(self, start, columns) if count else None

    def _next_of(self, rows: Iterator[tuple[Any, ...]]) -> Job | None:
        """Return the next task by itself: it is less than a chunk of one."""
        error: BaseException | None = None
        try:
            row = next(rows)
        except StopIteration:
            pass
        except BaseException as caught:  # of the user's own iterator
            error = caught
        else:
            self._taken += 1
            if self._left:
                self._left -= 1
            return Single(self.sink, self._taken - 1, self.code, row, self.options)
        self.is_empty = True
        self.sink.exhausted(self._taken, error)
        return None

    def abandon(self, error: BaseException) -> None:
        """Fail what is left: no lane is."""
        self.is_empty = True
        self.sink.exhausted(self._taken, error)

    def note(self, seconds: float, results: Sequence[Any]) -> None:
        """Note how long a chunk took, and what came of it."""
        pace, weight = seconds / len(results), max(_weight((results,), 0), _weight((results,), -1))
        # Slower tasks count at once: nothing is to wait behind one like them. And so do heavier
        # ones.
        self.pace = max(pace, (3 * self.pace + pace) / 4)
        self.result_weight = max(weight, (3 * self.result_weight + weight) // 4)


_Columns = Callable[[int], tuple[tuple[Sequence[Any], ...], BaseException | None]]
"""Reads so many tasks: their arguments in columns, and what the reading has raised then."""


def _columns_of(iterables: Sequence[Iterable[Any]]) -> _Columns:
    if len(iterables) == 1 and iterables[0].__class__ in _SAFE:
        return _slices(iterables[0])
    rows = zip(*iterables, strict=False)
    return lambda size: _read(rows, size)


def _slices(values: Any) -> _Columns:
    start = 0

    def read(size: int) -> tuple[tuple[Sequence[Any], ...], None]:
        nonlocal start
        first, start = start, start + size
        part = values[first:start]
        # A part of a range is a range: three numbers to send.
        return (list(part) if part.__class__ is tuple else part,), None

    return read


# The reading of these raises nothing, so they need no look at each element.
_SAFE: Final = frozenset((list, tuple, range))


def _read(
    rows: Iterator[tuple[Any, ...]], size: int
) -> tuple[tuple[list[Any], ...], BaseException | None]:
    error: BaseException | None = None
    tasks: list[tuple[Any, ...]] = []
    try:
        for row in islice(rows, size):
            tasks.append(row)  # noqa: PERF402 - what was read before an error counts
    except BaseException as caught:  # of the user's own iterator
        error = caught
    return tuple([list(column) for column in zip(*tasks, strict=True)]), error


def _weight(columns: Sequence[Any], row: int) -> int:
    # What lies in a list or an object is not seen: to look for it would cost more than the task.
    try:
        return sum(weight(column[row]) for column in columns)
    except Exception:  # the user's own code may answer
        return 1


def check_chunksize(chunksize: Any) -> int | None:
    """Return how many tasks the user wants in a chunk; None leaves it to us.

    Raises:
        TypeError: It is no whole number.
        ValueError: It is below 1.
    """
    if chunksize is None:
        return None
    # Of numpy there are other whole numbers.
    if isinstance(chunksize, bool) or not hasattr(chunksize, "__index__"):
        raise TypeError(
            f"expected chunksize to be a whole number of tasks, or None, got {chunksize!r:.60}"
        )
    size = operator.index(chunksize)
    if size < 1:
        raise ValueError(f"chunksize must be >= 1, got {size}")
    return size


def chunk_size(pace: float, left: int | None, lanes: int, weight: int = 1) -> int:
    """Return how many tasks the next chunk has.

    Args:
        pace: How long a task takes, in seconds; 0 if nobody knows.
        left: How many tasks are left, if that is known.
        lanes: How many lanes share them.
        weight: How many bytes the arguments of a task have, or its result, if that has more; 0 if
            nobody knows.

    >>> chunk_size(0, 1000, 2), chunk_size(5e-6, 1000, 2), chunk_size(5e-6, 30, 2)
    (1, 250, 15)
    >>> chunk_size(1.0, 1000, 2), chunk_size(1e-9, None, 2)
    (1, 8192)
    >>> chunk_size(1e-9, None, 2, weight=1_000_000), chunk_size(1e-9, None, 2, weight=0)
    (4, 1)
    """
    if not pace or not weight:
        return 1
    size, most = CHUNK_SECONDS / pace, min(MAX_CHUNK, CHUNK_BYTES / weight)
    if left is not None:
        share = -(-left // max(1, lanes))
        # Else a half is kept for who is done first.
        size = share if share * pace <= LAST_SECONDS else min(size, share / 2)
    return max(1, int(min(size, most)))


_NOTHING: Final[dict[str, Any]] = {}


class Single(Job):
    """One of the tasks of a sink, by itself.

    Args:
        sink: Takes its result.
        index: Its number there.
        code, args, options: As of any job.
    """

    __slots__ = ("_index", "_sink")

    def __init__(
        self,
        sink: Sink,
        index: int,
        code: FunctionCode,
        args: tuple[Any, ...],
        options: TaskOptions,
    ) -> None:
        # As that of a job, without the call.
        self.operation = RUN
        self.code = code
        self.args = args
        self.kwargs = _NOTHING
        self.options = options
        self.deaths = 0
        self.line = None
        self.is_timed = False
        self._sink = sink
        self._index = index

    @property
    @override
    def owner(self) -> object:
        return self._sink

    @property
    @override
    def number(self) -> int:
        return self._index

    def begin(self) -> bool:
        """Return whether anybody wants the results."""
        return not self._sink.is_over

    def is_of(self, future: object) -> bool:
        """Return whether this is a task of a sink."""
        return self._sink is future

    def succeed(self, result: Any) -> None:
        """Hand the result over."""
        self._sink.put(self._index, (result,))

    def fail(self, error: BaseException) -> None:
        """Hand the error over."""
        self._sink.put(self._index, (Failure(error),), error)


class _Chunk(Job):
    """Some tasks that travel together."""

    __slots__ = ("_source", "_start")

    def __init__(self, source: Source, start: int, columns: tuple[Sequence[Any], ...]) -> None:
        super().__init__(source.code, columns, {}, source.options, operation=RUN_CHUNK)
        self._source = source
        self._start = start

    @property
    @override
    def owner(self) -> object:
        return self._source.sink

    @property
    @override
    def number(self) -> int:
        return self._start

    @override
    def __len__(self) -> int:
        return len(self.args[0])

    def set_result(self, result: Any) -> None:
        """Take the reply: how long it took, the results, and the errors among them."""
        seconds, results, errors = result
        first: BaseException | None = None
        for index, error in errors:
            failure = raisable(error, "a lane")
            results[index] = Failure(failure)
            first = first or failure
        line = self.line
        assert line is not None
        self._source.note(seconds, results)
        line.note(seconds)
        line.free()
        self._source.sink.put(self._start, results, first)

    def split(self, report: ExitReport) -> Job | None:
        """Return those that had not begun, as a chunk of their own."""
        begun = report.message.steps if report.message is not None else None
        if begun is None or begun >= len(self):
            return None
        rest = tuple([column[begun:] for column in self.args])
        self.args = tuple([column[:begun] for column in self.args])
        return _Chunk(self._source, self._start + begun, rest)

    def parts(self) -> Sequence[Job]:
        """Return its tasks, each as a chunk; none if it is one."""
        if len(self) == 1:
            return ()
        rows = zip(*self.args, strict=True)
        each = [tuple([[value] for value in row]) for row in rows]
        return [_Chunk(self._source, n, columns) for n, columns in enumerate(each, self._start)]

    def begin(self) -> bool:
        """Return whether anybody wants the results."""
        return not self._source.sink.is_over

    def is_of(self, future: object) -> bool:
        """Return whether these are tasks of a sink."""
        return self._source.sink is future

    def fail(self, error: BaseException) -> None:
        """Fail all of them."""
        self._source.sink.put(self._start, [Failure(error)] * len(self), error)
