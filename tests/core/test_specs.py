from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError
from typing import Any, ClassVar, assert_type

import pytest

from noex_mp.core.specs import ChildSpec, Supervisor, child


class Counter:
    __child_options__: ClassVar[dict[str, object]] = {}

    def __init__(self, start: int = 0) -> None:
        self.start = start


class Cache:
    __child_options__: ClassVar[dict[str, object]] = {
        "restart": "transient",
        "shutdown": None,
        "something_else": 1,
    }


class Keywords:
    """Its arguments have the names that `child` and the options use themselves."""

    def __init__(self, server: str, name: str = "", restart: int = 0) -> None: ...


def test_a_type_checker_sees_the_constructors_arguments() -> None:
    # Run, these are only data; read by mypy and pyright, an ignore not needed is an error.
    assert_type(child(Counter, start=3), ChildSpec[Counter])
    assert_type(child(Counter).options(name="visits"), ChildSpec[Counter])
    child(Counter, start="3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    child(Counter, stat=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    child(Keywords)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    child(Counter).options(restart="always")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_a_child_holds_its_class_and_arguments() -> None:
    spec = child(Counter, 10)
    assert (spec.server, spec.args, spec.kwargs) == (Counter, (10,), {})
    assert child(Counter, start=10).kwargs == {"start": 10}


def test_a_constructor_may_use_the_words_that_child_uses() -> None:
    spec = child(Keywords, server="a", name="b", restart=3)
    assert spec.kwargs == {"server": "a", "name": "b", "restart": 3}
    assert (spec.name, spec.restart) == (None, None)


def test_the_defaults_are_those_of_otp() -> None:
    spec = child(Counter)
    assert (spec.shutdown, spec.init_timeout) == (5.0, 5.0)
    assert (spec.id, spec.name, spec.restart, spec.env) == (None, None, None, None)


def test_the_class_sets_defaults_and_options_override_them() -> None:
    assert (child(Cache).restart, child(Cache).shutdown) == ("transient", None)
    spec = child(Cache).options(restart=None, shutdown=2.0)
    assert (spec.restart, spec.shutdown) == (None, 2.0)


def test_options_leave_alone_what_they_do_not_mention() -> None:
    plain = child(Counter, start=10)
    named = plain.options(name="visits")
    both = named.options(init_timeout=None)
    assert plain.name is None
    assert (both.name, both.init_timeout, both.kwargs) == ("visits", None, {"start": 10})


def test_an_unknown_option_is_refused_with_those_there_are() -> None:
    wrong: dict[str, Any] = {"nme": "visits", "args": ()}
    with pytest.raises(TypeError, match="no option nme, args; there are: id, name, restart"):
        child(Counter).options(**wrong)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [(child(Counter), "Counter"), (child(Counter).options(id="visits", name="v"), "visits")],
)
def test_the_class_names_a_child_that_has_no_id(spec: ChildSpec[Counter], expected: str) -> None:
    assert spec.child_id == expected


def test_specs_with_equal_data_are_equal() -> None:
    assert child(Counter, start=1) == child(Counter, start=1) != child(Counter, start=2)
    assert child(Counter) != child(Counter).options(name="visits")
    assert Supervisor(child(Counter)) == Supervisor(child(Counter)) != Supervisor()


def test_specs_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        child(Counter).name = "visits"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(FrozenInstanceError):
        Supervisor().max_restarts = 4  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def test_specs_survive_a_pickle() -> None:
    tree = Supervisor(child(Counter, start=1).options(name="visits"), max_restarts=7)
    assert pickle.loads(pickle.dumps(tree)) == tree


def test_a_supervisor_holds_what_it_was_given() -> None:
    first, second = child(Counter), child(Cache)
    tree = Supervisor(first, second, max_restarts=1, max_seconds=2.0, id="front")
    assert tree.children == (first, second)
    assert (tree.strategy, tree.max_restarts, tree.max_seconds) == ("one_for_one", 1, 2.0)
    assert tree.id == "front"


def test_a_supervisor_allows_three_restarts_in_five_seconds() -> None:
    tree = Supervisor()
    assert (tree.children, tree.max_restarts, tree.max_seconds, tree.id) == ((), 3, 5.0, None)


UNTYPED: Any = child


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (child(Counter), "child(Counter)"),
        (
            child(Counter, start=10).options(name="visits"),
            "child(Counter, start=10).options(name='visits')",
        ),
        (child(Counter, 10), "child(Counter, 10)"),
        (
            child(Counter).options(shutdown=None, id="a"),
            "child(Counter).options(id='a', shutdown=None)",
        ),
        # What the class says need not be said again; what differs from it must be.
        (child(Cache), "child(Cache)"),
        (child(Cache).options(restart="permanent"), "child(Cache).options(restart='permanent')"),
        # Mistakes print, too: the error that reports them shows them.
        (UNTYPED(3), "child(3)"),
        (UNTYPED(Counter).options(env=3), "child(Counter).options(env=3)"),
        (Supervisor(), "Supervisor()"),
        (Supervisor(strategy="one_for_all"), "Supervisor(strategy='one_for_all')"),
        (
            Supervisor(child(Counter), child(Cache), max_seconds=1.0, id="front"),
            "Supervisor(child(Counter), child(Cache), max_seconds=1.0, id='front')",
        ),
    ],
)
def test_a_spec_prints_as_it_was_written(spec: object, text: str) -> None:
    assert repr(spec) == text


def test_a_big_argument_does_not_fill_the_log() -> None:
    assert len(repr(UNTYPED(Counter, "x" * 10_000, start=list(range(10_000))))) < 200


def test_the_values_of_environment_variables_are_not_shown() -> None:
    spec = child(Counter).options(env={"TOKEN": "secret", "PORT": "80"})
    assert repr(spec) == "child(Counter).options(env={'TOKEN': ..., 'PORT': ...})"
