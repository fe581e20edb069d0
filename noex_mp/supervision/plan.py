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

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias, TypeVar, assert_never

from noex_mp.core.reasons import (
    ExitReason,
    Hung,
    InitFailed,
    InitTimedOut,
    OutOfMemory,
    is_abnormal,
)
from noex_mp.core.specs import AutoShutdown, OnOom, Restart, Strategy

__all__ = ["BUDGETS", "Budget", "Child", "Plan", "Tree", "budget_of", "group_of", "plan_exit"]

Budget: TypeAlias = Literal["restarts", "failed_inits", "ooms", "hangs"]
"""In which budget a restart counts: those after a failed `init`, a lack of memory and a handler
that hung have one each."""

M = TypeVar("M")

BUDGETS: Final[tuple[Budget, ...]] = ("restarts", "failed_inits", "ooms", "hangs")


@dataclass(frozen=True)
class Child:
    """What a decision needs to know of one child.

    Attributes:
        id: What its supervisor calls it.
        restart: When it comes back.
        significant: Whether its end may end the supervisor.
        is_down: It has ended for good, or was terminated.
        on_oom: What follows when it has run out of memory.
    """

    id: str
    restart: Restart = "permanent"
    significant: bool = False
    is_down: bool = False
    on_oom: OnOom = "restart"


@dataclass(frozen=True)
class Tree:
    """A supervisor at one moment: its children and the restarts it remembers.

    Attributes:
        children: In the order in which they are started.
        strategy: Who is restarted with a child that died.
        auto_shutdown: When the end of significant children ends the supervisor.
        max_restarts: How many restarts are allowed (None: any number) ...
        max_seconds: ... within how many seconds.
        max_failed_inits: How many restarts may fail in `init`, likewise; None: `max_restarts`.
        max_ooms: How many may follow a lack of memory, likewise.
        max_hangs: How many may follow a handler that hung, likewise.
        restarts: When the last restarts were, oldest first, in seconds of the caller's clock.
        failed_inits: When the last restarts failed in `init`, likewise.
        ooms: When the last restarts after a lack of memory were, likewise.
        hangs: When those after a handler that hung were, likewise.
    """

    children: tuple[Child, ...]
    strategy: Strategy = "one_for_one"
    auto_shutdown: AutoShutdown = "never"
    max_restarts: int | None = 3
    max_seconds: float = 5.0
    max_failed_inits: int | None = None
    max_ooms: int | None = None
    max_hangs: int | None = None
    restarts: tuple[float, ...] = ()
    failed_inits: tuple[float, ...] = ()
    ooms: tuple[float, ...] = ()
    hangs: tuple[float, ...] = ()

    def limit_of(self, budget: Budget) -> int | None:
        """Return how many restarts of a kind it allows; None is any number."""
        limit: int | None = getattr(self, f"max_{budget}")
        return self.max_restarts if limit is None else limit

    @property
    def spent(self) -> dict[Budget, tuple[float, ...]]:
        """When the last restarts were, by their budget."""
        return {budget: getattr(self, budget) for budget in BUDGETS}

    def after(self, plan: Plan) -> Tree:
        """Return the same with the restarts that a plan remembers."""
        return replace(
            self,
            restarts=plan.restarts,
            failed_inits=plan.failed_inits,
            ooms=plan.ooms,
            hangs=plan.hangs,
        )


@dataclass(frozen=True)
class Plan:
    """What the supervisor does next: stop these, then start those.

    Attributes:
        stop: Ids to stop first, in this order. Stopping one that is not running does nothing.
        start: Ids to start then, in this order.
        restarts: The restarts to remember from now on: the next `Tree.restarts`.
        failed_inits: The failed ones, likewise.
        ooms: Those after a lack of memory, likewise.
        hangs: Those after a handler that hung, likewise.
        give_up: Whether this exit was one too many: all stop, and the supervisor with them.
        shut_down: Whether the work is done: all stop, and the supervisor with them.
    """

    stop: tuple[str, ...] = ()
    start: tuple[str, ...] = ()
    restarts: tuple[float, ...] = ()
    failed_inits: tuple[float, ...] = ()
    ooms: tuple[float, ...] = ()
    hangs: tuple[float, ...] = ()
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
    ever, and one that cannot reach its database for a moment uses up no restarts. So does a lack
    of memory, and a handler that hung.

    A child with `on_oom="escalate"` that has run out of memory is one too many at once.

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
        return _plan(tree.spent, _others(tree, child) if done else (), shut_down=done)

    budget = budget_of(reason)
    spent = tree.spent
    spent[budget] = _window(spent[budget], now, tree.max_seconds, counted=counted)
    limit = tree.limit_of(budget)
    escalates = budget == "ooms" and child.on_oom == "escalate"
    if escalates or (limit is not None and len(spent[budget]) > limit):
        return _plan(spent, _others(tree, child), give_up=True)

    group = group_of(tree.strategy, tree.children, child)
    stop = tuple(c.id for c in reversed(group) if c is not child)
    # A temporary sibling goes down with its group and stays down; `child` is not temporary. One
    # that had ended before is started again with the others, as in OTP, unless it was temporary.
    start = tuple(c.id for c in group if c.restart != "temporary")
    return _plan(spent, stop, start)


def _plan(
    spent: dict[Budget, tuple[float, ...]],
    stop: tuple[str, ...],
    start: tuple[str, ...] = (),
    *,
    give_up: bool = False,
    shut_down: bool = False,
) -> Plan:
    return Plan(
        stop,
        start,
        spent["restarts"],
        spent["failed_inits"],
        spent["ooms"],
        spent["hangs"],
        give_up,
        shut_down,
    )


def budget_of(reason: ExitReason) -> Budget:
    """Return in which budget a restart counts."""
    match reason:
        case InitFailed() | InitTimedOut():
            return "failed_inits"
        case OutOfMemory():
            return "ooms"
        case Hung():
            return "hangs"
        case _:
            return "restarts"


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


def group_of(strategy: Strategy, members: Sequence[M], member: M) -> Sequence[M]:
    """Return those who share the fate of a member, itself included, in start order.

    ```python
    >>> group_of("rest_for_one", "abcd", "b")
    'bcd'

    ```
    """
    match strategy:
        case "one_for_one":
            return (member,)
        case "one_for_all":
            return members
        case "rest_for_one":
            return members[members.index(member) :]
        case _:
            assert_never(strategy)
