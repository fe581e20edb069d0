"""Trees of real processes, with faults chosen by a seed, do what the model of a supervisor says."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest

from noex_mp import ChildSpec, MaxRestartsExceededError, Supervisor, child, named
from noex_mp.core.specs import Restart, Strategy
from noex_mp.testing.faults import (
    FailInit,
    Fault,
    FaultPlan,
    KillAtMessage,
    KillBeforeReply,
    KillInInit,
)
from tests.nodes.observed import ObservedNode
from tests.servers.journals import Journal
from tests.supervision.model import Described, DescribedSupervisor, Model, World

NAMES = "abcd"
MESSAGES = 24
CHANGES = ("started", "ready", "exited", "crashed")
PRELOAD = ["tests.servers.journals", "noex_mp.testing.faults"]


class FaultyWorld(World):
    """Where starts fail by plan."""

    def __init__(self, faults: dict[str, list[Fault]]) -> None:
        super().__init__()
        self.faults = faults
        self.tries: Counter[str] = Counter()

    def starts(self, who: str) -> bool:
        self.tries[who] += 1
        self.failing[who] = sum(
            isinstance(fault, FailInit | KillInInit)
            and fault.after < self.tries[who] <= fault.after + fault.times
            for fault in self.faults[who]
        )
        return super().starts(who)


class Scenario:
    """A tree, its faults, and what the model makes of them."""

    def __init__(self, strategy: Strategy, seed: int, max_restarts: int) -> None:
        self.random = random.Random(f"{strategy} {seed}")
        self.faults = {name: self._faults() for name in NAMES}
        a, b, c, d = (Described(name, self.random.choice(get_args(Restart))) for name in NAMES)
        inner = DescribedSupervisor(
            "inner",
            self.random.choice(["permanent", "transient"]),
            strategy=self.random.choice(get_args(Strategy)),
            max_restarts=1,
            max_failed_inits=max_restarts,
            seconds=60.0,
            children=(b, c),
        )
        self.described = DescribedSupervisor(
            "top",
            strategy=strategy,
            max_restarts=max_restarts,
            seconds=60.0,
            children=(a, inner, d),
        )
        self.world = FaultyWorld(self.faults)
        self.model = Model(self.described, self.world)
        assert self.model.begin()
        self._messages: Counter[str] = Counter()

    def _faults(self) -> list[Fault]:
        at = self.random.sample(range(1, 8), 2)
        failures: list[Fault] = [FailInit(times=2), KillInInit()]
        return [KillAtMessage(at[0]), KillBeforeReply(at[1]), self.random.choice(failures)]

    def message(self, name: str, *, leaves: bool) -> None:
        """Tell the model what a message leads to."""
        self._messages[name] += 1
        is_killed = any(
            isinstance(fault, KillAtMessage | KillBeforeReply) and fault.at == self._messages[name]
            for fault in self.faults[name]
        )
        if is_killed or leaves:
            self._supervisor_of(name).exit(name, "abnormal" if is_killed else "normal")

    def _supervisor_of(self, name: str) -> Model:
        if name in self.model.children:
            return self.model
        inner = self.model.children["inner"].inside
        assert inner is not None
        return inner

    @property
    def log(self) -> list[str]:
        """Who was started, with success or not, and who was stopped."""
        return [e.replace("!", "+") for e in self.world.log if e[1:] in NAMES]

    @property
    def up(self) -> list[str]:
        """Who runs."""
        return sorted(name for name in self.model.running() if name in NAMES)


def tree_of(
    described: DescribedSupervisor, faults: dict[str, list[Fault]], plan: FaultPlan, folder: Path
) -> Supervisor:
    def entry(each: Described) -> Supervisor | ChildSpec[Journal]:
        name = each.name
        if isinstance(each, DescribedSupervisor):
            return tree_of(each, faults, plan, folder)
        spec = child(Journal, str(folder / name))
        return plan.inject(spec.options(id=name, name=name, restart=each.restart), *faults[name])

    return Supervisor(
        *map(entry, described.children),
        id=described.name,
        restart=described.restart,
        strategy=described.strategy,
        max_restarts=described.max_restarts,
        max_failed_inits=described.max_failed_inits,
        max_seconds=described.seconds,
    )


def log_of(node: ObservedNode) -> list[str]:
    signs = {"started": "+", "stopping": "-"}
    servers = [event for event in node.seen if event.server in NAMES]
    return [signs[event.kind] + event.server for event in servers if event.kind in signs]


async def comes_to(node: ObservedNode, told: Scenario) -> None:
    # Until all are ready, too, or known to be dead: the model knows of nothing in between.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(10):
            await node.until(
                lambda: len(log_of(node)) >= len(told.log) and told.up == running_in(node)
            )
    assert log_of(node) == told.log


def running_in(node: ObservedNode) -> list[str]:
    last = {event.server: event.kind for event in node.seen if event.kind in CHANGES}
    return sorted(name for name in NAMES if last.get(name) == "ready")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", get_args(Strategy))
@pytest.mark.parametrize(("seed", "max_restarts"), [(1, 100), (2, 3), (3, 100)])
async def test_a_tree_does_what_the_model_says(
    tmp_path: Path, strategy: Strategy, seed: int, max_restarts: int
) -> None:
    told = Scenario(strategy, seed, max_restarts)
    with FaultPlan() as plan:
        tree = tree_of(told.described, told.faults, plan, tmp_path)
        async with ObservedNode(tree, preload=PRELOAD) as node:
            await comes_to(node, told)
            for number in range(MESSAGES):
                if told.world.over or not told.up:
                    break
                name = told.random.choice(told.up)
                leaves = told.random.random() < 0.2
                operation = Journal.step_down if leaves else Journal.keep
                # That it may fail is what this is about.
                await asyncio.gather(
                    operation(named(name, Journal).within(10), number), return_exceptions=True
                )
                told.message(name, leaves=leaves)
                await comes_to(node, told)
            if told.world.over:
                with pytest.raises(MaxRestartsExceededError):
                    await node.wait()
            if not told.world.over:
                states = {each["id"]: each["state"] for each in await node.ps()}
                assert sorted(n for n in states if states[n] == "running") == told.up
            assert {each.child for each in plan.happened()}
