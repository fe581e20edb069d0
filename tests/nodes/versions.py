"""A module of servers whose file a test writes anew, while a node runs it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from noex_mp import Supervisor, child, named

__all__ = ["App", "app"]

SOURCE = """
import asyncio
from noex_mp import GenServer, Replaced, call, link

VERSION = {version}


class Rolling(GenServer):
    def __init__(self, name, ends="", goes=""):
        self.name, self.ends, self.goes = name, ends, goes
        self.last = 0

    async def init(self):
        {init}

    async def terminate(self, reason):
        if self.ends and reason == Replaced():
            # Tells the test that it ends, and waits until it may.
            with open(self.ends, "wb", buffering=0) as ends:
                ends.write(b"x")
            with open(self.goes, "rb", buffering=0) as goes:
                goes.read(1)

    @call
    def version(self):
        return VERSION

    @call
    async def number(self, number):
        # Mostly one has begun, and others have arrived.
        await asyncio.sleep(0.001)
        in_order, self.last = number > self.last, number
        return in_order

    @call
    def tie(self, other):
        link(other)

    @call
    def crash(self):
        raise KeyError("crash")
"""


class App:
    """A module that the test writes anew."""

    def __init__(self, folder: Path, name: str) -> None:
        self._file = folder / f"{name}.py"
        self.name = name
        self.write(1)

    def write(self, version: object, init: str = "pass") -> None:
        self._file.write_text(SOURCE.format(version=version, init=init))

    @property
    def server(self) -> Any:
        return importlib.import_module(self.name).Rolling

    def child(self, name: str, *more: str, **options: Any) -> Any:
        options = {"id": name, "name": name, **options}
        return child(self.server, name, *more).options(**options)

    def tree(self, names: str, **options: Any) -> Supervisor:
        return Supervisor(*map(self.child, names), **options)

    async def versions(self, names: str) -> list[Any]:
        version = self.server.version
        return [await version(named(name, self.server).within(10)) for name in names]

    def at(self, name: str) -> Any:
        return named(name, self.server).within(10)


@pytest.fixture
def app(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[App]:
    # Files of one second and one size look alike to what Python caches of them.
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    importlib.invalidate_caches()
    name = "rolling_" + "".join(filter(str.isalnum, request.node.name))
    yield App(tmp_path, name)
    sys.modules.pop(name, None)
