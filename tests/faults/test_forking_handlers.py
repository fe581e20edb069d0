"""Handlers that fork: the parent is unharmed, and the child is no second server."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from noex_mp import spawn, stop
from tests.faults.aftermath import scene
from tests.nodes.observed import on_both_loops
from tests.processes.harness import wait_for_ends
from tests.servers.hostile import Hostile

pytestmark = pytest.mark.slow

# How the child ends, its exit status, and what it says on standard error.
ENDS = {
    "os._exit": (3, ""),
    "sys.exit": (3, ""),
    "raise": (1, "ValueError: in a child"),
    "return": (70, "came back from the handler"),
}


def numbers(log: Path) -> list[int]:
    return [int(line) for line in log.read_text().split()]


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("kind", ["def", "async def"])
@on_both_loops
async def test_the_child_of_a_handler_runs_no_code_of_its_server(
    how: str, kind: str, tmp_path: Path
) -> None:
    diary, log, forked = (tmp_path / name for name in ("diary", "log", "forked"))
    fork = Hostile.fork if kind == "def" else Hostile.fork_slowly
    async with scene(diary=str(diary)) as (node, hostile):
        os_pid = await Hostile.os_pid(hostile)
        # In one batch, so that the child has the messages behind its own in its memory too.
        calls = [
            *(Hostile.log_step(hostile, n, str(log)) for n in range(3)),
            fork(hostile, how, str(forked)),
            *(Hostile.log_step(hostile, n, str(log)) for n in range(3, 6)),
        ]
        results = await asyncio.gather(*calls)
        status, words = ENDS[how]
        assert await Hostile.child_status(hostile) == status
        assert forked.exists()
        assert numbers(log) == list(range(6))
        del results[3]
        assert results == list(range(6))
        if words:
            await node.line(words)
        assert await Hostile.os_pid(hostile) == os_pid
        assert not diary.exists()


@on_both_loops
async def test_a_child_that_goes_back_to_the_loop_of_its_parent_ends(tmp_path: Path) -> None:
    diary, marker = tmp_path / "diary", tmp_path / "marker"
    async with scene(diary=str(diary)) as (_, hostile):
        await Hostile.fork_and_wait(hostile, str(marker))
        assert await Hostile.child_status(hostile) in (1, 70)
        assert not marker.exists()
        assert not diary.exists()


@on_both_loops
async def test_a_child_that_lives_on_ends_with_its_server() -> None:
    async with scene() as (node, _):
        for end in (node.kill, stop):
            hostile = await spawn(Hostile)
            pidfd = os.pidfd_open(await Hostile.fork_and_sleep(hostile))
            # Both have the same sockets and the same epoll; only one of them is the server.
            calls = [Hostile.recall(hostile, n) for n in range(100)]
            assert await asyncio.gather(*calls) == list(range(100))
            assert wait_for_ends([pidfd], 0) == [pidfd]
            ending = end(hostile)
            if not isinstance(ending, int):
                await ending
            assert await asyncio.to_thread(wait_for_ends, [pidfd]) == []
            os.close(pidfd)


@on_both_loops
async def test_a_kill_of_the_child_is_nothing_to_the_server() -> None:
    async with scene() as (_, hostile):
        os_pid = await Hostile.os_pid(hostile)
        os.kill(await Hostile.fork_and_sleep(hostile), signal.SIGKILL)
        assert await Hostile.child_status(hostile) == -signal.SIGKILL
        assert await Hostile.os_pid(hostile) == os_pid


async def test_multiprocessing_works_in_a_handler() -> None:
    async with scene() as (_, hostile):
        assert await Hostile.use_multiprocessing(hostile) == 17
