"""Node: trees, names, the control thread, several nodes; what it refuses."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from pathlib import Path

import pytest

from noex_mp import (
    AlreadyRegisteredError,
    BadChildSpecError,
    ConfigError,
    InitFailedError,
    MaxRestartsExceededError,
    Node,
    NodeDownError,
    NotImportableError,
    PreloadError,
    Supervisor,
    child,
    named,
    spawn,
    stop,
)
from noex_mp.transport.paths import runtime_folder
from tests.nodes.observed import ObservedNode, on_both_loops
from tests.servers.counters import Counter, Journal
from tests.servers.faulty import Start


@on_both_loops
async def test_a_tree_starts_left_to_right_and_stops_right_to_left() -> None:
    tree = Supervisor(*(child(Counter).options(id=name, name=name) for name in "abc"))
    async with ObservedNode(tree) as node:
        assert await Counter.increment(named("b", Counter)) == 1
        await spawn(child(Counter).options(name="spawned"))
        assert [row["name"] for row in await node.ps()] == ["a", "b", "c", "spawned"]
    started = [e.server for e in node.seen if e.kind == "ready"]
    exited = [e.server for e in node.seen if e.kind == "exited"]
    assert started == ["a", "b", "c", "spawned"]
    # What was spawned may use the tree, so it stops first.
    assert exited == ["spawned", "c", "b", "a"]


async def test_a_child_of_a_tree_comes_back_whatever_its_end() -> None:
    async with ObservedNode(Supervisor(child(Counter).options(name="counter"))) as node:
        counter = named("counter", Counter)
        await Counter.increment(counter)
        os.kill((await node.ps())[0]["os_pid"], 9)
        assert await Counter.increment(counter) == 1


@pytest.mark.slow
async def test_the_innermost_node_is_current() -> None:
    async with ObservedNode() as outer:
        a = await spawn(Counter)
        async with ObservedNode() as inner:
            b = await spawn(Counter)
            c = await outer.spawn(Counter)
            assert (a.node, b.node, c.node) == (outer.id, inner.id, outer.id)
            # Refs know their node.
            assert await Counter.increment(a) == 1
            assert await Counter.increment(b) == 1
        d = await spawn(Counter)
        assert d.node == outer.id
        with pytest.raises(NodeDownError):
            await Counter.increment(b)


async def test_tasks_inherit_the_node_of_their_creator() -> None:
    async with ObservedNode() as node:
        assert (await asyncio.create_task(spawn(Counter))).node == node.id


async def test_a_named_node_has_a_control_socket_for_its_user_alone() -> None:
    async with ObservedNode(name="shop"):
        path = runtime_folder() / "shop.sock"
        assert path.is_socket()
        assert path.stat().st_mode & 0o077 == 0
        assert path.parent.stat().st_mode & 0o077 == 0
        with pytest.raises(AlreadyRegisteredError, match="shop"):
            await ObservedNode(name="shop").start()
        # The loser has not taken the winner's socket away.
        assert path.is_socket()
    assert not path.exists()


async def test_a_socket_that_a_killed_node_left_is_no_obstacle() -> None:
    import socket

    folder = runtime_folder()
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(folder / "shop.sock"))
    left.close()
    async with ObservedNode(name="shop"):
        assert await Counter.increment(await spawn(Counter)) == 1


async def test_a_blocked_loop_of_the_user_delays_no_restart() -> None:
    async with ObservedNode() as node:
        counter = await spawn(Counter)
        before = await Counter.os_pid(counter)
        pidfd = os.pidfd_open(before)
        node.kill(counter)
        # No event loop of ours runs meanwhile; the root has one of its own.
        for _ in range(2000):
            threading.Event().wait(0.001)
            assert node._root is not None  # pyright: ignore[reportPrivateUsage]
            directory = node._root._directory  # pyright: ignore[reportPrivateUsage]
            server = directory.get(counter.sid)
            if server is not None and (server.incarnation, server.state) == (2, "running"):
                break
        else:
            pytest.fail("it was not restarted")
        os.close(pidfd)
        assert await Counter.os_pid(counter) != before


async def test_a_node_starts_once() -> None:
    node = ObservedNode()
    async with node:
        with pytest.raises(ConfigError, match="make another"):
            await node.start()
    with pytest.raises(ConfigError):
        await node.start()


async def test_a_node_that_was_not_started_says_so() -> None:
    node = Node()
    await node.stop()
    with pytest.raises(NodeDownError):
        await node.spawn(Counter)


async def test_a_bad_tree_starts_nothing() -> None:
    tree = Supervisor(child(Counter), child(Counter), child(Counter).options(restart="always"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(BadChildSpecError) as failure:
        await Node(tree).start()
    # All mistakes at once.
    assert "always" in str(failure.value)
    assert "Counter" in str(failure.value)


async def test_a_class_that_no_worker_can_import_is_refused() -> None:
    from noex_mp import GenServer

    class Local(GenServer):
        pass

    async with ObservedNode(pickle=False):
        with pytest.raises(NotImportableError, match="Move Local to the top level"):
            await spawn(Local)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("raise RuntimeError('no luck')", "no luck"),
        ("import nothing_of_that_name", "nothing_of_that_name"),
        ("import os; os._exit(3)", "status 3"),
        ("import threading; threading.Thread(target=threading.Event().wait).start()", "thread"),
    ],
)
async def test_a_preload_that_fails_says_why(
    code: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_app.py").write_text(code)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(PreloadError, match=says):
        await Node(preload=["broken_app"]).start()


async def test_what_is_imported_by_no_preload_works_too() -> None:
    async with ObservedNode(preload=()):
        assert await Counter.increment(await spawn(Counter)) == 1


async def test_wait_ends_with_the_tree_and_again_for_whoever_asks_later(tmp_path: Path) -> None:
    start = child(Start, how="raise unless first", marker=str(tmp_path / "marker"))
    tree = Supervisor(start.options(name="start"), max_restarts=1)
    async with ObservedNode(tree) as node:
        waiting = [asyncio.create_task(node.wait()) for _ in range(2)]
        waiting[0].cancel()
        await Start.os_pid(named("start", Start))
        os.kill((await node.ps())[0]["os_pid"], 9)
        with pytest.raises(MaxRestartsExceededError):
            await waiting[1]
        with pytest.raises(MaxRestartsExceededError):
            await node.wait()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a/b", "a word without slashes, got 'a/b'\nFor example: name=\"shop\""),
        ("", "a word without slashes, got ''"),
        ("ä" * 36, "has at most 70 bytes"),
    ],
)
def test_a_name_that_can_be_no_file_is_refused(name: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Node(name=name)
    assert says in str(refused.value)


async def test_nobody_waits_for_a_node_that_was_never_up() -> None:
    node = Node()
    with pytest.raises(NodeDownError, match="has not been started"):
        await node.wait()
    with pytest.raises(NodeDownError, match="has not been started"):
        node.wait_blocking()


async def test_a_wait_ends_with_an_error_where_the_start_fails() -> None:
    node = ObservedNode(Supervisor(child(Start, how="raise")))
    starting = asyncio.create_task(node.start())
    await asyncio.sleep(0)
    waiting = asyncio.create_task(node.wait())
    with pytest.raises(InitFailedError):
        await starting
    for late in (waiting, node.wait()):
        with pytest.raises(NodeDownError, match="has not been started"):
            await late
    with pytest.raises(NodeDownError, match="has not been started"):
        node.wait_blocking()


async def test_what_servers_write_to_standard_error_arrives() -> None:
    async with ObservedNode() as node:
        journal = await spawn(Journal, "/no/such/folder/x")
        await stop(journal)
        assert await node.line("FileNotFoundError")


@pytest.mark.slow
async def test_two_hundred_calls_at_once_to_twenty_servers() -> None:
    async with ObservedNode():
        counters = await asyncio.gather(*(spawn(Counter) for _ in range(20)))
        results = await asyncio.gather(*(Counter.increment(c) for c in counters for _ in range(10)))
        assert results == list(range(1, 11)) * 20


@on_both_loops
async def test_a_node_that_spins_answers_as_any_other() -> None:
    async with ObservedNode(latency="spin") as node:
        counter = await spawn(Counter)
        assert [await Counter.increment(counter) for _ in range(200)] == list(range(1, 201))
        calls = [Counter.increment(counter) for _ in range(200)]
        assert await asyncio.gather(*calls) == list(range(201, 401))
        node.kill(counter)
        assert await Counter.increment(counter) == 1
