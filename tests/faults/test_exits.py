"""What an exit report says, of real deaths: each line of it has its cause here."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from noex_mp import (
    Crash,
    ExitReport,
    InitTimedOut,
    InitTimedOutError,
    Killed,
    OutOfMemory,
    Ref,
    ServerExitedError,
    ShutdownTimedOut,
    Supervisor,
    child,
    named,
    spawn,
    stop,
    supervisor,
    watch,
)
from noex_mp.node import stacks
from noex_mp.node.branches import SPAWNED, Branch
from noex_mp.node.exit_log import ExitLog
from noex_mp.node.oom import OomCounter
from noex_mp.node.root import Root
from noex_mp.transport.platform import DUMP_SIGNAL, FALLBACKS
from noex_mp.wire.codec import pack_plain
from noex_mp.worker.receiver import NOTED_AFTER
from tests.nodes.observed import ObservedNode, Whistles, on_both_loops
from tests.servers.counters import Counter
from tests.servers.faulty import Faulty, Start
from tests.servers.reported import Reported

asks_for_stacks = pytest.mark.skipif(DUMP_SIGNAL is None, reason="no real-time signals here")


DEEDS: list[tuple[Callable[[Ref[Reported]], Awaitable[Any]], str, int]] = [
    (lambda ref: Reported.kill(ref, b"x" * 1000), "kill", 1000),
    (lambda ref: Reported.kill_slowly(ref, b"x" * 1000), "kill_slowly", 1000),
    (lambda ref: Reported.crash(ref, b"x" * 1000), "crash", 1000),
    (lambda ref: Reported.crash_slowly(ref, b"x" * 1000), "crash_slowly", 1000),
    (lambda ref: ref.call(b"x" * 1000), "handle_call", 1000),
    # In several reads, and behind its message.
    (lambda ref: Reported.kill(ref, b"x" * 100_000), "kill", 100_000),
    (lambda ref: Reported.kill(ref, b"x" * 500_000), "kill", 500_000),
]


async def death_of(call: Any) -> ExitReport:
    with pytest.raises(ServerExitedError) as failure:
        await call
    return failure.value.report


def root_of(node: ObservedNode) -> Root:
    root = node._root  # pyright: ignore[reportPrivateUsage]
    assert root is not None
    return root


@on_both_loops
async def test_the_message_that_had_begun_is_in_the_report(whistles: Whistles) -> None:
    async with ObservedNode(preload=("tests.servers.reported",)):
        for deed, operation, size in DEEDS:
            ref = await spawn(Reported)
            assert await Reported.echo(ref, 1) == 1
            report = await death_of(deed(ref))
            assert report.message is not None, operation
            assert report.message.operation == operation
            assert report.message.size is not None, operation
            assert size <= report.message.size <= size + 100
            assert 0 <= report.message.age < 10
            assert (report.message.attempts, report.message.arguments) == (1, "")
            assert report.rule == ""


def size_in(report: ExitReport | None) -> int | None:
    assert report is not None
    assert report.message is not None
    return report.message.size


# What is sent ahead of a message in one go: nothing; what is handled where it is read; what lets
# the rest wait in the queue.
AHEAD: list[Callable[[Ref[Reported]], Sequence[Awaitable[Any]]]] = [
    lambda ref: [],
    lambda ref: [Reported.echo(ref, 1), Reported.note(ref, 2), Reported.echo(ref, 3)],
    lambda ref: [Reported.echo(ref, 1), Reported.echo_slowly(ref, 2), Reported.note(ref, 3)],
    # The last has its size by itself, and those behind it come in the same read.
    lambda ref: [Reported.echo(ref, 1), Reported.give(ref, b"x" * 200_000)],
]


@on_both_loops
async def test_the_size_of_any_message_is_known_at_once(whistles: Whistles) -> None:
    deeds = ("kill", "kill_slowly", "crash", "crash_slowly")
    async with ObservedNode(preload=("tests.servers.reported",)) as node:
        for ahead, deed in itertools.product(AHEAD, (*deeds, "kill_by_cast")):
            ref = await spawn(Reported)
            assert await Reported.echo(ref, 1) == 1
            downs = watch(ref)
            sent = ahead(ref)
            dying = getattr(Reported, deed)(ref, b"fatal")
            behind = Reported.note(ref, 9)
            died, *_ = await asyncio.gather(dying, behind, *sent, return_exceptions=True)
            down = await anext(downs)
            crashed = await node.event("crashed", ref)
            reports = [down.report, crashed.report, (await node.exits())[-1]]
            head: list[Any] = [0, ref.sid, 1, deed]
            if deed != "kill_by_cast":
                assert isinstance(died, ServerExitedError)
                reports.append(died.report)
                head = [*head, 1.0]
            size = len(pack_plain([*head, b"fatal"]))
            assert [size_in(report) for report in reports] == [size] * len(reports)


async def test_the_age_of_a_message_and_what_waited_behind_it(whistles: Whistles) -> None:
    async with ObservedNode(preload=("tests.servers.reported",)) as node:
        ref = await spawn(child(Reported).options(placement="both"))
        beside = await spawn(child(Counter).options(placement="both"))
        whistle = whistles()
        begun = asyncio.get_running_loop().time()
        waiting = Reported.wait(ref.within(None), whistle.path)
        await whistle.heard()
        for n in range(5):
            Reported.note.nowait(ref, n)
        # On the same link: what was sent before it has been taken into the queue.
        assert await Counter.increment(beside) == 1
        node.kill(ref)
        report = await death_of(waiting)
        assert report.message is not None
        assert report.message.operation == "wait"
        assert 0 < report.message.age <= asyncio.get_running_loop().time() - begun
        assert report.mailbox == 5
        # The senders say what was lost once they know of the end.
        lost = await node.event("messages_lost", ref)
        assert lost.count == 5
        kept = (await node.exits("Reported"))[-1]
        assert (kept.casts_lost, kept.mailbox) == (5, 5)


async def test_one_that_is_idle_has_no_message() -> None:
    async with ObservedNode(preload=("tests.servers.reported",)) as node:
        ref = await spawn(Reported)
        # All ways to begin a message, and each has come to its end.
        assert await Reported.echo(ref, 1) == 1
        assert await Reported.echo_slowly(ref, 2) == 2
        assert await Reported.echo_later(ref, 3) == 3
        with pytest.raises(ValueError, match="expected"):
            await Reported.refuse(ref)
        assert await asyncio.gather(*(Reported.echo(ref, n) for n in range(100)))
        assert await asyncio.gather(*(Reported.echo_slowly(ref, n) for n in range(100)))
        Reported.note.nowait(ref, 1)
        assert await Reported.echo(ref, 1) == 1
        node.kill(ref)
        report = (await node.event("crashed", ref)).report
        assert report is not None
        assert (report.message, report.mailbox) == (None, 0)
        assert report.restarts == 0
        if not FALLBACKS:
            assert report.peak_rss is not None
            assert 2**20 < report.peak_rss < 2**32
            # Nobody could ask it; it had looked when it started.
            assert report.rss is not None
            assert 2**20 < report.rss <= report.peak_rss
            assert 0 < report.rss_age <= report.uptime + 10


@pytest.mark.skipif(FALLBACKS, reason="no /proc here")
@on_both_loops
async def test_a_sudden_death_tells_the_memory_that_was_seen_last() -> None:
    async with ObservedNode(preload=("tests.servers.reported",)):
        ref = await spawn(Reported)
        await Reported.grow(ref, 100 * 2**20)
        # On the event loop that is to look, so it has looked.
        await Reported.nap(ref, 2 * NOTED_AFTER)
        report = await death_of(Reported.kill(ref, b""))
        assert report.rss is not None
        assert report.rss > 100 * 2**20
        assert f"MiB {report.rss_age * 1000:.3g} ms before, " in report.text


async def test_what_is_sent_again_counts_its_attempts(tmp_path: Path) -> None:
    async with ObservedNode(preload=("tests.servers.reported",)) as node:
        ref = await spawn(Reported)
        assert await Reported.kill_twice(ref, str(tmp_path / "deaths")) == "done"
        reports = await node.exits()
        attempts = [report.message.attempts for report in reports if report.message]
        assert attempts == [1, 2]
        report = await death_of(Reported.kill(ref, b""))
        assert report.message is not None
        assert report.message.attempts == 1


async def test_arguments_are_in_the_report_only_where_the_node_wants_them() -> None:
    async with ObservedNode(preload=("tests.servers.reported",), debug=True):
        ref = await spawn(Reported)
        assert await Reported.echo(ref, 1) == 1
        report = await death_of(Reported.kill(ref, b"secret", why="x" * 10_000))
        assert report.message is not None
        assert report.message.operation == "kill"
        assert report.message.arguments.startswith("b'secret', why='xxx")
        assert len(report.message.arguments) <= 500
        report = await death_of(Reported.crash_slowly(ref, b"secret"))
        assert report.message is not None
        assert report.message.arguments == "b'secret'"


async def test_the_last_lines_and_a_crash_that_is_too_long() -> None:
    async with ObservedNode(preload=("tests.servers.reported",)):
        ref = await spawn(Reported)
        report = await death_of(Reported.say_and_crash(ref, 50, "x" * 300_000))
        assert report.stderr[-1].startswith("line 49")
        assert len(report.stderr) == 20
        assert isinstance(report.reason, Crash)
        assert len(report.reason.message) < 2000
        assert len(report.traceback) < 6000
        assert "say_and_crash" in report.traceback
        assert report.rss is not None or FALLBACKS
        assert len(report.text.splitlines()) <= 24


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for an answer as long as it takes on a busy machine."""
    monkeypatch.setattr(stacks, "PATIENCE", 5.0)


@asks_for_stacks
@pytest.mark.usefixtures("patience")
@on_both_loops
async def test_a_server_that_we_kill_says_where_it_hung(whistles: Whistles) -> None:
    async with ObservedNode(preload=("tests.servers.faulty", "tests.servers.reported")) as node:
        for how, place in (("loop in C", "in match"), ("loop", "in _loop_forever")):
            with pytest.raises(InitTimedOutError):
                await spawn(child(Start, how=how).options(init_timeout=0.3))
            report = (await node.exits())[-1]
            assert isinstance(report.reason, InitTimedOut)
            assert (report.rule, report.requested) == ("init_timeout", False)
            assert place in report.stack
            assert "zygote.py" not in report.stack
            assert report.rss is not None
        hangs = await spawn(child(Reported).options(shutdown=0.2))
        whistle = whistles()
        dozing = asyncio.ensure_future(Reported.doze(hangs.within(None), whistle.path))
        await whistle.heard()
        await stop(hangs, timeout=0.2)
        report = await death_of(dozing)
        assert isinstance(report.reason, ShutdownTimedOut)
        assert (report.rule, report.requested) == ("shutdown_timeout", True)
        assert "in doze" in report.stack
        assert report.message is not None
        assert report.message.operation == "doze"


@asks_for_stacks
async def test_a_server_that_cannot_answer_is_killed_all_the_same(whistles: Whistles) -> None:
    async with ObservedNode(preload=("tests.servers.reported",)) as node:
        stopped = await spawn(Reported)
        os.kill(node.os_pid_of(stopped), signal.SIGSTOP)
        await stop(stopped, timeout=0.1)
        report = (await node.exits())[-1]
        assert isinstance(report.reason, ShutdownTimedOut)
        assert report.stack == ""


async def test_the_rule_says_who_ended_a_server() -> None:
    tree = Supervisor(
        child(Counter).options(id="first", name="first"),
        child(Faulty).options(name="breaks"),
        child(Counter).options(id="last", name="last"),
        Supervisor(child(Counter).options(name="inner"), id="sub"),
        strategy="one_for_all",
    )
    async with ObservedNode(tree) as node:
        assert (await death_of(Faulty.kill(named("breaks", Faulty)))).rule == ""
        await node.event("restarted", nth=5)
        rules = {report.server: report.rule for report in await node.exits()}
        assert rules["first"] == rules["last"] == rules["sub"] == "group"
        assert rules["inner"] == "supervisor"
        assert rules["breaks"] == ""
        await supervisor("sub").terminate_child("inner")
        assert [report.rule for report in await node.exits("inner")][-1] == "stop"
        spawned = await spawn(Counter)
        await stop(spawned)
        assert [report.rule for report in await node.exits("Counter")][-1] == "stop"
        # Found by name, path of ids, id, and os pid.
        of_it = await node.exits("breaks")
        assert len(of_it) == 1
        assert of_it == await node.exits("/Faulty") == await node.exits("Faulty")
        assert of_it == await node.exits(str(of_it[0].os_pid))
        assert await node.exits("nobody") == []
        log = root_of(node)._supervision.exits  # pyright: ignore[reportPrivateUsage]
    assert {report.rule for report in log.of("first")} == {"group", "node"}


def test_one_server_pushes_out_its_own_reports_only() -> None:
    log = ExitLog()

    def die(name: str, sid: int, incarnation: int = 1) -> None:
        wire = {**SPAWNED, "id": name, "name": name}
        report = ExitReport(
            server=name,
            sid=sid,
            incarnation=incarnation,
            reason=Killed("SIGKILL"),
            os_pid=sid,
            uptime=0,
        )
        log.keep(Branch(sid, wire), report)

    die("quiet", 1)
    for incarnation in range(30):
        die("loud", 2, incarnation)
    assert [report.incarnation for report in log.of("loud")] == list(range(20, 30))
    assert len(log.of("quiet")) == 1
    log.lost(2, 25, 3)
    log.lost(2, 25, 1)
    assert [r.casts_lost for r in log.of("2")] == [0, 0, 0, 0, 0, 4, 0, 0, 0, 0]
    for sid in range(3, 300):
        die(f"server {sid}", sid)
    assert len(log.of()) == 200
    assert log.of("quiet") == []
    assert log.of()[-1].server == "server 299"


async def test_a_kill_that_the_kernel_has_counted_is_out_of_memory(tmp_path: Path) -> None:
    counter = tmp_path / "memory.events"
    counter.write_text("low 0\noom 0\noom_kill 3\n")
    async with ObservedNode(preload=("tests.servers.reported",)) as node:
        workers = root_of(node)._workers  # pyright: ignore[reportPrivateUsage]
        workers._oom_counter = OomCounter(counter)  # pyright: ignore[reportPrivateUsage]
        refs: list[Ref[Reported]] = [await spawn(Reported) for _ in range(3)]
        counter.write_text("low 0\noom 1\noom_kill 5\n")
        for ref in refs:
            node.kill(ref)
        reports = [(await node.event("crashed", ref)).report for ref in refs]
        reasons = [report.reason for report in reports if report is not None]
        # Two were counted; which of them, nobody can say.
        assert sorted(map(str, reasons)) == sorted(
            map(str, [OutOfMemory(), OutOfMemory(), Killed("SIGKILL")])
        )
        assert [report.oom_kills for report in reports if report is not None] == [2, 2, 2]
        again = (await death_of(Reported.kill(refs[0], b""))).reason
        assert again == Killed("SIGKILL")
