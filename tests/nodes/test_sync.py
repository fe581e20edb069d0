"""Programs and threads without an event loop: `.sync`, `noex_mp.sync`, `with Node`."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from noex_mp import (
    AlreadyRegisteredError,
    BadChildSpecError,
    CallTimedOutError,
    ConfigError,
    Crash,
    InitFailedError,
    Killed,
    MailboxFullError,
    MaxRestartsExceededError,
    Node,
    NodeDownError,
    NoNodeError,
    NoServerError,
    Pool,
    Ref,
    ServerExitedError,
    Supervisor,
    UnencodableError,
    child,
    named,
    pool_of,
    spawn,
    sync,
)
from noex_mp.transport.blocking_link import BlockingLink
from noex_mp.transport.blocking_loop import BlockingLoop
from tests.nodes.observed import SERVERS, ObservedNode, Whistles, set_done
from tests.servers.counters import Counter, Journal, Pop, Push, Stack
from tests.servers.faulty import Faulty, Start
from tests.servers.hashing import Hasher, Refused
from tests.servers.threads import Threaded

THREADS = 32


@pytest.fixture
def node() -> Iterator[sync.BlockingNode]:
    with Node(preload=SERVERS) as node:
        yield node


def in_thread(function: Callable[[], Any]) -> Future[Any]:
    """Run a function in a thread of its own; the outcome is there when the thread has ended."""
    outcome: Future[Any] = Future()

    def run() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run).start()
    return outcome


# --- every function ---


def test_a_program_without_a_loop_does_all_that_one_with_a_loop_does() -> None:
    tree = Supervisor(child(Counter, start=4).options(name="visits"))
    with Node(tree, name="shop", preload=SERVERS) as node:
        assert node.name == "shop"
        visits = sync.whereis("visits", Counter)
        assert visits is not None
        assert sync.whereis("nobody", Counter) is None
        assert Counter.increment.sync(named("visits", Counter), by=3) == 7
        Counter.add.sync(visits, by=1)
        assert Counter.increment.sync(visits) == 9

        stack = sync.spawn(Stack, "a")
        sync.cast(stack, Push("b"))
        assert sync.call(stack, Pop()) == "b"
        other = node.spawn(child(Counter).options(name="other"))
        assert [row["name"] for row in node.ps()] == ["visits", None, "other"]
        assert sync.is_running(other)
        sync.stop(other)
        assert not sync.is_running(other)
        with pytest.raises(NoServerError):
            Counter.increment.sync(other)
        with pytest.raises(InitFailedError):
            sync.spawn(Start, "raise")
    with pytest.raises(NodeDownError):
        Counter.increment.sync(visits)


def test_the_error_of_a_node_that_has_stopped_stands_alone() -> None:
    with Node(preload=SERVERS) as node:
        counter = node.spawn(Counter)
    with pytest.raises(NodeDownError) as caught:
        Counter.increment.sync(counter)
    assert caught.value.__context__ is None


def test_a_tree_that_gives_up_ends_the_wait() -> None:
    with Node(Supervisor(child(Faulty), max_restarts=0), preload=SERVERS) as node:
        ref = Ref[Faulty](node.id, 2)
        with suppress(ServerExitedError):
            Faulty.kill.sync(ref)
        with pytest.raises(MaxRestartsExceededError):
            node.wait()


def test_a_wait_can_be_limited(node: sync.BlockingNode) -> None:
    with pytest.raises(TimeoutError):
        node.wait(0.01)


def test_a_value_of_any_size_goes_both_ways(node: sync.BlockingNode) -> None:
    faulty = sync.spawn(Faulty)
    size = 16 * 1024 * 1024
    assert Faulty.size.sync(faulty, os.urandom(size)) == size
    assert len(Faulty.big.sync(faulty, size)) == size


def test_an_argument_that_cannot_be_sent_costs_nothing_else(node: sync.BlockingNode) -> None:
    faulty = sync.spawn(Faulty)
    assert Faulty.echo.sync(faulty, 1) == 1
    with pytest.raises(UnencodableError):
        Faulty.echo.sync(faulty, threading.Lock())
    with pytest.raises(TypeError, match=r"Write Faulty.echo.sync\(ref"):
        Faulty.echo.sync(Faulty(), 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert Faulty.echo.sync(faulty, 2) == 2


# --- many threads ---


def test_many_threads_call_at_once(node: sync.BlockingNode) -> None:
    counter = sync.spawn(Counter)

    def work() -> list[int]:
        return [Counter.increment.sync(counter) for _ in range(500)]

    with ThreadPoolExecutor(THREADS) as pool:
        results = [run.result() for run in [pool.submit(work) for _ in range(THREADS)]]
    # Each thread's calls in their order, and no count twice.
    assert all(counts == sorted(counts) for counts in results)
    assert sorted(itertools.chain(*results)) == list(range(1, THREADS * 500 + 1))


def test_calls_go_on_through_restarts(node: sync.BlockingNode) -> None:
    faulty = sync.spawn(child(Faulty).options(restart="permanent"))
    over = threading.Event()

    def work() -> tuple[int, int]:
        good = failed = 0
        while not over.is_set():
            try:
                assert Faulty.echo.sync(faulty, good) == good
                good += 1
            except ServerExitedError:
                failed += 1
        return good, failed

    workers = [in_thread(work) for _ in range(8)]
    for _ in range(3):
        os_pid = Faulty.os_pid.sync(faulty)
        os.kill(os_pid, signal.SIGKILL)
        while _os_pid(faulty) == os_pid:
            pass
    over.set()
    for worker in workers:
        good, failed = worker.result()
        # Of one thread at most one call was begun at each death.
        assert good > 0
        assert failed <= 3


def _os_pid(faulty: Ref[Faulty]) -> int | None:
    try:
        return Faulty.os_pid.sync(faulty)
    except ServerExitedError:
        return None


def test_a_call_whose_server_is_killed_fails_at_once(
    node: sync.BlockingNode, whistles: Whistles
) -> None:
    faulty = sync.spawn(Faulty)
    os_pid = Faulty.os_pid.sync(faulty)
    begun = whistles()
    call = in_thread(lambda: Faulty.doze.sync(faulty.within(None), begun.path))
    begun.wait()
    os.kill(os_pid, signal.SIGKILL)
    with pytest.raises(ServerExitedError) as failure:
        call.result()
    assert failure.value.started
    assert Faulty.os_pid.sync(faulty) != os_pid


def test_a_thread_that_was_idle_through_many_restarts_has_missed_nothing() -> None:
    tree = Supervisor(child(Journal).options(name="journal"), max_restarts=100)
    with Node(tree, preload=SERVERS) as busy:
        journal = named("journal", Journal)
        ref = Ref[Journal](busy.id, 2)
        idle, resumed = threading.Event(), threading.Event()

        def work() -> list[Any]:
            Journal.note.sync(ref, "first")
            Journal.all.sync(ref)
            idle.set()
            resumed.wait()
            Journal.note.sync(ref, "second")
            return Journal.all.sync(ref)

        result = in_thread(work)
        idle.wait()
        Journal.all.sync(journal)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(8):
            os_pid = Journal.os_pid.sync(journal)
            os.kill(os_pid, signal.SIGKILL)
            with suppress(ServerExitedError):
                while Journal.os_pid.sync(journal) == os_pid:
                    pass
            Journal.all.sync(journal)
        # One link of the dead is still to be read, and no new one has been made for it.
        assert len(os.listdir("/proc/self/fd")) <= before + 1
        resumed.set()
        assert result.result() == ["second"]


def test_what_a_thread_has_sent_outlives_it(node: sync.BlockingNode, whistles: Whistles) -> None:
    journal = sync.spawn(Journal)
    begun, release = whistles(), whistles()
    pause = in_thread(lambda: Journal.pause.sync(journal, begun.path, release.path))
    begun.wait()
    for n in range(3):
        in_thread(partial(_note, journal, n)).result()
    release.blow()
    pause.result()
    assert Journal.all.sync(journal) == [(n, i) for n in range(3) for i in range(100)]


def _note(journal: Ref[Journal], n: int) -> None:
    for i in range(100):
        Journal.note.sync(journal, (n, i))


# More than a socket takes while nobody reads, less than what holds up a sender in an event loop.
BIG = 900_000


@pytest.mark.parametrize("is_known", [True, False], ids=["known", "new"])
@pytest.mark.parametrize("by_name", [True, False], ids=["name", "ref"])
def test_a_cast_that_has_returned_has_left_the_process(
    by_name: bool, is_known: bool, node: sync.BlockingNode, whistles: Whistles
) -> None:
    ref = sync.spawn(child(Journal).options(name="journal"))
    to = named("journal", Journal) if by_name else ref
    asked, blocked, sent, over = (threading.Event() for _ in range(4))
    begun, release = whistles(), whistles()

    def work() -> None:
        if is_known:
            Journal.all.sync(to)
        asked.set()
        blocked.wait()
        for item in (b"x" * BIG, "behind it"):
            Journal.note.sync(to, item)
        sent.set()
        over.wait()

    worker = in_thread(work)
    asked.wait()
    block = in_thread(lambda: Journal.block.sync(ref, begun.path, release.path))
    begun.wait()
    blocked.set()
    assert not sent.wait(0.1)
    release.blow()
    block.result()
    sent.wait()
    # That thread lives on, and does something else.
    assert Journal.all.sync(ref) == [b"x" * BIG, "behind it"]
    over.set()
    worker.result()


@pytest.mark.parametrize("stops", [True, False], ids=["stop", "another loop"])
def test_what_a_loop_has_sent_outlives_it(stops: bool, tmp_path: Path, whistles: Whistles) -> None:
    begun, release = whistles(), whistles()
    with Node(preload=SERVERS) as node:
        journal = node.spawn(Journal, str(tmp_path / "journal"))
        block = in_thread(lambda: Journal.block.sync(journal, begun.path, release.path))
        begun.wait()

        async def send() -> None:
            await Journal.note(journal, b"x" * BIG)
            await Journal.note(journal, "behind it")

        in_thread(lambda: asyncio.run(send())).result()
        release.blow()
        block.result()
        if not stops:
            in_thread(lambda: asyncio.run(_call(Journal.all, journal))).result()
    assert "behind it" in (tmp_path / "journal").read_text()


async def _call(operation: Callable[[Ref[Any]], Any], ref: Ref[Any]) -> Any:
    return await operation(ref)


def test_a_loop_that_was_closed_in_the_middle_of_a_cast_harms_no_other(
    node: sync.BlockingNode, whistles: Whistles
) -> None:
    journal = sync.spawn(Journal)
    begun, release = whistles(), whistles()
    block = in_thread(lambda: Journal.block.sync(journal, begun.path, release.path))
    begun.wait()

    def close_early() -> bool:
        loop = asyncio.new_event_loop()
        try:
            cast = loop.run_until_complete(_first_and_big(journal))
            # As a task does that waits for it.
            cast.add_done_callback(print)
            return cast.done()
        finally:
            loop.close()

    assert not in_thread(close_early).result()
    release.blow()
    block.result()
    for _ in range(2):
        in_thread(lambda: asyncio.run(_call(Journal.os_pid, journal))).result()


async def _first_and_big(journal: Ref[Journal]) -> asyncio.Future[None]:
    await Journal.note(journal, "first")
    # More than waits in a link without holding up its sender.
    return Journal.note(journal, b"x" * 3_500_000)


def test_a_thread_that_ends_in_the_middle_of_a_call_does_not_hold_up_the_server(
    node: sync.BlockingNode, whistles: Whistles
) -> None:
    journal = sync.spawn(Journal)
    begun, release = whistles(), whistles()
    call = in_thread(lambda: Journal.block.sync(journal.within(0.05), begun.path, release.path))
    with pytest.raises(CallTimedOutError):
        call.result()
    release.blow()
    assert Journal.record.sync(journal, 1) == 1


@pytest.mark.slow
def test_a_thousand_short_threads_leave_nothing(node: sync.BlockingNode) -> None:
    counter = sync.spawn(Counter)
    Counter.increment.sync(counter)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(1000):
        thread = threading.Thread(target=Counter.increment.sync, args=(counter,))
        thread.start()
        thread.join()
    assert Counter.increment.sync(counter) == 1002
    # The root closes its ends as it reads theirs: of the last ones, perhaps, in a moment.
    while len(os.listdir("/proc/self/fd")) > before:
        Counter.increment.sync(counter)
    worker = f"/proc/{Counter.os_pid.sync(counter)}/fd"
    while len(os.listdir(worker)) > 30:
        Counter.increment.sync(counter)


# --- time ---


def test_a_call_has_its_time_and_a_late_reply_reaches_nobody(
    node: sync.BlockingNode, whistles: Whistles
) -> None:
    journal = sync.spawn(Journal)
    begun, release = whistles(), whistles()
    start = time.monotonic()
    with pytest.raises(CallTimedOutError) as failure:
        Journal.pause.sync(journal.within(0.1), begun.path, release.path)
    assert time.monotonic() - start >= 0.1
    assert failure.value.timeout == 0.1
    release.blow()
    assert Journal.record.sync(journal, "mine") == "mine"


def test_a_call_after_a_long_pause_has_all_its_time(
    node: sync.BlockingNode, whistles: Whistles
) -> None:
    journal = sync.spawn(Journal)
    Journal.record.sync(journal, 1)
    threading.Event().wait(0.3)
    start = time.monotonic()
    with pytest.raises(CallTimedOutError):
        Journal.pause.sync(journal.within(0.1), whistles().path, whistles().path)
    assert time.monotonic() - start >= 0.1


@pytest.mark.parametrize("timeout", [2_200_000, 1e300])
def test_a_time_limit_may_be_longer_than_the_system_can_wait(
    timeout: float, node: sync.BlockingNode
) -> None:
    journal = sync.spawn(Journal)
    sync.stop(journal, timeout=timeout)
    assert not sync.is_running(journal)

    loop: Any = BlockingLoop()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        heard: asyncio.Future[None] = loop.create_future()
        loop.add_reader(ours.fileno(), set_done, heard)
        theirs.send(b"x")
        loop.run(_wait_for(heard), timeout)
    # What is not needed any more is not kept until its time has come.
    assert loop._timers == []


async def _wait_for(future: asyncio.Future[None]) -> None:
    await future


# --- signals ---


def _poll_at_once(link: BlockingLink) -> None:
    """Leave the waiting to the loop."""


@pytest.mark.parametrize("waits_in", ["recv", "poll"])
def test_ctrl_c_ends_a_call_at_once_and_its_late_reply_reaches_nobody(
    waits_in: str,
    node: sync.BlockingNode,
    whistles: Whistles,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if waits_in == "poll":
        monkeypatch.setattr(BlockingLink, "wait_a_moment", _poll_at_once)
    else:
        monkeypatch.setattr("noex_mp.transport.blocking_link.MOMENT", 900_000)
    journal = sync.spawn(Journal)
    Journal.note.sync(journal, "before")
    begun, release = whistles(), whistles()

    def interrupt() -> None:
        begun.wait()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    interrupter = in_thread(interrupt)
    with pytest.raises(KeyboardInterrupt):
        Journal.pause.sync(journal.within(None), begun.path, release.path)
    interrupter.result()
    release.blow()
    assert Journal.record.sync(journal, "mine") == "mine"
    assert Journal.all.sync(journal)[0] == "before"


def test_ctrl_c_cancels_the_call_though_its_thread_never_waits_again(
    node: sync.BlockingNode, whistles: Whistles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BlockingLink, "wait_a_moment", _poll_at_once)
    journal = sync.spawn(Journal)
    begun, release = whistles(), whistles()

    def interrupt() -> None:
        begun.wait()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    interrupter = in_thread(interrupt)
    with pytest.raises(KeyboardInterrupt):
        Journal.pause.sync(journal.within(None), begun.path, release.path)
    interrupter.result()
    # Cancelled at its wait, the server takes the next message; nobody blows its whistle.
    assert in_thread(lambda: Journal.all.sync(journal)).result() == []


def test_a_signal_handler_may_call_while_its_thread_waits_in_a_call(
    node: sync.BlockingNode, whistles: Whistles
) -> None:
    counter, journal = sync.spawn(Counter), sync.spawn(Journal)
    begun, release = whistles(), whistles()
    counts: list[int] = []

    def handler(*_: object) -> None:
        counts.append(Counter.increment.sync(counter))
        release.blow()

    def send() -> None:
        begun.wait()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    previous = signal.signal(signal.SIGUSR1, handler)
    try:
        sender = in_thread(send)
        Journal.pause.sync(journal, begun.path, release.path)
        sender.result()
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert counts == [1]


# --- which node, and its end ---


def test_a_node_that_stops_fails_every_call_that_waits(whistles: Whistles) -> None:
    begun = whistles()
    with Node(preload=SERVERS) as node:
        servers = [sync.spawn(Faulty) for _ in range(4)]
        calls = [
            in_thread(partial(Faulty.doze.sync, ref.within(None), begun.path)) for ref in servers
        ]
        for _ in calls:
            begun.wait()
        for ref in servers:
            os.kill(_worker_of(node, ref), signal.SIGKILL)
    for call in calls:
        with pytest.raises((NodeDownError, ServerExitedError, NoServerError)):
            call.result()


def _worker_of(node: sync.BlockingNode, ref: Ref[Any]) -> int:
    os_pid: int = next(row["os_pid"] for row in node.ps() if row["sid"] == ref.sid)
    return os_pid


def test_every_thread_means_the_only_node_and_says_so_if_there_are_two(
    node: sync.BlockingNode,
) -> None:
    sync.spawn(child(Counter, start=1).options(name="visits"))
    visits = named("visits", Counter)
    assert in_thread(lambda: Counter.increment.sync(visits)).result() == 2
    with Node(preload=SERVERS) as inner:
        sync.spawn(child(Counter, start=10).options(name="visits"))
        # This thread is in the inner one, others may mean either.
        assert Counter.increment.sync(visits) == 11
        for function in (lambda: Counter.increment.sync(visits), lambda: sync.spawn(Counter)):
            with pytest.raises(NoNodeError, match="2 nodes run"):
                in_thread(function).result()
        ref = in_thread(lambda: inner.spawn(Counter, start=20)).result()
        assert in_thread(lambda: Counter.increment.sync(ref)).result() == 21
    assert Counter.increment.sync(visits) == 3


def test_without_a_node_there_is_a_sentence() -> None:
    with pytest.raises(NoNodeError, match="there is no node here"):
        Counter.increment.sync(named("visits", Counter))
    with pytest.raises(NodeDownError):
        Counter.increment.sync(Ref("gone", 1))


async def test_whoever_would_block_a_loop_is_told_to_await() -> None:
    ref = Ref[Counter]("n", 1, label="Counter")
    blocking: list[tuple[Callable[[], object], str]] = [
        (lambda: Counter.increment.sync(ref), r"Write await Counter.increment\(ref"),
        (lambda: Counter.add.sync(ref, 1), r"Write await Counter.add\(ref"),
        (lambda: sync.call(ref, "x"), r"Write await ref.call\("),
        (lambda: sync.spawn(Counter), r"Await noex_mp.spawn\("),
        (lambda: Node().start_blocking(), r"async with Node\("),
    ]
    for block, remedy in blocking:
        with pytest.raises(NoNodeError, match=remedy):
            block()


async def test_a_thread_of_an_asyncio_program_calls_too() -> None:
    async with Node(preload=SERVERS) as node:
        counter = await node.spawn(Counter)
        assert await asyncio.to_thread(Counter.increment.sync, counter) == 1
        assert await Counter.increment(counter) == 2
        assert (await asyncio.to_thread(sync.spawn, Counter)).node == node.id


# --- in a worker ---


def test_threads_of_a_server_call_others(node: sync.BlockingNode) -> None:
    counter, threaded = sync.spawn(Counter), sync.spawn(Threaded)
    assert Threaded.increment_in_threads.sync(threaded, counter, 4, 50) == 200
    started = Threaded.start_in_a_thread.sync(threaded, 5)
    assert Counter.increment.sync(started) == 6
    assert "Write await Counter.increment" in Threaded.block_the_loop.sync(threaded, counter)


# --- forks ---


def test_a_forked_child_is_told_and_its_parent_unharmed(node: sync.BlockingNode) -> None:
    counter = sync.spawn(Counter)
    Counter.increment.sync(counter)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child_pid = os.fork()
        if child_pid == 0:
            try:
                Counter.increment.sync(counter)
            except NoNodeError as error:
                theirs.send(str(error).encode())
            finally:
                os._exit(0)
        os.waitpid(child_pid, 0)
        assert b"was forked" in ours.recv(1000)
    assert Counter.increment.sync(counter) == 2


async def test_a_cast_that_does_not_wait_can_be_sent_from_a_thread(whistles: Whistles) -> None:
    begun, release = whistles(), whistles()
    async with ObservedNode():
        journal = await spawn(child(Journal).options(max_messages=10))
        await asyncio.to_thread(Journal.note.nowait, journal, "first")
        assert await Journal.all(journal) == ["first"]
        pause = Journal.pause(journal.within(None), begun.path, release.path)
        await begun.heard()

        def note_all() -> int:
            for n in range(1000):
                try:
                    Journal.note.nowait(journal, n)
                except MailboxFullError:
                    return n
            raise AssertionError("it was never full")

        sent = await asyncio.to_thread(note_all)
        release.blow()
        await pause
        assert await Journal.all(journal) == ["first", *range(sent)]


async def test_an_operation_that_is_only_called_says_what_to_write_in_a_thread() -> None:
    async with ObservedNode():
        counter = await spawn(Counter)
        with pytest.raises(NoNodeError, match=r"without a loop: Counter.get.sync\(ref\)"):
            await asyncio.to_thread(Counter.increment, counter)


# --- the ends of servers -----------------------------------------------------------------------


def test_a_thread_hears_of_every_end_and_sends_exit_signals(node: sync.BlockingNode) -> None:
    counter = node.spawn(child(Counter).options(restart="permanent"))
    ends = sync.watch(counter)
    sync.exit(counter, Crash("Stale", "its data are old"))
    assert next(ends).reason == Crash("Stale", "its data are old")
    assert Counter.increment.sync(counter) == 1
    os.kill(node.ps()[0]["os_pid"], signal.SIGKILL)
    assert next(ends).reason == Killed("SIGKILL")
    sync.stop(counter)
    assert [down.restart for down in ends] == [None]
    with pytest.raises(TypeError, match="expected an exit reason"):
        sync.exit(counter, "enough")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_threads_start_supervisors(node: sync.BlockingNode) -> None:
    front = sync.start_supervisor(Supervisor(child(Counter).options(name="inner"), name="front"))
    assert front.is_running()
    assert Counter.increment.sync(named("inner", Counter)) == 1
    with pytest.raises(AlreadyRegisteredError):
        sync.start_supervisor(Supervisor(name="front"))
    with pytest.raises(BadChildSpecError):
        sync.start_supervisor(Supervisor(child(Counter), child(Counter)))
    front.stop()
    assert not sync.supervisor("front").is_running()


def test_threads_resize_pools(node: sync.BlockingNode) -> None:
    ref = sync.spawn(Pool.of(Hasher, size=1))
    pool = pool_of(ref).sync
    assert pool.resize(2) == 1
    assert len(set(pool.broadcast(Hasher.pid))) == 2
    pool.limit(1)
    pool.drain()
    assert pool.restart() == 2
    assert pool.statistics().size == 2
    with pytest.raises(Refused):
        pool.broadcast(Hasher.refuse, "no")
    with pytest.raises(ConfigError, match="Counter is one server, and no pool"):
        pool_of(sync.spawn(Counter)).sync.resize(2)


async def test_a_pool_that_blocks_is_refused_in_an_event_loop() -> None:
    async with Node():
        ref = await spawn(Pool.of(Hasher, size=1))
        with pytest.raises(NoNodeError, match=r"Leave \.sync out"):
            pool_of(ref).sync.statistics()


def test_the_first_supervisor_starts_the_implicit_node() -> None:
    try:
        front = sync.start_supervisor(Supervisor(child(Counter)))
        assert front.count_children().servers == 1
    finally:
        sync.shutdown()
