"""`Pool`: functions on processes that stay up, for programs with an event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from itertools import islice
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from typing_extensions import ParamSpec

from noex_mp.client import current
from noex_mp.errors import ConfigError
from noex_mp.pools.dispatcher import Dispatcher, Job
from noex_mp.pools.functions import FunctionCode, pack_function
from noex_mp.pools.lanes import Lanes, check_size

__all__ = ["Pool"]

T = TypeVar("T")
P = ParamSpec("P")

# So many tasks of an `imap` are on their way for each lane: what it needs while others are read.
_READ_AHEAD = 128


class _AwaitedJob(Job):
    """A task whose result goes into a future of this event loop."""

    __slots__ = ("future",)

    def __init__(
        self,
        future: asyncio.Future[Any],
        code: FunctionCode,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        super().__init__(code, args, kwargs)
        self.future = future

    def begin(self) -> bool:
        """Return whether anybody waits for it."""
        return not self.future.done()

    def succeed(self, result: Any) -> None:
        """Complete the future."""
        if not self.future.done():
            self.future.set_result(result)

    def fail(self, error: BaseException) -> None:
        """Fail the future."""
        if not self.future.done():
            self.future.set_exception(error)


class Pool:
    """Runs functions in processes that are supervised, one task at a time in each.

    Args:
        size: How many processes; by default as many as this one may use CPUs.
        initializer: Is called in each process before its first task.
        initargs: What it is called with.

    Raises:
        TypeError: The size is no whole number, or the initializer cannot be called.
        ValueError: The size is below 1.

    Example:
        ```python
        async with Pool(size=2) as pool:
            print(await pool.run(pow, 2, 10))
        ```
    """

    def __init__(
        self,
        size: int | None = None,
        *,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        self.size = check_size("size", size)
        if initializer is not None and not callable(initializer):
            raise TypeError(f"expected initializer to be a function, got {initializer!r:.60}")
        self._initializer = initializer
        self._initargs = initargs
        self._lanes: Lanes | None = None
        self._dispatcher: Dispatcher | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    # --- start and stop --------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start its processes on the current node; `async with` does it for you.

        Raises:
            InitFailedError: The initializer has raised.
            ConfigError: It was started before.
        """
        if self._lanes is not None:
            raise ConfigError("this pool was started before; make another")
        code = None if self._initializer is None else pack_function(self._initializer)
        self._lanes = Lanes(self.size, code, self._initargs)
        client = await current.client_or_implicit(None)
        dispatcher = Dispatcher(client)
        for ref in await self._lanes.start():
            dispatcher.add(ref)
        self._loop = client.loop
        self._dispatcher = dispatcher

    async def stop(self) -> None:
        """Run what was given to it so far, and end its processes."""
        if self._dispatcher is not None and self._lanes is not None:
            await self._dispatcher.idle()
            await self._lanes.stop()

    # --- tasks -------------------------------------------------------------------------------

    @overload
    def run(
        self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[T]: ...
    @overload
    def run(
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[T]: ...
    def run(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> asyncio.Future[Any]:
        """Run a function in one of the processes, and return the future of its result.

        It is sent when it is called, so the results of many can be awaited with `asyncio.gather`.
        An `async def` function runs in the event loop of its process.

        Raises:
            WorkerExitedError: The process ended while it ran the task.
            UnencodableError: The function, an argument or the result cannot be sent.
            Exception: What the function has raised.
        """
        return self._start_job(pack_function(fn), args, kwargs)

    def _start_job(
        self, code: FunctionCode, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> asyncio.Future[Any]:
        dispatcher, loop = self._dispatcher, self._loop
        if dispatcher is None or loop is None:
            raise ConfigError("this pool has not been started\nWrite async with Pool() as pool.")
        future: asyncio.Future[Any] = loop.create_future()
        dispatcher.put(_AwaitedJob(future, code, args, kwargs))
        return future

    async def map(self, fn: Callable[..., T], *iterables: Iterable[Any]) -> list[T]:
        """Run a function on each element of an iterable, and return the results in order."""
        code = pack_function(fn)
        futures = [self._start_job(code, args, {}) for args in zip(*iterables, strict=False)]
        results: list[T] = await asyncio.gather(*futures)
        return results

    async def imap(self, fn: Callable[..., T], *iterables: Iterable[Any]) -> AsyncIterator[T]:
        """Run a function on each element of an iterable, and yield the results in order.

        The iterable is read as far ahead as the processes need.
        """
        code = pack_function(fn)
        tasks = zip(*iterables, strict=False)
        ahead = self.size * _READ_AHEAD
        window = deque(self._start_job(code, args, {}) for args in islice(tasks, ahead))
        while window:
            yield await window.popleft()
            window.extend(self._start_job(code, args, {}) for args in islice(tasks, 1))
