"""`ProcessPoolExecutor`: that of `concurrent.futures`, on processes that are supervised."""

from __future__ import annotations

import logging
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import replace
from functools import partial
from itertools import islice
from time import monotonic
from types import TracebackType
from typing import Any, Final, NoReturn, TypeVar, overload

from typing_extensions import ParamSpec, Unpack, override

from noex_mp.client import current
from noex_mp.node.implicit import change_since_start
from noex_mp.pools.background import Background
from noex_mp.pools.chunks import Single, Source, check_chunksize
from noex_mp.pools.ctrl_c import is_from_ctrl_c
from noex_mp.pools.dispatcher import Job
from noex_mp.pools.functions import FunctionCode, pack_function
from noex_mp.pools.initializing import initializing
from noex_mp.pools.lanes import LaneOptions, Lanes, check_size, lane_options
from noex_mp.pools.limits import check_initializer, recycling_rules
from noex_mp.pools.mapped import Results, in_order
from noex_mp.pools.options import NONE, TaskOptions, TaskOptionsDict, task_options
from noex_mp.pools.seeds import Seeds, shifted
from noex_mp.pools.task_future import FutureJob, TaskFuture

__all__ = ["ExecutorTasks", "ProcessPoolExecutor"]

T = TypeVar("T")
P = ParamSpec("P")

_log: Final = logging.getLogger("noex_mp")


def submit_on(
    background: Background,
    options: TaskOptions,
    fn: Callable[..., T],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Future[T]:
    """Run a function; see `ExecutorTasks.submit`."""
    future: TaskFuture[T] = TaskFuture()
    try:
        code = pack_function(fn)
    except Exception as error:
        # As the standard library has it: whoever waits hears of it, and a pool that takes no tasks
        # says so first.
        background.put((), None)
        future.set_exception(error)
    else:
        if background.seeds is not None:
            options = background.seeds.next(options)
        job = FutureJob(future, background, code, args, kwargs, options)
        background.put((job,), getattr(fn, "__module__", None))
    return future


def map_on(
    background: Background,
    options: TaskOptions,
    fn: Callable[..., T],
    iterables: tuple[Iterable[Any], ...],
    timeout: float | None,
    chunksize: int | None,
    buffersize: int | None,
) -> Iterator[T]:
    """Run a function on each element; see `ExecutorTasks.map`."""
    chunksize = check_chunksize(chunksize)
    end = None if timeout is None else timeout + monotonic()
    module = getattr(fn, "__module__", None)
    code = pack_function(fn)
    if background.seeds is not None:
        options = background.seeds.next(options)
    started = 0

    def start(tasks: list[tuple[Any, ...]]) -> Results:
        nonlocal started
        results = Results(len(tasks), background.later)
        jobs = _to_run(code, tasks, results, chunksize, shifted(options, started))
        background.put(jobs, module)
        started += len(tasks)
        return results

    tasks = zip(*iterables, strict=False)
    if buffersize is None:
        return in_order(start(list(tasks)), end)
    _check_buffersize(buffersize)
    chunks = (start(chunk) for chunk in _cut(tasks, chunksize or 1))
    return _buffered(deque(islice(chunks, buffersize)), chunks, end)


def _to_run(
    code: FunctionCode,
    tasks: list[tuple[Any, ...]],
    results: Results,
    chunksize: int | None,
    options: TaskOptions,
) -> Iterable[Job | Source]:
    if chunksize == 1:
        return [Single(results, n, code, args, options) for n, args in enumerate(tasks)]
    count = len(tasks)
    each = tuple([list(column) for column in zip(*tasks, strict=True)])
    return (Source(code, each, results, chunksize=chunksize, count=count, options=options),)


def _cut(tasks: Iterator[tuple[Any, ...]], size: int) -> Iterator[list[tuple[Any, ...]]]:
    while chunk := list(islice(tasks, size)):
        yield chunk


def _buffered(
    started: deque[Results], chunks: Iterator[Results], end: float | None
) -> Iterator[Any]:
    """Yield results, and start another chunk whenever one of those before it is wanted."""
    try:
        while started:
            started.extend(islice(chunks, 1))
            yield from in_order(started.popleft(), end)
    finally:
        for results in started:
            results.is_over = True


def _check_buffersize(buffersize: object) -> None:
    if isinstance(buffersize, bool) or not isinstance(buffersize, int):
        raise TypeError("buffersize must be an integer or None")
    if buffersize < 1:
        raise ValueError("buffersize must be None or > 0")


class ExecutorTasks(Executor):
    """Runs functions in the processes of a pool, with the options that were chosen.

    What `ProcessPoolExecutor.options` returns is one: its processes are those of the pool, which it
    keeps alive, and its end is the pool's end.

    Args:
        background: Runs the tasks.
        options: Those of each task.
        pool: Whose processes they are, if that is another.
    """

    def __init__(
        self,
        background: Background,
        options: TaskOptions,
        pool: ExecutorTasks | None = None,
    ) -> None:
        self._background = background
        self._options = options
        self._pool = pool

    # --- tasks ---------------------------------------------------------------------------

    @overload
    def submit(
        self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]: ...
    @overload
    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]: ...
    @override
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run a function in one of the processes, and return the future of its result.

        An `async def` function runs in the event loop of its process. The future fails with what
        the function raises, or with one of these:
            WorkerExitedError: The process has ended while it ran the task.
            UnencodableError: The function, an argument or the result cannot be sent.
            NotImportableError: The process does not find the function.
            TaskTimedOutError: It took longer than its `timeout`, which is one of the `options`.
            TaskCancelledError: It ran, and was stopped; see `stop`.
            CancelledError: It waited, and was cancelled.
            PoolDownError: The processes do not start, or the node has stopped.

        Raises:
            RuntimeError: The pool has been shut down, or the interpreter ends.
            PoolDownError: Its processes do not start any more.
            NoNodeError: This process was forked from that of the pool.
            PreloadError: The module is only imported for worker processes, and runs tasks.

        Example:
            ```python
            with ProcessPoolExecutor(max_workers=2) as pool:
                powers = [pool.submit(pow, 2, n) for n in (8, 10)]
                print([power.result() for power in powers])  # [256, 1024]
            ```
        """
        return submit_on(self._background, self._options, fn, args, kwargs)

    @overload
    def map(
        self,
        fn: Callable[..., Awaitable[T]],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]: ...
    @overload
    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]: ...
    @override
    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = 1,
        buffersize: int | None = None,
    ) -> Iterator[Any]:
        """Run a function on each element of an iterable, and return the results in order.

        The iterator raises what the function raises first, in its turn, and ends with it.

        Args:
            fn: Takes as many arguments as there are iterables.
            iterables: Are read at once; with `buffersize`, as results are taken.
            timeout: How long all of it may take, in seconds; None is for ever.
            chunksize: How many tasks travel together, and fail together if their process dies.
                None leaves it to the pool, which sends many of the short ones at a time.
            buffersize: How many chunks may be on their way, or wait to be taken; None sets no
                limit.

        Raises:
            ValueError: `chunksize` or `buffersize` is below 1.
            TypeError: One of them is no whole number.
            UnencodableError: The function cannot be sent; of the iterator, an argument or a result.
            RuntimeError, PoolDownError, NoNodeError, PreloadError: As `submit`.
            TimeoutError: Of the iterator: a result was not there within `timeout`.
            WorkerExitedError: Of the iterator: a process has ended while it ran one of the tasks.
            TaskTimedOutError: Of the iterator: one took longer than the `timeout` of the `options`.
            CancelledError: Of the iterator: `shutdown` has cancelled the task.

        Example:
            ```python
            with ProcessPoolExecutor(max_workers=2) as pool:
                print(list(pool.map(pow, (1, 2, 3), (2, 2, 2))))  # [1, 4, 9]
            ```
        """
        if buffersize is None and type(self).submit is not ExecutorTasks.submit:
            # A subclass counts, limits or traces what goes through its own, one by one.
            check_chunksize(chunksize)
            return super().map(fn, *iterables, timeout=timeout)
        options = self._options
        return map_on(self._background, options, fn, iterables, timeout, chunksize, buffersize)

    def stop(self, future: Future[Any]) -> bool:
        """Stop a task, also one that runs: that `future.cancel()` cannot do, as everywhere.

        A task that waits is cancelled. The future of one that runs fails with
        `TaskCancelledError` once it has ended, which says how far one had to go for that: see
        `docs/stopping.md`.

        Returns:
            Whether it had no result yet. Of another pool's task that runs, False.

        Raises:
            AttributeError: That is no future.

        Example:
            ```python
            with ProcessPoolExecutor(max_workers=1) as pool:
                nap = pool.submit(time.sleep, 600)
                print(pool.stop(nap))  # True
            ```
        """
        return future.cancel() or self._background.stop(future)

    def options(self, **options: Unpack[TaskOptionsDict]) -> ExecutorTasks:
        """Return this pool as one whose tasks have options: `pool.options(retries=2).submit(f)`.

        Options may be added to those: the ones given later win, and the others are kept.

        Args:
            options: `timeout`, `retries`, `priority` and `memory_limit`; see `TaskOptions`.

        Raises:
            TypeError: There is no such option, or its value is of another type.
            ValueError: Its value is out of range.

        Example:
            ```python
            with ProcessPoolExecutor() as pool:
                urgent = pool.options(priority=10, retries=1)
                print(urgent.submit(pow, 2, 10).result())  # 1024
            ```
        """
        checked = task_options(options)
        chosen = replace(self._options, **{name: getattr(checked, name) for name in options})
        pool = self if self._pool is None else self._pool
        return ExecutorTasks(self._background, chosen, pool)

    # --- the end -----------------------------------------------------------------------------

    @override
    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks, and end the processes once those there are have been run.

        Args:
            wait: Return when that is done.
            cancel_futures: Cancel the tasks that no process has got yet.

        Raises:
            KeyboardInterrupt: Ctrl-C came while it waited. The tasks have been stopped.

        Example:
            ```python
            pool = ProcessPoolExecutor(max_workers=1)
            power = pool.submit(pow, 2, 10)
            pool.shutdown()
            print(power.result())  # 1024
            ```
        """
        self._background.shut(cancel=cancel_futures)
        if not wait:
            return
        try:
            self._background.join()
        except KeyboardInterrupt:
            # Who presses Ctrl-C does not want to wait for the tasks.
            self._background.shut(stop=True)
            self._background.join()
            raise

    @override
    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        if error is not None and is_from_ctrl_c(error):
            self._background.shut(stop=True)
        self.shutdown(wait=True)
        return None

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a ProcessPoolExecutor stays in its process; what it runs is to make one of its own, "
            "or to return what else there is to do"
        )


class ProcessPoolExecutor(ExecutorTasks):
    """Runs functions in a pool of processes; the standard library's, but nothing breaks it.

    When a process dies, the task that it ran fails with `WorkerExitedError`; another process takes
    its place, and the rest goes on. The processes are started with the first task.

    Args:
        max_workers: How many processes; by default as many as this one may use CPUs.
        mp_context: Accepted, and of no effect: processes are forked from one that is prepared and
            has no threads, whatever the start method. If it is not None, a line of the log says so
            (logger `noex_mp`, level INFO).
        initializer: Is called in each process before its first task.
        initargs: What it is called with.
        max_tasks_per_child: After so many tasks a process is replaced; None is never. Its
            replacement is up before it ends. What `chunksize` puts together counts as one.
        max_age, memory_limit, threads, nice, cpu_affinity, seed: As of a `Pool`; the standard
            library's has none of them. See `docs/recycling.md`.

    Raises:
        TypeError, ValueError: A number is of another type, or out of range, or the initializer
            cannot be called.
        BadChildSpecError: There is no such memory limit, nice value or CPU.

    Example:
        ```python
        with ProcessPoolExecutor(max_workers=2) as pool:
            print(pool.submit(pow, 2, 10).result())  # 1024
        ```
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: object = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
        max_age: float | None = None,
        memory_limit: int | str | None = None,
        threads: int | None = None,
        nice: int | None = None,
        cpu_affinity: Collection[int] | None = None,
        seed: int | None = None,
    ) -> None:
        self._max_workers = size = check_size("max_workers", max_workers)
        _note_context(mp_context)
        check_initializer(initializer, initargs)
        rules = recycling_rules(max_tasks_per_child, max_age, memory_limit)
        options = lane_options(
            size=size,
            memory_limit=memory_limit,
            threads=threads,
            nice=nice,
            cpu_affinity=cpu_affinity,
        )
        lanes = partial(_lanes, size, initializer, initargs, options)
        seeds = None if seed is None else Seeds(seed)
        super().__init__(Background(current.current.get(), lanes, rules, seeds), NONE)
        # Who forgets it has what is left run, and its processes ended.
        finalizer = weakref.finalize(self, self._background.shut)
        finalizer.atexit = False


def _note_context(mp_context: object) -> None:
    if mp_context is not None:
        _log.info(
            "mp_context=%s has no effect on a ProcessPoolExecutor of noex-mp: its processes are "
            "forked from one that is prepared and has no threads",
            type(mp_context).__name__,
        )


def _lanes(
    size: int,
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
    options: LaneOptions,
    node: str,
) -> Lanes:
    return Lanes(size, *initializing(initializer, initargs, change_since_start(node)), **options)
