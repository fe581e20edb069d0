"""What mypy and pyright must say about pools. Read, never run.

An ignore that a checker does not need is an error, so each one below proves a complaint.
"""

from __future__ import annotations

from typing import assert_type

from noex_mp import (
    GenServer,
    Node,
    Pool,
    PoolRef,
    PoolStatistics,
    Ref,
    Supervisor,
    call,
    child,
    pool_of,
    spawn,
    sync,
)
from tests.typing.servers import Counter


class Salted(GenServer):
    def __init__(self, salt: str) -> None:
        self.salt = salt

    @call
    def hash(self, data: bytes) -> str:
        return self.salt


async def check_addresses(node: Node) -> None:
    counters = await spawn(Pool.of(Counter, size=2))
    assert_type(counters, Ref[Counter])
    assert_type(await node.spawn(Pool.of(child(Salted, "x"), routing="key")), Ref[Salted])
    assert_type(sync.spawn(Pool.of(child(Salted, "x"))), Ref[Salted])
    Pool.of(Salted)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Pool.of(child(Salted, 1))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Pool.of(Counter, routing="fair")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def check_the_pool(ref: Ref[Salted]) -> None:
    pool = pool_of(ref)
    assert_type(pool, PoolRef[Salted])
    assert_type(await pool.resize(8), int)
    assert_type(await pool.statistics(), PoolStatistics)
    assert_type(await pool.broadcast(Salted.hash, b"x"), list[str])
    assert_type(pool.options(priority=3), Ref[Salted])
    await pool.broadcast(Salted.hash, "x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def check_trees() -> None:
    Supervisor(Pool(size=2, name="cpu"), Pool.of(Counter, size=2), child(Counter))


async def check_functions() -> None:
    cpu = Pool.named("cpu")
    assert_type(await cpu.run(len, "tea"), int)
    assert_type(await cpu.options(priority=1).map(len, ["tea"]), list[int])
