"""The implicit node: one for each event loop, whoever asks for it, and however impatiently."""

from __future__ import annotations

import asyncio

from noex_mp import PreloadError, child, named, shutdown, spawn, whereis
from noex_mp.node import implicit
from noex_mp.node.node import running
from tests.servers.counters import Counter


async def test_a_cancelled_spawn_does_not_cost_the_others_their_node() -> None:
    impatient = asyncio.create_task(spawn(Counter))
    patient = asyncio.create_task(spawn(Counter))
    await asyncio.sleep(0)
    impatient.cancel()
    first = await patient
    second = await spawn(Counter)
    assert first.node == second.node
    assert len(running) == 1
    await shutdown()
    assert not running


async def test_a_name_is_found_in_the_implicit_node() -> None:
    counter = await spawn(child(Counter, start=4).options(name="visits"))
    assert whereis("visits", Counter) == counter
    assert await Counter.increment(named("visits", Counter)) == 5
    await shutdown()


async def test_a_failed_start_is_told_once_and_the_next_spawn_tries_again() -> None:
    complaints: list[dict[str, object]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    try:
        await implicit.implicit_node("there_is_no_such_module")
    except PreloadError:
        pass
    else:
        raise AssertionError("it started")
    counter = await spawn(Counter)
    assert await Counter.increment(counter) == 1
    await shutdown()
    assert not complaints
