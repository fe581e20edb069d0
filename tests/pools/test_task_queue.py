"""`TaskQueue` against what it is to be: a list, sorted by priority and age."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from noex_mp.pools.options import TaskOptions
from noex_mp.pools.task_queue import TaskQueue


@dataclass(eq=False)
class Task:
    options: TaskOptions


PRIORITIES = st.integers(-2, 2)


class Queue(RuleBasedStateMachine):
    """Does the same to both."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: TaskQueue[Task] = TaskQueue()
        self.model: list[Task] = []

    @rule(priority=PRIORITIES)
    def append(self, priority: int) -> None:
        task = Task(TaskOptions(priority=priority))
        self.queue.append(task)
        behind = [t for t in self.model if t.options.priority >= priority]
        self.model.insert(len(behind), task)

    @rule(priority=PRIORITIES)
    def append_left(self, priority: int) -> None:
        task = Task(TaskOptions(priority=priority))
        self.queue.appendleft(task)
        before = [t for t in self.model if t.options.priority > priority]
        self.model.insert(len(before), task)

    @precondition(lambda self: self.model)
    @rule()
    def pop_left(self) -> None:
        assert self.queue.popleft() is self.model.pop(0)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(self.model))
        self.queue.remove(task)
        self.model.remove(task)

    @rule()
    def clear(self) -> None:
        self.queue.clear()
        self.model.clear()

    @invariant()
    def holds_the_same(self) -> None:
        assert list(self.queue) == self.model
        assert len(self.queue) == len(self.model)
        assert bool(self.queue) == bool(self.model)


TestQueue = Queue.TestCase
