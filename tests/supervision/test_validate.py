from __future__ import annotations

import math
from typing import Any, ClassVar

import pytest

from noex_mp.core.specs import (
    Backoff,
    ChildSpec,
    DynamicSupervisor,
    PartitionSupervisor,
    ServerPool,
    Supervisor,
    Tree,
    child,
)
from noex_mp.errors import BadChildSpecError
from noex_mp.supervision.validate import (
    Mistake,
    find_child_mistakes,
    find_mistakes,
    validate,
    validate_child,
)


class Counter:
    __child_options__: ClassVar[dict[str, object]] = {}


class Cache(Counter):
    pass


class Plain:
    """No GenServer."""


def make_local() -> type[Counter]:
    class Local(Counter):
        pass

    return Local


# What people write who run no type checker.
untyped_child: Any = child
UntypedSupervisor: Any = Supervisor


def untyped(value: object) -> Any:
    return value


def only(mistakes: list[Mistake]) -> Mistake:
    assert len(mistakes) == 1, mistakes
    return mistakes[0]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"id": "a", "name": "a b/c"},
        {"restart": "permanent"},
        {"restart": "transient"},
        {"restart": "temporary"},
        {"shutdown": 0},
        {"shutdown": 2.5},
        {"shutdown": None},
        {"shutdown": "brutal_kill"},
        {"hang_timeout": 0.1},
        {"hang_timeout": None},
        {"memory_limit": "512MB"},
        {"memory_limit": "1.5 gib"},
        {"memory_limit": 2**24},
        {"memory_limit": None},
        {"on_oom": "escalate"},
        {"init_timeout": 0.1},
        {"init_timeout": None},
        {"env": {}},
        {"env": {"PORT": "80", "EMPTY": "", "GONE": None}},
        {"placement": "rooms"},
        {"start": "fork"},
        {"start": "exec"},
        {"nice": -20},
        {"nice": 19},
        {"cpu_affinity": {0, 1}},
        {"cpu_affinity": [0]},
    ],
)
def test_a_good_child_is_accepted(options: dict[str, Any]) -> None:
    validate_child(child(Counter).options(**options))
    validate(Supervisor(child(Counter).options(**options)))


@pytest.mark.parametrize(
    "tree",
    [
        Supervisor(),
        Supervisor(child(Counter), max_restarts=None),
        Supervisor(child(Counter), child(Cache), max_restarts=0, max_seconds=0.1, id="front"),
        Supervisor(child(Counter), child(Counter).options(id="second")),
        # An id may be what another child's name is: they are looked up in different places.
        Supervisor(child(Counter), child(Cache).options(name="Counter")),
        # Ids are unique in their supervisor only.
        Supervisor(child(Counter), Supervisor(child(Counter), id="front"), Supervisor()),
        Supervisor(
            Supervisor(
                child(Counter).options(restart="transient", significant=True),
                auto_shutdown="any_significant",
                restart="transient",
                significant=True,
            ),
            DynamicSupervisor(),
            DynamicSupervisor(child(Cache), max_children=0, id="rooms", name="rooms"),
            PartitionSupervisor(child(Counter), partitions=1),
            strategy="rest_for_one",
            auto_shutdown="all_significant",
        ),
        DynamicSupervisor(child(Counter)),
        Supervisor(child(Counter).options(backoff=Backoff(0, 1, 0, 0, 0))),
    ],
)
def test_a_good_tree_is_accepted(tree: Tree) -> None:
    validate(tree)


@pytest.mark.parametrize(
    ("options", "problem", "remedy"),
    [
        # restart
        (
            {"restart": "always"},
            """expected restart to be "permanent" or "transient" or "temporary", got 'always'""",
            'write restart="permanent"',
        ),
        ({"restart": "Transient"}, "got 'Transient'", 'write restart="transient"'),
        ({"restart": "temporal"}, "got 'temporal'", 'write restart="temporary"'),
        ({"restart": True}, "got True", 'write restart="permanent"'),
        # shutdown
        (
            {"shutdown": -1},
            'expected shutdown to be seconds >= 0, None or "brutal_kill", got -1',
            "write shutdown=5.0 for five seconds, or shutdown=None for no limit",
        ),
        ({"shutdown": "infinity"}, "got 'infinity'", "for no limit, write shutdown=None"),
        ({"shutdown": " Infinity "}, "got ' Infinity '", "for no limit, write shutdown=None"),
        ({"shutdown": math.inf}, "got inf", "for no limit, write shutdown=None"),
        ({"shutdown": math.nan}, "got nan", "write shutdown=5.0 for five seconds"),
        ({"shutdown": True}, "got True", "write shutdown=5.0 for five seconds"),
        ({"shutdown": [5]}, "got [5]", "write shutdown=5.0 for five seconds"),
        ({"shutdown": "brutal-kill"}, "got 'brutal-kill'", 'write shutdown="brutal_kill"'),
        # hang_timeout, memory_limit, on_oom
        (
            {"hang_timeout": 0},
            "expected hang_timeout to be seconds > 0, or None, got 0",
            "write hang_timeout=5.0 for five seconds, or hang_timeout=None for no limit",
        ),
        ({"hang_timeout": "infinity"}, "got 'infinity'", "for no limit, write hang_timeout=None"),
        (
            {"memory_limit": "512M"},
            """expected memory_limit to be bytes, or text such as "512MB", got '512M'""",
            'write memory_limit="512MB", with one of KB, MB, GB, KiB, MiB, GiB',
        ),
        ({"memory_limit": 1.5}, "got 1.5", 'write memory_limit="512MB"'),
        ({"memory_limit": True}, "got True", 'write memory_limit="512MB"'),
        ({"memory_limit": math.inf}, "got inf", "for no limit, write memory_limit=None"),
        (
            {"memory_limit": 512},
            "expected memory_limit to be at least 16 MiB, got 512",
            'write memory_limit="512MB"',
        ),
        (
            {"on_oom": "escalte"},
            """expected on_oom to be "restart" or "escalate", got 'escalte'""",
            'write on_oom="escalate"',
        ),
        (
            {"on_oom": "escalate", "restart": "temporary"},
            'on_oom="escalate" has no effect',
            "leave on_oom out",
        ),
        # init_timeout
        (
            {"init_timeout": -0.5},
            "expected init_timeout to be seconds > 0, or None, got -0.5",
            "write init_timeout=5.0 for five seconds, or init_timeout=None for no limit",
        ),
        ({"init_timeout": 0}, "got 0", "write init_timeout=5.0"),
        ({"init_timeout": "infinity"}, "got 'infinity'", "for no limit, write init_timeout=None"),
        ({"init_timeout": math.inf}, "got inf", "for no limit, write init_timeout=None"),
        ({"init_timeout": math.nan}, "got nan", "write init_timeout=5.0"),
        ({"init_timeout": "5"}, "got '5'", "write init_timeout=5.0 for five seconds"),
        ({"init_timeout": False}, "got False", "write init_timeout=5.0 for five seconds"),
        # id and name
        (
            {"id": ""},
            "expected id to be text without control characters, got an empty text",
            "leave id out, or give it at least a letter",
        ),
        ({"name": ""}, "expected name to be text", "leave name out"),
        ({"name": "a\nb"}, r"got 'a\nb'", 'write name="ab"'),
        ({"name": "\0"}, r"got '\x00'", 'write name="..."'),
        ({"id": "a\x1b[31m"}, r"got 'a\x1b[31m'", 'write id="a[31m"'),
        ({"id": 3}, "got 3 (int)", 'write id="..."'),
        ({"name": b"a"}, "got b'a' (bytes)", 'write name="..."'),
        # env
        ({"env": ["A=1"]}, "expected env to be a dict of texts, got ['A=1'] (list)", "write env={"),
        ({"env": {3: "a"}}, 'expected a name in env to be text without "=", got 3', "write env={"),
        ({"env": {"": "a"}}, "got ''", "write env={"),
        ({"env": {"A=": "a"}}, "got 'A='", "write env={"),
        ({"env": {"A\0": "a"}}, r"got 'A\x00'", "write env={"),
        (
            {"env": {"PORT": 80}},
            "expected env['PORT'] to be text, got a value of type int",
            'write env={"PORT": "..."}, with quotes',
        ),
        (
            {"env": {"A": "\0"}},
            "expected env['A'] to be text, got one with a NUL",
            "take the NUL out",
        ),
        # placement, start, nice, cpu_affinity
        ({"placement": ""}, "expected placement to be text", "leave placement out"),
        ({"placement": 3}, "got 3 (int)", 'write placement="..."'),
        ({"start": "spawn"}, 'expected start to be "fork" or "exec"', 'write start="'),
        ({"nice": 20}, "a whole number from -20 to 19, got 20", "write nice=10"),
        ({"nice": -21}, "got -21", "write nice=10"),
        ({"nice": True}, "got True", "write nice=10"),
        ({"nice": 1.0}, "got 1.0", "write nice=10"),
        ({"cpu_affinity": 0}, "a set of CPU numbers, got 0", "write cpu_affinity={0}"),
        ({"cpu_affinity": "0"}, "got '0'", "write cpu_affinity={0}"),
        ({"cpu_affinity": {-1}}, "got -1 in it", "write cpu_affinity={0}"),
        ({"cpu_affinity": {True}}, "got True in it", "write cpu_affinity={0}"),
        ({"cpu_affinity": set[int]()}, "an empty one", "leave cpu_affinity out"),
        ({"cpu_affinity": {0, 2}}, "may not run on CPU 2", "choose among these: 0, 1"),
    ],
)
def test_a_wrong_option_is_named_with_its_remedy(
    options: dict[str, Any], problem: str, remedy: str
) -> None:
    tree = Supervisor(child(Cache), child(Counter).options(**options))
    mistake = only(list(find_mistakes(tree, frozenset((0, 1)))))
    assert mistake.where == "/root/2 (Counter)"
    assert problem in mistake.problem
    assert remedy in mistake.remedy


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"start": "fork"}, {"start": "exec"}),
        ({"env": {"A": "1"}}, {"env": {"A": "2"}}),
        ({"nice": 1}, {"nice": 2}),
        ({"cpu_affinity": {0}}, {"cpu_affinity": {0, 1}}),
    ],
)
def test_members_of_a_placement_cannot_have_different_processes(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    room = child(Counter).options(placement="rooms")
    members = (room, room.options(**one), room.options(**one), room.options(**other))
    named = [spec.options(id=str(i)) for i, spec in enumerate(members)]
    mistake = only(list(find_mistakes(Supervisor(*named))))
    option = next(iter(one))
    assert mistake.where == "/root/4 (Counter)"
    assert f"expected one {option} for all of placement 'rooms'" in mistake.problem
    assert mistake.problem.endswith("/root/2")
    assert not list(find_mistakes(Supervisor(named[1], named[3].options(placement="halls"))))


def test_the_cpus_of_a_placement_may_be_written_in_any_way() -> None:
    room = child(Counter).options(placement="rooms")
    ways = [room.options(cpu_affinity=cpus, id=str(cpus)) for cpus in ({0, 1}, [1, 0], (0, 1))]
    assert not list(find_mistakes(Supervisor(*ways)))


def test_the_value_of_an_environment_variable_never_shows() -> None:
    specs = [untyped_child(Counter).options(env={"A": b"secret"})]
    specs += [child(Counter).options(env={"A": "secret\0"})]
    for spec in specs:
        with pytest.raises(BadChildSpecError) as failure:
            validate_child(spec)
        assert "secret" not in str(failure.value)


@pytest.mark.parametrize(
    ("entry", "problem", "remedy"),
    [
        (Counter, "expected a child, got the class Counter", "write child(Counter)"),
        (
            Counter(),
            "expected a child, got an instance of Counter",
            "write child(Counter, ...): its worker process makes the instance",
        ),
        (
            [child(Counter)],
            "expected a child, got [child(Counter)] (list)",
            "write Supervisor(child(...), child(...)), without the brackets",
        ),
        (3, "expected a child, got 3 (int)", "write child(YourServer), with a class that"),
        (None, "expected a child, got None (NoneType)", "write child(YourServer), with a class"),
    ],
)
def test_what_is_no_child_gets_told_how_to_become_one(
    entry: object, problem: str, remedy: str
) -> None:
    mistake = only(list(find_mistakes(UntypedSupervisor(entry))))
    assert (mistake.where, mistake.problem) == ("/root/1", problem)
    assert mistake.remedy.startswith(remedy)


@pytest.mark.parametrize(
    ("server", "problem", "remedy"),
    [
        (Plain, "expected a GenServer, got the class Plain", "write class Plain(GenServer)"),
        (
            Counter(),
            "expected child(...) to be given a class, got an instance of Counter",
            "write child(Counter, ...): its worker process makes the instance",
        ),
        (
            child(Counter),
            "expected child(...) to be given a class, got child(Counter) (ChildSpec)",
            "write child(...) once",
        ),
        (
            make_local,
            f"expected child(...) to be given a class, got {make_local!r:.12}",
            "write child(YourServer), with a class that derives from GenServer",
        ),
    ],
)
def test_child_takes_a_server_class(server: object, problem: str, remedy: str) -> None:
    mistake = only(list(find_child_mistakes(untyped_child(server), "child")))
    assert problem in mistake.problem
    assert mistake.remedy.startswith(remedy)


class Named(Counter):
    def __init__(self, name: str, **others: Any) -> None:
        pass


def test_an_option_among_the_arguments_is_told_where_it_belongs() -> None:
    mistake = only(list(find_child_mistakes(untyped_child(Counter, name="x"), "child")))
    assert mistake.problem == "the constructor of Counter takes no name, got 'x' (str)"
    assert "child(Counter, ...).options(name=...)" in mistake.remedy


def test_arguments_may_be_named_like_options() -> None:
    validate_child(child(Named, name="x", id=3))


def test_a_class_may_stand_in_a_class_or_in_a_function() -> None:
    validate_child(child(Outer.Inner))
    validate_child(child(make_local()))


class Outer:
    class Inner(Counter):
        pass


@pytest.mark.parametrize(
    ("flags", "problem", "remedy"),
    [
        (
            {"strategy": "one_to_one"},
            (
                'expected strategy to be "one_for_one" or "one_for_all" or "rest_for_one", '
                "got 'one_to_one'"
            ),
            'write strategy="one_for_one"',
        ),
        ({"strategy": "one for all"}, "got 'one for all'", 'write strategy="one_for_all"'),
        ({"auto_shutdown": "any"}, "got 'any'", 'write auto_shutdown="'),
        ({"auto_shutdown": True}, "got True", 'write auto_shutdown="never"'),
        (
            {"max_ooms": "3"},
            "expected max_ooms to be a whole number >= 0, or None, got '3'",
            "write max_ooms=3",
        ),
        (
            {"max_hangs": -1},
            "expected max_hangs to be a whole number >= 0, or None, got -1",
            "write max_hangs=3",
        ),
        (
            {"max_failed_inits": -1},
            "expected max_failed_inits to be a whole number >= 0, or None, got -1",
            "write max_failed_inits=3",
        ),
        ({"name": ""}, "got an empty text", "leave name out"),
        ({"restart": "always"}, "got 'always'", 'write restart="permanent"'),
        ({"shutdown": "infinity"}, "got 'infinity'", "for no limit, write shutdown=None"),
        ({"backoff": 0.1}, "expected backoff to be a Backoff, got 0.1", "write backoff=Backoff()"),
        ({"strategy": None}, "got None", 'write strategy="one_for_one"'),
        (
            {"max_restarts": -1},
            "expected max_restarts to be a whole number >= 0, or None, got -1",
            "write max_restarts=3, or 0 to give up at the first crash",
        ),
        ({"max_restarts": 2.5}, "got 2.5", "write max_restarts=3"),
        ({"max_restarts": True}, "got True", "write max_restarts=3"),
        ({"max_restarts": "infinity"}, "got 'infinity'", "for no limit, write max_restarts=None"),
        ({"max_ooms": math.inf}, "got inf", "for no limit, write max_ooms=None"),
        (
            {"max_seconds": 0},
            "expected max_seconds to be a number of seconds > 0, got 0",
            "write max_seconds=5.0, the time in which max_restarts are allowed",
        ),
        ({"max_seconds": -1.0}, "got -1.0", "write max_seconds=5.0"),
        ({"max_seconds": math.inf}, "got inf", "write max_seconds=5.0"),
        ({"max_seconds": math.nan}, "got nan", "write max_seconds=5.0"),
        ({"max_seconds": True}, "got True", "write max_seconds=5.0"),
        ({"max_seconds": None}, "got None", "write max_seconds=5.0"),
        ({"id": ""}, "got an empty text", "leave id out"),
        ({"id": "a\n"}, r"got 'a\n'", 'write id="a"'),
    ],
)
def test_a_wrong_flag_of_the_supervisor_is_named_with_its_remedy(
    flags: dict[str, Any], problem: str, remedy: str
) -> None:
    mistake = only(list(find_mistakes(UntypedSupervisor(child(Counter), **flags))))
    assert mistake.where == "/root"
    assert mistake.problem.endswith(problem)
    assert mistake.remedy.startswith(remedy)


@pytest.mark.parametrize("entry", [child(Counter), Counter, 3, [child(Counter)], None])
def test_a_tree_is_a_supervisor(entry: Any) -> None:
    mistake = only(list(find_mistakes(entry)))
    assert mistake.where == "/"
    assert mistake.problem.startswith("expected a supervisor, got ")
    assert mistake.remedy == "write Supervisor(child(YourServer), ...)"


@pytest.mark.parametrize(
    ("children", "places"),
    [
        ([child(Counter), child(Counter)], ["/root/2 (Counter)"]),
        ([child(Counter), child(Cache), child(Counter)], ["/root/3 (Counter)"]),
        ([child(Counter)] * 3, ["/root/2 (Counter)", "/root/3 (Counter)"]),
        ([child(Counter), child(Cache).options(id="Counter")], ["/root/2 (Cache)"]),
        ([child(Counter).options(id="a"), child(Cache).options(id="a")], ["/root/2 (Cache)"]),
    ],
)
def test_an_id_is_unique_in_its_supervisor(
    children: list[ChildSpec[Any]], places: list[str]
) -> None:
    mistakes = list(find_mistakes(Supervisor(*children)))
    assert [m.where for m in mistakes] == places
    assert all("the id of /root/1" in m.problem for m in mistakes)
    assert '.options(id="..."), another id for each' in mistakes[0].remedy


def test_duplicate_ids_are_found_where_the_class_is_wrong_too() -> None:
    wrong = untyped_child(3)
    tree = Supervisor(wrong, wrong.options(id="a"), wrong.options(id="a"), wrong)
    duplicates = [m for m in find_mistakes(tree) if "of its own" in m.problem]
    assert [m.where for m in duplicates] == ["/root/3"]
    assert duplicates[0].remedy.startswith("write child(...).options(")


def test_a_name_is_unique() -> None:
    first = child(Counter).options(name="visits")
    second = child(Cache).options(name="visits")
    mistake = only(list(find_mistakes(Supervisor(first, second))))
    assert mistake == Mistake(
        "/root/2 (Cache)",
        "expected a name of its own, got 'visits', the name of /root/1",
        "give one of the two another name, or none",
    )


def test_every_mistake_is_listed_in_one_error() -> None:
    tree = UntypedSupervisor(
        child(Counter).options(name="", shutdown=-1),
        Cache,
        child(Counter),
        max_restarts=-1,
        id="front",
    )
    with pytest.raises(BadChildSpecError) as failure:
        validate(tree)
    assert str(failure.value) == (
        "the supervision tree has 5 mistakes\n"
        "/front: expected max_restarts to be a whole number >= 0, or None, got -1\n"
        "    write max_restarts=3, or 0 to give up at the first crash\n"
        "/front/1 (Counter): expected name to be text without control characters, "
        "got an empty text\n"
        "    leave name out, or give it at least a letter\n"
        '/front/1 (Counter): expected shutdown to be seconds >= 0, None or "brutal_kill", got -1\n'
        "    write shutdown=5.0 for five seconds, or shutdown=None for no limit\n"
        "/front/2: expected a child, got the class Cache\n"
        "    write child(Cache)\n"
        "/front/3 (Counter): expected an id of its own, got 'Counter', the id of /front/1\n"
        '    write child(Counter, ...).options(id="..."), another id for each'
    )


def test_a_child_on_its_own_is_checked_too() -> None:
    with pytest.raises(BadChildSpecError) as failure:
        validate_child(child(Counter).options(init_timeout=-1))
    assert str(failure.value) == (
        "the child has 1 mistake\n"
        "child (Counter): expected init_timeout to be seconds > 0, or None, got -1\n"
        "    write init_timeout=5.0 for five seconds, or init_timeout=None for no limit"
    )


@pytest.mark.parametrize(
    ("tree", "where", "problem", "remedy"),
    [
        (
            Supervisor(Supervisor(child(Cache), child(Counter).options(name="")), id="top"),
            "/top/1/2 (Counter)",
            "expected name to be text",
            "leave name out",
        ),
        (
            Supervisor(Supervisor(child(Counter)), Supervisor(child(Cache))),
            "/root/2",
            "expected an id of its own, got 'Supervisor', the id of /root/1",
            'write Supervisor(..., id="...")',
        ),
        (
            Supervisor(child(Counter).options(id="a"), Supervisor(id="a")),
            "/root/2",
            "got 'a', the id of /root/1",
            'write Supervisor(..., id="...")',
        ),
        (
            Supervisor(
                child(Counter).options(name="n"), Supervisor(child(Cache).options(name="n"))
            ),
            "/root/2/1 (Cache)",
            "expected a name of its own, got 'n', the name of /root/1",
            "give one of the two another name",
        ),
        (
            Supervisor(child(Counter).options(name="n"), DynamicSupervisor(name="n")),
            "/root/2",
            "got 'n', the name of /root/1",
            "give one of the two another name",
        ),
        (
            Supervisor(DynamicSupervisor(child(Counter).options(restart=untyped("never")))),
            "/root/1/template (Counter)",
            "got 'never'",
            'write restart="',
        ),
        (
            DynamicSupervisor(max_children=untyped(-1), id="rooms"),
            "/rooms",
            "expected max_children to be a whole number >= 0, or None, got -1",
            "write max_children=100",
        ),
        (
            PartitionSupervisor(child(Counter), partitions=untyped(0)),
            "/root",
            "expected partitions to be a whole number >= 1, got 0",
            "write partitions=4",
        ),
        (
            PartitionSupervisor(child(Counter).options(name="n"), partitions=2),
            "/root",
            "expected a child without a name, got 'n' for all partitions",
            "leave the name out",
        ),
        (
            PartitionSupervisor(untyped(Counter), partitions=2),
            "/root/child",
            "expected a child, got the class Counter",
            "write child(Counter)",
        ),
        (
            PartitionSupervisor(untyped(Supervisor(child(Counter))), partitions=2),
            "/root/child",
            "expected a child, got",
            "write child(YourServer)",
        ),
        (
            Supervisor(ServerPool[Any](id="same"), ServerPool[Any](id="same")),
            "/root/2",
            "expected an id of its own, got 'same'",
            'write Pool(..., name="..."), or Pool.of(..., id="..."), another for each',
        ),
        (
            Supervisor(child(Counter).options(significant=True), auto_shutdown="any_significant"),
            "/root/1 (Counter)",
            "a permanent child never ends for good",
            'write restart="transient"',
        ),
        (
            Supervisor(child(Counter).options(significant=True, restart="transient")),
            "/root/1 (Counter)",
            "significant=True has no effect",
            'auto_shutdown="any_significant"',
        ),
        (
            Supervisor(Supervisor(significant=True), auto_shutdown="all_significant"),
            "/root/1",
            "a permanent child never ends for good",
            'write restart="transient"',
        ),
        (
            Supervisor(child(Counter).options(significant=untyped("yes"))),
            "/root/1 (Counter)",
            "expected significant to be True or False, got 'yes'",
            "write significant=True",
        ),
        (
            Supervisor(child(Counter).options(backoff=Backoff(jitter=2))),
            "/root/1 (Counter)",
            "expected jitter of backoff to be a number from 0 to 1, got 2",
            "write Backoff(jitter=0.2)",
        ),
        (
            Supervisor(child(Counter).options(backoff=Backoff(factor=0.5))),
            "/root/1 (Counter)",
            "expected factor of backoff to be a number >= 1, got 0.5",
            "write Backoff(factor=2)",
        ),
        (
            Supervisor(child(Counter).options(backoff=Backoff(max=math.inf))),
            "/root/1 (Counter)",
            "expected max of backoff to be a number >= 0, got inf",
            "write Backoff(max=30)",
        ),
    ],
)
def test_a_mistake_in_a_tree_is_named_with_its_place(
    tree: Tree, where: str, problem: str, remedy: str
) -> None:
    mistake = only(list(find_mistakes(tree)))
    assert mistake.where == where
    assert problem in mistake.problem
    assert remedy in mistake.remedy


def test_every_mistake_at_every_depth_is_listed() -> None:
    tree = Supervisor(
        Supervisor(untyped(Counter), Supervisor(untyped(None), id="x"), strategy=untyped("all")),
        child(Counter).options(name=""),
    )
    assert [mistake.where for mistake in find_mistakes(tree)] == [
        "/root/1",
        "/root/1/1",
        "/root/1/2/1",
        "/root/2 (Counter)",
    ]
