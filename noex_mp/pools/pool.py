"""`Pool`: functions on processes that stay up, for programs with an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Sized
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, overload

from typing_extensions import ParamSpec, Unpack

from noex_mp.client import current
from noex_mp.core.specs import ServerPool, child
from noex_mp.errors import ConfigError, PoolStoppedError, Rung, TaskCancelledError
from noex_mp.pools.chunks import Failure, Sink, Source, check_chunksize
from noex_mp.pools.ctrl_c import is_from_ctrl_c, say_stopped
from noex_mp.pools.dispatcher import GRACE, Dispatcher, Job
from noex_mp.pools.functions import FunctionCode, pack_function
from noex_mp.pools.initializing import initializing
from noex_mp.pools.lane import Lane
from noex_mp.pools.lanes import Lanes, check_size, lane_options
from noex_mp.pools.limits import check_grace, check_initializer, recycling_rules
from noex_mp.pools.options import NONE, TaskOptions, TaskOptionsDict, task_options
from noex_mp.pools.pool_options import PoolOptions, check_seconds
from noex_mp.pools.progress import Progress, reporting
from noex_mp.pools.recycling import Recycler
from noex_mp.pools.seeds import Seeds
from noex_mp.pools.server_pool import pool_of_servers, server_pool
from noex_mp.pools.streams import AsTheyCome, Gathered, Ordered, Stream, in_asyncio
from noex_mp.wire.classes import MAIN

if TYPE_CHECKING:
    from noex_mp.core.ref import Ref
    from noex_mp.pools.named_pool import NamedPool

__all__ = ["Pool", "PoolTasks", "TaskFuture"]

T = TypeVar("T")
P = ParamSpec("P")


class TaskFuture(asyncio.Future[T]):
    """The future of a task. To cancel it stops the task, also one that runs.

    It is cancelled at once; the task needs a moment (see `docs/stopping.md`).
    """

    # Set by the pool: no argument, since futures are made by the thousand.
    _dispatcher: Dispatcher
    _stopped: asyncio.Future[Rung] | None = None

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel it, and stop its task; return whether it was not done yet."""
        if not super().cancel(msg):
            return False
        if self._dispatcher.stop(self):
            self._stopped = self.get_loop().create_future()
        return True

    async def stopped(self) -> Rung:
        """Wait until its task, which was cancelled, has ended; return which rung that took.

        Raises:
            ConfigError: It was not cancelled.
        """
        if not self.cancelled():
            raise ConfigError("this task was not cancelled\nWrite future.cancel() first.")
        return "dropped" if self._stopped is None else await asyncio.shield(self._stopped)

    def note_end(self, rung: Rung) -> None:
        """Note that its task was stopped."""
        if self._stopped is not None and not self._stopped.done():
            self._stopped.set_result(rung)


class _AwaitedJob(Job):
    """A task whose result goes into a future of this event loop."""

    __slots__ = ("future",)

    def __init__(
        self,
        future: TaskFuture[Any],
        code: FunctionCode,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: TaskOptions,
    ) -> None:
        super().__init__(code, args, kwargs, options)
        self.future = future

    @property
    def owner(self) -> object:
        """The future."""
        return self.future

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
        elif self.future.cancelled():
            # Its lane is gone for good.
            self.future.note_end("kill")

    def cancel(self) -> None:
        """Cancel the future: nobody is going to run the task."""
        super(TaskFuture, self.future).cancel()

    def stopped(self, error: TaskCancelledError) -> None:
        """Fail the future, if it is not why the task was stopped."""
        if not self.future.done():
            self.future.set_exception(error)
        else:
            self.future.note_end(error.rung)

    def is_of(self, future: object) -> bool:
        """Return whether this is the task of a future."""
        return self.future is future


class TaskPool(Protocol):
    """Where tasks run."""

    @property
    def size(self) -> int:
        """How many processes there are."""
        ...

    @property
    def dispatcher(self) -> Dispatcher:
        """What hands the tasks out."""
        ...


class PoolTasks:
    """Runs functions in the processes of a pool, with the options that were chosen."""

    def __init__(self, pool: TaskPool, options: TaskOptions) -> None:
        self._pool = pool
        self._options = options

    @overload
    def run(
        self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> TaskFuture[T]: ...
    @overload
    def run(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> TaskFuture[T]: ...
    def run(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> TaskFuture[Any]:
        """Run a function in one of the processes, and return the future of its result.

        It is sent when it is called, so the results of many can be awaited with `asyncio.gather`.
        An `async def` function runs in the event loop of its process. A lambda, or another function
        that has no name elsewhere, is sent with its code, each time.

        Raises:
            WorkerExitedError: The process ended while it ran the task.
            UnencodableError: The function, an argument or the result cannot be sent.
            PoolStoppedError: The pool has been stopped.
            PoolDownError: Its processes cannot be started again, or its node has stopped.
            TaskTimedOutError: It took longer than its `timeout`.
            Exception: What the function has raised.

        Example:
            ```python
            total, page = await asyncio.gather(pool.run(add, 1, 2), pool.run(render, "index"))
            ```
        """
        dispatcher = self._pool.dispatcher
        code = pack_function(fn)
        future: TaskFuture[Any] = TaskFuture(loop=dispatcher.loop)
        future._dispatcher = dispatcher  # pyright: ignore[reportPrivateUsage]
        options = self._options
        if dispatcher.seeds is not None:
            options = dispatcher.seeds.next(options)
        dispatcher.put(_AwaitedJob(future, code, args, kwargs, options))
        return future

    #: The same, under the name that executors have for it.
    submit = run

    @overload
    async def map(
        self,
        fn: Callable[..., Awaitable[T]],
        *iterables: Iterable[Any],
        chunksize: int | None = None,
        progress: Progress = False,
    ) -> list[T]: ...
    @overload
    async def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        chunksize: int | None = None,
        progress: Progress = False,
    ) -> list[T]: ...
    async def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        chunksize: int | None = None,
        progress: Progress = False,
    ) -> list[Any]:
        """Run a function on each element of an iterable, and return the results in order.

        Args:
            fn: The function.
            iterables: Its arguments, an iterable for each. They are read as lanes ask for more.
            chunksize: How many tasks travel together, and fail together if their process dies.
                None leaves it to the pool, which sends many of the short ones at a time.
            progress: A function that is called with how many tasks are done, and of how many (None
                where the iterables do not say). True shows a bar, with rich (`noex-mp[progress]`).

        Raises:
            WorkerExitedError: A process ended while it ran one of them.
            TypeError: The chunksize is no whole number.
            ValueError: It is below 1.
            Exception: What the function has raised first; no further task begins then.

        Example:
            ```python
            thumbnails = await pool.map(shrink, Path("photos").iterdir(), progress=True)
            ```
        """
        total = _length(iterables)
        with reporting(progress, _name_of(fn), total) as report:
            gathered = Gathered(self._pool.dispatcher.loop, report)
            self._put(fn, iterables, gathered, chunksize)
            try:
                return await gathered.future
            except asyncio.CancelledError:
                self._pool.dispatcher.stop(gathered)
                raise
            finally:
                gathered.is_over = True

    @overload
    def imap(
        self,
        fn: Callable[..., Awaitable[T]],
        *iterables: Iterable[Any],
        chunksize: int | None = None,
        progress: Progress = False,
    ) -> AsyncGenerator[T, None]: ...
    @overload
    def imap(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        chunksize: int | None = None,
        progress: Progress = False,
    ) -> AsyncGenerator[T, None]: ...
    def imap(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        chunksize: int | None = None,
        progress: Progress = False,
    ) -> AsyncGenerator[Any, None]:
        """Run a function on each element of an iterable, and yield the results in their order.

        The iterable is read only as far ahead as the processes need, so it may be endless: no more
        tasks are sent while 1024 results, or 64 MiB of them, wait to be taken for each process. (On
        top comes what had been sent by then: of the shortest tasks, some ten thousand.) What the
        function raises is raised in its turn, and ends the iteration. Whoever leaves the loop early
        writes `async with contextlib.aclosing(pool.imap(...)) as lines`, or tasks begin until the
        iterator is collected.

        Args:
            fn, iterables, chunksize, progress: As of `map`.

        Raises:
            WorkerExitedError, TypeError, ValueError, Exception: As `map`.

        Example:
            ```python
            async for line in pool.imap(parse, open("big.log")):
                print(line)
            ```
        """
        return self._stream(Ordered, fn, iterables, chunksize, progress)

    @overload
    def imap_unordered(
        self,
        fn: Callable[..., Awaitable[T]],
        *iterables: Iterable[Any],
        chunksize: int | None = None,
        progress: Progress = False,
    ) -> AsyncGenerator[T, None]: ...
    @overload
    def imap_unordered(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        chunksize: int | None = None,
        progress: Progress = False,
    ) -> AsyncGenerator[T, None]: ...
    def imap_unordered(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        chunksize: int | None = None,
        progress: Progress = False,
    ) -> AsyncGenerator[Any, None]:
        """Do the same as `imap`, and yield each result as soon as it is there."""
        return self._stream(AsTheyCome, fn, iterables, chunksize, progress)

    async def _stream(
        self,
        kind: type[Stream],
        fn: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        chunksize: int | None,
        progress: Progress,
    ) -> AsyncGenerator[Any, None]:
        dispatcher = self._pool.dispatcher
        with reporting(progress, _name_of(fn), _length(iterables)) as report:
            stream = kind(dispatcher.loop, self._pool.size, report)
            self._put(fn, iterables, stream, chunksize)
            try:
                while batch := await stream.batch():
                    dispatcher.feed_all()
                    for value in batch:
                        if value.__class__ is Failure:
                            raise in_asyncio(value.error)
                        yield value
            except asyncio.CancelledError:
                dispatcher.stop(stream)
                raise
            finally:
                stream.is_over = True
                dispatcher.feed_all()

    def _put(
        self,
        fn: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        sink: Sink,
        chunksize: int | None,
    ) -> None:
        size = check_chunksize(chunksize)
        dispatcher, options = self._pool.dispatcher, self._options
        if dispatcher.seeds is not None:
            options = dispatcher.seeds.next(options)
        source = Source(
            pack_function(fn),
            iterables,
            sink,
            chunksize=size,
            count=_length(iterables),
            options=options,
        )
        dispatcher.put_source(source)


def _length(iterables: tuple[Iterable[Any], ...]) -> int | None:
    lengths = [len(each) for each in iterables if isinstance(each, Sized)]
    return min(lengths) if len(lengths) == len(iterables) and lengths else None


def _name_of(fn: Callable[..., Any]) -> str:
    return str(getattr(fn, "__name__", fn))


class Pool(PoolTasks):
    """Runs functions in processes that are supervised, one task at a time in each.

    Args:
        size: How many processes; by default as many as this one may use CPUs.
        initializer: Is called in each process before its first task.
        initargs: What it is called with.
        grace: How long a task that is to stop has after each step, in seconds: after its token says
            so, after its coroutine is cancelled, after an exception. See `docs/stopping.md`.
        max_tasks_per_child: After so many tasks a process is replaced; None is never. See
            `docs/recycling.md`, as for what follows.
        max_age: After so many seconds, up to a tenth less, a process is replaced.
        memory_limit: How much private memory a process may have, in bytes or as `"512MB"`. From
            80 % on it is replaced after its task; at the limit it is killed.
        threads: How many threads numerical libraries may start in each; by default the processes
            share the CPUs, unless the environment says it (`OMP_NUM_THREADS` ...).
        nice: The nice value of its processes.
        cpu_affinity: The CPUs on which they may run.
        seed: What the random numbers of its tasks are made of: those of `random`, of `numpy.random`
            and of whatever is made with `current_task().seed`. None leaves them to chance.
        shutdown: As an entry of a tree: how long its tasks may take to end when it stops, in
            seconds, before their processes are killed; None is no limit. A pool of the program's
            own runs what was given to it, unless it is aborted.
        name: What the node calls it, as an entry of a tree; see `named`.

    Raises:
        TypeError, ValueError: A number is of another type, or out of range, or the initializer
            cannot be called.
        BadChildSpecError: There is no such memory limit, nice value or CPU.

    Example:
        ```python
        async with Pool(size=2) as pool:
            print(await pool.run(pow, 2, 10))
        ```
    """

    of = staticmethod(pool_of_servers)

    def __init__(
        self,
        size: int | None = None,
        *,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        grace: float = GRACE,
        max_tasks_per_child: int | None = None,
        max_age: float | None = None,
        memory_limit: int | str | None = None,
        threads: int | None = None,
        nice: int | None = None,
        cpu_affinity: Collection[int] | None = None,
        seed: int | None = None,
        shutdown: float | None = 5.0,
        name: str | None = None,
    ) -> None:
        self.size = check_size("size", size)
        check_seconds("shutdown", shutdown)
        self._shutdown = shutdown
        self.name = name
        self._rules = recycling_rules(max_tasks_per_child, max_age, memory_limit)
        self._lane_options = lane_options(
            memory_limit=memory_limit,
            nice=nice,
            cpu_affinity=cpu_affinity,
            threads=threads,
            size=self.size,
        )
        check_initializer(initializer, initargs)
        self._grace = check_grace(grace)
        self._seeds = None if seed is None else Seeds(seed)
        self._initializer = initializer
        self._initargs = initargs
        self._lanes: Lanes | None = None
        self._dispatcher: Dispatcher | None = None
        super().__init__(self, NONE)

    @property
    def dispatcher(self) -> Dispatcher:
        """What hands its tasks out.

        Raises:
            ConfigError: The pool has not been started.
        """
        if self._dispatcher is None:
            raise ConfigError("this pool has not been started\nWrite async with Pool() as pool.")
        return self._dispatcher

    def options(self, **options: Unpack[TaskOptionsDict]) -> PoolTasks:
        """Return the same pool for tasks with options.

        Args:
            timeout: How long a task may run, in seconds; None is for ever.
            retries: How often it is run again after the death of a process that had begun it.
            priority: Tasks of a higher one begin before those of a lower one that wait; 0 by
                default.
            memory_limit: How much memory it may take, beyond what its process has, in bytes or as
                `"500MB"`; a task that asks for more fails with `MemoryError`.

        Raises:
            TypeError: There is no such option, or it is of another type.
            ValueError: A value is out of range.

        Example:
            ```python
            await pool.options(retries=1, priority=5).run(render, page)
            ```
        """
        return PoolTasks(self, task_options(options))

    # --- in a tree -------------------------------------------------------------------------

    def as_supervisor(self) -> ServerPool[Lane]:
        """Return what it is as an entry of a tree, or for `spawn`: a supervisor of its own.

        Raises:
            UnencodableError: The initializer cannot be sent.
            ConfigError: It has an option that only a pool of the program's own has.
        """
        if self._seeds is not None:
            raise ConfigError(
                "a pool that the whole node shares has no seed: its calls have no certain order\n"
                "Give it to who calls: Pool.named(..., seed=...) counts its own calls."
            )
        code = None if self._initializer is None else pack_function(self._initializer)
        # Two tasks at a time, so that one is there when the other is done.
        options = PoolOptions(size=self.size, in_flight=2, grace=self._grace, rules=self._rules)
        lane = child(Lane, code, self._initargs).options(
            restart="permanent", shutdown=self._shutdown, **self._lane_options
        )
        return server_pool(lane, options, id=self.name or "Pool", name=self.name)

    @staticmethod
    def named(where: str | Ref[Lane], *, seed: int | None = None) -> NamedPool:
        """Return a pool of functions that stands in the tree, or was spawned, to run tasks there.

        It is found in any process of the node when it is used, also in a handler; so it may stand
        at the top of a module. Whoever uses it shares it: its queue is one, with the priorities of
        all.

        Args:
            where: Its name; or what `spawn(Pool(...))` gave you.
            seed: What the random numbers of the tasks are made of that are given to it here, as of
                a `Pool`. It counts the calls of this object alone: another with the same seed, in
                whichever process, draws the same numbers.

        Raises:
            NoServerError: When a task is to be run: nobody has the name.
            TypeError: The seed is no whole number.

        Example:
            ```python
            tree = Supervisor(Pool(size=4, name="cpu"), child(Web))
            cpu = Pool.named("cpu")  # anywhere
            page = await cpu.run(render, "index")
            ```
        """
        from noex_mp.pools.named_pool import NamedPool

        return NamedPool(where, None if seed is None else Seeds(seed))

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
        if error is not None:
            await self._end_for(error)
            return
        try:
            await self.stop()
        except asyncio.CancelledError as cancelled:
            # Nobody waits for its tasks any more.
            await self._end_for(cancelled)
            raise

    async def _end_for(self, error: BaseException) -> None:
        tasks = self.dispatcher.count()
        await self.abort()
        if is_from_ctrl_c(error):
            say_stopped(tasks)

    async def start(self) -> None:
        """Start its processes on the current node; `async with` does it for you.

        Where there is no node yet, it starts one, with the program's script preloaded if that has a
        main guard.

        Raises:
            InitFailedError: The initializer has raised.
            ConfigError: It was started before.
        """
        if self._lanes is not None:
            raise ConfigError("this pool was started before; make another")
        code, initargs = initializing(self._initializer, self._initargs)
        self._lanes = Lanes(self.size, code, initargs, **self._lane_options)
        # Without its script, each process imports for itself what its tasks need.
        client = await current.client_or_implicit(MAIN, if_possible=True)
        dispatcher = Dispatcher(client)
        dispatcher.grace = self._grace
        dispatcher.seeds = self._seeds
        if self._rules:
            run = dispatcher.loop.create_task
            dispatcher.recycler = Recycler(dispatcher, self._lanes, self._rules, run)
        for ref in await self._lanes.start():
            dispatcher.add(ref)
        if dispatcher.recycler is not None:
            dispatcher.recycler.prepare()
        self._dispatcher = dispatcher

    async def stop(self) -> None:
        """Run what was given to it so far, and end its processes."""
        if self._dispatcher is not None and self._lanes is not None:
            await self._dispatcher.idle()
            self._dispatcher.fail_all(PoolStoppedError())
            await self._lanes.stop()

    async def abort(self) -> None:
        """Cancel what was given to it so far, and kill its processes.

        So does `async with` when an exception leaves it, Ctrl-C among them, or when it is cancelled
        while it waits for the tasks.
        """
        if self._dispatcher is not None and self._lanes is not None:
            self._dispatcher.give_up()
            self._dispatcher.fail_all(PoolStoppedError())
            await self._lanes.stop(at_once=True)
