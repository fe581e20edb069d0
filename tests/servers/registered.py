"""Servers that register themselves and others, and look around in registries."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from noex_mp import (
    Down,
    GenServer,
    Group,
    MetadataError,
    Ref,
    Registry,
    call,
    cast,
    monitor,
    registry,
)

ROOMS = Registry("rooms")
LISTENERS = Registry("listeners", keys="duplicate")
PLAYERS = Group("players")


class Room(GenServer, expected=(MetadataError,)):
    """Registers under its keys in its `init`, and again whenever it starts."""

    def __init__(self, *keys: str, metadata: object = None, then: str = "") -> None:
        self.keys = keys
        self.metadata = metadata
        self.then = then
        self.heard: list[Any] = []
        self.seen_at_down: list[Any] = []

    async def init(self) -> None:
        for key in self.keys:
            await ROOMS.register(key, metadata=self.metadata)
        if self.then == "fail":
            raise LookupError("no such room")
        if self.then == "die":
            os._exit(3)

    @call
    async def claim(self, key: str, metadata: object = None) -> None:
        await ROOMS.register(key, metadata=metadata)

    @call
    async def listen(self, key: str) -> None:
        await LISTENERS.register(key)

    @call
    async def stop_listening(self, key: str) -> None:
        await LISTENERS.unregister(key)

    @call
    async def call_me(self, name: str) -> None:
        await registry.register(name)

    @call
    async def join(self) -> None:
        await PLAYERS.join()

    @call
    async def leave(self) -> None:
        await PLAYERS.leave()

    @call
    def fail(self) -> None:
        raise LookupError("no such room")

    @call
    def find(self, key: str) -> Ref[Room] | None:
        return ROOMS.whereis(key, Room)

    @call
    def players(self) -> list[Ref[Any]]:
        return PLAYERS.members()

    @call
    def all_names(self) -> list[str]:
        return ROOMS.names()

    @call
    def match(self, glob: str, least: int | None = None) -> dict[str, str]:
        found = ROOMS.match(glob, None if least is None else lambda each: each.metadata >= least)
        return {each.key: repr(each.metadata) for each in found}

    @call
    def metadata_of(self, key: str) -> Any:
        return ROOMS.metadata(key)

    @call
    async def count_up(self, key: str, times: int) -> None:
        for _ in range(times):
            await ROOMS.update_metadata(key, lambda count: count + 1)

    @call
    def watch_out_for(self, ref: Ref[Any]) -> None:
        monitor(ref)

    @call
    def found_at_down(self) -> list[Any]:
        return self.seen_at_down

    def handle_info(self, message: Any) -> None:
        if isinstance(message, Down):
            # What there is still to be found of the one that is down.
            self.seen_at_down.append(
                [
                    message.restart,
                    [each.key for each in ROOMS.match("**") if each.ref == message.ref],
                    sum(member == message.ref for member in PLAYERS.members()),
                    [n for n in registry.names() if registry.whereis(n) == message.ref],
                ]
            )

    @call
    def os_pid(self) -> int:
        return os.getpid()

    @call
    def open_log_for_writing(self) -> list[str]:
        """Try to write the log of names; return how that fails."""
        links = {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in _open_fds()}
        logs = [fd for fd, link in links.items() if "noex-mp-names" in link]
        failures: list[str] = []
        for fd in logs:
            try:
                os.pwrite(fd, b"x", 0)
            except OSError as error:
                failures.append(type(error).__name__)
        return failures

    @call
    async def look_in_a_thread(self, key: str) -> Ref[Any] | None:
        return await asyncio.to_thread(ROOMS.whereis, key, Room)

    @call
    async def claim_in_a_thread(self, key: str) -> None:
        await asyncio.to_thread(ROOMS.sync.register, key, self.ref)

    @call
    def time_to_find(self, key: str, times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            ROOMS.whereis(key)
        return (time.perf_counter() - start) / times

    @cast
    def hear(self, what: object) -> None:
        self.heard.append(what)

    def handle_cast(self, request: object) -> None:
        self.heard.append(request)

    @call
    def has_heard(self) -> list[Any]:
        return self.heard


class Waiting(GenServer):
    """Waits for a name that nobody claims."""

    @call
    async def begin(self) -> None:
        self.task = asyncio.create_task(ROOMS.await_name("nobody", timeout=None))
        # Its question is on its way to the root, and this one behind it.
        await asyncio.sleep(0)
        await ROOMS.unregister("nothing")


def _open_fds() -> list[int]:
    names = os.listdir("/proc/self/fd")
    return [int(name) for name in names if os.path.lexists(f"/proc/self/fd/{name}")]
