"""`ProcessPoolExecutor`: that of `concurrent.futures`, on processes that are supervised."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from time import monotonic
from typing import Any, Final, TypeVar

from typing_extensions import ParamSpec

from noex_mp.client import current
from noex_mp.errors import NoNodeError
from noex_mp.node.implicit import blocking_implicit_node
from noex_mp.pools.chunks import Failure, Source
from noex_mp.pools.dispatcher import RUN, Dispatcher, Job
from noex_mp.pools.functions import FunctionCode, pack_function
from noex_mp.pools.lanes import Lanes, check_size
from noex_mp.pools.options import NONE
from noex_mp.transport.loops import keep_apart, new_event_loop

__all__ = ["ProcessPoolExecutor"]

T = TypeVar("T")
P = ParamSpec("P")

_EMPTY: Final[Any] = object()


class _FutureJob(Job):
    """A task whose result goes into a future of `concurrent.futures`."""

    __slots__ = ("future",)

    def __init__(
        self, future: Future[Any], code: FunctionCode, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        super().__init__(code, args, kwargs)
        self.future = future

    def begin(self) -> bool:
        """Mark the future as running, unless it was cancelled."""
        return self.future.running() or self.future.set_running_or_notify_cancel()

    def succeed(self, result: Any) -> None:
        """Complete the future."""
        self.future.set_result(result)

    def fail(self, error: BaseException) -> None:
        """Fail the future."""
        self.future.set_exception(error)


class _Results:
    """The results of a `map`, in their order: filled by one thread, taken by another."""

    def __init__(self, count: int) -> None:
        self.values: list[Any] = [_EMPTY] * count
        self._awaited = -1
        self._arrived = threading.Semaphore(0)
        self.is_over = False
        self.wants_more = True

    def put(self, start: int, results: Sequence[Any]) -> None:
        """Note results, the first of them that of task number `start`."""
        end = start + len(results)
        self.values[start:end] = results
        if start <= self._awaited < end:
            self._awaited = -1
            self._arrived.release()

    def exhausted(self, count: int, error: BaseException | None) -> None:
        """Note that no more results come than so many."""
        if error is not None:
            self.put(count, [Failure(error)] * (len(self.values) - count))

    def take(self, index: int, end: float | None) -> Any:
        """Return a result once it is there, and forget it.

        Raises:
            TimeoutError: It did not come before `end`, by the monotonic clock.
        """
        values = self.values
        while values[index] is _EMPTY:
            self._awaited = index
            if values[index] is not _EMPTY:
                break
            left = None if end is None else end - monotonic()
            if not self._arrived.acquire(timeout=None if left is None else max(0.0, left)):
                raise TimeoutError
        value, values[index] = values[index], None
        return value


class _MapJob(Job):
    """One of the tasks of a `map`."""

    __slots__ = ("index", "results")

    def __init__(
        self,
        results: _Results,
        index: int,
        code: FunctionCode,
        args: tuple[Any, ...],
    ) -> None:
        self.operation = RUN
        self.code = code
        self.args = args
        self.kwargs = _NOTHING
        self.options = NONE
        self.deaths = 0
        self.line = None
        self.is_timed = False
        self.results = results
        self.index = index

    def begin(self) -> bool:
        """Return whether the map goes on."""
        return not self.results.is_over

    def succeed(self, result: Any) -> None:
        """Note the result."""
        self.results.put(self.index, (result,))

    def fail(self, error: BaseException) -> None:
        """Note the error."""
        self.results.put(self.index, (Failure(error),))


_NOTHING: Final[dict[str, Any]] = {}


class ProcessPoolExecutor(Executor):
    """Runs functions in a pool of processes; the standard library's, but nothing breaks it.

    Args:
        max_workers: How many processes; by default as many as this one may use CPUs.
        mp_context: Accepted, and of no effect: processes are forked from one that is prepared.
        initializer: Is called in each process before its first task.
        initargs: What it is called with.

    Example:
        ```python
        with ProcessPoolExecutor(max_workers=2) as pool:
            print(pool.submit(pow, 2, 10).result())
        ```
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: object = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        self._max_workers = check_size("max_workers", max_workers)
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._initializer = initializer
        self._initargs = initargs
        self._lock = threading.Lock()
        self._inbox: deque[Job | Source] = deque()
        self._is_woken = False
        self._is_shut = False
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._dispatcher: Dispatcher | None = None
        self._ended: asyncio.Future[None] | None = None
        self._node = current.current.get()

    # --- tasks ---------------------------------------------------------------------------

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run a function in one of the processes, and return the future of its result."""
        future: Future[T] = Future()
        self._put((_FutureJob(future, pack_function(fn), args, kwargs),), fn)
        return future

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = 1,
    ) -> Iterator[T]:
        """Run a function on each element of an iterable, and return the results in order.

        Args:
            fn: The function.
            iterables: Its arguments, an iterable for each; all are read at once.
            timeout: How long to wait for a result, in seconds from now on; None is for ever.
            chunksize: How many tasks travel together, and fail together if their process dies.
                None leaves it to the pool, which sends many of the short ones at a time.
        """
        if chunksize is not None and chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        end = None if timeout is None else timeout + monotonic()
        code = pack_function(fn)
        tasks = list(zip(*iterables, strict=False))
        results = _Results(len(tasks))
        if chunksize == 1:
            self._put([_MapJob(results, n, code, args) for n, args in enumerate(tasks)], fn)
        else:
            count = len(tasks)
            source = Source(code, iter(tasks), results, chunksize=chunksize, count=count)
            self._put((source,), fn)
        return _in_order(results, end)

    def _put(self, jobs: Iterable[Job | Source], fn: object) -> None:
        with self._lock:
            if self._is_shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if self._thread is None:
                self._start(getattr(fn, "__module__", None))
            self._inbox.extend(jobs)
            if not self._is_woken and self._loop is not None:
                self._is_woken = True
                self._loop.call_soon_threadsafe(self._take)

    def _take(self) -> None:
        self._is_woken = False
        dispatcher, inbox = self._dispatcher, self._inbox
        if dispatcher is None:
            return
        while inbox:
            job = inbox.popleft()
            if isinstance(job, Source):
                dispatcher.put_source(job)
            else:
                dispatcher.put(job)

    # --- the thread ------------------------------------------------------------------------

    def _start(self, module: str | None) -> None:
        self._thread = threading.Thread(target=self._run, args=(module,), name="noex-mp pool")
        self._thread.daemon = True
        self._thread.start()

    def _run(self, module: str | None) -> None:
        node = self._node
        try:
            node = node or current.node_of_thread()
        except NoNodeError:
            node = None
        if node is None:
            node = blocking_implicit_node(module if module != "builtins" else None)
        current.current.set(node)
        loop = new_event_loop()
        keep_apart(loop)
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(self._serve(node, loop))
        finally:
            loop.close()

    async def _serve(self, node: str, loop: asyncio.AbstractEventLoop) -> None:
        client = current.client_on(node, loop)
        dispatcher = Dispatcher(client)
        code = None if self._initializer is None else pack_function(self._initializer)
        lanes = Lanes(self._max_workers, code, self._initargs)
        self._ended = loop.create_future()
        for ref in await lanes.start():
            dispatcher.add(ref)
        with self._lock:
            self._dispatcher = dispatcher
            self._loop = loop
        self._take()
        if self._is_shut:
            self._ended.set_result(None)
        await self._ended
        await dispatcher.idle()
        await lanes.stop()
        client.close()

    def _end(self) -> None:
        assert self._ended is not None
        self._take()
        if not self._ended.done():
            self._ended.set_result(None)

    # --- the end -----------------------------------------------------------------------------

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the pool once all its tasks have been run."""
        with self._lock:
            self._is_shut = True
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._end)
        if wait and self._thread is not None:
            self._thread.join()


def _in_order(results: _Results, end: float | None) -> Iterator[Any]:
    try:
        for index in range(len(results.values)):
            value = results.take(index, end)
            if value.__class__ is Failure:
                raise value.error
            yield value
    finally:
        results.is_over = True
