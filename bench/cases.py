"""What is measured, and what it must reach."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from bench import executor, floor, imports, loops
from bench.floor import Numbers
from bench.harness import Measurement, Row
from bench.pools import cases as pools

__all__ = ["MEASUREMENTS", "ROWS"]


def _blocking(name: str) -> Callable[[], Numbers]:
    """Return what runs `bench.runtime`'s function `name`, which needs no event loop."""

    def run() -> Numbers:
        runtime = importlib.import_module("bench.runtime")
        numbers: Numbers = runtime.without_loop(getattr(runtime, name))
        return numbers

    return run


def _runtime(name: str, *args: int, plain: bool = False) -> Callable[[], Numbers]:
    """Return what runs `bench.runtime`'s function `name`.

    Imported when it runs: a floor or a peer is not to carry the runtime's imports.
    """

    def run() -> Numbers:
        runtime = importlib.import_module("bench.runtime")
        main = getattr(runtime, name)
        numbers: Numbers = runtime.on_loop(main(*args) if args else main, plain=plain)
        return numbers

    return run


def _limits(name: str) -> Callable[[], Numbers]:
    """Return what runs `bench.limits`'s function `name`."""

    def run() -> Numbers:
        runtime = importlib.import_module("bench.runtime")
        main = getattr(importlib.import_module("bench.limits"), name)
        numbers: Numbers = runtime.on_loop(main)
        return numbers

    return run


def _big_values(name: str, *, without_loop: bool = False) -> Callable[[], Numbers]:
    """Return what runs `bench.big_values`'s function `name`."""

    def run() -> Numbers:
        main = getattr(importlib.import_module("bench.big_values"), name)
        runtime = importlib.import_module("bench.runtime")
        numbers: Numbers = main() if without_loop else runtime.on_loop(main)
        return numbers

    return run


MEASUREMENTS: dict[str, Measurement] = {
    "floor": Measurement(floor.floor),
    "python_floor": Measurement(floor.python_floor),
    "loops": Measurement(loops.one_at_a_time),
    "loops_64": Measurement(loops.together),
    "loops_one_way": Measurement(loops.one_way),
    "floor_two_cores": Measurement(floor.floor_across_cores, pinned=False),
    "pool": Measurement(executor.pool_round_trip),
    "pool_16mib": Measurement(executor.pool_big_argument),
    "call": Measurement(_runtime("call_sync")),
    "call_bare": Measurement(_runtime("call_bare")),
    "call_watched": Measurement(_limits("call_watched")),
    "call_async": Measurement(_runtime("call_async")),
    "call_plain_loop": Measurement(_runtime("call_sync", plain=True)),
    "call_free": Measurement(_runtime("call_sync"), pinned=False),
    "call_spin": Measurement(_runtime("call_spinning"), pinned=False),
    "burners": Measurement(_runtime("call_beside_burners"), pinned=False),
    "burners_spin": Measurement(_runtime("call_spinning_beside_burners"), pinned=False),
    "sync_call": Measurement(_blocking("sync_call")),
    "sync_threads": Measurement(_blocking("sync_threads")),
    "calls_gather_64": Measurement(_runtime("calls_gathered", 64)),
    "calls_gather_1000": Measurement(_runtime("calls_gathered", 1000)),
    "calls_tasks_64": Measurement(_runtime("calls_tasks")),
    "casts": Measurement(_runtime("casts")),
    "casts_bare": Measurement(_runtime("casts_bare")),
    "fan_out_floor": Measurement(floor.fan_out),
    "worker_to_worker": Measurement(_runtime("worker_to_worker")),
    "fan_out": Measurement(_runtime("fan_out")),
    "slow_batch": Measurement(_runtime("slow_batch")),
    "time_limits": Measurement(_runtime("time_limits")),
    "call_16mib": Measurement(_runtime("big_argument")),
    "executor_64mib": Measurement(_big_values("executor_array", without_loop=True), pinned=False),
    "plain_64mib": Measurement(_big_values("plain_array"), pinned=False),
    "shared_64mib": Measurement(_big_values("shared_array"), pinned=False),
    "smallest_shared": Measurement(_big_values("smallest_shared")),
    "spawn": Measurement(_runtime("spawn_to_reply")),
    "first_spawn": Measurement(_runtime("first_spawn")),
    "import": Measurement(imports.import_cold),
    "kill": Measurement(_runtime("kill")),
    "kill_under_load": Measurement(_runtime("kill_under_load"), pinned=False),
    "one_for_all": Measurement(_runtime("one_for_all"), pinned=False),
    "reload": Measurement(_runtime("reload"), pinned=False),
    "idle": Measurement(_runtime("idle_memory")),
    "many": Measurement(_runtime("many")),
    "monitors": Measurement(_runtime("monitors")),
    "names": Measurement(_runtime("names"), pinned=False),
    "groups": Measurement(_runtime("groups"), pinned=False),
    "hangs": Measurement(_limits("hangs"), pinned=False),
    "memory_watch": Measurement(_limits("memory_watch")),
    **pools.MEASUREMENTS,
}

_FLOOR = ("floor", "p50")
_CALL = ("call", "p50")
_CASTS = ("casts", "per_second")
_TWO_CORES = ("floor_two_cores", "p50")
_BURNERS = ("burners", "per_second")
_FLOOR_RATE = ("floor", "per_second")
_ARRAY = ("executor_64mib", "ms")

ROWS: list[Row] = [
    Row("floor p50", _FLOOR, "µs"),
    Row("floor p99", ("floor", "p99"), "µs"),
    Row("floor round trips", _FLOOR_RATE, "/s"),
    Row("python floor p50", ("python_floor", "p50"), "µs", against=_FLOOR),
    Row("two bare loops p50", ("loops", "p50"), "µs", against=_FLOOR),
    Row(
        "two bare loops, 64 at a time",
        ("loops_64", "per_second"),
        "/s",
        against=_FLOOR_RATE,
        more_is_better=True,
    ),
    Row(
        "two bare loops, one way",
        ("loops_one_way", "per_second"),
        "/s",
        against=_FLOOR_RATE,
        more_is_better=True,
    ),
    Row("call p50", _CALL, "µs", 2.4, 1.8, _FLOOR),
    Row("call p99", ("call", "p99"), "µs", 5.0, against=_FLOOR),
    Row("call p50, beside one without all that", _CALL, "µs", 1.1, against=("call_bare", "p50")),
    Row("call p50, with a hang_timeout", ("call_watched", "p50"), "µs", 1.15, against=_CALL),
    Row("call p50, async handler", ("call_async", "p50"), "µs", 2.7, against=_FLOOR),
    Row("call p50, plain asyncio loop", ("call_plain_loop", "p50"), "µs", 3.2, against=_FLOOR),
    Row("call p50, .sync", ("sync_call", "p50"), "µs", 2.0, 1.5, _FLOOR),
    Row("calls, .sync, 8 threads", ("sync_threads", "per_second"), "/s", against=_FLOOR_RATE),
    Row("floor across two cores p50", _TWO_CORES, "µs"),
    Row("call p50, not pinned", ("call_free", "p50"), "µs", 1.4, against=_TWO_CORES),
    Row("call p50, not pinned, spin", ("call_spin", "p50"), "µs", 0.5, against=_TWO_CORES),
    Row("calls beside two busy processes", _BURNERS, "/s"),
    Row(
        "calls beside two busy processes, spin",
        ("burners_spin", "per_second"),
        "/s",
        1 / 1.15,
        against=_BURNERS,
        more_is_better=True,
    ),
    *(
        Row(name, (source, "per_second"), "/s", 2.2, 3.3, _FLOOR_RATE, more_is_better=True)
        for name, source in [
            ("calls, gather of 64", "calls_gather_64"),
            ("calls, gather of 1000", "calls_gather_1000"),
            ("calls, 64 tasks", "calls_tasks_64"),
        ]
    ),
    Row("casts", _CASTS, "/s", 8.0, 14.0, _FLOOR_RATE, more_is_better=True),
    Row(
        "casts, beside those without all that",
        _CASTS,
        "/s",
        1 / 1.15,
        against=("casts_bare", "per_second"),
        more_is_better=True,
    ),
    Row("call p50, worker to worker", ("worker_to_worker", "p50"), "µs", 2.6, 1.8, _FLOOR),
    Row("fan-out to 100 workers", ("fan_out", "all_ms"), "ms", 1.5, against=("fan_out", "one_ms")),
    Row("fan-out, the same in C", ("fan_out_floor", "ms"), "ms", against=("fan_out", "one_ms")),
    Row("batch of slow calls: latest reply", ("slow_batch", "ms"), "ms", 2.0),
    Row("1,000 time limits: latest error", ("time_limits", "ms"), "ms", 50.0),
    Row("call, 16 MiB argument", ("call_16mib", "ms"), "ms", 0.3, 0.15, ("pool_16mib", "ms")),
    Row("ProcessPoolExecutor, 16 MiB", ("pool_16mib", "ms"), "ms"),
    Row("ProcessPoolExecutor, 64 MiB array to 2", _ARRAY, "ms"),
    Row("64 MiB array to 2 servers, shared", ("shared_64mib", "ms"), "ms", 0.1, against=_ARRAY),
    Row("64 MiB array to 2 servers, plain", ("plain_64mib", "ms"), "ms", 0.4, against=_ARRAY),
    Row(
        "call, 128 KiB array, shared",
        ("smallest_shared", "shared_us"),
        "µs",
        against=("smallest_shared", "plain_us"),
    ),
    Row("ProcessPoolExecutor p50", ("pool", "p50"), "µs", against=_FLOOR),
    Row("spawn to first reply", ("spawn", "ms"), "ms", 6.0, 3.0),
    Row("first spawn of a program", ("first_spawn", "ms"), "ms", 250.0),
    Row("import noex_mp, cold", ("import", "ms"), "ms", 100.0),
    Row("kill -9 to the caller's error", ("kill", "error_ms"), "ms", 5.0, 1.0),
    Row("kill -9 to the next good reply", ("kill", "reply_ms"), "ms", 15.0, 5.0),
    Row("the same, one of 100 under load", ("kill_under_load", "reply_ms"), "ms", 15.0, 8.0),
    Row("the same: failed calls to the others", ("kill_under_load", "failed"), "", 0.0),
    Row("one_for_all of 20: restarted", ("one_for_all", "ms"), "ms", 150.0, 75.0),
    Row("reload of 20 under 2,000 calls/s: failed calls", ("reload", "failed"), "", 0.0),
    Row("the same: until all are replaced", ("reload", "ms"), "ms"),
    Row("the same: the latest reply", ("reload", "latest_ms"), "ms"),
    Row("idle worker, private memory", ("idle", "mb"), "MB", 4.0, 1.5),
    Row("200 servers: start all", ("many", "start_s"), "s", 1.5),
    Row("200 servers: stop all", ("many", "stop_s"), "s", 1.5),
    Row("200 servers: idle", ("many", "idle_percent"), "% of a core", 1.0),
    Row("100,000 monitors: each", ("monitors", "bytes_each"), "bytes", 1000.0),
    Row("100,000 monitors: all told of a death", ("monitors", "told_ms"), "ms"),
    Row("100,000 names: claims, frees", ("names", "per_second"), "/s", 5e4, more_is_better=True),
    Row("100,000 names: lookup in a worker", ("names", "lookup_us"), "µs", 1.0),
    Row("100,000 names: first lookup of a worker", ("names", "first_ms"), "ms"),
    Row("100,000 names: a pattern", ("names", "pattern_ms"), "ms", 50.0),
    Row("10,000 servers in 4 groups: start", ("groups", "start_s"), "s", 4.0),
    Row("10,000 servers in 4 groups: each", ("groups", "kb_each"), "KB", 5.0),
    Row("10,000 servers in 4 groups: each, called", ("groups", "kb_called"), "KB"),
    Row("10,000 servers in 4 groups: stop", ("groups", "stop_s"), "s"),
    Row("hang: from its limit to the error", ("hangs", "latest_ms"), "ms", 200.0),
    Row("memory_limit: to watch it", ("memory_watch", "percent_each"), "% of a core", 0.1),
    *pools.ROWS,
]
