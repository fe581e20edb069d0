"""What follows from the exit of a child, after OTP's `supervisor`.

```python
>>> from noex_mp.core.reasons import Killed
>>> tree = Tree((Child("orders"), Child("visits", "transient")))
>>> plan_exit(tree, "visits", Killed("SIGKILL"), now=17.0).start
('visits',)

```

`node/supervisor.py` reads the clock, calls `plan_exit`, carries the plan out, and keeps
`plan.restarts` for the next time. It decides nothing. Promise: no I/O, no state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from noex_mp.core.reasons import ExitReason, is_abnormal
from noex_mp.core.specs import Restart, Strategy, Supervisor

__all__ = ["Child", "Plan", "Tree", "plan_exit"]


@dataclass(frozen=True)
class Child:
    """What a decision needs to know of one child.

    Attributes:
        id: What its supervisor calls it.
        restart: When it comes back.
    """

    id: str
    restart: Restart = "permanent"


@dataclass(frozen=True)
class Tree:
    """A supervisor at one moment: its children and the restarts it remembers.

    Attributes:
        children: In the order in which they are started.
        strategy: Who is restarted with a child that died.
        max_restarts: How many restarts are allowed ...
        max_seconds: ... within how many seconds.
        restarts: When the last restarts were, oldest first, in seconds of the caller's clock.
    """

    children: tuple[Child, ...]
    strategy: Strategy = "one_for_one"
    max_restarts: int = 3
    max_seconds: float = 5.0
    restarts: tuple[float, ...] = ()

    @classmethod
    def from_spec(cls, spec: Supervisor) -> Tree:
        """Return the tree a valid spec describes, before its first restart.

        A child that does not say when it comes back is permanent here.
        """
        children = tuple(Child(c.child_id, c.restart or "permanent") for c in spec.children)
        return cls(children, spec.strategy, spec.max_restarts, spec.max_seconds)


@dataclass(frozen=True)
class Plan:
    """What the supervisor does next: stop these, then start those.

    Attributes:
        stop: Ids to stop first, in this order. Stopping one that is not running does nothing.
        start: Ids to start then, in this order.
        restarts: The restarts to remember from now on: the next `Tree.restarts`.
        give_up: Whether this exit was one too many: all stop, and the supervisor with them.
    """

    stop: tuple[str, ...] = ()
    start: tuple[str, ...] = ()
    restarts: tuple[float, ...] = ()
    give_up: bool = False

    @property
    def next(self) -> str:
        """The plan in words, for `ExitReport.next`."""
        if self.give_up:
            return "its supervisor gives up"
        return "restarting" if self.start else "stays down"


def plan_exit(
    tree: Tree, exited: str, reason: ExitReason, *, now: float, counted: bool = False
) -> Plan:
    """Decide what follows from the exit of one child that nobody asked for.

    A start that fails during a restart is an exit like any other, with `InitFailed` or
    `InitTimedOut`: it counts, so a child that cannot start does not loop for ever.

    Args:
        tree: The supervisor as it was before the exit.
        exited: The id of the child. One that was removed meanwhile is no longer our business.
        reason: Why it ended.
        now: The time, in seconds, on the clock of `tree.restarts`.
        counted: A sibling that shared its process died of the same death, and that was counted:
            the death of a placement group is one event, however many children it ends.
    """
    child = next((c for c in tree.children if c.id == exited), None)
    if child is None or not _comes_back(child.restart, reason):
        return Plan(restarts=tree.restarts)

    # OTP's window: a restart exactly max_seconds ago still counts, and so does this one.
    recent = tuple(t for t in tree.restarts if now - t <= tree.max_seconds)
    if not counted:
        recent = (*recent, now)
    if len(recent) > tree.max_restarts:
        others = tuple(c.id for c in reversed(tree.children) if c is not child)
        return Plan(stop=others, restarts=recent, give_up=True)

    group = _group(tree, child)
    stop = tuple(c.id for c in reversed(group) if c is not child)
    # A temporary sibling goes down with its group and stays down; `child` is not temporary.
    start = tuple(c.id for c in group if c.restart != "temporary")
    return Plan(stop, start, recent)


def _comes_back(restart: Restart, reason: ExitReason) -> bool:
    match restart:
        case "permanent":
            return True
        case "transient":
            return is_abnormal(reason)
        case "temporary":
            return False
        case _:
            assert_never(restart)


def _group(tree: Tree, child: Child) -> tuple[Child, ...]:
    """Return those who share the fate of `child`, itself included, in start order."""
    match tree.strategy:
        case "one_for_one":
            return (child,)
        case "one_for_all":
            return tree.children
        case "rest_for_one":
            return tree.children[tree.children.index(child) :]
        case _:
            assert_never(tree.strategy)
