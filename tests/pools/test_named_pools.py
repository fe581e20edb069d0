"""`Pool` as an entry of a tree, and `Pool.named`: from any process of the node."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noex_mp import (
    CallError,
    ConfigError,
    Event,
    GenServer,
    Node,
    NodeDownError,
    NoexError,
    NoServerError,
    Pool,
    PoolDownError,
    Ref,
    ServerExitedError,
    Supervisor,
    SupervisorRef,
    TaskTimedOutError,
    WorkerExitedError,
    call,
    cast,
    child,
    named,
    pool_of,
    spawn,
    stop,
)
from noex_mp.client import current
from noex_mp.client.supervisors import supervisor_of
from tests.nodes.observed import (
    Whistles,
    shared_node,
)
from tests.pools.gates import LADDER, there
from tests.pools.tasks import die, double, fill, later, pid, sleep_long
from tests.servers.hashing import Hasher

pytestmark = pytest.mark.usefixtures("shared_nodes")

cpu = Pool.named("cpu")


class Client(GenServer):
    """Uses the pool of its node."""

    @call
    async def doubled(self, count: int) -> list[int]:
        return await cpu.map(double, range(count))

    @call
    async def where(self) -> set[int]:
        return set(await asyncio.gather(*(cpu.run(pid) for _ in range(40))))

    @cast
    async def sleeps(self, started: Path) -> None:
        self.task = cpu.run(sleep_long, started)

    @cast
    def die(self) -> None:
        die()

    @call
    def fall(self) -> None:
        die()


class Messenger(GenServer, expected=(CallError,)):
    """Calls others, and passes on what it hears."""

    @call
    async def ask(self, whom: Ref[Client]) -> None:
        await Client.fall(whom)

    @call
    def tell(self, error: CallError) -> None:
        raise error

    @call
    def pid(self) -> int:
        return os.getpid()


def tell(diary: str, error: CallError) -> None:
    note(diary, "run")
    raise error


async def tell_later(diary: str, error: CallError) -> None:
    tell(diary, error)


async def ask(diary: str, whom: Ref[Client]) -> None:
    note(diary, "run")
    await Client.fall(whom)


async def ask_another_pool(diary: str) -> None:
    note(diary, "run")
    await Pool.named("other").run(die)


def refuse(text: str) -> None:
    raise KeyError(text)


def gated(coming: str, going: str, diary: str, what: str) -> None:
    with open(coming, "wb", buffering=0) as there:
        there.write(b"x")
    with open(going, "rb", buffering=0) as here:
        here.read(1)
    note(diary, what)


def note(diary: str, what: str) -> None:
    with open(diary, "a") as there:
        there.write(f"{what}\n")


def entries(folder: Path) -> list[str]:
    return [diary.read_text() for diary in folder.iterdir()]


def calls_of(function: Callable[[], object]) -> int:
    """Return how many functions of Python are called by one."""
    seen: list[str] = []
    sys.setprofile(lambda frame, event, argument: seen.append(event))
    try:
        function()
    finally:
        sys.setprofile(None)
    return seen.count("call")


async def test_all_processes_of_the_node_share_it() -> None:
    tree = Supervisor(Pool(size=2, name="cpu"), child(Client).options(name="client"))
    async with Node(tree) as node:
        lanes = {each["os_pid"] for each in await node.ps() if each["id"] == "Lane"}
        assert len(lanes) == 2
        assert await cpu.run(pow, 2, exp=10) == 1024
        assert await cpu.run(later, 5) == 5
        factor = 3
        assert await cpu.run(lambda: factor * 2) == 6
        assert await cpu.map(double, range(500)) == list(range(0, 1000, 2))
        assert [n async for n in cpu.imap(double, range(50))] == list(range(0, 100, 2))
        client = await spawn(Client)
        assert await Client.doubled(client, 100) == list(range(0, 200, 2))
        assert await Client.where(client) == lanes
        with pytest.raises(KeyError, match="tea"):
            await cpu.run(refuse, "tea")


async def test_a_death_costs_one_task_and_a_retry_none(tmp_path: Path) -> None:
    async with Node(Supervisor(Pool(size=2, name="cpu"))):
        tasks = [cpu.run(double, n) for n in range(100)]
        killed = cpu.run(die)
        tasks += [cpu.run(double, n) for n in range(100)]
        assert len(await asyncio.gather(*tasks)) == 200
        with pytest.raises(WorkerExitedError, match="SIGKILL"):
            await killed
        with pytest.raises(WorkerExitedError):
            await cpu.options(retries=1).run(die)
        assert await cpu.run(double, 2) == 4


OF_OTHERS = [NoServerError("somebody else"), NodeDownError("another node has stopped")]


@pytest.mark.parametrize("error", OF_OTHERS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("task", [tell, tell_later])
async def test_what_a_task_raises_of_other_servers_is_its_own(
    tmp_path: Path, task: Any, error: CallError
) -> None:
    async with Node(Supervisor(Pool(size=1, name="cpu"))):
        before = [cpu.run(double, n) for n in range(100)]
        told = cpu.options(retries=1).run(task, str(tmp_path / "run"), error)
        behind = [cpu.run(double, n) for n in range(100)]
        with pytest.raises(type(error), match=str(error)):
            await told
        assert await asyncio.gather(*before, *behind) == 2 * list(range(0, 200, 2))
        for size in (1, None):
            diaries = [str(tmp_path / f"map{size}")], [str(tmp_path / f"imap{size}")]
            beside = cpu.run(double, 7)
            with pytest.raises(type(error), match=str(error)):
                await cpu.map(task, diaries[0], [error], chunksize=size)
            with pytest.raises(type(error), match=str(error)):
                async for _ in cpu.imap(task, diaries[1], [error], chunksize=size):
                    pass
            assert await beside == 14
    assert entries(tmp_path) == ["run\n"] * 5


async def test_a_name_that_nobody_has_is_said_by_the_task_that_asks_for_it(tmp_path: Path) -> None:
    async with Node(Supervisor(Pool(size=1, name="cpu"))):
        with pytest.raises(NoServerError, match="'nobody'"):
            await cpu.options(retries=1).run(ask, str(tmp_path / "diary"), named("nobody", Client))
        assert (tmp_path / "diary").read_text() == "run\n"


async def test_the_end_of_a_server_that_a_task_has_called_is_not_that_of_its_process(
    tmp_path: Path,
) -> None:
    async with Node(Supervisor(Pool(size=1, name="cpu"))):
        lane = await cpu.run(pid)
        with pytest.raises(ServerExitedError, match="Client ended") as failure:
            await cpu.options(retries=1).run(ask, str(tmp_path / "diary"), await spawn(Client))
        assert type(failure.value) is ServerExitedError
        assert await cpu.run(pid) == lane
        assert (tmp_path / "diary").read_text() == "run\n"


async def test_the_end_of_a_process_of_another_pool_is_not_that_of_its_own(tmp_path: Path) -> None:
    async with Node(Supervisor(Pool(size=1, name="cpu"), Pool(size=1, name="other"))):
        lane = await cpu.run(pid)
        with pytest.raises(WorkerExitedError, match="SIGKILL"):
            await cpu.options(retries=1).run(ask_another_pool, str(tmp_path / "diary"))
        assert await cpu.run(pid) == lane
        assert (tmp_path / "diary").read_text() == "run\n"


async def test_what_a_server_of_a_pool_raises_of_others_reaches_its_caller_as_it_is() -> None:
    async with shared_node():
        ref = await spawn(Pool.of(Messenger, size=1))
        before = await Messenger.pid(ref)
        for error in OF_OTHERS:
            with pytest.raises(type(error), match=str(error)):
                await Messenger.tell(ref, error)
        with pytest.raises(NoServerError, match="'nobody'"):
            await Messenger.ask(ref, named("nobody", Client))
        with pytest.raises(ServerExitedError, match="Client ended") as failure:
            await Messenger.ask(ref, await spawn(Client))
        assert type(failure.value) is ServerExitedError
        assert await Messenger.pid(ref) == before
        assert (await pool_of(ref).statistics()).up == 1


async def test_the_queue_of_all_has_their_priorities(whistles: Whistles, tmp_path: Path) -> None:
    coming, going, diary = whistles(), whistles(), str(tmp_path / "diary")
    async with Node(Supervisor(Pool(size=1, name="cpu"))):
        other = Pool.named("cpu")
        tasks = [cpu.run(gated, coming.path, going.path, diary, "first")]
        await coming.heard()
        # One lies ahead in the process.
        tasks += [cpu.run(note, diary, f"{n}") for n in range(3)]
        tasks += [other.options(priority=1).run(note, diary, "urgent")]
        while (await pool_of(cpu.ref).statistics()).waiting < 3:
            pass
        going.blow()
        await asyncio.gather(*tasks)
        assert (tmp_path / "diary").read_text().split() == ["first", "0", "urgent", "1", "2"]


async def test_what_is_cancelled_does_not_run(whistles: Whistles, tmp_path: Path) -> None:
    coming, going, diary = whistles(), whistles(), str(tmp_path / "diary")
    async with Node(Supervisor(Pool(size=1, name="cpu"))):
        running = cpu.run(gated, coming.path, going.path, diary, "first")
        await coming.heard()
        tasks = [cpu.run(note, diary, f"{n}") for n in range(4)]
        while (await pool_of(cpu.ref).statistics()).waiting < 3:
            pass
        # The first of them lies ahead in the process.
        for task in tasks[1:3]:
            task.cancel()
        while (await pool_of(cpu.ref).statistics()).waiting > 1:
            pass
        going.blow()
        await asyncio.gather(running, tasks[0], tasks[3])
        assert (tmp_path / "diary").read_text().split() == ["first", "0", "3"]
        assert await cpu.run(double, 2) == 4


async def test_to_cancel_one_task_nobody_looks_at_all_others(
    whistles: Whistles, tmp_path: Path
) -> None:
    coming, going, diary = whistles(), whistles(), str(tmp_path / "diary")
    async with Node(Supervisor(Pool(size=1, name="cpu"))):
        running = cpu.run(gated, coming.path, going.path, diary, "first")
        await coming.heard()
        tasks = [cpu.run(note, diary, f"{n}") for n in range(200)]
        # The first has something imported.
        tasks[0].cancel()
        # Each was asked 64 times, so that the last of them had begun meanwhile.
        assert max(calls_of(task.cancel) for task in tasks[1:]) < len(tasks)
        assert [await task.stopped() for task in tasks] == ["dropped"] * 200
        going.blow()
        await running
        await cpu.run(note, diary, "last")
        assert (tmp_path / "diary").read_text().split() == ["first", "last"]


async def test_one_whose_result_has_just_come_is_not_said_to_be_dropped(tmp_path: Path) -> None:
    async with Node(Supervisor(Pool(size=1, name="cpu"))):
        await cpu.run(pid)
        route = current.client().way_to(cpu.ref)
        task = cpu.run(note, str(tmp_path / "diary"), "has run")
        # Without the loop, which would pass it on.
        while route.pending:
            assert route.link is not None
            route.link.drain()
        assert task.cancel()
        assert await task.stopped() == "token"
        assert entries(tmp_path) == ["has run\n"]


async def test_a_task_that_runs_is_stopped_rung_by_rung(tmp_path: Path) -> None:
    async with Node(Supervisor(Pool(size=1, name="cpu", grace=0.05))):
        for number, (task, rung) in enumerate(LADDER):
            started = tmp_path / f"{number}"
            future = cpu.run(task, started)
            await there(started)
            assert future.cancel()
            assert await future.stopped() == rung, task.__name__
        assert await cpu.run(double, 2) == 4


async def test_a_time_limit_stops_a_task_in_the_same_way(tmp_path: Path) -> None:
    async with Node(Supervisor(Pool(size=1, name="cpu", grace=0.05))):
        causes: list[BaseException | None] = []
        for task, rung in LADDER[1::2]:
            # The time in which the process imports the task is the task's.
            await cpu.run(pid)
            with pytest.raises(TaskTimedOutError) as failure:
                await cpu.options(timeout=0.1).run(task, tmp_path / task.__name__)
            assert (failure.value.rung, failure.value.limit) == (rung, 0.1)
            causes.append(failure.value.__cause__)
        assert isinstance(causes[-1], WorkerExitedError)
        assert causes[-1].report.rule == "task_stop"
        limited = cpu.options(timeout=60)
        assert await limited.map(double, range(100)) == list(range(0, 200, 2))


async def test_a_task_that_waits_for_its_turn_uses_no_time(
    whistles: Whistles, tmp_path: Path
) -> None:
    coming, going, diary = whistles(), whistles(), str(tmp_path / "diary")
    async with Node(Supervisor(Pool(size=1, name="cpu"))):
        cpu.run(gated, coming.path, going.path, diary, "first")
        await coming.heard()
        # The first of them lies ahead in the process, the others wait in the pool.
        limited = [cpu.options(timeout=0.05).run(double, n) for n in range(3)]
        # Several times their limit.
        await asyncio.sleep(0.3)
        assert not any(each.done() for each in limited)
        going.blow()
        assert await asyncio.gather(*limited) == [0, 2, 4]


async def test_what_the_program_that_has_sent_it_leaves_behind_is_stopped(tmp_path: Path) -> None:
    async with Node(Supervisor(Pool(size=1, name="cpu", grace=0.05))):
        client = await spawn(Client)
        await Client.sleeps(client, tmp_path / "started")
        await there(tmp_path / "started")
        await Client.die(client)
        assert await cpu.run(double, 2) == 4


async def test_a_task_that_asks_for_more_memory_than_its_limit_fails_alone() -> None:
    async with Node(Supervisor(Pool(size=1, name="cpu"))):
        with pytest.raises(MemoryError):
            await cpu.options(memory_limit="20MB").run(fill, 200 * 2**20)
        assert await cpu.run(double, 2) == 4


async def test_it_is_resized_and_restarted_as_any_pool() -> None:
    async with shared_node():
        ref = await spawn(Pool(size=1))
        pool = Pool.named(ref)
        assert await pool_of(pool.ref).resize(3) == 1
        before = set(await asyncio.gather(*(pool.run(pid) for _ in range(60))))
        assert len(before) == 3
        assert await pool_of(ref).restart() == 3
        assert not before & set(await asyncio.gather(*(pool.run(pid) for _ in range(60))))
        assert os.getpid() not in before
        await stop(ref)
        with pytest.raises(NoServerError):
            await pool.run(pid)


async def test_a_name_that_nobody_has_is_said() -> None:
    async with shared_node():
        with pytest.raises(NoServerError, match="'cpu'"):
            cpu.run(pid)


async def test_one_that_comes_later_under_the_name_is_found() -> None:
    async with shared_node():
        first = await spawn(Pool(size=1, name="cpu"))
        assert await cpu.run(double, 1) == 2
        await stop(first)
        with pytest.raises(NoServerError):
            await cpu.run(double, 1)
        await spawn(Pool(size=1, name="cpu"))
        assert await cpu.run(double, 2) == 4


async def test_a_server_is_no_pool() -> None:
    async with shared_node():
        ref = await spawn(Hasher)
        with pytest.raises(ConfigError, match="Hasher is one server, and no pool"):
            await pool_of(ref).resize(2)


async def test_a_task_whose_router_is_killed_holds_up_nobody(tmp_path: Path) -> None:
    started = tmp_path / "started"
    async with shared_node() as node:
        where = await spawn(Pool(size=1, grace=0.1))
        pool = Pool.named(where)
        task = pool.run(sleep_long, started)
        await there(started)
        node.kill(where)
        with pytest.raises(ServerExitedError, match="SIGKILL"):
            await task
        assert await pool.run(double, 4) == 8


async def test_a_node_that_stops_does_not_wait_for_a_pool_that_has_died(tmp_path: Path) -> None:
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()

    def hear(event: Event) -> None:
        if event.kind == "stopping":
            loop.call_soon_threadsafe(stopping.set)

    async with Node(Supervisor(Pool(size=1, name="cpu"))) as node:
        lane = await cpu.run(pid)
        running = cpu.run(sleep_long, tmp_path / "started")
        await there(tmp_path / "started")
        waiting = cpu.run(double, 1)
        node.on_event(hear)
        end = asyncio.ensure_future(node.stop())
        await stopping.wait()
        os.kill(lane, signal.SIGKILL)
        await end
    with pytest.raises(WorkerExitedError):
        await running
    with pytest.raises(NoexError):
        await waiting


async def test_a_pool_that_cannot_start_its_processes_again_says_why(tmp_path: Path) -> None:
    where = tmp_path / "database"
    where.touch()
    async with shared_node():
        ref = await spawn(Pool(size=1, initializer=open_it, initargs=(str(where),)))
        pool = Pool.named(ref)
        assert await pool.run(double, 1) == 2
        where.unlink()
        lane = await (await supervisor_of(ref)).get_child("members")
        assert isinstance(lane, SupervisorRef)
        (only,) = await lane.which_children()
        assert isinstance(only.ref, Ref)
        await stop(only.ref)
        with pytest.raises(PoolDownError, match="No such file"):
            await pool.run(double, 2)
        where.touch()
        assert await pool.run(double, 3) == 6


def open_it(path: str) -> None:
    with open(path):
        pass
