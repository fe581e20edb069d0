"""Configuration: where options come from, what they may be, and every mistake at once."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, NewType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noex_mp import Application, BadConfigError, Supervisor, child
from noex_mp.services.config import Sources, prefix_of, read_config, sort_arguments
from noex_mp.services.settings import configured
from tests.servers.counters import Counter


class Color(enum.Enum):
    RED = "red"
    BLUE = 2


Ident = NewType("Ident", int)


@dataclass(frozen=True)
class Database:
    url: str
    pool: int = 5


@dataclass(frozen=True)
class Config:
    """One option of each type."""

    port: int = 8080
    rate: float = 1.0
    debug: bool = False
    path: Path = Path("shop.db")
    level: Literal["info", "debug"] = "info"
    color: Color = Color.RED
    title: str | None = None
    limit: float | None = 2.0
    hosts: list[str] = field(default_factory=list[str])
    ports: tuple[int, ...] = ()
    range: tuple[str, int] = ("a", 1)
    prices: dict[str, float] = field(default_factory=dict[str, float])
    note: Annotated[str, "for people"] = ""
    password: str | int = field(default="", repr=False)
    patience: timedelta = timedelta(0)
    ident: Ident = Ident(0)
    day: date = date(2000, 1, 1)
    names: Sequence[str] = ()
    doors: Mapping[int, str] = field(default_factory=dict[int, str])
    cost: Decimal = Decimal(1)
    database: Database = Database("memory")
    spare: Database | None = None


def read(
    table: dict[str, Any] | None = None,
    environ: dict[str, str] | None = None,
    /,
    **arguments: str,
) -> Config:
    options = {key.replace("__", "."): value for key, value in arguments.items()}
    sources = Sources(table or {}, "shop.toml", environ or {}, options)
    return read_config(Config, "shop", sources)


def mistakes(*args: Any, **arguments: str) -> list[str]:
    with pytest.raises(BadConfigError) as failure:
        read(*args, **arguments)
    return list(failure.value.mistakes)


# --- sources ------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", range(8))
def test_the_strongest_word_counts(said: int) -> None:
    table = {"port": 1} if said & 1 else {}
    environ = {"SHOP_PORT": "2"} if said & 2 else {}
    arguments = {"port": "3"} if said & 4 else {}
    strongest = 3 if said & 4 else 2 if said & 2 else 1 if said & 1 else 8080
    assert read(table, environ, **arguments).port == strongest


def test_nested_options_come_from_all_sources_together() -> None:
    config = read({"database": {"url": "a"}}, {"SHOP_DATABASE_POOL": "7"}, spare__url="b")
    assert config.database == Database("a", 7)
    assert config.spare == Database("b", 5)


def test_what_nobody_speaks_of_keeps_its_default() -> None:
    assert read() == Config()
    assert read(database__pool="9").database == Database("memory", 9)


def test_what_has_no_default_is_asked_for() -> None:
    with pytest.raises(BadConfigError) as failure:
        read_config(Database, "data-base", Sources())
    [mistake] = failure.value.mistakes
    assert mistake.startswith("url: expected text, got nothing\n")
    assert "set DATA_BASE_URL, or --set url=..., or url in the table [data-base]" in mistake
    # Half of it is no better.
    [half] = mistakes(spare__pool="1")
    assert half.startswith("spare.url: expected text, got nothing\n    set SHOP_SPARE_URL, or ")


def test_other_variables_do_not_matter() -> None:
    assert read(None, {"SHOP_SERVICE_HOST": "10.0.0.1", "PORT": "1", "SHOP_": "?"}) == Config()


@pytest.mark.parametrize(
    ("name", "prefix"), [("shop", "SHOP_"), ("web-shop", "WEB_SHOP_"), ("a.b", "A_B_")]
)
def test_variables_begin_with_the_name_of_the_application(name: str, prefix: str) -> None:
    assert prefix_of(name) == prefix


@pytest.mark.parametrize(
    ("arguments", "applications", "sorted_ones"),
    [
        (["port=1"], ["shop"], {"shop": {"port": "1"}}),
        (["shop.port=1", "db.url=a=b"], ["shop"], {"shop": {"port": "1", "db.url": "a=b"}}),
        (["shop.port=1", "db.url="], ["shop", "db"], {"shop": {"port": "1"}, "db": {"url": ""}}),
        ([], [], {}),
    ],
)
def test_arguments_say_whose_they_are(
    arguments: list[str], applications: list[str], sorted_ones: dict[str, dict[str, str]]
) -> None:
    assert sort_arguments(arguments, applications) == (sorted_ones, [])


@pytest.mark.parametrize(
    ("argument", "applications", "text"),
    [
        ("port", ["shop"], "expected OPTION=VALUE"),
        ("=1", ["shop"], "expected OPTION=VALUE"),
        ("port=1", ["shop", "db"], "write --set shop.port=1"),
        ("shp.port=1", ["db", "shop"], "write --set shop.port=1"),
        ("port=1", [], "there is no application that takes options"),
    ],
)
def test_an_argument_of_nobody_is_told(argument: str, applications: list[str], text: str) -> None:
    _, [mistake] = sort_arguments([argument], applications)
    assert mistake.startswith(f"--set {argument}: ")
    assert text in mistake


# --- values -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("port", "9_000", 9000),
        ("rate", "2", 2.0),
        ("rate", "0.5", 0.5),
        ("debug", "Yes", True),
        ("debug", "0", False),
        ("path", "/var/shop.db", Path("/var/shop.db")),
        ("level", "debug", "debug"),
        ("color", "red", Color.RED),
        ("color", "2", Color.BLUE),
        ("title", "Shop", "Shop"),
        ("title", "", None),
        ("limit", "", None),
        ("limit", "3", 3.0),
        ("hosts", "a, b", ["a", "b"]),
        ("hosts", "", []),
        ("ports", "1,2", (1, 2)),
        ("range", "b, 2", ("b", 2)),
        ("note", "a note", "a note"),
        ("password", "1", "1"),
        ("patience", "1.5", timedelta(seconds=1.5)),
        ("ident", "7", 7),
        ("names", "a, b", ["a", "b"]),
    ],
)
def test_a_text_is_read_as_the_option_is_typed(option: str, text: str, value: object) -> None:
    for config in (read(**{option: text}), read(None, {f"SHOP_{option.upper()}": text})):
        found = getattr(config, option)
        assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("option", "said", "value"),
    [
        ("port", 9000, 9000),
        ("rate", 2, 2.0),
        ("debug", True, True),
        ("path", "a", Path("a")),
        ("color", 2, Color.BLUE),
        ("limit", 3, 3.0),
        ("hosts", ["a", "b"], ["a", "b"]),
        ("ports", [1, 2], (1, 2)),
        ("range", ["b", 2], ("b", 2)),
        ("prices", {"tea": 2}, {"tea": 2.0}),
        ("password", 1, 1),
        ("patience", 2, timedelta(seconds=2)),
        ("ident", 7, 7),
        ("day", date(2026, 1, 1), date(2026, 1, 1)),
        ("names", ["a"], ["a"]),
        ("doors", {"1": "front"}, {1: "front"}),
    ],
)
def test_toml_says_of_which_type_a_value_is(option: str, said: object, value: object) -> None:
    found = getattr(read({option: said}), option)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("option", "said", "expected"),
    [
        ("port", "9000", "expected port to be a whole number, got '9000'"),
        ("port", True, "expected port to be a whole number, got True"),
        ("port", 1.5, "expected port to be a whole number, got 1.5"),
        ("rate", "fast", "expected rate to be a number, got 'fast'"),
        ("debug", 1, "expected debug to be true or false, got 1"),
        ("path", 1, "expected path to be a path, got 1"),
        ("path", "", "expected path to be a path, got ''"),
        (
            "level",
            "dbug",
            "expected level to be 'info' or 'debug' (did you mean debug?), got 'dbug'",
        ),
        ("level", 1, "expected level to be 'info' or 'debug', got 1"),
        ("color", "green", "expected color to be 'red' or 2, got 'green'"),
        ("title", 1, "expected title to be text or nothing, got 1"),
        ("hosts", "a", "expected hosts to be a list of text, got 'a'"),
        ("hosts", [1], "expected hosts to be a list of text, got [1]"),
        ("range", ["b"], "expected range to be a list of 2: text, a whole number, got ['b']"),
        ("prices", 1, "expected prices to be a table in the file, got 1"),
        (
            "prices",
            {"tea": "2"},
            "expected prices to be a table with a number for each value, got {'tea': '2'}",
        ),
        (
            "doors",
            {"a": "front"},
            "expected doors to be a table with a whole number for each key, got {'a': 'front'}",
        ),
        ("patience", "soon", "expected patience to be a number of seconds, got 'soon'"),
        ("patience", 1e300, "expected patience to be a number of seconds, got 1e+300"),
        ("ident", "a", "expected ident to be a whole number, got 'a'"),
        ("day", "now", "expected day to be a date, got 'now'"),
        (
            "cost",
            "5",
            "expected cost to be of a type that options can have, and not a Decimal, got '5'",
        ),
        ("database", 1, "expected database to be a table, got 1"),
    ],
)
def test_a_value_of_another_type_is_told(option: str, said: object, expected: str) -> None:
    assert mistakes({option: said}) == [f"shop.toml:shop.{option}: {expected}"]


@pytest.mark.parametrize(
    ("option", "text"), [("port", "many"), ("rate", "nan"), ("rate", "inf"), ("debug", "maybe")]
)
def test_a_text_of_another_type_is_told(option: str, text: str) -> None:
    [by_variable] = mistakes(None, {f"SHOP_{option.upper()}": text})
    assert by_variable.startswith(f"SHOP_{option.upper()}: expected {option} to be ")
    [by_argument] = mistakes(**{option: text})
    assert by_argument.startswith(f"--set {option}: expected {option} to be ")


# --- mistakes -----------------------------------------------------------------------------------


def test_every_mistake_is_told_at_once() -> None:
    there_are = "there are: database.url, database.pool"
    assert mistakes(
        {"prot": 1, "debug": "no", "database": {"url": "a", "colour": 1}},
        {"SHOP_PORT": "many"},
        rate="fast",
        databse__url="x",
    ) == [
        "SHOP_PORT: expected port to be a whole number, got 'many'",
        "--set rate: expected rate to be a number, got 'fast'",
        "shop.toml:shop.debug: expected debug to be true or false, got 'no'",
        "shop.toml:shop.database.colour: there is no option database.colour\n    " + there_are,
        "shop.toml:shop.prot: there is no option prot\n    did you mean port?",
        "--set databse.url: there is no option databse.url\n    did you mean database.url?",
    ]


def test_what_is_not_shown_by_the_dataclass_is_not_shown_in_a_mistake() -> None:
    [mistake] = mistakes({"password": ["s3cret"]})
    assert "s3cret" not in mistake
    assert "expected password to be text or a whole number, got something else" in mistake


def test_a_dataclass_may_check_itself() -> None:
    @dataclass
    class Checked:
        port: int = 1

        def __post_init__(self) -> None:
            if self.port < 1:
                raise ValueError("ports begin at 1")

    assert read_config(Checked, "shop", Sources()).port == 1
    with pytest.raises(BadConfigError, match=r"shop: .*Checked refuses it: ports begin at 1"):
        read_config(Checked, "shop", Sources(arguments={"port": "0"}))


@given(st.text(max_size=20), st.sampled_from(["port", "rate", "debug", "level", "hosts", "limit"]))
def test_any_text_is_an_option_or_a_mistake(text: str, option: str) -> None:
    try:
        read(**{option: text})
    except BadConfigError as error:
        assert len(error.mistakes) == 1  # noqa: PT017 - it need not be one


# --- files --------------------------------------------------------------------------------------


def shop(**options: Any) -> Application[Config]:
    return Application("shop", Supervisor(child(Counter)), config=Config, **options)


def test_the_tables_of_a_file_belong_to_applications(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('[shop]\nport = 1\n[db]\nurl = "x"\n')
    db = Application("db", Supervisor(child(Counter)), config=Database)
    tree: Any = configured(Supervisor(db, Supervisor(shop(), id="in")), file, ["db.pool=2"])
    assert tree.children[0].config == Database("x", 2)
    assert tree.children[1].children[0].config == Config(port=1)


def test_all_applications_are_heard_before_anybody_complains(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('[shpo]\nport = 1\n[shop]\nport = "a"\n')
    db = Application("db", Supervisor(child(Counter)), config=Database)
    with pytest.raises(BadConfigError) as failure:
        configured(Supervisor(db, shop()), file, ["nobody.port=1"])
    text = str(failure.value)
    assert "did you mean [shop]?" in text
    assert "url: expected text, got nothing" in text
    assert "--set nobody.port=1" in text


@pytest.mark.parametrize(
    ("content", "text"), [(None, "No such file"), (b"[shop", "Expected"), (b"\xff", "decode")]
)
def test_a_file_that_cannot_be_read_is_told(
    tmp_path: Path, content: bytes | None, text: str
) -> None:
    file = tmp_path / "shop.toml"
    if content is not None:
        file.write_bytes(content)
    asks = Application("db", Supervisor(child(Counter)), config=Database)
    with pytest.raises(BadConfigError, match=f"shop.toml cannot be read: .*{text}") as failure:
        asks.configured(file=file)
    # What could stand in the file is not missed.
    assert len(failure.value.mistakes) == 1


def test_a_program_may_give_the_configuration_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_PORT", "7")
    assert shop().configuration() == Config(port=7)
    assert shop().configured(arguments=["port=8"]).configuration() == Config(port=8)
    assert shop().configured(Config(port=9)).configuration() == Config(port=9)


def test_another_configuration_makes_another_tree() -> None:
    def tree(config: Config) -> Supervisor:
        return Supervisor(child(Counter, config.port))

    used = Application("shop", tree, config=Config(port=1))
    assert "Counter, 1" in repr(used.children)
    assert "Counter, 2" in repr(used.configured(Config(port=2)).children)


# --- tables in lists ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Server:
    host: str
    port: int = 80
    key: str = field(default="", repr=False)
    database: Database | None = None

    def __post_init__(self) -> None:
        if self.port == 13:
            raise ValueError("13 brings bad luck")


@dataclass
class Cluster:
    servers: list[Server] = field(default_factory=list[Server])
    pair: tuple[Server, Server] | None = None
    named: dict[str, Server] = field(default_factory=dict[str, Server])
    either: list[Server | int] = field(default_factory=list["Server | int"])
    distinct: frozenset[Server] = frozenset()
    hidden: list[Server] = field(default_factory=list[Server], repr=False)
    sets: set[Any] = field(default_factory=set[Any])
    lists: set[list[int]] = field(default_factory=set[list[int]])


def cluster(environ: dict[str, str] | None = None, /, **table: Any) -> Cluster:
    return read_config(Cluster, "web", Sources(table, "web.toml", environ or {}))


def wrongs(environ: dict[str, str] | None = None, /, **table: Any) -> tuple[str, ...]:
    with pytest.raises(BadConfigError) as failure:
        cluster(environ, **table)
    return failure.value.mistakes


def test_a_list_holds_dataclasses() -> None:
    a, b = {"host": "a"}, {"host": "b", "port": 1, "database": {"url": "x"}}
    made = [Server("a"), Server("b", 1, database=Database("x"))]
    assert cluster(servers=[a, b]).servers == made
    assert cluster(pair=[a, b]).pair == (made[0], made[1])
    assert cluster(named={"first": a}).named == {"first": made[0]}
    assert cluster(either=[a, 5]).either == [made[0], 5]
    assert cluster(distinct=[a, b, a]).distinct == set(made)
    assert cluster() == Cluster()


def test_each_mistake_in_a_list_of_dataclasses_has_its_place() -> None:
    servers = [{"host": "a"}, {"port": "x"}, {"host": "c", "prot": 1}, {"host": "d", "port": 13}]
    assert wrongs(servers=servers, named={"first": {"host": 5, "database": {"pool": 1}}}) == (
        "web.toml:web.servers[1].host: expected text, got nothing",
        "web.toml:web.servers[1].port: expected port to be a whole number, got 'x'",
        "web.toml:web.servers[2].prot: there is no option prot\n    did you mean port?",
        "web.toml:web.servers[3]: Server refuses it: 13 brings bad luck",
        "web.toml:web.named.first.host: expected host to be text, got 5",
        "web.toml:web.named.first.database.url: expected text, got nothing",
    )
    assert wrongs(either=[{"port": 1}]) == (
        "web.toml:web.either[0].host: expected text, got nothing",
    )
    # The value of a secret is shown nowhere.
    assert wrongs(servers=[{"host": "a", "key": 7}]) == (
        "web.toml:web.servers[0].key: expected key to be text, got something else",
    )
    assert wrongs(hidden=[{"host": 7}]) == (
        "web.toml:web.hidden: expected hidden to be a list of a table, got something else",
    )


def test_tables_come_from_the_file_alone() -> None:
    [wrong] = wrongs({"WEB_SERVERS": "a,b"})
    assert wrong.startswith("WEB_SERVERS: expected servers to be a list of a table in the file")
    assert wrongs(servers=[5]) == (
        "web.toml:web.servers: expected servers to be a list of a table in the file, got [5]",
    )


@pytest.mark.parametrize("option", ["sets", "lists"])
def test_what_no_set_can_hold_is_a_mistake(option: str) -> None:
    [wrong] = wrongs(**{option: [[1]]})
    place, expected = wrong.split(": expected ")
    assert place == f"web.toml:web.{option}"
    what = "a list of what a set can hold: no lists, no tables"
    assert expected == f"{option} to be {what}, got [[1]]"
