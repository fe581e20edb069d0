"""Async operations: begun where their message arrives, and gone on with in the server's task."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from noex_mp import Ref, spawn
from tests.nodes.observed import ObservedNode, on_both_loops
from tests.servers.waiting import Waiting


@on_both_loops
async def test_the_current_task_is_the_servers_own_before_and_after_a_wait() -> None:
    async with ObservedNode():
        waiting = await spawn(Waiting)
        for _ in range(3):
            assert await Waiting.tasks_are_one(waiting)


async def test_async_operations_share_one_context() -> None:
    async with ObservedNode():
        waiting = await spawn(Waiting)
        assert await Waiting.recall(waiting) == "nothing"
        assert await Waiting.remember(waiting, "this") == "this"
        assert await Waiting.recall(waiting) == "this"


@on_both_loops
async def test_a_time_limit_inside_an_operation_works() -> None:
    async with ObservedNode():
        waiting = await spawn(Waiting)
        with pytest.raises(TimeoutError):
            await Waiting.give_up(waiting, 0.01)
        assert await Waiting.at_once(waiting, 7) == 7


@on_both_loops
async def test_a_task_group_inside_an_operation_works() -> None:
    async with ObservedNode():
        waiting = await spawn(Waiting)
        assert await Waiting.gather(waiting, 5) == [0, 1, 2, 3, 4]


async def test_a_cancellation_reaches_the_operation_at_its_first_wait() -> None:
    async with ObservedNode():
        waiting = await spawn(Waiting)
        assert await Waiting.cancel_itself(waiting) == "went on"
        assert await Waiting.at_once(waiting, 1) == 1


@pytest.mark.parametrize("wait", [True, False])
async def test_an_error_arrives_from_before_and_after_a_wait(wait: bool) -> None:
    async with ObservedNode():
        waiting = await spawn(Waiting)
        with pytest.raises(ValueError, match="as asked"):
            await Waiting.fail(waiting, wait=wait)
        assert await Waiting.at_once(waiting, 1) == 1


async def test_wrong_arguments_of_an_async_operation_are_the_callers_mistake() -> None:
    async with ObservedNode():
        waiting: Ref[Any] = await spawn(Waiting)
        for arguments in ((), (1, 2)):
            with pytest.raises(TypeError):
                await Waiting.at_once(waiting, *arguments)
        assert await Waiting.at_once(waiting, 1) == 1


@on_both_loops
async def test_an_operation_may_use_the_loops_own_streams() -> None:
    # On uvloop they receive into a buffer whose memory the worker has given back.
    async with ObservedNode():
        waiting = await spawn(Waiting)
        assert await Waiting.output_of(waiting, "echo", "hello") == b"hello\n"
        much = await Waiting.output_of(waiting, "head", "-c", "3000000", "/dev/zero")
        assert much == bytes(3_000_000)


@on_both_loops
async def test_messages_wait_for_an_operation_that_waits() -> None:
    async with ObservedNode():
        waiting = await spawn(Waiting)
        await asyncio.gather(
            Waiting.wait_a_turn_and_open(waiting),
            Waiting.pass_gate(waiting, "first"),
            Waiting.note(waiting, "between"),
            Waiting.pass_gate(waiting, "second"),
        )
        events = await Waiting.events(waiting)
        assert events == ["first comes", "first goes", "between", "second comes", "second goes"]
