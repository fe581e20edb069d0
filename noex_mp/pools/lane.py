"""`Lane`: one process of a pool, a server that runs functions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from inspect import isawaitable
from time import monotonic
from typing import Any, Final

from noex_mp.core.gen_server import GenServer
from noex_mp.core.operations import call
from noex_mp.core.outcomes import OUTCOMES, Reply
from noex_mp.pools.functions import FunctionCode, load_function

__all__ = ["Lane"]

# How many functions a lane remembers: of what has no name, each new one is another.
_MANY: Final = 256


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

    def init(self) -> None:
        """Call the initializer."""
        if self._initializer is not None:
            load_function(self._initializer)(*self._initargs)

    @call
    def run(self, code: FunctionCode, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function, and return what it returns."""
        function = self._functions.get(code)
        if function is None:
            function = self._load(code)
        result = function(*args, **kwargs)
        if result.__class__ in OUTCOMES:
            # It is a value like any other here, and says nothing to this server.
            return Reply(result)
        return result

    @call
    def run_timed(self, code: FunctionCode, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function; return how long that took, in seconds, and what it returns."""
        function = self._functions.get(code) or self._load(code)
        start = monotonic()
        result = function(*args, **kwargs)
        if isawaitable(result):
            return _timed(result, start)
        return [monotonic() - start, result]

    @call
    def run_chunk(
        self, code: FunctionCode, tasks: Sequence[Sequence[Any]]
    ) -> tuple[list[Any], BaseException | None]:
        """Call a function with each of several lists of arguments, until it raises.

        Returns:
            What it has returned, and what it has raised then.
        """
        function = self._functions.get(code) or self._load(code)
        results: list[Any] = []
        try:
            for args in tasks:
                results.append(function(*args))  # noqa: PERF401 - what was done counts
        except BaseException as error:
            return results, error
        return results, None

    @call
    def ready(self) -> None:
        """Return once it can run a task."""

    def _load(self, code: FunctionCode) -> Callable[..., Any]:
        if len(self._functions) >= _MANY:
            self._functions.clear()
        function = self._functions[code] = load_function(code)
        return function


async def _timed(result: Awaitable[Any], start: float) -> list[Any]:
    value = await result
    return [monotonic() - start, value]
