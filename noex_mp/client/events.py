"""What happens to servers and supervisors, as plain data: `Event`.

```python
async with Node(tree) as node:
    async for event in node.events():
        print(event.kind, event.server, event.reason)
```

One server's life is told like this, each line in order, from its first start to its end:

```text
name_claimed                                       it has a name; before anything of it runs
started      ready                                 its process runs; its init has returned
crashed      restarting   started   ready   restarted    and again, for each restart
stopping     name_freed   exited                   somebody stops it; it is gone
```
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from noex_mp.core.dead_letters import DeadLetter
from noex_mp.core.reasons import ExitReason, ExitReport
from noex_mp.core.ref import Ref

if TYPE_CHECKING:
    from noex_mp.client.supervisors import SupervisorRef

__all__ = ["Event", "EventKind", "Listener", "Wants"]

EventKind = Literal[
    "name_claimed",
    "started",
    "ready",
    "not_started",
    "stopping",
    "exited",
    "crashed",
    "restarting",
    "waiting",
    "restarted",
    "gave_up",
    "name_freed",
    "mailbox_full",
    "memory_pressure",
    "messages_lost",
    "dead_letter",
]
"""What may happen.

- `name_claimed`: It has its name, from now on.
- `started`: An incarnation begins: its process runs, and its `init` in it. Of a supervisor: it
  begins to start its children.
- `ready`: The `init` has returned; all children have started.
- `not_started`: Its start has failed, and its own supervisor does not try again: it was the first
  start, or one by hand, or one that belonged to the supervisor's own.
- `stopping`: It has been told to stop.
- `exited`: It has ended as it was told, or by itself and in good order.
- `crashed`: It has ended in any other way, or failed in the `init` of a restart.
- `restarting`: It is to be started again, after `delay` seconds.
- `waiting`: Its restart has to wait: the system has no file descriptor, process or memory for it.
- `restarted`: It is up again; follows `ready`.
- `gave_up`: A supervisor's children died more often than it allows, and it ends; or a spawned
  server did, which has a budget of its own, and is gone.
- `name_freed`: Somebody else may have its name. If it has ended for good, that follows.
- `mailbox_full`: Messages wait at their senders for want of room, or `count` of them were refused
  or dropped since the last of these events; at most one a second and server.
- `memory_pressure`: Its process has used 80 % of its `memory_limit`: `count` bytes. Once, until
  there was less.
- `messages_lost`: An incarnation has ended before it came to `count` casts of one sender.
- `dead_letter`: It has ended in the middle of one message again and again, and does not get it any
  more: `letter`. Older ones had to go for it: `count`.
"""


@dataclass(frozen=True, kw_only=True)
class Event:
    """One thing that happened to one server, or to one supervisor.

    Attributes:
        kind: What happened.
        ref: Whose event it is: the same address through all restarts.
        server: Its name or id, for people.
        name: Its name, or None. Where a name was claimed or freed, that name.
        registry: Where a name was claimed or freed, in which registry; empty for the node's own.
        incarnation: Which start of it, from 1; 0 before the first. In `restarting`, the next one.
        attempt: Which try to bring it up this is, from 1; 0 while it runs. It counts on until
            one succeeds.
        reason: Why it ended, stops, was not started, or has to be started again; else None.
        time: When, in seconds since the epoch.
        os_pid: Its process, or 0.
        report: How its incarnation ended, where one did; of `gave_up`, that of the last straw, and
            of `dead_letter`, that of the last end in the middle of the message.
        delay: How long its restart waits, in seconds.
        count: How many messages, where messages were lost, refused or dropped; how many bytes its
            process had, in `memory_pressure`.
        letter: The message that is not delivered any more; else None.
        detail: What a supervisor says when it gives up, or the limit in `memory_pressure`; else
            empty.
        missed: How many events this listener has lost just before this one, since it was slow.

    Example:
        ```python
        async for event in node.events():
            if event.kind == "crashed":
                alert(f"{event.server}: {event.report.summary}")
        ```
    """

    kind: EventKind
    ref: Ref[Any] | SupervisorRef
    server: str
    name: str | None = None
    registry: str = ""
    incarnation: int
    attempt: int = 0
    reason: ExitReason | None = None
    time: float
    os_pid: int = 0
    report: ExitReport | None = None
    delay: float = 0.0
    count: int = 0
    detail: str = ""
    letter: DeadLetter | None = None
    missed: int = 0

    @property
    def sid(self) -> int:
        """The number of the server or supervisor in its node; kept through restarts."""
        return self.ref.sid


#: Is called with each event, in order.
Listener = Callable[[Event], None]

#: Tells whether anybody wants to hear of such an event; else it is not made.
Wants = Callable[[EventKind], bool]
