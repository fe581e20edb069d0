"""Registries that outlive their node."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from noex_mp import (
    ConfigError,
    Node,
    Registration,
    Registry,
    Supervisor,
    child,
    registry,
    spawn,
    stop,
)
from noex_mp.node import registry_files
from noex_mp.node.registry_files import RegistryFiles, SavedRegistry
from tests.nodes.observed import ObservedNode, on_both_loops
from tests.servers.registered import LISTENERS, ROOMS, Room

PRELOAD = ("tests.servers.registered",)


def node_with(path: Path, *entries: Any) -> ObservedNode:
    tree = Supervisor(*entries) if entries else None
    return ObservedNode(
        tree, preload=PRELOAD, persist={ROOMS: path / "rooms", LISTENERS: path / "l"}
    )


def set_aside(path: Path) -> list[Path]:
    return list(path.glob("rooms.*"))


def room(*keys: str, name: str | None = None, **options: Any) -> Any:
    return child(Room, *keys, metadata="its own").options(name=name, **options)


@on_both_loops
async def test_servers_with_a_name_get_back_what_they_had(tmp_path: Path) -> None:
    async with node_with(tmp_path, room("in init", name="lobby")):
        lobby = registry.lookup("lobby", Room)
        nameless = await spawn(Room)
        later = await spawn(room(name="later"))
        await ROOMS.register("door", lobby, metadata={"open": True})
        await ROOMS.register("window", lobby)
        await ROOMS.register("freed", lobby)
        await ROOMS.unregister("freed")
        await ROOMS.register("nameless", nameless)
        await ROOMS.update_metadata("window", 7)
        await ROOMS.update_metadata("in init", "changed")
        await LISTENERS.register("weather", lobby, metadata=1)
        await LISTENERS.register("weather", later, metadata=2)
    for _ in range(2):
        # Also of one that did not come back in between, and of one that nothing has changed.
        async with node_with(tmp_path, room("in init", name="lobby")):
            lobby = registry.lookup("lobby", Room)
            assert sorted(ROOMS.match("*")) == [
                Registration("door", lobby, {"open": True}),
                Registration("in init", lobby, "its own"),
                Registration("window", lobby, 7),
            ]
            assert LISTENERS.entries("weather") == [Registration("weather", lobby, 1)]
    async with node_with(tmp_path):
        assert ROOMS.names() == []
        later = await spawn(room(name="later"))
        assert LISTENERS.entries("weather") == [Registration("weather", later, 2)]


async def test_what_was_freed_by_an_end_does_not_come_back(tmp_path: Path) -> None:
    async with node_with(tmp_path) as node:
        ended, crashed = await spawn(room(name="ended")), await spawn(room(name="crashed"))
        for ref, key in ((ended, "a"), (crashed, "b")):
            await ROOMS.register(key, ref)
        await stop(ended)
        node.kill(crashed)
        await node.event("restarted", crashed)
        assert ROOMS.names() == []
    async with node_with(tmp_path):
        for name in ("ended", "crashed"):
            await spawn(room(name=name))
        assert ROOMS.names() == []


async def test_a_key_that_somebody_else_has_by_now_is_left_alone(tmp_path: Path) -> None:
    async with node_with(tmp_path):
        await ROOMS.register("door", await spawn(room(name="lobby")))
    async with node_with(tmp_path):
        other = await spawn(Room, "door")
        await spawn(room(name="lobby"))
        assert ROOMS.whereis("door") == other


PROGRAM = """
import asyncio, os, signal, sys
from noex_mp import Node, child, spawn
from tests.servers.registered import ROOMS, Room

async def main(path):
    async with Node(preload=["tests.servers.registered"], persist={ROOMS: path}):
        lobby = await spawn(child(Room).options(name="lobby"))
        await ROOMS.register("door", lobby, metadata=[1, 2])
        while not os.path.exists(path):
            await asyncio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.slow
async def test_what_was_kept_outlives_the_death_of_everything(tmp_path: Path) -> None:
    path = tmp_path / "rooms"
    run = partial(subprocess.run, [sys.executable, "-c", PROGRAM, path], check=False, timeout=15)
    done = await asyncio.to_thread(run)
    assert done.returncode == -signal.SIGKILL
    async with node_with(tmp_path):
        lobby = await spawn(room(name="lobby"))
        assert ROOMS.entries("door") == [Registration("door", lobby, [1, 2])]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "torn": lambda data: data[:-3],
    "damaged": lambda data: data[:-3] + b"xyz",
    "foreign": lambda data: b"something else",
    "changed": lambda data: data.replace(b"rooms", b"halls"),
    "a number": lambda data: b"\x07",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
async def test_a_file_that_is_none_is_told_and_set_aside(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "rooms"
    async with node_with(tmp_path):
        await ROOMS.register("door", await spawn(room(name="lobby")))
    broken = damage(path.read_bytes())
    path.write_bytes(broken)
    async with node_with(tmp_path) as node:
        await node.line("rooms is ")
        lobby = await spawn(room(name="lobby"))
        assert ROOMS.names() == []
        await ROOMS.register("window", lobby)
    (aside,) = set_aside(tmp_path)
    assert aside.read_bytes() == broken
    async with node_with(tmp_path):
        await spawn(room(name="lobby"))
        assert ROOMS.names() == ["window"]


async def test_the_file_of_another_registry_is_set_aside(tmp_path: Path) -> None:
    async with node_with(tmp_path):
        await ROOMS.register("door", await spawn(room(name="lobby")))
    halls = Registry("halls")
    async with ObservedNode(preload=PRELOAD, persist={halls: tmp_path / "rooms"}) as node:
        await node.line("that of registry 'rooms'")
    assert len(set_aside(tmp_path)) == 1


async def test_what_cannot_be_written_is_told_and_costs_nothing_else(tmp_path: Path) -> None:
    missing = {ROOMS: tmp_path / "no" / "folder"}
    async with ObservedNode(preload=PRELOAD, persist=missing) as node:
        lobby = await spawn(room(name="lobby"))
        await ROOMS.register("door", lobby)
        await node.line("registry 'rooms' could not be kept")
        assert ROOMS.whereis("door") == lobby


async def test_what_cannot_be_read_is_told_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "rooms").mkdir()
    async with node_with(tmp_path) as node:
        await node.line("registry 'rooms' is not kept")
        await ROOMS.register("door", await spawn(room(name="lobby")))
    assert (tmp_path / "rooms").is_dir()


async def test_steady_changes_are_written_in_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_files, "QUIET", 0.05)
    monkeypatch.setattr(registry_files, "PATIENCE", 0.2)
    path = tmp_path / "rooms"
    kept = SavedRegistry("rooms", True, str(path))
    files = RegistryFiles(asyncio.get_running_loop(), {"rooms": kept}, print)
    files.read()
    count = 0
    while not path.exists():
        count += 1
        files.keep("rooms", f"door/{count % 10}", "lobby", b"")
        await asyncio.sleep(0)
    await files.close()
    assert count > 1
    assert os.stat(path).st_mode & 0o777 == 0o600


@pytest.mark.parametrize("wrong", [registry, "rooms", Registry("@groups", keys="duplicate")])
def test_only_registries_of_the_users_are_kept(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="persist"):
        Node(persist={wrong: "file"})
