"""What the root makes of plans, with servers that are only names; see `node/supervisor.py`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from noex_mp.core.reasons import ExitReason, InitFailed, InitTimedOut, Shutdown
from noex_mp.supervision.plan import Child, Plan, Tree, plan_exit
from tests.supervision.model import Described, DescribedSupervisor, World

__all__ = ["CarriedOut"]


class CarriedOut:
    """A supervisor that does what its plans say, with all that is in it.

    Attributes:
        tree: What it decides by.
        inside: The supervisors among its children.
    """

    def __init__(
        self, described: DescribedSupervisor, world: World, above: CarriedOut | None = None
    ) -> None:
        self.described = described
        self.world = world
        self.above = above
        self.tree = Tree(
            (),
            described.strategy,
            described.auto,
            described.max_restarts,
            described.seconds,
            described.max_failed_inits,
            described.max_ooms,
            described.max_hangs,
        )
        self.inside: dict[str, CarriedOut] = {}
        self._deaths: set[int] = set()

    def begin(self) -> ExitReason | None:
        """Start with those it is described with; return None, or why that failed."""
        self.tree = replace(self.tree, children=()).after(Plan())
        self._deaths.clear()
        self.inside.clear()
        for each in self.described.children:
            self._enter(each)
        for child in self.tree.children:
            if (failure := self.start(child.id)) is not None:
                self.stop_all()
                self.world.log.append(f"!{self.described.name}")
                return failure
        self.world.log.append(f"+{self.described.name}")
        return None

    def _enter(self, new: Described) -> None:
        # As the root has it: one that is about to start is not down.
        child = Child(new.name, new.restart, new.significant, is_down=True, on_oom=new.on_oom)
        self.tree = replace(self.tree, children=(*self.tree.children, child))
        if isinstance(new, DescribedSupervisor):
            self.inside[new.name] = CarriedOut(new, self.world, self)

    def start(self, who: str) -> ExitReason | None:
        """Start a child; return None, or why that failed."""
        if who in self.inside:
            failure = self.inside[who].begin()
        elif self.world.starts(who):
            failure = None
        else:
            # One is as good as the other.
            late = len(self.world.log) % 2
            failure = InitTimedOut(5.0) if late else InitFailed("no database")
        if failure is None:
            self._note(who, is_down=False)
        return failure

    def add(self, new: Described) -> None:
        """Start one more child, if there is room; if that fails, nothing has been."""
        if len(self.tree.children) == self.described.max_children:
            return
        self._enter(new)
        if self.start(new.name) is not None:
            self.forget(new.name)

    def ended(self, who: str, reason: ExitReason, *, death: int = 0) -> None:
        """Take the end of a child that ran.

        Args:
            death: Of which process, if others lived in it.
        """
        self._note(who, is_down=True)
        counted = death in self._deaths
        before, now = self.tree, self.world.now
        plan = plan_exit(before, who, reason, now=now, counted=counted)
        self.tree = before.after(plan)
        if self.tree != before and death:
            self._deaths.add(death)
        self._carry_out(plan)

    def _carry_out(self, plan: Plan) -> None:
        for each in plan.stop:
            self.stop(each)
        self._forget_the_ended(plan.start)
        if plan.give_up or plan.shut_down:
            # The root looks for those to start first.
            assert not plan.start
            how = "gave up" if plan.give_up else "shut down"
            if self.above is None:
                self.world.over = how
            else:
                self.above.ended(self.described.name, Shutdown(how))
            return
        for each in plan.start:
            if (failure := self.start(each)) is not None:
                self.ended(each, failure)
                return

    def terminate(self, who: str) -> None:
        """Stop a child because somebody wants it to."""
        self.stop(who)
        self._forget_the_ended()

    def stop(self, who: str) -> None:
        """Stop a child, if it runs."""
        if who not in self.running():
            return
        if who in self.inside:
            self.inside[who].stop_all()
        self.world.log.append(f"-{who}")
        self._note(who, is_down=True)

    def stop_all(self) -> None:
        """Stop the children, from right to left."""
        for child in reversed(self.tree.children):
            self.stop(child.id)

    def forget(self, who: str) -> None:
        """Keep nothing of a child."""
        kept = tuple(each for each in self.tree.children if each.id != who)
        self.tree = replace(self.tree, children=kept)
        self.inside.pop(who, None)

    def _forget_the_ended(self, restarting: tuple[str, ...] = ()) -> None:
        for each in self.tree.children:
            is_kept = not self.described.dynamic and each.restart != "temporary"
            if each.is_down and each.id not in restarting and not is_kept:
                self.forget(each.id)

    def _note(self, who: str, *, is_down: bool) -> None:
        children = tuple(
            replace(each, is_down=is_down) if each.id == who else each
            for each in self.tree.children
        )
        self.tree = replace(self.tree, children=children)

    def running(self) -> list[str]:
        """Return which of its children run."""
        return [each.id for each in self.tree.children if not each.is_down]

    def supervisors(self) -> Iterator[CarriedOut]:
        """Yield itself and all that run in it."""
        yield self
        for name, inner in self.inside.items():
            if name in self.running():
                yield from inner.supervisors()
