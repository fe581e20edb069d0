"""Processes that are killed while they share, send, read or pass on a value."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import resource
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
import pytest

from noex_mp import (
    CallTimedOutError,
    ServerExitedError,
    SharedValueGoneError,
    Supervisor,
    child,
    named,
    shared,
    spawn,
    stop,
)
from noex_mp.node import leases
from noex_mp.transport import arena
from noex_mp.wire import cut_over
from noex_mp.wire.codec import BIG
from tests.nodes.observed import ObservedNode
from tests.nodes.test_shared import SIZE, file, is_leased, memory, soon
from tests.servers.sharing import Reader, where

MIB = 2**20
LARGE = 4 * MIB  # of floats

pytestmark = pytest.mark.linux_only("values are copied where there are no memfds")


@pytest.fixture(autouse=True)
def cold(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep no memory for the next value, in this process, and the leases of the dead not long."""
    monkeypatch.setattr(arena, "WARM", 0)
    monkeypatch.setattr(leases, "GRACE", 0.2)
    # Whatever was measured beside all that runs.
    monkeypatch.setattr(cut_over.here, "shared_from", BIG)
    yield
    gc.collect()


async def test_a_reader_that_is_killed_gives_its_lease_back() -> None:
    async with ObservedNode() as node:
        reader = await spawn(Reader)
        value = shared(np.full(SIZE, 2.0))
        await Reader.keep(reader, value)
        assert is_leased()
        del value
        assert memory() > 8 * SIZE
        os.kill(await Reader.os_pid(reader), signal.SIGKILL)
        await node.event("crashed", reader)
        await soon(lambda: memory() == 0)


async def test_a_result_outlives_its_worker_that_is_killed_right_after() -> None:
    async with ObservedNode() as node:
        reader = await spawn(Reader)
        await Reader.make_and_keep(reader, SIZE, 3.0)
        given = await Reader.give_and_die(reader)
        assert "noex-mp-shared" in where(given)
        await node.event("crashed", reader)
        # Long after its leases have ended, too, and where others put values meanwhile.
        await soon(lambda: not node_holds(node))
        others = [await Reader.make(reader, SIZE, 4.0) for _ in range(3)]
        assert float(given.sum()) == 3.0 * SIZE
        await stop(reader)
        del others
        await soon(lambda: not node_holds(node) and memory() < 1.1 * 8 * SIZE + 8192)
        assert float(given.sum()) == 3.0 * SIZE
        del given
        assert memory() == 0


def node_holds(node: ObservedNode) -> bool:
    root = node._root  # pyright: ignore[reportPrivateUsage]
    assert root is not None
    return bool(root._leases._of_dead)  # pyright: ignore[reportPrivateUsage]


async def test_a_result_that_was_only_passed_on_outlives_that_worker_too() -> None:
    async with ObservedNode():
        reader = await spawn(Reader)
        value = shared(np.full(SIZE, 5.0))
        await Reader.keep(reader, value)
        del value
        given = await Reader.give_and_die(reader)
        others = [shared(np.full(SIZE, 6.0)) for _ in range(3)]
        assert float(given.sum()) == 5.0 * SIZE
        del others


async def test_what_the_dead_have_shared_is_read_on_by_others() -> None:
    async with ObservedNode() as node:
        owner, reader = [await spawn(Reader) for _ in range(2)]
        made = await Reader.make_and_keep(owner, SIZE, 7.0)
        await Reader.keep(reader, made)
        del made
        os.kill(await Reader.os_pid(owner), signal.SIGKILL)
        await node.event("crashed", owner)
        await soon(lambda: not node_holds(node))
        assert await Reader.total_kept(reader) == [7.0 * SIZE]
        assert memory() > 8 * SIZE
        await Reader.drop(reader)
        await soon(lambda: memory() == 0)


async def test_a_value_that_is_on_its_way_waits_for_a_worker_that_is_stopped() -> None:
    async with ObservedNode():
        reader = await spawn(Reader)
        os_pid = await Reader.os_pid(reader)
        os.kill(os_pid, signal.SIGSTOP)
        sent = [Reader.keep_quietly(reader, shared(np.full(SIZE, float(n)))) for n in range(3)]
        await asyncio.gather(*sent)
        total = Reader.total(reader, shared(np.full(SIZE, 8.0)))
        others = [shared(np.full(SIZE, 9.0)) for _ in range(5)]
        os.kill(os_pid, signal.SIGCONT)
        assert await total == 8.0 * SIZE
        assert await Reader.total_kept(reader) == [float(n) * SIZE for n in range(3)]
        del others


async def test_a_value_that_is_on_its_way_to_one_that_is_killed_is_let_go() -> None:
    async with ObservedNode() as node:
        reader = await spawn(Reader)
        os_pid = await Reader.os_pid(reader)
        os.kill(os_pid, signal.SIGSTOP)
        await Reader.keep_quietly(reader, shared(np.full(SIZE, 1.0)))
        call = Reader.total(reader, shared(np.full(SIZE, 2.0)))
        assert memory() > 2 * 8 * SIZE
        os.kill(os_pid, signal.SIGKILL)
        await node.event("crashed", reader)
        # The call had not begun: it goes to the next incarnation, and so does its value.
        assert await call == 2.0 * SIZE
        del call
        await soon(lambda: memory() == 0)


async def test_a_call_that_was_given_up_reads_nothing_else() -> None:
    async with ObservedNode():
        reader = await spawn(Reader)
        os_pid = await Reader.os_pid(reader)
        os.kill(os_pid, signal.SIGSTOP)
        with pytest.raises(CallTimedOutError):
            await Reader.keep(reader.within(0.05), shared(np.full(SIZE, 1.0)))
        others = [shared(np.full(SIZE, 9.0)) for _ in range(5)]
        os.kill(os_pid, signal.SIGCONT)
        assert await Reader.total_kept(reader) == []
        del others


async def test_a_value_that_came_too_late_fails_its_call_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with ObservedNode():
        reader = await spawn(Reader)
        own = file()
        with monkeypatch.context() as forgetful:
            value = shared(np.full(SIZE, 1.0))
            assert own.arena is not None
            lend = own.arena.lend

            def lend_and_forget(view: memoryview) -> tuple[bytes, memoryview] | None:
                found = lend(view)
                return found and (found[0][:16] + bytes(8) + found[0][24:], found[1])

            forgetful.setattr(own.arena, "lend", lend_and_forget)
            with pytest.raises(SharedValueGoneError, match="share it again"):
                await Reader.total(reader, value)
        assert await Reader.total(reader, value) == SIZE
        # The refused handle was answered like any other.
        del value
        await soon(lambda: memory() == 0)


@contextlib.contextmanager
def little_memory(room: int) -> Generator[None]:
    """Leave this process so many bytes of address space."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


async def test_who_has_no_address_space_to_share_a_value_hears_so() -> None:
    async with ObservedNode():
        reader = await spawn(Reader)
        value = np.full(LARGE, 1.0)
        # The arena begins with the first value.
        first = shared(np.full(SIZE, 2.0))
        # For none, and for one of the two mappings.
        for room in (MIB, 8 * LARGE + 8 * MIB):
            with little_memory(room), pytest.raises(MemoryError, match="no address space"):
                shared(value)
            gc.collect()
        assert memory() < 8 * LARGE
        assert await Reader.total(reader, shared(value)) == LARGE
        assert await Reader.total(reader, first) == 2.0 * SIZE


async def test_a_receiver_without_address_space_fails_its_call_alone() -> None:
    async with ObservedNode():
        reader = await spawn(Reader)
        os_pid = await Reader.os_pid(reader)
        await Reader.limit_memory(reader, 8 * MIB)
        value = shared(np.full(LARGE, 1.0))
        calls = [Reader.total(reader, array) for array in (value[:10], value, value[:10])]
        ten, failed, again = await asyncio.gather(*calls, return_exceptions=True)
        assert (ten, again) == (10, 10)
        assert isinstance(failed, MemoryError)
        assert "no address space for a shared value" in str(failed)
        assert await Reader.os_pid(reader) == os_pid
        # Nor has it a lease.
        del value, calls
        await soon(lambda: memory() == 0)


async def test_many_values_and_deaths_at_random_leave_nothing() -> None:
    chosen = random.Random(7)
    tree = Supervisor(*(child(Reader).options(id=n, name=n) for n in "abc"), max_restarts=1000)
    async with ObservedNode(tree):
        readers = [named(n, Reader) for n in "abc"]
        for n in range(40):
            first, second = chosen.sample(readers, 2)
            value = shared(np.full(SIZE, float(n)))
            calls = [Reader.total(first, value), Reader.pass_on(first, second, value)]
            await Reader.keep_quietly(second, value)
            del value
            made = Reader.make(second, SIZE, float(n))
            if n % 5 == 4:
                os.kill(await Reader.os_pid(first), signal.SIGKILL)
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert all(r == n * SIZE or isinstance(r, ServerExitedError) for r in results)
            assert float((await made).sum()) == n * SIZE
            del made
        for reader in readers:
            os.kill(await Reader.os_pid(reader), signal.SIGKILL)
        for reader in readers:
            await Reader.drop(reader)
        await soon(lambda: memory() == 0)
