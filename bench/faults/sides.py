"""How each pool is asked: two workers, with the settings that it has by itself."""

from __future__ import annotations

import importlib
import importlib.metadata
import multiprocessing
import platform
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from types import TracebackType
from typing import Any, ClassVar, Self

from bench.faults import tasks

__all__ = ["SIDES", "WORKERS", "Side"]

WORKERS = 2


class Side:
    """A pool.

    Attributes:
        title: What the table calls it.
        package: The distribution that tells its version; none is Python's own.
        lacks: Why an experiment cannot be made with it, by the experiment's name.
        grace: How long a task whose time is over may be waited for, in seconds: where the pool has
            no such limit, nothing but the caller's patience ends the wait.
        not_yet: The name of what `result` raises when there is none after so many seconds; an error
            of the task may be a TimeoutError as well.
    """

    title: ClassVar[str]
    package: ClassVar[str] = ""
    lacks: ClassVar[dict[str, str]] = {}
    grace: ClassVar[float] = 0.0
    not_yet: ClassVar[str] = "TimeoutError"

    def __init__(self, max_tasks: int | None = None) -> None:
        self.pool = self.new(max_tasks)

    @classmethod
    def version(cls) -> str:
        """Return its version."""
        return importlib.metadata.version(cls.package) if cls.package else platform.python_version()

    def new(self, max_tasks: int | None) -> Any:
        """Return a pool whose workers are replaced after so many tasks, if that is said."""
        raise NotImplementedError

    def submit(self, task: Callable[..., Any], *args: Any) -> Any:
        """Give it a task; return what `result` takes."""
        return self.pool.submit(task, *args)

    def result(self, task: Any, seconds: float) -> Any:
        """Return a task's result, raise its error, or TimeoutError after so many seconds."""
        return task.result(seconds)

    def submit_limited(self, task: Callable[..., Any], seconds: float) -> Any:
        """Give it a task that may take so long, if that can be said."""
        return self.submit(task)

    def submit_nested(self, value: int) -> Any:
        """Give it a task that gives a task to the same pool."""
        tasks.ourselves = self.pool
        return self.submit(tasks.asks_its_own_pool, value)

    def __enter__(self) -> Self:
        self.pool.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.pool.__exit__(kind, error, where)


class Ours(Side):
    """noex-mp's executor."""

    title = "noex-mp"
    package = "noex-mp"
    grace = 3.0

    def new(self, max_tasks: int | None) -> Any:
        """Return our executor."""
        noex_mp = importlib.import_module("noex_mp")
        return noex_mp.ProcessPoolExecutor(
            WORKERS, **({"max_tasks_per_child": max_tasks} if max_tasks else {})
        )

    def submit_nested(self, value: int) -> Any:
        """Pass the executor: a worker has none of the program's variables."""
        return self.submit(_asks_ours, self.pool, value)

    def submit_limited(self, task: Callable[..., Any], seconds: float) -> Any:
        """Say so by its options."""
        return self.pool.options(timeout=seconds).submit(task)


def _asks_ours(pool: Any, value: int) -> Any:
    return pool.submit(tasks.same, value).result()


class Executor(Side):
    """`concurrent.futures`."""

    title = "ProcessPoolExecutor"

    def new(self, max_tasks: int | None) -> Any:
        """Return an executor; the option makes it start workers by `spawn`."""
        return ProcessPoolExecutor(WORKERS, max_tasks_per_child=max_tasks)


class Pool(Side):
    """`multiprocessing.Pool`."""

    title = "multiprocessing.Pool"

    def new(self, max_tasks: int | None) -> Any:
        """Return a pool."""
        return multiprocessing.Pool(WORKERS, maxtasksperchild=max_tasks)

    def submit(self, task: Callable[..., Any], *args: Any) -> Any:
        """Call `apply_async`."""
        return self.pool.apply_async(task, args)

    def result(self, task: Any, seconds: float) -> Any:
        """Call `get`."""
        return task.get(seconds)

    def submit_nested(self, value: int) -> Any:
        """Pass the pool: its workers were forked before there was a variable to find it in."""
        return self.submit(_asks, self.pool, value)


def _asks(pool: Any, value: int) -> Any:
    return pool.apply_async(tasks.same, (value,)).get()


class Loky(Side):
    """loky's executor: joblib's."""

    title = "loky"
    package = "loky"
    lacks: ClassVar[dict[str, str]] = {"max_tasks": "there is no such option"}

    def new(self, max_tasks: int | None) -> Any:
        """Return the executor that its documentation recommends."""
        return importlib.import_module("loky").get_reusable_executor(max_workers=WORKERS)

    def submit_nested(self, value: int) -> Any:
        """Ask for the reusable executor in the task: it is another one there."""
        return self.submit(_asks_loky, value)


def _asks_loky(value: int) -> Any:
    pool = importlib.import_module("loky").get_reusable_executor(max_workers=WORKERS)
    return pool.submit(tasks.same, value).result()


class Ray(Side):
    """Ray's tasks, on a local cluster of two CPUs."""

    title = "Ray"
    package = "ray"
    not_yet = "GetTimeoutError"

    def new(self, max_tasks: int | None) -> Any:
        """Start a cluster."""
        self._options = {} if max_tasks is None else {"max_calls": max_tasks}
        ray = importlib.import_module("ray")
        ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
        return ray

    def submit(self, task: Callable[..., Any], *args: Any) -> Any:
        """Call a remote function."""
        remote = self.pool.remote(**self._options)(task) if self._options else None
        return (remote or self.pool.remote(task)).remote(*args)

    def result(self, task: Any, seconds: float) -> Any:
        """Call `get`."""
        return self.pool.get(task, timeout=seconds)

    def submit_nested(self, value: int) -> Any:
        """Call a remote function in another."""
        return self.submit(_asks_ray, value)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown()


def _asks_ray(value: int) -> Any:
    ray = importlib.import_module("ray")
    return ray.get(ray.remote(tasks.same).remote(value))


SIDES: dict[str, type[Side]] = {
    "ours": Ours,
    "executor": Executor,
    "pool": Pool,
    "loky": Loky,
    "ray": Ray,
}

if sys.platform == "darwin":
    # Its default there is to execute a new interpreter: the rows are about a fork.
    multiprocessing.set_start_method("fork")
