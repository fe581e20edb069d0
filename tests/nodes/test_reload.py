"""A reload: new code for all servers while they serve, or the old one again."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from noex_mp import (
    ConfigError,
    DynamicSupervisor,
    InitFailed,
    Killed,
    Linked,
    Node,
    NodeDownError,
    NoServerError,
    PreloadError,
    Reloaded,
    ReloadFailedError,
    Replaced,
    ServerExitedError,
    Supervisor,
    spawn,
    stop,
    supervisor,
    watch,
)
from tests.nodes.observed import ObservedNode, Whistles, on_both_loops, whistles
from tests.nodes.versions import App, app

__all__ = ["app", "whistles"]

pytestmark = pytest.mark.slow


def ends(node: ObservedNode) -> list[tuple[str, type[Any]]]:
    """Return who has ended, and why, in this order."""
    kinds = ("exited", "crashed")
    return [(event.server, type(event.reason)) for event in node.seen if event.kind in kinds]


class Gate:
    """Lets a server tell that it ends, and wait until it may."""

    def __init__(self, whistles: Whistles) -> None:
        self.ends, self.goes = whistles("ends"), whistles("goes")

    @property
    def paths(self) -> tuple[str, str]:
        return self.ends.path, self.goes.path


@pytest.fixture
def gate(whistles: Whistles) -> Gate:
    return Gate(whistles)


async def in_the_middle(node: ObservedNode, app: App, gate: Gate) -> asyncio.Task[Any]:
    """Begin a reload; return when server b ends, with a replaced and c not yet."""
    reload = asyncio.create_task(node.reload())
    await gate.ends.heard()
    return reload


def gated(app: App, gate: Gate, **options: Any) -> Supervisor:
    middle = app.child("b", *gate.paths, shutdown=None)
    return Supervisor(app.child("a"), middle, app.child("c"), **options)


@on_both_loops
async def test_a_reload_replaces_one_server_after_the_other_in_start_order(app: App) -> None:
    tree = Supervisor(
        app.child("a"),
        Supervisor(app.child("b"), app.child("c"), id="inner", strategy="one_for_all"),
        app.child("d", start="exec", init_timeout=None),
        # None of them may use a restart.
        max_restarts=0,
    )
    async with ObservedNode(tree) as node:
        spawned = await spawn(app.child("e"))
        app.write(2)
        done = await node.reload()
        assert (done.replaced, done.kept, done.notes) == (5, (), ())
        assert await app.versions("abcde") == [2] * 5
        assert await app.server.version(spawned) == 2
        assert ends(node) == [(name, Replaced) for name in "abcde"]
        reports = await node.exits("b")
        said = [(report.rule, report.requested, report.next) for report in reports]
        assert said == [("reload", True, "starts again")]


def test_a_program_without_an_event_loop_reloads_too(app: App) -> None:
    with Node(app.tree("a")) as node:
        app.write(2)
        assert node.reload() == Reloaded(1)
        assert app.server.version.sync(app.at("a")) == 2


async def test_no_call_is_lost_and_their_order_is_kept(app: App) -> None:
    names = "abcdefgh"
    async with ObservedNode(app.tree(names)) as node:
        over = asyncio.Event()
        app.write(2)
        calls = [asyncio.create_task(call_in_order(app, name, over)) for name in names]
        done = await node.reload()
        over.set()
        assert done.replaced == len(names)
        answers = await asyncio.gather(*calls)
        assert all(count > 5 for count in answers), answers
        assert await app.versions(names) == [2] * len(names)


async def call_in_order(app: App, name: str, over: asyncio.Event) -> int:
    """Call a server ten times at once, again and again; return how many calls that were."""
    number = 0
    while not over.is_set() or number == 0:
        batch = [app.server.number(app.at(name), number + n + 1) for n in range(10)]
        assert await asyncio.gather(*batch) == [True] * 10
        number += 10
        await asyncio.sleep(0)
    return number


@on_both_loops
async def test_a_server_that_does_not_start_with_it_takes_all_back(app: App) -> None:
    async with ObservedNode(app.tree("abc", max_restarts=0)) as node:
        # The last one: nothing but a way back needs the old zygote any more.
        app.write(2, init='if self.name == "c": raise ValueError("no c")')
        with pytest.raises(ReloadFailedError, match="old code again") as failure:
            await node.reload()
        error = failure.value
        assert (error.server, error.went_back) == ("c", True)
        assert "ValueError: no c" in error.reason
        assert isinstance(error.__cause__, ValueError)
        assert await app.versions("abc") == [1] * 3
        ended = [*("abc"), "c", "a", "b"]
        assert ends(node) == [
            (name, InitFailed if place == 3 else Replaced) for place, name in enumerate(ended)
        ]
        # The next one finds everything as it was.
        app.write(3)
        assert (await node.reload()).replaced == 3
        assert await app.versions("abc") == [3] * 3


async def test_code_that_cannot_be_imported_replaces_nothing(app: App) -> None:
    async with ObservedNode(app.tree("ab")) as node:
        app.write("1 +")
        with pytest.raises(PreloadError, match="SyntaxError"):
            await node.reload()
        assert ends(node) == []
        assert await app.versions("ab") == [1, 1]
        node.kill(await ref_of("a"))
        await node.event("restarted")
        assert await app.versions("ab") == [1, 1]


async def ref_of(name: str) -> Any:
    """Return the address behind a name."""
    children = await supervisor("/").which_children()
    return next(each.ref for each in children if each.id == name)


async def test_a_placement_group_is_replaced_as_a_whole(app: App) -> None:
    tree = Supervisor(
        app.child("a", placement="g"),
        Supervisor(app.child("b", placement="g"), id="inner"),
        app.child("c"),
    )
    async with ObservedNode(tree) as node:
        old = node.os_pid_of(await spawn(app.child("d", placement="g")))
        app.write(2)
        assert (await node.reload()).replaced == 4
        await gone(old)
        assert await app.versions("abcd") == [2] * 4
        processes = {each["name"]: each["os_pid"] for each in await node.ps()}
        assert processes["a"] == processes["b"] == processes["d"] != processes["c"]
        assert [name for name, _ in ends(node)] == ["d", "b", "a", "c"]

        app.write(3, init='if self.name == "b": raise ValueError("no b")')
        with pytest.raises(ReloadFailedError) as failure:
            await node.reload()
        assert failure.value.server == "b"
        assert await app.versions("abcd") == [2] * 4
        again = {each["name"]: each["os_pid"] for each in await node.ps()}
        assert again["a"] == again["b"] == again["d"] != processes["a"]
        assert again["c"] == processes["c"]


async def test_who_joins_a_group_in_the_middle_starts_with_the_new_code(
    app: App, gate: Gate
) -> None:
    members = (app.child("a", placement="g"), app.child("b", *gate.paths, placement="g"))
    async with ObservedNode(Supervisor(*members)) as node:
        app.write(2)
        reload = await in_the_middle(node, app, gate)
        await spawn(app.child("c", placement="g"))
        gate.goes.blow()
        assert (await reload).replaced == 2
        assert await app.versions("abc") == [2] * 3
        assert len({each["os_pid"] for each in await node.ps()}) == 1
        assert [name for name, _ in ends(node)] == ["b", "a"]


async def test_temporary_servers_run_on_with_the_old_code(app: App) -> None:
    tree = Supervisor(
        app.child("a", placement="g"),
        DynamicSupervisor(id="dynamic", name="dynamic"),
        app.child("b"),
    )
    async with ObservedNode(tree) as node:
        dynamic = supervisor("dynamic")
        await dynamic.start_child(app.child("c", restart="temporary"))
        await dynamic.start_child(app.child("d", restart="transient"))
        await dynamic.start_child(app.child("e", restart="temporary", placement="g"))
        app.write(2)
        done = await node.reload()
        assert (done.replaced, done.kept) == (2, ("a", "c", "e"))
        assert await app.versions("abcde") == [1, 2, 1, 2, 1]


async def test_links_and_monitors_outlive_a_replacement(app: App) -> None:
    async with ObservedNode(app.tree("abc")) as node:
        a, b, c = [await ref_of(name) for name in "abc"]
        await app.server.tie(a, b)
        downs = watch(b)
        app.write(2)
        await node.reload()
        down = await anext(downs)
        assert (down.reason, down.restart) == (Replaced(), 2)
        # Nobody was taken along: each was replaced once.
        assert [name for name, _ in ends(node)] == [*"abc"]
        with pytest.raises(ServerExitedError):
            await app.server.crash(b)
        ended = await node.event("crashed", a)
        assert isinstance(ended.reason, Linked)
        assert await app.server.version(c) == 2


async def test_a_second_reload_comes_after_the_first(app: App, gate: Gate) -> None:
    async with ObservedNode(gated(app, gate)) as node:
        first = await in_the_middle(node, app, gate)
        second = asyncio.create_task(node.reload())
        for _ in range(5):
            await node.ps()
        # It has come to the node by now, and has made no zygote of its own.
        assert len(node.zygotes) == 2
        gate.goes.blow(2)
        assert [(await reload).replaced for reload in (first, second)] == [3, 3]
        assert [name for name, _ in ends(node)] == [*"abcabc"]


async def test_what_is_spawned_meanwhile_has_the_new_code_too(app: App) -> None:
    async with ObservedNode(app.tree("ab")) as node:
        app.write(2)
        reload = asyncio.create_task(node.reload())
        spawned: list[Any] = []
        while not reload.done() and len(spawned) < 40:
            spawned.append(await spawn(app.server, "spawned"))
        await reload
        assert {await app.server.version(ref.within(10)) for ref in spawned} == {2}


async def test_a_crash_in_the_middle_delays_nothing(app: App, gate: Gate) -> None:
    async with ObservedNode(gated(app, gate)) as node:
        app.write(2)
        reload = await in_the_middle(node, app, gate)
        for name in "abc":
            node.kill(await ref_of(name))
        assert (await reload).replaced == 3
        assert await app.versions("abc") == [2] * 3
        assert ("b", Killed) in ends(node)


async def test_a_child_stopped_in_the_middle_stays_down(app: App, gate: Gate) -> None:
    async with ObservedNode(gated(app, gate)) as node:
        app.write(2)
        reload = await in_the_middle(node, app, gate)
        stopping = asyncio.create_task(stop(app.at("b"), timeout=None))
        await stop(app.at("c"))
        # The stop of b has come to the node by then.
        assert await app.versions("a") == [2]
        gate.goes.blow()
        await stopping
        assert (await reload).replaced == 1
        for name in "bc":
            with pytest.raises(NoServerError):
                await app.server.version(app.at(name))


async def test_a_node_stopped_in_the_middle_stops(app: App, gate: Gate) -> None:
    async with ObservedNode(gated(app, gate)) as node:
        app.write(2)
        reload = await in_the_middle(node, app, gate)
        stopping = asyncio.create_task(node.stop())
        await node.event("stopping")
        gate.goes.blow()
        await stopping
        with pytest.raises(NodeDownError):
            await reload


@on_both_loops
async def test_a_node_stopped_while_the_new_code_is_imported_stops(
    app: App, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    async with ObservedNode(app.tree("a")) as node:
        await app.versions("a")
        os.mkfifo(gate)
        app.write(f"open({str(gate)!r}).read()")
        reload = asyncio.create_task(node.reload())
        # It is open as soon as the new zygote imports the module.
        writer = await asyncio.to_thread(open, gate, "w")
    with writer, pytest.raises(NodeDownError):
        await reload


async def test_an_import_that_takes_too_long_replaces_nothing(app: App, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with ObservedNode(app.tree("ab")) as node:
        assert await app.versions("ab") == [1, 1]
        os.mkfifo(gate)
        app.write(f"open({str(gate)!r}).read()")
        with pytest.raises(PreloadError) as failure:
            await node.reload(timeout=0.5)
        assert "the new code did not end within 0.5 s" in str(failure.value)
        assert await app.versions("ab") == [1, 1]
        assert (ends(node), len(node.zygotes)) == ([], 1)
        # The next one begins anew.
        app.write(2)
        assert (await node.reload()).replaced == 2
        assert await app.versions("ab") == [2, 2]
        with pytest.raises(ConfigError, match="expected timeout to be seconds"):
            await node.reload(timeout=0)


async def test_a_spawn_that_waits_for_an_import_which_a_reload_gives_up_says_so(
    app: App, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    async with ObservedNode(app.tree("a")) as node:
        await app.versions("a")
        os.mkfifo(gate)
        in_a_worker = "'NOEX_MP_NODE' in __import__('os').environ"
        app.write(f"{in_a_worker} and open({str(gate)!r}).read()")
        importlib.reload(sys.modules[app.name])
        spawned = asyncio.create_task(spawn(app.server, "b"))
        with await asyncio.to_thread(open, gate, "w"):
            with pytest.raises(PreloadError, match=r"did not end within 0\.1 s"):
                await node.reload(timeout=0.1)
            with pytest.raises(PreloadError, match="of the new code was given up"):
                await spawned


async def test_a_supervisor_that_gives_up_in_the_middle_is_restarted(app: App, gate: Gate) -> None:
    inner = gated(app, gate, id="inner", max_restarts=0)
    async with ObservedNode(Supervisor(inner)) as node:
        app.write(2)
        reload = await in_the_middle(node, app, gate)
        with pytest.raises(ServerExitedError):
            await app.server.crash(app.at("c"))
        await node.event("gave_up")
        gate.goes.blow()
        await reload
        assert await app.versions("abc") == [2] * 3
        # Only one of the two has started it again: its supervisor.
        started = [event.server for event in node.seen if event.kind == "started"]
        assert started.count("b") == 2


async def test_without_the_old_zygote_there_is_no_way_back(app: App, gate: Gate) -> None:
    async with ObservedNode(gated(app, gate, max_failed_inits=0)) as node:
        old = node.zygote
        app.write(2, init='if self.name == "b": raise ValueError("no b")')
        reload = await in_the_middle(node, app, gate)
        os.kill(old, signal.SIGKILL)
        await gone(old)
        gate.goes.blow()
        with pytest.raises(ReloadFailedError, match="no way back") as failure:
            await reload
        assert (failure.value.server, failure.value.went_back) == ("b", False)
        # Its supervisor has it in hand, and gives up in this one.
        await node.event("gave_up")


async def test_the_death_of_the_new_zygote_costs_nothing(app: App, gate: Gate) -> None:
    async with ObservedNode(gated(app, gate)) as node:
        app.write(2)
        reload = await in_the_middle(node, app, gate)
        new = node.zygote
        os.kill(new, signal.SIGKILL)
        await gone(new)
        gate.goes.blow()
        assert (await reload).replaced == 3
        assert await app.versions("abc") == [2] * 3


async def gone(os_pid: int) -> None:
    """Wait until a process of the node is reaped."""
    with suppress(psutil.NoSuchProcess):
        await asyncio.to_thread(psutil.wait_procs, [psutil.Process(os_pid)])
