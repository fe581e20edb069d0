"""What a process is doing, by what the kernel and the process itself say of it."""

from __future__ import annotations

import doctest

import pytest

from noex_mp.core.reasons import Verdict
from noex_mp.supervision import verdict as module
from noex_mp.supervision.verdict import Answer, Look, is_worth_asking, judge

RUNS = Look("R", 1.0)
RAN_ON = Look("R", 1.02)


@pytest.mark.parametrize(
    ("before", "after", "answer", "verdict"),
    [
        (RUNS, RAN_ON, "runs", "python"),
        (RUNS, RAN_ON, "none", "c"),
        # It computes, and there was no CPU for it.
        (RUNS, RUNS, "runs", "python"),
        (RUNS, RUNS, "none", "c"),
        # Without real-time signals nobody can ask: it does compute.
        (Look("S", 1.0, "futex"), RAN_ON, "none", "c"),
        (Look("S", 1.0, "flock"), Look("S", 1.0, "flock"), "unasked", "blocked"),
        (Look("D", 1.0, "read"), Look("D", 1.0, "read"), "unasked", "blocked"),
        # A handler that calls select itself is blocked there; the loop of a server awaits.
        (Look("S", 1.0, "epoll_wait"), Look("S", 1.0, "epoll_wait"), "none", "blocked"),
        (Look("S", 1.0, "epoll_wait"), Look("S", 1.0, "epoll_wait"), "runs", "blocked"),
        (Look("S", 1.0, "epoll_wait"), Look("S", 1.0, "epoll_wait"), "waits", "waiting"),
        # Where the kernel does not tell the system call.
        (Look("S", 1.0), Look("S", 1.0), "waits", "waiting"),
        (Look("T", 1.0), Look("T", 1.0), "unasked", "stopped"),
        (RUNS, Look("T", 1.02), "unasked", "stopped"),
        (RUNS, Look("Z", 1.02), "unasked", "unknown"),
    ],
)
def test_the_verdict(before: Look, after: Look, answer: Answer, verdict: Verdict) -> None:
    assert judge(before, after, answer) == verdict


@pytest.mark.parametrize(
    ("after", "worth"),
    [
        (RAN_ON, True),
        (Look("S", 1.0, "epoll_wait"), True),
        (Look("S", 1.0), True),
        # A signal would interrupt what it is blocked in, and say nothing new.
        (Look("S", 1.0, "flock"), False),
        # It would not hear it.
        (Look("T", 1.0), False),
    ],
)
def test_only_what_python_code_alone_can_tell_is_asked_for(after: Look, *, worth: bool) -> None:
    assert is_worth_asking(RUNS, after) is worth


def test_the_examples_hold() -> None:
    assert doctest.testmod(module).failed == 0
