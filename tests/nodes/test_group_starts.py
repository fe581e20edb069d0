"""How a group comes up again: one after the other, with their processes a little ahead."""

from __future__ import annotations

import os
import signal

import psutil

from noex_mp import Supervisor, supervisor
from tests.nodes.observed import ObservedNode, on_both_loops, whistles
from tests.nodes.scenes import Scene, at, scene, states, until
from tests.servers.obedient import Obedient

__all__ = ["scene", "whistles"]


def workers(node: ObservedNode) -> set[int]:
    """Return the processes that the root knows of."""
    assert node._root is not None  # pyright: ignore[reportPrivateUsage]
    return {worker.os_pid for worker in node._root._workers.all()}  # pyright: ignore[reportPrivateUsage]


async def have(node: ObservedNode, count: int) -> set[int]:
    """Wait until there are so many, and return them."""
    while len(found := workers(node)) != count:
        # It answers in its turn.
        await supervisor("/").is_running()
    return found


async def a_group_that_hangs_in_its_first(scene: Scene, node: ObservedNode) -> None:
    """Kill one of a group; return when the first waits in its `init`, and others have processes."""
    node.kill(await Obedient.me(at("c")))
    await scene.asked("a")
    # Those of b, c and d; no server of theirs, and e and f not yet.
    await have(node, 4)
    assert scene.told()[-1] == "-a"


def tree(scene: Scene) -> Supervisor:
    scene.order("a", "+?+...")
    return Supervisor(*map(scene.child, "abcdef"), strategy="one_for_all", max_restarts=9)


@on_both_loops
async def test_processes_come_up_ahead_and_servers_in_their_order(scene: Scene) -> None:
    async with ObservedNode(tree(scene)) as node:
        await a_group_that_hangs_in_its_first(scene, node)
        ahead = workers(node)
        scene.tell("a", "+")
        await until("f", "running")
        assert scene.told()[-6:] == ["+a", "+b", "+c", "+d", "+e", "+f"]
        assert ahead < workers(node)
        assert len(workers(node)) == 6


@on_both_loops
async def test_a_process_that_is_not_needed_goes_away_and_a_dead_one_is_replaced(
    scene: Scene,
) -> None:
    async with ObservedNode(tree(scene)) as node:
        a = await Obedient.me(at("a"))
        await a_group_that_hangs_in_its_first(scene, node)
        await supervisor("/").terminate_child("b")
        os.kill(max(workers(node) - {node.os_pid_of(a)}), signal.SIGKILL)
        await have(node, 3)
        scene.tell("a", "+")
        await until("f", "running")
        assert await states() == dict.fromkeys("acdef", "running") | {"b": "stopped"}
        await have(node, 5)


@on_both_loops
async def test_a_node_stops_while_processes_wait_for_their_servers(scene: Scene) -> None:
    async with ObservedNode(tree(scene)) as node:
        await a_group_that_hangs_in_its_first(scene, node)
        zygote = psutil.Process(node.zygote)
    assert not zygote.is_running()
