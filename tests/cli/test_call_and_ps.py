"""`noex-mp call` and `noex-mp ps` from another terminal."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from noex_mp import ConfigError, __version__
from noex_mp.cli.call import parse_arguments
from noex_mp.transport.paths import runtime_folder
from tests.cli.harness import Running, command, environment, noex_mp, running

slow = pytest.mark.slow


# --- arguments ----------------------------------------------------------------------------------


ARGUMENTS: list[tuple[list[str], list[object], dict[str, object]]] = [
    ([], [], {}),
    (["3", "-1.5", "null"], [3, -1.5, None], {}),
    (['"tea"', "[1, {}]"], ["tea", [1, {}]], {}),
    (["by=3", "1", 'größe="a=b"'], [1], {"by": 3, "größe": "a=b"}),
    (['"by=3"'], ["by=3"], {}),
]


@pytest.mark.parametrize(("words", "args", "kwargs"), ARGUMENTS)
def test_arguments_are_json(
    words: list[str], args: list[object], kwargs: dict[str, object]
) -> None:
    assert parse_arguments(words) == (args, kwargs)


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("tea", """expected JSON, got tea\nA text needs quotes, and those need quotes for the """),
        ("tea", """the shell: '"tea"'"""),
        ("to=tea", """shell: to='"tea"'"""),
        ("it's", """shell: '"it'\\''s"'"""),
        ("", """shell: '""'"""),
        ("True", "Write true"),
        ("by=None", "Write by=null"),
        ("[1,", "It begins like JSON, but:"),
    ],
)
def test_what_is_no_json_is_shown_with_its_quotes(word: str, text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_arguments([word])
    assert text in str(refused.value)


def test_values_that_lie_too_deep_in_each_other_are_no_argument() -> None:
    with pytest.raises(ConfigError) as refused:
        parse_arguments(["by=" + "[" * 50_000])
    assert str(refused.value) == (
        "expected JSON, got values that lie too deep in each other: by=[[[[[[[[[[[[[[[[[[[[..."
    )


def test_an_argument_is_given_once() -> None:
    with pytest.raises(ConfigError, match="by is there twice"):
        parse_arguments(["by=1", "by=2"])


# --- calls --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def node() -> Iterator[Running]:
    with running("app:tree") as run:
        yield run


@slow
def test_a_server_is_found_by_its_name_its_id_and_its_os_pid(node: Running) -> None:
    assert noex_mp("call", "visits", "increment", "by=2").stdout == "12\n"
    assert noex_mp("call", "second", "increment").stdout == "1\n"
    assert noex_mp("call", "/second", "increment").stdout == "2\n"
    os_pid = str(node.os_pid_of("second"))
    assert noex_mp("call", os_pid, "increment", "3").stdout == "5\n"


@slow
@pytest.mark.usefixtures("node")
def test_a_reply_is_shown_as_json() -> None:
    done = noex_mp("call", "visits", "items")
    assert json.loads(done.stdout) == [
        {"name": "tea", "tags": ["a", "b"]},
        [1, 2],
        [1, 3],
        "2020-02-29",
        [1, 2],
        "b'raw'",
    ]


@slow
@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (("visits", "increment", "tea"), 2, """'"tea"'"""),
        (("visits",), 2, "arguments are required: OPERATION\n"),
        (("visits", ""), 2, "expected the name of an operation, got ''\nFor example: noex-mp call"),
        (("visits", "increment", "--timeout", "0"), 2, "expected seconds above zero"),
        (("visits", "incremnt"), 1, "its operations: increment, crash, refuse, items, say, never"),
        (("visits", "incremnt"), 1, "Did you mean increment?"),
        (("visit", "increment"), 1, "there are: visits, second\nDid you mean visits?"),
        (("visits", "increment", "x=1"), 1, "unexpected keyword argument 'x'"),
        (("visits", "refuse"), 1, "app:Refused: not today"),
        (("visits", "never", "--timeout", "0.05"), 1, "Counter.never did not reply within 0.05 s"),
        (("visits", "items", "--node", "none"), 1, "no node is called 'none'; running: app"),
    ],
)
@pytest.mark.usefixtures("node")
def test_a_call_that_fails_says_why(words: tuple[str, ...], status: int, text: str) -> None:
    done = noex_mp("call", *words)
    assert done.returncode == status
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Running]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with running("app:library") as run:
        yield run


@slow
@pytest.mark.usefixtures("library")
def test_a_reply_is_shown_in_the_characters_that_standard_output_has() -> None:
    ascii_only = {"PYTHONIOENCODING": "ascii"}
    words = ("call", "bücher", "text")
    assert noex_mp(*words).stdout == '"Ω ünï"\n'
    assert noex_mp(*words, variables=ascii_only).stdout == '"\\u03a9 \\u00fcn\\u00ef"\n'
    assert "\nb\\xfccher " in noex_mp("ps", variables=ascii_only).stdout


@slow
@pytest.mark.usefixtures("library")
def test_a_reply_is_shown_however_large_it_is_and_refused_if_too_deep() -> None:
    large = noex_mp("call", "bücher", "large")
    assert (large.stderr, large.stdout) == ("", f"1{5000 * '0'}\n")
    deep = noex_mp("call", "bücher", "deep")
    assert (deep.returncode, deep.stdout) == (1, "")
    assert deep.stderr == (
        "noex-mp: expected a reply that can be shown, got one whose values lie too deep in each "
        "other\nCall an operation that returns a part of it.\n"
    )


@slow
@pytest.mark.usefixtures("node")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [("ps",), ("ps", "--json"), ("call", "visits", "increment"), ()])
def test_a_full_disk_gets_a_sentence(words: tuple[str, ...], unbuffered: str) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command(*words),
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(PYTHONUNBUFFERED=unbuffered),
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == (
        "noex-mp: standard output takes no more of the result: No space left on device\n"
    )


@slow
@pytest.mark.usefixtures("node")
def test_the_servers_traceback_is_shown_on_request() -> None:
    assert "raise Refused" in noex_mp("call", "visits", "refuse", "-v").stderr


@slow
def test_a_call_that_crashes_its_server_says_what_becomes_of_it() -> None:
    with running("app:loud", "--name", "crashing"):
        done = noex_mp("call", "--node", "crashing", "Loud", "crash", "-v")
        assert done.returncode == 1
        assert "Loud ended in the middle of the call: crashed with ValueError" in done.stderr
        assert 'raise ValueError("this is the end")' in done.stderr
        # The next one waits for the restart.
        assert noex_mp("call", "--node", "crashing", "Loud", "increment").stdout == "1\n"


@contextmanager
def hung(name: str) -> Generator[Running]:
    """A node whose root does not run, though it takes connections."""
    with running("app:loud", "--name", name) as run:
        run.send(signal.SIGSTOP)
        try:
            yield run
        finally:
            run.send(signal.SIGCONT)


@slow
@pytest.mark.usefixtures("node")
def test_a_node_that_hangs_does_not_keep_calls_from_the_servers_of_others() -> None:
    with hung("hung") as other:
        begin = time.monotonic()
        assert noex_mp("call", "second", "refuse").stderr.startswith("noex-mp: app:Refused")
        assert time.monotonic() - begin < 3
        begin = time.monotonic()
        done = noex_mp("call", "nobody", "increment", "--timeout", "0.6")
        assert time.monotonic() - begin < 3
        assert done.returncode == 1
        assert "there is no server 'nobody' on node app" in done.stderr
        silent = f"node hung (os pid {other.process.pid}) did not reply within 0.6 s"
        assert f"It may be elsewhere: {silent}" in done.stderr
        alone = noex_mp("call", "Loud", "increment", "--node", "hung", "--timeout", "0.6")
        assert alone.stderr == f"noex-mp: {silent}\n"


# --- ps -----------------------------------------------------------------------------------------


@slow
def test_ps_shows_the_servers_of_a_node(node: Running) -> None:
    done = noex_mp("ps")
    head, columns, *rows = done.stdout.splitlines()
    assert head == f"node app (os pid {node.process.pid}), 2 servers"
    assert columns.split()[:4] == ["NAME", "ID", "SERVER", "STATE"]
    visits, second = (row.split() for row in rows)
    assert visits[:6] == ["visits", "Counter", "Counter", "running", visits[4], "0"]
    assert int(visits[4]) == node.os_pid_of("visits")
    assert second[:2] == ["-", "second"]
    assert second[-1] == "MB"


@slow
def test_ps_in_json_has_the_same_facts(node: Running) -> None:
    [app] = json.loads(noex_mp("ps", "--json").stdout)
    assert app["node"] == "app"
    assert app["os_pid"] == node.process.pid
    visits, second = app["servers"]
    assert visits["name"] == "visits"
    assert visits["os_pid"] == node.os_pid_of("visits")
    assert second["id"] == "second"
    assert 0 < second["memory"] < 100e6


@slow
@pytest.mark.usefixtures("node")
def test_two_nodes_are_both_listed_and_a_call_finds_its_server() -> None:
    with running("app:loud", "--name", "other"):
        heads = [
            line.split(" (")[0] for line in noex_mp("ps").stdout.splitlines() if "node" in line
        ]
        assert heads == ["node app", "node other"]
        assert noex_mp("ps", "--node", "other").stdout.startswith("node other")
        assert noex_mp("call", "Loud", "increment").stdout == "1\n"
        nobody = noex_mp("call", "none", "increment").stderr
        assert "on the nodes app, other; there are: visits, second, Loud" in nobody
        with running("app:loud", "--name", "third"):
            both = noex_mp("call", "Loud", "increment")
            assert both.returncode == 1
            assert "2 nodes have a server Loud: other, third\nChoose with --node." in both.stderr


@slow
@pytest.mark.parametrize("words", [("ps",), ("call", "visits", "increment")])
def test_without_a_node_there_is_a_sentence(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    done = noex_mp(*words)
    assert done.returncode == 1
    assert done.stderr == "noex-mp: no node is running\nStart one with: noex-mp run app:tree\n"


@slow
def test_the_nodes_of_another_user_are_that_users_to_ask(tmp_path: Path) -> None:
    theirs = Path("/")
    if os.getuid() == 0:
        theirs = tmp_path / "theirs"
        theirs.mkdir()
        os.chown(theirs, 4321, -1)
    done = noex_mp("ps", variables={"XDG_RUNTIME_DIR": str(theirs), "TMPDIR": str(tmp_path)})
    assert done.returncode == 1
    assert f"sudo -u '#{theirs.stat().st_uid}' XDG_RUNTIME_DIR={theirs} noex-mp" in done.stderr


@slow
def test_what_a_dead_node_has_left_is_removed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    path = runtime_folder() / "dead.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    assert noex_mp("ps").returncode == 1
    assert not path.exists()


@slow
def test_a_node_without_the_variable_is_found_by_whoever_has_it(tmp_path: Path) -> None:
    (tmp_path / "xdg").mkdir(mode=0o700)
    without = {"XDG_RUNTIME_DIR": "", "TMPDIR": str(tmp_path)}
    with running("app:tree", "--name", "service", variables=without):
        done = noex_mp("ps", variables={**without, "XDG_RUNTIME_DIR": str(tmp_path / "xdg")})
        assert "node service" in done.stdout


@slow
def test_a_node_that_hangs_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as hangs,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other,
    ):
        path = str(runtime_folder() / "shop.sock")
        hangs.bind(path)
        hangs.listen(0)
        other.connect(path)  # its queue is full now
        done = noex_mp("ps")
    assert done.returncode == 1
    assert "node shop does not answer" in done.stderr


@slow
def test_a_node_that_answers_nobody_is_named_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with hung("hung") as run:
        done = noex_mp("ps")
    assert (done.returncode, done.stdout) == (1, "")
    name = f"node hung (os pid {run.process.pid})"
    assert done.stderr == f"noex-mp: {name} did not reply within 5 s\n"


@slow
def test_a_folder_that_is_open_to_others_is_refused_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "noex-mp").mkdir(mode=0o755)
    done = noex_mp("ps")
    assert done.returncode == 2
    assert f"chmod 700 {tmp_path / 'noex-mp'}" in done.stderr
    assert "Traceback" not in done.stderr


# --- the command itself -------------------------------------------------------------------------


@slow
def test_without_a_command_there_is_help() -> None:
    done = noex_mp()
    assert done.returncode == 0
    assert "noex-mp run app:tree" in done.stdout


@slow
def test_it_knows_its_version() -> None:
    assert noex_mp("--version").stdout == f"noex-mp {__version__}\n"


@slow
@pytest.mark.usefixtures("node")
def test_a_reader_that_has_seen_enough_is_no_error_worth_a_traceback() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(
        command("ps"), stdout=write_end, stderr=subprocess.PIPE, env=environment(), check=False
    )
    os.close(write_end)
    assert (done.returncode, done.stderr) == (1, b"")
