"""Every outcome of every callback, in a real server."""

from __future__ import annotations

import asyncio

import pytest

from noex_mp import (
    Continue,
    NoServerError,
    ServerExitedError,
    Stop,
    TimeoutAfter,
    spawn,
    stop,
)
from tests.nodes.observed import ObservedNode, Whistles
from tests.servers.counters import Later, Pop, Push, Size, Stack, Turns


async def test_messages_go_to_the_callbacks() -> None:
    async with ObservedNode():
        stack = await spawn(Stack, "a", "b")
        assert await stack.call(Size()) == 2
        await stack.cast(Push("c"))
        assert await stack.call(Pop()) == "c"
        assert await stack.call(Size()) == 2


async def test_a_reply_may_come_later() -> None:
    async with ObservedNode():
        stack = await spawn(Stack)
        waiting = [stack.call(Later()) for _ in range(3)]
        assert await stack.call(Size()) == 0
        assert not any(call.done() for call in waiting)
        await stack.cast(Push("now"))
        assert await asyncio.gather(*waiting) == ["now"] * 3


async def test_a_reply_that_would_come_later_fails_with_the_server() -> None:
    async with ObservedNode() as node:
        stack = await spawn(Stack)
        waiting = stack.call(Later())
        assert await stack.call(Size()) == 0
        node.kill(stack)
        with pytest.raises(ServerExitedError):
            await waiting


async def test_a_reply_that_would_come_later_fails_when_the_server_is_stopped() -> None:
    async with ObservedNode():
        stack = await spawn(Stack)
        waiting = stack.call(Later())
        await stop(stack)
        with pytest.raises(ServerExitedError):
            await waiting


async def test_a_reply_may_stop_the_server() -> None:
    async with ObservedNode() as node:
        stack = await spawn(Stack, "last")
        assert await stack.call(Pop()) == "last"
        await node.event("exited", stack)
        with pytest.raises(NoServerError):
            await stack.call(Pop())


async def test_only_the_first_reply_counts() -> None:
    async with ObservedNode():
        turns = await spawn(Turns)
        assert [await Turns.twice(turns) for _ in range(3)] == [1, 1, 1]


async def test_init_may_continue_before_any_message() -> None:
    async with ObservedNode():
        turns = await spawn(Turns, Continue("work"))
        assert await Turns.all(turns) == ["init", ("continue", "work")]


@pytest.mark.slow
async def test_init_may_ask_for_a_timeout() -> None:
    async with ObservedNode():
        turns = await spawn(Turns, TimeoutAfter(0.01))
        # No message, or it would call the timeout off: the server itself waits.
        while "timeout" not in await Turns.after(turns, 0.05):
            # The first question came before its time; ask for another.
            assert "timeout" in await Turns.at_timeout(turns, 0.01)


@pytest.mark.parametrize("operation", ["reply_and", "reply_slowly_and"])
async def test_a_reply_may_continue(operation: str) -> None:
    async with ObservedNode():
        turns = await spawn(Turns)
        replying = getattr(Turns, operation)(turns, Continue(1))
        # What is continued comes before a message that waits.
        assert await Turns.all(turns) == ["init", ("continue", 1)]
        assert await replying == "reply"


async def test_a_cast_may_continue_and_stop() -> None:
    async with ObservedNode() as node:
        turns = await spawn(Turns)
        await Turns.then(turns, Continue("more"))
        assert await Turns.all(turns) == ["init", ("continue", "more")]
        await Turns.then(turns, Stop())
        await node.event("exited", turns)


async def test_a_continue_may_stop() -> None:
    async with ObservedNode() as node:
        turns = await spawn(Turns)
        assert await Turns.reply_and(turns, Continue("stop")) == "reply"
        await node.event("exited", turns)


@pytest.mark.parametrize("operation", ["reply_and", "reply_slowly_and"])
async def test_messages_behind_a_stop_are_not_handled(operation: str) -> None:
    async with ObservedNode():
        turns = await spawn(Turns)
        await Turns.all(turns)
        replying = getattr(Turns, operation)(turns, Stop())
        behind = [Turns.all(turns) for _ in range(5)]
        assert await replying == "reply"
        results = await asyncio.gather(*behind, return_exceptions=True)
        assert {type(r) for r in results} == {NoServerError}


async def test_a_timeout_comes_if_no_message_does() -> None:
    async with ObservedNode():
        turns = await spawn(Turns)
        assert await Turns.at_timeout(turns, 0.01) == ["init", "timeout"]
        # Once, and not again.
        assert await Turns.after(turns, 0.05) == ["init", "timeout"]


@pytest.mark.slow
async def test_a_message_calls_a_timeout_off() -> None:
    async with ObservedNode():
        turns = await spawn(Turns)
        await Turns.then(turns, TimeoutAfter(0.03))
        assert await Turns.after(turns, 0.1) == ["init"]


@pytest.mark.slow
async def test_a_message_that_waits_already_calls_a_timeout_off() -> None:
    async with ObservedNode():
        turns = await spawn(Turns)
        await Turns.all(turns)
        # Both are in the queue before the first is handled.
        Turns.reply_slowly_and(turns, TimeoutAfter(0.03))
        assert await Turns.after(turns, 0.1) == ["init"]


async def test_a_failed_terminate_does_not_keep_a_server(whistles: Whistles) -> None:
    async with ObservedNode() as node:
        from tests.servers.counters import Journal

        journal = await spawn(Journal, "/no/such/folder/journal")
        await stop(journal)
        assert not await journal.is_running()
        assert "No such file" in await node.line("No such file")
