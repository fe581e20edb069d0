"""Stopping: what crashes meanwhile, who is cancelled meanwhile, and who asks for its own end."""

from __future__ import annotations

import asyncio
import math
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from noex_mp import (
    ConfigError,
    InitFailedError,
    NodeDownError,
    Supervisor,
    child,
    named,
    spawn,
    stop,
    sync,
)
from tests.nodes.observed import (
    ObservedNode,
    Whistles,
    shared_node,
)
from tests.servers.counters import Counter
from tests.servers.faulty import Start
from tests.servers.waiting import Stubborn

pytestmark = pytest.mark.usefixtures("shared_nodes")


async def test_what_crashes_while_the_node_stops_is_not_started_again(whistles: Whistles) -> None:
    stopping, release = whistles(), whistles()
    tree = Supervisor(
        child(Stubborn).options(id="left", name="left"),
        child(Stubborn, stopping.path, release.path).options(id="right", name="right"),
    )
    async with ObservedNode(tree) as node:
        left = await Stubborn.os_pid(named("left", Stubborn))
        end = asyncio.create_task(node.stop())
        await stopping.heard()
        os.kill(left, 9)
        event = await node.event("crashed")
        assert event.server == "left"
        assert event.report is not None
        assert event.report.next == "stays down"
        release.blow()
        await end
        assert not [event for event in node.seen if event.kind in ("restarted", "gave_up")]


async def test_a_server_cannot_wait_for_its_own_end() -> None:
    async with shared_node():
        stubborn = await spawn(Stubborn)
        assert "return Stop()" in await Stubborn.stop_itself(stubborn)
        assert await stubborn.is_running()


async def test_a_cancelled_start_of_a_node_is_no_bug_and_leaves_nothing(
    whistles: Whistles,
) -> None:
    complaints: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    started = whistles()
    tree = Supervisor(child(Start, "loop", started.path).options(init_timeout=None))
    node = ObservedNode(tree)
    starting = asyncio.create_task(node.start())
    await node.event("started")
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not [event for event in node.seen if event.kind == "gave_up"]
    assert not complaints


async def test_a_cancelled_stop_of_a_node_goes_on_to_its_end(whistles: Whistles) -> None:
    stopping, release = whistles(), whistles()
    node = ObservedNode(Supervisor(child(Stubborn, stopping.path, release.path)))
    await node.start()
    impatient = asyncio.create_task(node.stop())
    await stopping.heard()
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    release.blow()
    await node.stop()
    with pytest.raises((NodeDownError, InitFailedError)):
        await node.spawn(Stubborn)


async def test_a_plain_cast_that_returns_a_coroutine_runs_it(tmp_path: Path) -> None:
    async with shared_node():
        stubborn = await spawn(Stubborn)
        await Stubborn.promise(stubborn, str(tmp_path / "marker"))
        await Stubborn.os_pid(stubborn)
        assert (tmp_path / "marker").exists()


@pytest.mark.parametrize("size", [131_040, 131_057, 131_071, 131_072, 200_000])
async def test_replies_around_the_size_of_the_outbox_arrive(size: int) -> None:
    async with shared_node():
        stubborn = await spawn(Stubborn)
        replies = await asyncio.gather(*(Stubborn.size(stubborn, size) for _ in range(5)))
        assert [len(reply) for reply in replies] == [size] * 5


BAD_STOPS: list[tuple[tuple[Any, ...], type[Exception], str]] = [
    (("c",), TypeError, """expected a Ref, got 'c'\nPass what spawn has returned, or the name: """),
    (("c",), TypeError, """the name: named("c", YourServer)."""),
    ((None,), TypeError, "expected a Ref, got None"),
    ((named("c", Counter), "shutdown"), TypeError, "an exit reason, got 'shutdown'\nWrite Shut"),
    ((named("c", Counter), None, -1), ConfigError, "seconds from 0 on, or None, got -1"),
    ((named("c", Counter), None, math.nan), ConfigError, "seconds from 0 on, or None, got nan"),
    ((named("c", Counter), None, "1"), ConfigError, "seconds from 0 on, or None, got '1'"),
]


@pytest.mark.parametrize(("arguments", "error", "says"), BAD_STOPS)
def test_a_stop_that_makes_no_sense_is_refused(
    arguments: tuple[Any, ...], error: type[Exception], says: str
) -> None:
    with pytest.raises(error) as refused:
        sync.stop(*arguments)
    assert says in str(refused.value)
    with pytest.raises(error) as refused:
        asyncio.run(stop(*arguments))
    assert says in str(refused.value)


async def test_a_request_that_is_never_answered_does_not_keep_a_node_from_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("noex_mp.node.answers.PATIENCE", 0.1)
    begun = threading.Event()

    async def never() -> None:
        begun.set()
        await asyncio.Event().wait()

    async with ObservedNode() as node:
        assert node._root is not None  # pyright: ignore[reportPrivateUsage]
        answers = node._root._answers  # pyright: ignore[reportPrivateUsage]
        monkeypatch.setitem(answers._methods, "ps", never)  # pyright: ignore[reportPrivateUsage]
        asked = asyncio.ensure_future(node.ps())
        await asyncio.to_thread(begun.wait)
        # Who waits for it hears that there is no node any more.
        await asyncio.wait_for(node.stop(), 10)
        with pytest.raises(NodeDownError):
            await asked
