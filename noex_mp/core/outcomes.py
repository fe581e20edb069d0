"""What a callback returns besides a plain value: OTP's return tuples as small dataclasses.

An outcome makes two decisions: what the caller gets (`Reply`, `NoReply`), and what the server
does `then`: stop, go on with work of its own, or wait for a limited time.

```python
>>> Reply(3, then=Stop())
Reply(value=3, then=Stop(reason=Normal()))
>>> type(Reply(3)) in OUTCOMES
True

```

| OTP | here |
|---|---|
| `{reply, V, S}` | `return v` from an operation, `Reply(v)` from `handle_call` |
| `{reply, V, S, {continue, X}}` | `Reply(v, then=Continue(x))` |
| `{reply, V, S, 5000}` | `Reply(v, then=TimeoutAfter(5.0))` |
| `{noreply, S}` | `NoReply()`; from a cast or info: nothing |
| `{noreply, S, {continue, X}}` | `NoReply(then=Continue(x))`; from a cast or info: `Continue(x)` |
| `{stop, R, V, S}` | `Reply(v, then=Stop(r))` |
| `{stop, R, S}` | `NoReply(then=Stop(r))`; from a cast or info: `Stop(r)` |
| `ignore`, `{stop, R}` from `init` | `Ignore()`, `Stop(r)` |

A callback that returns what it may not return has crashed; a plain value from a cast is dropped.

Promise: plain data, no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any, Final, Generic, TypeAlias, TypeVar

from noex_mp.core.reasons import ExitReason, Normal

__all__ = [
    "OUTCOMES",
    "Continue",
    "Ignore",
    "NoReply",
    "Outcome",
    "Reply",
    "Stop",
    "Then",
    "TimeoutAfter",
]

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Stop:
    """The server ends, after this callback and its reply.

    Attributes:
        reason: Why; what monitors, links and the supervisor get to see.
    """

    reason: ExitReason = Normal()  # noqa: RUF009 - immutable, so it may be shared


@dataclass(frozen=True, slots=True)
class Continue:
    """The server calls its `handle_continue` before it looks at its next message.

    Attributes:
        argument: Passed to `handle_continue`.
    """

    argument: Any = None


@dataclass(frozen=True, slots=True)
class TimeoutAfter:
    """The server gets a `Timeout` in `handle_info` if no message arrives in time.

    Any message before that calls it off.

    Attributes:
        seconds: How long to wait.

    Raises:
        ValueError: Not a number of seconds, zero or above.
    """

    seconds: float

    def __post_init__(self) -> None:
        if type(self.seconds) not in (int, float) or not 0 <= self.seconds < inf:
            raise ValueError(f"TimeoutAfter takes seconds, zero or above, got {self.seconds!r}")


Then: TypeAlias = Stop | Continue | TimeoutAfter
"""What a server does after a callback; None is to wait for the next message."""


# Without slots: Python 3.11 could not make a `Reply[int](3)` of a frozen class that has them.
@dataclass(frozen=True)
class Reply(Generic[R_co]):
    """The caller gets `value`, and the server does `then`.

    Attributes:
        value: The reply.
        then: What follows; None is to wait for the next message.
    """

    value: R_co
    then: Then | None = None


@dataclass(frozen=True, slots=True)
class NoReply:
    """The caller gets no reply now; whoever holds its `From` replies later.

    Attributes:
        then: What follows; None is to wait for the next message.
    """

    then: Then | None = None


@dataclass(frozen=True, slots=True)
class Ignore:
    """`init` decides that there is nothing to do: no server, and no error."""


Outcome: TypeAlias = Reply[R] | NoReply
"""What `handle_call` returns: a reply of type R, or none for now."""

OUTCOMES: Final[frozenset[type]] = frozenset((Stop, Continue, TimeoutAfter, Reply, NoReply, Ignore))
"""Every type in this module, for one fast test: `type(result) in OUTCOMES`."""
