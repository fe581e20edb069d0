"""The servers in which an application's own functions run: never in the root.

`Master` stands before the tree, `PrepStop` behind it: so one starts before all of it, and the
other stops before all of it. Both live in one process and share what `start` has returned.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from operator import attrgetter
from typing import Any, Final

from typing_extensions import override

from noex_mp import ExitReason, GenServer

__all__ = ["Hook", "Master", "PrepStop", "by_name"]

Hook = Callable[[Any], Any]
"""Takes the configuration, or the state; may be a coroutine function."""


def by_name(hook: Hook | None) -> Hook | str | None:
    """Return a function as `module:name`, where a worker finds it by that, else as it is.

    So it is sent as classes are, and a node that pickles nothing can have it.
    """
    module, name = getattr(hook, "__module__", ""), getattr(hook, "__qualname__", "")
    if module == "__main__" or module not in sys.modules or "<" in name or not name:
        return hook
    try:
        is_found = attrgetter(name)(sys.modules[module]) is hook
    except AttributeError:
        is_found = False
    return f"{module}:{name}" if is_found else hook


def _load(hook: Hook | str | None) -> Hook | None:
    if not isinstance(hook, str):
        return hook
    module, _, name = hook.partition(":")
    found: Hook = attrgetter(name)(importlib.import_module(module))
    return found


#: What `start` has returned, of each application that has its master in this process.
_states: Final[dict[str, Any]] = {}


class Master(GenServer):
    """Runs `start` before the tree starts, and `stop` after it has stopped."""

    def __init__(
        self, application: str, config: Any, start: Hook | str | None, stop: Hook | str | None
    ) -> None:
        self.application = application
        self.config = config
        self.start = _load(start)
        self.stop = _load(stop)

    @override
    async def init(self) -> None:
        state = self.config
        if self.start is not None:
            state = await _run(self.start, self.config)
        _states[self.application] = state

    @override
    async def terminate(self, reason: ExitReason) -> None:
        if self.stop is not None:
            await _run(self.stop, _states[self.application])


class PrepStop(GenServer):
    """Runs `prep_stop` before the tree stops."""

    def __init__(self, application: str, prep_stop: Hook | str) -> None:
        self.application = application
        self.prep_stop = _load(prep_stop)

    @override
    async def terminate(self, reason: ExitReason) -> None:
        assert self.prep_stop is not None
        await _run(self.prep_stop, _states[self.application])


async def _run(hook: Hook, value: Any) -> Any:
    result = hook(value)
    return await result if inspect.isawaitable(result) else result
