"""`Lane`: one process of a pool, a server that runs functions."""

from __future__ import annotations

import asyncio
import os
import resource
from asyncio import (
    AbstractEventLoop,
    _get_running_loop,  # pyright: ignore[reportPrivateUsage] - documented, and never raises
    _set_running_loop,  # pyright: ignore[reportPrivateUsage] - documented
)
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from operator import itemgetter
from time import monotonic
from types import CoroutineType, FunctionType
from typing import Any, Final, NamedTuple

from noex_mp.core.black_box import ASKED
from noex_mp.core.current_call import current_call
from noex_mp.core.gen_server import GenServer
from noex_mp.core.interjections import interject
from noex_mp.core.messages import MemoryPressure
from noex_mp.core.operations import call
from noex_mp.core.outcomes import OUTCOMES, Reply, Stop
from noex_mp.core.running_loop import note_hidden
from noex_mp.errors import TaskInterrupt
from noex_mp.pools.current_task import Guard, Steps
from noex_mp.pools.functions import FunctionCode, is_coroutine_function, load_function
from noex_mp.pools.seeds import seeded
from noex_mp.transport.private_memory import own_memory

__all__ = ["Lane"]

# Whose first element says how many tasks of a chunk have begun.
Begun = memoryview | list[int]

# Stands for the code of a function that is made for one message.
_THIS_ONE: Final = ""

# How many functions a lane remembers: of what has no name, each new one is another.
_MANY: Final = 256

# One with more code, in bytes, has data with it, and is not remembered.
_LARGE: Final = 64 * 1024

# These do what another method does.
_AROUND: Final = frozenset(("run_limited", "run_seeded"))

# What a task may return besides a plain value.
_ODD: Final = OUTCOMES | {CoroutineType}


class Lane(GenServer, expected=(BaseException,)):
    """Runs what it is given, one task at a time. What a task raises is the caller's.

    Args:
        initializer: Is called first, with its arguments; None calls nothing.
    """

    def __init__(
        self,
        initializer: FunctionCode | None = None,
        initargs: Sequence[Any] = (),
    ) -> None:
        self._initializer = initializer
        self._initargs = initargs
        self._functions: dict[FunctionCode, Callable[..., Any]] = {}
        self._memory = own_memory()
        # A process that comes up with nearly too much runs a task all the same, or none ever would.
        self._has_run = False
        self._guard = Guard(None if self._memory is None else self._look_at_memory)
        # That of its process. Plain functions do not see it: they may have one of their own.
        self._loop: AbstractEventLoop | None = None
        # What `run_limited` or `run_seeded` has done last.
        self._inner = ""

    def init(self) -> Awaitable[None] | None:
        """Call the initializer."""
        self._guard.listen()
        self._loop = _get_running_loop()
        note_hidden(self._loop)
        if self._initializer is None:
            return None
        initializer = load_function(self._initializer)
        _set_running_loop(None)
        try:
            result = initializer(*self._initargs)
        finally:
            _set_running_loop(self._loop)
        return _awaited(result) if result.__class__ is CoroutineType else None

    @call
    def run(self, code: FunctionCode, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function, and return what it returns."""
        guard = self._guard
        if guard.words[ASKED] != guard.heard:
            guard.hear()
        # As `_guarded`, written out: this is done for each task.
        try:
            _set_running_loop(None)
            try:
                guard.is_open = True
                function = self._functions.get(code)
                if function is None:
                    function = self._load(code)
                result = function(*args, **kwargs)
            finally:
                guard.is_open = False
        except BaseException as error:
            _set_running_loop(self._loop)
            if guard.is_touched:
                guard.end(error)
            raise
        _set_running_loop(self._loop)
        if result.__class__ in _ODD:
            if result.__class__ is CoroutineType:
                return _as_value(self._go_on(result))
            # It is a value like any other here, and says nothing to this server.
            result = Reply(result)
        if guard.is_touched:
            guard.end(None)
        return result

    @call
    def run_timed(self, code: FunctionCode, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function; return how long that took, in seconds, and what it returns."""
        guard = self._guard
        if guard.words[ASKED] != guard.heard:
            guard.hear()
        start = monotonic()
        result = self._guarded(self._call, code, args, kwargs)
        if result.__class__ is CoroutineType:
            result = self._go_on(result)
        if hasattr(result, "__await__"):
            return _timed(result, start)
        return [monotonic() - start, result]

    def _call(self, code: FunctionCode, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        function = self._function(code)
        return function(*args, **kwargs)

    @call
    def run_chunk(self, code: FunctionCode, /, *columns: Sequence[Any]) -> Any:
        """Call a function once for each row of some columns.

        Returns:
            How long all took, in seconds; what it has returned each time; and what it has raised,
            by the number of the row.
        """
        guard = self._guard
        if guard.words[ASKED] != guard.heard:
            guard.hear()
        result = self._guarded(self._run_columns, code, columns)
        return self._go_on(result) if result.__class__ is CoroutineType else result

    def _run_columns(self, code: FunctionCode, columns: Sequence[Sequence[Any]]) -> Any:
        function = self._function(code)
        here = current_call()
        begun = [0] if here is None else here.steps()
        chunk = _Chunk([], [], monotonic())
        if is_coroutine_function(function):
            return _run_chunk_later(function, zip(*columns, strict=True), chunk, begun)
        results, errors, start = chunk
        # What is left of them after an error goes on.
        rows = zip(*columns, strict=True) if len(columns) > 1 else iter(columns[0])
        run = _run_rows if len(columns) > 1 else _run_each
        # The first that returns says whether all are to be awaited.
        some: Iterator[Any] = islice(rows, 1)
        while len(results) < len(columns[0]):
            try:
                run(function, some, results, begun)
            except BaseException as error:
                if isinstance(error, TaskInterrupt) or not self._guard.is_open:
                    raise
                errors.append((len(results), error))
                results.append(None)
            if some is rows:
                continue
            if len(results) == len(errors):
                some = islice(rows, 1)
            elif hasattr(results[-1], "__await__"):
                left = rows if len(columns) > 1 else zip(rows, strict=True)
                return _run_chunk_later(function, left, chunk, begun, results.pop())
            else:
                some = rows
        return [monotonic() - start, results, errors]

    def _guarded(self, function: Callable[..., Any], /, *args: Any) -> Any:
        """Call a function while the guard is open, tidy up behind it, return what it returns."""
        guard = self._guard
        # The loop is hidden and shown where the guard is closed: nothing comes between.
        try:
            _set_running_loop(None)
            try:
                guard.is_open = True
                result = function(*args)
            finally:
                guard.is_open = False
        except BaseException as error:
            _set_running_loop(self._loop)
            if guard.is_touched:
                guard.end(error)
            raise
        _set_running_loop(self._loop)
        if guard.is_touched and result.__class__ is not CoroutineType:
            guard.end(None)
        return result

    async def _go_on(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Await the rest of a task whose function is `async`."""
        guard = self._guard
        guard.awaits(asyncio.current_task())
        try:
            result = await Steps(guard, coroutine)
        except BaseException as error:
            guard.awaits(None)
            if guard.is_touched:
                guard.end(error)
            raise
        guard.awaits(None)
        if guard.is_touched:
            guard.end(None)
        return result

    def _look_at_memory(self) -> None:
        # The root looks as well, but not between two tasks, and what it says stands behind those
        # that are here already.
        self._has_run = True
        memory = self._memory
        if memory is not None and (used := memory.nearly_all()):
            interject(MemoryPressure(used, memory.limit))

    def handle_info(self, message: object) -> Stop | None:
        """Make room for another process between two tasks, if this has nearly too much memory."""
        if not isinstance(message, MemoryPressure) or not self._has_run or self._memory is None:
            return None
        # Once more: by now the result of the task is gone, and what it needed while it ran.
        return Stop() if self._memory.nearly_all_exactly() else None

    @call
    def run_limited(self, limit: int, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """Do what another method does, but let the system refuse memory beyond a limit.

        Args:
            limit: How much it may take, in bytes, beyond what there is.
            method: Its name.
        """
        before = _limit_data(limit)
        self._inner = method
        result: Any = None
        try:
            result = getattr(self, method)(*args, **kwargs)
        finally:
            if not hasattr(result, "__await__"):
                resource.setrlimit(resource.RLIMIT_DATA, before)
        return _with_limit(result, before) if hasattr(result, "__await__") else result

    def _noex_sendable(
        self, operation: str, result: Any, problem: Callable[[Any], Exception | None]
    ) -> Any:
        """Return what a chunk has returned, with an error for each result that cannot be sent."""
        if (self._inner if operation in _AROUND else operation) != "run_chunk":
            return None
        seconds, results, errors = result
        found = [(n, error) for n, value in enumerate(results) if (error := problem(value))]
        for index, _ in found:
            results[index] = None
        return [seconds, results, sorted([*errors, *found], key=itemgetter(0))]

    @call
    def run_seeded(
        self, call: str, number: int, method: str, code: FunctionCode, /, *args: Any, **kwargs: Any
    ) -> Any:
        """Do what another method does, with random numbers that depend on the task alone.

        Args:
            call: Which call of which pool it belongs to.
            number: Its number there.
            method: The name of the method.
            code: The function, and then its arguments.
        """
        function = self._guarded(self._function, code)
        self._inner = method
        self._functions[_THIS_ONE] = seeded(function, call, number)
        try:
            return getattr(self, method)(_THIS_ONE, *args, **kwargs)
        finally:
            # It may have data with it.
            del self._functions[_THIS_ONE]

    @call
    def ready(self) -> None:
        """Return once it can run a task."""

    def _function(self, code: FunctionCode) -> Callable[..., Any]:
        return self._functions.get(code) or self._load(code)

    def _load(self, code: FunctionCode) -> Callable[..., Any]:
        # With the loop: this may import a script that has no main guard, and does anew what that
        # does. It gets no further than to a loop of its own.
        _set_running_loop(self._loop)
        try:
            function = load_function(code)
        finally:
            _set_running_loop(None)
        # An object would remember in one task what it has done in another.
        if isinstance(code, str) or (function.__class__ is FunctionType and len(code) <= _LARGE):
            if len(self._functions) >= _MANY:
                self._functions.clear()
            self._functions[code] = function
        return function


class _Chunk(NamedTuple):
    """What has been done of a chunk, and when it was begun."""

    results: list[Any]
    errors: list[tuple[int, BaseException]]
    start: float


# Two of them, as tasks may be as short as the loop around them. `append` is looked up each time:
# CPython has an instruction for that, which calls nothing; a task that does nothing takes 8 % less.


def _run_each(
    function: Callable[[Any], Any], values: Iterator[Any], results: list[Any], begun: Begun
) -> None:
    for begun[0], value in enumerate(values, len(results) + 1):
        results.append(function(value))


def _run_rows(
    function: Callable[..., Any], rows: Iterator[Any], results: list[Any], begun: Begun
) -> None:
    for begun[0], row in enumerate(rows, len(results) + 1):
        results.append(function(*row))


async def _run_chunk_later(
    function: Callable[..., Any],
    rows: Iterator[tuple[Any, ...]],
    chunk: _Chunk,
    begun: Begun,
    first: Awaitable[Any] | None = None,
) -> list[Any]:
    """Run what is left of a chunk, and await what that returns.

    Args:
        function, rows, begun: As there.
        chunk: What has been done of it.
        first: What was returned before the first of these rows.
    """
    results, errors, start = chunk
    calls: Iterator[Callable[[], Any]] = (partial(function, *row) for row in rows)
    if first is not None:
        calls = chain((lambda: first,), calls)
    for begun[0], call_next in enumerate(calls, len(results) + 1):
        try:
            result = call_next()
            results.append(await result if hasattr(result, "__await__") else result)
        except Exception as error:
            errors.append((len(results), error))
            results.append(None)
    return [monotonic() - start, results, errors]


def _limit_data(limit: int) -> tuple[int, int]:
    """Let this process get no more than so many bytes; return the limits it had."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[5])
    most = pages * os.sysconf("SC_PAGE_SIZE") + limit
    known = [each for each in before if each != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min([most, *known]), before[1]))
    return before


async def _with_limit(result: Awaitable[Any], before: tuple[int, int]) -> Any:
    try:
        return await result
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


async def _awaited(coroutine: Awaitable[Any]) -> None:
    await coroutine


async def _as_value(result: Awaitable[Any]) -> Any:
    value = await result
    return Reply(value) if value.__class__ in OUTCOMES else value


async def _timed(result: Awaitable[Any], start: float) -> list[Any]:
    value = await result
    return [monotonic() - start, value]


def noex_rehearse() -> None:
    """Run what each lane runs, before the first is forked; see `worker.rehearsal`."""
    lane = Lane()
    # Assigned: what they return is awaited where the function is `async`.
    _ = lane.run("builtins:abs", 1)
    _ = lane.run_timed("builtins:abs", 1)
    _ = lane.run_chunk("builtins:abs", [1, 2])
