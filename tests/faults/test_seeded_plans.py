"""Trees of real processes, with faults chosen by a seed, do what the model of a supervisor says."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest

from noex_mp import MaxRestartsExceededError, Supervisor, child, named
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
from tests.supervision.model import Model

NAMES = "abcd"
MESSAGES = 24
CHANGES = ("started", "ready", "exited", "crashed")
PRELOAD = ["tests.servers.journals", "noex_mp.testing.faults"]


class Scenario:
    """A tree, its faults, and what the model makes of them."""

    def __init__(self, strategy: Strategy, seed: int, max_restarts: int) -> None:
        self.random = random.Random(f"{strategy} {seed}")
        self.model = Model(
            strategy, "never", {"restarts": max_restarts, "failed inits": max_restarts}, 60.0
        )
        self.faults = {name: self._faults(strategy) for name in NAMES}
        self.messages: Counter[str] = Counter()
        self.starts: Counter[str] = Counter()
        self._told = 0
        for name in NAMES:
            self.model.restart[name] = self.random.choice(get_args(Restart))
            self.model.start(name)
        self._count_starts()

    def _faults(self, strategy: Strategy) -> list[Fault]:
        at = self.random.sample(range(1, 8), 2)
        faults: list[Fault] = [KillAtMessage(at[0]), KillBeforeReply(at[1])]
        if strategy == "one_for_one":
            # In a group, who starts after one that fails is the root's own affair.
            failures: list[Fault] = [FailInit(times=2), KillInInit()]
            faults.append(self.random.choice(failures))
        return faults

    def message(self, name: str, *, leaves: bool) -> None:
        """Tell the model what a message leads to."""
        self.messages[name] += 1
        is_killed = any(
            isinstance(fault, KillAtMessage | KillBeforeReply) and fault.at == self.messages[name]
            for fault in self.faults[name]
        )
        if is_killed or leaves:
            self._exit(name, normal=not is_killed, in_init=False)

    def _exit(self, name: str, *, normal: bool, in_init: bool) -> None:
        self.model.exit(name, normal=normal, now=0.0, in_init=in_init, counted=False)
        self._count_starts()
        if name in self.model.up and self._start_fails(name):
            self._exit(name, normal=False, in_init=True)

    def _count_starts(self) -> None:
        new, self._told = self.model.log[self._told :], len(self.model.log)
        self.starts.update(entry[1:] for entry in new if entry.startswith("+"))

    def _start_fails(self, name: str) -> bool:
        return any(
            isinstance(fault, FailInit | KillInInit)
            and fault.after < self.starts[name] <= fault.after + fault.times
            for fault in self.faults[name]
        )


def log_of(node: ObservedNode) -> list[str]:
    signs = {"started": "+", "stopping": "-"}
    servers = [event for event in node.seen if event.server in NAMES]
    return [signs[event.kind] + event.server for event in servers if event.kind in signs]


async def comes_to(node: ObservedNode, model: Model) -> None:
    # Until all are ready, too, or known to be dead: the model knows of nothing in between.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(10):
            await node.until(
                lambda: len(log_of(node)) >= len(model.log) and model.up == running_in(node)
            )
    assert log_of(node) == model.log


def running_in(node: ObservedNode) -> set[str]:
    last = {event.server: event.kind for event in node.seen if event.kind in CHANGES}
    return {server for server, kind in last.items() if kind == "ready"}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", get_args(Strategy))
@pytest.mark.parametrize(("seed", "max_restarts"), [(1, 100), (2, 3)])
async def test_a_tree_does_what_the_model_says(
    tmp_path: Path, strategy: Strategy, seed: int, max_restarts: int
) -> None:
    told = Scenario(strategy, seed, max_restarts)
    model = told.model
    with FaultPlan() as plan:
        specs = [
            plan.inject(
                child(Journal, str(tmp_path / name)).options(
                    id=name, name=name, restart=model.restart[name]
                ),
                *told.faults[name],
            )
            for name in NAMES
        ]
        tree = Supervisor(*specs, strategy=strategy, max_restarts=max_restarts, max_seconds=60.0)
        async with ObservedNode(tree, preload=PRELOAD) as node:
            await comes_to(node, model)
            for number in range(MESSAGES):
                if model.over or not model.up:
                    break
                name = told.random.choice(sorted(model.up))
                leaves = told.random.random() < 0.2
                operation = Journal.step_down if leaves else Journal.keep
                # That it may fail is what this is about.
                await asyncio.gather(
                    operation(named(name, Journal).within(10), number), return_exceptions=True
                )
                told.message(name, leaves=leaves)
                await comes_to(node, model)
            if model.over:
                with pytest.raises(MaxRestartsExceededError):
                    await node.wait()
            for name in sorted(model.up):
                assert await Journal.os_pid(named(name, Journal).within(10))
            assert {each.child for each in plan.happened()}
