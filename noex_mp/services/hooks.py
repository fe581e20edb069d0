"""The servers in which an application's own functions run: never in the root.

`Master` stands before the tree, `PrepStop` behind it: so one starts before all of it, and the
other stops before all of it. Both live in one process and share what `start` has returned.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final

from typing_extensions import override

from noex_mp import ExitReason, GenServer

__all__ = ["Hook", "Master", "PrepStop"]

Hook = Callable[[Any], Any]
"""Takes the configuration, or the state; may be a coroutine function."""

#: What `start` has returned, of each application that has its master in this process.
_states: Final[dict[str, Any]] = {}


class Master(GenServer):
    """Runs `start` before the tree starts, and `stop` after it has stopped."""

    def __init__(
        self, application: str, config: Any, start: Hook | None, stop: Hook | None
    ) -> None:
        self.application = application
        self.config = config
        self.start = start
        self.stop = stop

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

    def __init__(self, application: str, prep_stop: Hook) -> None:
        self.application = application
        self.prep_stop = prep_stop

    @override
    async def terminate(self, reason: ExitReason) -> None:
        await _run(self.prep_stop, _states[self.application])


async def _run(hook: Hook, value: Any) -> Any:
    result = hook(value)
    return await result if inspect.isawaitable(result) else result
