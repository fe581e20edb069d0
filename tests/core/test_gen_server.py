"""GenServer: what a class statement says, and what the defaults do."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import functools
import inspect
from typing import Any

import pytest
from typing_extensions import override

from noex_mp.core.gen_server import From, GenServer, has_callback
from noex_mp.core.operations import CALLBACKS, call, cast
from noex_mp.core.outcomes import Reply, Stop
from noex_mp.core.ref import Ref
from noex_mp.core.specs import OPTIONS, child
from noex_mp.errors import NoNodeError, UnknownOperationError
from tests.typing.servers import Counter, LoudCounter, Pop, Push, Size, Stack


class First(GenServer, restart="temporary", shutdown=1.0, expected=(KeyError, ValueError)):
    @call
    def one(self) -> int:
        return 1

    @cast
    def two(self) -> None: ...


class Second(First, shutdown="brutal_kill", name="second", expected=(OSError, KeyError)):
    @call
    def three(self) -> int:
        return 3


# --- the class statement ---


def test_a_server_without_options_has_none() -> None:
    assert Stack.__child_options__ == {}
    assert Stack.__expected__ == ()
    assert Stack.__operations__ == {}


def test_options_of_the_class_statement_are_the_childrens_defaults() -> None:
    assert First.__child_options__ == {"restart": "temporary", "shutdown": 1.0}
    assert child(First).restart == "temporary"


def test_a_subclass_inherits_options_and_expected_errors_and_adds_its_own() -> None:
    assert Second.__child_options__ == {
        "restart": "temporary",
        "shutdown": "brutal_kill",
        "name": "second",
    }
    assert Second.__expected__ == (KeyError, ValueError, OSError)
    assert First.__child_options__ == {"restart": "temporary", "shutdown": 1.0}


def test_of_several_bases_the_first_wins() -> None:
    class Left(GenServer, restart="permanent", expected=(KeyError,)): ...

    class Right(GenServer, restart="temporary", shutdown=9.0, expected=(OSError,)): ...

    class Both(Left, Right): ...

    assert Both.__child_options__ == {"restart": "permanent", "shutdown": 9.0}
    assert set(Both.__expected__) == {KeyError, OSError}


def test_an_unknown_option_is_refused_with_those_there_are() -> None:
    with pytest.raises(TypeError) as failure:
        type("Wrong", (GenServer,), {}, restat="transient", idd="x")

    assert str(failure.value) == (
        "class Wrong has no option restat, idd; "
        "there are: expected, id, name, restart, shutdown, significant, backoff, init_timeout, "
        "hang_timeout, memory_limit, on_oom, placement, start, env, nice, cpu_affinity, "
        "max_messages, max_bytes, when_full"
    )


def test_every_option_of_a_child_is_one_of_the_class() -> None:
    for name in OPTIONS:
        server: Any = type("Server", (GenServer,), {}, **{name: None})
        assert server.__child_options__ == {name: None}
    named: Any = type("Server", (GenServer,), {}, id="visits")
    assert child(named).child_id == "visits"


@pytest.mark.parametrize("expected", [ValueError, ("ValueError",), (int,), (ValueError(),), None])
def test_expected_takes_a_tuple_of_exception_classes(expected: Any) -> None:
    with pytest.raises(TypeError, match=r"for example: expected=\(ValueError,\)|For example"):
        type("Wrong", (GenServer,), {}, expected=expected)


# --- operations ---


def test_operations_are_inherited() -> None:
    assert set(First.__operations__) == {"one", "two"}
    assert set(Second.__operations__) == {"one", "two", "three"}
    assert set(LoudCounter.__operations__) == {*Counter.__operations__, "shout"}


def test_a_mixin_that_is_no_server_brings_its_operations() -> None:
    def ping(self: Any) -> str:
        return "pong"

    mixin = type("Pings", (), {"ping": call(ping)})
    server: Any = type("Server", (mixin, GenServer), {})
    assert set(server.__operations__) == {"ping"}
    assert server().ping() == "pong"


def test_operations_are_not_overridden() -> None:
    with pytest.raises(TypeError, match=r"Loud overrides the operation First.one(.|\n)*private"):

        class Loud(First):  # pyright: ignore[reportUnusedClass]
            @call
            def one(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
                return 11


def test_nor_by_a_plain_method_or_value() -> None:
    for value in (print, 1, None):
        with pytest.raises(TypeError, match=r"Wrong overrides the operation First\.two"):
            type("Wrong", (First,), {"two": value})


def test_nor_do_two_bases_share_one() -> None:
    class Other(GenServer):
        @call
        def one(self) -> int:
            return 1

    with pytest.raises(TypeError, match=r"overrides the operation (First|Other)\.one"):
        type("Both", (First, Other), {})


def test_a_diamond_is_no_conflict() -> None:
    class Left(First): ...

    class Right(First): ...

    class Bottom(Left, Right): ...

    assert set(Bottom.__operations__) == {"one", "two"}


def test_the_mark_comes_above_other_decorators() -> None:
    def one(self: Any) -> None: ...

    def wrapper(*args: Any) -> None: ...

    marked: Any = call(one)
    functools.update_wrapper(wrapper, marked)
    with pytest.raises(TypeError, match=r"Wrong\.one has a decorator above @call"):
        type("Wrong", (GenServer,), {"one": wrapper})


def test_an_operation_goes_by_the_name_of_its_method() -> None:
    def one(self: Any) -> None: ...

    with pytest.raises(TypeError, match=r"Wrong\.uno is an operation that calls itself one"):
        type("Wrong", (GenServer,), {"uno": call(one)})


# --- callbacks ---


@pytest.mark.parametrize("name", sorted(CALLBACKS))
def test_a_servers_own_callbacks_are_told_from_the_defaults(name: str) -> None:
    own = {"init", "handle_call", "handle_cast", "handle_info", "handle_continue"}
    assert has_callback(Stack, name) is (name in own)
    assert not has_callback(Counter, name)
    assert not has_callback(GenServer, name)


async def test_callbacks_are_plain_methods_too() -> None:
    stack = Stack()
    ignored = From[Any](lambda _: None)
    await stack.handle_cast(Push("a"))
    assert await stack.handle_call(Size(), ignored) == Reply(1)
    assert await stack.handle_call(Pop(), ignored) == Reply("a", then=Stop())


def test_a_message_without_a_callback_names_the_operations_there_are() -> None:
    for send in (
        lambda: First().handle_call("get", From(print)),
        lambda: First().handle_cast("get"),
    ):
        with pytest.raises(UnknownOperationError) as failure:
            send()
        assert failure.value.server == "First"
        assert failure.value.known == ("one", "two")
        assert str(failure.value) == "First has no callback for 'get'; its operations: one, two"


def test_the_other_defaults_do_nothing() -> None:
    server = GenServer()
    assert server.init() is None
    assert server.handle_info("noise") is None
    assert server.terminate(Stop().reason) is None


def test_a_continue_without_its_callback_is_a_mistake() -> None:
    with pytest.raises(NotImplementedError, match=r"First returned Continue\('load'\)"):
        First().handle_continue("load")


@pytest.mark.parametrize("name", sorted(CALLBACKS))
def test_every_callback_is_documented(name: str) -> None:
    assert inspect.getdoc(getattr(GenServer, name))


# --- ref and sender ---


def test_a_server_built_by_hand_has_no_ref() -> None:
    with pytest.raises(NoNodeError, match="this Counter was not started by a node"):
        _ = Counter().ref


def test_a_started_server_knows_its_ref() -> None:
    counter = Counter()
    counter._noex_ref = Ref("n1", 7)
    assert counter.ref == Ref[Counter]("n1", 7)
    with pytest.raises(NoNodeError):
        _ = Counter().ref


def test_a_server_needs_not_call_the_base_constructor() -> None:
    class Plain(GenServer):
        @override
        def __init__(self) -> None:
            self.value = 1

    assert Plain().value == 1


def test_only_the_first_reply_counts() -> None:
    replies: list[int] = []
    sender = From(replies.append)
    sender.reply(1)
    sender.reply(2)
    sender.fail(ValueError())
    assert replies == [1]


def test_a_sender_may_be_given_an_error_instead() -> None:
    errors: list[BaseException] = []
    sender = From[int](print, errors.append)
    error = ValueError()
    sender.fail(error)
    sender.reply(1)
    sender.fail(KeyError())
    assert errors == [error]
    assert (sender.cancelled, sender.time_left, sender.caller) == (False, None, None)
