"""The queue that drops its oldest: what is in it, and what that weighs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noex_mp.worker.weighed_queue import WeighedQueue

A: Any = "one sender"
B: Any = "another"


def queue_of(max_messages: int, max_bytes: int, *messages: tuple[Any, int]) -> WeighedQueue:
    queue = WeighedQueue(max_messages, max_bytes)
    for target, size in messages:
        queue.append((target, [size]))
        if size:
            queue.weigh(target, size)
    return queue


def keep_bounds(queue: WeighedQueue) -> list[int]:
    list(queue.drop_excess())
    return [item[0] for _, item in queue]


@pytest.mark.parametrize(
    ("messages", "kept"),
    [
        ([(A, 400_000), (A, 300_000), (A, 500_000)], [300_000, 500_000]),
        ([(A, 600_000), (B, 0), (B, 600_000)], [0, 600_000]),
        # One that weighs more than the whole mailbox goes alone, until there is a newer.
        ([(A, 0), (A, 5_000_000)], [5_000_000]),
        ([(A, 5_000_000), (A, 0)], [0]),
        ([(A, 0)] * 5, [0, 0, 0]),
    ],
)
def test_the_oldest_go_until_both_bounds_hold(
    messages: list[tuple[Any, int]], kept: list[int]
) -> None:
    assert keep_bounds(queue_of(3, 10**6, *messages)) == kept


def test_what_is_our_own_is_not_dropped() -> None:
    queue = queue_of(1, 10**6, (None, 0), (A, 1), (A, 2))
    assert keep_bounds(queue) == [0, 2]


def test_the_weight_of_what_has_begun_is_nobody_elses() -> None:
    queue = queue_of(3, 10**6, (A, 900_000))
    queue.popleft()
    queue.append((B, [0]))
    # What its sender tells comes late.
    queue.weigh(A, 900_000)
    assert not queue.is_over
    assert keep_bounds(queue) == [0]


def test_a_weight_that_is_none_changes_nothing() -> None:
    queue = queue_of(3, 10**6, (A, 0))
    nonsense: Any = "heavy"
    with pytest.raises(TypeError):
        queue.weigh(A, nonsense)
    assert queue.popleft() == (A, [0])


@given(
    steps=st.lists(
        st.one_of(st.integers(0, 10**6), st.sampled_from(["begin", "cancel", "clear"])), max_size=50
    )
)
def test_it_weighs_what_is_in_it(steps: list[int | str]) -> None:
    queue = WeighedQueue(3, 10**6)
    for step in steps:
        if isinstance(step, int):
            queue.append((A, [step]))
            if step >= 1000:
                queue.weigh(A, step)
        elif step == "clear":
            queue.clear()
        elif queue and step == "begin":
            queue.popleft()
        elif queue:
            del queue[len(queue) // 2]
        sizes = [item[0] for _, item in queue]
        # A small one counts as much as a sixth of the mailbox, and at most 16 KiB.
        weight = sum(size if size >= 1000 else 16384 for size in sizes)
        assert queue.is_over == (len(sizes) > 3 or weight > 10**6)
