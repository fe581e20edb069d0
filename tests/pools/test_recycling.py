"""Processes of a pool that are replaced, and what they are like: on real processes."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import weakref
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from time import sleep
from typing import Any, Literal

import pytest

from noex_mp import (
    Killed,
    Node,
    OutOfMemory,
    Pool,
    ProcessPoolExecutor,
    Supervisor,
    SupervisorRef,
    WorkerExitedError,
    pool_of,
    stop,
    sync,
)
from noex_mp.client.supervisors import supervisor_of
from noex_mp.node import memory
from noex_mp.pools.lane import Lane
from noex_mp.pools.lanes import lane_options
from noex_mp.pools.named_pool import NamedPool
from noex_mp.pools.pool import PoolTasks
from noex_mp.transport.private_memory import private_memory
from tests.nodes.observed import ObservedNode, shared_node
from tests.pools.gates import Gate, there
from tests.pools.tasks import die, double, pid, sleep_long, wait_for

pytestmark = pytest.mark.usefixtures("shared_nodes")


def leak(megabytes: int) -> int:
    leaked.append(bytearray(os.urandom(1024)) * 1024 * megabytes)
    return os.getpid()


leaked: list[bytearray] = []


def mark(folder: Path) -> int:
    """Note that a process comes up; return how many have before it."""
    number = len(list(folder.iterdir()))
    (folder / f"{number} {os.getpid()}").touch()
    return number


def mark_and_block_third(folder: Path) -> None:
    number = mark(folder)
    while number >= 2:
        signal.pause()


def mark_and_wait_as(which: int, folder: Path) -> None:
    number = mark(folder)
    while number == which and not (folder.parent / "go").exists():
        sleep(0.001)


def mark_and_fail_as(which: int, folder: Path) -> None:
    if mark(folder) == which:
        raise OSError("no database")


def fail_unless_first(folder: Path) -> None:
    if list(folder.iterdir()):
        raise OSError("no database")
    (folder / "first").touch()


def ups(folder: Path) -> list[int]:
    """Return the pids of the processes that are up, or blocked, in their order."""
    return [int(path.name.split()[1]) for path in sorted(folder.iterdir())]


async def two_are_there(folder: Path) -> None:
    while len(ups(folder)) < 2:  # noqa: ASYNC110 - other processes make them
        await asyncio.sleep(0.001)


def variable(name: str) -> str | None:
    return os.environ.get(name)


def nice() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


Kind = Literal["own", "shared"]
of_both_kinds = pytest.mark.parametrize("kind", ["own", "shared"])


@asynccontextmanager
async def a_pool(kind: Kind, **options: Any) -> AsyncGenerator[PoolTasks]:
    """Yield a pool of the program's own, or one that the whole node shares."""
    if kind == "own":
        async with Node(preload=[__name__]), Pool(**options) as pool:
            yield pool
    else:
        async with Node(Supervisor(Pool(name="cpu", **options)), preload=[__name__]):
            yield Pool.named("cpu")


@asynccontextmanager
async def a_pool_that_waits(
    which: int, kind: Kind, tmp_path: Path, **options: Any
) -> AsyncGenerator[tuple[PoolTasks, Path]]:
    """Yield a pool of one process, and one that stands by, and the folder with their marks.

    One start waits until the end: that before which so many were.
    """
    folder = tmp_path / "ups"
    folder.mkdir()
    options |= {"size": 1, "initializer": mark_and_wait_as, "initargs": (which, folder)}
    async with a_pool(kind, **options) as pool:
        await two_are_there(folder)
        yield pool, folder
        (tmp_path / "go").touch()


@of_both_kinds
async def test_a_process_is_replaced_after_so_many_tasks(kind: Kind) -> None:
    async with a_pool(kind, size=1, max_tasks_per_child=2) as pool:
        pids = [await pool.run(pid) for _ in range(10)]
        assert len(set(pids)) == 5
        assert pids[::2] == pids[1::2]


@of_both_kinds
@pytest.mark.parametrize("size", [1, 3])
async def test_many_tasks_at_once_are_all_done(kind: Kind, size: int) -> None:
    async with a_pool(kind, size=size, max_tasks_per_child=2) as pool:
        results = await asyncio.gather(*(pool.run(double, n) for n in range(20)))
        assert results == list(range(0, 40, 2))
        assert await pool.map(double, range(20)) == list(range(0, 40, 2))


@of_both_kinds
async def test_a_process_is_replaced_when_it_is_old(kind: Kind) -> None:
    async with a_pool(kind, size=1, max_age=0.05) as pool:
        first = await pool.run(pid)
        # A task after the other, until one runs elsewhere.
        while await pool.run(pid) == first:
            pass


async def test_a_pool_that_has_stopped_is_not_kept_until_its_processes_would_be_old() -> None:
    async with Node():
        async with Pool(size=1, max_age=3600) as pool:
            await pool.run(pid)
        gone = asyncio.Event()
        weakref.finalize(pool.dispatcher, gone.set)
        del pool
        while not gone.is_set():
            await asyncio.sleep(0)
            gc.collect()


@of_both_kinds
async def test_a_death_during_a_replacement_loses_its_own_task_only(
    kind: Kind, tmp_path: Path
) -> None:
    gate = Gate(tmp_path)
    async with a_pool(kind, size=1, max_tasks_per_child=1) as pool:
        first = pool.run(wait_for, *gate.arguments)
        await gate.begun()
        killed = pool.run(die)
        rest = [pool.run(double, n) for n in range(5)]
        await gate.open()
        assert await first == "go"
        with pytest.raises(WorkerExitedError):
            await killed
        assert await asyncio.gather(*rest) == [0, 2, 4, 6, 8]


async def test_another_stands_by_before_it_is_needed(tmp_path: Path) -> None:
    # The third process does not come up: its initializer waits for ever.
    async with Node(preload=[__name__]):
        pool = Pool(
            size=1, max_tasks_per_child=1, initializer=mark_and_block_third, initargs=(tmp_path,)
        )
        await pool.start()
        await two_are_there(tmp_path)
        # One after the other: nothing is to start between them.
        assert [await pool.run(pid), await pool.run(pid)] == ups(tmp_path)[:2]
        await pool.abort()


async def test_another_stands_by_in_a_tree_too(tmp_path: Path) -> None:
    folder = tmp_path / "ups"
    folder.mkdir()
    options: dict[str, Any] = {"initializer": mark_and_wait_as, "initargs": (2, folder)}
    async with a_pool("shared", size=1, max_tasks_per_child=1, **options) as pool:
        await two_are_there(folder)
        assert [await pool.run(pid), await pool.run(pid)] == ups(folder)[:2]
        (tmp_path / "go").touch()
        assert await pool.run(pid) not in ups(folder)[:2]


async def test_a_shared_pool_keeps_its_size_whatever_is_replaced_meanwhile() -> None:
    async with a_pool("shared", size=3, max_tasks_per_child=2) as pool:
        assert isinstance(pool, NamedPool)
        for size in (1, 4, 2):
            tasks = [pool.run(double, n) for n in range(30)]
            await pool_of(pool.ref).resize(size)
            assert await asyncio.gather(*tasks) == list(range(0, 60, 2))
            await pool_of(pool.ref).drain()
            while (await pool_of(pool.ref).statistics()).size != size:  # noqa: ASYNC110
                await asyncio.sleep(0.001)


async def test_a_process_whose_replacement_does_not_start_goes_on(tmp_path: Path) -> None:
    options: dict[str, Any] = {"initializer": fail_unless_first, "initargs": (tmp_path,)}
    async with a_pool("shared", size=1, max_tasks_per_child=2, **options) as pool:
        assert len({await pool.run(pid) for _ in range(7)}) == 1


async def test_the_next_router_of_a_shared_pool_has_one_stand_by_again() -> None:
    async with a_pool("shared", size=2, max_tasks_per_child=2) as pool:
        assert isinstance(pool, NamedPool)
        await pool.ref.exit(Killed("SIGKILL"))
        while (await pool_of(pool.ref).statistics()).up != 2:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        for _ in range(3):
            assert await asyncio.gather(*(pool.run(double, n) for n in range(10))) == [
                *range(0, 20, 2)
            ]
        while len(await lanes_of(pool)) != 3:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_one_that_is_due_while_it_is_restarted_leaves_once(tmp_path: Path) -> None:
    folder = tmp_path / "ups"
    folder.mkdir()
    gate = Gate(tmp_path)
    options: dict[str, Any] = {"initializer": mark_and_wait_as, "initargs": (3, folder)}
    async with a_pool("shared", size=1, max_tasks_per_child=1, **options) as pool:
        assert isinstance(pool, NamedPool)
        await two_are_there(folder)
        restarting = pool_of(pool.ref).restart()
        await marked(folder, 4)
        task = pool.run(wait_for, *gate.arguments)
        await gate.begun()
        (tmp_path / "go").touch()
        # Of the five one stands by again.
        await marked(folder, 5)
        await gate.open()
        await task
        assert await restarting == 1


async def test_a_restart_replaces_the_one_that_stands_by_too() -> None:
    async with a_pool("shared", size=1, max_tasks_per_child=100) as pool:
        assert isinstance(pool, NamedPool)
        await two_are_up(pool)
        before = await lanes_of(pool)
        assert await pool_of(pool.ref).restart() == 1
        assert not {lane.ref for lane in before} & {lane.ref for lane in await lanes_of(pool)}


async def test_one_that_is_stopped_as_it_stands_by_leaves_no_gap(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    async with a_pool("shared", size=1, max_tasks_per_child=1) as pool:
        assert isinstance(pool, NamedPool)
        await two_are_up(pool)
        await stop((await lanes_of(pool))[1].ref)
        task = pool.run(wait_for, *gate.arguments)
        await gate.begun()
        assert await pool.run(double, 4) == 8
        await gate.open()
        await task


async def two_are_up(pool: NamedPool) -> None:
    while [lane.state for lane in await lanes_of(pool)] != ["running"] * 2:  # noqa: ASYNC110
        await asyncio.sleep(0.001)


async def marked(folder: Path, count: int) -> None:
    while len(list(folder.iterdir())) < count:  # noqa: ASYNC110, ASYNC240
        await asyncio.sleep(0.001)


async def refs_of(pool: PoolTasks) -> list[Any]:
    """Return the processes that get tasks; in a tree those that there are."""
    if isinstance(pool, Pool):
        return pool.dispatcher.refs
    assert isinstance(pool, NamedPool)
    return [lane.ref for lane in await lanes_of(pool)]


async def lanes_of(pool: NamedPool) -> list[Any]:
    above = await supervisor_of(pool.ref)
    lanes = await above.get_child("members")
    assert isinstance(lanes, SupervisorRef)
    return await lanes.which_children()


@pytest.mark.linux_only("macOS has no memory limit")
@of_both_kinds
async def test_the_one_that_stands_by_takes_the_place_of_one_that_leaks(
    kind: Kind, tmp_path: Path
) -> None:
    async with a_pool_that_waits(2, kind, tmp_path, memory_limit="300MB") as (pool, folder):
        first, second = ups(folder)[:2]
        assert await pool.run(leak, 260) == first
        # A task after the other, until one runs elsewhere.
        while (found := await pool.run(pid)) == first:
            pass
        assert found == second


@of_both_kinds
async def test_the_one_that_stands_by_takes_the_place_of_one_that_dies(
    kind: Kind, tmp_path: Path
) -> None:
    async with a_pool_that_waits(2, kind, tmp_path, max_age=3600.0) as (pool, folder):
        with pytest.raises(WorkerExitedError):
            await pool.run(die)
        assert await pool.run(pid) == ups(folder)[1]


@of_both_kinds
async def test_a_process_that_dies_idle_is_replaced_at_once_too(kind: Kind, tmp_path: Path) -> None:
    async with a_pool_that_waits(2, kind, tmp_path, max_age=3600.0) as (pool, folder):
        first, second = ups(folder)[:2]
        assert await pool.run(pid) == first
        before = await refs_of(pool)
        os.kill(first, signal.SIGKILL)
        # What is sent to it in the moment in which it dies, waits for it.
        while await refs_of(pool) == before:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        assert await pool.run(pid) == second


@of_both_kinds
async def test_a_process_that_is_back_before_another_stands_by_goes_on(
    kind: Kind, tmp_path: Path
) -> None:
    async with a_pool_that_waits(1, kind, tmp_path, max_age=3600.0) as (pool, folder):
        with pytest.raises(WorkerExitedError):
            await pool.run(die)
        assert await pool.run(pid) == ups(folder)[2]


@of_both_kinds
async def test_another_stands_by_after_the_next_death_though_one_did_not_start(
    kind: Kind, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"initializer": mark_and_fail_as, "initargs": (1, tmp_path)}
    async with a_pool(kind, size=1, max_age=3600.0, **options) as pool:
        await two_are_there(tmp_path)
        with pytest.raises(WorkerExitedError):
            await pool.run(die)
        # The first, the one that has failed, the first again, and the one that stands by.
        await marked(tmp_path, 4)
        assert await pool.run(double, 2) == 4


@pytest.mark.linux_only("macOS has no memory limit")
async def test_a_process_that_leaks_is_replaced_between_two_tasks() -> None:
    async with shared_node(), Pool(size=1, memory_limit="300MB") as pool:
        first = await pool.run(leak, 260)
        for _ in range(500):
            if await pool.run(pid) != first:
                break
            await asyncio.sleep(0.01)
        else:
            pytest.fail("it was not replaced")


Way = Literal["run", "raise", "await", "map"]


@pytest.mark.linux_only("macOS has no memory limit")
@of_both_kinds
@pytest.mark.parametrize("way", ["run", "raise", "await", "map"])
async def test_a_process_with_nearly_too_much_gets_no_further_task(
    kind: Kind, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The root does not look: the process has to see for itself.
    monkeypatch.setattr(memory, "LOOK", 3600.0)
    async with a_pool(kind, size=2, memory_limit=f"{_LIMIT}MiB") as pool:
        found = await _grow(pool, way)
    assert len({os_pid for os_pid, _ in found}) > 2
    # It has no exact look before each task: a page may have become its own meanwhile.
    assert max(before for _, before in found) < (0.8 * _LIMIT + _STEP) * 2**20


_LIMIT = 120
_STEP = 5


async def _grow(pool: PoolTasks, way: Way) -> list[tuple[int, int]]:
    """Run tasks each of which leaks a little; return what each says: see `_leak_a_little`."""
    if way == "map":
        return await pool.map(_leak_a_little, range(80), chunksize=1)
    if way == "run":
        return await asyncio.gather(*(pool.run(_leak_a_little, 0) for _ in range(80)))
    if way == "await":
        return await asyncio.gather(*(pool.run(_leak_and_await) for _ in range(80)))
    raised = await asyncio.gather(
        *(pool.run(_leak_and_raise) for _ in range(80)), return_exceptions=True
    )
    assert all(isinstance(error, ValueError) for error in raised)
    return [error.args[0] for error in raised if isinstance(error, ValueError)]


def _leak_a_little(_: int) -> tuple[int, int]:
    """Leak a step; return who has, and how much memory it had before."""
    before = private_memory(os.getpid())
    return leak(_STEP), before


async def _leak_and_await() -> tuple[int, int]:
    await asyncio.sleep(0)
    return _leak_a_little(0)


def _leak_and_raise() -> None:
    raise ValueError(_leak_a_little(0))


@pytest.mark.linux_only("macOS has no memory limit")
async def test_a_process_that_has_nearly_too_much_from_the_start_runs_a_task() -> None:
    options: dict[str, Any] = {"initializer": leak, "initargs": (100,)}
    async with (
        ObservedNode(preload=[__name__]) as node,
        Pool(size=1, memory_limit=f"{_LIMIT}MiB", **options) as pool,
    ):
        (ref,) = pool.dispatcher.refs
        first = node.os_pid_of(ref)
        await node.event("memory_pressure", ref)
        await Lane.ready(ref)
        assert await pool.run(pid) == first
        assert await pool.run(pid) != first


@pytest.mark.linux_only("macOS has no memory limit")
async def test_a_process_that_had_nearly_too_much_only_during_a_task_stays(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    async with (
        ObservedNode(preload=[__name__]) as node,
        Pool(size=1, memory_limit=f"{_LIMIT}MiB") as pool,
    ):
        (ref,) = pool.dispatcher.refs
        task = pool.run(_need_for_a_while, 100, *gate.arguments)
        await gate.begun()
        await node.event("memory_pressure", ref)
        await gate.open()
        first = await task
        assert {await pool.run(pid) for _ in range(50)} == {first}


def _need_for_a_while(megabytes: int, *gate: Any) -> int:
    needed = bytearray(b"x") * (megabytes * 2**20)
    wait_for(*gate)
    del needed
    return os.getpid()


@pytest.mark.linux_only("macOS has no memory limit")
async def test_a_task_that_takes_more_than_it_may_is_killed() -> None:
    async with shared_node(), Pool(size=1, memory_limit="100MB") as pool:
        with pytest.raises(WorkerExitedError) as failure:
            await pool.run(_eat)
        assert isinstance(failure.value.report.reason, OutOfMemory)
        assert await pool.run(double, 2) == 4


def _eat() -> None:
    while True:
        leak(10)


async def test_processes_share_the_cpus_or_are_what_the_pool_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    async with Node():
        async with Pool(size=2, nice=7) as pool:
            share = max(1, len(os.sched_getaffinity(0)) // 2)
            assert await pool.run(variable, "OMP_NUM_THREADS") == str(share)
            assert await pool.run(nice) == 7
        async with Pool(size=1, threads=3) as pool:
            assert await pool.run(variable, "OMP_NUM_THREADS") == "3"


def test_an_executor_replaces_its_processes_too() -> None:
    # The standard library's hangs here, or did.
    with ProcessPoolExecutor(max_workers=2, max_tasks_per_child=2) as executor:
        futures = [executor.submit(pid) for _ in range(10)]
        assert len({future.result() for future in futures}) >= 5
    sync.shutdown()


async def test_an_exception_that_leaves_the_pool_ends_it_at_once(tmp_path: Path) -> None:
    futures: list[asyncio.Future[Any]] = []

    async def use() -> None:
        async with Pool(size=1) as pool:
            futures.extend([pool.run(sleep_long, tmp_path / "started"), pool.run(double, 2)])
            raise ZeroDivisionError

    async with shared_node() as node:
        with pytest.raises(ZeroDivisionError):
            await use()
        assert [each.cancelled() for each in futures] == [True, True]
        assert await node.ps() == []


async def test_whoever_waits_for_a_pool_hears_that_it_is_aborted() -> None:
    async with shared_node():
        # In some of them, lanes end one by one, and the last with nothing to do.
        for size in range(1, 40):
            pool = Pool(size=3)
            await pool.start()
            tasks = [pool.run(sleep, 0.001 * (n % 3)) for n in range(size)]
            await tasks[0]
            stopping = asyncio.create_task(pool.stop())
            await pool.abort()
            async with asyncio.timeout(10):
                await stopping


async def test_what_is_aborted_is_cancelled_as_in_any_event_loop(tmp_path: Path) -> None:
    started = tmp_path / "started"
    async with shared_node():
        pool = Pool(size=1)
        await pool.start()
        ways = [
            asyncio.ensure_future(way)
            for way in (
                pool.run(sleep_long, started),
                pool.map(double, [1, 2]),
                anext(pool.imap(double, [1, 2])),
                anext(pool.imap_unordered(double, [1, 2], chunksize=1)),
            )
        ]
        await there(started)
        await pool.abort()
        for way in ways:
            with pytest.raises(asyncio.CancelledError):
                await way


async def test_a_cancellation_while_the_pool_waits_for_its_tasks_ends_it_at_once(
    tmp_path: Path,
) -> None:
    futures: list[asyncio.Future[Any]] = []

    async def use() -> None:
        async with Pool(size=1) as pool:
            futures.extend([pool.run(sleep_long, tmp_path / "started"), pool.run(double, 2)])

    async with shared_node() as node:
        using = asyncio.create_task(use())
        await there(tmp_path / "started")
        using.cancel()
        with pytest.raises(asyncio.CancelledError):
            await using
        assert [each.cancelled() for each in futures] == [True, True]
        assert await node.ps() == []


def test_an_initializer_may_take_its_time() -> None:
    # Unlike the start of other servers, which has five seconds.
    assert lane_options(size=1).get("init_timeout", 5.0) is None
