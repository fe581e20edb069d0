"""`Pool.of` on real processes: one address, many servers."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from noex_mp import (
    BadChildSpecError,
    CallTimedOutError,
    GenServer,
    InitFailedError,
    MailboxFullError,
    Node,
    NoServerError,
    Pool,
    Ref,
    ServerExitedError,
    Supervisor,
    UnencodableError,
    UnknownOperationError,
    call,
    child,
    named,
    pool_of,
    spawn,
    stop,
    supervisor,
    whereis,
)
from noex_mp.core.specs import ServerPool
from tests.nodes.observed import (
    ObservedNode,
    Whistles,
    shared_node,
)
from tests.servers.hashing import Hasher, Refused

pytestmark = pytest.mark.usefixtures("shared_nodes")

# As whoever runs no type checker has it.
of: Any = Pool.of


async def pids(ref: Ref[Hasher], count: int = 40) -> set[int]:
    return set(await asyncio.gather(*(Hasher.pid(ref) for _ in range(count))))


async def until_waiting(ref: Ref[Any], count: int) -> None:
    """Wait until so many messages wait in a pool."""
    while (await pool_of(ref).statistics()).waiting != count:
        pass


async def until_up(ref: Ref[Any], count: int) -> None:
    while (await pool_of(ref).statistics()).up != count:
        pass


class Busy:
    """Members that are busy until they are let go."""

    def __init__(self, whistles: Whistles) -> None:
        self._started, self._gate = whistles("started"), whistles("gate")
        self._calls: list[asyncio.Future[int]] = []
        self.paths = (self._started.path, self._gate.path)

    async def begins(self) -> None:
        """Wait until one more has begun."""
        await self._started.heard()

    async def __call__(self, ref: Ref[Hasher], count: int = 1) -> list[asyncio.Future[int]]:
        calls = [Hasher.wait_for(ref.within(None), *self.paths) for _ in range(count)]
        for _ in calls:
            await self.begins()
        self._calls += calls
        return calls

    def let_go(self, count: int = 1) -> None:
        self._gate.blow(count)


@pytest.fixture
def busy(whistles: Whistles) -> Busy:
    return Busy(whistles)


# --- an address like any other ------------------------------------------------------------


async def test_its_address_is_used_as_that_of_one_server() -> None:
    async with shared_node():
        ref = await spawn(Pool.of(Hasher, size=2))
        assert repr(ref).startswith("Ref(Hasher, ")
        assert await Hasher.digest(ref, b"") == await Hasher.digest(ref, data=b"")
        assert await Hasher.later(ref, 4) == 8
        assert await ref.is_running()
        assert os.getpid() not in await pids(ref)


async def test_all_of_them_work() -> None:
    async with shared_node():
        ref = await spawn(Pool.of(Hasher, size=3))
        assert len(await pids(ref)) == 3


async def test_errors_are_those_of_a_server() -> None:
    async with shared_node():
        ref = await spawn(Pool.of(Hasher, size=1))
        with pytest.raises(Refused, match="no"):
            await Hasher.refuse(ref, "no")
        with pytest.raises(TypeError, match=r"Hasher\.digest\(\) missing 1"):
            await Hasher.digest(ref)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        with pytest.raises(UnknownOperationError, match="Hasher has no callback for this message"):
            await ref.call("what?")
        with pytest.raises(UnencodableError):
            await Hasher.digest(ref, lambda: 0)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        with pytest.raises(ServerExitedError) as failure:
            await Hasher.crash(ref)
        assert isinstance(failure.value.__cause__, RuntimeError)
        assert failure.value.report.message is not None
        assert failure.value.report.message.operation == "crash"


def local_pool() -> tuple[Any, ServerPool[Any]]:
    """Return a class that has no name elsewhere, and a pool of it with rules that have none."""
    rest = 3

    class LocalError(Exception):
        pass

    class Local(GenServer[Any, Any, Any], expected=(LocalError,)):
        Error = LocalError

        def __init__(self, start: int = 0) -> None:
            self.start = start

        @call
        def get(self, key: int) -> tuple[int, int]:
            return os.getpid(), self.start + key

        @call
        def refuse(self, key: int) -> None:
            raise LocalError("no")

    key: Callable[[int], int] = lambda key: key % rest  # noqa: E731 - it is to have no name
    return Local, Pool.of(child(Local, 5), size=3, routing="key", key=key, name="locals")


async def use_local_pool(local: Any, ref: Ref[Any]) -> None:
    replies = await asyncio.gather(*(local.get(ref, n) for n in range(12)))
    assert [value for _, value in replies] == [n + 5 for n in range(12)]
    os_pids = [os_pid for os_pid, _ in replies]
    assert all(len(set(os_pids[n::3])) == 1 for n in range(3))
    with pytest.raises(local.Error, match="no"):
        await local.refuse(ref, 1)
    os.kill(os_pids[0], signal.SIGKILL)
    await pool_of(ref).restart()
    assert (await local.get(ref, 1))[1] == 6


async def test_servers_of_a_class_that_has_no_name_elsewhere() -> None:
    local, pool = local_pool()
    async with shared_node():
        await use_local_pool(local, await spawn(pool))


async def test_servers_of_a_class_that_has_no_name_elsewhere_in_a_tree() -> None:
    local, pool = local_pool()
    async with ObservedNode(Supervisor(pool)):
        await use_local_pool(local, named("locals", local))


async def test_casts_are_done_in_their_order(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    async with shared_node():
        ref = await spawn(Pool.of(child(Hasher, str(diary)), size=1))
        for n in range(100):
            await Hasher.remember(ref, n)
        assert await Hasher.recall(ref) == list(range(100))
        await pool_of(ref).drain()
        assert diary.read_text().split() == [str(n) for n in range(100)]


async def test_what_is_in_the_way_of_a_dead_member_goes_to_another(busy: Busy) -> None:
    async with shared_node() as node:
        ref = await spawn(Pool.of(Hasher, size=1, in_flight=3))
        (call,) = await busy(ref)
        # These two are with the member, and have not begun; the third waits here.
        others = [Hasher.digest(ref.within(None), b"x") for _ in range(3)]
        await until_waiting(ref, 1)
        (member,) = [each for each in await node.ps() if each["id"] == "Hasher"]
        os.kill(member["os_pid"], signal.SIGKILL)
        with pytest.raises(ServerExitedError, match="SIGKILL"):
            await call
        assert len(set(await asyncio.gather(*others))) == 1


async def test_a_death_costs_the_one_call_that_had_begun() -> None:
    async with shared_node():
        ref = await spawn(Pool.of(Hasher, size=2))
        calls = [Hasher.digest(ref, b"x") for _ in range(200)]
        killed = Hasher.die(ref)
        calls += [Hasher.digest(ref, b"x") for _ in range(200)]
        assert len(await asyncio.gather(*calls)) == 400
        with pytest.raises(ServerExitedError, match="Hasher ended in the middle of the call"):
            await killed
        await until_up(ref, 2)


async def test_what_may_run_twice_is_run_again(tmp_path: Path) -> None:
    async with shared_node():
        ref = await spawn(Pool.of(Hasher, size=2))
        assert await Hasher.die_once(ref, str(tmp_path / "mark")) != os.getpid()


async def test_work_whose_time_is_over_is_not_begun(busy: Busy, tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    async with shared_node():
        ref = await spawn(Pool.of(child(Hasher, str(diary)), size=1))
        (call,) = await busy(ref)
        with pytest.raises(CallTimedOutError):
            await Hasher.note(ref.within(0.05), "late", 1)
        cancelled = Hasher.note(ref.within(None), "cancelled", 1)
        await until_waiting(ref, 1)
        cancelled.cancel()
        await until_waiting(ref, 0)
        busy.let_go()
        await call
        await Hasher.note(ref, "wanted", 1)
        assert diary.read_text().split()[::3] == ["wanted"]


async def test_a_member_whose_call_is_given_up_gets_no_other_before_it_is_free(busy: Busy) -> None:
    async with shared_node():
        ref = await spawn(Pool.of(Hasher, size=2))
        first, second = await busy(ref, 2)
        first.cancel()
        second.cancel()
        waiting = [Hasher.pid(ref.within(None)) for _ in range(2)]
        await until_waiting(ref, 2)
        busy.let_go()
        # One of the two is free, and does both.
        assert len(set(await asyncio.gather(*waiting))) == 1
        busy.let_go()


async def test_a_killed_router_fails_what_it_had_and_finds_its_members_again(busy: Busy) -> None:
    async with shared_node() as node:
        ref = await spawn(Pool.of(Hasher, size=2))
        before = await pids(ref)
        calls = await busy(ref, 2)
        node.kill(ref)
        for call in calls:
            with pytest.raises(ServerExitedError, match="SIGKILL"):
                await call
        busy.let_go(2)
        assert await pids(ref.within(None)) == before


async def test_a_pool_in_a_tree_has_its_name_and_its_place() -> None:
    tree = Supervisor(
        Supervisor(Pool.of(Hasher, size=2, name="hashers"), id="inner"), Pool.of(Hasher, size=1)
    )
    async with Node(tree) as node:
        assert len(await pids(named("hashers", Hasher))) == 2
        found = await node.ps()
        assert {each["server"] for each in found} == {"Hasher"}
        assert Counter(each["path"] for each in found) == {
            "/inner/hashers/router": 1,
            "/inner/hashers/members/Hasher": 2,
            "/Hasher-pool/router": 1,
            "/Hasher-pool/members/Hasher": 1,
        }
        members = await supervisor("/inner/hashers/members").count_children()
        assert members.active == 2


async def test_stop_ends_the_whole_pool_once_it_has_done_what_it_had(busy: Busy) -> None:
    async with shared_node() as node:
        ref = await spawn(Pool.of(Hasher, size=2))
        calls = await busy(ref, 2)
        calls += [Hasher.pid(ref) for _ in range(5)]
        await until_waiting(ref, 5)
        stopping = asyncio.create_task(stop(ref))
        while await ref.is_running():
            pass
        busy.let_go(2)
        await asyncio.gather(*calls)
        await stopping
        assert await node.ps() == []
        with pytest.raises(NoServerError):
            await Hasher.pid(ref)


async def test_stop_in_the_middle_of_a_resize_loses_nothing(busy: Busy) -> None:
    async with shared_node():
        ref = await spawn(Pool.of(Hasher, size=2))
        calls = await busy(ref, 2)
        replies = pool_of(ref).broadcast(Hasher.pid)
        await until_waiting(ref, 2)
        resizing = pool_of(ref).resize(1)
        while (await pool_of(ref).statistics()).size != 1:
            pass
        stopping = asyncio.create_task(stop(ref))
        while await ref.is_running():
            pass
        busy.let_go(2)
        await asyncio.gather(*calls)
        assert len(await replies) == 2
        await stopping
        with pytest.raises(NoServerError):
            await resizing


async def test_a_member_that_does_not_start_fails_the_pool() -> None:
    async with shared_node() as node:
        with pytest.raises(InitFailedError, match=r"takes from 1 to 2 positional"):
            await spawn(Pool.of(child(Hasher, "diary", "more"), size=2))  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        assert await node.ps() == []


async def test_reload_loses_no_call() -> None:
    async with Node() as node:
        ref = (await spawn(Pool.of(Hasher, size=2))).within(None)
        before = await pids(ref)
        reloading = asyncio.create_task(node.reload())
        done = 0
        while not reloading.done():
            await asyncio.gather(*(Hasher.digest(ref, b"x") for _ in range(20)))
            done += 20
        assert (await reloading).replaced == 3
        assert done
        assert not before & await pids(ref)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: of(Hasher, size=0), ValueError, "size must be greater than 0"),
        (lambda: of(Hasher, routing="fair"), ValueError, "expected routing to be "),
        (lambda: of(Hasher, key=len), ValueError, 'key= is for routing="key"'),
        (lambda: of(Hasher, limit=0), ValueError, "expected limit to be"),
        (lambda: of(Hasher, limit=2.5), ValueError, "expected limit to be a whole number"),
        (lambda: of(Hasher, ttl="soon"), ValueError, "expected ttl to be seconds"),
        (lambda: of(Hasher, discard="all"), ValueError, "expected discard to be"),
        (lambda: of(Hasher, min_size=3, max_size=2), ValueError, "min_size <= size"),
        (lambda: of(child(Hasher).options(name="a")), BadChildSpecError, 'Pool.of(..., name="a")'),
        (lambda: of(child(Hasher).options(restart="temporary")), BadChildSpecError, "'temporary'"),
        (lambda: of(len), BadChildSpecError, "expected a GenServer for the pool"),
    ],
)  # fmt: skip
def test_a_wrong_description_is_refused(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as failure:
        make()
    assert text in str(failure.value)


# --- who gets what -----------------------------------------------------------------------


async def test_each_in_turn() -> None:
    async with shared_node():
        ref = await spawn(Pool.of(Hasher, size=3, routing="round_robin"))
        found = [await Hasher.pid(ref) for _ in range(9)]
        assert found == found[:3] * 3
        assert len(set(found)) == 3


def same(key: str, value: int) -> str:
    return key


@pytest.mark.parametrize("key", [None, same])
async def test_a_key_has_one_member_and_keeps_its_order_also_across_a_resize(
    key: Any, tmp_path: Path
) -> None:
    diary = tmp_path / "diary"
    async with shared_node():
        pool = Pool.of(child(Hasher, str(diary)), size=2, routing="key", key=key)
        ref = (await spawn(pool)).within(None)
        calls: list[Awaitable[int]] = []
        for n in range(400):
            calls.append(Hasher.note(ref, f"key{n % 7}", n))
            if n in (100, 200, 300):
                calls.append(pool_of(ref).resize({100: 4, 200: 1, 300: 3}[n]))
        await asyncio.gather(*calls)
        lines = [line.split() for line in diary.read_text().splitlines()]
        assert len(lines) == 400
        for key in range(7):
            values = [int(value) for name, value, _ in lines if name == f"key{key}"]
            assert values == sorted(values)
        assert len({await Hasher.note(ref, "alone", n) for n in range(10)}) == 1
        assert len({await Hasher.note(ref, f"many {n}", n) for n in range(40)}) == 3


async def test_a_key_whose_member_dies_waits_for_it(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    async with shared_node() as node:
        ref = (await spawn(Pool.of(child(Hasher, str(diary)), size=3, routing="key"))).within(None)
        os_pid = await Hasher.note(ref, "a", -1)
        calls = [Hasher.note(ref, "a", n) for n in range(50)]
        os.kill(os_pid, signal.SIGKILL)
        calls += [Hasher.note(ref, "a", n) for n in range(50, 100)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        failed = [each for each in results if isinstance(each, ServerExitedError)]
        assert len(failed) <= 1
        lines = [line.split() for line in diary.read_text().splitlines()]
        values = [int(value) for _, value, _ in lines]
        assert values == sorted(values)
        assert await Hasher.note(ref, "a", 100) != os_pid
        assert node.seen


async def test_a_caller_sticks_to_its_member() -> None:
    async with shared_node():
        ref = await spawn(Pool.of(Hasher, size=3, routing="sticky"))
        assert len(await pids(ref)) == 1
        others = await asyncio.gather(*(asyncio.to_thread(Hasher.pid.sync, ref) for _ in range(2)))
        assert not {*others} & await pids(ref)


def always_the_first(members: int) -> int:
    return members * 2


def by_length(members: int, data: bytes) -> int:
    return len(data)


async def test_a_function_decides() -> None:
    async with shared_node():
        ref = await spawn(Pool.of(Hasher, size=2, routing=always_the_first))
        assert len(await pids(ref)) == 1
        strange = await spawn(Pool.of(Hasher, size=2, routing=by_length))
        await Hasher.digest(strange, b"x")
        # What it raises is the caller's, and the pool lives on.
        with pytest.raises(TypeError, match="by_length"):
            await Hasher.pid(strange)
        await Hasher.digest(strange, b"x")


# --- the pool itself ---------------------------------------------------------------------


async def test_resize() -> None:
    async with shared_node():
        ref = await spawn(Pool.of(Hasher, size=1))
        pool = pool_of(ref)
        assert await pool.resize(3) == 1
        grown = await pids(ref)
        assert len(grown) == 3
        assert await pool.resize(2) == 3
        assert await pids(ref) < grown
        assert (await pool.statistics()).size == 2


async def test_a_resize_goes_on_after_the_death_of_its_router(busy: Busy) -> None:
    async with shared_node() as node:
        ref = (await spawn(Pool.of(Hasher, size=3))).within(None)
        calls = await busy(ref, 3)
        resizing = pool_of(ref).resize(1)
        while (await pool_of(ref).statistics()).size != 1:
            pass
        node.kill(ref)
        await asyncio.gather(*calls, return_exceptions=True)
        busy.let_go(3)
        await resizing
        assert (await pool_of(ref).statistics()).size == 1
        assert len(await pids(ref)) == 1
        # Nobody is there to ask for it again.
        node.kill(ref)
        assert await pool_of(ref).restart() == 1


async def test_a_rolling_restart_goes_on_after_the_death_of_its_router(busy: Busy) -> None:
    async with shared_node() as node:
        ref = (await spawn(Pool.of(Hasher, size=2))).within(None)
        before = await pids(ref)
        calls = await busy(ref, 2)
        restarting = pool_of(ref).restart()
        while sum(each["id"] == "Hasher" for each in await node.ps()) < 3:
            pass
        node.kill(ref)
        await asyncio.gather(*calls, return_exceptions=True)
        busy.let_go(2)
        assert await restarting >= 2
        assert (await pool_of(ref).statistics()).size == 2
        assert not before & await pids(ref)


async def test_what_was_asked_for_outlives_the_router_and_the_pool(busy: Busy) -> None:
    tree = Supervisor(Pool.of(Hasher, size=1, name="hashers"))
    async with ObservedNode(tree) as node:
        ref = named("hashers", Hasher).within(None)
        await pool_of(ref).limit(1, "oldest")
        router = whereis("hashers", Hasher)
        assert router is not None
        node.kill(router)
        (call,) = await busy(ref)
        waiting = [Hasher.pid(ref) for _ in range(2)]
        with pytest.raises(MailboxFullError):
            await waiting[0]
        busy.let_go()
        assert await waiting[1] == await call
        await pool_of(ref).resize(2)
        await supervisor("/").terminate_child("hashers")
        await supervisor("/").restart_child("hashers")
        assert (await pool_of(ref).statistics()).size == 2


async def test_a_rolling_restart_loses_no_call_and_needs_no_room() -> None:
    async with shared_node():
        ref = (await spawn(Pool.of(Hasher, size=2))).within(None)
        before = await pids(ref)
        restarting = pool_of(ref).restart()
        while not restarting.done():
            await asyncio.gather(*(Hasher.digest(ref, b"x") for _ in range(20)))
            assert (await pool_of(ref).statistics()).size >= 2
        assert await restarting == 2
        after = await pids(ref)
        assert len(after) == 2
        assert not before & after


async def test_a_member_that_dies_in_a_rolling_restart_costs_its_call_alone(busy: Busy) -> None:
    async with shared_node() as node:
        ref = (await spawn(Pool.of(Hasher, size=1))).within(None)
        (call,) = await busy(ref)
        (old,) = [each["os_pid"] for each in await node.ps() if each["id"] == "Hasher"]
        restarting = pool_of(ref).restart()
        # The new one takes what the old one cannot.
        assert await Hasher.pid(ref) != old
        os.kill(old, signal.SIGKILL)
        with pytest.raises(ServerExitedError, match="SIGKILL"):
            await call
        assert await restarting == 1
        assert old not in await pids(ref)


async def test_broadcast_reaches_each(busy: Busy) -> None:
    async with shared_node():
        ref = await spawn(Pool.of(Hasher, size=3))
        await pool_of(ref).broadcast(Hasher.remember, "all")
        assert await pool_of(ref).broadcast(Hasher.recall) == [["all"]] * 3
        assert len(set(await pool_of(ref).broadcast(Hasher.pid))) == 3
        with pytest.raises(Refused):
            await pool_of(ref).broadcast(Hasher.refuse, "no")
        (call,) = await busy(ref)
        waiting = pool_of(ref).broadcast(Hasher.pid)
        await until_waiting(ref, 1)
        busy.let_go()
        assert await call in await waiting


async def test_drain_waits_for_what_was_sent_before(busy: Busy) -> None:
    async with shared_node():
        ref = await spawn(Pool.of(Hasher, size=1))
        (call,) = await busy(ref)
        last = Hasher.pid(ref.within(None))
        draining = pool_of(ref).drain()
        await until_waiting(ref, 1)
        assert not draining.done()
        busy.let_go()
        await draining
        assert call.done()
        assert last.done()


async def test_priorities(busy: Busy, tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    async with shared_node():
        ref = (await spawn(Pool.of(child(Hasher, str(diary)), size=1))).within(None)
        calls = await busy(ref)
        for priority in (0, 2, 1, 2):
            urgent = pool_of(ref).options(priority=priority)
            calls.append(Hasher.note(urgent, "p", priority))
        await until_waiting(ref, 4)
        busy.let_go()
        await asyncio.gather(*calls)
        assert diary.read_text().split()[1::3] == ["2", "2", "1", "0"]


async def test_what_has_waited_too_long_is_refused(busy: Busy) -> None:
    async with shared_node():
        ref = (await spawn(Pool.of(Hasher, size=1, ttl=0.05))).within(None)
        (call,) = await busy(ref)
        longer = Hasher.pid(pool_of(ref).options(ttl=60))
        with pytest.raises(CallTimedOutError, match=r"Hasher\.pid"):
            await Hasher.pid(ref)
        assert (await pool_of(ref).statistics()).discarded == 1
        busy.let_go()
        assert await longer == await call


@pytest.mark.parametrize(("discard", "refused"), [("oldest", 0), ("newest", 2)])
async def test_more_than_may_wait_is_refused_and_the_limit_can_be_changed(
    busy: Busy, discard: Any, refused: int
) -> None:
    async with shared_node():
        ref = (await spawn(Pool.of(Hasher, size=1, limit=2, discard=discard))).within(None)
        await busy(ref)
        calls = [Hasher.digest(ref, b"x") for _ in range(3)]
        with pytest.raises(MailboxFullError):
            await calls[refused]
        left = [call for call in calls if call is not calls[refused]]
        await pool_of(ref).limit(3)
        left.append(Hasher.digest(ref, b"x"))
        await until_waiting(ref, 3)
        # Which one goes is as before.
        await pool_of(ref).limit(2)
        with pytest.raises(MailboxFullError):
            await left[refused]
        await pool_of(ref).limit(1, discard)
        results_soon = asyncio.gather(*left, return_exceptions=True)
        busy.let_go()
        results = Counter(type(each).__name__ for each in await results_soon)
        assert results == {"str": 1, "MailboxFullError": 2}


async def test_it_grows_when_messages_wait_and_shrinks_when_it_has_nothing_to_do(
    busy: Busy,
) -> None:
    async with shared_node():
        pool = Pool.of(Hasher, min_size=1, max_size=2, scale_after=0.02)
        ref = (await spawn(pool)).within(None)
        assert (await pool_of(ref).statistics()).size == 1
        (call,) = await busy(ref)
        # Nobody else could do it.
        assert await Hasher.pid(ref) > 0
        assert (await pool_of(ref).statistics()).size == 2
        busy.let_go()
        await call
        while (await pool_of(ref).statistics()).size != 1:
            pass
