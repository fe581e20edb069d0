"""What mypy and pyright know of registries and groups. Read by them, never run."""

from __future__ import annotations

from typing import Any, assert_type

from noex_mp import (
    Group,
    GroupChange,
    Ref,
    Registration,
    Registry,
    SupervisorRef,
    registry,
    whereis,
)
from tests.typing.servers import Counter

rooms = Registry("rooms")
listeners = Registry("listeners", keys="duplicate")
players = Group("players")


async def check_registries(counter: Ref[Counter], front: SupervisorRef) -> None:
    assert_type(whereis("counter", Counter), Ref[Counter] | None)
    assert_type(registry.lookup("counter", Counter), Ref[Counter])
    assert_type(rooms.whereis("a", Counter), Ref[Counter] | None)
    assert_type(rooms.lookup("a"), Ref[Any] | SupervisorRef)
    assert_type(rooms.whereis("a"), Ref[Any] | SupervisorRef | None)
    assert_type(rooms.match("*"), list[Registration])
    assert_type(rooms.names(), list[str])
    assert_type(await rooms.await_name("a", Counter, timeout=1.0), Ref[Counter])
    assert_type(await rooms.await_name("a"), Ref[Any] | SupervisorRef)
    assert_type(await listeners.dispatch("a", "hello"), int)
    await rooms.register("a", counter, metadata={"people": 1})
    await rooms.register("front", front)
    await rooms.register(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await rooms.register("a", "b")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Registry("rooms", keys="several")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(rooms.sync.await_name("a", Counter), Ref[Counter])
    rooms.sync.register("a")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def check_groups(counter: Ref[Counter]) -> None:
    await players.join(counter)
    assert_type(players.members(), list[Ref[Any]])
    assert_type(players.members(Counter), list[Ref[Counter]])
    async for change in players.watch():
        assert_type(change, GroupChange)
        assert_type(change.ref, Ref[Any])
    for change in players.sync.watch():
        assert_type(change, GroupChange)
