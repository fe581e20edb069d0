"""What follows from the exit of a child, after OTP's `supervisor`.

```python
>>> from noex_mp.core.reasons import Killed
>>> tree = Tree((Child("orders"), Child("visits", "transient")))
>>> plan_exit(tree, "visits", Killed("SIGKILL"), now=17.0).start
('visits',)

```

`node/branches.py` reads the clock, calls `plan_exit` and keeps `plan.restarts` for the next time;
`node/restarts.py` carries the plan out. They decide nothing. Promise: no I/O, no state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from noex_mp.core.reasons import ExitReason, InitFailed, InitTimedOut, is_abnormal
from noex_mp.core.specs import AutoShutdown, Restart, Strategy

__all__ = ["Child", "Plan", "Tree", "plan_exit"]


@dataclass(frozen=True)
class Child:
    """What a decision needs to know of one child.

    Attributes:
        id: What its supervisor calls it.
        restart: When it comes back.
        significant: Whether its end may end the supervisor.
        is_down: It has ended for good, or was terminated.
    """

    id: str
    restart: Restart = "permanent"
    significant: bool = False
    is_down: bool = False


@dataclass(frozen=True)
class Tree:
    """A supervisor at one moment: its children and the restarts it remembers.

    Attributes:
        children: In the order in which they are started.
        strategy: Who is restarted with a child that died.
        auto_shutdown: When the end of significant children ends the supervisor.
        max_restarts: How many restarts are allowed ...
        max_seconds: ... within how many seconds.
        max_failed_inits: How many restarts may fail in `init`, likewise; None: `max_restarts`.
        restarts: When the last restarts were, oldest first, in seconds of the caller's clock.
        failed_inits: When the last restarts failed in `init`, likewise.
    """

    children: tuple[Child, ...]
    strategy: Strategy = "one_for_one"
    auto_shutdown: AutoShutdown = "never"
    max_restarts: int = 3
    max_seconds: float = 5.0
    max_failed_inits: int | None = None
    restarts: tuple[float, ...] = ()
    failed_inits: tuple[float, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What the supervisor does next: stop these, then start those.

    Attributes:
        stop: Ids to stop first, in this order. Stopping one that is not running does nothing.
        start: Ids to start then, in this order.
        restarts: The restarts to remember from now on: the next `Tree.restarts`.
        failed_inits: The failed ones, likewise.
        give_up: Whether this exit was one too many: all stop, and the supervisor with them.
        shut_down: Whether the work is done: all stop, and the supervisor with them.
    """

    stop: tuple[str, ...] = ()
    start: tuple[str, ...] = ()
    restarts: tuple[float, ...] = ()
    failed_inits: tuple[float, ...] = ()
    give_up: bool = False
    shut_down: bool = False

    @property
    def next(self) -> str:
        """The plan in words, for `ExitReport.next`."""
        if self.give_up:
            return "its supervisor gives up"
        if self.shut_down:
            return "its supervisor shuts down"
        if len(self.start) > 1:
            return f"restarting with {len(self.start) - 1} of its siblings"
        return "restarting" if self.start else "stays down"


def plan_exit(
    tree: Tree, exited: str, reason: ExitReason, *, now: float, counted: bool = False
) -> Plan:
    """Decide what follows from the exit of one child that nobody asked for.

    A start that fails during a restart is an exit like any other, with `InitFailed` or
    `InitTimedOut`. It counts, in a budget of its own: a child that cannot start does not loop for
    ever, and one that cannot reach its database for a moment uses up no restarts.

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
        done = child is not None and _is_done(tree, child)
        return Plan(
            stop=_others(tree, child) if done else (),
            restarts=tree.restarts,
            failed_inits=tree.failed_inits,
            shut_down=done,
        )

    restarts, failed = tree.restarts, tree.failed_inits
    if isinstance(reason, InitFailed | InitTimedOut):
        limit = tree.max_restarts if tree.max_failed_inits is None else tree.max_failed_inits
        failed = counted_in = _window(failed, now, tree.max_seconds, counted=counted)
    else:
        limit = tree.max_restarts
        restarts = counted_in = _window(restarts, now, tree.max_seconds, counted=counted)
    if len(counted_in) > limit:
        return Plan(_others(tree, child), (), restarts, failed, give_up=True)

    group = _group(tree, child)
    stop = tuple(c.id for c in reversed(group) if c is not child)
    # A temporary sibling goes down with its group and stays down; `child` is not temporary. One
    # that had ended before is started again with the others, as in OTP, unless it was temporary.
    start = tuple(c.id for c in group if c.restart != "temporary")
    return Plan(stop, start, restarts, failed)


def _window(
    times: tuple[float, ...], now: float, max_seconds: float, *, counted: bool
) -> tuple[float, ...]:
    # OTP's window: a restart exactly max_seconds ago still counts, and so does this one.
    recent = tuple(t for t in times if now - t <= max_seconds)
    return recent if counted else (*recent, now)


def _others(tree: Tree, child: Child | None) -> tuple[str, ...]:
    return tuple(c.id for c in reversed(tree.children) if c is not child)


def _is_done(tree: Tree, child: Child) -> bool:
    """Return whether the end of `child`, which does not come back, ends the supervisor."""
    if not child.significant:
        return False
    match tree.auto_shutdown:
        case "never":
            return False
        case "any_significant":
            return True
        case "all_significant":
            return all(c.is_down for c in tree.children if c.significant and c is not child)
        case _:
            assert_never(tree.auto_shutdown)


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
