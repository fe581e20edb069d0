"""Code without a name, start arguments of any size, and source files that change."""

from __future__ import annotations

import gc
import importlib
import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from noex_mp import (
    DynamicSupervisor,
    GenServer,
    InitFailedError,
    Ref,
    Reply,
    ServerExitedError,
    Supervisor,
    call,
    child,
    spawn,
    stop,
    supervisor,
)
from noex_mp.errors import NotImportableError, UnencodableError
from tests.nodes.observed import ObservedNode, on_both_loops
from tests.processes.harness import REPOSITORY
from tests.servers.counters import Counter

BIG = 100 * 2**20


def same(value: Any) -> Any:
    return value


class Keeper(GenServer):
    def __init__(self, array: Any = None, function: Callable[[int], int] | None = None) -> None:
        self.array = array
        self.function = function
        self.kept: list[type[object]] = []

    @call
    def size(self) -> int:
        return int(self.array.nbytes)

    @call
    def apply(self, function: Callable[[Any], Any], value: Any) -> object:
        return function(value)

    @call
    def start_function(self, value: int) -> int:
        assert self.function is not None
        return self.function(value)

    @call
    def keep(self, value: object) -> int:
        self.kept.append(type(value))
        return len(set(self.kept))

    @call
    def os_pid(self) -> int:
        return os.getpid()


# --- what has no name --------------------------------------------------------------------------


@on_both_loops
async def test_a_class_inside_a_function_is_served() -> None:
    limit = 3

    class TooMuchError(Exception):
        def __init__(self, wanted: int, limit: int) -> None:
            super().__init__("too much")
            self.wanted, self.limit = wanted, limit

    @dataclass
    class Ask:
        by: int

    class Local(GenServer[Any, Any, Any], expected=(TooMuchError,)):
        def __init__(self, value: int) -> None:
            self.value = value

        @call
        def add(self, by: int) -> int:
            if by > limit:
                raise TooMuchError(by, limit)
            self.value += by
            return self.value

        @call
        def crash(self) -> None:
            raise TooMuchError(0, 0) from KeyError("x")

        def handle_call(self, request: Any, sender: Any) -> Any:
            assert type(request) is Ask
            return Reply(request)

    async with ObservedNode() as node:
        local = await spawn(Local, 1)
        assert await Local.add(local, 2) == 3
        with pytest.raises(TooMuchError) as failure:
            await Local.add(local, 4)
        assert (failure.value.wanted, failure.value.limit) == (4, 3)
        assert await local.call(Ask(3)) == Ask(3)
        node.kill(local)
        assert await Local.add(local, 2) == 3


async def test_a_class_inside_a_function_is_started_by_a_template() -> None:
    class Local(GenServer):
        def __init__(self, *values: int, by: int = 1) -> None:
            self.total = sum(values) * by

        @call
        def get(self) -> int:
            return self.total

    tree = Supervisor(
        DynamicSupervisor(Local, id="bare"), DynamicSupervisor(child(Local, 2), id="rooms")
    )
    async with ObservedNode(tree) as node:
        bare: Ref[Local] = await supervisor("bare").start_child()
        first: Ref[Local] = await supervisor("rooms").start_child()
        more: Ref[Local] = await supervisor("rooms").start_child(3, by=10)
        assert [await Local.get(ref) for ref in (bare, first, more)] == [0, 2, 50]
        node.kill(more)
        assert await Local.get(more) == 50


async def test_a_function_inside_a_function_goes_as_an_argument() -> None:
    factor = 5

    def scaled(value: int) -> int:
        return value * factor

    async with ObservedNode():
        assert await Keeper.apply(await spawn(Keeper), scaled, 2) == 10


async def test_a_lambda_goes_as_a_start_argument_only() -> None:
    offset = 5
    async with ObservedNode() as node:
        keeper = await spawn(Keeper, function=lambda value: value + offset)
        assert await Keeper.start_function(keeper, 1) == 6
        with pytest.raises(UnencodableError, match=r"args\[0\]: <lambda> .*write it as a def"):
            await Keeper.apply(keeper, lambda value: value, 2)
        node.kill(keeper)
        assert await Keeper.start_function(keeper, 1) == 6


async def test_a_class_that_is_sent_twice_is_one_class_over_there() -> None:
    class Value:
        pass

    async with ObservedNode():
        keeper = await spawn(Keeper)
        assert await Keeper.keep(keeper, Value()) == 1
        assert await Keeper.keep(keeper, [Value()][0]) == 1
        assert type(await Keeper.apply(keeper, same, Value())) is Value


async def test_a_local_error_that_nobody_expected_is_the_cause_of_the_exit() -> None:
    class LocalError(ValueError):
        pass

    def fail(_: int) -> None:
        raise LocalError("local")

    async with ObservedNode():
        with pytest.raises(ServerExitedError) as failure:
            await Keeper.apply(await spawn(Keeper), fail, 1)
    assert type(failure.value.__cause__) is LocalError


async def test_a_node_without_pickle_refuses_code_at_the_caller() -> None:
    class Local(GenServer):
        pass

    async with ObservedNode(pickle=False):
        with pytest.raises(NotImportableError, match="Node\\(pickle=False\\) sends no code"):
            await spawn(Local)
        with pytest.raises(UnencodableError, match="function"):
            await spawn(Keeper, function=lambda value: value)


async def test_a_class_that_cannot_be_sent_names_itself() -> None:
    lock = open(os.devnull)  # noqa: SIM115, ASYNC230 - it is to be open

    class Local(GenServer):
        @call
        def read(self) -> str:
            return lock.read()

    async with ObservedNode():
        with lock, pytest.raises(UnencodableError, match="Local") as failure:
            await spawn(Local)
    assert "open file" in str(failure.value)


# --- what comes from outside -------------------------------------------------------------------


class Bomb:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (Path(self.path),)


async def test_a_link_that_is_not_trusted_never_unpickles(tmp_path: Path) -> None:
    from noex_mp.wire.codec import Encoder
    from noex_mp.wire.payload import pack_error, pack_payload, unpack_error, unpack_payload

    bomb = Bomb(str(tmp_path / "bomb"))
    payload = pack_payload(Encoder(), Keeper, (bomb,), {})
    with pytest.raises(Exception, match="pickle is switched off"):
        unpack_payload("tests:Keeper", payload, allow_pickle=False)

    class LocalError(Exception):
        pass

    error = unpack_error(pack_error(Encoder(), LocalError("text")), allow_pickle=False)
    assert type(error).__name__ == "RemoteError"
    assert not (tmp_path / "bomb").exists()


# --- start arguments ----------------------------------------------------------------------------


def memory() -> int:
    return int(psutil.Process().memory_info().rss)


@pytest.mark.slow
async def test_a_big_start_argument_arrives_is_used_again_and_costs_the_root_one_copy() -> None:
    array = np.ones(BIG, "u1")
    async with ObservedNode() as node:
        await stop(await spawn(Keeper, np.ones(8)))
        before = memory()
        keeper = await spawn(Keeper, array)
        gc.collect()
        assert await Keeper.size(keeper) == BIG
        assert memory() - before < 1.3 * BIG
        node.kill(keeper)
        assert await Keeper.size(keeper) == BIG
        assert memory() - before < 1.3 * BIG
        await stop(keeper)
        gc.collect()
        assert memory() - before < 0.3 * BIG


@pytest.mark.slow
async def test_a_temporary_server_leaves_no_copy_in_the_root() -> None:
    array = np.ones(BIG, "u1")
    async with ObservedNode():
        await stop(await spawn(Keeper, np.ones(8)))
        before = memory()
        keeper = await spawn(child(Keeper, array).options(restart="temporary"))
        assert await Keeper.size(keeper) == BIG
        gc.collect()
        assert memory() - before < 0.3 * BIG


@pytest.mark.slow
async def test_code_of_any_size_goes_by_value() -> None:
    table = np.arange(2**20)

    class Local(GenServer):
        content = table

        @call
        def total(self) -> int:
            return int(self.content.sum())

    async with ObservedNode():
        assert await Local.total(await spawn(Local)) == int(table.sum())


class Unpicklable:
    def __reduce__(self) -> Any:
        return importlib.import_module, ("nothing_of_that_name",)


async def test_an_argument_that_the_worker_cannot_rebuild_fails_the_start_and_is_named() -> None:
    async with ObservedNode():
        with pytest.raises(InitFailedError) as failure:
            await spawn(Keeper, Unpicklable())
        assert failure.value.server == "Keeper"
        assert "args[0], which cannot be rebuilt in the worker" in failure.value.reason
        assert "nothing_of_that_name" in failure.value.reason
        assert await Counter.increment(await spawn(Counter)) == 1


async def test_a_class_of_no_use_any_more_can_go() -> None:
    def make() -> weakref.ref[type]:
        class Value:
            pass

        from noex_mp.wire.codec import Encoder

        Encoder().pack([1, Value()])
        return weakref.ref(Value)

    found = make()
    gc.collect()
    assert found() is None


# --- source files that change ------------------------------------------------------------------

LIB = """
from noex_mp import GenServer, call
class Answer(GenServer):
    @call
    def get(self):
        return 1
"""


@pytest.fixture
def lib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a module that may be written again, and where."""
    (tmp_path / "changing_lib.py").write_text(LIB)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    importlib.invalidate_caches()
    module = importlib.import_module("changing_lib")
    yield module
    del sys.modules["changing_lib"]


def rewrite(module: Any, old: str, new: str) -> None:
    file = Path(module.__file__)
    file.write_text(file.read_text().replace(old, new))


async def test_a_changed_source_warns_once_and_the_old_code_goes_on(lib: Any) -> None:
    async with ObservedNode(preload=["changing_lib"]) as node:
        first = await spawn(lib.Answer)
        rewrite(lib, "return 1", "return 1111")
        node.kill(first)
        assert await lib.Answer.get(first) == 1
        line = await node.line("has changed since this program loaded it")
        assert lib.__file__ in line
        assert "importlib.reload(changing_lib)" in line
        assert await lib.Answer.get(await spawn(lib.Answer)) == 1
        assert sum("has changed" in line for line in node.lines) == 1


async def test_a_file_that_is_saved_with_the_same_content_warns_of_nothing(lib: Any) -> None:
    from noex_mp.node.sources import Sources

    sources = Sources(["changing_lib"])
    os.utime(lib.__file__, (1, 1))
    assert list(sources.changed("changing_lib")) == []


async def test_a_module_that_is_loaded_again_gives_new_servers_the_new_code(lib: Any) -> None:
    async with ObservedNode(preload=["changing_lib"]) as node:
        old_class = lib.Answer
        running, before = await spawn(lib.Answer), node.zygote
        rewrite(lib, "return 1", "return 1111")
        importlib.reload(lib)
        assert await lib.Answer.get(await spawn(lib.Answer)) == 1111
        assert node.zygote != before
        # What runs goes on as it is until it is replaced, and the old class is still itself.
        assert await lib.Answer.get(running) == 1
        assert await old_class.get(await spawn(old_class)) == 1
        node.kill(running)
        assert await lib.Answer.get(running) == 1111


async def test_a_reload_that_workers_cannot_follow_fails_the_spawn_and_nothing_else(
    lib: Any,
) -> None:
    from noex_mp.errors import PreloadError

    async with ObservedNode(preload=["changing_lib"]) as node:
        running = await spawn(lib.Answer)
        rewrite(
            lib,
            "from noex_mp import",
            "import os\nif os.getpid() != BOSS: 1 / 0\nfrom noex_mp import",
        )
        lib.BOSS = os.getpid()
        importlib.reload(lib)
        with pytest.raises(PreloadError, match="BOSS"):
            await spawn(lib.Answer)
        node.kill(running)
        assert await lib.Answer.get(running) == 1


# --- pytest ------------------------------------------------------------------------------------

TESTS = """
from dataclasses import dataclass
from noex_mp import GenServer, call, spawn, Node

class RefusedError(Exception):
    pass

@dataclass
class Value:
    n: int

class Server(GenServer, expected=(RefusedError,)):
    @call
    def double(self, value):
        if not isinstance(value, Value):
            raise RefusedError(value)
        return Value(2 * value.n)

async def test_module_level():
    server = await spawn(Server)
    assert await Server.double(server, Value(2)) == Value(4)
    try:
        await Server.double(server, 3)
    except RefusedError as error:
        assert error.args == (3,)
    else:
        raise AssertionError

async def test_local():
    class Local(Server):
        @call
        def name(self):
            return "local"

    async with Node():
        local = await spawn(Local)
        assert await Local.double(local, Value(2)) == Value(4)
        assert await Local.name(local) == "local"
"""


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize("mode", ["prepend", "append", "importlib"])
def test_classes_of_test_modules_work_in_every_import_mode(mode: str, tmp_path: Path) -> None:
    for module in ("tests/test_servers.py", "tests/deep/er/test_deeper.py"):
        (tmp_path / module).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / module).write_text(TESTS)
    options = ["-q", "-p", "no:cacheprovider", f"--import-mode={mode}", "-o", "asyncio_mode=auto"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "--rootdir", ".", "-c", os.devnull, "tests"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout
