"""Messages that come later: `send_after`, `send_interval`, `cancel_timer`.

A timer lives in the event loop that set it, counts by the monotonic clock, and ends with it. One
that a server sets for itself belongs to that incarnation: after a restart there is no message
of the one before.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from math import inf
from typing import Any, Final, Protocol, final

from noex_mp.client import current
from noex_mp.core.ref import Ref, route_to
from noex_mp.core.running_loop import running_loop
from noex_mp.errors import CallError, NodeDownError, NoNodeError, NoServerError
from noex_mp.wire.envelopes import INFO

__all__ = ["Delivery", "Timer", "cancel_timer", "install", "send_after", "send_interval"]


class Delivery(Protocol):
    """How the messages of one timer reach a server of this very process."""

    def __call__(self, message: object) -> bool:
        """Put a message into the mailbox; return whether the server is still there."""
        ...

    def take_back(self) -> bool:
        """Take a message out that has not been handled; return whether there was one."""
        ...


def _nobody(ref: Ref[Any]) -> Delivery | None:
    return None


_local: Callable[[Ref[Any]], Delivery | None] = _nobody


def install(local: Callable[[Ref[Any]], Delivery | None]) -> None:
    """Set how a server of this process is found. For the worker, when it starts."""
    global _local
    _local = local


class _Info:
    """A message for `handle_info`, as a route sees it."""

    name = INFO
    idempotent = False
    max_deliveries = None


_INFO: Final = _Info()


@final
class Timer:
    """A message that is on its way; `cancel_timer` takes it back."""

    __slots__ = ("_deliver", "_due", "_handle", "_loop", "_message", "_period", "_ref")

    def __init__(self, ref: Ref[Any], message: object, first: float, period: float | None) -> None:
        loop = running_loop()
        if loop is None:
            raise NoNodeError(
                "a timer needs a running event loop, and this thread has none\n"
                "Set it in a handler or in a coroutine."
            )
        self._loop = loop
        self._ref = ref
        self._message = message
        self._period = period
        self._deliver = _local(ref)
        if self._deliver is None:
            # Here whoever sets it can be told; later only the loop would hear of it.
            with contextlib.suppress(CallError):
                current.client(ref.node or None).check(message)
        # Not the handle's own: that of a short time has none on uvloop.
        self._due = self._loop.time() + first
        self._handle: asyncio.Handle | None = self._loop.call_later(first, self._fire)

    def _fire(self) -> None:
        self._handle = None
        if self._send() and self._period is not None:
            # The next one is counted from when this one was due: an interval does not drift. What
            # was missed while the loop was blocked does not come in a heap.
            late = max(0.0, self._loop.time() - self._due)
            self._due += self._period * (1 + late // self._period)
            self._handle = self._loop.call_at(self._due, self._fire)

    def _send(self) -> bool:
        if self._deliver is not None:
            return self._deliver(self._message)
        # As in OTP, a message to nobody is lost.
        try:
            sent = route_to(self._ref).cast(_INFO, (self._message,), {}, None)
        except NodeDownError:
            return False
        except CallError:
            return True
        if self._period is not None:
            sent.add_done_callback(self._sent)
        return True

    def _sent(self, sent: asyncio.Future[None]) -> None:
        # An interval ends with its server, but a name may be somebody else's next time.
        if self._ref.sid and not sent.cancelled() and isinstance(sent.exception(), NoServerError):
            self.cancel()

    def cancel(self) -> float | None:
        """See `cancel_timer`."""
        handle, self._handle = self._handle, None
        taken_back = self._deliver is not None and self._deliver.take_back()
        if handle is None:
            return 0.0 if taken_back else None
        handle.cancel()
        return max(0.0, self._due - self._loop.time())


def send_after(ref: Ref[Any], message: object, seconds: float) -> Timer:
    """Send a message to a server's `handle_info` once some time has passed.

    Args:
        ref: The server; `self.ref` for the one that sets the timer.
        message: What it gets. To another process it must be a value that can be sent.
        seconds: How long from now, by the monotonic clock; 0 is at the next turn of the loop.

    Returns:
        The timer, for `cancel_timer`. It ends with the event loop, or the server, that set it.

    Raises:
        TypeError: Not a Ref.
        ValueError: Not a number of seconds of zero or more.
        NoNodeError: No event loop runs in this thread.
        UnencodableError: The message cannot be sent to another process.

    Example:
        ```python
        self.deadline = send_after(self.ref, "too late", 30.0)
        ```
    """
    _check_ref(ref, "send_after")
    _check(seconds, "send_after", least="0 or more", is_right=_is_number(seconds) and seconds >= 0)
    return Timer(ref, message, seconds, None)


def send_interval(ref: Ref[Any], message: object, seconds: float) -> Timer:
    """Send a message to a server's `handle_info` again and again.

    The first one comes after one period. Periods are counted from the first, so they do not
    drift. A server of the same process never has more than one message of a timer waiting. It ends
    with the server: when that is gone for good.

    Args:
        ref: The server; `self.ref` for the one that sets the timer.
        message: What it gets each time.
        seconds: The period.

    Raises:
        TypeError: Not a Ref.
        ValueError: Not a number of seconds above zero.
        NoNodeError: No event loop runs in this thread.
        UnencodableError: The message cannot be sent to another process.
    """
    _check_ref(ref, "send_interval")
    _check(seconds, "send_interval", least="above 0", is_right=_is_number(seconds) and seconds > 0)
    return Timer(ref, message, seconds, seconds)


def cancel_timer(timer: Timer) -> float | None:
    """Take a timer back; return the seconds that were left.

    Returns:
        None if it had fired for the last time or was cancelled before; what it sent may then
        have been handled. Of a server's own timer nothing comes after this, also nothing that had
        fired and was still waiting (0.0 is returned then).

    Raises:
        TypeError: Not a timer.
    """
    if not isinstance(timer, Timer):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            f"cancel_timer takes what send_after or send_interval gave you, got {timer!r:.60}"
        )
    return timer.cancel()


def _check_ref(ref: object, function: str) -> None:
    if isinstance(ref, Ref):
        return
    raise TypeError(
        f"{function} takes a Ref first, got {ref!r:.60}\n"
        f"That is what spawn(...) gave you; for the server itself it is self.ref."
    )


def _check(seconds: object, function: str, *, least: str, is_right: bool) -> None:
    if not is_right:
        raise ValueError(f"{function} takes seconds, a number {least}, got {seconds!r:.60}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -inf < value < inf
