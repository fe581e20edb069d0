"""Refs: addresses, and the seam through which they send."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
from contextlib import suppress
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noex_mp.core import ref as core_ref
from noex_mp.core.gen_server import GenServer
from noex_mp.core.ref import DEFAULT_TIMEOUT, Ref, hint
from noex_mp.errors import NoNodeError


class Recorder:
    """A route that notes what is sent and answers at once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.thread = threading.get_ident()
        self.is_running = loop.is_running
        self.sent: list[tuple[Any, ...]] = []

    def invoke(self, operation: Any, *message: Any) -> asyncio.Future[Any]:
        return self._note("call", operation, message)

    def cast(self, operation: Any, *message: Any) -> asyncio.Future[Any]:
        return self._note("cast", operation, message)

    def cast_nowait(self, operation: Any, *message: Any) -> None:
        self._note("nowait", operation, message)

    def _note(self, kind: str, operation: Any, message: tuple[Any, ...]) -> asyncio.Future[Any]:
        self.sent.append((kind, operation.name, operation.idempotent, *message))
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        future.set_result("answer")
        return future


class Seam:
    """What the client layer installs: makes a new route each time it is asked."""

    def __init__(self) -> None:
        self.routes: list[Recorder] = []

    def connect(self, ref: Ref[Any]) -> Recorder:
        self.routes.append(Recorder(asyncio.get_running_loop()))
        return self.routes[-1]

    async def is_running(self, ref: Ref[Any]) -> bool:
        return ref.sid == 7


@pytest.fixture
def seam(monkeypatch: pytest.MonkeyPatch) -> Seam:
    monkeypatch.setattr(core_ref, "_connect", core_ref._connect)
    monkeypatch.setattr(core_ref, "_ask_running", core_ref._ask_running)
    seam = Seam()
    core_ref.install(seam.connect, seam.is_running)
    return seam


@pytest.fixture
def no_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_ref, "_connect", core_ref._no_node)
    monkeypatch.setattr(core_ref, "_ask_running", core_ref._no_node)


def counter(**fields: Any) -> Ref[Any]:
    given: dict[str, Any] = {"node": "n1", "sid": 7, "label": "Counter", **fields}
    return Ref[Any](**given)


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (counter(), True),
        (counter(timeout=None), True),
        (counter(label="LoudCounter"), True),
        (counter(sid=8), False),
        (counter(node="n2"), False),
        (counter(sid=0, name="visits"), False),
    ],
)
def test_refs_are_equal_when_they_mean_the_same_server(other: Ref[Any], same: bool) -> None:
    assert (counter() == other) is same
    assert (hash(counter()) == hash(other)) is same


def test_refs_by_name_are_equal_when_the_name_is() -> None:
    visits = counter(sid=0, name="visits")
    assert visits == counter(sid=0, name="visits", timeout=1.0)
    assert visits != counter(sid=0, name="orders")
    assert visits != "visits"


def test_a_ref_says_what_it_is() -> None:
    assert repr(counter()) == "Ref(Counter, 7)"
    assert repr(counter(sid=0, name="visits")) == "Ref(Counter, 'visits')"


def test_a_ref_waits_for_replies_as_long_as_otp_does() -> None:
    assert counter().timeout == DEFAULT_TIMEOUT == 5.0


async def test_within_changes_the_time_limit_and_keeps_the_route(seam: Seam) -> None:
    ref = counter()
    await ref.call("get")
    quick = ref.within(0.5)
    await quick.call("get")
    assert (quick, quick.label, quick.timeout, ref.timeout) == (ref, "Counter", 0.5, 5.0)
    assert len(seam.routes) == 1
    assert ref.within(None).timeout is None


def test_within_makes_a_plain_float_of_any_number() -> None:
    class Odd(float):
        pass

    assert type(counter().within(2).timeout) is float
    assert type(counter().within(Odd(2.5)).timeout) is float


@pytest.mark.parametrize("seconds", [0, -1.0, nan, inf, "infinity", "5"])
def test_within_refuses_what_is_no_time_limit_and_names_none(seconds: Any) -> None:
    with pytest.raises(ValueError, match="None is to wait for ever"):
        counter().within(seconds)


async def test_call_and_cast_send_to_the_callbacks(seam: Seam) -> None:
    ref = counter(timeout=2.0)
    assert await ref.call("get") == "answer"
    await ref.cast(["put", 3])
    assert seam.routes[0].sent == [
        ("call", "", False, ("get",), {}, 2.0),
        ("cast", "", False, (["put", 3],), {}, 2.0),
    ]


async def test_a_message_is_sent_when_it_is_called_not_when_it_is_awaited(seam: Seam) -> None:
    future = counter().call("get")
    assert len(seam.routes[0].sent) == 1
    await future


def test_another_event_loop_gets_a_route_of_its_own(seam: Seam) -> None:
    ref = counter()

    async def call_twice() -> None:
        await ref.call("get")
        await ref.call("get")

    asyncio.run(call_twice())
    asyncio.run(call_twice())
    assert [len(route.sent) for route in seam.routes] == [2, 2]


async def test_a_route_that_is_over_is_replaced(seam: Seam) -> None:
    ref = counter()
    await ref.call("get")
    seam.routes[0].thread = 0
    await ref.call("get")
    assert len(seam.routes) == 2


async def test_is_running_asks_the_node(seam: Seam) -> None:
    assert await counter().is_running() is True
    assert await counter(sid=8).is_running() is False


def test_install_without_is_running_leaves_it_as_it_was(seam: Seam) -> None:
    before = core_ref._ask_running
    core_ref.install(seam.connect)
    assert core_ref._ask_running == before


def test_without_a_node_there_is_a_sentence(no_node: None) -> None:
    with pytest.raises(NoNodeError, match="no node in this process"):
        counter().call("get")
    with pytest.raises(NoNodeError, match="no node in this process"):
        counter().cast("get")
    with pytest.raises(NoNodeError, match="no node in this process"):
        counter().is_running()


def test_a_kept_route_is_not_used_where_no_loop_runs(seam: Seam) -> None:
    ref = counter()
    loop = asyncio.new_event_loop()
    ref._route = Recorder(loop)
    loop.close()
    with pytest.raises(RuntimeError, match="no running event loop"):
        ref.call("get")  # what the seam above says; the kept route would have had it


def test_the_first_guess_is_helped() -> None:
    hint("increment")
    message = r"a Ref has no operations; write await Counter.increment\(counter, ...\)"
    with pytest.raises(AttributeError, match=message):
        counter().increment(3)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


class Keeper(GenServer):
    def __init__(self, kept: str) -> None:
        self.kept = kept

    def helper(self) -> str:
        return self.kept

    async def other_helper(self) -> str:
        return self.helper()


async def test_a_method_that_is_no_operation_says_so() -> None:
    keeper: Any = counter()
    with pytest.raises(AttributeError, match=r"^Keeper.helper was called with a Ref(.|\n)*@call"):
        Keeper.helper(keeper)
    with pytest.raises(AttributeError, match=r"^Keeper.other_helper was called with a Ref"):
        await Keeper.other_helper(keeper)


def test_the_state_of_a_server_is_not_its_refs() -> None:
    keeper: Any = counter()
    for attribute in ("kept", "helper"):
        with pytest.raises(AttributeError, match=f"a Ref has no attribute '{attribute}': that is"):
            getattr(keeper, attribute)
        assert not hasattr(keeper, attribute)


def test_another_thread_gets_a_route_of_its_own(seam: Seam) -> None:
    ref = counter()

    async def call_here_and_there() -> None:
        await ref.call("get")
        await asyncio.to_thread(asyncio.run, call_once())

    async def call_once() -> None:
        await ref.call("get")

    asyncio.run(call_here_and_there())
    assert [len(route.sent) for route in seam.routes] == [1, 1]


def test_private_names_are_just_missing() -> None:
    assert not hasattr(counter(), "__array__")
    with pytest.raises(AttributeError, match="'Ref' object has no attribute '_private'"):
        _ = counter()._private  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]


refs = st.builds(
    Ref[Any],
    node=st.text(max_size=8),
    sid=st.integers(0, 1 << 40),
    name=st.none() | st.text(max_size=8),
    timeout=st.none() | st.floats(min_value=0.001, max_value=1e9),
    label=st.text(max_size=8),
)


@given(ref=refs)
def test_a_ref_survives_the_wire_pickle_and_copy(ref: Ref[Any]) -> None:
    for twin in (Ref._from_wire(ref._to_wire()), pickle.loads(pickle.dumps(ref)), copy.copy(ref)):
        assert twin == ref
        assert twin._to_wire() == ref._to_wire()


async def test_the_route_stays_behind_when_a_ref_travels(seam: Seam) -> None:
    ref = counter()
    await ref.call("get")
    assert ref._route is not None
    assert pickle.loads(pickle.dumps(ref))._route is None


@given(fields=st.recursive(st.none() | st.integers() | st.text() | st.floats(), st.lists))
def test_other_fields_make_a_ref_or_a_value_error(fields: Any) -> None:
    with suppress(ValueError):
        hash(Ref._from_wire(fields))


@pytest.mark.parametrize(
    "fields",
    [
        [],
        ["n1", 7, None, 5.0],
        ["n1", "7", None, 5.0, "Counter"],
        ["n1", 7, 3, 5.0, "Counter"],
        ["n1", 7, None, -1.0, "Counter"],
        [["n1"], 7, None, 5.0, "Counter"],
        ["n1", 7, None, 5.0, None],
    ],
)
def test_fields_of_the_wrong_kind_are_refused(fields: list[Any]) -> None:
    with pytest.raises(ValueError, match="expected the fields of a Ref"):
        Ref._from_wire(fields)
