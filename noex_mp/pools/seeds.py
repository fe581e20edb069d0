"""Random numbers that depend on the task alone: `Pool(seed=1234)`.

What a task draws is made of the seed of the pool, of the number of the call that the task belongs
to (`run`, `submit`, `map` ...), and of its number in there. So it is the same whichever process
runs it, and when; however many tasks travel together; and when it is run again after a death.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import random
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

from noex_mp.pools.functions import is_coroutine_function
from noex_mp.pools.options import TaskOptions

__all__ = ["Seeds", "current_seed", "seeded", "shifted"]

_current: int | None = None


class Seeds:
    """Numbers the calls of a pool.

    Raises:
        TypeError: The seed is no whole number.
    """

    def __init__(self, seed: object) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise TypeError(f"expected seed to be a whole number, or None, got {seed!r:.60}")
        self._seed = seed
        self._calls = itertools.count()

    def next(self, options: TaskOptions) -> TaskOptions:
        """Return the options of the tasks of one more call."""
        return replace(options, seed=(f"{self._seed}/{next(self._calls)}", 0))


def shifted(options: TaskOptions, count: int) -> TaskOptions:
    """Return the options of the tasks of a call that come behind so many others."""
    if options.seed is None:
        return options
    call, first = options.seed
    return replace(options, seed=(call, first + count))


# --- in a lane --------------------------------------------------------------------------------


def current_seed() -> int | None:
    """Return the seed of the task that runs here, or None."""
    return _current


def seeded(function: Callable[..., Any], call: str, number: int) -> Callable[..., Any]:
    """Return a function that does the same, with the numbers of one task after the other.

    Args:
        function: The function.
        call: Which call of which pool they belong to.
        number: That of the first of them.
    """
    numbers = itertools.count(number)

    async def run_later(*args: Any, **kwargs: Any) -> Any:
        _begin(f"{call}/{next(numbers)}")
        return await function(*args, **kwargs)

    def run(*args: Any, **kwargs: Any) -> Any:
        _begin(f"{call}/{next(numbers)}")
        return function(*args, **kwargs)

    return run_later if is_coroutine_function(function) else run


def _begin(task: str) -> None:
    global _current
    # What follows from a text is the same in all versions of Python.
    random.seed(task)
    _current = seed = random.getrandbits(64)
    numpy_random: Any = _numpy_random()
    if numpy_random is not None:
        numpy_random.seed([seed >> 32, seed & 0xFFFFFFFF])


@functools.cache
def _numpy_random() -> ModuleType | None:
    # Whoever imports it first gets numbers by chance, and that may be the task.
    try:
        return importlib.import_module("numpy.random")
    except ImportError:
        return None
