"""Coroutines that were begun outside of the task that goes on with them."""

from __future__ import annotations

import asyncio
from asyncio.tasks import (
    _enter_task,  # pyright: ignore[reportPrivateUsage] - documented, in "Extending asyncio"
    _leave_task,  # pyright: ignore[reportPrivateUsage]
)
from collections.abc import Callable, Coroutine, Generator, Iterator
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

from noex_mp.worker.activation import Activation, activation, inline

if TYPE_CHECKING:
    from noex_mp.worker.mailbox import Mailbox

__all__ = ["GoOn", "Suspended", "frames_of", "up_to_its_first_wait"]


class Suspended(NamedTuple):
    """What an `async` operation gives instead of a result when it comes to wait."""

    coroutine: Coroutine[Any, Any, Any]
    waits_for: Any


class GoOn:
    """Awaits the rest of a coroutine that has been begun and waits for something.

    Attributes:
        coroutine: What it goes on with.
        cancelled: Whether its task was cancelled before it could take over.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any], waits_for: Any) -> None:
        self.coroutine = coroutine
        self._waits_for = waits_for
        self.cancelled = False

    def __await__(self) -> Generator[Any, Any, Any]:
        while True:
            try:
                if self.cancelled:
                    self.cancelled = False
                    # As a task does it: what it waits for is cancelled, and then it is.
                    if self._waits_for is None or not self._waits_for.cancel():
                        raise asyncio.CancelledError
                sent = yield self._waits_for
            except BaseException as error:
                step = partial(self.coroutine.throw, error)
            else:
                step = partial(self.coroutine.send, sent)
            try:
                self._waits_for = step()
            except StopIteration as end:
                return end.value


def frames_of(awaited: Any) -> Iterator[FrameType]:
    """Yield the frame of a coroutine that waits, and those of what it awaits, outermost first."""
    while awaited is not None:
        frame: FrameType | None = getattr(awaited, "cr_frame", getattr(awaited, "gi_frame", None))
        if frame is None:
            return
        if frame.f_code is GoOn.__await__.__code__:
            awaited = frame.f_locals["self"].coroutine
            continue
        yield frame
        awaited = getattr(awaited, "cr_await", getattr(awaited, "gi_yieldfrom", None))


def up_to_its_first_wait(
    mailbox: Mailbox, loop: asyncio.AbstractEventLoop, operation: Callable[..., Any]
) -> Callable[..., Any]:
    """Return a function that begins an `async` operation in the name of the server's task.

    Most come to their end without a wait, and never need the task: to wake it costs a turn
    of the loop. (Python 3.12 has eager tasks for this; a task for each message would cost
    more.)
    """
    run_in_context = mailbox.context.run

    def begin(*args: Any, **kwargs: Any) -> Any:
        coroutine = operation(*args, **kwargs)
        # It waits for messages, so it is there.
        task: Any = mailbox.task
        target = inline.target
        assert target is not None
        began = mailbox.activation = Activation(mailbox, target, target.frame)
        _enter_task(loop, task)
        try:
            waits_for = run_in_context(_begin_as, began, coroutine)
        except StopIteration as end:
            began.active = False
            mailbox.activation = None
            return end.value
        except BaseException:
            mailbox.is_over(began)
            raise
        else:
            return Suspended(coroutine, waits_for)
        finally:
            _leave_task(loop, task)

    return begin


def _begin_as(began: Activation, coroutine: Coroutine[Any, Any, Any]) -> Any:
    activation.set(began)
    return coroutine.send(None)
