"""Shared values in a node: whoever gets one reads the very memory, and nothing is copied."""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from noex_mp import Node, child, shared, spawn
from noex_mp.transport import arena, shared_file
from noex_mp.transport.platform import FALLBACKS
from noex_mp.wire import cut_over
from noex_mp.wire.codec import BIG, Encoder
from tests.nodes.observed import ObservedNode, on_both_loops
from tests.processes.harness import REPOSITORY
from tests.servers.sharing import Reader, where

on_linux = pytest.mark.linux_only("values are copied where there are no memfds")

SIZE = 100_000  # of floats


def file() -> shared_file.SharedFile:
    found = shared_file._here  # pyright: ignore[reportPrivateUsage]
    assert found is not None
    return found


def memory() -> int:
    """Return how much memory all processes of the node share, in bytes."""
    return os.fstat(file().fd).st_blocks * 512


async def soon(holds: Callable[[], bool]) -> None:
    """Wait for what no event tells."""
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end
        await asyncio.sleep(0.002)


def is_leased() -> bool:
    """Tell whether anybody but this process has a lease on what it has shared."""
    fd = file().description()
    try:
        # Our own leases are where our blocks are.
        own = file().arena
        assert own is not None
        blocks = own._blocks.values()  # pyright: ignore[reportPrivateUsage]
        held = {block.offset: block.locked for block in blocks}
        for start, size in held.values():
            probe = own._own  # pyright: ignore[reportPrivateUsage]
            if not shared_file.lock(probe, shared_file.Kind.WRITE, start, size):
                return True
            assert shared_file.lock(probe, shared_file.Kind.READ, start, size)
        return False
    finally:
        os.close(fd)


@pytest.fixture(autouse=True)
def pays_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Share what may be shared, whatever this process has measured, beside all that runs."""
    monkeypatch.setattr(cut_over.here, "shared_from", BIG)


@pytest.fixture
def cold(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep no memory for the next value, in this process."""
    monkeypatch.setattr(arena, "WARM", 0)
    yield
    gc.collect()


@on_linux
@pytest.mark.parametrize("kind", ["M8[s]", "m8[ns]", ">M8[D]"])
async def test_dates_and_times_are_shared_like_numbers(kind: str) -> None:
    async with ObservedNode():
        reader = await spawn(Reader)
        pandas: Any = importlib.import_module("pandas")
        dates = np.arange(SIZE).astype(kind)
        given: list[Any] = shared([dates, pandas.Series(dates)])
        arrays: list[Any] = [shared(dates), given[0], given[1].to_numpy()]
        for array in arrays:
            assert array.dtype.kind == dates.dtype.kind
            assert (array == dates).all()
            assert not array.flags.writeable
            owner, writeable = await Reader.address(reader, array)
            assert (owner, writeable) == (where(array), False)
            assert "noex-mp-shared" in owner


@on_both_loops
async def test_a_shared_array_is_read_in_place_by_whoever_gets_it() -> None:
    array = np.arange(float(SIZE))
    value = shared(array)
    assert value is not array
    assert (value == array).all()
    assert not value.flags.writeable
    async with ObservedNode():
        first, second = [await spawn(Reader) for _ in range(2)]
        expected = float(array.sum())
        assert await Reader.total(first, value) == expected
        assert await Reader.total_later(first, value) == expected
        assert await Reader.pass_on(first, second, value) == expected
        place, is_writable = await Reader.address(second, value)
        if not FALLBACKS:
            assert not is_writable
            assert "noex-mp-shared" in place
            assert place == where(value)
            assert "WRITEABLE" in await Reader.write_to(second, value)
        back = await Reader.echo(first, value)
        assert (back == array).all()


@on_linux
async def test_a_result_is_read_in_place_too_and_passed_on() -> None:
    async with ObservedNode():
        first, second = [await spawn(Reader) for _ in range(2)]
        made = await Reader.make(first, SIZE, 2.0)
        assert "noex-mp-shared" in where(made)
        assert not made.flags.writeable
        assert await Reader.total(second, made) == 2.0 * SIZE
        assert "noex-mp-shared" in (await Reader.address(second, made))[0]


@on_linux
async def test_parts_of_it_are_shared_and_copies_of_it_are_not() -> None:
    value = shared(np.arange(float(SIZE)).reshape(100, -1))
    async with ObservedNode():
        reader = await spawn(Reader)
        place = where(value)
        assert await Reader.address(reader, value[10:90]) == (place, False)
        assert await Reader.address(reader, value.T) == (place, False)
        assert await Reader.address(reader, [value][0].view("i8")) == (place, False)
        assert (await Reader.address(reader, value.copy()))[1]
        assert (await Reader.address(reader, value[:, ::2]))[0] != place
        # A small one is not worth it.
        assert (await Reader.address(reader, value[0]))[0] != place
        for kind in ("C", "F"):
            array = shared(np.asarray(np.random.default_rng(1).random((300, 200)), order=kind))
            back = await Reader.echo(reader, array)
            assert (back == array).all()
            assert back.flags.f_contiguous == array.flags.f_contiguous
            assert "noex-mp-shared" in where(back)


async def test_values_of_every_kind_arrive_as_they_are() -> None:
    values: list[Any] = [
        np.arange(float(SIZE)),
        np.arange(float(SIZE))[::2],
        np.zeros(SIZE, dtype=[("a", "i4"), ("b", "f8")]),
        [np.arange(float(SIZE)), {"b": np.arange(SIZE)}],
        np.array(["a", None], dtype=object),
        np.ma.masked_array(np.arange(float(SIZE)), np.arange(SIZE) % 2 == 1),
        {"nothing": "big"},
        np.arange(3),
    ]
    async with ObservedNode():
        reader = await spawn(Reader)
        for value in values:
            back = await Reader.echo(reader, shared(value))
            assert type(back) is type(value)
            assert repr(back) == repr(value)
        for data in (b"ab" * SIZE, bytearray(b"ab" * SIZE), memoryview(b"ab" * SIZE), b"small"):
            view = shared(data)
            assert type(view) is memoryview
            assert view.readonly
            assert view == data
            assert bytes(await Reader.echo(reader, view)) == data
            assert bytes((await Reader.echo(reader, [view]))[0]) == data


async def test_it_is_a_copy_and_cannot_be_written_to() -> None:
    for array in (np.zeros(SIZE), np.zeros(3)):
        value = shared(array)
        array[0] = 1.0
        assert value[0] == 0.0
        with pytest.raises(ValueError, match="read-only"):
            value[0] = 2.0
        with pytest.raises(ValueError, match="WRITEABLE"):
            value.flags.writeable = True


@on_linux
@pytest.mark.usefixtures("cold")
@on_both_loops
async def test_a_lease_ends_with_the_handler_and_the_memory_with_the_last() -> None:
    async with ObservedNode():
        readers = [await spawn(Reader) for _ in range(2)]
        value = shared(np.arange(float(SIZE)))
        for operation in (Reader.total, Reader.total_later, Reader.echo):
            await asyncio.gather(*(operation(each, value) for each in readers))
            await soon(lambda: not is_leased())
        await Reader.keep(readers[0], value[1000:])
        assert is_leased()
        assert memory() > 8 * SIZE
        expected = float(value[1000:].sum())
        del value
        assert await Reader.total_kept(readers[0]) == [expected]
        assert memory() > 8 * SIZE
        await Reader.drop(readers[0])
        await soon(lambda: memory() == 0)


@on_linux
@pytest.mark.usefixtures("cold")
async def test_what_a_worker_has_made_is_given_back_when_its_receiver_lets_it_go() -> None:
    async with ObservedNode():
        reader = await spawn(Reader)
        for n in range(20):
            made = await Reader.make(reader, SIZE, float(n))
            assert made[-1] == n
        # The worker keeps its place for the next, with one more for the one that is still here.
        assert memory() < 4 * 8 * SIZE


@on_linux
async def test_a_sender_may_forget_a_cast_at_once() -> None:
    async with ObservedNode():
        reader = await spawn(Reader)
        for n in range(30):
            await Reader.keep_quietly(reader, shared(np.full(SIZE, float(n))))
        assert await Reader.total_kept(reader) == [SIZE * float(n) for n in range(30)]


@on_linux
async def test_a_message_that_is_not_sent_keeps_nothing() -> None:
    async with ObservedNode():
        reader = await spawn(Reader)
        with pytest.raises(Exception, match="lambda"):
            await Reader.keep(reader, [shared(np.zeros(SIZE)), lambda: None])
        gc.collect()
        own = file().arena
        assert own is not None
        assert not own.is_in_use


def test_threads_without_a_loop_share_as_well() -> None:
    with Node() as node:
        reader = node.spawn(Reader)
        value = shared(np.arange(float(SIZE)))
        totals: list[float] = []
        threads = [
            threading.Thread(target=lambda: totals.append(Reader.total.sync(reader, value)))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert totals == [float(value.sum())] * 3
        made = Reader.make.sync(reader, SIZE, 3.0)
        assert made.sum() == 3.0 * SIZE


@on_linux
async def test_a_constructor_argument_is_a_copy_of_its_own() -> None:
    async with ObservedNode():
        value = shared(np.arange(float(SIZE)))
        reader = await spawn(Reader, [value])
        del value
        assert await Reader.total_kept(reader) == [float(np.arange(float(SIZE)).sum())]


@on_linux
@pytest.mark.slow
async def test_an_executed_worker_shares_like_a_forked_one() -> None:
    async with ObservedNode():
        reader = await spawn(child(Reader).options(start="exec"))
        value = shared(np.arange(float(SIZE)))
        assert await Reader.address(reader, value) == (where(value), False)
        assert (await Reader.make(reader, SIZE, 1.0)).sum() == SIZE


@on_linux
@pytest.mark.usefixtures("cold")
async def test_a_child_that_a_handler_forks_keeps_what_it_sees() -> None:
    async with ObservedNode():
        reader = await spawn(Reader)
        value = shared(np.full(SIZE, 2.0))
        await Reader.fork(reader, value)
        del value
        # Its place would be the next one's.
        others = [shared(np.full(SIZE, 3.0)) for _ in range(5)]
        assert await Reader.seen_by_child(reader) == 2.0 * SIZE
        others.clear()
        file().sweep()
        assert memory() == 0


SCRIPT = """
import multiprocessing, os
import numpy as np
from noex_mp import shared

value = shared(np.full(100_000, 2.0))

def child(queue):
    queue.put(float(value.sum()))
    mine = shared(np.full(100_000, 5.0))
    queue.put(float(mine.sum()))
    queue.put(float(value.sum()))

if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=child, args=(queue,))
    process.start()
    del value
    again = [shared(np.full(100_000, 9.0)) for _ in range(5)]
    print([queue.get() for _ in range(3)], float(again[0][0]))
    process.join()
"""


def test_a_child_of_the_program_keeps_what_it_sees_and_shares_for_itself() -> None:
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, cwd=REPOSITORY, check=True
    )
    assert run.stdout.split("\n")[0] == "[200000.0, 500000.0, 200000.0] 9.0", run.stderr


def test_a_program_that_shares_nothing_loads_nothing_for_it() -> None:
    code = """
import asyncio, sys
from noex_mp import Node
async def main():
    async with Node():
        pass
asyncio.run(main())
print([name for name in ("ctypes", "noex_mp.transport.arena") if name in sys.modules])
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True
    )
    assert run.stdout.strip() == "[]"


@on_linux
def test_a_value_that_outlives_the_program_ends_without_a_word(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("""
import numpy as np
from noex_mp import ProcessPoolExecutor, shared

def total(values):
    return values.sum()

if __name__ == "__main__":
    values = shared(np.ones(50_000))
    with ProcessPoolExecutor(1) as pool:
        print(pool.submit(total, values).result())
""")
    run = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, cwd=REPOSITORY, check=True
    )
    assert (run.stdout, run.stderr) == ("50000.0\n", "")


@pytest.mark.slow
def test_the_example_of_the_page_says_what_stands_there(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "shared.md").read_text()
    code, said = re.findall(r"```(?:python\n# shared\.py|text)\n(.*?)```", page, re.DOTALL)
    (tmp_path / "shared.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "shared.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout == said, done.stderr


def frames(library: str) -> tuple[Any, Callable[[Any], Any]]:
    """Return a frame without text, and what gives its first column as an array."""
    module: Any = pytest.importorskip(library, reason=f"{library} is not installed")
    columns = {"a": np.arange(float(SIZE)), "b": np.arange(SIZE)}
    if library == "pandas":
        return module.DataFrame(columns), lambda frame: frame["a"].values
    return module.table(columns), lambda frame: frame["a"].chunk(0).to_numpy()


@pytest.mark.slow
@pytest.mark.parametrize("library", ["pandas", "pyarrow"])
async def test_frames_are_shared_and_sent_beside_their_message(library: str) -> None:
    frame, column = frames(library)
    # Plain ones too: each column once, and not in the pickle.
    chunks = Encoder().pack_big([0, frame])
    assert len(chunks[-1]) < 4096
    assert sum(len(chunk) for chunk in chunks) < 2 * 8 * SIZE + 8192
    # Its import may take longer than a call has time.
    async with ObservedNode(
        preload=["tests.servers.sharing", library], allow_native_threads=[library]
    ):
        reader = (await spawn(Reader)).within(None)
        assert (await Reader.echo(reader, frame)).equals(frame)
        value: Any = shared(frame)
        assert value.equals(frame)
        back = await Reader.echo(reader, value)
        assert type(back) is type(frame)
        assert back.equals(frame)
        if not FALLBACKS:
            assert where(column(back)) == where(column(value)) != ""
            assert not column(back).flags.writeable
        text = {"a": [f"row {n}" for n in range(30_000)]}
        module: Any = sys.modules[library]
        texts = module.DataFrame(text) if library == "pandas" else module.table(text)
        assert (await Reader.echo(reader, shared(texts))).equals(texts)
