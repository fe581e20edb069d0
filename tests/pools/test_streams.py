"""Many tasks: their order, how far they are read ahead, and what of them fails."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from noex_mp import Node, Pool, PoolStoppedError, WorkerExitedError
from noex_mp.pools import streams
from noex_mp.pools.chunks import MAX_CHUNK, Failure, Source
from noex_mp.pools.functions import pack_function
from noex_mp.pools.streams import AHEAD, AHEAD_BYTES, AsTheyCome, Ordered, Stream
from tests.pools.tasks import die_of, die_of_later, double, halve, later


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    async with Node(preload=["tests.pools.tasks"]), Pool(size=2) as pool:
        yield pool


class Collected:
    """Takes all results."""

    is_over = False
    wants_more = True

    def __init__(self) -> None:
        self.results: dict[int, object] = {}
        self._changed = asyncio.Event()

    def put(
        self, start: int, results: Sequence[object], error: BaseException | None = None
    ) -> None:
        self.results.update(enumerate(results, start))
        self._changed.set()

    def exhausted(self, count: int, error: BaseException | None) -> None:
        assert error is None

    async def all_of(self, count: int) -> list[object]:
        while len(self.results) < count:
            self._changed.clear()
            await self._changed.wait()
        return [self.results[n] for n in range(count)]


async def _take(stream: AsyncIterator[int], seen: list[int]) -> None:
    async for value in stream:
        seen.append(value)  # noqa: PERF401 - what comes before an error is to be kept


def _labelled(size: int) -> tuple[str, bytes]:
    return "label", bytes(size)


def _described(size: int) -> dict[str, Any]:
    return {"image": bytes(size), "height": 1}


@pytest.mark.parametrize("kind", [AsTheyCome, Ordered])
@pytest.mark.parametrize("hold", [bytes, _labelled, _described])
async def test_results_that_nobody_takes_are_bounded_in_bytes_too(
    kind: type[Stream], hold: Callable[[int], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "AHEAD_BYTES", 10_000)
    stream = kind(asyncio.get_running_loop(), 2)
    stream.put(1, [hold(4_000), hold(4_000)])
    assert stream.wants_more
    stream.put(3, [hold(13_000)])
    assert not stream.wants_more
    stream.put(0, [hold(1)])
    assert not stream.wants_more
    assert len(await stream.batch()) == 4
    assert stream.wants_more


async def test_what_does_not_know_its_own_bytes_holds_up_nothing() -> None:
    class Lazy:
        nbytes = float("nan")

    stream = Ordered(asyncio.get_running_loop(), 1)
    stream.put(1, [Lazy()])
    stream.put(0, [Lazy()])
    assert len(await stream.batch()) == 2
    assert stream.wants_more


async def test_few_chunks_are_under_way_where_their_arguments_are_large() -> None:
    for size, depth in ((100, 64), (2**20, 2)):
        texts = ("x" * size for _ in range(100))
        source = Source(pack_function(len), (texts,), Collected(), chunksize=4)
        assert source.take(2) is not None
        assert source.depth(64) == depth


class Counted(Collected):
    """Takes results, and remembers how many came together."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: list[int] = []

    def put(
        self, start: int, results: Sequence[object], error: BaseException | None = None
    ) -> None:
        self.counts.append(len(results))
        super().put(start, [None] * len(results), error)


async def test_few_tasks_travel_together_whose_results_are_large(pool: Pool) -> None:
    # How large they are is remembered, as how long they take.
    for _ in range(2):
        sink = Counted()
        pool.dispatcher.put_source(Source("builtins:bytes", [[1_000_000] * 60], sink, count=60))
        await sink.all_of(60)
        assert max(sink.counts) <= 4


def test_the_larger_of_arguments_and_results_decides_how_many_tasks_travel_together() -> None:
    def next_count(result: object, argument: object = None) -> int:
        source = Source("builtins:len", [itertools.repeat(argument)], Collected())
        assert source.take(2) is not None
        source.note(1e-9, [result])
        chunk = source.take(2)
        assert chunk is not None
        return len(chunk)

    array = memoryview(bytearray(1_000_000))
    assert next_count(0) == MAX_CHUNK
    assert next_count(bytes(1_000_000)) == next_count(array) == 4
    assert next_count(bytes(1_000_000), bytes(2_000_000)) == 2
    assert next_count(bytes(2_000_000), bytes(1_000_000)) == 2


async def test_results_come_in_order_or_as_they_are_done(pool: Pool) -> None:
    expected = list(range(0, 2000, 2))
    assert await pool.map(double, range(1000)) == expected
    assert await pool.map(double, range(1000), chunksize=7) == expected
    assert [n async for n in pool.imap(double, range(1000))] == expected
    assert sorted([n async for n in pool.imap_unordered(double, range(1000))]) == expected
    assert await pool.map(pow, range(4), itertools.repeat(2)) == [0, 1, 4, 9]
    assert await pool.map(later, range(10)) == list(range(10))
    assert await pool.map(double, []) == []
    assert await pool.map(double) == []


class Later:
    """Is called, and awaited."""

    async def __call__(self, value: int) -> int:
        return await later(value)


def _later_unless_first(value: int) -> Awaitable[int]:
    if value < 2:
        raise ValueError(f"{value} is too early")
    return later(value)


async def _halve_later(value: int) -> int:
    return halve(value)


@pytest.mark.parametrize("chunksize", [None, 1, 2, 5])
async def test_what_a_plain_function_returns_is_awaited_also_in_a_chunk(
    pool: Pool, chunksize: int | None
) -> None:
    factor = 1
    one: list[Callable[[int], Awaitable[int]]]
    one = [partial(later), lambda value: later(factor * value), Later()]
    for function in one:
        assert await pool.map(function, range(5), chunksize=chunksize) == list(range(5))
    two: list[Callable[[int, int], Awaitable[int]]] = [lambda a, b: later(a + b)]
    assert await pool.map(two[0], range(5), range(5), chunksize=chunksize) == [0, 2, 4, 6, 8]


@pytest.mark.parametrize(
    ("function", "failed"), [(_later_unless_first, [0, 1]), (partial(_halve_later), [1, 3])]
)
async def test_of_a_chunk_that_is_awaited_each_task_has_its_own_error(
    pool: Pool, function: Any, failed: list[int]
) -> None:
    sink = Collected()
    pool.dispatcher.put_source(Source(pack_function(function), [range(5)], sink, chunksize=5))
    results = await sink.all_of(5)
    assert [n for n, each in enumerate(results) if isinstance(each, Failure)] == failed


async def test_an_endless_iterable_is_read_as_far_as_needed(pool: Pool) -> None:
    read = 0

    def numbers() -> Iterator[int]:
        nonlocal read
        while True:
            yield read
            read += 1

    got = 0
    async with aclosing(pool.imap(double, numbers())) as doubles:
        async for value in doubles:
            assert value == 2 * got
            got += 1
            if got == 5_000:
                break
    before = read
    await pool.map(double, range(1000))
    assert read == before
    # What was there when the loop took the results, and as much again: what may wait for it, and
    # what both lanes have under way.
    assert read < 5_000 + 2 * (2 * 1024 + 2 * 2 * MAX_CHUNK)


async def test_an_endless_iterable_is_read_no_further_while_nobody_takes_results(
    pool: Pool,
) -> None:
    # Those that the first batch was, those that wait, and what both lanes have under way.
    most = 2 * (2 * AHEAD + 2 * 2 * MAX_CHUNK)
    read, before = 0, -1

    def numbers() -> Iterator[int]:
        nonlocal read
        while read <= most:
            yield read
            read += 1

    async with aclosing(pool.imap(double, numbers())) as doubles:
        assert await anext(doubles) == 0
        while before < read:
            before = read
            await asyncio.gather(*(pool.run(double, n) for n in range(100)))
        assert read <= most


@pytest.mark.parametrize("kind", [AsTheyCome, Ordered])
@pytest.mark.parametrize(("result", "fits"), [(0, 2 * AHEAD), (bytes(AHEAD_BYTES // 32), 64)])
async def test_a_stream_wants_no_more_than_it_may_keep(
    kind: type[Stream], result: object, fits: int
) -> None:
    stream = kind(asyncio.get_running_loop(), 2)
    stream.put(0, [result] * (fits - 1))
    assert stream.wants_more
    stream.put(fits - 1, [result])
    assert not stream.wants_more
    assert len(await stream.batch()) == fits
    assert stream.wants_more


async def test_what_a_task_raises_ends_the_map_and_nothing_else(pool: Pool) -> None:
    with pytest.raises(ValueError, match="is odd"):
        await pool.map(halve, [2, 4, 3, 8, 5])
    seen: list[int] = []
    with pytest.raises(ValueError, match="3 is odd"):
        await _take(pool.imap(halve, [2, 4, 3, 8, 5]), seen)
    assert seen == [1, 2]
    assert await pool.run(double, 1) == 2


async def test_what_the_reading_of_tasks_raises_comes_behind_the_results(pool: Pool) -> None:
    def numbers() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("no more")

    seen: list[int] = []
    with pytest.raises(OSError, match="no more"):
        await _take(pool.imap(double, numbers()), seen)
    assert seen == [2, 4]
    with pytest.raises(OSError, match="no more"):
        await pool.map(double, numbers())


@pytest.mark.parametrize("chunksize", [None, 1])
async def test_a_cancellation_that_the_reading_of_tasks_raises_is_that_of_their_map(
    pool: Pool, chunksize: int | None
) -> None:
    def numbers() -> Iterator[int]:
        yield from range(100)
        raise asyncio.CancelledError

    # It is read where replies are, too.
    async with asyncio.timeout(10):
        with pytest.raises(asyncio.CancelledError):
            await pool.map(double, numbers(), chunksize=chunksize)
    assert await pool.run(double, 1) == 2


async def test_a_dead_process_fails_the_tasks_that_it_had_begun(pool: Pool) -> None:
    results = await asyncio.gather(
        *(pool.map(die_of, [number], [7]) for number in range(20)), return_exceptions=True
    )
    failed = [n for n, result in enumerate(results) if isinstance(result, BaseException)]
    assert failed == [7]
    assert isinstance(results[7], WorkerExitedError)


@pytest.mark.parametrize("fatal", [die_of, die_of_later, partial(die_of_later)])
async def test_of_a_chunk_the_tasks_fail_that_had_begun(
    pool: Pool, tmp_path: Path, fatal: Any
) -> None:
    once = tmp_path / "once"
    seen: list[int] = []
    with pytest.raises(WorkerExitedError) as caught:
        await _take(
            pool.imap(fatal, range(10), itertools.repeat(4), itertools.repeat(once), chunksize=10),
            seen,
        )
    report = caught.value.report
    assert report.message is not None
    assert report.message.steps == 5
    assert "in step 5" in report.text

    stream = Collected()
    source = Source(
        pack_function(fatal),
        [range(10), [4] * 10],
        stream,
        chunksize=10,
    )
    pool.dispatcher.put_source(source)
    results = await stream.all_of(10)
    assert [n for n, value in enumerate(results) if value.__class__ is Failure] == [0, 1, 2, 3, 4]
    assert results[5:] == [5, 6, 7, 8, 9]


async def test_retries_run_a_task_again_after_a_death(pool: Pool, tmp_path: Path) -> None:
    once = tmp_path / "once"
    assert await pool.options(retries=1).run(die_of, 7, 7, once) == 7
    with pytest.raises(WorkerExitedError):
        await pool.run(die_of, 7, 7, tmp_path / "twice")


async def test_progress_is_told(pool: Pool) -> None:
    told: list[tuple[int, int | None]] = []

    def tell(done: int, total: int | None) -> None:
        told.append((done, total))

    await pool.map(double, range(100), progress=tell)
    assert told[-1] == (100, 100)
    assert told == sorted(told)
    await _take(pool.imap(double, iter(range(9)), progress=tell), [])
    done, total = told[-1]
    assert done == 9
    assert total is None


async def test_a_bar_shows_how_far_a_map_is(pool: Pool, capsys: pytest.CaptureFixture[str]) -> None:
    await pool.map(double, range(100), progress=True)
    output = capsys.readouterr()
    assert "double" in output.err
    assert "100/100" in output.err
    assert not output.out


async def test_a_stopped_pool_says_so() -> None:
    async with Node():
        async with Pool(size=1) as pool:
            stream = pool.imap(double, itertools.count())
            assert await anext(stream) == 0
        with pytest.raises(PoolStoppedError):
            await pool.run(double, 1)
        with pytest.raises(PoolStoppedError):
            await _take(stream, [])


@pytest.mark.parametrize(
    ("size", "error"),
    [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError), ("2", TypeError)],
)
async def test_a_chunksize_is_a_whole_number_of_tasks(
    pool: Pool, size: Any, error: type[Exception]
) -> None:
    # What hangs is of no use to whoever waits for this.
    async with asyncio.timeout(10):
        with pytest.raises(error, match="chunksize"):
            await pool.map(double, range(3), chunksize=size)
        with pytest.raises(error, match="chunksize"):
            await anext(pool.imap(double, range(3), chunksize=size))


class Odd:
    """Has more elements than it says, as a data frame has that is wider than long."""

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[int]:
        return iter(range(5))


@pytest.mark.parametrize("chunksize", [None, 1, 2])
async def test_a_length_is_only_a_guess_of_how_many_tasks_there_are(
    pool: Pool, chunksize: int | None
) -> None:
    assert await pool.map(double, Odd(), chunksize=chunksize) == [0, 2, 4, 6, 8]


async def test_a_progress_function_that_raises_ends_what_it_reports_on_and_nothing_else(
    pool: Pool,
) -> None:
    def fail(done: int, total: int | None) -> None:
        raise ValueError(f"{done} done")

    seen: list[int] = []
    with pytest.raises(ValueError, match="done"):
        await pool.map(double, range(100), progress=fail)
    with pytest.raises(ValueError, match="1 done"):
        await _take(pool.imap(double, range(100), chunksize=1, progress=fail), seen)
    assert seen == [0]
    assert await pool.map(double, range(3)) == [0, 2, 4]


@pytest.mark.parametrize("error", [asyncio.CancelledError, GeneratorExit, StopIteration])
async def test_whatever_a_progress_function_raises_ends_what_it_reports_on(
    pool: Pool, error: type[BaseException]
) -> None:
    def fail(done: int, total: int | None) -> None:
        raise error

    # What runs in a coroutine raises no such thing.
    raised = RuntimeError if error is StopIteration else error
    async with asyncio.timeout(10):
        with pytest.raises(raised):
            await pool.map(double, range(100), progress=fail)
        with pytest.raises(raised):
            await _take(pool.imap(double, range(100), progress=fail), [])
        assert await pool.map(double, range(3)) == [0, 2, 4]


class Unsendable:
    """Cannot be sent."""

    def __reduce__(self) -> str:
        raise ValueError("it stays here")


async def test_of_a_chunk_only_the_task_fails_that_cannot_be_sent(pool: Pool) -> None:
    values: list[object] = [1, 2, Unsendable(), 4, 5]
    sink = Collected()
    source = Source(pack_function(repr), (values,), sink, chunksize=5)
    pool.dispatcher.put_source(source)
    results = await sink.all_of(5)
    assert [n for n, each in enumerate(results) if isinstance(each, Failure)] == [2]
    assert [results[n] for n in (0, 1, 3, 4)] == ["1", "2", "4", "5"]


async def test_large_arguments_do_not_pile_up_in_one_message() -> None:
    blobs = [bytes(1_000_000)] * 64
    for tasks in (blobs, iter(blobs)):
        source = Source("builtins:len", [tasks], Collected(), count=64)
        source.pace = 1e-9
        counts: list[int] = []
        while (chunk := source.take(2)) is not None:
            counts.append(len(chunk.args[0]))
        assert sum(counts) == 64
        assert max(counts) == 4
