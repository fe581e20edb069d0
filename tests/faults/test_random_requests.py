"""Requests, deaths and failing starts at random, all at once: a tree comes to rest, and stops.

What was found so has a test of its own in `tests/nodes/test_otp_restarts.py`. For more of it:
`NOEX_MP_SEEDS=0-500 python -m pytest tests/faults/test_random_requests.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from typing import Any, get_args

import pytest

from noex_mp import (
    Backoff,
    ChildSpec,
    DynamicSupervisor,
    NoexError,
    NoServerError,
    Supervisor,
    stop,
    supervisor,
)
from noex_mp.core.specs import Restart, Strategy
from tests.nodes.observed import ObservedNode, whistles
from tests.nodes.scenes import Scene, scene
from tests.servers.obedient import Obedient

pytestmark = pytest.mark.slow

__all__ = ["scene", "whistles"]

FIRST, _, LAST = os.environ.get("NOEX_MP_SEEDS", "1-4").partition("-")

NAMES = "abcdefgh"

# What is asked of a supervisor, with the name of a child, and what befalls one of its servers.
REQUESTS = ("terminate_child", "restart_child", "delete_child", "start_child", "order")
BLOWS = ("kill", "crash", "normal", "stop", "terminate")
OF_INNER = ("stop inner", "start inner")


class Storm:
    """One tree, and what is done to it."""

    def __init__(self, seed: int, scene: Scene) -> None:
        self.rnd = random.Random(seed)
        self.scene = scene

    def spec(self, name: str, **options: Any) -> ChildSpec[Obedient]:
        rnd = self.rnd
        options.setdefault("restart", rnd.choice(get_args(Restart)))
        options["name"] = rnd.choice([name, None])
        options["shutdown"] = rnd.choice([5.0, "brutal_kill", None])
        options["backoff"] = rnd.choice([None, None, None, Backoff(first=0.005, max=0.05)])
        options["placement"] = rnd.choice([None, None, None, "rooms"])
        return self.scene.child(name, **options)

    def tree(self) -> Supervisor:
        rnd = self.rnd
        inner = Supervisor(
            *(self.spec(name) for name in "abcd"),
            strategy=rnd.choice(get_args(Strategy)),
            max_restarts=rnd.choice([0, 1, 3, 50]),
            max_failed_inits=rnd.choice([0, 2, 50]),
            restart=rnd.choice(["permanent", "transient"]),
            id="inner",
        )
        rooms = DynamicSupervisor(max_restarts=rnd.choice([1, 50]), id="rooms")
        return Supervisor(
            inner,
            self.spec("e", restart="permanent"),
            rooms,
            strategy=rnd.choice(get_args(Strategy)),
            max_restarts=1000,
            max_failed_inits=1000,
        )

    async def do_something(self, node: ObservedNode) -> None:
        of = supervisor(self.rnd.choice(["inner", "inner", "rooms", "/"]))
        what = self.rnd.choice((*REQUESTS, *BLOWS, *BLOWS, *OF_INNER))
        name = self.rnd.choice(NAMES)
        with contextlib.suppress(NoexError, ProcessLookupError, AssertionError):
            if what in BLOWS:
                await self.strike(node, of, what)
            elif what == "order":
                self.scene.order(name, "".join(self.rnd.choices("+!0", (6, 2, 1), k=5)))
            elif what == "start_child":
                await of.start_child(self.spec(name))
            elif what == "stop inner":
                await supervisor("/").terminate_child("inner")
            elif what == "start inner":
                await supervisor("/").restart_child("inner")
            else:
                await getattr(of, what)(name)

    async def strike(self, node: ObservedNode, of: Any, what: str) -> None:
        refs = [each.ref for each in await of.which_children() if each.kind == "server"]
        if not refs:
            return
        ref = self.rnd.choice(refs)
        match what:
            case "kill":
                node.kill(ref)
            case "stop":
                await stop(ref)
            case "terminate":
                await of.terminate_child(ref)
            case _:
                await Obedient.end(ref.within(1), what)


async def at_rest(node: ObservedNode) -> dict[Any, str]:
    """Wait until nothing happens any more; return the states of all children."""
    seen: object = None
    while True:
        found: dict[Any, str] = {}
        for of in ("/", "inner", "rooms"):
            with contextlib.suppress(NoServerError):
                found |= {each.ref: each.state for each in await supervisor(of).which_children()}
        # Whoever is at work on it says so.
        if set(found.values()) <= {"running", "stopped"} and seen == (found, len(node.seen)):
            return found
        seen = (found, len(node.seen))
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("seed", range(int(FIRST), int(LAST) + 1))
async def test_a_tree_comes_to_rest_whatever_is_done_to_it(seed: int, scene: Scene) -> None:
    storm = Storm(seed, scene)
    async with asyncio.timeout(15), ObservedNode(storm.tree()) as node:
        doing: list[asyncio.Future[None]] = []
        for _ in range(30):
            doing.append(asyncio.ensure_future(storm.do_something(node)))
            await asyncio.sleep(storm.rnd.choice([0, 0, 0.001, 0.01]))
        # Everybody has an answer.
        await asyncio.gather(*doing)
        for name in NAMES:
            scene.order(name, "")
        found = await at_rest(node)
        up = {ref for ref, state in found.items() if state == "running"}
        servers = {row["sid"] for row in await node.ps()}
        assert servers == {ref.sid for ref in up if not hasattr(ref, "which_children")}
        for ref in up:
            assert await ref.is_running()
            if ref.sid in servers:
                assert await Obedient.os_pid(ref)
