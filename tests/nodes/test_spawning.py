"""spawn, stop, is_running, whereis, named; refs; options of a child."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
from collections.abc import Awaitable, Callable

import pytest

from noex_mp import (
    BadChildSpecError,
    CallTimedOutError,
    NodeDownError,
    NoNodeError,
    NoServerError,
    Ref,
    Shutdown,
    Stop,
    UnencodableError,
    child,
    named,
    spawn,
    stop,
    whereis,
)
from noex_mp.client import current
from tests.nodes.observed import (
    ObservedNode,
    Whistle,
    Whistles,
    on_all_loops,
    on_both_loops,
    shared_node,
)
from tests.servers.counters import Caller, Counter, Journal, RefusedError, Stack, Turns

pytestmark = pytest.mark.usefixtures("shared_nodes")


@on_all_loops
async def test_a_spawned_server_is_called_cast_to_and_stopped() -> None:
    async with shared_node() as node:
        counter = await spawn(Counter, start=10)
        assert isinstance(counter, Ref)
        assert await Counter.increment(counter) == 11
        assert await Counter.increment(counter, by=3) == 14
        assert await Counter.increment(counter, 3) == 17
        assert await Counter.increment_slowly(counter) == 18
        await Counter.add(counter, 2)
        assert await Counter.increment.on(counter)(by=0) == 20
        assert await counter.is_running()
        await stop(counter)
        assert not await counter.is_running()
        assert [e.kind for e in node.seen] == ["started", "ready", "stopping", "exited"]


async def test_each_server_has_a_process_of_its_own() -> None:
    import os

    async with shared_node():
        counters = await asyncio.gather(*(spawn(Counter) for _ in range(5)))
        os_pids = set(await asyncio.gather(*(Counter.os_pid(c) for c in counters)))
        assert len(os_pids | {os.getpid()}) == 6


async def test_messages_of_one_sender_keep_their_order() -> None:
    async with shared_node():
        journal = await spawn(Journal)
        for n in range(0, 300, 3):
            Journal.note(journal, n)
            Journal.record(journal, n + 1)
            Journal.record_slowly(journal, n + 2)
        assert await Journal.all(journal) == list(range(300))


async def test_an_operation_is_sent_when_it_is_called_not_when_it_is_awaited() -> None:
    async with shared_node():
        journal = await spawn(Journal)
        first = Journal.record(journal, 1)
        second = Journal.record(journal, 2)
        await second
        await first
        assert await Journal.all(journal) == [1, 2]


async def test_an_expected_error_is_raised_at_the_caller_and_the_state_is_kept() -> None:
    async with shared_node():
        counter = await spawn(Counter, start=5)
        with pytest.raises(RefusedError) as failure:
            await Counter.increment(counter, 2000)
        assert (failure.value.wanted, failure.value.limit) == (2000, 1000)
        assert str(failure.value) == "2000 is more than 1000"
        assert await Counter.increment(counter) == 6


async def test_a_request_that_cannot_be_sent_leaves_nothing() -> None:
    async with shared_node() as node:
        counter = await spawn(Counter)
        with pytest.raises(UnencodableError):
            await stop(counter, Shutdown(threading.Lock()))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        assert not current.client(node.id)._requests  # pyright: ignore[reportPrivateUsage]
        assert await Counter.increment(counter) == 1


# --- names -------------------------------------------------------------------------------------


@on_both_loops
async def test_a_name_finds_its_server() -> None:
    async with shared_node():
        counter = await spawn(child(Counter, start=1).options(name="counter"))
        assert await Counter.increment(named("counter", Counter)) == 2
        assert whereis("counter", Counter) == counter
        assert whereis("nobody", Counter) is None
        assert await named("counter", Counter).is_running()
        assert not await named("nobody", Counter).is_running()
        with pytest.raises(NoServerError):
            await Counter.increment(named("nobody", Counter))


async def test_a_name_stays_with_a_server_through_its_restart() -> None:
    async with shared_node() as node:
        counter = await spawn(child(Counter, start=1).options(name="counter"))
        by_name = named("counter", Counter)
        assert await Counter.increment(by_name) == 2
        node.kill(counter)
        assert await Counter.increment(by_name) == 2
        assert whereis("counter", Counter) == counter


async def test_a_name_is_free_once_its_server_is_gone_and_means_the_next_one_then() -> None:
    async with shared_node():
        by_name = named("counter", Counter)
        spec = child(Counter, start=1).options(name="counter")
        for _ in range(3):
            counter = await spawn(spec)
            assert await Counter.increment(by_name) == 2
            await stop(by_name)
            assert whereis("counter", Counter) is None
            with pytest.raises(NoServerError):
                await Counter.increment(by_name)
            with pytest.raises(NoServerError):
                await Counter.increment(counter)


async def test_messages_to_a_name_keep_their_order_while_it_is_looked_up() -> None:
    async with shared_node():
        await spawn(child(Journal).options(name="journal"))
        journal = named("journal", Journal)
        for n in range(0, 50, 2):
            Journal.note(journal, n)
            Journal.record(journal, n + 1)
        assert await Journal.all(journal) == list(range(50))


async def out_of_time(call: Callable[[], Awaitable[object]], started: Whistle) -> CallTimedOutError:
    """Return the error of a call that had begun when its time was over."""
    starting = asyncio.ensure_future(started.heard())
    while True:
        # One that comes too late, on a busy machine, is never begun.
        with pytest.raises(CallTimedOutError) as failure:
            await call()
        if starting.done():
            return failure.value


async def test_a_call_to_a_name_has_its_time_limit(whistles: Whistles) -> None:
    async with shared_node():
        await spawn(child(Journal).options(name="journal"))
        never, started = whistles(), whistles()
        journal = named("journal", Journal).within(0.05)
        await out_of_time(lambda: Journal.pause(journal, started.path, never.path), started)
        never.blow()


# --- refs --------------------------------------------------------------------------------------


async def test_refs_are_values() -> None:
    async with shared_node() as node:
        counter, other = await spawn(Counter), await spawn(Counter)
        assert counter != other
        assert {counter: 1}[copy.copy(counter.within(1))] == 1
        assert pickle.loads(pickle.dumps(counter)) == counter
        assert counter.node == node.id
        assert await Counter.who(counter) == counter
        assert repr(counter) == f"Ref(Counter, {counter.sid})"


async def test_a_ref_can_be_sent_to_another_server() -> None:
    async with shared_node():
        counter, calling = await spawn(Counter), await spawn(Caller)
        assert await Caller.increment(calling, counter, by=2) == 2
        await spawn(child(Counter, start=7).options(name="counter"))
        assert await Caller.increment(calling, named("counter", Counter)) == 8


async def test_a_server_spawns_another_on_its_own_node() -> None:
    async with shared_node() as node:
        calling = await spawn(Caller)
        counter = await Caller.start(calling, 5)
        assert counter.node == node.id
        assert await Counter.increment(counter) == 6
        assert len(await node.ps()) == 2


async def test_a_ref_works_in_another_event_loop_and_thread() -> None:
    async with shared_node():
        counter = await spawn(Counter)
        await Counter.increment(counter)

        async def increment() -> int:
            return await Counter.increment(counter)

        assert await asyncio.to_thread(lambda: asyncio.run(increment())) == 2
        assert await Counter.increment(counter) == 3
        # Again, though the loop it was used in last is closed.
        assert await asyncio.to_thread(lambda: asyncio.run(increment())) == 4


async def test_a_ref_in_a_thread_without_a_loop_says_what_to_do() -> None:
    async with shared_node():
        counter = await spawn(Counter)
        errors: list[BaseException] = []

        def use() -> None:
            try:
                Counter.increment(counter)
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=use)
        thread.start()
        await asyncio.to_thread(thread.join)
        (error,) = errors
        assert isinstance(error, NoNodeError)
        assert "event loop" in str(error)


@pytest.mark.slow
async def test_a_ref_of_a_stopped_node_says_so() -> None:
    async with ObservedNode():
        counter = await spawn(Counter)
        await Counter.increment(counter)
    with pytest.raises(NodeDownError):
        await Counter.increment(counter)
    async with ObservedNode():
        with pytest.raises(NodeDownError):
            await Counter.increment(counter)


async def test_first_guesses_are_helped() -> None:
    async with shared_node():
        counter = await spawn(Counter)
        with pytest.raises(AttributeError, match=r"await Counter.increment\(counter"):
            counter.increment(3)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
        coroutine = spawn(Counter)
        with pytest.raises(TypeError, match="awaited first"):
            Counter.increment(coroutine)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        coroutine.close()


# --- time limits -------------------------------------------------------------------------------


@pytest.mark.slow
@on_both_loops
async def test_a_call_has_its_time_limit_and_its_late_reply_disturbs_nothing(
    whistles: Whistles,
) -> None:
    async with shared_node():
        journal = await spawn(Journal)
        started, release = whistles(), whistles()
        short = journal.within(0.05)
        error = await out_of_time(lambda: Journal.block(short, started.path, release.path), started)
        assert (error.operation, error.timeout) == ("Journal.block", 0.05)
        assert isinstance(error, TimeoutError)
        release.blow()
        assert await Journal.record(journal, 1) == 1


async def test_a_call_that_is_cancelled_disturbs_nothing(whistles: Whistles) -> None:
    async with shared_node():
        journal = await spawn(Journal)
        started, release = whistles(), whistles()
        calling = Journal.pause(journal.within(None), started.path, release.path)
        queued = Journal.record(journal.within(None), 1)
        await started.heard()
        calling.cancel()
        release.blow()
        assert await queued == 1


@pytest.mark.slow
async def test_a_program_whose_loop_was_blocked_does_not_lose_its_calls(
    whistles: Whistles,
) -> None:
    async with shared_node():
        counter = await spawn(Counter)
        await Counter.increment(counter)
        calling = Counter.increment(counter.within(0.1))
        threading.Event().wait(0.3)
        # The reply has been there all the time.
        assert await calling == 2


# --- options -----------------------------------------------------------------------------------


async def test_a_child_gets_its_environment_and_nobody_else_does() -> None:
    async with shared_node():
        one = await spawn(child(Counter).options(env={"NOEX_MP_TEST": "one"}))
        other = await spawn(Counter)
        assert await Counter.environment(one, "NOEX_MP_TEST") == "one"
        assert await Counter.environment(other, "NOEX_MP_TEST") is None


async def test_a_restarted_child_has_its_options_and_arguments_again() -> None:
    async with shared_node() as node:
        spec = child(Counter, start=4).options(env={"NOEX_MP_TEST": "one"}, name="counter")
        counter = await spawn(spec)
        await Counter.increment(counter)
        node.kill(counter)
        assert await Counter.increment(counter) == 5
        assert await Counter.environment(counter, "NOEX_MP_TEST") == "one"


@pytest.mark.parametrize(
    ("server", "problem"),
    [(int, "GenServer"), (child(Counter).options(init_timeout=-1), "init_timeout"), (3, "3")],
)
async def test_a_bad_spec_is_refused_before_anything_starts(server: object, problem: str) -> None:
    async with shared_node() as node:
        with pytest.raises(BadChildSpecError, match=problem):
            await spawn(server)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
        assert node.seen == []


async def test_big_start_arguments_arrive() -> None:
    async with shared_node():
        stack = await spawn(Stack, "x" * 5_000_000, "y")
        from tests.servers.counters import Pop

        assert await stack.call(Pop()) == "y"
        assert len(await stack.call(Pop())) == 5_000_000


# --- stop --------------------------------------------------------------------------------------


async def test_stop_passes_its_reason_to_terminate(tmp_path: object) -> None:
    from pathlib import Path

    path = Path(str(tmp_path)) / "journal"
    async with shared_node() as node:
        journal = await spawn(Journal, str(path))
        await stop(journal, Shutdown("for the night"))
        assert path.read_text() == "Shutdown(detail='for the night') []\n"
        report = (await node.event("exited", journal)).report
        assert report is not None
        assert (report.reason, report.requested) == (Shutdown("for the night"), True)


async def test_a_server_may_stop_itself() -> None:
    async with shared_node() as node:
        turns = await spawn(Turns)
        assert await Turns.reply_and(turns, Stop(Shutdown("done"))) == "reply"
        report = (await node.event("exited", turns)).report
        assert report is not None
        assert (report.reason, report.requested) == (Shutdown("done"), False)
        with pytest.raises(NoServerError):
            await Turns.all(turns)
