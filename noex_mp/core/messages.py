"""Messages written out as classes, for OTP's callbacks, and the messages the runtime sends.

A subclass of `Call` or `Cast` is a dataclass by its class statement alone:

```python
class Push(Cast, frozen=True):
    item: str


class Pop(Call[str], frozen=True):
    pass


await stack.cast(Push("a"))
await stack.call(Pop())  # a str
```

In the server, `request.reply(value)` is checked against the type that the client awaits.

Promise: plain data, no I/O.
"""

from __future__ import annotations

from dataclasses import Field, dataclass, field
from typing import Generic, TypeVar, dataclass_transform

from noex_mp.core.outcomes import Outcome, Reply, Then
from noex_mp.core.reasons import ExitReason, ExitReport
from noex_mp.core.ref import Address

__all__ = ["Call", "Cast", "Down", "Exit", "MemoryPressure", "Monitor", "Timeout"]

R = TypeVar("R")


# Each base carries the decorator itself: inherited from a common base, it would make type
# checkers see `Call` as a dataclass that is not frozen, which no frozen one may extend.
@dataclass_transform(field_specifiers=(field, Field))
class Call(Generic[R]):
    """A request of which the reply is an R. Subclasses are dataclasses.

    The class statement takes `frozen`, `order` and `kw_only`, as `dataclass` does.
    """

    def __init_subclass__(
        cls, *, frozen: bool = False, order: bool = False, kw_only: bool = False
    ) -> None:
        super().__init_subclass__()
        # A field of that name would hide the method from every handler.
        if "reply" in vars(cls) or "reply" in vars(cls).get("__annotations__", {}):
            raise TypeError(
                f"{cls.__name__} has a field called reply, and request.reply(...) is how a "
                f"handler answers\n"
                f"Choose another name."
            )
        dataclass(frozen=frozen, order=order, kw_only=kw_only)(cls)

    def reply(self, value: R, then: Then | None = None) -> Outcome[R]:
        """Return the outcome that sends `value` to the caller.

        Args:
            value: The reply; checked against the request's R.
            then: What the server does afterwards; None is to wait for the next message.
        """
        return Reply(value, then)


@dataclass_transform(field_specifiers=(field, Field))
class Cast:
    """A message without a reply. Subclasses are dataclasses.

    The class statement takes `frozen`, `order` and `kw_only`, as `dataclass` does.
    """

    def __init_subclass__(
        cls, *, frozen: bool = False, order: bool = False, kw_only: bool = False
    ) -> None:
        super().__init_subclass__()
        dataclass(frozen=frozen, order=order, kw_only=kw_only)(cls)


@dataclass(frozen=True, slots=True)
class Timeout:
    """No message arrived in the time that `TimeoutAfter` gave. Comes in `handle_info`."""


@dataclass(frozen=True, slots=True)
class MemoryPressure:
    """The server's process has used 80 % of its `memory_limit`. Comes in `handle_info`.

    It comes once, and again only after there was less in between. A server may answer it by
    dropping what it can do without; at the limit it is killed.

    Attributes:
        used: The private memory that the process had, in bytes.
        limit: What it may have, in bytes.
    """

    used: int
    limit: int


@dataclass(frozen=True, slots=True)
class Monitor:
    """What `monitor` has returned: tells one `Down` from another, and is taken back by `demonitor`.

    Attributes:
        ref: Who is watched.
        number: No other monitor has it.
    """

    ref: Address
    number: int


@dataclass(frozen=True, slots=True)
class Down:
    """A server that was watched has ended. Comes in `handle_info`, and out of `watch`.

    All that the server had sent before it ended comes first.

    Attributes:
        ref: The server, as it was given to `monitor` or `watch`.
        monitor: What `monitor` had returned.
        reason: Why it ended; `NoServer()` if there was nothing to watch.
        report: All that is known of its end, if it ever ran.
        restart: The number of the incarnation that its supervisor starts next; None if it is gone
            for good.
    """

    ref: Address
    monitor: Monitor
    reason: ExitReason
    report: ExitReport | None
    restart: int | None


@dataclass(frozen=True, slots=True)
class Exit:
    """A linked server has ended, or somebody has called `exit`: for servers that trap exits.

    Comes in `handle_info`, after all that the server had sent before it ended.

    Attributes:
        ref: Who has ended; None if `exit` was called, or nobody was found by that name. It is by
            number, as a pid is in OTP's `EXIT`, so it equals no `named(...)`: that means whoever
            has the name when a message is sent. Compare it with what `whereis` gives.
        reason: Why, or what `exit` was given; `NoServer()` if there was nothing to be linked to.
        report: All that is known of its end.
    """

    ref: Address | None
    reason: ExitReason
    report: ExitReport | None
