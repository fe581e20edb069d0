"""Async operations: begun where their message arrives, and gone on with in the server's task."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from noex_mp import CallCycleError, Crash, Ref, ServerExitedError, spawn
from noex_mp.client import current
from tests.nodes.observed import (
    Whistles,
    on_both_loops,
    shared_node,
)
from tests.servers.waiting import Promising, Waiting

pytestmark = pytest.mark.usefixtures("shared_nodes")


@on_both_loops
async def test_the_current_task_is_the_servers_own_before_and_after_a_wait() -> None:
    async with shared_node():
        waiting = await spawn(Waiting)
        for _ in range(3):
            assert await Waiting.tasks_are_one(waiting)


async def test_async_operations_share_one_context() -> None:
    async with shared_node():
        waiting = await spawn(Waiting)
        assert await Waiting.recall(waiting) == "nothing"
        assert await Waiting.remember(waiting, "this") == "this"
        assert await Waiting.recall(waiting) == "this"


@on_both_loops
async def test_a_time_limit_inside_an_operation_works() -> None:
    async with shared_node():
        waiting = await spawn(Waiting)
        with pytest.raises(TimeoutError):
            await Waiting.give_up(waiting, 0.01)
        assert await Waiting.at_once(waiting, 7) == 7


@on_both_loops
async def test_a_task_group_inside_an_operation_works() -> None:
    async with shared_node():
        waiting = await spawn(Waiting)
        assert await Waiting.gather(waiting, 5) == [0, 1, 2, 3, 4]


async def test_a_cancellation_reaches_the_operation_at_its_first_wait() -> None:
    async with shared_node():
        waiting = await spawn(Waiting)
        assert await Waiting.cancel_itself(waiting) == "went on"
        assert await Waiting.at_once(waiting, 1) == 1


@pytest.mark.parametrize("wait", [True, False])
async def test_an_error_arrives_from_before_and_after_a_wait(wait: bool) -> None:
    async with shared_node():
        waiting = await spawn(Waiting)
        with pytest.raises(ValueError, match="as asked"):
            await Waiting.fail(waiting, wait=wait)
        assert await Waiting.at_once(waiting, 1) == 1


async def test_wrong_arguments_of_an_async_operation_are_the_callers_mistake() -> None:
    async with shared_node():
        waiting: Ref[Any] = await spawn(Waiting)
        for arguments in ((), (1, 2)):
            with pytest.raises(TypeError):
                await Waiting.at_once(waiting, *arguments)
        assert await Waiting.at_once(waiting, 1) == 1


@on_both_loops
async def test_an_operation_may_use_the_loops_own_streams() -> None:
    # On uvloop they receive into a buffer whose memory the worker has given back.
    async with shared_node():
        waiting = await spawn(Waiting)
        assert await Waiting.output_of(waiting, "echo", "hello") == b"hello\n"
        much = await Waiting.output_of(waiting, "head", "-c", "3000000", "/dev/zero")
        assert much == bytes(3_000_000)


@on_both_loops
async def test_messages_wait_for_an_operation_that_waits() -> None:
    async with shared_node():
        waiting = await spawn(Waiting)
        await asyncio.gather(
            Waiting.wait_a_turn_and_open(waiting),
            Waiting.pass_gate(waiting, "first"),
            Waiting.note(waiting, "between"),
            Waiting.pass_gate(waiting, "second"),
        )
        events = await Waiting.events(waiting)
        assert events == ["first comes", "first goes", "between", "second comes", "second goes"]


async def test_a_promise_of_a_plain_operation_still_belongs_to_its_call() -> None:
    async with shared_node():
        promising = await spawn(Promising)
        assert 0 < await Promising.time_left(promising.within(60)) <= 60


async def test_a_promise_of_a_plain_operation_is_cancelled_with_its_call(
    whistles: Whistles,
) -> None:
    async with shared_node():
        promising, begun = await spawn(Promising), whistles()
        pause = Promising.pause(promising.within(None), begun.path)
        await begun.heard()
        pause.cancel()
        assert await Promising.events(promising) == ["cancelled"]


async def test_a_promise_of_a_plain_operation_is_found_in_a_circle() -> None:
    async with shared_node():
        promising = await spawn(Promising)
        with pytest.raises(ServerExitedError) as failure:
            await Promising.ask_itself(promising.within(None))
        assert isinstance(failure.value.__cause__, CallCycleError)


async def test_a_promise_that_is_cancelled_before_its_turn_is_dropped() -> None:
    async with shared_node():
        promising = await spawn(Promising)
        await Promising.events(promising)
        # Both in one batch over there.
        first = Promising.events(promising)
        dropped = Promising.note_later(promising.within(None))
        route = current.client().route(promising.sid, promising.label)
        route.cancel(route.seq)
        assert await first == []
        assert await Promising.events(promising) == []
        dropped.cancel()


async def test_a_type_error_that_a_handler_waited_for_is_a_crash() -> None:
    async with shared_node():
        promising = await spawn(Promising)
        with pytest.raises(ServerExitedError) as failure:
            await Promising.fail(promising)
        assert failure.value.report.reason == Crash("TypeError", "its own")
