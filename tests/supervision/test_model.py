"""Random trees, exits and operations: the plans agree with OTP's rules, in a few lines.

The machine carries the plans out on names, as the root does on servers, and compares the outcome
with the model's after every step.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)

from noex_mp.core.reasons import (
    Crash,
    Exited,
    ExitReason,
    Hung,
    Killed,
    Linked,
    Normal,
    OutOfMemory,
    Shutdown,
    ShutdownTimedOut,
    Unknown,
)
from noex_mp.core.specs import AutoShutdown, OnOom, Restart, Strategy
from tests.supervision.carried_out import CarriedOut
from tests.supervision.model import Described, DescribedSupervisor, How, Model, World

# It computes for a few seconds, which take their time where a machine has other things to do.
pytestmark = pytest.mark.timeout(120)

NORMAL: list[ExitReason] = [Normal(), Shutdown("done"), Linked("orders", Shutdown())]
ABNORMAL: list[ExitReason] = [
    Killed("SIGKILL"),
    Crash("ValueError", "no"),
    Exited(0),
    OutOfMemory(),
    Hung(1.0),
    ShutdownTimedOut(5.0),
    Unknown("no status"),
    Linked("orders", Linked("visits", Exited(1))),
]


def how_of(reason: ExitReason) -> How:
    """Return what the model calls it."""
    if reason in NORMAL:
        return "normal"
    match reason:
        case OutOfMemory():
            return "out of memory"
        case Hung():
            return "hung"
        case _:
            return "abnormal"


RESTARTS = st.sampled_from(get_args(Restart))


@st.composite
def a_server(draw: st.DrawFn) -> Described:
    restart = draw(RESTARTS)
    # As the validation has it: only of a child that may end for good.
    significant = restart != "permanent" and draw(st.booleans())
    return Described("", restart, significant, draw(st.sampled_from(get_args(OnOom))))


DYNAMIC = st.builds(
    DescribedSupervisor,
    name=st.just(""),
    auto=st.sampled_from(get_args(AutoShutdown)),
    max_restarts=st.none() | st.integers(0, 3),
    dynamic=st.just(True),
    max_children=st.none() | st.integers(0, 2),
)


def a_supervisor(children: st.SearchStrategy[Described]) -> st.SearchStrategy[DescribedSupervisor]:
    return st.builds(
        _inside,
        a_server(),
        st.builds(
            DescribedSupervisor,
            name=st.just(""),
            strategy=st.sampled_from(get_args(Strategy)),
            auto=st.sampled_from(get_args(AutoShutdown)),
            max_restarts=st.none() | st.integers(0, 3),
            max_failed_inits=st.none() | st.integers(0, 3),
            max_ooms=st.none() | st.integers(0, 3),
            max_hangs=st.none() | st.integers(0, 3),
            seconds=st.sampled_from([1.0, 5.0]),
            children=st.lists(children, max_size=4).map(tuple),
        )
        | DYNAMIC,
    )


def _inside(outside: Described, inside: DescribedSupervisor) -> DescribedSupervisor:
    return replace(inside, restart=outside.restart, significant=outside.significant)


INNERMOST = a_supervisor(a_server())
INNER = a_supervisor(a_server() | INNERMOST)
TREES = a_supervisor(a_server() | INNER)


class Machine(RuleBasedStateMachine):
    """A tree whose plans are carried out, beside the model."""

    carried: CarriedOut
    model: Model

    def __init__(self) -> None:
        super().__init__()
        self.numbers = itertools.count(1)
        self.deaths = itertools.count(1)
        # What is around the model, and around what is carried out.
        self.theirs, self.ours = World(), World()

    # --- who is who ----------------------------------------------------------------------

    def named(self, shape: Described) -> Described:
        letter = "s" if isinstance(shape, DescribedSupervisor) else "c"
        new = replace(shape, name=f"{letter}{next(self.numbers)}")
        if isinstance(new, DescribedSupervisor):
            new = replace(new, children=tuple(self.named(each) for each in new.children))
        return new

    def supervisors(self) -> dict[str, Model]:
        """Return those that run, the topmost first."""

        def inside(model: Model) -> Iterator[Model]:
            yield model
            for child in model.children.values():
                if child.up and child.inside:
                    yield from inside(child.inside)

        return {model.described.name: model for model in inside(self.model)}

    def children(self, *, up: bool) -> dict[str, Model]:
        """Return whose children run, or are kept, by their names."""
        return {
            name: model
            for model in self.supervisors().values()
            for name, child in model.children.items()
            if child.up == up
        }

    def servers(self) -> list[str]:
        return [name for name in self.children(up=True) if name.startswith("c")]

    def lasting(self) -> list[str]:
        of = self.children(up=True)
        return [n for n in self.servers() if of[n].children[n].described.restart != "temporary"]

    def carried_of(self, model: Model) -> CarriedOut:
        name = model.described.name
        return next(each for each in self.carried.supervisors() if each.described.name == name)

    @property
    def runs(self) -> bool:
        return hasattr(self, "model") and not self.theirs.over

    # --- what happens --------------------------------------------------------------------

    @precondition(lambda self: not self.runs)
    @rule(shape=TREES)
    def begin(self, shape: DescribedSupervisor) -> None:
        self.theirs, self.ours = World(), World()
        described = self.named(shape)
        assert isinstance(described, DescribedSupervisor)
        self.model = Model(described, self.theirs)
        self.carried = CarriedOut(described, self.ours)
        assert self.model.begin()
        assert self.carried.begin() is None

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), shape=a_server() | INNERMOST)
    def start_child(self, data: st.DataObject, shape: Described) -> None:
        model = data.draw(st.sampled_from(list(self.supervisors().values())))
        carried, new = self.carried_of(model), self.named(shape)
        model.add(new)
        carried.add(new)

    @precondition(lambda self: self.runs and self.servers())
    @rule(data=st.data(), reason=st.sampled_from(NORMAL + ABNORMAL))
    def exit(self, data: st.DataObject, reason: ExitReason) -> None:
        self.end(data.draw(st.sampled_from(self.servers())), reason)

    @precondition(lambda self: self.runs and self.lasting())
    @rule(data=st.data(), part=st.sampled_from([1.0, 0.5, 1.5]))
    def exits_in_a_row(self, data: st.DataObject, part: float) -> None:
        who = data.draw(st.sampled_from(self.lasting()))
        seconds = self.children(up=True)[who].described.seconds
        self.end(who, Killed("SIGKILL"))
        self.wait(part * seconds)
        if self.runs and who in self.servers():
            self.end(who, Killed("SIGKILL"))

    @precondition(lambda self: self.runs and self.servers())
    @rule(data=st.data(), times=st.integers(1, 3))
    def restart_that_fails(self, data: st.DataObject, times: int) -> None:
        who = data.draw(st.sampled_from(self.servers()))
        other = data.draw(st.sampled_from(self.servers()))
        for world in (self.theirs, self.ours):
            world.failing[other] = times
        self.end(who, Killed("SIGKILL"))

    @precondition(lambda self: self.runs and len(self.servers()) > 1)
    @rule(data=st.data())
    def death_of_a_process_that_two_share(self, data: st.DataObject) -> None:
        pair = st.lists(st.sampled_from(self.servers()), min_size=2, max_size=2, unique=True)
        one, other = data.draw(pair)
        first, second = self.children(up=True)[one], self.children(up=True)[other]
        times, logged, death = first.times["restarts"], len(self.theirs.log), next(self.deaths)
        self.end(one, Killed("SIGKILL"), death=death)
        if self.runs and f"-{other}" not in self.theirs.log[logged:]:
            # Counted once, if the first of them was counted at all. One supervisor that gives up
            # over it is an end of its own for the supervisor above.
            counted = first is second and first.times["restarts"] != times
            self.end(other, Killed("SIGKILL"), death=death, counted=counted)

    def end(self, who: str, reason: ExitReason, *, death: int = 0, counted: bool = False) -> None:
        model = self.children(up=True)[who]
        carried = self.carried_of(model)
        model.exit(who, how_of(reason), counted=counted)
        carried.ended(who, reason, death=death)

    @precondition(lambda self: self.runs and self.children(up=True))
    @rule(data=st.data())
    def terminate_child(self, data: st.DataObject) -> None:
        who = data.draw(st.sampled_from(list(self.children(up=True))))
        model = self.children(up=True)[who]
        self.carried_of(model).terminate(who)
        model.terminate(who)

    @precondition(lambda self: self.runs and self.children(up=False))
    @rule(data=st.data(), fails=st.booleans())
    def restart_child(self, data: st.DataObject, fails: bool) -> None:
        who = data.draw(st.sampled_from(list(self.children(up=False))))
        model = self.children(up=False)[who]
        for world in (self.theirs, self.ours):
            world.failing[who] = int(fails)
        self.carried_of(model).start(who)
        model.start(who)

    @precondition(lambda self: self.runs and self.children(up=False))
    @rule(data=st.data())
    def delete_child(self, data: st.DataObject) -> None:
        who = data.draw(st.sampled_from(list(self.children(up=False))))
        model = self.children(up=False)[who]
        self.carried_of(model).forget(who)
        del model.children[who]

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), reason=st.sampled_from(ABNORMAL))
    def exit_of_one_that_was_deleted(self, data: st.DataObject, reason: ExitReason) -> None:
        model = data.draw(st.sampled_from(list(self.supervisors().values())))
        self.carried_of(model).ended("gone", reason)

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), part=st.sampled_from([0.25, 1.0, 1.0, 1.5]))
    def time_passes(self, data: st.DataObject, part: float) -> None:
        # Just as long as somebody's window, too: what was so long ago still counts.
        model = data.draw(st.sampled_from(list(self.supervisors().values())))
        self.wait(part * model.described.seconds)

    def wait(self, seconds: float) -> None:
        for world in (self.theirs, self.ours):
            world.now += seconds

    @precondition(lambda self: self.runs)
    @rule()
    def stop(self) -> None:
        self.carried.stop_all()
        self.ours.over = "stopped"
        self.model.finish("stopped")

    # --- what holds ----------------------------------------------------------------------

    @invariant()
    def plans_and_model_agree(self) -> None:
        assert self.ours == self.theirs
        if not self.runs:
            return
        carried = list(self.carried.supervisors())
        models = list(self.supervisors().values())
        assert [each.described for each in carried] == [each.described for each in models]
        for ours, theirs in zip(carried, models, strict=True):
            kept = [(each.id, not each.is_down) for each in ours.tree.children]
            assert kept == [(name, child.up) for name, child in theirs.children.items()]
            assert [list(times) for times in ours.tree.spent.values()] == list(
                theirs.times.values()
            )


TestPlansAgainstTheModel = Machine.TestCase
TestPlansAgainstTheModel.settings = settings(max_examples=100, stateful_step_count=20)
