"""The measurements of the runtime itself, written as a user would write them.

Each function is one run in a process of its own and returns what it found.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import statistics
import subprocess
import sys
from collections.abc import Awaitable, Callable, Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from time import perf_counter, perf_counter_ns
from typing import Any

import psutil
import uvloop

from bench.floor import Numbers, percentiles
from bench.registering import Registrar
from bench.servers import Caller, Echo
from bench.watching import Watcher
from noex_mp import (
    CallError,
    CallTimedOutError,
    Node,
    Ref,
    Supervisor,
    child,
    named,
    shutdown,
    spawn,
    stop,
    sync,
)

Main = Callable[[], Coroutine[Any, Any, Numbers]]

PLAIN_LOOP = ("NOEX_MP_LOOP", "asyncio")
"""The variable, and its value, that keeps root and workers off uvloop."""

WARM_UP = 1_000
CALLS = 20_000
CASTS = 200_000
BIG = 16 * 1024 * 1024
MANY = 200
WIDTH = 100
KILLED = 25
GROUP = 20
GROUPS = 4
MEMBERS = 10_000
MONITORS = 100_000
NAMES = 100_000
IDLE_SECONDS = 2.0
BURNERS = 2
BESIDE_SECONDS = 2.0


def on_loop(main: Main, *, plain: bool = False) -> Numbers:
    """Run a measurement on uvloop, or on asyncio's own loop where it is `plain`.

    Workers follow their environment: it says which loop they take.
    """
    if plain:
        os.environ[PLAIN_LOOP[0]] = PLAIN_LOOP[1]
    factory = asyncio.SelectorEventLoop if plain else uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(_and_shutdown(main))


async def _and_shutdown(main: Main) -> Numbers:
    try:
        return await main()
    finally:
        await shutdown()


# --- calls and casts ---------------------------------------------------------------------------


async def call_sync() -> Numbers:
    """A call at a time, sync handler."""
    echo = await spawn(Echo)
    return await one_at_a_time(lambda i: Echo.ping(echo, i))


async def call_bare() -> Numbers:
    """The same, without windows, deadlines and cells."""
    from bench.bare import BareEcho

    echo = await spawn(BareEcho)
    return await one_at_a_time(lambda i: BareEcho.ping(echo, i))


async def call_spinning() -> Numbers:
    """The same, by a node that spins."""
    async with Node(latency="spin") as node:
        echo = await node.spawn(Echo)
        return await one_at_a_time(lambda i: Echo.ping(echo, i))


async def call_beside_burners() -> Numbers:
    """Calls one at a time, while two other processes want all the time of the CPUs."""
    with _burners():
        return await _rate_of_calls(Node())


async def call_spinning_beside_burners() -> Numbers:
    """The same, by a node that spins: where there is no time to spare, that must do no harm."""
    with _burners():
        return await _rate_of_calls(Node(latency="spin"))


@contextmanager
def _burners() -> Generator[None, None, None]:
    # They end with this process, however it ends.
    burn = f"import os\nwhile os.getppid() == {os.getpid()}: pass"
    burners = [subprocess.Popen([sys.executable, "-c", burn]) for _ in range(BURNERS)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


async def _rate_of_calls(node: Node) -> Numbers:
    # By the clock, and no median: most calls find a free moment, and the others take a time slice.
    async with node:
        echo = await node.spawn(Echo)
        for i in range(WARM_UP):
            await Echo.ping(echo, i)
        calls, start = 0, perf_counter()
        while (took := perf_counter() - start) < BESIDE_SECONDS:
            await Echo.ping(echo, calls)
            calls += 1
        return {"per_second": calls / took}


async def call_async() -> Numbers:
    """A call at a time, async handler."""
    echo = await spawn(Echo)
    return await one_at_a_time(lambda i: Echo.ping_async(echo, i))


def without_loop(main: Callable[[], Numbers]) -> Numbers:
    """Run a measurement of a program that has no event loop."""
    try:
        return main()
    finally:
        sync.shutdown()


def sync_call() -> Numbers:
    """A call at a time from a plain thread."""
    echo = sync.spawn(Echo)
    for i in range(WARM_UP):
        Echo.ping.sync(echo, i)
    took: list[int] = []
    for i in range(CALLS):
        start = perf_counter_ns()
        Echo.ping.sync(echo, i)
        took.append(perf_counter_ns() - start)
    return percentiles(took)


def sync_threads() -> Numbers:
    """8 plain threads, each with one call at a time to the same server."""
    echo = sync.spawn(Echo)

    def one(count: int) -> None:
        for i in range(count):
            Echo.ping.sync(echo, i)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, [WARM_UP // 8] * 8))
        start = perf_counter()
        list(pool.map(one, [CALLS // 8] * 8))
        return {"per_second": CALLS / (perf_counter() - start)}


async def one_at_a_time(send: Callable[[int], Awaitable[int]]) -> Numbers:
    for i in range(WARM_UP):
        await send(i)
    took: list[int] = []
    for i in range(CALLS):
        start = perf_counter_ns()
        await send(i)
        took.append(perf_counter_ns() - start)
    return percentiles(took)


def calls_gathered(width: int) -> Main:
    """`width` calls in flight, by `asyncio.gather` of the operations' futures."""

    async def main() -> Numbers:
        echo = await spawn(Echo)
        rates: list[float] = []
        for batch in range(max(40, 100_000 // width)):
            start = perf_counter()
            replies = await asyncio.gather(*(Echo.ping(echo, i) for i in range(width)))
            rates.append(width / (perf_counter() - start))
            if batch == 0:
                assert replies == list(range(width))
        return {"per_second": statistics.median(rates)}

    return main


async def calls_tasks() -> Numbers:
    """64 tasks, each with one call at a time."""
    echo = await spawn(Echo)

    async def one(count: int) -> None:
        for i in range(count):
            await Echo.ping(echo, i)

    await asyncio.gather(*(one(20) for _ in range(64)))
    rates: list[float] = []
    for _ in range(10):
        start = perf_counter()
        await asyncio.gather(*(one(200) for _ in range(64)))
        rates.append(64 * 200 / (perf_counter() - start))
    return {"per_second": statistics.median(rates)}


async def casts_bare() -> Numbers:
    """Casts, without windows and cells."""
    from bench.bare import BareEcho

    return await _casts_to(await spawn(BareEcho))


async def casts() -> Numbers:
    """Casts of one sender to one server; a call behind them says that all have been handled."""
    return await _casts_to(await spawn(Echo))


async def _casts_to(echo: Ref[Echo]) -> Numbers:
    await Echo.seen(echo)
    rates: list[float] = []
    for _ in range(5):
        start = perf_counter()
        for _ in range(CASTS // 5):
            await Echo.note(echo, 1)
        await Echo.seen(echo.within(30.0))
        rates.append(CASTS / 5 / (perf_counter() - start))
    assert await Echo.seen(echo) == CASTS
    return {"per_second": statistics.median(rates)}


async def worker_to_worker() -> Numbers:
    """A call at a time from one worker to another."""
    echo, caller = await asyncio.gather(spawn(Echo), spawn(Caller))
    return await Caller.time_calls(caller.within(60.0), echo, WARM_UP, CALLS)


async def fan_out() -> Numbers:
    """One call to each of 100 workers, beside as many in flight to one of them."""
    echoes = await asyncio.gather(*(spawn(Echo) for _ in range(WIDTH)))
    numbers: dict[str, list[float]] = {"all_ms": [], "one_ms": []}
    for _ in range(100):
        for name, targets in (("all_ms", echoes), ("one_ms", echoes[:1] * WIDTH)):
            start = perf_counter()
            await asyncio.gather(*(Echo.ping(echo, 1) for echo in targets))
            numbers[name].append((perf_counter() - start) * 1e3)
    return {name: median(took) for name, took in numbers.items()}


async def slow_batch() -> Numbers:
    """32 calls in flight to a server that takes 2 ms for each: how late the latest reply is.

    Late is what comes on top of all the time that handlers took up to this reply.
    """
    echo = await spawn(Echo)
    latest: list[float] = []
    for _ in range(20):
        start, handled, lateness = perf_counter(), 0.0, 0.0
        for call in [Echo.take_time(echo, 0.002) for _ in range(32)]:
            handled += await call
            lateness = max(lateness, perf_counter() - start - handled)
        latest.append(lateness * 1e3)
    return {"ms": median(latest)}


async def time_limits() -> Numbers:
    """1,000 calls that nobody answers, with limits of 50 to 150 ms: how late the latest is."""
    echo = await spawn(Echo)

    async def one(limit: float) -> float:
        start = perf_counter()
        with suppress(CallTimedOutError):
            await Echo.never(echo.within(limit))
        return perf_counter() - start - limit

    limits = [0.05 + n / 10_000 for n in range(1_000)]
    return {"ms": max(await asyncio.gather(*map(one, limits))) * 1e3}


async def big_argument() -> Numbers:
    """A call with 16 MiB of bytes."""
    echo = await spawn(Echo)
    data = os.urandom(BIG)
    took: list[int] = []
    for i in range(13):
        start = perf_counter_ns()
        size = await Echo.measure(echo, data)
        if i >= 3:
            took.append(perf_counter_ns() - start)
        assert size == BIG
    return {"ms": percentiles(took)["p50"] / 1e3}


# --- starting ----------------------------------------------------------------------------------


async def first_spawn() -> Numbers:
    """The first spawn of a program, to its first reply: the zygote starts on the way."""
    start = perf_counter()
    echo = await spawn(Echo)
    await Echo.ping(echo, 1)
    return {"ms": (perf_counter() - start) * 1e3}


async def spawn_to_reply() -> Numbers:
    """A later spawn, to its first reply: the application is preloaded."""
    await Echo.ping(await spawn(Echo), 1)
    took: list[float] = []
    for _ in range(20):
        start = perf_counter()
        echo = await spawn(Echo)
        await Echo.ping(echo, 1)
        took.append((perf_counter() - start) * 1e3)
        await stop(echo)
    return {"ms": statistics.median(took)}


# --- dying -------------------------------------------------------------------------------------


async def kill() -> Numbers:
    """Kill a worker that has a call in hand: to the caller's error, to the next good reply."""
    errors: list[float] = []
    replies: list[float] = []
    for _ in range(10):
        to_error, to_reply = await _kill_one()
        errors.append(to_error)
        replies.append(to_reply)
    return {"error_ms": statistics.median(errors), "reply_ms": statistics.median(replies)}


async def _kill_one() -> tuple[float, float]:
    echo = await spawn(Echo)
    os_pid = await Echo.os_pid(echo)
    in_hand = Echo.never(echo)
    # Same sender, same server: once this is answered, the call before it has begun.
    await Echo.ping(echo, 1)
    start = perf_counter()
    os.kill(os_pid, signal.SIGKILL)
    try:
        await in_hand
    except CallError:
        to_error = (perf_counter() - start) * 1e3
    else:
        raise AssertionError("the call outlived its worker")
    await Echo.ping(echo, 2)
    to_reply = (perf_counter() - start) * 1e3
    assert await Echo.os_pid(echo) != os_pid
    await stop(echo)
    return to_error, to_reply


async def kill_under_load() -> Numbers:
    """Kill one of 100 servers under load: to its next good reply; what it costs the others.

    The load is a call at a time to each, and each of its calls may take a second.
    """
    tree = Supervisor(
        *(child(Echo).options(id=f"echo {n}", name=f"echo {n}") for n in range(WIDTH)),
        max_restarts=1_000_000,
    )
    async with Node(tree):
        echoes = [named(f"echo {n}", Echo).within(1.0) for n in range(WIDTH)]
        os_pids = [await Echo.os_pid(echo) for echo in echoes]
        failed = [0] * WIDTH
        calls = [0] * WIDTH
        load = [
            asyncio.create_task(_call_for_ever(n, echoes[n], calls, failed)) for n in range(WIDTH)
        ]
        took: list[float] = []
        for n in random.Random(1).sample(range(WIDTH), KILLED):
            await asyncio.sleep(0.05)
            before, start = failed[n], perf_counter()
            os.kill(os_pids[n], signal.SIGKILL)
            await _to_the_next(echoes[n], os_pids[n])
            took.append((perf_counter() - start) * 1e3)
            # Its own call in hand may fail.
            failed[n] = before
        await asyncio.sleep(0.05)
        for task in load:
            task.cancel()
        await asyncio.gather(*load, return_exceptions=True)
        return {
            "reply_ms": statistics.median(took),
            "worst_ms": max(took),
            "failed": sum(failed),
            "calls": sum(calls),
        }


async def _call_for_ever(n: int, echo: Ref[Echo], calls: list[int], failed: list[int]) -> None:
    while True:
        try:
            await Echo.ping(echo, n)
            calls[n] += 1
        except CallError:
            failed[n] += 1
        await asyncio.sleep(0.01)


async def _to_the_next(echo: Ref[Echo], killed: int) -> None:
    """Wait until another process than `killed` answers."""
    os_pid = killed
    while os_pid == killed:
        with suppress(CallError):
            os_pid = await Echo.os_pid(echo)


async def one_for_all() -> Numbers:
    """Kill one of 20 servers that share their fate: until all 20 have been started anew."""
    tree = Supervisor(
        *(child(Echo).options(id=f"echo {n}", name=f"echo {n}") for n in range(GROUP)),
        strategy="one_for_all",
        max_restarts=1_000_000,
    )
    async with Node(tree):
        echoes = [named(f"echo {n}", Echo) for n in range(GROUP)]
        took: list[float] = []
        for n in range(10):
            os_pids = await asyncio.gather(*map(Echo.os_pid, echoes))
            start = perf_counter()
            os.kill(os_pids[n], signal.SIGKILL)
            # The last one to start answers last.
            await asyncio.gather(*map(_to_the_next, echoes, os_pids))
            took.append((perf_counter() - start) * 1e3)
        return {"ms": statistics.median(took)}


async def reload() -> Numbers:
    """Give 20 servers their code anew under 2,000 calls a second: what fails, and what waits.

    The load does not wait for its replies: each of the servers gets a call every 10 ms.
    """
    tree = Supervisor(
        *(child(Echo).options(id=f"echo {n}", name=f"echo {n}") for n in range(GROUP)),
    )
    async with Node(tree) as node:
        echoes = [named(f"echo {n}", Echo) for n in range(GROUP)]
        await asyncio.gather(*map(Echo.os_pid, echoes))
        calls: list[asyncio.Task[float]] = []
        load = asyncio.create_task(_call_every_10_ms(echoes, calls))
        await asyncio.sleep(0.5)
        start = perf_counter()
        done = await node.reload()
        took = perf_counter() - start
        await asyncio.sleep(0.5)
        load.cancel()
        replies = await asyncio.gather(*calls, return_exceptions=True)
        waits = [reply for reply in replies if isinstance(reply, float)]
        return {
            # One that was not replaced counts as well: that would be no reload.
            "failed": len(replies) - len(waits) + (GROUP - done.replaced),
            "ms": took * 1e3,
            "latest_ms": max(waits) * 1e3,
            "calls": len(replies),
        }


async def _call_every_10_ms(echoes: list[Ref[Echo]], calls: list[asyncio.Task[float]]) -> None:
    loop = asyncio.get_running_loop()
    due = loop.time()
    while True:
        calls += [asyncio.create_task(_seconds_of(Echo.ping(echo, 1))) for echo in echoes]
        due += 0.01
        await asyncio.sleep(max(0.0, due - loop.time()))


async def _seconds_of(call: Awaitable[int]) -> float:
    start = perf_counter()
    await call
    return perf_counter() - start


# --- being many, and idle ----------------------------------------------------------------------


async def idle_memory() -> Numbers:
    """The private memory of a worker that has answered and now waits: the median of 20.

    Of several, as a program has them: what the zygote has written to since its last fork counts
    as private to a lone worker.
    """
    echoes = [await spawn(Echo) for _ in range(20)]
    for i in range(100):
        await asyncio.gather(*(Echo.ping(echo, i) for echo in echoes))
    os_pids = [await Echo.os_pid(echo) for echo in echoes]
    await asyncio.sleep(0.2)
    uss = median(psutil.Process(os_pid).memory_full_info().uss for os_pid in os_pids)
    return {"mb": uss / 1e6}


async def many() -> Numbers:
    """200 servers in 200 workers: start all, all idle, stop all."""
    await Echo.ping(await spawn(Echo), 1)  # the zygote is up
    start = perf_counter()
    echoes: list[Ref[Echo]] = await asyncio.gather(*(spawn(Echo) for _ in range(MANY)))
    started = perf_counter() - start
    await asyncio.gather(*(Echo.ping(echo, 1) for echo in echoes))
    percent = await idle_percent()
    start = perf_counter()
    await asyncio.gather(*(stop(echo) for echo in echoes))
    stopped = perf_counter() - start
    return {"start_s": started, "stop_s": stopped, "idle_percent": percent}


async def groups() -> Numbers:
    """10,000 servers in 4 placement groups: start all, their memory, call each once, stop all.

    Memory is what all processes have for themselves, over that of a node whose four workers have
    one server each: after the start, and once each server has answered.
    """
    first = [await spawn(child(Echo).options(placement=f"group {n}")) for n in range(GROUPS)]
    await asyncio.gather(*(Echo.ping(echo, 1) for echo in first))
    gc.collect()
    before = _private_memory()
    start = perf_counter()
    echoes: list[Ref[Echo]] = await asyncio.gather(
        *(spawn(child(Echo).options(placement=f"group {n % GROUPS}")) for n in range(MEMBERS))
    )
    started = perf_counter() - start
    gc.collect()
    idle = _private_memory() - before
    for n in range(0, MEMBERS, 1000):
        await asyncio.gather(*(Echo.ping(echo, 1) for echo in echoes[n : n + 1000]))
    called = _private_memory() - before
    start = perf_counter()
    await shutdown()
    return {
        "start_s": started,
        "kb_each": idle / MEMBERS / 1e3,
        "kb_called": called / MEMBERS / 1e3,
        "stop_s": perf_counter() - start,
    }


async def monitors() -> Numbers:
    """100,000 monitors of one server by another: what each takes, in the root and in the watcher.

    And how long it takes until the last of them has told of the server's death.
    """
    echo, watcher = await spawn(Echo), await spawn(Watcher)
    await Watcher.watch(watcher, echo, 100)
    before = await _memory_of_root_and(watcher)
    await Watcher.watch(watcher.within(None), echo, MONITORS)
    each = (await _memory_of_root_and(watcher) - before) / MONITORS
    os_pid = await Echo.os_pid(echo)
    told = Watcher.told(watcher.within(None))
    start = perf_counter()
    os.kill(os_pid, signal.SIGKILL)
    await told
    return {"bytes_each": each, "told_ms": (perf_counter() - start) * 1e3}


async def names() -> Numbers:
    """100,000 names that a worker claims and frees, and what another one takes to find them."""
    owner, other = await spawn(Registrar), await spawn(Registrar)
    claimed = await Registrar.claim(owner.within(None), NAMES)
    first, each, pattern = await Registrar.find(other.within(None))
    freed = await Registrar.free(owner.within(None), NAMES)
    return {
        "per_second": 2 * NAMES / (claimed + freed),
        "first_ms": first * 1e3,
        "lookup_us": each * 1e6,
        "pattern_ms": pattern * 1e3,
    }


async def _memory_of_root_and(watcher: Ref[Watcher]) -> int:
    gc.collect()
    return psutil.Process().memory_full_info().uss + await Watcher.private_memory(watcher)


def _private_memory() -> int:
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(process.memory_full_info().uss for process in processes)


async def idle_percent() -> float:
    """Return the CPU time of all our processes while nothing is asked of them, in % of a core."""
    await asyncio.sleep(0.3)
    us = os.getpid()
    children = [child.pid for child in psutil.Process().children(recursive=True)]
    # We come last in the first look and first in the second: looking costs us CPU time too.
    used, start = _cpu_seconds([*children, us]), perf_counter()
    await asyncio.sleep(IDLE_SECONDS)
    whole = perf_counter() - start
    return (_cpu_seconds([us, *children]) - used) / whole * 100


def _cpu_seconds(os_pids: list[int]) -> float:
    return sum(_cpu_seconds_of(os_pid) for os_pid in os_pids)


def _cpu_seconds_of(os_pid: int) -> float:
    # In nanoseconds where the kernel has it; the usual clock ticks are 1 % of a core each. Of all
    # threads: the root of a program is one.
    threads = list(Path(f"/proc/{os_pid}/task").glob("*/schedstat"))
    if threads:
        return sum(int(path.read_text().split()[0]) for path in threads) / 1e9
    times = psutil.Process(os_pid).cpu_times()
    return times.user + times.system
