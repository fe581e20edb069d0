"""A zygote that dies costs nobody anything: servers run on, and a new one starts the next."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import sys
import time
from collections.abc import Generator
from pathlib import Path

import psutil
import pytest

from noex_mp import (
    ExitReason,
    InitFailed,
    InitFailedError,
    Killed,
    ServerExitedError,
    Supervisor,
    Unknown,
    child,
    named,
    spawn,
    stop,
)
from noex_mp.core.specs import Start
from noex_mp.transport import fds
from noex_mp.transport.libc import libc
from noex_mp.transport.platform import FALLBACKS
from tests.nodes.observed import ObservedNode, kill_zygote, on_all_loops, on_both_loops
from tests.nodes.versions import App, app
from tests.processes.harness import wait_for_ends
from tests.servers.counters import Counter
from tests.servers.faulty import Faulty
from tests.servers.hostile import Hostile
from tests.servers.processes import Looking

__all__ = ["app"]

pytestmark = pytest.mark.slow


RELEASE = tuple(int(part) for part in os.uname().release.split(".")[:2])
KERNEL_TELLS = RELEASE >= (6, 15) and not FALLBACKS


@contextlib.contextmanager
def inherited_by_us() -> Generator[None]:
    """Let what our descendants leave behind become our children, for a while."""
    set_child_subreaper = functools.partial(libc().prctl, 36)
    set_child_subreaper(1, 0, 0, 0)
    try:
        yield
    finally:
        set_child_subreaper(0, 0, 0, 0)


@contextlib.contextmanager
def stopped(os_pid: int) -> Generator[None]:
    """Have a process stopped by a signal, and let it go on at last."""
    os.kill(os_pid, signal.SIGSTOP)
    try:
        while psutil.Process(os_pid).status() != psutil.STATUS_STOPPED:
            time.sleep(0)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(os_pid, signal.SIGCONT)


def is_all_that_can_be_known(reason: ExitReason) -> bool:
    """Return whether this is how a kill looks when a worker's zygote is not there to tell of it."""
    return reason == Killed("SIGKILL") if KERNEL_TELLS else isinstance(reason, Unknown)


@on_both_loops
async def test_running_servers_go_on_and_new_ones_start() -> None:
    async with ObservedNode() as node:
        counter = await spawn(Counter)
        os_pid = await Counter.os_pid(counter)
        for n in range(3):
            await kill_zygote(node)
            assert await Counter.increment(counter) == n + 1
            assert await Counter.increment(await spawn(Counter)) == 1
        assert await Counter.os_pid(counter) == os_pid


@on_all_loops
@pytest.mark.parametrize("reaped_after", [0.0, 0.05])
async def test_a_death_after_the_zygotes_is_noticed_and_the_server_restarted(
    reaped_after: float,
) -> None:
    with inherited_by_us():
        async with ObservedNode() as node:
            faulty = await spawn(Faulty)
            os_pid = node.os_pid_of(faulty)
            await kill_zygote(node)
            killed = asyncio.ensure_future(Faulty.kill(faulty))
            await asyncio.to_thread(os.waitid, os.P_PID, os_pid, os.WEXITED | os.WNOWAIT)
            # Whoever inherits it may be slow: a process 1 on a machine under load.
            await asyncio.sleep(reaped_after)
            await asyncio.to_thread(os.waitpid, os_pid, 0)
            with pytest.raises(ServerExitedError) as failure:
                await killed
            assert is_all_that_can_be_known(failure.value.report.reason)
            assert await Faulty.echo(faulty, 2) == 2
            # The next one is a child of the new zygote, which tells how it ends.
            with pytest.raises(ServerExitedError) as failure:
                await Faulty.leave(faulty, 3)
            assert failure.value.report.summary == "exited with status 3; restarting"


@on_both_loops
@pytest.mark.parametrize("start", ["fork", "exec"])
async def test_a_worker_that_is_stopped_lives_on_when_the_zygote_dies(start: Start) -> None:
    async with ObservedNode() as node:
        counter = await spawn(child(Counter).options(start=start))
        os_pid = await Counter.os_pid(counter)
        with stopped(os_pid):
            # Its group is an orphan from here on: SIGHUP, and SIGCONT.
            await kill_zygote(node)
            assert await Counter.increment(counter) == 1
        assert await Counter.os_pid(counter) == os_pid
        assert not [e for e in node.seen if e.kind == "crashed"]


@pytest.mark.parametrize("start", ["fork", "exec"])
async def test_programs_that_a_worker_executes_end_by_sighup_as_ever(start: Start) -> None:
    async with ObservedNode():
        looking = await spawn(child(Looking).options(start=start))
        assert await Looking.handlers(looking) == [True, False, False]
        assert await Looking.status_after(looking, signal.SIGHUP) == -signal.SIGHUP


@pytest.mark.parametrize("start", ["fork", "exec"])
async def test_below_nohup_the_worker_and_what_it_executes_ignore_sighup(start: Start) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        async with ObservedNode():
            looking = await spawn(child(Looking).options(start=start))
            assert await Looking.ignores(looking, signal.SIGHUP)
            assert await Looking.status_after(looking, signal.SIGHUP) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@on_both_loops
async def test_a_server_that_handles_sighup_hears_it() -> None:
    async with ObservedNode():
        looking = await spawn(Looking)
        assert await Looking.hears(looking, signal.SIGHUP) == [signal.SIGHUP]


@on_both_loops
async def test_the_next_one_starts_though_the_folder_of_the_node_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "release"
    folder.mkdir()
    with contextlib.chdir(folder):
        async with ObservedNode() as node:
            counter = await spawn(Counter)
            folder.rmdir()
            assert await Counter.increment(await spawn(child(Counter).options(start="exec"))) == 1
            await kill_zygote(node)
            node.kill(counter)
            await node.event("restarted", counter)
            assert await Counter.increment(counter) == 1
        # Nor need there be one at the start.
        async with ObservedNode():
            assert await Counter.increment(await spawn(Counter)) == 1


@on_both_loops
async def test_one_that_is_killed_while_it_preloads_fails_one_start(
    app: App, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    waits = f"__import__('os').path.exists({str(gate)!r}) and open({str(gate)!r}).read()"
    app.write(waits)
    async with ObservedNode(app.tree("a")) as node:
        ref = app.at("a")
        await app.server.version(ref)
        os.mkfifo(gate)
        await kill_zygote(node)
        # It is open as soon as the next one imports the module.
        with await asyncio.to_thread(open, gate, "w"):
            gate.unlink()
            os.kill((await node.ps())[0]["os_pid"], signal.SIGKILL)
            await node.event("restarting")
            await kill_zygote(node)
        await app.server.version(ref)
        reasons = [type(report.reason) for report in await node.exits("a")]
        assert reasons.count(InitFailed) == 1


async def test_what_a_worker_started_ends_with_it_though_its_zygote_is_dead() -> None:
    async with ObservedNode() as node:
        faulty = await spawn(Faulty)
        pidfd = os.pidfd_open(await Faulty.grandchild(faulty))
        await kill_zygote(node)
        node.kill(faulty)
        await node.event("restarted", faulty)
        assert await asyncio.to_thread(wait_for_ends, [pidfd]) == []
        os.close(pidfd)


DAEMONS_END = "what has left a dead worker's group is nobody's child any more"


@pytest.mark.linux_only(DAEMONS_END)
@pytest.mark.parametrize("end", ["kill", "kill both", "stop", "stop the node"])
@on_both_loops
async def test_a_daemon_ends_with_its_worker_though_its_zygote_is_dead(end: str) -> None:
    async with ObservedNode() as node:
        hostile = await spawn(Hostile)
        pidfds = [os.pidfd_open(await Hostile.daemonize(hostile)) for _ in range(3)]
        if end == "kill both":
            os.kill(node.zygote, signal.SIGKILL)
        else:
            await kill_zygote(node)
            # A new one is of no help.
            await spawn(Counter)
        if end.startswith("kill"):
            node.kill(hostile)
        elif end == "stop":
            await stop(hostile)
        if end != "stop the node":
            assert await asyncio.to_thread(wait_for_ends, pidfds) == []
    assert await asyncio.to_thread(wait_for_ends, pidfds, 0.0) == []
    fds.close_all(pidfds)


@pytest.mark.linux_only(DAEMONS_END)
async def test_the_daemons_of_others_live_on_when_those_of_a_dead_worker_are_looked_for() -> None:
    async with ObservedNode() as node:
        before, dying = await spawn(Hostile), await spawn(Hostile)
        theirs = [os.pidfd_open(await Hostile.daemonize(before))]
        gone = [os.pidfd_open(await Hostile.daemonize(dying))]
        await kill_zygote(node)
        after = await spawn(Hostile)
        theirs.append(os.pidfd_open(await Hostile.daemonize(after)))
        # Of another node, too.
        async with ObservedNode() as other:
            theirs.append(os.pidfd_open(await Hostile.daemonize(await other.spawn(Hostile))))
            node.kill(dying)
            assert await asyncio.to_thread(wait_for_ends, gone) == []
            await node.event("restarted", dying)
            assert await asyncio.to_thread(wait_for_ends, theirs, 0.1) == sorted(theirs)
            assert await Hostile.step(before, 1) == await Hostile.step(after, 1) == 1
    assert await asyncio.to_thread(wait_for_ends, theirs) == []
    fds.close_all([*gone, *theirs])


@on_both_loops
async def test_a_worker_that_dies_together_with_the_zygote_comes_back() -> None:
    tree = Supervisor(child(Faulty).options(name="faulty"), max_restarts=10)
    async with ObservedNode(tree) as node:
        faulty = named("faulty", Faulty)
        for n in range(3):
            dying = Faulty.kill(faulty)
            os.kill(node.zygote, signal.SIGKILL)
            with pytest.raises(ServerExitedError):
                await dying
            assert await Faulty.echo(faulty, n) == n


async def test_starts_under_way_are_taken_over_by_the_next_zygote() -> None:
    async with ObservedNode() as node:
        await spawn(Counter)
        os.kill(node.zygote, signal.SIGSTOP)
        spawning = [asyncio.ensure_future(spawn(Counter)) for _ in range(5)]
        await asyncio.sleep(0)
        os.kill(node.zygote, signal.SIGKILL)
        counters = await asyncio.gather(*spawning)
        assert await asyncio.gather(*(Counter.increment(c) for c in counters)) == [1] * 5


async def test_a_node_whose_zygote_was_killed_stops_in_order() -> None:
    async with ObservedNode() as node:
        await spawn(Counter)
        os.kill(node.zygote, signal.SIGKILL)
    (exited,) = [e for e in node.seen if e.kind == "exited"]
    assert exited.report is not None
    assert exited.report.requested


async def test_a_next_zygote_that_cannot_preload_is_not_tried_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "fragile_app.py"
    log = tmp_path / "imports"
    module.write_text(
        f"import pathlib\nlog = pathlib.Path({str(log)!r})\n"
        "log.write_text(log.read_text() + 'x' if log.exists() else 'x')\n"
        "if len(log.read_text()) > 1: raise RuntimeError('not again')\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    async with ObservedNode(preload=["fragile_app", "tests.servers.counters"]) as node:
        counter = await spawn(Counter)
        await kill_zygote(node)
        # A start needs a zygote: it fails with the reason.
        with pytest.raises(InitFailedError, match="not again"):
            await spawn(Counter)
        assert await Counter.increment(counter) == 1
        imports = len(log.read_text())
        with pytest.raises(InitFailedError, match="not again"):
            await spawn(Counter)
        # At most one more for each start that was asked for.
        assert len(log.read_text()) <= imports + 2
        assert imports <= 3
