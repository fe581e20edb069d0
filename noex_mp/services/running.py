"""`start_application`: an application on a node that runs, and what is done with it there."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final, Generic, Literal

from typing_extensions import TypeVar

from noex_mp import (
    AlreadyRegisteredError,
    ExitReport,
    NodeDownError,
    NoNodeError,
    Shutdown,
    SupervisorRef,
    start_supervisor,
    supervisor,
    watch,
)
from noex_mp.services.application import Application, changed
from noex_mp.services.dependencies import in_order

__all__ = [
    "RunningApplication",
    "Status",
    "start_application",
    "status_of",
    "stop_applications",
    "to_be_started",
    "why_it_stops",
]

C = TypeVar("C", default=Any)

Status = Literal["starting", "running", "stopping", "stopped"]
"""Where an application is in its life. One that is started again is starting."""

_STATUSES: Final[dict[str, Status]] = {
    "starting": "starting",
    "restarting": "starting",
    "running": "running",
    "stopping": "stopping",
}


class RunningApplication(Generic[C]):
    """An application that was started with `start_application`.

    Attributes:
        name: Its name.
        config: Its configuration.
        ref: Its supervisor.
    """

    def __init__(self, application: Application[C], ref: SupervisorRef) -> None:
        self.name = application.name
        # It is an instance by now; see `to_be_started`.
        config: Any = application.config
        self.config: C = config
        self.ref = ref
        self._stop_timeout = application.stop_timeout
        self._ends = watch(ref)
        self._report: ExitReport | None = None

    def __repr__(self) -> str:
        return f"RunningApplication({self.name!r})"

    async def status(self) -> Status:
        """Return where it is in its life."""
        return status_of(await self.ref.state())

    async def stop(self) -> None:
        """Stop it, for good: `prep_stop`, the tree in reverse order, `stop`.

        Every call waits until it has ended; one that has ended already is no error.
        """
        await self.ref.stop(why_it_stops(self.name), self._stop_timeout)
        _forget(self)

    async def wait(self) -> ExitReport | None:
        """Wait until it has ended; return why, which is also so if its tree gave up.

        Raises:
            NodeDownError: The node has stopped.
        """
        async for down in self._ends:
            self._report = down.report
        _forget(self)
        return self._report


async def start_application(application: Application[C]) -> RunningApplication[C]:
    """Start an application on the current node, and before it what it depends on.

    It is not started again when its tree has ended: `wait` says so, and why. The node stops what
    was started last first. Who is cancelled meanwhile waits until it has started, and stops it.

    Raises:
        AlreadyRegisteredError: It runs already, or something else has its name.
        BadChildSpecError: It is described wrongly, or depends on itself.
        BadConfigError: Its configuration is wrong.
        InitFailedError, InitTimedOutError: It did not start; what was started for it is stopped.

    Example:
        ```python
        async with Node() as node:
            shop = await start_application(shop_application)
            await shop.wait()
        ```
    """
    started: list[RunningApplication[Any]] = []
    try:
        for each in in_order((application,))[:-1]:
            started += await _start_if_needed(each)
        return await _start(application)
    except BaseException:
        for each in reversed(started):
            await each.stop()
        raise


async def stop_applications() -> None:
    """Stop all applications that this program has started, the last first.

    One that cannot be stopped any more, because its node is gone, keeps none of the others.
    """
    for each in reversed(_started.copy()):
        with contextlib.suppress(NodeDownError, NoNodeError):
            await each.stop()


#: What this program has started and not stopped, in that order: no clock tells that as well.
_started: Final[list[RunningApplication[Any]]] = []


def _forget(running: RunningApplication[Any]) -> None:
    if running in _started:
        _started.remove(running)


async def _start(application: Application[C]) -> RunningApplication[C]:
    configured_one = to_be_started(application)
    starting = asyncio.ensure_future(start_supervisor(configured_one))
    try:
        ref = await asyncio.shield(starting)
    except asyncio.CancelledError:
        # The node goes on with the start, and nobody would stop what comes of it.
        await _undo(configured_one, starting)
        raise
    running = RunningApplication(configured_one, ref)
    _started.append(running)
    return running


async def _undo(application: Application[Any], starting: asyncio.Future[SupervisorRef]) -> None:
    await asyncio.wait((starting,))
    if not starting.cancelled() and starting.exception() is None:
        await RunningApplication(application, starting.result()).stop()


async def _start_if_needed(application: Application[Any]) -> list[RunningApplication[Any]]:
    try:
        return [await _start(application)]
    except AlreadyRegisteredError:
        # Somebody else has started it.
        if status_of(await supervisor(application.name).state()) == "running":
            return []
        raise


def to_be_started(application: Application[C]) -> Application[C]:
    """Return an application with its configuration; nobody starts it again when it has ended."""
    return changed(application, config=application.configuration(), restart="temporary")


def why_it_stops(name: str) -> Shutdown:
    """Return the reason that the servers of an application are told when it is stopped."""
    return Shutdown(f"application {name} is stopping")


def status_of(state: str) -> Status:
    """Return where an application is in its life, by the state of its supervisor."""
    return _STATUSES.get(state, "stopped")
