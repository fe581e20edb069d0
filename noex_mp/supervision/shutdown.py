"""In which order servers stop, and how long each may take.

```python
>>> [tuple(step) for step in stop_steps(5.0)]
[('ask', 5.0), ('terminate', 1.0), ('kill', None)]
>>> [[stop.id for stop in wave] for wave in plan_shutdown([("a", 5.0), ("b", None)])]
[['b'], ['a']]

```

The steps of one server are tried in turn until it is gone. Promise: no I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, NamedTuple, TypeAlias

from noex_mp.core.specs import ShutdownLimit

__all__ = ["FAST_GRACE", "GRACE", "Action", "Step", "Stop", "plan_shutdown", "stop_steps"]

Action: TypeAlias = Literal["ask", "evict", "terminate", "kill"]
"""Ask the server (its `terminate` runs); have its worker cancel what it awaits and drop it; SIGTERM
to its process group; SIGKILL to the group."""

# After SIGTERM, in seconds. Long enough for a grandchild to remove its temporary files; the
# server itself had its whole limit before.
GRACE: Final = 1.0

# The same for somebody who pressed Ctrl-C twice and is watching: just below what feels slow.
FAST_GRACE: Final = 0.2


class Step(NamedTuple):
    """One attempt to stop a server.

    Attributes:
        action: What to do.
        limit: How long to wait for its end before the next step, in seconds; None means
            until it is gone.
    """

    action: Action
    limit: float | None


class Stop(NamedTuple):
    """One server that is to stop, and how.

    Attributes:
        id: What its supervisor calls it.
        steps: What to try, in turn, until it is gone.
    """

    id: str
    steps: tuple[Step, ...]


def stop_steps(
    shutdown: ShutdownLimit, *, fast: bool = False, shared: bool = False
) -> tuple[Step, ...]:
    """Return how to stop one server that has this much time.

    Args:
        shutdown: The child's option: seconds, None (as long as it likes) or `"brutal_kill"`.
        fast: Whether somebody lost patience: its `terminate` is not waited for, whatever the
            option says.
        shared: Whether others live in its process: it is evicted first, and only one that does
            not leave takes the others with it.
    """
    if shared:
        return _steps_of_a_member(shutdown, fast=fast)
    if shutdown == "brutal_kill":
        return (Step("kill", None),)
    if fast:
        return (Step("terminate", FAST_GRACE), Step("kill", None))
    if shutdown is None:
        return (Step("ask", None),)
    return (Step("ask", shutdown), Step("terminate", GRACE), Step("kill", None))


def _steps_of_a_member(shutdown: ShutdownLimit, *, fast: bool) -> tuple[Step, ...]:
    evicted = (Step("evict", FAST_GRACE if fast else GRACE), Step("kill", None))
    if fast or shutdown == "brutal_kill":
        return evicted
    return (Step("ask", shutdown), *(() if shutdown is None else evicted))


def plan_shutdown(
    children: Iterable[tuple[str, ShutdownLimit]], *, fast: bool = False
) -> tuple[tuple[Stop, ...], ...]:
    """Return who stops when: each wave stops at once, and is gone before the next begins.

    Normally every server is a wave of its own, right to left, so that each finds those it
    was built on still running. A fast stop is one wave of all: its length is one grace, not
    their sum. To change over in the middle, plan anew with those that are still running.

    Args:
        children: The id and `shutdown` option of every running child, in start order.
        fast: Whether somebody lost patience (the second Ctrl-C).
    """
    stops = [Stop(child, stop_steps(shutdown, fast=fast)) for child, shutdown in children]
    stops.reverse()
    if fast:
        return (tuple(stops),) if stops else ()
    return tuple((stop,) for stop in stops)
