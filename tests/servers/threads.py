"""A server that calls others from threads of its own."""

from __future__ import annotations

import asyncio

from noex_mp import GenServer, Ref, call, current_node, sync
from tests.servers.counters import Counter


class Threaded(GenServer):
    """Its handlers wait for threads, and the threads for other servers."""

    @call
    async def increment_in_threads(self, counter: Ref[Counter], threads: int, times: int) -> int:
        def work() -> None:
            for _ in range(times):
                Counter.increment.sync(counter)

        await asyncio.gather(*(asyncio.to_thread(work) for _ in range(threads)))
        return await Counter.increment(counter, by=0)

    @call
    async def start_in_a_thread(self, start: int) -> Ref[Counter]:
        return await asyncio.to_thread(sync.spawn, Counter, start=start)

    @call
    async def block_the_loop(self, counter: Ref[Counter]) -> str:
        try:
            Counter.increment.sync(counter)
        except Exception as error:
            return str(error)
        return ""

    @call
    async def current_node(self) -> str:
        return current_node().id
