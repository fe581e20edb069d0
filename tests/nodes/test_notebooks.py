"""Notebooks: a real Jupyter kernel whose cells define servers."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.processes.harness import REPOSITORY, wait_for_ends

pytest.importorskip("ipykernel", reason="ipykernel is not installed")
zmq = pytest.importorskip("zmq.asyncio", reason="jupyter_client is not installed")
jupyter_client = pytest.importorskip("jupyter_client", reason="jupyter_client is not installed")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

PATIENCE = 30.0  # seconds


class Notebook:
    """A kernel, and cells to run in it."""

    def __init__(self) -> None:
        self._context = zmq.Context()
        self.manager = jupyter_client.AsyncKernelManager(
            kernel_name="python3", context=self._context
        )

    async def start(self, folder: Path) -> None:
        folders = {"JUPYTER_RUNTIME_DIR": str(folder), "IPYTHONDIR": str(folder)}
        environment = {**os.environ, **folders, "PYTHONPATH": str(REPOSITORY)}
        await self.manager.start_kernel(env=environment, cwd=str(folder))
        self._client = self.manager.client()
        self._client.start_channels()
        await self._client.wait_for_ready(timeout=PATIENCE)

    async def cell(self, code: str) -> str:
        """Run a cell, and return what it printed; fail with its traceback."""
        printed: list[str] = []

        def hear(message: dict[str, Any]) -> None:
            if message["msg_type"] == "stream":
                printed.append(message["content"]["text"])

        reply = await self._client.execute_interactive(code, timeout=PATIENCE, output_hook=hear)
        content = reply["content"]
        assert content["status"] == "ok", "\n".join(content["traceback"])
        return "".join(printed)

    async def heard(self, text: str) -> None:
        """Wait until the notebook shows this, below whichever cell."""
        while True:
            message = await self._client.get_iopub_msg(timeout=PATIENCE)
            if text in message["content"].get("text", ""):
                return

    async def close(self) -> None:
        self._client.stop_channels()
        if await self.manager.is_alive():
            await self.manager.shutdown_kernel(now=True)
        await self.manager.cleanup_resources()
        self._context.destroy(linger=0)


@pytest.fixture
async def notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Notebook]:
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    notebook = Notebook()
    try:
        await notebook.start(tmp_path)
        yield notebook
    finally:
        await notebook.close()


IMPORTS = "from noex_mp import GenServer, Node, call, cast, shutdown, spawn, stop\nimport math\n"
COUNTER = """
class TooMuch(Exception):
    def __init__(self, wanted, limit):
        super().__init__(f"{wanted} > {limit}")
        self.wanted = wanted

def rounded(number):
    return math.floor(number)

class Counter(GenServer, expected=(TooMuch,)):
    def __init__(self, start=0):
        self.value = start
    @call
    def add(self, by=1.0):
        if by > 10:
            raise TooMuch(by, 10)
        self.value += rounded(by)
        return self.value
    @call
    def apply(self, function):
        return function(self.value)
    @call
    def os_pid(self):
        import os
        return os.getpid()
"""


async def test_a_class_of_a_cell_works_over_several_cells(notebook: Notebook) -> None:
    await notebook.cell(IMPORTS)
    await notebook.cell(COUNTER)
    await notebook.cell("counter = await spawn(Counter, start=10)")
    assert await notebook.cell("print(await Counter.add(counter, by=2.9))") == "12\n"
    await notebook.cell("def double(v): return v * 2")
    assert await notebook.cell("print(await Counter.apply(counter, double))") == "24\n"
    caught = """
    try:
        await Counter.add(counter, 11)
    except TooMuch as error:
        print("caught", error.wanted)
    """
    assert await notebook.cell("if True:" + caught) == "caught 11\n"
    assert (
        await notebook.cell("await stop(counter); print(await counter.is_running())") == "False\n"
    )


async def test_a_class_that_is_defined_again_is_the_one_that_is_spawned(notebook: Notebook) -> None:
    await notebook.cell(IMPORTS + COUNTER)
    await notebook.cell("old = await spawn(Counter)")
    await notebook.cell(
        COUNTER.replace("self.value += rounded(by)", "self.value += 100 * rounded(by)")
    )
    await notebook.cell("new = await spawn(Counter)")
    assert await notebook.cell("print(await Counter.add(old), await Counter.add(new))") == "1 100\n"
    restarted = """
import os, signal
os.kill(await Counter.os_pid(old), signal.SIGKILL)
print(await Counter.add(old))
"""
    assert (await notebook.cell(restarted)).endswith("1\n")


async def test_a_class_of_a_cell_makes_a_pool(notebook: Notebook) -> None:
    await notebook.cell("from noex_mp import Pool\n" + IMPORTS + COUNTER)
    await notebook.cell("pool = await spawn(Pool.of(Counter, size=2))")
    assert await notebook.cell("print(await Counter.add(pool, by=2.9))") == "2\n"


async def test_values_of_cells_are_the_same_class_on_both_sides(notebook: Notebook) -> None:
    await notebook.cell(IMPORTS)
    await notebook.cell(
        """
from dataclasses import dataclass
from enum import Enum

class Colour(Enum):
    RED = 1

@dataclass
class Order:
    colour: Colour

class Shop(GenServer):
    seen = []
    @call
    def take(self, order):
        self.seen.append(order)
        return order, len({type(order) for order in self.seen}), isinstance(order, Order)
"""
    )
    await notebook.cell("shop = await spawn(Shop)")
    for _ in range(2):
        ask = "order, kinds, known = await Shop.take(shop, Order(Colour.RED))"
        await notebook.cell(ask)
        says = "print(type(order) is Order, order.colour is Colour.RED, kinds, known)"
        assert await notebook.cell(says) == "True True 1 True\n"


async def test_what_a_server_prints_is_seen_in_the_notebook(notebook: Notebook) -> None:
    await notebook.cell(IMPORTS)
    await notebook.cell(
        """
class Loud(GenServer):
    @call
    def say(self, text):
        print(text, flush=True)
"""
    )
    await notebook.cell("loud = await spawn(Loud)")
    await notebook.cell("Loud.say(loud, 'hello ' + 'there')")
    await notebook.heard("hello there")


async def test_a_module_that_is_loaded_again_is_the_one_that_is_spawned(
    notebook: Notebook, tmp_path: Path
) -> None:
    module = tmp_path / "lib.py"
    module.write_text(f"{IMPORTS}{COUNTER}")
    await notebook.cell("import importlib, lib; from noex_mp import spawn")
    await notebook.cell("counter = await spawn(lib.Counter)")
    module.write_text(f"{IMPORTS}{COUNTER.replace('rounded(by)', '1000 * rounded(by)')}")
    await notebook.cell("old = lib.Counter; importlib.reload(lib)")
    await notebook.cell("new, again = await spawn(lib.Counter), await spawn(old)")
    ask = "await lib.Counter.add(counter), await lib.Counter.add(new), await old.add(again)"
    assert await notebook.cell(f"print({ask})") == "1 1000 1\n"


@pytest.mark.parametrize("how", ["shutdown", "SIGKILL"])
async def test_the_node_ends_with_its_kernel(notebook: Notebook, how: str) -> None:
    await notebook.cell(IMPORTS + COUNTER)
    await notebook.cell("counter = await spawn(Counter)")
    worker = int(await notebook.cell("print(await Counter.os_pid(counter))"))
    pidfd = os.pidfd_open(worker)
    try:
        if how == "shutdown":
            await notebook.manager.shutdown_kernel()
        else:
            await notebook.manager.signal_kernel(signal.SIGKILL)
        assert await asyncio.to_thread(wait_for_ends, [pidfd]) == []
    finally:
        os.close(pidfd)


async def test_a_type_may_be_registered_in_a_cell(notebook: Notebook) -> None:
    await notebook.cell(IMPORTS + "from noex_mp import register_type")
    await notebook.cell(
        """
class Sealed:
    def __init__(self, content):
        self.content = content
    def __reduce__(self):
        raise TypeError("no pickle")

register_type(Sealed, lambda sealed: sealed.content, lambda content: Sealed(content))

class Echo(GenServer):
    @call
    def twice(self, values):
        return [Sealed(2 * value.content) for value in values]
"""
    )
    await notebook.cell("echo = await spawn(Echo)")
    echoed = """
[one] = await Echo.twice(echo, [Sealed(3)])
print(type(one) is Sealed, one.content)
"""
    assert await notebook.cell(echoed) == "True 6\n"
