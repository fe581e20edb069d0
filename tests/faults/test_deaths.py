"""A server that dies costs its callers one error, at once; then it is there again."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import mmap
import os
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from noex_mp import (
    Crash,
    DynamicSupervisor,
    Exited,
    ExitReason,
    Killed,
    MaxChildrenError,
    Node,
    Ref,
    ServerExitedError,
    Supervisor,
    child,
    named,
    spawn,
    supervisor,
)
from noex_mp.core.black_box import SLOT_SIZE
from noex_mp.node.black_box import BlackBox
from noex_mp.node.workers import Worker
from noex_mp.transport import fds
from noex_mp.transport.control_link import ControlLink
from noex_mp.transport.platform import FALLBACKS
from noex_mp.wire.codec import Encoder
from tests.nodes.observed import ObservedNode, Whistles, on_all_loops, on_both_loops
from tests.processes.harness import wait_for_ends
from tests.servers.faulty import Faulty, TwoArgumentsError
from tests.servers.journals import Journal

Deed = Callable[[Ref[Faulty]], Awaitable[Any]]

DEATHS: dict[str, tuple[Deed, ExitReason]] = {
    "kill -9": (Faulty.kill, Killed("SIGKILL")),
    "kill -9 in an async handler": (Faulty.kill_slowly, Killed("SIGKILL")),
    "SIGSEGV": (Faulty.segfault, Killed("SIGSEGV")),
    "SIGABRT": (Faulty.abort, Killed("SIGABRT")),
    "os._exit": (lambda ref: Faulty.leave(ref, 3), Exited(3)),
    "os._exit(0)": (lambda ref: Faulty.leave(ref, 0), Exited(0)),
    "sys.exit": (lambda ref: Faulty.sys_exit(ref, 4), Exited(4)),
    "sys.exit in an async handler": (lambda ref: Faulty.sys_exit_slowly(ref, 4), Exited(4)),
    "raise": (
        lambda ref: Faulty.fail(ref, "group"),
        Crash("ExceptionGroup", "two (2 sub-exceptions)"),
    ),
    "raise in an async handler": (
        lambda ref: Faulty.fail_slowly(ref, "group"),
        Crash("ExceptionGroup", "two (2 sub-exceptions)"),
    ),
    "KeyboardInterrupt": (
        lambda ref: Faulty.fail(ref, "KeyboardInterrupt"),
        Crash("KeyboardInterrupt", ""),
    ),
    "CancelledError in an async handler": (
        lambda ref: Faulty.fail_slowly(ref, "CancelledError"),
        Crash("asyncio.exceptions.CancelledError", "mine"),
    ),
}


@pytest.mark.slow
@on_all_loops
async def test_every_death_fails_the_call_with_its_reason_and_the_next_call_works() -> None:
    async with ObservedNode() as node:
        # Each of its own: three deaths are what a spawned server may have.
        for deed, reason in DEATHS.values():
            faulty = await spawn(Faulty)
            before = await Faulty.os_pid(faulty)
            with pytest.raises(ServerExitedError) as failure:
                await deed(faulty)
            report = failure.value.report
            assert (report.reason, report.os_pid, report.incarnation) == (reason, before, 1)
            assert (failure.value.started, report.requested) == (True, False)
            assert report.next == "restarting"
            assert await Faulty.os_pid(faulty) != before
            crashed = await node.event("crashed", faulty)
            assert crashed.report is not None
            assert crashed.report.message is not None
            # Its sender says how large the message was, once it has heard of the end.
            assert crashed.report.message.size in (None, report.message and report.message.size)
            assert replace(crashed.report, message=report.message) == report


@pytest.mark.parametrize("signal_sent", ["segfault", "abort"])
async def test_a_fatal_signal_leaves_the_python_stack_in_the_report(signal_sent: str) -> None:
    async with ObservedNode():
        faulty = await spawn(Faulty)
        with pytest.raises(ServerExitedError) as failure:
            await getattr(Faulty, signal_sent)(faulty)
    assert "Fatal Python error" in failure.value.report.stack
    assert f"in {signal_sent}" in failure.value.report.stack


async def test_a_crash_carries_the_error_and_its_traceback() -> None:
    async with ObservedNode():
        faulty = await spawn(Faulty)
        with pytest.raises(ServerExitedError) as failure:
            await Faulty.fail(faulty, "two arguments")
    error = failure.value
    assert error.report.reason == Crash("tests.servers.faulty.TwoArgumentsError", "1 and b")
    assert "raise an_error(kind)" in error.report.traceback
    cause = error.__cause__
    assert isinstance(cause, TwoArgumentsError)
    assert cause.right == "b"
    note = cause.__notes__[-1]
    assert note.startswith("Remote traceback")
    # It begins where the user's own code does.
    for text in (error.report.traceback, note):
        assert "in fail" in text.splitlines()[1]
        assert "noex_mp/worker" not in text


async def test_a_mistake_that_we_have_found_shows_no_traceback_of_ours() -> None:
    tree = Supervisor(DynamicSupervisor(id="rooms", name="rooms", max_children=0))
    async with Node(tree):
        with pytest.raises(MaxChildrenError) as full:
            await supervisor("rooms").start_child(child(Faulty))
        assert not hasattr(full.value, "__notes__")
        faulty = await spawn(Faulty)
        with pytest.raises(TypeError, match="missing 1 required positional argument") as wrong:
            await Faulty.echo(faulty)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        assert not hasattr(wrong.value, "__notes__")


@on_both_loops
async def test_a_kill_from_outside_fails_the_call_whatever_the_server_does(
    whistles: Whistles,
) -> None:
    async with ObservedNode() as node:
        for deed in (Faulty.loop, Faulty.loop_in_c, Faulty.doze, Faulty.wait):
            faulty = await spawn(Faulty)
            whistle = whistles()
            waiting = deed(faulty.within(None), whistle.path)
            queued = [Faulty.step(faulty.within(None), n) for n in range(3)]
            await whistle.heard()
            os_pid = node.kill(faulty)
            with pytest.raises(ServerExitedError) as failure:
                await waiting
            assert failure.value.report.reason == Killed("SIGKILL")
            assert failure.value.report.os_pid == os_pid
            assert await asyncio.gather(*queued) == [0, 1, 2]


async def test_a_server_that_is_killed_while_idle_is_there_again() -> None:
    async with ObservedNode() as node:
        faulty = await spawn(Faulty)
        await Faulty.step(faulty, 1)
        before = node.kill(faulty)
        await node.event("restarted", faulty)
        assert await Faulty.all(faulty) == []
        assert await Faulty.os_pid(faulty) != before


async def test_a_call_made_right_after_a_kill_waits_for_the_next_incarnation() -> None:
    async with ObservedNode() as node:
        faulty = await spawn(Faulty)
        await Faulty.step(faulty, 1)
        node.kill(faulty)
        # Whether the dead one still has it in its socket or not: it has not begun.
        assert await Faulty.step(faulty, 2) == 2
        assert await Faulty.all(faulty) == [2]


@pytest.mark.slow
@on_both_loops
async def test_thirty_kills_in_a_row_lose_no_call_that_had_not_begun() -> None:
    tree = Supervisor(child(Faulty).options(name="faulty"), max_restarts=100)
    async with ObservedNode(tree) as node:
        faulty = named("faulty", Faulty)
        os_pids = set[int]()
        for _ in range(30):
            calls = [Faulty.step(faulty, n) for n in range(5)]
            fatal = Faulty.kill(faulty)
            later = [Faulty.step(faulty, n) for n in range(5)]
            assert await asyncio.gather(*calls) == [0, 1, 2, 3, 4]
            with pytest.raises(ServerExitedError) as failure:
                await fatal
            os_pids.add(failure.value.report.os_pid)
            assert await asyncio.gather(*later) == [0, 1, 2, 3, 4]
            assert await Faulty.all(faulty) == [0, 1, 2, 3, 4]
        assert len(os_pids) == 30
        assert (await node.ps())[0]["restarts"] == 30


async def test_a_grandchild_dies_with_its_server() -> None:
    async with ObservedNode() as node:
        faulty = await spawn(Faulty)
        children = [await Faulty.grandchild(faulty)]
        if not FALLBACKS:
            # Without subreapers it is nobody's child any more.
            children.append(await Faulty.escaped_grandchild(faulty))
        pidfds = [os.pidfd_open(child) for child in children]
        node.kill(faulty)
        await node.event("restarted", faulty)
        assert await asyncio.to_thread(wait_for_ends, pidfds) == []
        for pidfd in pidfds:
            os.close(pidfd)


@on_both_loops
async def test_the_buffers_of_a_dead_worker_are_free_without_a_search_for_garbage() -> None:
    # 50 KB each: with many deaths between two searches, tens of MB.
    async with ObservedNode() as node:
        faulty = await spawn(Faulty)
        gc.collect()
        gc.disable()
        try:
            encoders = live(Encoder)
            node.kill(faulty)
            await node.event("restarted", faulty)
            # Each has a buffer of 256 KiB.
            assert live(Encoder) == encoders
            links = [each for each in gc.get_objects() if type(each) is ControlLink]
            assert links
            # The rest are this thread's to nodes of other tests, which it has not looked at since.
            assert not [link.peer for link in links if link.closed and link.peer != "the root"]
        finally:
            gc.enable()


async def test_twenty_more_deaths_leave_no_more_objects_in_the_root(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Whatever is logged is kept for the report of this test.
    caplog.set_level(logging.CRITICAL, "noex_mp")
    tree = Supervisor(child(Journal, os.devnull).options(name="journal"), max_restarts=1000)
    async with Node(tree, preload=["tests.servers.journals"]):
        journal = named("journal", Journal)
        # The reports of its last 10 deaths are kept: let there be so many before.
        await die(journal, times=12)
        before = await at_rest()
        await die(journal, times=20)
        more = await at_rest(before) - before
        # Reports differ a little: one has a message, and one has none.
        assert sum(more.values()) < 15, more


async def die(ref: Ref[Journal], times: int) -> None:
    for _ in range(times):
        os.kill(await Journal.os_pid(ref), signal.SIGKILL)
        # Sent again until there is an answer.
        await Journal.os_pid(ref)


async def at_rest(before: Counter[type] | None = None) -> Counter[type]:
    """Return how many objects of each type there are, once the last worker is forgotten."""
    while True:
        gc.collect()
        # What a death has called for later holds the worker for a second.
        there = Counter(map(type, gc.get_objects()))
        if there[Worker] == (1 if before is None else before[Worker]):
            return there
        await asyncio.sleep(0.02)


def live(kind: type) -> int:
    return sum(type(each) is kind for each in gc.get_objects())


async def test_what_a_dead_worker_had_is_given_back_though_a_part_of_that_fails(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class FailingWatch:
        def stop(self) -> None:
            raise MemoryError("of the watch")

    async with ObservedNode() as node:
        faulty = await spawn(Faulty)
        worker = node.worker_of(faulty)
        watch: Any = FailingWatch()
        worker.watch = watch
        with pytest.raises(ServerExitedError):
            await Faulty.kill(faulty)
        assert await Faulty.echo(faulty, 1) == 1
        assert worker.pidfd == fds.NO_FD
        assert worker.connection.closed
        assert all(output.closed for output in worker.outputs)
        assert node.worker_of(faulty).slot == worker.slot
    assert "MemoryError: of the watch" in caplog.text


@pytest.mark.linux_only("each slot is a file of its own elsewhere")
def test_a_slot_is_emptied_though_there_is_no_address_space_to_look_at_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_memory(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    box = BlackBox()
    first, second = box.take(), box.take()
    for slot in (first, second):
        os.pwrite(slot.fd, b"x" * 4096, slot.offset + SLOT_SIZE - 4096)
    monkeypatch.setattr(mmap, "mmap", no_memory)
    box.give_back(first)
    assert box.take() == first
    assert os.pread(first.fd, SLOT_SIZE, first.offset) == bytes(SLOT_SIZE)
    assert os.pread(second.fd, 4096, second.offset + SLOT_SIZE - 4096) == b"x" * 4096
    box.close()
