"""Handlers that recurse without end, and workers without memory."""

from __future__ import annotations

import asyncio

import pytest

from noex_mp import (
    Crash,
    Exited,
    InitFailed,
    InitFailedError,
    Killed,
    NoServerError,
    RemoteProtocolError,
    ServerExitedError,
    UnencodableError,
    child,
    spawn,
)
from tests.faults.aftermath import SERVERS, scene
from tests.nodes.observed import ObservedNode, Whistles, on_both_loops
from tests.servers.answering import Answering, Starting
from tests.servers.faulty import Faulty
from tests.servers.hostile import (
    MIB,
    Asker,
    ExpectsRecursion,
    Hostile,
    RecursesWhenRead,
    RecursesWhenSent,
    Tight,
)

pytestmark = pytest.mark.slow

BIG = 64 * MIB

# --- the stack ---------------------------------------------------------------------------------


@on_both_loops
async def test_an_endless_recursion_is_a_crash_of_that_server_alone() -> None:
    async with scene() as (_, hostile):
        for deed in (Hostile.recurse, Hostile.recurse_slowly):
            with pytest.raises(ServerExitedError) as failure:
                await deed(hostile)
            report = failure.value.report
            assert isinstance(report.reason, Crash)
            assert report.reason.error == "RecursionError"
            assert "[Previous line repeated" in report.traceback
            assert isinstance(failure.value.__cause__, RecursionError)


async def test_an_endless_recursion_that_is_expected_is_no_crash() -> None:
    async with scene(ExpectsRecursion) as (_, hostile):
        os_pid = await Hostile.os_pid(hostile)
        for deed in (Hostile.recurse, Hostile.recurse_slowly):
            with pytest.raises(RecursionError):
                await deed(hostile)
        assert await Hostile.os_pid(hostile) == os_pid


async def test_an_overflow_of_the_c_stack_is_a_sigsegv_that_leaves_its_python_stack() -> None:
    async with scene() as (_, hostile):
        with pytest.raises(ServerExitedError) as failure:
            await Hostile.overflow(hostile)
        assert failure.value.report.reason == Killed("SIGSEGV")
        assert "Fatal Python error: Segmentation fault" in failure.value.report.stack
        assert "hostile.py" in failure.value.report.stack
        # And not what is below of all that: the command of the process.
        assert "<string>" not in failure.value.report.stack


async def test_a_recursion_in_encoding_and_decoding_fails_its_call_and_no_process() -> None:
    async with scene() as (_, hostile):
        os_pid = await Hostile.os_pid(hostile)
        with pytest.raises(UnencodableError, match=r"args\[0\]: <RecursesWhenSent>"):
            await Hostile.echo(hostile, RecursesWhenSent())
        with pytest.raises(UnencodableError, match="reply: <RecursesWhenSent>"):
            await Hostile.reply_that_recurses(hostile)
        with pytest.raises(RemoteProtocolError, match="RecursionError"):
            await Hostile.echo(hostile, RecursesWhenRead())
        assert await Hostile.os_pid(hostile) == os_pid


# --- memory ------------------------------------------------------------------------------------


@on_both_loops
async def test_a_handler_without_memory_is_a_crash_of_that_server_alone() -> None:
    async with scene() as (_, hostile):
        for deed in (Hostile.need_memory, Hostile.need_memory_slowly):
            with pytest.raises(ServerExitedError) as failure:
                await deed(hostile, MIB)
            assert failure.value.report.reason == Crash("MemoryError", "")
            assert "need_memory" in failure.value.report.traceback


@on_both_loops
async def test_a_reply_for_which_there_is_no_memory_is_an_error_at_the_caller() -> None:
    async with scene() as (_, hostile):
        await Hostile.limit_memory(hostile, BIG + MIB)
        os_pid = await Hostile.os_pid(hostile)
        for nested in (False, True):
            with pytest.raises(MemoryError, match="no memory to pack it"):
                await Hostile.reply_without_memory(hostile, BIG, nested=nested)
        assert await Hostile.os_pid(hostile) == os_pid


@on_both_loops
async def test_a_reply_that_was_packed_and_found_no_memory_does_not_go_with_the_next() -> None:
    async with scene() as (_, hostile):
        os_pid = await Hostile.os_pid(hostile)
        # The value, and msgpack's buffer of twice its size; not the bytes to send.
        await Hostile.limit_memory(hostile, 3 * BIG + BIG // 2)
        for nested in (False, True):
            failing = Hostile.reply_without_memory(hostile, BIG, nested=nested)
            behind = Hostile.step(hostile, 1)
            with pytest.raises(MemoryError):
                await failing
            assert await behind == 1
        assert await Hostile.os_pid(hostile) == os_pid


@on_both_loops
async def test_big_bytes_are_sent_though_there_is_no_memory_for_a_copy() -> None:
    async with scene() as (_, hostile):
        await Hostile.limit_memory(hostile, BIG + 4 * MIB)
        os_pid = await Hostile.os_pid(hostile)
        for _ in range(2):
            assert await Hostile.bytes_without_memory(hostile, BIG) == [1, bytes(BIG)]
        assert await Hostile.os_pid(hostile) == os_pid


async def test_an_argument_for_which_there_is_no_memory_fails_its_call_where_it_is_made() -> None:
    async with scene() as (node, hostile):
        asker = await node.spawn(Asker)
        # It is packed, or not even that.
        for room in (3 * BIG + BIG // 2, BIG + MIB):
            said = await Asker.send_text_without_memory(asker, hostile, BIG, room)
            assert said == ["no memory", 1]


@on_both_loops
async def test_a_buffer_for_which_there_is_no_memory_costs_its_own_call_only() -> None:
    async with scene() as (node, hostile):
        os_pid = await Hostile.os_pid(hostile)
        await Hostile.limit_memory(hostile)
        before = Hostile.step(hostile, 1)
        with pytest.raises(MemoryError, match=f"no memory for a buffer of {BIG} bytes"):
            await Hostile.echo(hostile, [1, bytes(BIG), bytes(1)])
        assert [await before, await Hostile.step(hostile, 2)] == [1, 2]
        assert await Hostile.all(hostile) == [1, 2]
        assert await Hostile.os_pid(hostile) == os_pid
        assert node.lines == []


async def test_a_caller_without_memory_for_the_reply_hears_so_and_lives_on() -> None:
    async with scene() as (node, _):
        asker, faulty = await node.spawn(Asker), await node.spawn(Faulty)
        with pytest.raises(ServerExitedError) as failure:
            await Asker.ask_for_big_without_memory(asker, faulty, BIG)
        # It is in its handler that the error was raised.
        assert isinstance(failure.value.__cause__, MemoryError)
        assert "no memory for a buffer" in str(failure.value.__cause__)
        assert await Faulty.echo(faulty, 1) == 1


@on_both_loops
async def test_a_worker_that_cannot_read_for_lack_of_memory_ends_and_says_so() -> None:
    async with scene() as (node, hostile):
        os_pid = await Hostile.os_pid(hostile)
        await Hostile.limit_memory(hostile)
        # In the message itself, where it cannot be skipped. It had not begun: the next
        # incarnation, which has memory, answers.
        text = "x" * (32 * MIB)
        assert await Hostile.echo(hostile.within(15), text) == text
        assert await Hostile.os_pid(hostile) != os_pid
        report = (await node.event("crashed", hostile)).report
        assert report is not None
        assert report.reason == Crash("MemoryError", "its process had no memory left to go on")
        assert "limit" not in await node.line("link closed")


async def test_a_message_that_no_incarnation_can_read_ends_the_server_for_good() -> None:
    async with ObservedNode(preload=SERVERS) as node:
        counter = await spawn(Faulty)
        tight = await node.spawn(child(Tight))
        with pytest.raises(NoServerError) as failure:
            await Hostile.echo(tight.within(None), "x" * (32 * MIB))
        assert failure.value.report is not None
        # What it can still say depends on what is left. A start may fail for it, too.
        match failure.value.report.reason:
            case Crash("MemoryError") | Exited(70):
                pass
            case InitFailed(detail):
                assert "MemoryError" in detail or "70" in detail
            case other:
                pytest.fail(f"ended by {other}")
        assert await Faulty.echo(counter, 1) == 1


async def test_a_worker_without_memory_fails_the_start_in_it_and_nothing_else(
    whistles: Whistles,
) -> None:
    coming, going = whistles(), whistles()
    async with ObservedNode() as node:
        other = await spawn(child(Answering).options(placement="p"))
        spec = child(Starting, coming.path, going.path).options(placement="p")
        starting = asyncio.ensure_future(spawn(spec))
        await coming.heard()
        await Answering.run_out_of_memory(other)
        with pytest.raises(InitFailedError, match="no memory left"):
            await starting
        await node.event("restarted", other)
        assert await Answering.count(other) == 0
