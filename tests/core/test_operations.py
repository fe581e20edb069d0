"""Operations: what they send, what they are on an instance, and what cannot be one."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import functools
import inspect
import pickle
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import pytest

from noex_mp.core import gen_server as g
from noex_mp.core import operations, ref
from noex_mp.core.gen_server import From as Waiting
from noex_mp.core.gen_server import GenServer
from noex_mp.core.operations import CALLBACKS, OperationInfo, call, cast, operation_info
from noex_mp.core.outcomes import NoReply, Stop
from noex_mp.core.ref import Ref
from noex_mp.errors import NoNodeError
from tests.typing.servers import Counter, LoudCounter

if TYPE_CHECKING:
    from noex_mp.core.gen_server import From


P = ParamSpec("P")
R = TypeVar("R")


class EchoRoute:
    """A route that answers with what it was given."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.thread = threading.get_ident()
        self.is_running = loop.is_running
        self.sent: list[str] = []

    def invoke(self, *message: Any) -> asyncio.Future[Any]:
        return self._answer("call", *message)

    def cast(self, *message: Any) -> asyncio.Future[Any]:
        return self._answer("cast", *message)

    def cast_nowait(self, *message: Any) -> None:
        self._answer("nowait", *message)

    def _answer(self, kind: str, operation: Any, *rest: Any) -> asyncio.Future[Any]:
        self.sent.append(operation.name)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        future.set_result((kind, operation.name, operation.idempotent, *rest))
        return future


@pytest.fixture
def routes(monkeypatch: pytest.MonkeyPatch) -> list[EchoRoute]:
    made: list[EchoRoute] = []

    def connect(_: Ref[Any]) -> EchoRoute:
        made.append(EchoRoute(asyncio.get_running_loop()))
        return made[-1]

    monkeypatch.setattr(ref, "_connect", connect)
    return made


@pytest.fixture
def counter(routes: list[EchoRoute]) -> Ref[Counter]:
    return Ref("n1", 7, label="Counter")


# --- sending ---


async def test_a_call_sends_its_name_arguments_and_time_limit(counter: Ref[Counter]) -> None:
    got: Any = await Counter.increment(counter, by=3)
    assert got == ("call", "increment", False, (), {"by": 3}, 5.0)
    got = await Counter.maybe(counter.within(0.5), "a", "b", loud=True)
    assert got == ("call", "maybe", False, ("a", "b"), {"loud": True}, 0.5)


async def test_a_cast_is_sent_as_one(counter: Ref[Counter]) -> None:
    cast_: Any = Counter.add(counter, 3)
    got = await cast_
    assert got == ("cast", "add", False, (3,), {}, 5.0)


async def test_the_route_learns_that_a_call_is_idempotent(counter: Ref[Counter]) -> None:
    got: Any = await Counter.lookup(counter, "a")
    assert got == ("call", "lookup", True, ("a",), {}, 5.0)


async def test_operations_are_sent_in_program_order_before_they_are_awaited(
    counter: Ref[Counter], routes: list[EchoRoute]
) -> None:
    waiting: list[Any] = [
        Counter.increment(counter),
        Counter.reset(counter),
        Counter.value(counter),
    ]
    assert all(isinstance(future, asyncio.Future) for future in waiting)
    assert routes[0].sent == ["increment", "reset", "value"]
    await asyncio.gather(*waiting)


async def test_arguments_may_have_any_name(counter: Ref[Any]) -> None:
    class Names(GenServer):
        @call
        def names(self, ref: int, operation: int, info: int) -> int:
            return ref

    got: Any = await Names.names(counter, ref=1, operation=2, info=3)
    assert got[4] == {"ref": 1, "operation": 2, "info": 3}


async def test_the_ref_of_a_subclass_will_do(routes: list[EchoRoute]) -> None:
    loud = Ref[LoudCounter]("n1", 8, label="LoudCounter")
    await Counter.increment(loud)
    await LoudCounter.increment(loud)
    await LoudCounter.shout(loud)
    assert routes[0].sent == ["increment", "increment", "shout"]


async def test_on_binds_an_operation_to_a_server(counter: Ref[Counter]) -> None:
    bump = Counter.increment.on(counter)
    got: Any = await bump(by=2)
    assert got == ("call", "increment", False, (), {"by": 2}, 5.0)
    drop: Any = Counter.add.on(counter.within(2))
    got = await drop(3)
    assert got == ("cast", "add", False, (3,), {}, 2.0)


@pytest.mark.parametrize("operation", [Counter.value, Counter.finish])
def test_each_event_loop_gets_its_own_route(
    operation: Callable[..., Any], counter: Ref[Counter], routes: list[EchoRoute]
) -> None:
    async def use_twice() -> None:
        await operation(counter)
        await operation(counter)

    asyncio.run(use_twice())
    asyncio.run(use_twice())
    assert [len(route.sent) for route in routes] == [2, 2]


@pytest.mark.parametrize("operation", [Counter.value, Counter.finish])
def test_without_a_loop_the_node_is_asked_even_if_a_route_was_kept(
    operation: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ref, "_connect", ref._no_node)
    counter = Ref[Counter]("n1", 7)
    loop = asyncio.new_event_loop()
    counter._route = EchoRoute(loop)
    loop.close()
    with pytest.raises(NoNodeError):
        operation(counter)


def test_an_operation_can_itself_be_sent() -> None:
    assert pickle.loads(pickle.dumps(Counter.increment)) is Counter.increment


# --- on an instance ---


async def test_on_an_instance_an_operation_is_the_method() -> None:
    assert await Counter(start=10).increment(3) == 13
    assert Counter(start=10).value() == 10
    assert LoudCounter(start=3).shout() == "3!"
    assert LoudCounter(start=3).value() == 3
    assert Counter().maybe("a", "b", loud=True) == {"a": 1}
    assert Counter().finish() == Stop()
    with pytest.raises(ValueError, match="must not be negative"):
        await Counter().increment(-1)


async def test_a_method_that_replies_later_is_tested_with_any_function_as_sender() -> None:
    replies: list[int] = []
    counter = Counter()
    assert await counter.wait_for(Waiting(replies.append), 2) == NoReply()
    assert await counter.increment(2) == 2
    assert replies == [2]


def test_wrong_arguments_on_an_instance_are_the_methods_own_type_error() -> None:
    with pytest.raises(TypeError, match=r"Counter\.value\(\) takes 1 positional argument"):
        Counter().value(3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def test_an_operation_looks_like_its_method() -> None:
    operation: Any = Counter.increment
    assert operation.__doc__ == "Add `by` and return the new value."
    assert operation.__qualname__ == "Counter.increment"
    assert str(inspect.signature(operation)) == "(self, by: 'int' = 1) -> 'int'"


# --- no ref ---


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (3, "Counter.value takes a Ref first, got 3\nWrite await Counter.value(ref, ...)"),
        (None, "got None\nwhereis(...) gives None when nobody has the name."),
        (Counter, "got the class Counter\nWrite await Counter.value(ref, ...)"),
        ("x" * 99, "got a str\n"),
        (GenServer(), "got <noex_mp.core.gen_server.GenServer object"),
    ],
)
def test_a_first_argument_that_is_no_ref_is_explained(first: Any, message: str) -> None:
    with pytest.raises(TypeError) as failure:
        Counter.value(first)
    assert message in str(failure.value)


@pytest.mark.parametrize("first", [3, None])
def test_on_explains_too(first: Any) -> None:
    with pytest.raises(TypeError, match=r"Counter\.value\.on takes a Ref first"):
        Counter.value.on(first)


async def test_a_spawn_that_was_not_awaited_is_explained() -> None:
    pending: Any = asyncio.get_running_loop().create_future()
    with pytest.raises(TypeError, match="It must be awaited first"):
        Counter.value(pending)


def test_no_first_argument_at_all_names_the_operation() -> None:
    with pytest.raises(TypeError, match=r"Counter\.value\(\) missing 1 .* argument: 'ref'"):
        Counter.value()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


# --- what the worker gets to know ---


def passes_on(method: Callable[P, R]) -> Callable[P, R]:
    @functools.wraps(method)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        return method(*args, **kwargs)

    return wrapper


class Shapes(GenServer):
    @call
    def plain(self, by: int = 1) -> int:
        return by

    @call(idempotent=True)
    async def coroutine(self) -> None: ...

    @cast
    async def told(self) -> None: ...

    @call
    def by_text(self, who: From[int]) -> NoReply:
        return NoReply()

    @call
    def by_module(self, who: g.From[int]) -> NoReply:
        return NoReply()

    @call
    def by_other_name(self, who: Waiting[int]) -> NoReply:
        return NoReply()

    @call
    def bare(self, who: From) -> NoReply:  # type: ignore[type-arg]  # pyright: ignore[reportMissingTypeArgument, reportUnknownParameterType]
        return NoReply()

    @call
    def someone(self, sender: str) -> str:
        return sender

    @call
    def many(self, /, *items: int, **named: int) -> int:
        return len(items)

    @call
    @passes_on
    async def wrapped(self, who: From[int]) -> NoReply:
        return NoReply()


INFOS = {
    "plain": ("call", False, False, False),
    "coroutine": ("call", False, True, True),
    "told": ("cast", False, True, False),
    "by_text": ("call", True, False, False),
    "by_module": ("call", True, False, False),
    "by_other_name": ("call", True, False, False),
    "bare": ("call", True, False, False),
    "someone": ("call", False, False, False),
    "many": ("call", False, False, False),
    "wrapped": ("call", True, True, False),
}


@pytest.mark.parametrize("name", INFOS)
def test_an_operation_is_described_for_the_worker(name: str) -> None:
    info = Shapes.__operations__[name]
    assert info.name == name
    assert (info.kind, info.wants_sender, info.is_async, info.idempotent) == INFOS[name]


def test_all_shapes_are_in_the_table() -> None:
    assert set(Shapes.__operations__) == set(INFOS)


def test_the_described_function_is_the_plain_method() -> None:
    info = Shapes.__operations__["plain"]
    assert info.function(Shapes(), by=3) == 3
    assert type(info.function) is type(passes_on)
    assert operation_info(info.function) is None
    assert operation_info(Shapes.plain) is info
    assert operation_info(3) is None


def test_annotations_that_are_no_text_are_understood() -> None:
    def later(self: Any, who: Any) -> Any: ...
    def at_once(self: Any, who: Any) -> Any: ...

    later.__annotations__["who"] = Waiting[int]
    at_once.__annotations__["who"] = int
    described: list[OperationInfo | None] = [
        operation_info(call(later)),
        operation_info(call(at_once)),
    ]
    assert [info and info.wants_sender for info in described] == [True, False]


def test_a_class_of_ones_own_called_from_is_no_sender() -> None:
    namespace: dict[str, Any] = {}
    source = (
        "from __future__ import annotations\n"
        "class From: pass\n"
        "def greet(self, person: From): return person\n"
    )
    exec(source, namespace)
    mark: Any = call
    info = operation_info(mark(namespace["greet"]))
    assert info is not None
    assert not info.wants_sender


# --- mistakes in the definition ---


def no_self() -> None: ...
def only_star(*args: int) -> None: ...
def generates(self: Any) -> Iterator[int]:
    yield 1


async def generates_too(self: Any) -> AsyncIterator[int]:
    yield 1


def init(self: Any) -> None: ...
def ref_(self: Any) -> None: ...
def late(self: Any, target: int, who: Waiting[int]) -> None: ...
def keyword(self: Any, *, who: Waiting[int]) -> None: ...
def two(self: Any, who: Waiting[int], other: Waiting[int]) -> None: ...


ref_.__name__ = "ref"


@pytest.mark.parametrize("mark", [call, cast])
@pytest.mark.parametrize(
    ("method", "message"),
    [
        (3, "marks a method of a GenServer, got 3"),
        (len, "got <built-in function len>"),
        (staticmethod(no_self), "got a staticmethod\nAn operation belongs to a running server"),
        (classmethod(ref_), "got a classmethod"),
        (property(ref_), "got a property"),
        (Counter, "got the class Counter\nPut it on each method"),
        (functools.partial(ref_), "got functools.partial("),
        (no_self, "no_self takes no self"),
        (only_star, "only_star takes no self"),
        (generates, "cannot be used on generates, which yields"),
        (generates_too, "cannot be used on generates_too, which yields"),
        (init, "cannot be used on init, which the runtime calls itself"),
        (Counter.__init__, "cannot be used on __init__"),
        (ref_, "cannot be used on ref"),
        (Counter.increment, "increment is marked twice"),
        (Counter.reset, "reset is marked twice"),
    ],
)
def test_what_cannot_be_an_operation_is_refused(mark: Any, method: Any, message: str) -> None:
    with pytest.raises(TypeError) as failure:
        mark(method)
    assert message in str(failure.value)


@pytest.mark.parametrize("name", sorted(CALLBACKS))
def test_no_operation_is_named_like_a_callback(name: str) -> None:
    def method(self: Any) -> None: ...

    method.__name__ = name
    with pytest.raises(TypeError, match="which the runtime calls itself"):
        call(method)


@pytest.mark.parametrize("method", [late, keyword, two])
def test_a_sender_comes_first_and_alone(method: Any) -> None:
    with pytest.raises(TypeError, match=r"From in the wrong place(.|\n)*\(self, who: From"):
        call(method)


def test_a_cast_has_no_sender() -> None:
    def tell(self: Any, who: Waiting[int]) -> None: ...

    with pytest.raises(TypeError, match="nobody waits for a cast's reply"):
        cast(tell)


def test_options_are_given_by_name() -> None:
    with pytest.raises(TypeError, match=r"takes only idempotent=.* by name"):
        call(True)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": 3}, r"no option timeout; .*idempotent, .*\n.*counter.within\(3\)"),
        ({"retry": 2}, "@call has no option retry; there are: idempotent, max_deliveries$"),
        ({"max_deliveries": 2}, "only with idempotent=True.*\n.*idempotent=True, max_deliveries=2"),
        ({"max_deliveries": None}, "only with idempotent=True"),
        ({"idempotent": True, "max_deliveries": "3"}, "a number of deliveries, or None .* '3'$"),
        ({"idempotent": True, "max_deliveries": True}, "a number of deliveries, .* got True$"),
    ],
)
def test_an_option_that_is_wrong_is_named(options: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call(**options)


@pytest.mark.parametrize("count", [0, -1])
def test_what_is_delivered_is_delivered_once_at_least(count: int) -> None:
    with pytest.raises(ValueError, match=f"max_deliveries to be at least 1, got {count}$"):
        call(idempotent=True, max_deliveries=count)


def test_an_operation_says_how_often_it_is_delivered() -> None:
    def method(self: Any) -> None: ...

    deliveries: list[int | None] = [3, 1, None]
    for decorator, expected in zip(
        (
            call(idempotent=True),
            call(idempotent=True, max_deliveries=1),
            call(idempotent=True, max_deliveries=None),
        ),
        deliveries,
        strict=True,
    ):
        info = operations.operation_info(decorator(method))
        assert info is not None
        assert (info.idempotent, info.max_deliveries) == (True, expected)


def test_every_reserved_name_is_one_of_the_base_class() -> None:
    public = {name for name in vars(GenServer) if not name.startswith("_")}
    assert public == operations._RESERVED
