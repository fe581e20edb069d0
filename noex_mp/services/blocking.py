"""`sync.start_application`: applications for programs and threads without an event loop."""

from __future__ import annotations

import contextlib
from typing import Any, Final, Generic

from typing_extensions import TypeVar

from noex_mp import AlreadyRegisteredError, ExitReport, NodeDownError, NoNodeError, sync
from noex_mp.services.application import Application
from noex_mp.services.dependencies import in_order
from noex_mp.services.running import Status, status_of, to_be_started, why_it_stops

__all__ = ["BlockingApplication", "start_application", "stop_applications"]

C = TypeVar("C", default=Any)


class BlockingApplication(Generic[C]):
    """An application, in the hands of a thread without an event loop: its methods block.

    They do what those of `RunningApplication` do. Any thread may call them.

    Attributes:
        name: Its name.
        config: Its configuration.
        supervisor: Its supervisor.
    """

    def __init__(self, application: Application[C], supervisor: sync.BlockingSupervisor) -> None:
        self.name = application.name
        # It is an instance by now; see `to_be_started`.
        config: Any = application.config
        self.config: C = config
        self.supervisor = supervisor
        self._stop_timeout = application.stop_timeout

    def __repr__(self) -> str:
        return f"BlockingApplication({self.name!r})"

    def status(self) -> Status:
        """Return where it is in its life."""
        return status_of(self.supervisor.state())

    def stop(self) -> None:
        """Stop it, for good; one that has ended already is no error."""
        self.supervisor.stop(why_it_stops(self.name), self._stop_timeout)
        _forget(self)

    def wait(self) -> ExitReport | None:
        """Block until it has ended; return why, which is also so if its tree gave up.

        Raises:
            NodeDownError: The node has stopped.
        """
        report: ExitReport | None = None
        for down in sync.watch(self.supervisor.ref):
            report = down.report
        _forget(self)
        return report


def start_application(application: Application[C]) -> BlockingApplication[C]:
    """See `sync.start_application`."""
    started: list[BlockingApplication[Any]] = []
    try:
        for each in in_order((application,))[:-1]:
            started += _start_if_needed(each)
        return _start(application)
    except BaseException:
        for each in reversed(started):
            each.stop()
        raise


def stop_applications() -> None:
    """See `sync.stop_applications`."""
    for each in reversed(_started.copy()):
        with contextlib.suppress(NodeDownError, NoNodeError):
            each.stop()


#: What this program has started and not stopped, in that order.
_started: Final[list[BlockingApplication[Any]]] = []


def _forget(application: BlockingApplication[Any]) -> None:
    # Two threads may come here at once.
    with contextlib.suppress(ValueError):
        _started.remove(application)


def _start(application: Application[C]) -> BlockingApplication[C]:
    configured_one = to_be_started(application)
    started = BlockingApplication(configured_one, sync.start_supervisor(configured_one))
    _started.append(started)
    return started


def _start_if_needed(application: Application[Any]) -> list[BlockingApplication[Any]]:
    try:
        return [_start(application)]
    except AlreadyRegisteredError:
        # Somebody else has started it.
        if status_of(sync.supervisor(application.name).state()) == "running":
            return []
        raise
