"""What is measured of the pools, and what it must reach."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from bench.floor import Numbers
from bench.harness import Measurement, Row, Source

__all__ = ["MEASUREMENTS", "ROWS"]

PEERS = ("executor", "multiprocessing", "loky")
BY_HAND = ("split", "counter")
REAL_WORK = {
    "digests": "SHA-256 and zlib of files",
    "gzip": "gzip of 64 MiB",
    "matrices": "matrix products",
    "heavy_tail": "tasks of 10 µs to 1 s",
}


def _run(name: str, *args: str | int, loop: bool = False) -> Callable[[], Numbers]:
    """Return what runs `bench.pools.measure`'s function `name`.

    Imported when it runs: a peer is not to carry the imports of another.
    """

    def run() -> Numbers:
        found = getattr(importlib.import_module("bench.pools.measure"), name)(*args)
        numbers: Numbers = importlib.import_module("uvloop").run(found) if loop else found
        return numbers

    return run


def _free(name: str, *args: str | int, loop: bool = False) -> Measurement:
    return Measurement(_run(name, *args, loop=loop), pinned=False)


MEASUREMENTS: dict[str, Measurement] = {
    **{
        f"pools.round_trip.{name}": Measurement(_run("round_trip", name))
        for name in ("ours", "executor", "loky")
    },
    "pools.maps.ours": _free("maps_of_ours", loop=True),
    "pools.maps.executor": _free("maps", "executor"),
    "pools.maps.multiprocessing": _free("maps", "multiprocessing"),
    "pools.in_flight.ours": _free("in_flight_of_ours", loop=True),
    "pools.in_flight.executor": _free("in_flight", loop=True),
    **{
        f"pools.{work}.{side}": _free("real_work", work, side)
        for work in REAL_WORK
        for side in ("ours", *PEERS, *BY_HAND)
    },
    "pools.array.ours": _free("array_of_ours"),
    "pools.array.executor": _free("array", "executor"),
    "pools.kill.ours": _free("kill", "ours"),
    "pools.kill.retries": _free("kill", "ours", 1),
    "pools.kill.executor": _free("kill", "executor"),
    "pools.ready.ours": _free("ready", loop=True),
}


_TRIP, _TRIP_EXECUTOR = ("pools.round_trip.ours", "p50"), ("pools.round_trip.executor", "p50")
_TRIP_LOKY = ("pools.round_trip.loky", "p50")
_MAPS, _EXECUTOR, _POOL = (f"pools.maps.{side}" for side in ("ours", "executor", "multiprocessing"))
_FLIGHT = ("pools.in_flight.ours", "per_second")
_FLIGHT_EXECUTOR = ("pools.in_flight.executor", "per_second")
_ARRAY, _ARRAY_EXECUTOR = "pools.array.ours", ("pools.array.executor", "ms")


def _rate(
    name: str,
    source: Source,
    must: float | None = None,
    against: Source | None = None,
    *others: Source,
) -> Row:
    return Row(name, source, "/s", must, against=against, or_against=others, more_is_better=True)


def _real_work(work: str, title: str) -> list[Row]:
    ours = (f"pools.{work}.ours", "s")
    by_hand, peers = (
        [(f"pools.{work}.{side}", "s") for side in sides] for sides in (BY_HAND, PEERS)
    )
    return [
        _time(f"{title}, to the best split by hand", ours, 1.1, by_hand),
        _time(f"{title}, to the best peer", ours, 1.0, peers),
        *(
            Row(f"{title}: {side}", source, "s")
            for side, source in zip((*PEERS, *BY_HAND), peers + by_hand, strict=True)
        ),
    ]


def _time(name: str, source: Source, must: float, against: list[Source]) -> Row:
    return Row(name, source, "s", must, against=against[0], or_against=tuple(against[1:]))


ROWS: list[Row] = [
    Row("submit p50, to ProcessPoolExecutor", _TRIP, "µs", 0.35, against=_TRIP_EXECUTOR),
    Row("submit p50, to loky", _TRIP, "µs", 0.25, against=_TRIP_LOKY),
    Row("submit p50: ProcessPoolExecutor", _TRIP_EXECUTOR, "µs"),
    Row("submit p50: loky", _TRIP_LOKY, "µs"),
    _rate("10,000 no-ops, to ProcessPoolExecutor", (_MAPS, "one"), 8.0, (_EXECUTOR, "one")),
    _rate("10,000 no-ops, to multiprocessing.Pool", (_MAPS, "one"), 2.0, (_POOL, "one")),
    _rate("10,000 no-ops by an executor, likewise", (_MAPS, "executor"), 8.0, (_EXECUTOR, "one")),
    _rate("10,000 no-ops by an executor, likewise", (_MAPS, "executor"), 2.0, (_POOL, "one")),
    _rate("10,000 no-ops: ProcessPoolExecutor", (_EXECUTOR, "one")),
    _rate("10,000 no-ops: multiprocessing.Pool", (_POOL, "one")),
    _rate(
        "10,000 no-ops in chunks, to their best",
        (_MAPS, "own"), 1.0, (_EXECUTOR, "best"), (_POOL, "best"),
    ),
    _rate("10,000 no-ops in chunks: ProcessPoolExecutor", (_EXECUTOR, "best")),
    _rate("10,000 no-ops in chunks: multiprocessing.Pool", (_POOL, "best")),
    _rate("pool.run, 64 in flight, to run_in_executor", _FLIGHT, 10.0, _FLIGHT_EXECUTOR),
    _rate("run_in_executor, 64 in flight", _FLIGHT_EXECUTOR),
    *(row for work, title in REAL_WORK.items() for row in _real_work(work, title)),
    Row("64 MiB to 2 workers, shared", (_ARRAY, "shared_ms"), "ms", 0.1, against=_ARRAY_EXECUTOR),
    Row("64 MiB to 2 workers, once it is shared", (_ARRAY, "again_ms"), "ms",
        against=_ARRAY_EXECUTOR),
    Row("64 MiB to 2 workers, plain", (_ARRAY, "ms"), "ms", 0.4, against=_ARRAY_EXECUTOR),
    Row("64 MiB to 2 workers: ProcessPoolExecutor", _ARRAY_EXECUTOR, "ms"),
    Row("1 of 2 killed, 1,000 queued: failed", ("pools.kill.ours", "failed"), "", 1.0),
    Row("1 of 2 killed: time, to one in peace", ("pools.kill.ours", "ratio"), "x", 1.1),
    Row("1 of 2 killed, retries=1: failed", ("pools.kill.retries", "failed"), "", 0.0),
    Row("1 of 2 killed, retries=1: time", ("pools.kill.retries", "ratio"), "x", 1.1),
    Row("1 of 2 killed, ProcessPoolExecutor: failed", ("pools.kill.executor", "failed"), ""),
    Row("pool of 8 ready", ("pools.ready.ours", "ms"), "ms", 40.0),
    Row("idle lane with numpy, private memory", ("pools.ready.ours", "mb"), "MB", 4.0),
    Row("the same, when it has run tasks", ("pools.ready.ours", "used_mb"), "MB"),
]  # fmt: skip
