"""`noex-mp run` from the outside: its targets, its log, its signals, its exit statuses."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from tests.cli.harness import (
    HERE,
    PATIENCE,
    Running,
    command,
    environment,
    noex_mp,
    running,
    texts,
)

pytestmark = pytest.mark.slow

TERM, HUP, INT, KILL = signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL


# --- targets ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "up"),
    [
        ("app:tree", "node app is up with 2 servers"),
        ("app:node", "node of-its-own is up with 1 server "),
        ("app:make", "node app is up with 2 servers"),
    ],
)
def test_a_tree_a_node_and_a_function_can_be_run(target: str, up: str) -> None:
    with running(target, until=up) as run:
        run.send(TERM)
        assert run.status() == 0


def test_an_installed_command_finds_modules_in_the_current_folder_first(tmp_path: Path) -> None:
    script = tmp_path / "bin" / "noex-mp"
    script.parent.mkdir()
    script.write_text("import sys; from noex_mp.cli.main import main; sys.exit(main())")
    # A namesake where scripts are found; and in a package, as examples are.
    (script.parent / "shop.py").write_text("raise SystemExit('the wrong one')")
    inner = tmp_path / "work" / "deep" / "shop.py"
    inner.parent.mkdir(parents=True)
    text = "from noex_mp import GenServer, Supervisor, child\nclass A(GenServer): pass\n"
    inner.write_text(f"{text}tree = Supervisor(child(A))\n")
    (tmp_path / "work" / "shop.py").write_text("from deep.shop import tree\n")
    program = [sys.executable, str(script)]
    for target in ("shop:tree", "deep.shop:tree"):
        with running(target, program=program, folder=tmp_path / "work", until="shop is up"):
            pass


# --- the log ------------------------------------------------------------------------------------


@pytest.mark.may_leave("processes")
def test_the_log_tells_of_start_crash_restart_and_stop() -> None:
    with running("app:tree") as run:
        first = run.os_pid_of("visits")
        os.kill(first, KILL)
        restarted = run.until(r"visits restarted as incarnation 2 after \d+ ms \(os pid (\d+)\)")
        run.send(TERM)
        assert run.status() == 0
    lines = [re.sub(r", up [\d.]+ m?s|after \d+ ms|os pid ", "", line) for line in texts(run.err)]
    second, node = run.os_pid_of("second"), run.process.pid
    assert lines == [
        f"info    visits is ready ({first})",
        f"info    second is ready ({second})",
        f"info    node app is up with 2 servers ({node})",
        f"error   visits killed by SIGKILL; restarting ({first})",
        f"warning visits restarted as incarnation 2  ({restarted[1]})",
        "info    stopping on SIGTERM; SIGINT (Ctrl-C) stops at once",
        f"info    second stopped ({second})",
        f"info    visits stopped ({restarted[1]})",
        "info    node app has stopped",
    ]


@pytest.mark.may_leave("processes")
def test_the_node_that_is_run_may_be_listened_to() -> None:
    with running("app:listened_to") as run:
        os.kill(run.os_pid_of("visits"), KILL)
        run.until("heard restarted visits", in_="out")
        run.send(TERM)
        assert run.status() == 0
    heard = [line.removeprefix("heard ") for line in run.out if line.endswith(" visits")]
    assert [line.split()[0] for line in heard] == [
        *("name_claimed", "started", "ready"),
        *("crashed", "restarting", "started", "ready", "restarted"),
        *("stopping", "name_freed", "exited"),
    ]


def test_the_traceback_of_a_crash_stands_below_its_line() -> None:
    with running("app:tree") as run:
        noex_mp("call", "visits", "crash")
        run.until("visits restarted")
    lines = texts(run.err)
    crash = next(i for i, line in enumerate(lines) if "crashed" in line)
    assert "visits crashed with ValueError: this is the end; restarting" in lines[crash]
    trace = [line for line in lines if line.startswith("    ")]
    assert lines[crash + 1 : crash + 1 + len(trace)] == trace
    assert trace[0] == "    Traceback (most recent call last):"
    assert trace[-1] == "    ValueError: this is the end"


def test_the_log_in_json_has_the_same_facts() -> None:
    with running("app:tree", "--log-format", "json", "--name", "shop") as run:
        noex_mp("call", "visits", "crash")
        run.until("restarted")
        noex_mp("call", "second", "say", '"hi"')
    log = [json.loads(line) for line in run.err]
    crashed, restarted = [e for e in log if e["event"] in ("crashed", "restarted")]
    assert crashed["level"] == "error"
    assert crashed["server"] == "visits"
    assert crashed["os_pid"] == next(e for e in log if e["event"] == "ready")["os_pid"]
    assert crashed["reason"] == "crashed with ValueError: this is the end"
    assert crashed["next"] == "restarting"
    assert crashed["traceback"].endswith("ValueError: this is the end\n")
    assert restarted["incarnation"] == 2
    assert restarted["after_ms"] >= 0
    assert {e["node"] for e in log} == {"shop"}
    printed = {"event": "output", "node": "shop", "server": "second"}
    [out] = [json.loads(line) for line in run.out]
    assert out.items() >= {**printed, "stream": "stdout", "text": "hi"}.items()
    [err] = [e for e in log if e["event"] == "output"]
    assert err.items() >= {**printed, "stream": "stderr", "text": "HI"}.items()


def test_what_servers_print_is_passed_on_with_their_names() -> None:
    with running("app:loud", "--log-level", "error", until=None) as run:
        run.until("ready in", in_="out")
        noex_mp("call", "Loud", "say", '"two\\nlines"')
        run.until(r"Loud \| LINES")
        run.until(r"Loud \| lines", in_="out")
    assert run.out[1:] == ["Loud | two", "Loud | lines"]
    assert run.err == ["Loud | TWO", "Loud | LINES"]


def test_the_level_hides_what_matters_less() -> None:
    with running("app:loud", "--log-level", "error", until=None) as run:
        run.until(r"^Loud \| ready in \d+$", in_="out")
        os_pid = int(run.until(r"ready in (\d+)", in_="out")[1])
        # Its answer says that its start is over.
        assert noex_mp("call", "Loud", "increment").stdout == "1\n"
        os.kill(os_pid, KILL)
        run.until("ready in", in_="out", times=2)
    [line] = run.err
    assert "Loud killed by SIGKILL" in line


# --- signals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [TERM, HUP, INT])
def test_a_signal_stops_in_reverse_order(number: signal.Signals) -> None:
    with running("app:tree") as run:
        run.send(number)
        assert run.status() == 0
    stopped = re.findall(r"info    (\w+) stopped \(", "\n".join(run.err))
    assert stopped == ["second", "visits"]
    assert not _tracebacks(run)


def _tracebacks(run: Running) -> list[str]:
    return [line for line in (*run.out, *run.err) if "Traceback" in line]


@pytest.mark.parametrize("first", [TERM, HUP, INT])
def test_only_ctrl_c_hurries_a_stop(first: signal.Signals) -> None:
    with running("app:hangs_at_end") as run:
        run.send(first)
        run.until("HangingEnd . the end hangs", in_="out")
        for number in (TERM, HUP, TERM):
            run.send(number)
            run.until(f"{number.name} changes nothing: the node is stopping")
        assert not [line for line in run.err if "at once" in line and "SIGINT" not in line]
        run.send(INT)
        assert run.status() == 0
    run.until("stopping at once")
    run.until("warning HangingEnd killed by SIGKILL")
    run.until("info +Counter stopped")
    assert not any("HangingEnd stopped" in line for line in run.err)
    assert not _tracebacks(run)


@pytest.mark.parametrize("number", [TERM, HUP, INT])
def test_a_signal_stops_a_tree_that_still_starts(number: signal.Signals) -> None:
    with running("app:hangs_at_start", until=None) as run:
        run.until("init hangs", in_="out")
        run.send(number)
        assert run.status() == 0
    run.until("Counter stopped")
    assert not _tracebacks(run)


@pytest.mark.parametrize("number", [TERM, HUP, INT])
@pytest.mark.parametrize("where", ["in", "not in"])
def test_a_signal_stops_a_program_that_still_imports(
    tmp_path: Path, where: str, number: signal.Signals
) -> None:
    # Either the root hangs in its import, or the zygote in the preload.
    (tmp_path / "hangs.py").write_text(
        "import os, sys\n"
        "from noex_mp import GenServer, Supervisor, child\n"
        "class A(GenServer): pass\n"
        "tree = Supervisor(child(A))\n"
        f"if 'noex_mp.cli.main' {where} sys.modules:\n"
        "    print('importing', flush=True)\n"
        "    os.read(os.pipe()[0], 1)\n"
    )
    with running("hangs:tree", folder=tmp_path, until=None) as run:
        run.until("importing", in_="out")
        run.send(number)
        assert run.status() == 0
    assert not _tracebacks(run)


@pytest.mark.parametrize(
    ("leaves", "what"),
    [
        (
            "threading.Thread(target=time.sleep, args=(100,), name='mine').start()",
            "the threads mine",
        ),
        ("atexit.register(time.sleep, 100)", "a function that atexit runs"),
    ],
)
def test_what_a_module_leaves_in_the_root_does_not_hold_up_the_end(
    tmp_path: Path, leaves: str, what: str
) -> None:
    (tmp_path / "leaves.py").write_text(
        "import atexit, sys, threading, time\n"
        "from noex_mp import GenServer, Supervisor, child\n"
        "class A(GenServer): pass\n"
        "tree = Supervisor(child(A))\n"
        f"if 'noex_mp.cli.main' in sys.modules:\n    {leaves}\n"
    )
    with running("leaves:tree", folder=tmp_path) as run:
        run.send(TERM)
        assert run.status() == 0
    assert texts(run.err)[-2:] == [
        "info    node leaves has stopped",
        f"warning ends without waiting for {what}",
    ]


def test_nohup_means_what_it_says() -> None:
    program = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *command()]
    with running("app:tree", program=program) as run:
        run.send(HUP)
        assert noex_mp("call", "visits", "increment").stdout == "11\n"
        run.send(TERM)
        assert run.status() == 0
    run.until("stopping on SIGTERM")
    assert not [line for line in run.err if "SIGHUP" in line]


@contextmanager
def terminal(*words: str) -> Generator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """Run a command in a terminal of its own; give the process and the other end of that."""
    ours, theirs = pty.openpty()
    take_terminal = "import os, sys; os.login_tty(os.dup(0)); os.execv(sys.argv[1], sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", take_terminal, *command(*words)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=HERE,
        env=environment(TERM="xterm"),
    )
    os.close(theirs)
    screen = os.fdopen(ours, "r+b", buffering=0)
    try:
        with screen:
            yield process, screen
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def _read_until(screen: IO[bytes], text: bytes, seen: bytes = b"") -> bytes:
    while text not in seen:
        piece = screen.read(4096)
        assert piece, seen.decode()
        seen += piece
    return seen


def test_ctrl_c_in_a_terminal_stops_in_order_and_twice_at_once() -> None:
    with terminal("run", "app:hangs_at_end") as (process, screen):
        seen = _read_until(screen, b"is up")
        screen.write(b"\x03")
        seen = _read_until(screen, b"the end hangs", seen)
        screen.write(b"\x03")
        seen = _read_until(screen, b"has stopped", seen)
        assert process.wait(PATIENCE) == 0
    assert seen.count(b"stopping; Ctrl-C again to stop at once") == 1
    assert seen.count(b"Counter stopped") == 1  # in order, before the one that hangs
    assert b"Traceback" not in seen


def test_a_terminal_that_goes_away_stops_the_node() -> None:
    with terminal("run", "app:tree") as (process, screen):
        _read_until(screen, b"is up")
        screen.close()
        assert process.wait(PATIENCE) == 0


# --- where the output goes ----------------------------------------------------------------------


def test_a_node_lives_on_when_nobody_reads_its_output() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with running("app:tree", stdout=write_end) as run:
        os.close(write_end)
        assert noex_mp("call", "visits", "say", '"hi"').returncode == 0
        run.until(r"visits \| HI")
        assert noex_mp("call", "visits", "increment").stdout == "11\n"
        run.send(TERM)
        assert run.status() == 0


def test_a_node_lives_on_when_nobody_reads_its_log() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with running("app:loud", stderr=write_end, until=None) as run:
        os.close(write_end)
        os_pid = int(run.until(r"ready in (\d+)", in_="out")[1])
        # Its answer says that its start is over.
        assert noex_mp("call", "Loud", "increment").stdout == "1\n"
        os.kill(os_pid, KILL)
        run.until("ready in", in_="out", times=2)
        run.send(TERM)
        assert run.status() == 0


@pytest.mark.parametrize("closing", [">&-", "<&- >&-"])
def test_a_node_starts_with_closed_output(closing: str) -> None:
    program = ["sh", "-c", f'exec "$@" {closing}', "sh", *command()]
    with running("app:tree", program=program) as run:
        assert noex_mp("call", "visits", "say", '"hi"').returncode == 0
        run.until(r"visits \| HI")
        run.send(TERM)
        assert run.status() == 0


def test_a_node_starts_with_a_closed_log() -> None:
    program = ["sh", "-c", 'exec "$@" 2>&-', "sh", *command()]
    with running("app:loud", program=program, until=None) as run:
        run.until("ready in", in_="out")
        run.send(TERM)
        assert run.status() == 0
    assert run.err == []


# --- exit statuses ------------------------------------------------------------------------------


def test_a_tree_that_gives_up_ends_with_1_and_says_why() -> None:
    with running("app:gives_up_soon") as run:
        os.kill(run.os_pid_of("weak"), KILL)
        assert run.status() == 1
    gave_up = "supervisor root gave up: more than 0 restarts in 5 s; the last: weak killed by"
    run.until(gave_up)
    run.until("Counter stopped")


def test_a_tree_that_does_not_start_ends_with_1_and_the_servers_own_error() -> None:
    done = noex_mp("run", "app:fails_to_start")
    assert done.returncode == 1
    assert "FailingInit did not start" in done.stderr
    assert "Refused: no init today" in done.stderr
    assert "in init" in done.stderr
    assert "Counter stopped" in done.stderr


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("run", "app:tre"), "Did you mean app:tree?"),
        (("run", "app:tree", "--log-level", "loud"), "invalid choice: 'loud'"),
        (("run", "app:tree", "--name", "a/b"), "without slashes, got 'a/b'"),
        (("run",), "MODULE:TREE"),
        (("dance",), "invalid choice: 'dance'"),
    ],
)
def test_a_bad_command_line_ends_with_2(words: tuple[str, ...], text: str) -> None:
    done = noex_mp(*words)
    assert done.returncode == 2
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_has_been_removed_ends_with_2(tmp_path: Path) -> None:
    program = ["sh", "-c", 'rmdir "$PWD" && exec "$@"', "sh", *command("run", "app:tree")]
    done = subprocess.run(
        program,
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "the current folder has been removed" in done.stderr


def test_whoever_asked_for_json_is_told_in_json_what_to_change() -> None:
    done = noex_mp("run", "app:tre", "--log-format", "json", "--name", "shop")
    assert done.returncode == 2
    [said] = [json.loads(line) for line in done.stderr.splitlines()]
    assert (said["level"], said["event"], said["node"]) == ("error", "not_started", "shop")
    assert said["message"].endswith("Did you mean app:tree?")


def test_an_error_in_the_module_ends_with_2_and_its_own_traceback(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def f():\n    return 1 / 0\nf()\n")
    done = noex_mp("run", "broken:tree", folder=tmp_path)
    assert done.returncode == 2
    files = re.findall(r'File "(.*)", line', done.stderr)
    assert files == [str(tmp_path / "broken.py")] * 2
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_a_preload_that_is_refused_ends_with_2(tmp_path: Path) -> None:
    (tmp_path / "threads.py").write_text(
        "import threading\n"
        "from noex_mp import GenServer, Supervisor, child\n"
        "class A(GenServer): pass\n"
        "tree = Supervisor(child(A))\n"
        "threading.Thread(target=threading.Event().wait, daemon=True, name='mine').start()\n"
    )
    done = noex_mp("run", "threads:tree", folder=tmp_path)
    assert done.returncode == 2
    assert "threads left a thread running: 'mine'" in done.stderr


def test_a_name_that_is_taken_ends_with_2_if_somebody_asked_for_it() -> None:
    with running("app:tree", "--name", "shop"):
        done = noex_mp("run", "app:tree", "--name", "shop")
    assert done.returncode == 2
    assert "there is a running node called 'shop'" in done.stderr
    # That one runs on.
    assert "stopped" not in done.stderr


def test_a_name_that_nobody_asked_for_gives_way() -> None:
    with running("app:loud") as first, running("app:loud") as second:
        first.until("node app is up")
        second.until(f"node app-{second.process.pid} is up")


OURS = """
import sys
from noex_mp.cli.main import main
import noex_mp.node.root, noex_mp.supervision.plan
BROKEN = '''
def broken(*args, **kwargs):
    raise RuntimeError("our own bug")
'''
# It stands in our code, as a bug of ours does.
exec(compile(BROKEN, noex_mp.__file__, "exec"))
{place} = broken
sys.exit(main())
"""


def test_a_fault_of_the_supervisor_ends_with_70() -> None:
    code = OURS.format(place="noex_mp.supervision.plan.plan_exit")
    with running("app:tree", program=[sys.executable, "-c", code]) as run:
        os.kill(run.os_pid_of("visits"), KILL)
        assert run.status() == 70
    run.until("please report it")
    run.until("^    RuntimeError: our own bug")


@pytest.mark.parametrize("place", ["noex_mp.node.root.Root.start", "noex_mp.Node.wire_tree"])
def test_a_fault_at_the_start_ends_with_70(place: str) -> None:
    code = OURS.format(place=place)
    with running("app:tree", program=[sys.executable, "-c", code], until=None) as run:
        assert run.status() == 70
    run.until("please report it")
    run.until("^ *RuntimeError: our own bug")
