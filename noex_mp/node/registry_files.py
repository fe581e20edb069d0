"""Registries that outlive their node: what servers with a name had registered, in files.

A server is known by the name of its description, since its number is another one next time. When a
server of that name is ready, in the next node, it gets back what it had. Entries whose server has
not come yet stay in the file.
"""

from __future__ import annotations

import asyncio
import os
import time
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final, NamedTuple

import msgpack

__all__ = ["RegistryFiles", "Saved", "SavedRegistry"]

_FORMAT: Final = "noex-mp registry 1"

# A file is written when nothing has changed for so long, and after so long at the latest, in
# seconds.
QUIET: Final = 0.1
PATIENCE: Final = 1.0


class SavedRegistry(NamedTuple):
    """Which registry is in which file.

    Attributes:
        registry: Its name.
        is_unique: Whether its keys are.
        path: The file.
    """

    registry: str
    is_unique: bool
    path: str


class Saved(NamedTuple):
    """What a server had registered."""

    registry: str
    is_unique: bool
    key: str
    metadata: bytes


class RegistryFiles:
    """The files of one node."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        registries: Mapping[str, SavedRegistry],
        say: Callable[[str], None],
    ) -> None:
        """Make what keeps registries; nothing is read yet.

        Args:
            loop: The root's.
            registries: Those that are kept, by name.
            say: Tells people of what went wrong: it never fails a node.
        """
        self._loop = loop
        self._registries = dict(registries)
        self._say = say
        # What the files are to hold: metadata by key and server's name.
        self._entries: dict[str, dict[tuple[str, str], bytes]] = {}
        self._waiting: dict[str, list[tuple[str, str]]] = {}
        self._writers: dict[str, _Writer] = {}

    def read(self) -> None:
        """Read the files."""
        for saved in list(self._registries.values()):
            try:
                entries = _read(saved)
            except ValueError as problem:
                self._set_aside(saved, str(problem))
                entries = {}
            except OSError as error:
                # It is not ours to replace.
                self._say(f"registry {saved.registry!r} is not kept: {error}")
                del self._registries[saved.registry]
                continue
            self._entries[saved.registry] = entries
            for key, name in entries:
                self._waiting.setdefault(name, []).append((saved.registry, key))

    def _set_aside(self, saved: SavedRegistry, problem: str) -> None:
        aside = f"{saved.path}.{int(time.time())}"
        self._say(f"{saved.path} is {problem}; it is {aside} now, and a new one begins")
        with suppress(OSError):
            os.replace(saved.path, aside)

    def taken_by(self, name: str | None) -> list[Saved]:
        """Return what a server of that name had registered; it is told once."""
        found: list[Saved] = []
        for registry, key in self._waiting.pop(name or "", ()):
            metadata = self._entries[registry].get((key, name or ""))
            if metadata is not None:
                found.append(Saved(registry, self._registries[registry].is_unique, key, metadata))
        return found

    def keep(self, registry: str, key: str, name: str | None, metadata: bytes) -> None:
        """Note what a server has registered, or says with it."""
        if name is not None and registry in self._registries:
            self._entries[registry][key, name] = metadata
            self._changed(registry)

    def drop(self, registry: str, key: str, name: str | None) -> None:
        """Note that a key was freed."""
        if name is not None and registry in self._registries:
            self._entries[registry].pop((key, name), None)
            self._changed(registry)

    def _changed(self, registry: str) -> None:
        writer = self._writers.get(registry)
        if writer is None:
            saved, entries = self._registries[registry], self._entries[registry]
            writer = self._writers[registry] = _Writer(self._loop, saved, entries, self._say)
        writer.changed()

    async def close(self) -> None:
        """Write what has not been written."""
        await asyncio.gather(*(writer.close() for writer in self._writers.values()))


class _Writer:
    """Writes one file, now and then, in a thread: a disk may be slow."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        saved: SavedRegistry,
        entries: dict[tuple[str, str], bytes],
        say: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._saved = saved
        self._entries = entries
        self._say = say
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="noex-mp registry")
        self._timer: asyncio.TimerHandle | None = None
        self._first = self._last = 0.0
        self._writing: asyncio.Task[None] | None = None
        self._has_failed = False

    def changed(self) -> None:
        self._last = self._loop.time()
        if self._timer is None:
            self._first = self._last
            self._timer = self._loop.call_later(QUIET, self._look)

    def _look(self) -> None:
        due = min(self._last + QUIET, self._first + PATIENCE)
        left = due - self._loop.time()
        if left > 0 or (self._writing is not None and not self._writing.done()):
            self._timer = self._loop.call_later(max(left, QUIET / 10), self._look)
            return
        self._timer = None
        self._writing = self._loop.create_task(self._write())

    async def _write(self) -> None:
        try:
            await self._loop.run_in_executor(self._thread, _write, self._saved, dict(self._entries))
        except OSError as error:
            if not self._has_failed:
                self._say(f"registry {self._saved.registry!r} could not be kept: {error}")
            self._has_failed = True
        else:
            self._has_failed = False

    async def close(self) -> None:
        if self._writing is not None:
            await self._writing
        if self._timer is not None or self._has_failed:
            if self._timer is not None:
                self._timer.cancel()
            await self._write()
        self._thread.shutdown()


def _read(saved: SavedRegistry) -> dict[tuple[str, str], bytes]:
    """Return what a file holds; nothing if there is none.

    Raises:
        ValueError: It is torn, or something else; says what.
        OSError: It cannot be read.
    """
    try:
        with open(saved.path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return {}
    try:
        kind, checksum, body = msgpack.unpackb(data)
        is_ours = kind == _FORMAT and isinstance(body, bytes)
    except Exception:
        is_ours, checksum, body = False, 0, b""
    if not is_ours:
        raise ValueError("torn, or no file of a registry")
    if zlib.crc32(body) != checksum:
        raise ValueError("damaged")
    registry, is_unique, entries = msgpack.unpackb(body)
    if (registry, is_unique) != (saved.registry, saved.is_unique):
        keys = "unique" if is_unique else "duplicate"
        raise ValueError(f"that of registry {registry!r} with {keys} keys")
    return {(key, name): metadata for key, name, metadata in entries}


def _write(saved: SavedRegistry, entries: dict[tuple[str, str], bytes]) -> None:
    """Replace a file: at any moment there is the old one, or the new one, whole."""
    listed: list[Any] = [[key, name, metadata] for (key, name), metadata in entries.items()]
    body: bytes = msgpack.packb([saved.registry, saved.is_unique, listed])
    data: bytes = msgpack.packb([_FORMAT, zlib.crc32(body), body])
    new = f"{saved.path}.new"
    # For this user alone: what is in it may be unpickled.
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, saved.path)
