"""Values and errors that cannot travel cost one call, and never the link."""

from __future__ import annotations

import asyncio

import pytest

from noex_mp import (
    RemoteError,
    ServerExitedError,
    UnencodableError,
    UnknownOperationError,
    spawn,
)
from tests.nodes.observed import (
    ObservedNode,
    on_both_loops,
    shared_node,
)
from tests.servers.counters import Counter, Journal, Stack
from tests.servers.faulty import ERRORS, Expecting, Faulty, TwoArgumentsError

pytestmark = pytest.mark.usefixtures("shared_nodes")

# What arrives: as itself, or as a RemoteError that names it.
ARRIVES_AS = {
    "two arguments": "TwoArgumentsError",
    "holds a file": "HoldsAFileError",
    "local class": "LocalError",
    "broken str": "RemoteError",
    "StopIteration": "StopIteration",
    "KeyboardInterrupt": "KeyboardInterrupt",
    "CancelledError": "CancelledError",
    "GeneratorExit": "GeneratorExit",
    "group": "ExceptionGroup",
    "big": "ValueError",
}


@pytest.mark.slow
@on_both_loops
async def test_any_exception_that_crashes_a_server_arrives_as_the_cause() -> None:
    async with shared_node():
        arrived: dict[str, str] = {}
        for kind in ERRORS:
            faulty = await spawn(Faulty)
            with pytest.raises(ServerExitedError) as failure:
                await Faulty.fail(faulty, kind)
            arrived[kind] = type(failure.value.__cause__).__name__
            assert await Faulty.echo(faulty, 1) == 1
        assert arrived == ARRIVES_AS


# A future takes no StopIteration, and a CancelledError would look like our caller's.
EXPECTED = sorted(ERRORS.keys() - {"StopIteration", "CancelledError"})


@pytest.mark.parametrize("operation", ["fail", "fail_slowly"])
async def test_any_expected_exception_is_raised_at_the_caller(operation: str) -> None:
    async with shared_node():
        expecting = await spawn(Expecting)
        arrived: dict[str, str] = {}
        for kind in EXPECTED:
            with pytest.raises(BaseException) as failure:
                await getattr(Expecting, operation)(expecting, kind)
            arrived[kind] = type(failure.value).__name__
            assert await Expecting.echo(expecting, kind) == kind
        assert arrived == {kind: ARRIVES_AS[kind] for kind in EXPECTED}


@pytest.mark.parametrize("kind", ["StopIteration", "CancelledError"])
async def test_an_expected_exception_that_a_future_cannot_hold_does_not_hang_the_call(
    kind: str,
) -> None:
    async with shared_node():
        expecting = await spawn(Expecting)
        others = [Expecting.echo(expecting, n) for n in range(3)]
        failing = Expecting.fail(expecting, kind)
        others += [Expecting.echo(expecting, n) for n in range(3)]
        assert await asyncio.gather(*others) == [0, 1, 2, 0, 1, 2]
        with pytest.raises(RemoteError) as failure:
            await failing
        assert failure.value.type_name.endswith(kind)


async def test_an_exception_keeps_its_attributes() -> None:
    async with ObservedNode():
        expecting = await spawn(Expecting)
        with pytest.raises(TwoArgumentsError) as failure:
            await Expecting.fail(expecting, "two arguments")
    assert (failure.value.left, failure.value.right) == (1, "b")


async def test_an_exception_that_cannot_be_rebuilt_names_its_class_and_text() -> None:
    async with ObservedNode():
        expecting = await spawn(Expecting)
        with pytest.raises(RemoteError) as failure:
            await Expecting.fail(expecting, "broken str")
    assert failure.value.type_name == "tests.servers.faulty:BrokenStrError"


@pytest.mark.slow
@pytest.mark.parametrize("size", [1000, 1_000_000])
async def test_an_exception_that_holds_an_array_disturbs_nothing(size: int) -> None:
    async with shared_node():
        expecting = await spawn(Expecting)
        with pytest.raises((ValueError, RemoteError)):
            await Expecting.fail_with_an_array(expecting, size)
        for n in range(3):
            assert await Expecting.echo(expecting, n) == n
            assert await Expecting.echo(expecting, bytes(size)) == bytes(size)


async def test_an_exception_that_holds_big_bytes_arrives() -> None:
    data = bytes(1_000_000)
    async with shared_node():
        expecting = await spawn(Expecting)
        with pytest.raises(ValueError) as failure:
            await Expecting.fail_with(expecting, data)
        assert failure.value.args == (data,)


@pytest.mark.parametrize("operation", ["unencodable", "unencodable_slowly", "unencodable_and_big"])
async def test_a_reply_that_cannot_be_encoded_is_an_error_at_the_caller(operation: str) -> None:
    async with shared_node():
        faulty = await spawn(Faulty)
        os_pid = await Faulty.os_pid(faulty)
        before = [Faulty.echo(faulty, n) for n in range(3)]
        failing = getattr(Faulty, operation)(faulty)
        after = [Faulty.echo(faulty, n) for n in range(3)]
        with pytest.raises(UnencodableError) as failure:
            await failing
        assert failure.value.value == "<generator>"
        assert await asyncio.gather(*before, *after) == [0, 1, 2, 0, 1, 2]
        assert await Faulty.os_pid(faulty) == os_pid


@pytest.mark.parametrize("operation", ["unencodable", "unencodable_slowly"])
async def test_the_error_names_the_path_in_the_reply(operation: str) -> None:
    async with ObservedNode():
        faulty = await spawn(Faulty)
        with pytest.raises(UnencodableError) as failure:
            await getattr(Faulty, operation)(faulty)
    assert failure.value.path == "reply['rows'][3]"


@on_both_loops
async def test_an_argument_that_cannot_be_encoded_takes_nothing_along() -> None:
    async with shared_node():
        journal = await spawn(Journal)
        Journal.note(journal, "before")
        with pytest.raises(UnencodableError) as failure:
            Journal.note(journal, {"rows": [1, 2, 3, (n for n in range(3))]})
        Journal.note(journal, "after")
        assert (failure.value.path, failure.value.value) == ("args[0]['rows'][3]", "<generator>")
        assert "args[0]['rows'][3]: <generator>" in str(failure.value)
        assert await Journal.all(journal) == ["before", "after"]


async def test_a_big_argument_beside_one_that_cannot_be_encoded_takes_nothing_along() -> None:
    import numpy as np

    async with shared_node():
        faulty = await spawn(Faulty)
        bad = (n for n in range(3))
        for big in (bytes(1_000_000), np.zeros(1_000_000, "u1")):
            with pytest.raises(UnencodableError):
                Faulty.echo(faulty, [big, bad])
            assert await Faulty.echo(faulty, 1) == 1
            assert await Faulty.size(faulty, bytes(1_000_000)) == 1_000_000


async def test_a_message_to_a_callback_that_cannot_be_encoded_is_refused() -> None:
    async with shared_node():
        stack = await spawn(Stack)
        with pytest.raises(UnencodableError):
            stack.call(n for n in (1, 2))
        with pytest.raises(UnencodableError):
            stack.cast(n for n in (1, 2))


async def test_an_argument_of_a_class_that_the_worker_cannot_import_is_an_error() -> None:
    async with ObservedNode(pickle=False):
        faulty = await spawn(Faulty)
        with pytest.raises((UnencodableError, RemoteError)):
            await Faulty.echo(faulty, _local_value())
        assert await Faulty.echo(faulty, 1) == 1


def _local_value() -> object:
    class Local:
        pass

    return Local()


async def test_a_callers_mistake_is_no_crash() -> None:
    async with shared_node():
        counter = await spawn(Counter)
        os_pid = await Counter.os_pid(counter)
        with pytest.raises(TypeError, match="increment"):
            await Counter.increment(counter, 1, 2, 3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        with pytest.raises(TypeError, match="faster"):
            await Counter.increment_slowly(counter, faster=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        with pytest.raises(UnknownOperationError) as failure:
            await Journal.record(counter, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        assert "increment" in failure.value.known
        with pytest.raises(UnknownOperationError):
            await counter.call("get")
        # Casts have nobody to tell: the server complains, and lives on.
        Journal.note(counter, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        await counter.cast("get")
        assert await Counter.os_pid(counter) == os_pid


async def test_a_cast_that_fails_as_expected_leaves_a_line_and_no_crash() -> None:
    async with shared_node() as node:
        counter = await spawn(Counter, start=1)
        Counter.add(counter, 5000)
        assert await Counter.increment(counter) == 2
        assert "Counter" in await node.line("RefusedError")
