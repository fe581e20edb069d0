"""A program with few file descriptors: `python -m tests.faults.few_descriptors SCENARIO LOOP`."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import uvloop

from noex_mp import CallTimedOutError, NoServerError, OutOfDescriptorsError, Ref, spawn, stop
from noex_mp.transport.paths import connect_unix, runtime_folder
from tests.nodes.observed import ObservedNode
from tests.servers.counters import Counter

LIMIT = 256


async def fill() -> tuple[list[Ref[Counter]], OutOfDescriptorsError]:
    """Start servers, and use each, until one more is refused."""
    counters: list[Ref[Counter]] = []
    while True:
        try:
            counters.append(await spawn(Counter))
        except OutOfDescriptorsError as error:
            return counters, error
        assert await Counter.increment(counters[-1]) == 1


async def the_limit_is_met_by_a_typed_error_and_life_goes_on() -> None:
    async with ObservedNode() as node:
        counters, error = await fill()
        assert len(counters) > 35
        assert error.server == "Counter"
        assert error.limit == LIMIT
        assert error.limit - error.needed < error.open_fds <= LIMIT
        assert f"{error.open_fds} of {LIMIT} file descriptors are in use" in str(error)
        assert "ulimit -n" in str(error)
        # Again and again, and it costs nothing.
        for _ in range(20):
            assert (await fill())[0] == []
        # Every server can be called and restarted, all of them at once too.
        for counter in counters:
            os.kill(await Counter.os_pid(counter), signal.SIGKILL)
            await node.event("restarted", counter)
        assert await asyncio.gather(*(Counter.increment(c) for c in counters)) == [1] * len(
            counters
        )
        for counter in counters:
            node.kill(counter)
        await asyncio.gather(*(node.event("restarted", c, nth=2) for c in counters))
        assert await asyncio.gather(*(Counter.increment(c) for c in counters)) == [1] * len(
            counters
        )
        # Where some were stopped others can be started.
        await stop(counters.pop())
        await stop(counters.pop())
        more, _ = await fill()
        assert len(more) == 2


async def servers_that_nobody_has_called_yet_can_be_called() -> None:
    async with ObservedNode():
        counters: list[Ref[Counter]] = []
        try:
            while True:
                counters.append(await spawn(Counter))
        except OutOfDescriptorsError:
            assert len(counters) > 35
        ones = [1] * len(counters)
        assert await asyncio.gather(*(Counter.increment(c) for c in counters)) == ones


async def a_call_that_gets_no_link_says_so_in_the_log() -> None:
    async with ObservedNode() as node:
        # Another thread needs links of its own, for which no start keeps room.
        counters, _ = await fill()
        asked = asyncio.create_task(asyncio.to_thread(ask_all, counters))
        line = await node.line("calls of ")
        assert re.search(r"to Counter wait, since it gets no link: 2\d\d of 256 file desc", line)
        before, begun = len(node.lines), time.monotonic()
        await asyncio.sleep(1.5)
        assert len(node.lines) - before <= time.monotonic() - begun + 1, node.lines
        # And when there is room they get their links.
        for counter in counters[len(counters) // 2 :]:
            await stop(counter)
        counted = await asked
        assert counted[: len(counters) // 2] == [2] * (len(counters) // 2)


async def threads_leave_what_restarts_need() -> None:
    loop = asyncio.get_running_loop()
    async with ObservedNode() as node:
        counters, _ = await fill()
        with ThreadPoolExecutor(3) as threads:
            # They stay, and their links with them.
            asked = [loop.run_in_executor(threads, ask_one_by_one, counters) for _ in range(3)]
            await asyncio.gather(*asked)
            for counter in counters[:10]:
                node.kill(counter)
            await asyncio.gather(*(node.event("restarted", c) for c in counters[:10]))
            assert await asyncio.gather(*(Counter.increment(c) for c in counters[:10])) == [1] * 10
    assert "and the others are kept for restarts" in "".join(node.lines)


def ask_one_by_one(counters: list[Ref[Counter]]) -> None:
    for counter in counters:
        try:
            Counter.increment.sync(counter.within(0.2))
        except CallTimedOutError:
            return


def ask_all(counters: list[Ref[Counter]]) -> list[int]:
    counted: list[int] = []
    for counter in counters:
        try:
            counted.append(Counter.increment.sync(counter))
        except NoServerError:
            counted.append(0)
    return counted


async def starts_at_once_fail_with_nothing_else() -> None:
    async with ObservedNode():
        started = await asyncio.gather(
            *(spawn(Counter) for _ in range(100)), return_exceptions=True
        )
        refused = [each for each in started if isinstance(each, BaseException)]
        assert {type(each) for each in refused} == {OutOfDescriptorsError}, refused
        counters = [each for each in started if isinstance(each, Ref)]
        assert await asyncio.gather(*(Counter.increment(c) for c in counters)) == [1] * len(
            counters
        )


def eat() -> list[int]:
    """Take every descriptor there is."""
    eaten: list[int] = []
    while True:
        try:
            eaten.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            return eaten


async def a_program_that_eats_all_descriptors_delays_restarts_and_no_more() -> None:
    async with ObservedNode(name="starved") as node:
        counter, other = await spawn(Counter), await spawn(Counter)
        assert await Counter.increment(counter) == 1
        program = socket.socket(socket.AF_UNIX)
        eaten = eat()
        node.kill(counter)
        os.kill(node.zygote, signal.SIGKILL)
        await node.event("waiting", counter)
        # A first call needs descriptors too.
        calls = [Counter.increment(counter), Counter.increment(other)]
        # Nobody can take this connection in.
        path = runtime_folder() / "starved.sock"
        program.connect(str(path))
        try:
            await spawn(Counter)
        except OutOfDescriptorsError:
            pass
        else:
            raise AssertionError("there was room")
        await refuses_to_spin(1.0)
        assert not calls[0].done()
        for fd in eaten:
            os.close(fd)
        assert await asyncio.gather(*calls) == [1, 1]
        assert await Counter.increment(await spawn(Counter)) == 1
        program.close()
        with connect_unix(path.parent, path.name) as late:
            assert late.fileno() > 0


async def refuses_to_spin(seconds: float) -> None:
    before = time.process_time()
    await asyncio.sleep(seconds)
    assert time.process_time() - before < seconds / 2


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT))
    factory = uvloop.new_event_loop if sys.argv[2] == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(globals()[sys.argv[1]]())
    print("done")
