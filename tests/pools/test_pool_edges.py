"""Pools of servers where several things come together, and where what they are told is wrong."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgpack
import pytest

from noex_mp import (
    CallTimedOutError,
    ConfigError,
    NoexError,
    Pool,
    Ref,
    Supervisor,
    child,
    pool_of,
    spawn,
)
from noex_mp.client.supervisors import SupervisorRef, supervisor_of
from noex_mp.pools.routing import by_key
from tests.nodes.observed import ObservedNode, shared_node
from tests.pools.gates import there
from tests.pools.tasks import mark
from tests.pools.test_server_pools import Busy, busy, pids, until_waiting
from tests.servers.hashing import Alone, FailsLate, Hasher

__all__ = ["busy"]

pytestmark = pytest.mark.usefixtures("shared_nodes")


async def sids(ref: Ref[Hasher]) -> list[int]:
    """Return the numbers of the servers of a pool."""
    members = await (await supervisor_of(ref)).get_child("members")
    assert isinstance(members, SupervisorRef)
    refs = [each.ref for each in await members.which_children()]
    return [ref.sid for ref in refs if isinstance(ref, Ref)]


# --- what is asked for -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"priority": "high"}, TypeError, "expected priority to be a whole number, got 'high'"),
        ({"priority": 1.5}, TypeError, "expected priority to be a whole number, got 1.5"),
        ({"ttl": float("nan")}, ValueError, "expected ttl to be seconds above zero, or None"),
    ],
)
async def test_a_wrong_option_of_a_message_is_refused_where_it_is_given(
    options: Any, error: type[Exception], text: str
) -> None:
    async with shared_node():
        ref = await spawn(Pool.of(Hasher, size=1))
        with pytest.raises(error, match=text):
            pool_of(ref).options(**options)


async def test_a_size_that_cannot_be_is_refused() -> None:
    async with shared_node():
        pool: Any = pool_of(await spawn(Pool.of(Hasher, min_size=1, max_size=2)))
        with pytest.raises(TypeError, match="expected size to be a whole number, got None"):
            pool.resize(None)
        with pytest.raises(ValueError, match="expected min_size <= size <= max_size, got 1, 3, 2"):
            await pool.resize(3)
        with pytest.raises(ValueError, match="at most 32,768 processes, got 1,000,000,000,000"):
            await pool.resize(10**12)
        assert (await pool.statistics()).size == 1


async def test_a_resize_goes_no_further_once_another_size_is_asked_for() -> None:
    async with shared_node():
        ref = await spawn(Pool.of(Hasher, size=1))
        many = pool_of(ref).resize(300)
        few = pool_of(ref).resize(2)
        assert (await many, await few) == (1, 300)
        assert len(await pids(ref)) == 2
        # The rest was never started: the next has one of the numbers that follow.
        await pool_of(ref).resize(3)
        assert max(await sids(ref)) < ref.sid + 100


async def test_the_same_size_asked_for_twice_is_there_for_both_at_the_same_time(
    busy: Busy,
) -> None:
    async with shared_node():
        ref = await spawn(Pool.of(Hasher, size=2))
        pool = pool_of(ref)
        await busy(ref, 2)
        sizes = [pool.resize(1), pool.resize(1)]
        for _ in range(20):
            await pool.statistics()
        assert not any(each.done() for each in sizes)
        busy.let_go(2)
        assert await asyncio.gather(*sizes) == [2, 1]
        assert len(await sids(ref)) == 1


# --- who gets a message --------------------------------------------------------------------


def by_shard(count: int, shard: str, _: Any = None) -> Any:
    """Say which server has a shard, as a function that has its faults."""
    if shard == "exit":
        raise SystemExit(3)
    if shard == "text":
        return "the first"
    if not shard.isdigit():
        return count - 1
    if int(shard) >= count:
        raise LookupError(f"there is no shard {shard} of {count}")
    return int(shard)


@pytest.mark.parametrize(
    ("shard", "says"),
    [
        ("exit", r"by_shard, which says who gets a message, ended with SystemExit\(3\)"),
        ("text", "the routing function of Hasher returned 'the first'"),
    ],
)
async def test_what_is_wrong_with_a_routing_function_is_the_callers_alone(
    shard: str, says: str
) -> None:
    async with shared_node():
        ref = await spawn(Pool.of(Hasher, size=2, routing=by_shard))
        with pytest.raises(ConfigError, match=says):
            await Hasher.note(ref, shard, 1)
        assert await Hasher.note(ref, "1", 2) > 0
        await pool_of(ref).drain()


async def test_what_waits_for_a_server_that_leaves_ends_also_where_the_function_fails(
    busy: Busy,
) -> None:
    async with shared_node():
        ref = (await spawn(Pool.of(Hasher, size=2, routing=by_shard))).within(None)
        (running,) = await busy(ref)
        waiting = [Hasher.note(ref, "1", n) for n in range(3)]
        await until_waiting(ref, 3)
        resizing = pool_of(ref).resize(1)
        while (await pool_of(ref).statistics()).size != 1:
            pass
        busy.let_go()
        await running
        for call in waiting:
            with pytest.raises(LookupError, match="there is no shard 1 of 1"):
                await call
        assert await resizing == 2
        await pool_of(ref).drain()


async def test_a_key_is_the_first_parameter_however_it_is_passed() -> None:
    async with shared_node():
        ref = await spawn(Pool.of(Hasher, size=8, routing="key"))
        expected = await Hasher.note(ref, "alice", 0)
        assert {await Hasher.note(ref, value=n, key="alice") for n in range(9)} == {expected}
        with pytest.raises(ConfigError, match="the first one is the key"):
            await Hasher.note(ref, value=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


GROWN = 6


async def a_key_that_moves(ref: Ref[Hasher]) -> str:
    """Return a key that goes to a new server when the pool of one server grows."""
    (first,) = await sids(ref)
    newest = max(first, ref.sid)
    numbers = [first, *range(newest + 1, newest + GROWN)]
    keys = (f"key {n}" for n in range(1_000))
    return next(key for key in keys if by_key(msgpack.packb([key]), numbers) != first)


async def test_a_cast_that_waits_for_room_keeps_its_key_also_when_its_server_dies(
    busy: Busy,
) -> None:
    async with ObservedNode() as node:
        one = child(Hasher).options(max_messages=1)
        ref = (await spawn(Pool.of(one, size=1, in_flight=4, routing="key"))).within(None)
        alice = pool_of(ref).options(key=await a_key_that_moves(ref))
        alice.cast([*busy.paths])
        await busy.begins()
        alice.cast([*busy.paths])
        alice.cast([*busy.paths])
        while (await pool_of(ref).statistics()).in_flight != 3:
            pass
        (member,) = await sids(ref)
        node.kill(Ref(ref.node, member))
        await busy.begins()
        await pool_of(ref).resize(GROWN)
        second = Hasher.pid(alice.within(None))
        while not second.done() and (await pool_of(ref).statistics()).in_flight != 3:
            pass
        # It is behind them.
        assert not second.done()
        busy.let_go(2)
        assert await second > 0


@pytest.mark.parametrize("how", ["timeout", "cancel", "cast"])
async def test_a_key_keeps_its_order_behind_what_nobody_waits_for_any_more(
    busy: Busy, how: str
) -> None:
    async with shared_node():
        ref = (await spawn(Pool.of(Hasher, size=1, routing="key"))).within(None)
        alice = pool_of(ref).options(key=await a_key_that_moves(ref)).within(None)
        if how == "cast":
            alice.cast([*busy.paths])
            await busy.begins()
        elif how == "cancel":
            call = Hasher.wait_for(alice, *busy.paths)
            await busy.begins()
            call.cancel()
        else:
            call = Hasher.wait_for(alice.within(1.0), *busy.paths)
            await busy.begins()
            with pytest.raises(CallTimedOutError):
                await call
        await pool_of(ref).resize(GROWN)
        second = Hasher.pid(alice)
        # It would not wait if it could overtake.
        await until_waiting(ref, 1)
        drained = pool_of(ref).drain()
        assert (await pool_of(ref).statistics()).waiting == 1
        assert not drained.done()
        busy.let_go()
        assert await second > 0
        await drained


# --- how many ------------------------------------------------------------------------------


async def test_a_server_that_does_not_start_is_not_tried_again_at_once(
    busy: Busy, tmp_path: Path
) -> None:
    diary = tmp_path / "diary"
    scale_after = 0.02
    async with shared_node():
        alone = child(Alone, str(diary))
        pool = Pool.of(alone, min_size=1, max_size=2, scale_after=scale_after)
        ref = (await spawn(pool)).within(None)
        (call,) = await busy(ref)
        waiting = Hasher.pid(ref)
        while len(tries := [float(line) for line in diary.read_text().split()]) < 4:
            await pool_of(ref).statistics()
        busy.let_go()
        assert await waiting == await call
        pauses = [later - sooner for sooner, later in pairwise(tries[1:])]
        assert all(pause >= 10 * scale_after for pause in pauses)


async def test_a_size_that_was_asked_for_outlives_a_start_that_fails(
    busy: Busy, tmp_path: Path
) -> None:
    diary, go_on = tmp_path / "diary", tmp_path / "go on"
    async with shared_node():
        late = child(FailsLate, str(diary), str(go_on))
        ref = (await spawn(Pool.of(late, min_size=1, max_size=3, scale_after=0.02))).within(None)
        (call,) = await busy(ref)
        waiting = Hasher.pid(ref)
        # It scales, and that start is on its way.
        while diary.read_text().count("\n") < 2:
            await pool_of(ref).statistics()
        asked = pool_of(ref).resize(3)
        # That is known now: what was asked later is answered.
        await pool_of(ref).statistics()
        go_on.touch()
        assert await asked in (1, 2)
        assert await waiting > 0
        assert (await pool_of(ref).statistics()).size == 3
        busy.let_go()
        await call


async def test_one_more_idle_server_does_not_help_a_busy_key(busy: Busy) -> None:
    scale_after = 0.02
    async with shared_node():
        pool = Pool.of(Hasher, min_size=1, max_size=4, scale_after=scale_after, routing="key")
        ref = (await spawn(pool)).within(None)
        (call,) = await busy(pool_of(ref).options(key="hot"))
        waiting = Hasher.pid(pool_of(ref).options(key="hot").within(None))
        sizes = [0]
        while (now := await pool_of(ref).statistics()).oldest < 30 * scale_after:
            sizes += [now.size] * (now.size != sizes[-1])
        assert sizes in ([0, 1, 2], [0, 2])
        busy.let_go()
        assert await waiting == await call


# --- all of them ---------------------------------------------------------------------------


async def test_a_broadcast_reaches_those_that_are_leaving(busy: Busy) -> None:
    async with shared_node():
        ref = (await spawn(Pool.of(Hasher, size=1))).within(None)
        (call,) = await busy(ref)
        everybody = pool_of(ref).broadcast(Hasher.pid)
        await until_waiting(ref, 1)
        restarting = pool_of(ref).restart()
        # The other is busy, so this is the new one.
        new = await Hasher.pid(ref)
        busy.let_go()
        assert await everybody == [await call]
        assert await restarting == 1
        assert new != await call


async def test_a_broadcast_that_is_cancelled_is_so_for_each(whistles: Any) -> None:
    started = whistles("started")
    async with shared_node():
        ref = (await spawn(Pool.of(Hasher, size=2))).within(None)
        everybody = pool_of(ref).broadcast(Hasher.forget, started.path)
        await started.heard()
        await started.heard()
        everybody.cancel()
        # They would never be free again.
        assert len(await pool_of(ref).broadcast(Hasher.pid)) == 2


async def test_the_log_hears_of_a_cast_that_fails() -> None:
    async with ObservedNode() as node:
        ref: Any = await spawn(Pool.of(Hasher, size=1))
        Hasher.remember(ref)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        assert "Hasher.remember: TypeError" in await node.line("missing 1 required")
        rule: Any = await spawn(Pool.of(Hasher, size=1, routing=by_shard))
        Hasher.remember(rule, "exit")
        assert "Hasher.remember: ConfigError" in await node.line("ended with SystemExit")


# --- the end -------------------------------------------------------------------------------


async def test_a_task_keeps_its_tree_no_longer_than_its_pool_says(tmp_path: Path) -> None:
    started, gate = tmp_path / "started", tmp_path / "gate"
    tree = Supervisor(Pool(size=1, name="cpu", shutdown=0.1))
    async with ObservedNode(tree):
        task = Pool.named("cpu").run(_for_ever, str(started), str(gate))
        await there(started)
    with pytest.raises(NoexError):
        await task


def _for_ever(started: str, gate: str) -> None:
    mark(Path(started))
    while not Path(gate).exists():
        pass
