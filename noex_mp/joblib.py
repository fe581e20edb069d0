"""joblib's tasks on the processes of noex-mp: `joblib.parallel_config("noex")`.

```python
import joblib
from noex_mp.joblib import register

register()
with joblib.parallel_config("noex", n_jobs=4):
    squares = joblib.Parallel()(joblib.delayed(square)(n) for n in range(100))
```

joblib looks for no backends by itself, so `register` is called once, before the first use. A
process that dies fails the call of `Parallel` with `WorkerExitedError`; the next one is served.

Processes outlive a call, as loky's do: one set of them is kept for the next call that wants such.
"""

from __future__ import annotations

import functools
import threading
from collections import ChainMap
from collections.abc import Callable
from concurrent.futures import Future
from pickle import PickleBuffer
from types import FunctionType
from typing import Any, ClassVar

from noex_mp import NoexError, ProcessPoolExecutor
from noex_mp.client import current
from noex_mp.pools.memmaps import is_array, reduce_array
from noex_mp.wire import by_value
from noex_mp.wire.classes import MAIN
from noex_mp.wire.values import BIG

try:
    from joblib import cpu_count, register_parallel_backend
    from joblib.parallel import (
        AutoBatchingMixin,
        FallbackToBackend,
        ParallelBackendBase,
        SequentialBackend,
    )
except ImportError as error:
    raise ImportError("joblib is not installed\nRun pip install noex-mp[joblib].") from error

__all__ = ["NoexBackend", "register", "shutdown"]


def register() -> None:
    """Let joblib know the backend "noex"; to do it again changes nothing.

    Example:
        ```python
        register()
        joblib.Parallel(n_jobs=2, backend="noex")(joblib.delayed(abs)(n) for n in range(-9, 0))
        ```
    """
    register_parallel_backend("noex", NoexBackend)


def shutdown() -> None:
    """End the processes that are kept for the next call; it starts others."""
    kept = _take_kept()
    if kept is not None:
        kept.end(wait=True)


class NoexBackend(AutoBatchingMixin, ParallelBackendBase):
    """What joblib calls. Besides joblib's own options it has those of `ProcessPoolExecutor`.

    Without `n_jobs` there is a process for each CPU.

    Example:
        ```python
        with joblib.parallel_config("noex", memory_limit="2GB", inner_max_num_threads=1):
            model.fit(data)
        ```
    """

    default_n_jobs = -1
    supports_retrieve_callback = True
    supports_inner_max_num_threads = True

    _processes: _Processes | None = None

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many processes that means, as joblib counts: -1 is one for each CPU."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        return n_jobs if n_jobs > 0 else max(1, cpu_count() + 1 + n_jobs)

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        *,
        # joblib's own, and of no use here: arrays do not travel by way of files.
        prefer: str | None = None,
        require: str | None = None,
        verbose: int = 0,
        context: object = None,
        max_nbytes: int | None = None,
        mmap_mode: str | None = None,
        temp_folder: str | None = None,
        **options: Any,
    ) -> int:
        """Get the processes for one call, or for several; return how many there are."""
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        if "seed" in options or "seed" in self.backend_kwargs:
            raise TypeError(
                "joblib decides by the time which tasks travel together, so no seed can make their "
                "random numbers the same; give each task a seed among its arguments"
            )
        options = {"threads": self.inner_max_num_threads, **self.backend_kwargs, **options}
        self.parallel = parallel
        self._processes = _get_processes(max_workers=n_jobs, **options)
        return n_jobs

    def submit(
        self, func: Callable[[], Any], callback: Callable[[Future[Any]], object] | None = None
    ) -> Future[Any]:
        """Run some tasks, which are one function here, in one of the processes."""
        assert self._processes is not None
        return self._processes.submit(func, callback)

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """Return what these tasks have returned, or raise what one of them has raised."""
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Stop all tasks, also those that run."""
        if self._processes is None:
            return
        self._processes.stop_tasks()
        if not ensure_ready:
            self._processes.end()
            self._processes = None

    def terminate(self) -> None:
        """Leave the processes to the next call."""
        processes, self._processes = self._processes, None
        if processes is not None:
            _keep(processes)
        self.reset_batch_stats()


class _Processes:
    """An executor, and its tasks; one call of `Parallel` at a time has it."""

    def __init__(self, node: str | None, options: dict[str, Any]) -> None:
        self._key = (node, options)
        self._executor = ProcessPoolExecutor(**options)
        self._futures: set[Future[Any]] = set()

    def submit(
        self, function: Callable[[], Any], callback: Callable[[Future[Any]], object] | None
    ) -> Future[Any]:
        future = self._executor.submit(_call, _Batch(function))
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def stop_tasks(self) -> None:
        for future in list(self._futures):
            self._executor.stop(future)

    def end(self, *, wait: bool = False) -> None:
        self._executor.shutdown(wait)

    def are(self, node: str | None, options: dict[str, Any]) -> bool:
        """Return whether they are such, and run: their node may have stopped."""
        if self._key != (node, options):
            return False
        try:
            self._executor.submit(abs, 0).result()
        except (NoexError, RuntimeError):
            return False
        return True


def _call(batch: Callable[[], Any]) -> Any:
    return _Results(batch())


class _Batch:
    """Some tasks on their way, where they become the function that runs them."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function

    def __call__(self) -> Any:
        return self._function()

    def __reduce__(self) -> tuple[Any, ...]:
        data, views = by_value.dump_by(_batch_pickler(), self._function, BIG)
        return by_value.load, (data, [PickleBuffer(view) for view in views])


@functools.cache
def _batch_pickler() -> Callable[..., Any]:
    from cloudpickle import Pickler

    base: Any = by_value.code_pickler()

    class BatchPickler(base):  # type: ignore[misc]
        """Ours for what travels with its code, with loky's ideas of the script and of files."""

        # One that is set on the pickler itself does not count, as cloudpickle's class has one.
        dispatch_table: ClassVar[Any] = ChainMap(by_value.REDUCERS, base.dispatch_table)

        def reducer_override(self, obj: Any) -> Any:
            if is_array(obj):
                return reduce_array(obj)
            if _is_of_script(obj):
                return Pickler.reducer_override(self, obj)
            ours: Any = super()
            return ours.reducer_override(obj)

    return BatchPickler


def _is_of_script(value: Any) -> bool:
    """Tell whether it goes with its code, as loky has it, although others could import it.

    So the script may have changed its variables since, and needs no main guard. A registered class
    is the exception: its values name it.
    """
    is_code = isinstance(value, (type, FunctionType)) and value.__module__ == MAIN
    return is_code and value not in by_value.COMPANIONS


class _Results:
    """Results on their way: lambdas are welcome in them, and large arrays are not copied."""

    def __init__(self, results: Any) -> None:
        self._results = results

    def __reduce__(self) -> tuple[Any, ...]:
        data, views = by_value.dump(self._results, BIG)
        return by_value.load, (data, [PickleBuffer(view) for view in views])


_lock = threading.Lock()
_kept: _Processes | None = None


def _take_kept() -> _Processes | None:
    global _kept
    with _lock:
        kept, _kept = _kept, None
    return kept


def _get_processes(**options: Any) -> _Processes:
    node, kept = current.current.get(), _take_kept()
    if kept is not None:
        if kept.are(node, options):
            return kept
        kept.end()
    return _Processes(node, options)


def _keep(processes: _Processes) -> None:
    global _kept
    with _lock:
        before, _kept = _kept, processes
    if before is not None:
        before.end()
