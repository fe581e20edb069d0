"""`Background`: the thread of an executor, with the event loop that its tasks go through.

Whoever calls an executor blocks, so its dispatcher lives in a thread of its own. It starts with the
first task and ends when the executor does, or is forgotten, or the interpreter ends; what was given
to it until then is run first. Whatever happens to it, no task stays without an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from noex_mp.client import current
from noex_mp.client.supervisors import speaker
from noex_mp.errors import (
    ConfigError,
    NoexError,
    NoNodeError,
    PoolDownError,
    PoolStoppedError,
)
from noex_mp.node.implicit import blocking_implicit_node
from noex_mp.node.preloading import has_main_guard, refuse_while_preloading
from noex_mp.pools.chunks import Source
from noex_mp.pools.ctrl_c import say_stopped, was_last_error
from noex_mp.pools.dispatcher import Dispatcher, Job
from noex_mp.pools.lanes import Lanes
from noex_mp.pools.recycling import NEVER, Recycler, RecyclingRules
from noex_mp.pools.short_cut import ShortCut
from noex_mp.transport.shared_loop import Later, SharedLoop, do_later
from noex_mp.wire.classes import MAIN, MAIN_IN_WORKERS

if TYPE_CHECKING:
    from noex_mp.client.client import Client
    from noex_mp.pools.seeds import Seeds

__all__ = ["Background"]


# These start no thread once the main module has ended, and a node has two (python/cpython#113964).
_NO_LATE_THREADS: Final = (3, 12) <= sys.version_info < (3, 12, 3)

# The script, as it is called in a child of `multiprocessing`.
_MAIN_IN_CHILDREN: Final = "__mp_main__"

_all: WeakSet[Background] = WeakSet()
_is_exiting = False


class Background:
    """A thread that runs the tasks of an executor on lanes of its own.

    Args:
        node: The id of the node of the lanes; None is the current one of a thread, or the implicit.
        lanes: Describes the lanes, for the node of that id.
        rules: When they are replaced.
        seeds: Those of the tasks, if they have any.
    """

    def __init__(
        self,
        node: str | None,
        lanes: Callable[[str], Lanes],
        rules: RecyclingRules = NEVER,
        seeds: Seeds | None = None,
    ) -> None:
        self.seeds = seeds
        self._rules = rules
        self._node = node
        self._lanes = lanes
        # What users are told, outside of all locks.
        self.later: Later = deque()
        self._lock = threading.RLock()
        # What was given to it before its processes were up.
        self._early: list[Job | Source] = []
        self._thread: threading.Thread | None = None
        self._has_node = threading.Event()
        # Its thread is at its end. `Thread.join` takes a thread for dead once a wait for it was
        # interrupted (Python 3.11 and 3.12).
        self._has_ended = threading.Event()
        self._loop: SharedLoop | None = None
        self._running: Lanes | None = None
        self._dispatcher: Dispatcher | None = None
        # While its processes are up.
        self.short_cut: ShortCut | None = None
        # What is wanted: no task that comes later; none that waits; none at all.
        self._is_shut = False
        self._is_cancelled = False
        self._is_stopped = False
        self._is_of_parent = False
        # How many tasks ran, and how many waited, when all was to stop.
        self._tasks: tuple[int, int] | None = None
        # Why there are no processes.
        self._error: BaseException | None = None
        self._ended: asyncio.Future[None] | None = None
        # What it waits for now, and no longer once it is to stop.
        self._awaited: asyncio.Future[None] | None = None
        _all.add(self)

    # --- from any thread -----------------------------------------------------------------

    def put(self, jobs: Iterable[Job | Source], module: str | None) -> None:
        """Run tasks.

        Args:
            jobs: The tasks.
            module: Where their function comes from.

        Raises:
            RuntimeError: The executor has been shut down, or the interpreter ends.
            PoolDownError: No task can be run any more.
            PreloadError: A module starts it that is only imported for worker processes.
            NoNodeError: This process was forked from that of the executor.
        """
        with self._lock:
            if self._is_shut or self._error is not None or self._is_of_parent or _is_exiting:
                raise self._refusal()
            if self._thread is None:
                self._start(module)
            dispatcher, loop = self._dispatcher, self._loop
            if dispatcher is None or loop is None:
                self._early += jobs
                return
            if isinstance(dispatcher.error, PoolDownError):
                raise PoolDownError(dispatcher.error.reason) from dispatcher.error.__cause__
            _give(dispatcher, jobs)
            loop.wake_if_needed()

    def _refusal(self) -> Exception:
        if self._is_of_parent:
            return NoNodeError(
                "this process was forked from one with a pool, which stays with its parent\n"
                "Make another ProcessPoolExecutor here."
            )
        if _is_exiting:
            return RuntimeError("cannot schedule new futures after interpreter shutdown")
        if self._is_shut or self._error is None:
            return RuntimeError("cannot schedule new futures after shutdown")
        return _down(self._error)

    def shut(self, *, cancel: bool = False, stop: bool = False) -> None:
        """Take no more tasks, and end once those there are have been run.

        It takes no lock: an executor may be forgotten in the midst of anything.

        Args:
            cancel: Those that wait are cancelled.
            stop: Those that run are ended too, with their processes: after Ctrl-C.
        """
        if self._is_of_parent:
            return
        self._is_cancelled = self._is_cancelled or cancel or stop
        self._is_stopped = self._is_stopped or stop
        self._is_shut = True
        loop = self._loop
        if loop is not None:
            loop.call_soon_threadsafe(self._end_if_shut)

    def stop(self, future: object) -> bool:
        """Stop the task of a future; return whether it was sent, and has no result yet."""
        with self._lock:
            dispatcher, loop = self._dispatcher, self._loop
            if dispatcher is None or loop is None or self._is_of_parent:
                return False
            is_stopped = dispatcher.stop(future)
            loop.wake_if_needed()
        return is_stopped

    def join(self) -> None:
        """Return once it has ended; at once in its own thread, where callbacks run."""
        thread = self._thread
        if thread is None or self._is_of_parent or thread is threading.current_thread():
            return
        self._has_ended.wait()
        thread.join()

    def leave_to_parent(self) -> None:
        """Be no executor any more: this process is a fork of its own."""
        self._lock = threading.RLock()
        self._is_of_parent = True
        self.short_cut = None

    def _start(self, module: str | None) -> None:
        # Here, where whoever imports a script without a main guard hears of it.
        refuse_while_preloading()
        thread = threading.Thread(
            target=self._run, args=(module,), name="noex-mp pool", daemon=True
        )
        thread.start()
        self._thread = thread
        if _NO_LATE_THREADS:
            self._has_node.wait()

    # --- in the thread ---------------------------------------------------------------------

    def _run(self, module: str | None) -> None:
        node = ""
        try:
            try:
                node = self._find_node(module)
            finally:
                self._has_node.set()
            current.current.set(node)
            self._turn(node, self._serve)
        except BaseException as error:  # each task gets an answer, whatever ends the thread
            self._fail(error)
            if self._loop is not None:
                # It had no time to end its processes.
                self._loop = None
                with contextlib.suppress(Exception):
                    self._turn(node, self._end_lanes)
        finally:
            self._has_ended.set()

    def _turn(
        self, node: str, work: Callable[[Client, SharedLoop], Coroutine[Any, Any, None]]
    ) -> None:
        """Do some work on a node, in an event loop that lasts as long."""
        loop = SharedLoop(self._lock, self.later)
        as_loop: Any = loop
        client = current.client_on(node, as_loop)
        speaker.set(client)
        try:
            with loop.lock:
                working = loop.start(work(client, loop))
            loop.turn_until(working)
        except BaseException as error:
            # Before the client's end has what runs fail for that.
            self._fail(error)
            raise
        finally:
            # Somebody may just read a reply.
            with loop.lock:
                client.close()
                loop.close()

    def _find_node(self, module: str | None) -> str:
        node = self._node
        if node is None and not current.is_worker():
            # Where several run, none is meant.
            with contextlib.suppress(NoNodeError):
                node = current.node_of_thread()
        if node is not None:
            return node
        # Nobody has asked for that. Without it, each process imports the module for itself; but to
        # run a script without a guard there would start it anew, and whoever wrote it hears of it.
        if module in (MAIN, MAIN_IN_WORKERS, _MAIN_IN_CHILDREN):
            return blocking_implicit_node(MAIN, if_possible=has_main_guard())
        return blocking_implicit_node(module, if_possible=True)

    async def _serve(self, client: Client, loop: SharedLoop) -> None:
        dispatcher = Dispatcher(client)
        lanes = self._running = self._lanes(client.node)
        if self._rules:
            dispatcher.recycler = Recycler(dispatcher, lanes, self._rules, loop.start)
        self._ended = loop.create_future()
        self._dispatcher, self._loop = dispatcher, loop
        self.short_cut = ShortCut(loop)
        self._give_early(dispatcher)
        try:
            await self._unless_stopped(loop.start(_add_lanes(dispatcher, lanes)))
            await self._ended
            await self._unless_stopped(dispatcher.idle())
        except BaseException as error:
            self._error = error
            dispatcher.fail_all(_down(error))
            raise
        finally:
            self.short_cut.give_back()
            self._loop = self.short_cut = None
            if self._is_stopped:
                say_stopped(self._tasks or dispatcher.count())
                dispatcher.fail_all(PoolStoppedError())
            # The node may have been stopped before.
            with contextlib.suppress(NoexError):
                await lanes.stop(at_once=self._is_stopped or self._error is not None)

    async def _end_lanes(self, client: Client, loop: SharedLoop) -> None:
        if self._running is not None:
            await self._running.stop(at_once=True)

    def _give_early(self, dispatcher: Dispatcher) -> None:
        # Not where it would be kept for as long as the pool lives, with its results.
        early, self._early = self._early, []
        _give(dispatcher, early)

    async def _unless_stopped(self, work: asyncio.Future[None]) -> None:
        """Wait for something, but no longer than until all is to stop."""
        assert self._loop is not None
        awaited = self._awaited = self._loop.create_future()

        def note_end(work: asyncio.Future[None]) -> None:
            error = work.exception()
            if awaited.done():
                return
            if error is None:
                awaited.set_result(None)
            else:
                awaited.set_exception(error)

        work.add_done_callback(note_end)
        self._end_if_shut()
        await awaited

    def _end_if_shut(self) -> None:
        if not self._is_shut or self._dispatcher is None:
            return
        if self._is_stopped and self._tasks is None:
            self._tasks = self._dispatcher.count()
        if self._is_cancelled:
            for job in self._dispatcher.cancel_waiting():
                job.cancel()
        for future in (self._ended, self._awaited if self._is_stopped else None):
            if future is not None and not future.done():
                future.set_result(None)

    def _fail(self, error: BaseException) -> None:
        """Fail what waits, and refuse what comes: there is nothing that could run it."""
        with self._lock:
            self._error = error = self._error or error
            jobs, self._early = self._early, []
            if self._dispatcher is not None:
                self._dispatcher.fail_all(_down(error))
        for job in jobs:
            if isinstance(job, Source):
                job.abandon(_down(error))
            elif job.begin():
                job.fail(_down(error))
        do_later(self.later)


async def _add_lanes(dispatcher: Dispatcher, lanes: Lanes) -> None:
    for ref in await lanes.start():
        dispatcher.add(ref)
    if dispatcher.recycler is not None:
        dispatcher.recycler.prepare()


def _down(error: BaseException) -> NoexError:
    """Return the error of a task that no process is going to run."""
    # Where it went through us is of no use to anybody.
    cause = error.with_traceback(None) if isinstance(error, NoexError) else error
    if isinstance(cause, ConfigError):
        return cause
    failure = PoolDownError(str(error) or type(error).__name__)
    failure.__cause__ = cause
    return failure


def _give(dispatcher: Dispatcher, jobs: Iterable[Job | Source]) -> None:
    for job in jobs:
        if isinstance(job, Source):
            dispatcher.put_source(job)
        else:
            dispatcher.put(job)


def _end_with_interpreter() -> None:
    """Run what is left, before the interpreter ends; after Ctrl-C, end it."""
    global _is_exiting
    _is_exiting = True
    for each in list(_all):
        each.shut(stop=was_last_error())
    try:
        for each in list(_all):
            each.join()
    except KeyboardInterrupt:
        for each in list(_all):
            each.shut(stop=True)
        for each in list(_all):
            each.join()


def _leave_all_to_parent() -> None:
    for each in list(_all):
        each.leave_to_parent()


# As `concurrent.futures` does it: the hooks of `atexit` come later, among them the end of a node.
_register_atexit: Callable[[Callable[[], None]], None] = vars(threading)["_register_atexit"]
try:
    _register_atexit(_end_with_interpreter)
except RuntimeError:
    # The interpreter ends while it loads this.
    _is_exiting = True
os.register_at_fork(after_in_child=_leave_all_to_parent)
