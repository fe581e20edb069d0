"""Activations: a message that a handler is working on, and what it waits for meanwhile.

An activation is *active* from the handler's first line to its last. What the handler calls
inherits its deadline, and only while it is active can a server be part of a circle of calls
(see `cycles`). A task that a handler leaves behind still finds the activation in its context,
and finds that it is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import partial
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from noex_mp.client.client import Client
from noex_mp.client.route import Route
from noex_mp.errors import CallTimedOutError
from noex_mp.transport.link import Link
from noex_mp.wire.envelopes import CALL, CALL_KW, callback_name

if TYPE_CHECKING:
    from noex_mp.core.ref import SentOperation
    from noex_mp.worker.mailbox import Mailbox
    from noex_mp.worker.queued import Target

__all__ = ["Activation", "NestedClient", "activation", "current", "current_call", "inline"]

_CALLS: Final = frozenset((CALL, CALL_KW))

_numbers: Final = itertools.count(1)

# Calls that have their reply are forgotten when so many are known, and then when twice as many
# are as were left: a handler may have thousands of them out at once.
_MANY: Final = 64

#: The activation in whose name this code runs.
activation: ContextVar[Activation | None] = ContextVar("noex_mp_activation", default=None)


class Activation:
    """One message while a handler works on it. For users, it is the `CurrentCall`.

    Attributes:
        mailbox: Of the server that works on it.
        target: Whose message it is; None for what comes from the server's own worker.
        frame: The message.
        active: The handler has not returned.
        is_cancelled: The caller has said that it waits no more.
        calls: What the handler has called, and the casts for which there was no window: the route
            and the number, by the future.
    """

    __slots__ = (
        "_forget_at",
        "_number",
        "active",
        "calls",
        "frame",
        "is_cancelled",
        "mailbox",
        "target",
    )

    def __init__(self, mailbox: Mailbox, target: Target | None, frame: list[Any]) -> None:
        self.mailbox = mailbox
        self.target = target
        self.frame = frame
        self.active = True
        self.is_cancelled = False
        self.calls: dict[asyncio.Future[Any], tuple[Route, int]] | None = None
        self._number = 0
        self._forget_at = _MANY

    @property
    def number(self) -> int:
        """No other activation in this process has it."""
        if not self._number:
            self._number = next(_numbers)
        return self._number

    @property
    def is_call(self) -> bool:
        """Whether somebody waits for a reply."""
        return self.frame[0] in _CALLS

    def is_of(self, target: Target, seq: int) -> bool:
        """Whether this is the message of that number."""
        return self.target is target and self.frame[2] == seq

    @property
    def due(self) -> float:
        """When its caller stops waiting, by the monotonic clock; inf is never."""
        due: float = self.frame[4] if self.is_call else inf
        return due

    # --- CurrentCall -------------------------------------------------------------------

    @property
    def operation(self) -> str:
        """The operation's name."""
        name: str = self.frame[3]
        return name

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the reply any more."""
        assert self.target is not None  # a call is somebody's
        if not self.is_cancelled and monotonic() < self.due:
            # The news may be in the socket: a handler that does not wait lets nobody read it.
            inline.look(self.target.link)
        return self.is_cancelled or monotonic() >= self.due or self.target.link.closed

    @property
    def time_left(self) -> float | None:
        """How many seconds the caller still waits; None is for ever."""
        return None if self.due == inf else max(0.0, self.due - monotonic())

    def steps(self) -> memoryview:
        """Return where the handler says how many steps of the call it has begun."""
        return self.mailbox.steps(self.frame[2])

    # --- circles -----------------------------------------------------------------------

    def remember(self, future: asyncio.Future[Any], route: Route, seq: int) -> None:
        """Note a call that the handler has made."""
        calls = self.calls or {}
        if len(calls) >= self._forget_at:
            calls = {f: call for f, call in calls.items() if not f.done()}
            self._forget_at = max(_MANY, 2 * len(calls))
        calls[future] = (route, seq)
        self.calls = calls

    def waits_for(self, task: asyncio.Task[Any]) -> list[tuple[asyncio.Future[Any], Route, int]]:
        """Return the calls without which the handler, which runs in `task`, cannot go on."""
        calls = self.calls or {}
        pending = {f for f in calls if not f.done()}
        if not pending:
            return []
        found = _behind(getattr(task, "_fut_waiter", None), pending)
        sent = [(future, *calls[future]) for future in found]
        return [(future, *route.moved.get(seq, (route, seq))) for future, route, seq in sent]


def _behind(waiter: Any, calls: set[asyncio.Future[Any]]) -> Iterator[asyncio.Future[Any]]:
    """Yield the calls that a future waits for: itself, through gather, a task, or wait_for."""
    if waiter is None:
        return
    if waiter in calls:
        yield waiter
    elif isinstance(waiter, asyncio.Task):
        task: Any = waiter  # pyright: ignore[reportUnknownVariableType] - of whatever result
        yield from _behind(getattr(task, "_fut_waiter", None), calls)
    elif children := getattr(waiter, "_children", None):
        for child in children:
            if not child.done():
                yield from _behind(child, calls)
    else:
        # shield, wait, and wait_for of Python 3.11 wait for a future that the call's callback
        # completes, and a task group for one that its last task completes.
        yield from (call for call in calls if _wakes(call, waiter))
        for task in asyncio.all_tasks():
            if _wakes(task, waiter):
                yield from _behind(getattr(task, "_fut_waiter", None), calls)


def _wakes(future: asyncio.Future[Any], waiter: object) -> bool:
    callbacks: list[tuple[Any, Any]] = getattr(future, "_callbacks", None) or []
    return any(_waits_for_it(waiter, list(_held_by(callback))) for callback, _ in callbacks)


def _waits_for_it(waiter: object, held: list[object]) -> bool:
    # Whoever waits for the first of several may go on without this one.
    first = any(value.__class__ is str and value == asyncio.FIRST_COMPLETED for value in held)
    return not first and any(value is waiter for value in held)


def _held_by(callback: Any) -> Iterator[object]:
    if callback.__class__ is partial:
        yield from callback.args
    group: object = getattr(callback, "__self__", None)
    if isinstance(group, asyncio.TaskGroup):
        yield getattr(group, "_on_completed_fut", None)
    for cell in getattr(callback, "__closure__", None) or ():
        # One of a function that is still being made is empty.
        with contextlib.suppress(ValueError):
            yield cell.cell_contents


class InheritingRoute(Route):
    """A route whose calls inherit what is left of the time of the call in whose name they are made.

    It is that of threads which a handler has started (`asyncio.to_thread`).
    """

    __slots__ = ()

    def invoke(
        self,
        operation: SentOperation,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        timeout: float | None,
    ) -> asyncio.Future[Any]:
        """Send a call, within the time of the handler."""
        return self._invoke_for(activation.get(), operation, args, kwargs, timeout)

    def _invoke_for(
        self,
        running: Activation | None,
        operation: SentOperation,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        timeout: float | None,
    ) -> asyncio.Future[Any]:
        if running is not None and running.active and running.due != inf:
            left = running.due - monotonic()
            if left <= 0:
                return self._too_late(operation, timeout)
            timeout = left if timeout is None else min(timeout, left)
        return super().invoke(operation, args, kwargs, timeout)

    def _too_late(self, operation: SentOperation, timeout: float | None) -> asyncio.Future[Any]:
        future = self._create_future()
        what = f"{self.label}.{callback_name(operation.name, is_call=True)}"
        future.set_exception(CallTimedOutError(what, timeout or 0.0))
        return future


class NestedRoute(InheritingRoute):
    """The route of a server's calls: what its handler waits for is known, too."""

    __slots__ = ()

    def invoke(
        self,
        operation: SentOperation,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        timeout: float | None,
    ) -> asyncio.Future[Any]:
        """Send a call in the name of the handler that runs."""
        running = current()
        future = self._invoke_for(running, operation, args, kwargs, timeout)
        if running is None or future.done():
            return future
        running.remember(future, self, self.seq)
        if self.sid == running.mailbox.sid:
            # It may be waited for, and never be answered.
            running.mailbox.suspect()
        return future

    def cast(
        self,
        operation: SentOperation,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        timeout: float | None,
    ) -> asyncio.Future[None]:
        """Send a cast in the name of the handler that runs."""
        future = super().cast(operation, args, kwargs, timeout)
        if not future.done():
            running = current()
            if running is not None and self.seq in self.pending:
                running.remember(future, self, self.seq)
                running.mailbox.suspect()
        return future


class ThreadClient(Client):
    """The client of a thread in a worker."""

    route_class: type[Route] = InheritingRoute


class NestedClient(Client):
    """The client of a worker's servers."""

    route_class: type[Route] = NestedRoute


class Inline:
    """What runs right where its message was read, outside of any task.

    Attributes:
        target: Whose messages are being worked on; None between two batches.
    """

    __slots__ = ("_activation", "look", "target")

    def __init__(self) -> None:
        self.target: Target | None = None
        self.look: Callable[[Link], None] = lambda link: None
        self._activation: Activation | None = None

    def activation(self) -> Activation | None:
        """Return the activation of the message that runs now. Made on demand: few ask."""
        target = self.target
        if target is None or not target.frame:
            # Of those whose messages all wait for the server's task, none has run here.
            return None
        known = self._activation
        if known is None or known.frame is not target.frame:
            known = self._activation = Activation(target.mailbox, target, target.frame)
        return known

    def forget(self) -> None:
        """Forget the last message, while none is being worked on."""
        if self.target is None:
            self._activation = None

    def cancel(self, target: Target, seq: int) -> None:
        """Tell the operation that runs now, if this call is its."""
        running = self.activation()
        if running is not None and running.is_of(target, seq):
            running.is_cancelled = True


#: The worker's own.
inline: Final = Inline()


def current() -> Activation | None:
    """Return the activation in whose name this code runs, or None."""
    found = activation.get()
    if found is not None and found.active:
        return found
    return inline.activation()


def current_call() -> Activation | None:
    """Return the same, if it is that of a call."""
    found = current()
    return found if found is not None and found.is_call else None


def interject(message: object) -> None:
    """Let the server in whose name this code runs have a message before any other."""
    found = current()
    if found is not None:
        found.mailbox.put_ahead(message)
