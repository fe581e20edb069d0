"""Handlers that close descriptors, reuse their numbers, take signals, and leave things behind."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from noex_mp import Crash, Exited, Killed, ServerExitedError, spawn, stop
from tests.faults.aftermath import scene
from tests.nodes.observed import Whistles, on_both_loops
from tests.processes.harness import wait_for_ends
from tests.servers.counters import Counter
from tests.servers.hostile import MIB, Hostile

pytestmark = pytest.mark.slow


def contents(folder: Path) -> list[bytes]:
    return [file.read_bytes() for file in folder.iterdir()]


# --- descriptors -------------------------------------------------------------------------------


@on_both_loops
async def test_a_handler_may_close_all_low_numbers_and_its_server_lives_on() -> None:
    async with scene() as (_, hostile):
        os_pid = await Hostile.os_pid(hostile)
        await Hostile.close_low_fds(hostile)
        assert await Hostile.step(hostile, 1) == 1
        # The loop's own descriptors are needed here.
        assert await Hostile.recall(hostile, 2) == 2
        assert await Hostile.all(hostile) == [1]
        assert await Hostile.os_pid(hostile) == os_pid


@on_both_loops
async def test_nothing_of_ours_is_written_to_files_that_reuse_the_numbers(tmp_path: Path) -> None:
    async with scene() as (node, hostile):
        os_pid = await Hostile.os_pid(hostile)
        reused = await Hostile.close_and_reuse_low_fds(hostile, str(tmp_path / "file"))
        assert reused == list(range(51))
        # What the runtime has to say finds its way to the log all the same.
        Hostile.refuse(hostile)
        assert "1 is more than 0" in await node.line("Hostile")
        assert await Hostile.recall(hostile, 2) == 2
        assert await Hostile.os_pid(hostile) == os_pid
        with pytest.raises(ServerExitedError) as failure:
            await Hostile.segfault(hostile)
        assert failure.value.report.reason == Killed("SIGSEGV")
        assert "in segfault" in failure.value.report.stack
        assert contents(tmp_path) == [b""] * 51


@pytest.mark.linux_only("files in memory cannot be sealed elsewhere")
async def test_no_handler_can_shorten_the_memory_that_others_look_at() -> None:
    # A SIGBUS would be the end of whoever looks at what is gone, the root among them.
    async with scene() as (_, hostile):
        outcomes = await Hostile.shorten_all_memory(hostile)
        assert outcomes == ["Operation not permitted"] * len(outcomes)
        # The black box, twice; the log of names; the shared values.
        assert len(outcomes) >= 3
        assert await Hostile.recall(hostile, 2) == 2


async def test_a_failing_end_is_not_written_to_a_file_that_reuses_a_number(tmp_path: Path) -> None:
    async with scene() as (node, hostile):
        await Hostile.close_and_reuse_low_fds(hostile, str(tmp_path / "file"))
        await Hostile.fail_at_end(hostile)
        await stop(hostile)
        await node.line("FileNotFoundError")
        assert contents(tmp_path) == [b""] * 51


@on_both_loops
async def test_a_worker_without_any_descriptor_is_noticed_at_once_and_replaced() -> None:
    async with scene() as (node, hostile):
        os_pid = await Hostile.os_pid(hostile)
        with pytest.raises(ServerExitedError) as failure:
            await Hostile.close_all_fds(hostile)
        report = failure.value.report
        # It may fall over its own missing event loop before the root has a look.
        # libuv aborts then, and asyncio raises.
        assert report.reason in (LOST, Killed("SIGABRT"), Exited(70))
        assert (await node.event("restarted", hostile)).incarnation == 2
        assert await Hostile.os_pid(hostile) != os_pid


LOST = Crash(
    "ProtocolError", "it closed or replaced descriptors of the runtime, and could not go on"
)


@pytest.mark.parametrize("kind", ["control", "link", "loop", "lifeline"])
@on_both_loops
async def test_a_runtime_descriptor_that_is_replaced_costs_that_worker_at_most(kind: str) -> None:
    async with scene() as (node, hostile):
        replacing = Hostile.replace_fd(hostile, kind)
        results = await asyncio.gather(replacing, Hostile.step(hostile, 1), return_exceptions=True)
        for result in results:
            assert result in (None, 1) or isinstance(result, ServerExitedError)
        if kind == "control":
            report = (await node.event("crashed", hostile)).report
            assert report is not None
            assert report.reason == LOST
        if kind == "lifeline":
            assert list(results) == [None, 1]


# --- folder and signals ------------------------------------------------------------------------


async def test_a_server_that_leaves_its_folder_starts_again_in_the_nodes(tmp_path: Path) -> None:
    async with scene() as (node, hostile):
        before = await Hostile.folder(hostile)
        await Hostile.change_folder(hostile, str(tmp_path / "gone"))
        # The folder it is in does not even exist any more.
        assert await Hostile.step(hostile, 1) == 1
        node.kill(hostile)
        assert await Hostile.folder(hostile) == before == os.getcwd()


@on_both_loops
async def test_a_server_that_takes_all_signals_works_and_stops_in_order(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    async with scene(diary=str(diary)) as (node, hostile):
        await Hostile.handle_signals(hostile)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP):
            os.kill(node.os_pid_of(hostile), number)
            assert await Hostile.recall(hostile, 1) == 1
        assert await Hostile.use_multiprocessing(hostile) == 17
        os_pid = node.os_pid_of(hostile)
        await stop(hostile)
        assert diary.read_text() == f"terminate {os_pid}\n"


async def test_a_segfault_that_python_handles_is_an_endless_loop_that_a_stop_ends() -> None:
    async with scene() as (_, hostile):
        await Hostile.handle_signals(hostile)
        dying = Hostile.segfault(hostile.within(None))
        await asyncio.wait_for(stop(hostile, timeout=0.1), 5)
        with pytest.raises(ServerExitedError, match=r"did not stop within .* and was killed"):
            await dying


async def test_a_segfault_without_faulthandler_has_its_signal_and_no_stack() -> None:
    async with scene() as (_, hostile):
        with pytest.raises(ServerExitedError) as failure:
            await Hostile.segfault_without_faulthandler(hostile)
        assert failure.value.report.reason == Killed("SIGSEGV")
        assert failure.value.report.trace == ""


async def test_an_alarm_kills_a_server_that_does_not_handle_it(whistles: Whistles) -> None:
    async with scene() as (_, hostile):
        with pytest.raises(ServerExitedError) as failure:
            await Hostile.set_alarm(hostile, handled=False, started=whistles().path)
        assert failure.value.report.reason == Killed("SIGALRM")


async def test_an_alarm_that_raises_crashes_the_server_that_set_it(whistles: Whistles) -> None:
    async with scene() as (_, hostile):
        with pytest.raises(ServerExitedError) as failure:
            await Hostile.set_alarm(hostile, handled=True, started=whistles().path)
        assert failure.value.report.reason == Crash("TimeoutError", "the alarm rang")
        assert "in set_alarm" in failure.value.report.traceback


async def test_a_server_that_blocks_all_signals_stops_in_order(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    async with scene(diary=str(diary)) as (_, hostile):
        await Hostile.block_signals(hostile)
        await stop(hostile)
        assert diary.read_text().startswith("terminate")


# --- what it leaves behind ---------------------------------------------------------------------


async def test_threads_of_a_handler_do_not_hold_up_a_stop_or_a_restart(whistles: Whistles) -> None:
    async with scene() as (node, hostile):
        for _ in range(2):
            started = whistles()
            await Hostile.start_thread(hostile, started.path)
            await started.heard()
            pidfd = os.pidfd_open(node.os_pid_of(hostile))
            with pytest.raises(ServerExitedError):
                await Hostile.fail(hostile, "group")
            assert await asyncio.to_thread(wait_for_ends, [pidfd]) == []
            os.close(pidfd)


@pytest.mark.linux_only("what has left a dead worker's group is nobody's child any more")
@on_both_loops
async def test_a_daemon_of_a_server_ends_with_it_however_it_ends() -> None:
    async with scene() as (node, _):
        for how in ("kill", "crash", "stop"):
            hostile = await spawn(Hostile)
            pidfds = [os.pidfd_open(await Hostile.daemonize(hostile)) for _ in range(3)]
            assert await Hostile.step(hostile, 1) == 1
            if how == "kill":
                node.kill(hostile)
            elif how == "crash":
                with pytest.raises(ServerExitedError):
                    await Hostile.fail(hostile, "group")
            else:
                await stop(hostile)
            assert await asyncio.to_thread(wait_for_ends, pidfds) == [], how
            for pidfd in pidfds:
                os.close(pidfd)


@on_both_loops
async def test_a_flood_of_output_blocks_nobody_else(whistles: Whistles) -> None:
    started, release = whistles(), whistles()
    async with scene() as (_, hostile):
        counter = await spawn(Counter)
        flooding = Hostile.flood(hostile.within(None), started.path, release.path)
        await started.heard()
        for n in range(1, 21):
            assert await Counter.increment(counter.within(2)) == n
            assert await Counter.increment((await spawn(Counter)).within(2)) == 1
            assert await counter.is_running()
        assert not flooding.done()
        release.blow()
        assert await flooding >= 100 * MIB
