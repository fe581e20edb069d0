"""Every outcome of every callback, in a real server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from noex_mp import (
    CallTimedOutError,
    Continue,
    Crash,
    Ignore,
    InitFailedError,
    Normal,
    NoServerError,
    ServerExitedError,
    Stop,
    Supervisor,
    TimeoutAfter,
    UnknownOperationError,
    child,
    named,
    send_after,
    spawn,
    stop,
)
from tests.nodes.observed import (
    ObservedNode,
    Whistles,
    shared_node,
)
from tests.servers.answering import Choosy, Mistaken, Starting
from tests.servers.counters import Journal, Later, Pop, Push, Size, Stack, Turns

pytestmark = pytest.mark.usefixtures("shared_nodes")


async def test_messages_go_to_the_callbacks() -> None:
    async with shared_node():
        stack = await spawn(Stack, "a", "b")
        assert await stack.call(Size()) == 2
        await stack.cast(Push("c"))
        assert await stack.call(Pop()) == "c"
        assert await stack.call(Size()) == 2


async def test_a_reply_may_come_later() -> None:
    async with shared_node():
        stack = await spawn(Stack)
        waiting = [stack.call(Later()) for _ in range(3)]
        assert await stack.call(Size()) == 0
        assert not any(call.done() for call in waiting)
        await stack.cast(Push("now"))
        assert await asyncio.gather(*waiting) == ["now"] * 3


async def test_a_reply_that_would_come_later_fails_with_the_server() -> None:
    async with shared_node() as node:
        stack = await spawn(Stack)
        waiting = stack.call(Later())
        assert await stack.call(Size()) == 0
        node.kill(stack)
        with pytest.raises(ServerExitedError):
            await waiting


async def test_a_reply_that_would_come_later_fails_when_the_server_is_stopped() -> None:
    async with shared_node():
        stack = await spawn(Stack)
        waiting = stack.call(Later())
        await stop(stack)
        with pytest.raises(ServerExitedError):
            await waiting


async def test_a_reply_may_stop_the_server() -> None:
    async with shared_node() as node:
        stack = await spawn(Stack, "last")
        assert await stack.call(Pop()) == "last"
        await node.event("exited", stack)
        with pytest.raises(NoServerError):
            await stack.call(Pop())


async def test_only_the_first_reply_counts() -> None:
    async with shared_node():
        turns = await spawn(Turns)
        assert [await Turns.twice(turns) for _ in range(3)] == [1, 1, 1]


async def test_init_may_continue_before_any_message() -> None:
    async with shared_node():
        turns = await spawn(Turns, Continue("work"))
        assert await Turns.all(turns) == ["init", ("continue", "work")]


@pytest.mark.slow
async def test_init_may_ask_for_a_timeout() -> None:
    async with shared_node():
        turns = await spawn(Turns, TimeoutAfter(0.01))
        # No message, or it would call the timeout off: the server itself waits.
        while "timeout" not in await Turns.after(turns, 0.05):
            # The first question came before its time; ask for another.
            assert "timeout" in await Turns.at_timeout(turns, 0.01)


@pytest.mark.parametrize("operation", ["reply_and", "reply_slowly_and"])
async def test_a_reply_may_continue(operation: str) -> None:
    async with shared_node():
        turns = await spawn(Turns)
        replying = getattr(Turns, operation)(turns, Continue(1))
        # What is continued comes before a message that waits.
        assert await Turns.all(turns) == ["init", ("continue", 1)]
        assert await replying == "reply"


async def test_a_cast_may_continue_and_stop() -> None:
    async with shared_node() as node:
        turns = await spawn(Turns)
        await Turns.then(turns, Continue("more"))
        assert await Turns.all(turns) == ["init", ("continue", "more")]
        await Turns.then(turns, Stop())
        await node.event("exited", turns)


async def test_a_continue_may_stop() -> None:
    async with shared_node() as node:
        turns = await spawn(Turns)
        assert await Turns.reply_and(turns, Continue("stop")) == "reply"
        await node.event("exited", turns)


@pytest.mark.parametrize("operation", ["reply_and", "reply_slowly_and"])
async def test_messages_behind_a_stop_are_not_handled(operation: str) -> None:
    async with shared_node():
        turns = await spawn(Turns)
        await Turns.all(turns)
        replying = getattr(Turns, operation)(turns, Stop())
        behind = [Turns.all(turns) for _ in range(5)]
        assert await replying == "reply"
        results = await asyncio.gather(*behind, return_exceptions=True)
        assert {type(r) for r in results} == {NoServerError}


async def test_a_timeout_comes_if_no_message_does() -> None:
    async with shared_node():
        turns = await spawn(Turns)
        assert await Turns.at_timeout(turns, 0.01) == ["init", "timeout"]
        # Once, and not again.
        assert await Turns.after(turns, 0.05) == ["init", "timeout"]


@pytest.mark.slow
async def test_a_message_calls_a_timeout_off() -> None:
    async with shared_node():
        turns = await spawn(Turns)
        await Turns.then(turns, TimeoutAfter(0.03))
        assert await Turns.after(turns, 0.1) == ["init"]


@pytest.mark.slow
async def test_a_message_that_waits_already_calls_a_timeout_off() -> None:
    async with shared_node():
        turns = await spawn(Turns)
        await Turns.all(turns)
        # Both are in the queue before the first is handled.
        Turns.reply_slowly_and(turns, TimeoutAfter(0.03))
        assert await Turns.after(turns, 0.1) == ["init"]


async def test_a_failed_terminate_does_not_keep_a_server(whistles: Whistles) -> None:
    async with shared_node() as node:
        journal = await spawn(Journal, "/no/such/folder/journal")
        await stop(journal)
        assert not await journal.is_running()
        assert "No such file" in await node.line("No such file")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["unknown", "wrong arguments", "out of time"])
async def test_a_message_that_is_refused_calls_no_timeout_off(how: str) -> None:
    async with shared_node():
        turns = await spawn(Turns)
        timeout = Turns.at_timeout(turns, 0.05)
        if how == "unknown":
            with pytest.raises(UnknownOperationError):
                await turns.call("what is that")
        elif how == "wrong arguments":
            with pytest.raises(TypeError):
                await Turns.all(turns, "too", "many")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        else:
            with pytest.raises(CallTimedOutError):
                await Turns.all(turns.within(1e-6))
        assert await timeout == ["init", "timeout"]


async def test_a_restart_that_says_ignore_goes_on_without_the_server(tmp_path: Path) -> None:
    tree = Supervisor(
        child(Choosy, str(tmp_path / "there")).options(name="choosy"),
        child(Stack, "a").options(name="stack"),
        max_restarts=1,
    )
    async with ObservedNode(tree) as node:
        with pytest.raises(ServerExitedError):
            await Choosy.crash(named("choosy", Choosy))
        event = await node.event("exited")
        assert event.server == "choosy"
        assert event.report is not None
        assert event.report.next == "stays down"
        with pytest.raises(NoServerError):
            await Choosy.crash(named("choosy", Choosy))
        assert await named("stack", Stack).call(Size()) == 1
        assert not [event for event in node.seen if event.kind == "gave_up"]


@pytest.mark.parametrize("placement", [None, "together"])
async def test_a_start_that_is_stopped_as_normal_has_failed(
    placement: str | None, whistles: Whistles
) -> None:
    coming, going = whistles(), whistles()
    async with shared_node():
        spec = child(Starting, coming.path, going.path)
        starting = asyncio.ensure_future(spawn(spec.options(name="x", placement=placement)))
        await coming.heard()
        await stop(named("x", Starting), reason=Normal())
        with pytest.raises(InitFailedError, match="stopped normally"):
            await starting


async def test_a_wrong_outcome_of_init_fails_the_start() -> None:
    async with shared_node():
        with pytest.raises(InitFailedError, match="init returned 5; it may return None, Continue"):
            await spawn(Mistaken, "init")


@pytest.mark.parametrize("place", ["get", "get_slowly"])
async def test_a_call_that_returns_what_is_for_init_is_a_crash(place: str) -> None:
    async with shared_node():
        mistaken = await spawn(Mistaken, place, Ignore())
        operation = Mistaken.get if place == "get" else Mistaken.get_slowly
        with pytest.raises(ServerExitedError) as failure:
            await operation(mistaken.within(None))
        reason = failure.value.report.reason
        assert isinstance(reason, Crash)
        assert reason.message.startswith(f"{place} returned Ignore(); it may return a value, Reply")


@pytest.mark.parametrize("place", ["handle_continue", "handle_info", "another's", "reply_and"])
async def test_a_wrong_outcome_is_a_crash_and_no_message(place: str) -> None:
    async with shared_node() as node:
        name = "handle_info" if place == "another's" else place
        spec = child(Mistaken, name).options(restart="temporary")
        mistaken = await node.spawn(spec)
        match place:
            case "handle_info":
                await Mistaken.remind(mistaken)
            case "another's":
                send_after(mistaken, "hello", 0)
            case "reply_and":
                assert await Mistaken.reply_and(mistaken) == 1
            case _:
                pass
        await node.event("crashed", mistaken)
        with pytest.raises(NoServerError, match=f"TypeError: {name} returned 5; it may return"):
            await Mistaken.get(mistaken)


async def test_what_a_cast_returns_is_no_matter() -> None:
    async with shared_node():
        mistaken = await spawn(Mistaken, "put")
        await Mistaken.put(mistaken)
        assert await Mistaken.get(mistaken) is None
