"""Values of every type through a real worker, as argument and as reply; and from outside."""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Iterator
from typing import Any

import pytest

from noex_mp import (
    ConfigError,
    RemoteProtocolError,
    Supervisor,
    UnencodableError,
    UnregisteredTypeError,
    child,
    register_type,
    spawn,
)
from noex_mp.client.api import spec_to_wire
from noex_mp.wire import codec, extensions, registration
from noex_mp.wire.codec import Encoder
from tests.nodes.observed import (
    ObservedNode,
    on_both_loops,
    shared_node,
)
from tests.nodes.outside import Sent, outside
from tests.servers.echoing import Echo
from tests.wire.anatomy import NATIVE, PICKLED, anatomy
from tests.wire.registered import Guarded, Moody, Unshared
from tests.wire.samples import Color, Pair, Plain, Point

pytestmark = pytest.mark.usefixtures("shared_nodes")


@on_both_loops
async def test_all_that_needs_no_pickle_arrives_in_a_node_without_it() -> None:
    async with ObservedNode(pickle=False):
        echo = await spawn(Echo)
        for value in NATIVE:
            assert anatomy(await Echo.echo(echo, value)) == anatomy(value)
            kind = await Echo.kind(echo, value)
            assert kind == f"{type(value).__module__}:{type(value).__qualname__}"
        everything = [*NATIVE, (1, NATIVE)]
        assert anatomy(await Echo.echo(echo, everything)) == anatomy(everything)


async def test_all_else_arrives_by_pickle() -> None:
    async with shared_node():
        echo = await spawn(Echo)
        for value in PICKLED:
            assert str(anatomy(await Echo.echo(echo, value))) == str(anatomy(value))


async def test_a_node_without_pickle_refuses_where_the_value_is_sent() -> None:
    async with ObservedNode(pickle=False):
        echo = await spawn(Echo)
        for send in (Echo.echo, Echo.kind):
            with pytest.raises(UnencodableError, match="register_type") as failure:
                await send(echo, {"rows": [Plain(1)]})
            assert (failure.value.path, failure.value.value) == ("args[0]['rows'][0]", "<Plain>")
        with pytest.raises(UnencodableError, match="register_type") as failure:
            await Echo.unsent(echo, False)
        assert failure.value.path == "reply['rows'][0]"
        assert await Echo.echo(echo, 1) == 1


async def test_a_view_of_one_value_without_a_length_arrives() -> None:
    view = memoryview(ctypes.c_int(3))
    async with shared_node():
        echo = await spawn(Echo)
        assert await Echo.echo(echo, view) == bytes(view)
        assert await Echo.echo(echo, [view]) == [bytes(view)]
        assert await Echo.view(echo) == bytes(view)


async def test_a_reply_names_its_place_inside_of_a_registered_value() -> None:
    async with ObservedNode():
        with pytest.raises(UnencodableError) as failure:
            await Echo.unsent(await spawn(Echo), True)
    assert failure.value.path == "reply['rows'][0] (encoded)"
    assert failure.value.value == "<generator>"


async def test_a_decode_that_fails_costs_one_call() -> None:
    async with shared_node():
        echo = await spawn(Echo)
        before = Echo.echo(echo, 1)
        failing = [
            *(Echo.echo(echo, Moody(content)) for content in ("decode", "decode, badly")),
            *(Echo.moody(echo, content) for content in ("decode", "decode, badly", "encode")),
        ]
        after = Echo.echo(echo, 2)
        assert [await before, await after] == [1, 2]
        problems = await asyncio.gather(*failing, return_exceptions=True)
        kinds = [type(problem) for problem in problems]
        assert kinds == [*[RemoteProtocolError] * 4, UnencodableError]
        assert "not there" in str(problems[0])
        assert "not today" in str(problems[4])


@pytest.fixture
def unshared() -> Iterator[Unshared]:
    """A value of a class that this process registers, and no module does."""
    register_type(Unshared, lambda value: value.content, Unshared)
    yield Unshared(1)
    registration._registrations.pop("tests.wire.registered:Unshared")  # pyright: ignore[reportPrivateUsage]
    del extensions._found[id(Unshared)], extensions.REDUCERS[Unshared]  # pyright: ignore[reportPrivateUsage]


async def test_a_type_that_the_worker_has_not_registered_is_named_at_the_caller(
    unshared: Unshared,
) -> None:
    async with shared_node():
        echo = await spawn(Echo)
        with pytest.raises(UnregisteredTypeError) as failure:
            await Echo.echo(echo, unshared)
        assert failure.value.path == "tests.wire.registered:Unshared"
        assert failure.value.home == "tests.nodes.test_values"
        assert await Echo.echo(echo, 1) == 1


async def test_a_message_that_is_too_large_for_a_frame_arrives_behind_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(codec, "MAX_FRAME_SIZE", 2**20)
    async with shared_node():
        echo = await spawn(Echo)
        texts = ["text" * 250] * 2000
        assert await Echo.echo(echo, texts) == texts
        assert len(await Echo.echo(echo, bytes(2**21))) == 2**21


# --- from outside of the node -------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [Color.RED, Point(1), Pair(1), Plain(1), Guarded(1), ValueError("no"), len]
)
async def test_nothing_from_outside_makes_a_server_load_classes_or_pickles(value: Any) -> None:
    async with ObservedNode(name="shop"), outside("shop") as client:
        echo = await spawn(Echo)
        route = client.route(echo.sid, "Echo")
        with pytest.raises(RemoteProtocolError, match="forbidden extension type"):
            await route.invoke(Sent("echo"), (value,), {}, 5.0)
        assert await route.invoke(Sent("echo"), ((1, {2}),), {}, 5.0) == (1, {2})


async def test_nobody_outside_starts_servers() -> None:
    tree = Supervisor(child(Echo).options(name="echo"))
    async with ObservedNode(tree, name="shop") as node, outside("shop") as client:
        with pytest.raises(ConfigError, match="own processes"):
            await client.request("spawn", spec_to_wire(Encoder(), child(Echo)))
        assert [row["name"] for row in await node.ps()] == ["echo"]
