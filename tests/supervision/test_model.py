"""Random supervisors, exits and operations: the plans agree with OTP's rules, in a few lines.

The machine carries the plans out on a second set of children, as the root
does, and compares the two after every step.
"""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from noex_mp.core.reasons import (
    Crash,
    Exited,
    ExitReason,
    InitFailed,
    InitTimedOut,
    Killed,
    Normal,
    Shutdown,
)
from noex_mp.core.specs import AutoShutdown, Restart, Strategy
from noex_mp.supervision.plan import Child, Plan, Tree, plan_exit
from noex_mp.supervision.shutdown import plan_shutdown
from tests.supervision.model import Model

NORMAL: list[ExitReason] = [Normal(), Shutdown("done")]
ABNORMAL: list[ExitReason] = [Killed("SIGKILL"), Crash("ValueError", "no"), Exited(0)]
NOT_STARTED: list[ExitReason] = [InitFailed("no database"), InitTimedOut(5.0)]


class Machine(RuleBasedStateMachine):
    """A supervisor whose plans are carried out, beside the model."""

    tree: Tree
    model: Model

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.names = 0
        self.log: list[str] = []
        self.over = ""
        self.dead: tuple[str, ExitReason] | None = None

    # --- the other side: what the root does with a plan ----------------------------------

    def carry_out(self, plan: Plan) -> None:
        for each in plan.stop:
            self.set_down(each, said=True)
        for each in plan.start:
            self.log.append(f"+{each}")
        children = tuple(
            replace(each, is_down=False) if each.id in plan.start else each
            for each in self.tree.children
        )
        self.tree = replace(
            self.tree, children=children, restarts=plan.restarts, failed_inits=plan.failed_inits
        )
        if plan.give_up or plan.shut_down:
            self.over = "gave up" if plan.give_up else "shut down"
        self.drop_temporary()

    def set_down(self, who: str, *, said: bool) -> None:
        for each in self.tree.children:
            if each.id == who and not each.is_down:
                if said:
                    self.log.append(f"-{who}")
                self.replace_child(replace(each, is_down=True))

    def replace_child(self, new: Child) -> None:
        children = tuple(new if each.id == new.id else each for each in self.tree.children)
        self.tree = replace(self.tree, children=children)

    def drop_temporary(self) -> None:
        kept = (c for c in self.tree.children if c.restart != "temporary" or not c.is_down)
        self.tree = replace(self.tree, children=tuple(kept))

    def running(self) -> list[str]:
        return [each.id for each in self.tree.children if not each.is_down]

    # --- what happens --------------------------------------------------------------------

    @initialize(
        strategy=st.sampled_from(get_args(Strategy)),
        auto=st.sampled_from(get_args(AutoShutdown)),
        max_restarts=st.integers(0, 4),
        max_failed_inits=st.none() | st.integers(0, 4),
        seconds=st.sampled_from([1.0, 5.0]),
    )
    def begin(
        self,
        strategy: Strategy,
        auto: AutoShutdown,
        max_restarts: int,
        max_failed_inits: int | None,
        seconds: float,
    ) -> None:
        self.tree = Tree((), strategy, auto, max_restarts, seconds, max_failed_inits)
        failed = max_restarts if max_failed_inits is None else max_failed_inits
        limits = {"restarts": max_restarts, "failed inits": failed}
        self.model = Model(strategy, auto, limits, seconds)

    @precondition(lambda self: not self.over)
    @rule(restart=st.sampled_from(get_args(Restart)), significant=st.booleans())
    def start_child(self, restart: Restart, significant: bool) -> None:
        self.names += 1
        name = f"c{self.names}"
        # As the validation has it: only of a child that may end for good.
        significant = significant and restart != "permanent"
        child = Child(name, restart, significant=significant)
        self.tree = replace(self.tree, children=(*self.tree.children, child))
        self.log.append(f"+{name}")
        self.model.restart[name] = restart
        self.model.significant |= {name} if significant else set()
        self.model.start(name)

    @precondition(lambda self: not self.over and self.running())
    @rule(data=st.data(), reason=st.sampled_from(NORMAL + ABNORMAL))
    def exit(self, data: st.DataObject, reason: ExitReason) -> None:
        self.end(data.draw(st.sampled_from(self.running())), reason)

    @precondition(lambda self: not self.over and self.running())
    @rule(data=st.data(), fails=st.lists(st.sampled_from(NOT_STARTED), max_size=3))
    def restart_that_fails(self, data: st.DataObject, fails: list[ExitReason]) -> None:
        who = data.draw(st.sampled_from(self.running()))
        for reason in [Killed("SIGKILL"), *fails]:
            if self.over or who not in self.running():
                break
            self.end(who, reason)

    @precondition(lambda self: not self.over and len(self.running()) > 1)
    @rule(data=st.data())
    def death_of_a_process_that_two_share(self, data: st.DataObject) -> None:
        one, other = data.draw(
            st.lists(st.sampled_from(self.running()), min_size=2, max_size=2, unique=True)
        )
        before = self.tree.restarts
        self.end(one, Killed("SIGKILL"))
        if not self.over and other in self.running():
            # Counted once, if the first of them was counted at all.
            self.end(other, Killed("SIGKILL"), counted=self.tree.restarts != before)

    def end(self, who: str, reason: ExitReason, *, counted: bool = False) -> None:
        self.set_down(who, said=False)
        self.carry_out(plan_exit(self.tree, who, reason, now=self.now, counted=counted))
        self.model.exit(
            who,
            normal=reason in NORMAL,
            now=self.now,
            in_init=reason in NOT_STARTED,
            counted=counted,
        )

    @precondition(lambda self: not self.over and self.running())
    @rule(data=st.data())
    def terminate_child(self, data: st.DataObject) -> None:
        who = data.draw(st.sampled_from(self.running()))
        self.set_down(who, said=True)
        self.drop_temporary()
        self.model.take_down([who])
        if self.model.restart[who] == "temporary":
            self.model.forget(who)

    @precondition(lambda self: not self.over and len(self.running()) < len(self.tree.children))
    @rule(data=st.data(), again=st.booleans())
    def restart_or_delete_child(self, data: st.DataObject, again: bool) -> None:
        down = [each for each in self.tree.children if each.is_down]
        child = data.draw(st.sampled_from(down))
        if again:
            self.log.append(f"+{child.id}")
            self.replace_child(replace(child, is_down=False))
            self.model.start(child.id)
        else:
            kept = tuple(each for each in self.tree.children if each is not child)
            self.tree = replace(self.tree, children=kept)
            self.model.forget(child.id)

    @precondition(lambda self: not self.over)
    @rule(reason=st.sampled_from(ABNORMAL))
    def exit_of_one_that_was_deleted(self, reason: ExitReason) -> None:
        self.carry_out(plan_exit(self.tree, "gone", reason, now=self.now))

    @rule(part=st.sampled_from([0.25, 1.0, 1.0, 1.5]))
    def time_passes(self, part: float) -> None:
        # Just as long as the window, too: what was so long ago still counts.
        self.now += part * self.tree.max_seconds

    @precondition(lambda self: not self.over)
    @rule()
    def stop(self) -> None:
        limits = [(each.id, 5.0) for each in self.tree.children if not each.is_down]
        for wave in plan_shutdown(limits):
            for stop in wave:
                self.set_down(stop.id, said=True)
        self.over = "stopped"
        self.model.finish("stopped")

    # --- what holds ----------------------------------------------------------------------

    @invariant()
    def plan_and_model_agree(self) -> None:
        if not hasattr(self, "model"):
            return
        assert self.log == self.model.log
        assert self.over == self.model.over
        assert set(self.running()) == self.model.up
        if not self.over:
            assert [each.id for each in self.tree.children] == list(self.model.restart)
            assert list(self.tree.restarts) == self.model.times["restarts"]
            assert list(self.tree.failed_inits) == self.model.times["failed inits"]


TestPlansAgainstTheModel = Machine.TestCase
TestPlansAgainstTheModel.settings = settings(max_examples=150, stateful_step_count=25)
