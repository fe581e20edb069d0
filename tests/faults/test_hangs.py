"""Handlers that exceed `hang_timeout`: each is ended, and the report says what it was doing."""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from noex_mp import (
    DynamicSupervisor,
    ExitReport,
    Hung,
    Killed,
    Ref,
    RemoteProtocolError,
    ServerExitedError,
    Shutdown,
    Supervisor,
    UnknownOperationError,
    child,
    named,
    stop,
    supervisor,
)
from noex_mp.core.report_plain import as_plain, from_plain
from noex_mp.core.specs import Start
from noex_mp.node.verdicts import look_at
from tests.nodes.observed import ObservedNode, Whistles, on_both_loops
from tests.processes.harness import REPOSITORY, wait_for_ends
from tests.servers.limited import Hangs, Unreadable

pytestmark = [
    pytest.mark.slow,
    pytest.mark.linux_only("nobody says what a process is doing"),
]

LIMIT = 0.2

SERVERS = ("tests.servers.limited",)

Operation = Callable[..., asyncio.Future[Any]]

# What a handler does, the verdict, and the system call.
WAYS: list[tuple[Operation, str, set[str]]] = [
    (Hangs.loop, "python", set()),
    (Hangs.call_python, "python", set()),
    (Hangs.match, "c", set()),
    (Hangs.add_up, "c", set()),
    (Hangs.receive, "blocked", {"recvfrom"}),
    (Hangs.select, "blocked", {"epoll_wait", "epoll_pwait"}),
    (Hangs.wait, "waiting", set()),
    (Hangs.stop_itself, "stopped", set()),
    (Hangs.hang_in_a_timer, "python", set()),
    (Hangs.hang_in_continue, "python", set()),
]


@asynccontextmanager
async def scene(
    *specs: Any, max_restarts: int = 20, **options: Any
) -> AsyncGenerator[ObservedNode]:
    tree = Supervisor(*specs, max_restarts=max_restarts, **options)
    async with ObservedNode(tree, preload=SERVERS) as node:
        yield node


def hangs(start: Start = "fork", **options: Any) -> Any:
    options = {"name": "hangs", "hang_timeout": LIMIT, **options}
    return child(Hangs).options(start=start, **options)


def server() -> Ref[Hangs]:
    return named("hangs", Hangs)


async def end_of(node: ObservedNode, name: str = "hangs", nth: int = 1) -> ExitReport:
    def ends() -> list[ExitReport]:
        return [e.report for e in node.seen if e.kind == "crashed" and e.name == name and e.report]

    await node.until(lambda: len(ends()) >= nth)
    return ends()[nth - 1]


@on_both_loops
async def test_the_verdict_says_what_the_handler_was_doing() -> None:
    async with scene(hangs()) as node:
        for nth, (operation, verdict, calls) in enumerate(WAYS, start=1):
            await Hangs.os_pid(server())
            pending = operation(server().within(None))
            report = await end_of(node, nth=nth)
            reason = report.reason
            assert isinstance(reason, Hung)
            assert (reason.limit, reason.verdict) == (LIMIT, verdict), operation
            assert reason.system_call in (calls or {""})
            assert report.rule == "hang_timeout"
            assert not report.requested
            # It did not end one before its time.
            assert report.uptime >= LIMIT
            await asyncio.wait((pending,))
            assert verdict == "stopped" or "limited.py" in report.stack
            assert from_plain(as_plain(report)) == report
            assert "asked by: the time limit of its handlers" in report.text


async def test_what_is_blocked_in_a_lock_or_a_sleep_is_named(tmp_path: Path) -> None:
    held = tmp_path / "lock"
    held.touch()
    with held.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        async with scene(hangs()) as node:
            ways: list[tuple[Operation, object, str]] = [
                (Hangs.lock, str(held), "flock"),
                (Hangs.nap, 600.0, "clock_nanosleep"),
            ]
            for nth, (operation, argument, name) in enumerate(ways, start=1):
                await Hangs.os_pid(server())
                with pytest.raises(ServerExitedError):
                    await operation(server().within(None), argument)
                report = await end_of(node, nth=nth)
                assert isinstance(report.reason, Hung)
                assert (report.reason.verdict, report.reason.system_call) == ("blocked", name)
                assert report.message is not None
                assert report.reason.callback == report.message.operation


async def test_the_report_shows_where_a_handler_waits_that_awaits() -> None:
    async with scene(hangs()) as node:
        with pytest.raises(ServerExitedError):
            await Hangs.wait(server().within(None))
        report = await end_of(node)
        lines = report.stack[report.stack.index("Task of Hangs") :].splitlines()
        assert "_wait_for_nothing" in lines[1]
        assert lines[2].endswith("in wait")


async def test_one_that_waits_for_a_thread_of_its_own_waits() -> None:
    async with scene(hangs()) as node:
        with pytest.raises(ServerExitedError):
            await Hangs.nap_elsewhere(server().within(None), 600)
        report = await end_of(node)
        assert isinstance(report.reason, Hung)
        assert report.reason.verdict == "waiting"


@pytest.mark.parametrize("start", ["fork", "exec"])
async def test_however_the_process_was_started(start: Start) -> None:
    async with scene(hangs(start)) as node:
        with pytest.raises(ServerExitedError):
            await Hangs.loop(server().within(None))
        assert (await end_of(node)).reason == Hung(LIMIT, "python", "", "loop")


@pytest.mark.parametrize("operation", [Hangs.fork, Hangs.fork_slowly])
async def test_a_child_that_comes_back_from_the_handler_hides_no_hang(operation: Operation) -> None:
    async with scene(hangs()):
        with pytest.raises(ServerExitedError) as failure:
            await operation(server().within(10))
        assert failure.value.report is not None
        assert isinstance(failure.value.report.reason, Hung)


async def test_a_fast_stream_of_messages_is_no_hang() -> None:
    # Each batch of casts has one time for all of it, which is not what is looked at here.
    async with scene(hangs()) as node:
        before = await Hangs.os_pid(server())
        for _ in range(3 * round(LIMIT / 0.03)):
            await Hangs.work(server(), 0.03)
        for _ in range(20_000):
            Hangs.work(server(), 0)
        assert await Hangs.done(server().within(None)) >= 20_000
        assert await Hangs.os_pid(server()) == before
        assert not [event for event in node.seen if event.kind == "crashed"]


async def test_who_comes_after_one_that_was_almost_too_slow_is_not_taken_for_it() -> None:
    async with scene(hangs()):
        for nth in reversed(range(8)):
            # It may end while it is judged.
            slow = Hangs.nap(server(), LIMIT + 0.01 * nth)
            assert await Hangs.nap(server(), LIMIT / 4) == LIMIT / 4
            await asyncio.gather(slow, return_exceptions=True)
        with pytest.raises(ServerExitedError) as failure:
            await Hangs.receive(server())
        report = failure.value.report
        assert report is not None
        # Nor is anything left of where the others were.
        assert report.stack.count("Current thread") == 1
        assert "in receive" in report.stack


async def test_async_handlers_in_a_row_are_no_hang() -> None:
    async with scene(hangs()) as node:
        before = await Hangs.os_pid(server())
        calls = [Hangs.work_slowly(server().within(None), LIMIT / 4) for _ in range(12)]
        await asyncio.gather(*calls)
        assert await Hangs.os_pid(server()) == before
        assert not [event for event in node.seen if event.kind == "crashed"]


async def test_what_is_refused_is_refused_as_elsewhere() -> None:
    async with scene(hangs()) as node:
        before = await Hangs.os_pid(server())
        for _ in range(2):
            with pytest.raises(RemoteProtocolError, match="not here"):
                await Hangs.echo(server(), Unreadable())
            with pytest.raises(UnknownOperationError):
                await server().call("what")
            assert await Hangs.echo(server(), 1) == 1
            with pytest.raises(TypeError, match="nap"):
                await Hangs.nap(server())  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        await asyncio.sleep(2 * LIMIT)
        assert await Hangs.os_pid(server()) == before
        assert not [event for event in node.seen if event.kind == "crashed"]


async def test_who_has_no_limit_is_never_ended_for_being_busy(whistles: Whistles) -> None:
    async with scene(hangs(), hangs(name="busy", id="busy", hang_timeout=None)) as node:
        begun, go_on = whistles(), whistles()
        busy = Hangs.block(named("busy", Hangs).within(None), begun.path, go_on.path)
        await begun.heard()
        with pytest.raises(ServerExitedError):
            await Hangs.loop(server().within(None))
        await end_of(node)
        go_on.blow()
        assert await busy == "went on"


async def test_an_idle_server_that_is_stopped_by_a_signal_does_not_hang() -> None:
    async with scene(hangs()) as node:
        os_pid = await Hangs.os_pid(server())
        os.kill(os_pid, signal.SIGSTOP)
        await asyncio.sleep(3 * LIMIT)
        os.kill(os_pid, signal.SIGCONT)
        assert await Hangs.os_pid(server()) == os_pid
        assert not [event for event in node.seen if event.kind == "crashed"]


async def test_a_debugger_may_stop_it_for_as_long_as_it_likes() -> None:
    seize, interrupt, detach, any_child = 0x4206, 0x4207, 17, 0x40000000
    ptrace = ctypes.CDLL(None).ptrace
    ptrace.argtypes = [ctypes.c_long] * 4
    async with scene(hangs()) as node:
        os_pid = await Hangs.os_pid(server())
        assert ptrace(seize, os_pid, 0, 0) == 0
        pending = Hangs.loop(server().within(None))
        await asyncio.sleep(3 * LIMIT)
        # Of a death only its debugger would hear.
        look = look_at(os_pid)
        assert look is not None
        assert look.state == "R"
        assert ptrace(interrupt, os_pid, 0, 0) == 0
        os.waitpid(os_pid, any_child)  # noqa: ASYNC222 - it stops at once
        assert ptrace(detach, os_pid, 0, 0) == 0
        with pytest.raises(ServerExitedError):
            await pending
        assert (await end_of(node)).reason == Hung(LIMIT, "python", "", "loop")


async def test_init_and_terminate_have_limits_of_their_own() -> None:
    slow = child(Hangs, slow_init=3 * LIMIT, slow_end=3 * LIMIT)
    async with scene(slow.options(name="hangs", hang_timeout=LIMIT)) as node:
        ref = server()
        assert await Hangs.os_pid(ref) > 0
        await stop(ref, timeout=5)
        assert [e.reason for e in node.seen if e.kind in ("exited", "crashed")] == [Shutdown()]


async def test_a_handler_that_hangs_while_its_server_is_stopped_is_ended_too() -> None:
    async with scene(hangs(), hangs(name="other", id="other", shutdown=None)) as node:
        other = named("other", Hangs)
        pending = Hangs.loop(other.within(None))
        before = time.monotonic()
        await stop(other, timeout=None)
        assert time.monotonic() - before < 5
        with pytest.raises(ServerExitedError) as failure:
            await pending
        report = failure.value.report
        assert report is not None
        assert isinstance(report.reason, Hung)
        assert report.requested
        assert not [e for e in node.seen if e.kind == "restarting"]


async def test_in_a_placement_group_only_one_hangs_and_all_come_back() -> None:
    specs = [hangs(name=name, id=name, placement="all") for name in ("a", "hangs", "z")]
    # It counts as a hang, and as that only, though the first of them did not hang.
    async with scene(*specs, max_restarts=0, max_hangs=1) as node:
        with pytest.raises(ServerExitedError):
            await Hangs.match(server().within(None))
        report = await end_of(node)
        assert report.reason == Hung(LIMIT, "c", "", "match")
        for name in ("a", "z"):
            neighbour = await end_of(node, name)
            assert neighbour.reason == Killed("SIGKILL")
            assert neighbour.rule == "placement"
            assert "because hangs hung for 0.2 s in match, computing in C" in neighbour.shared
        pids = {await Hangs.os_pid(named(name, Hangs)) for name in ("a", "hangs", "z")}
        assert len(pids) == 1


async def test_one_that_awaits_in_a_placement_group_is_told_from_one_that_computes(
    whistles: Whistles,
) -> None:
    specs = [
        hangs(placement="all"),
        hangs(name="waits", id="waits", placement="all", hang_timeout=60.0),
    ]
    async with scene(*specs) as node:
        started = whistles()
        waits = Hangs.wait(named("waits", Hangs).within(None), started.path)
        await started.heard()
        with pytest.raises(ServerExitedError):
            await Hangs.loop(server().within(None))
        assert (await end_of(node)).reason == Hung(LIMIT, "python", "", "loop")
        with pytest.raises(ServerExitedError):
            await waits


async def test_hangs_have_a_budget_of_their_own() -> None:
    async with scene(
        Supervisor(hangs(), max_restarts=0, max_hangs=1, max_seconds=60, name="inner")
    ) as node:
        for _ in range(2):
            await Hangs.os_pid(server())
            with pytest.raises(ServerExitedError):
                await Hangs.loop(server().within(None))
        gave_up = await node.event("gave_up")
        assert gave_up.name == "inner"
        assert "gave up: more than 1 restarts after a handler that hung in 60 s" in gave_up.detail
        # The supervisor above starts it again.
        assert await Hangs.os_pid(server()) > 0


async def test_no_hang_at_all_may_be_allowed() -> None:
    async with scene(DynamicSupervisor(name="rooms", max_hangs=0)) as node:
        await supervisor("rooms").start_child(hangs())
        with pytest.raises(ServerExitedError):
            await Hangs.loop(server().within(None))
        detail = (await node.event("gave_up")).detail
        assert "gave up: more than 0 restarts after a handler that hung in 5 s" in detail


async def test_two_that_hang_one_after_the_other_are_both_ended() -> None:
    async with scene(hangs()) as node:
        for nth in (1, 2):
            with pytest.raises(ServerExitedError):
                await Hangs.loop(server().within(None))
            assert (await end_of(node, nth=nth)).incarnation == nth


PROGRAM = """
import asyncio
from noex_mp import Node, child
from tests.servers.limited import Hangs

async def main():
    async with Node(preload=["tests.servers.limited"]) as node:
        ref = await node.spawn(child(Hangs).options(hang_timeout=0.2))
        print(await Hangs.os_pid(ref), flush=True)
        await Hangs.match(ref.within(None))

asyncio.run(main())
"""


@pytest.mark.parametrize("after", [0.19, 0.21, 0.23, 0.26])
def test_a_root_that_dies_while_it_judges_leaves_nothing(after: float) -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=REPOSITORY, stdout=subprocess.PIPE
    )
    assert program.stdout is not None
    pidfd = os.pidfd_open(int(program.stdout.readline()))
    time.sleep(after)
    program.kill()
    program.communicate()
    assert wait_for_ends([pidfd]) == []
    os.close(pidfd)
