"""From which size on bytes leave their message: the root measures it, and tells its workers."""

from __future__ import annotations

import pytest

from noex_mp import GenServer, Node, call, child
from noex_mp.wire.cut_over import SIZES, here


class Echo(GenServer):
    @call
    def same(self, value: bytes) -> bytes:
        return value

    @call
    def cut_over(self) -> int:
        return here.bytes_from


@pytest.mark.parametrize("start", ["fork", "exec"])
async def test_a_worker_holds_to_what_the_root_has_measured(start: str) -> None:
    async with Node() as node:
        assert here.bytes_from in {*SIZES, 2 * SIZES[-1]}
        echo = await node.spawn(child(Echo).options(start="exec" if start == "exec" else "fork"))
        assert await Echo.cut_over(echo) == here.bytes_from
        for size in (here.bytes_from - 1, here.bytes_from):
            value = b"x" * size
            assert await Echo.same(echo, value) == value
