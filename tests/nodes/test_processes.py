"""What options say of a server's process: a fresh interpreter, variables, nice value, CPUs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import Any

import pytest

from noex_mp import (
    BadChildSpecError,
    InitFailedError,
    Killed,
    ServerExitedError,
    Supervisor,
    child,
    spawn,
    stop,
    whereis,
)
from tests.nodes.observed import (
    ObservedNode,
    on_both_loops,
    shared_node,
)
from tests.processes.harness import REPOSITORY
from tests.servers.processes import Looking

pytestmark = pytest.mark.usefixtures("shared_nodes")

FRESH = child(Looking).options(start="exec", init_timeout=60.0)


@on_both_loops
async def test_an_executed_worker_imports_for_itself_and_is_like_a_forked_one_otherwise() -> None:
    async with shared_node() as node:
        forked, fresh = await spawn(Looking), await spawn(FRESH)
        assert await Looking.imported_in(fresh) == await Looking.os_pid(fresh)
        assert await Looking.parent(fresh) == node.zygote
        assert await Looking.group(fresh) == await Looking.os_pid(fresh)
        for same in (Looking.path, Looking.low_fds, Looking.handlers, Looking.threads):
            assert await same(fresh) == await same(forked)
        await Looking.say(fresh, "a line of its own")
        await node.line("a line of its own")
        with pytest.raises(ServerExitedError) as caught:
            await Looking.segfault(fresh)
        assert caught.value.report.reason == Killed("SIGSEGV")
        assert "string_at" in caught.value.report.stack
        assert await Looking.imported_in(fresh.within(60.0)) == await Looking.os_pid(fresh)


async def test_the_module_of_an_executed_server_is_not_preloaded() -> None:
    tree = Supervisor(FRESH.options(name="fresh"))
    assert (
        "tests.servers.processes"
        not in ObservedNode(tree, preload=())
        .root_config(sink=lambda label, stream, line: None)
        .preload
    )


@pytest.mark.parametrize("start", ["fork", "exec"])
async def test_variables_are_set_and_removed(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOEX_TEST_KEPT", "kept")
    monkeypatch.setenv("NOEX_TEST_GONE", "here")
    async with ObservedNode():
        env = {"NOEX_TEST_GONE": None, "NOEX_TEST_NEW": "new"}
        looking = await spawn(FRESH.options(start=start, env=env))
        assert await Looking.variable(looking, "NOEX_TEST_KEPT") == "kept"
        assert await Looking.variable(looking, "NOEX_TEST_GONE") is None
        assert await Looking.variable(looking, "NOEX_TEST_NEW") == "new"
        plain = await spawn(Looking)
        assert await Looking.variable(plain, "NOEX_TEST_GONE") == "here"


@pytest.mark.parametrize("start", ["fork", "exec"])
async def test_the_time_zone_is_a_variable_too(start: Any) -> None:
    async with shared_node():
        # Five hours and a half ahead of Greenwich, in words that need no file of the system's.
        there = await spawn(FRESH.options(start=start, env={"TZ": "THERE-5:30"}))
        assert await Looking.seconds_east(there) == 19800


@pytest.mark.parametrize("start", ["fork", "exec"])
async def test_a_process_is_as_nice_and_where_it_is_told_to_be(start: Any) -> None:
    cpu = max(os.sched_getaffinity(0))
    before = os.getpriority(os.PRIO_PROCESS, 0)
    async with shared_node():
        options = FRESH.options(start=start, nice=before + 3, cpu_affinity={cpu})
        looking = await spawn(options)
        assert await Looking.nice(looking) == before + 3
        assert await Looking.cpus(looking) == [cpu]
        assert await Looking.nice(await spawn(Looking)) == before


async def test_a_cpu_that_there_is_not_is_refused_at_the_caller() -> None:
    async with shared_node():
        with pytest.raises(BadChildSpecError, match="may not run on CPU 4000"):
            await spawn(child(Looking).options(cpu_affinity={4000}))


NICE = """
import asyncio
from noex_mp import InitFailedError, Node, child, spawn
from tests.servers.processes import Looking

async def main():
    async with Node():
        try:
            await spawn(child(Looking).options(nice=-5))
        except InitFailedError as error:
            print(type(error.__cause__).__name__, error)

asyncio.run(main())
"""


@pytest.mark.skipif(not shutil.which("setpriv"), reason="needs setpriv to give up a privilege")
def test_a_nice_value_that_the_system_refuses_fails_the_start_with_a_sentence() -> None:
    drop = ["setpriv", "--bounding-set=-sys_nice"] if os.getuid() == 0 else []
    limit = f"ulimit -e 0 2>/dev/null; exec {sys.executable} -c '{NICE}'"
    done = subprocess.run(
        [*drop, "sh", "-c", limit], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("ConfigError")
    assert "the system does not allow nice=-5" in done.stdout


async def test_members_of_a_placement_agree_on_their_process() -> None:
    room = child(Looking).options(placement="rooms")
    async with shared_node():
        first = await spawn(room.options(nice=5))
        assert await Looking.nice(await spawn(room)) == 5
        assert await Looking.nice(await spawn(room.options(nice=5))) == 5
        with pytest.raises(BadChildSpecError, match="Leave nice out"):
            await spawn(room.options(nice=6))
        assert await Looking.nice(first) == 5


async def test_a_tree_says_once_what_the_process_of_a_placement_is_like() -> None:
    room = child(Looking).options(placement="rooms")
    tree = Supervisor(
        room.options(id="a", name="a"), room.options(id="b", nice=7), room.options(id="c")
    )
    async with ObservedNode(tree):
        first = whereis("a", Looking)
        assert first is not None
        assert await Looking.nice(first) == 7


async def test_a_start_that_fails_in_an_executed_worker_says_why() -> None:
    async with shared_node():
        with pytest.raises(InitFailedError):
            await spawn(FRESH.options(env={"PYTHONHOME": "/nowhere"}))
        looking = await spawn(FRESH)
        await stop(looking)
