"""A node in the places where services live: odd folders, no streams, a stuck log, a second life."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from noex_mp.transport.paths import runtime_folder
from tests.cli.harness import HERE, PATIENCE, command, noex_mp, running
from tests.processes.harness import wait_for_ends

pytestmark = pytest.mark.slow

TERM, KILL, STOP, CONT, PIPE = (
    signal.SIGTERM,
    signal.SIGKILL,
    signal.SIGSTOP,
    signal.SIGCONT,
    signal.SIGPIPE,
)


# --- folders ------------------------------------------------------------------------------------


def test_the_commands_of_these_tests_meet_no_nodes_of_others() -> None:
    look = "import noex_mp.transport.paths as p; print(*p._candidates())"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    ours = Path(os.environ["XDG_RUNTIME_DIR"])
    assert [Path(path).parent for path in done.stdout.split()] == [ours, ours]


def _long(folder: Path) -> Path:
    made = folder / ("x" * 120) / ("y" * 120)
    made.mkdir(parents=True, mode=0o700)
    return made


@pytest.mark.parametrize("variable", ["XDG_RUNTIME_DIR", "TMPDIR"])
def test_a_path_longer_than_a_socket_address(tmp_path: Path, variable: str) -> None:
    variables = {"XDG_RUNTIME_DIR": "", variable: str(_long(tmp_path))}
    with running("app:tree", variables=variables) as run:
        assert noex_mp("call", "visits", "increment", variables=variables).stdout == "11\n"
        [path] = Path(variables[variable]).glob("*/app.sock")
        run.send(TERM)
        assert run.status() == 0
        assert not path.exists()


def test_a_runtime_folder_that_is_not_there(tmp_path: Path) -> None:
    variables = {"XDG_RUNTIME_DIR": str(tmp_path / "missing"), "TMPDIR": str(tmp_path)}
    with running("app:tree", variables=variables):
        assert noex_mp("call", "visits", "increment", variables=variables).stdout == "11\n"


@pytest.mark.parametrize("home", ["/nonexistent", "/proc", ""])
def test_no_home(home: str) -> None:
    with running("app:tree", variables={"HOME": home}):
        assert noex_mp("call", "visits", "increment", variables={"HOME": home}).stdout == "11\n"


MOUNTS = ("unshare", "--mount", "sh", "-c")


def _mount_problem() -> str:
    try:
        done = subprocess.run(
            [*MOUNTS, "mount -o remount,ro,bind /"], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return "there is no unshare here"
    return done.stderr.strip()


mounts = pytest.mark.skipif(bool(_mount_problem()), reason=f"no mounts: {_mount_problem()}")

READ_ONLY_FOLDER = 'mount --bind "$XDG_RUNTIME_DIR" "$XDG_RUNTIME_DIR" && \
mount -o remount,ro,bind "$XDG_RUNTIME_DIR" && exec "$@"'

# Every mount below that can be written by itself becomes read-only as well.
READ_ONLY_SYSTEM = """
for place in /tmp /var/tmp /usr/tmp /dev/shm "$PWD"; do
    mountpoint -q "$place" && mount -o remount,ro,bind "$place"
done
mount -o remount,ro,bind / && exec "$@"
"""


@mounts
def test_a_runtime_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "xdg").mkdir(mode=0o700)
    variables = {"XDG_RUNTIME_DIR": str(tmp_path / "xdg"), "TMPDIR": str(tmp_path)}
    program = [*MOUNTS, READ_ONLY_FOLDER, "sh", *command()]
    with running("app:tree", program=program, variables=variables):
        # It is in the folder for temporary files then, and is looked for there.
        assert (tmp_path / f"noex-mp-{os.getuid()}" / "app.sock").is_socket()
        assert noex_mp("call", "visits", "increment", variables=variables).stdout == "11\n"


@mounts
def test_a_system_that_cannot_be_written_at_all(tmp_path: Path) -> None:
    # A node whose folder was made before is no better off.
    (tmp_path / "noex-mp").mkdir(mode=0o700)
    variables = {"XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)}
    program = [*MOUNTS, READ_ONLY_SYSTEM, "sh", *command()]
    with running("app:loud", program=program, variables=variables) as run:
        run.until(r"noex-mp \| no control socket, so noex-mp ps and call will not find this node")
        run.until(r"noex-mp \| Set XDG_RUNTIME_DIR to a private folder that can be written")
        first = int(run.until(r"ready in (\d+)", in_="out")[1])
        os.kill(first, KILL)
        run.until("Loud restarted")
        run.send(TERM)
        assert run.status() == 0


# --- several nodes, and one after another -------------------------------------------------------


def test_several_nodes_on_one_machine_do_not_meet() -> None:
    with running("app:tree", "--name", "one") as one, running("app:tree", "--name", "two") as two:
        assert noex_mp("call", "visits", "increment", "--node", "one").stdout == "11\n"
        assert noex_mp("call", "visits", "increment", "5", "--node", "two").stdout == "15\n"
        one.send(TERM)
        assert one.status() == 0
        assert noex_mp("call", "visits", "increment").stdout == "16\n"
        two.send(TERM)


def test_a_node_that_was_killed_can_be_started_again_at_once() -> None:
    with running("app:tree", "--name", "shop") as first:
        [zygote] = _children_of(first.process.pid)
        # What is left of the first one comes late with its tidying up.
        os.kill(zygote, STOP)
        pidfd = os.pidfd_open(zygote)
        try:
            first.process.kill()
            first.process.wait()
            with running("app:tree", "--name", "shop"):
                # The kernel may have done so: it does for a process group without a parent.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(zygote, CONT)
                assert wait_for_ends([pidfd]) == []
                # The socket that it has found there is its successor's.
                assert "node shop" in noex_mp("ps").stdout
        finally:
            os.close(pidfd)


def _children_of(os_pid: int) -> list[int]:
    text = Path(f"/proc/{os_pid}/task/{os_pid}/children").read_text()
    return [int(child) for child in text.split()]


# --- streams and signals ------------------------------------------------------------------------


def test_a_node_without_any_stream() -> None:
    program = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command()]
    with running("app:tree", "--name", "mute", program=program, until=None) as run:
        while not (runtime_folder() / "mute.sock").exists():
            assert run.process.poll() is None
        # A call waits until its server has started.
        while noex_mp("call", "visits", "say", '"hi"', "--node", "mute").returncode:
            assert run.process.poll() is None
        run.send(TERM)
        assert run.status() == 0


def test_sigpipe_ends_nothing() -> None:
    with running("app:tree") as run:
        run.send(PIPE)
        os.kill(run.os_pid_of("visits"), PIPE)
        assert noex_mp("call", "visits", "increment").stdout == "11\n"


@pytest.mark.parametrize("log", ["text", "json"])
def test_a_reader_of_the_log_that_hangs_stalls_no_supervision(log: str) -> None:
    read_end, write_end = os.pipe()
    try:
        words = ("app:life", "--log-format", log, "--name", "stuck")
        with running(*words, stdout=write_end, stderr=write_end, until=None) as run:
            while noex_mp("call", "explorer", "print_much", "10000").returncode:
                # It has not started yet.
                assert run.process.poll() is None
            # Far more than a pipe holds, and nobody has read a byte.
            for incarnation in range(2):
                [server] = re.findall(r"running +(\d+)", noex_mp("ps").stdout)
                os.kill(int(server), KILL)
                done = noex_mp("call", "explorer", "print_much", "1000")
                assert done.returncode == 0, (incarnation, done.stderr)
            run.send(TERM)
            assert run.status() == 0
    finally:
        os.close(read_end)
        os.close(write_end)


EMBEDDED = """
import asyncio, os, signal
from noex_mp import Node, spawn
from app import Explorer

async def main():
    async with Node(preload=["app"]):
        explorer = await spawn(Explorer)
        await Explorer.print_much(explorer, 10_000)
        for _ in range(3):
            os.kill(await Explorer.os_pid(explorer), signal.SIGKILL)
            await Explorer.print_much(explorer.within(None), 1000)
        with open(os.environ["NEWS"], "w") as news:
            news.write("went on")

asyncio.run(main())
os._exit(0)  # it would wait for its output
"""


def test_an_embedded_node_whose_output_nobody_reads_goes_on(tmp_path: Path) -> None:
    news = tmp_path / "news"
    os.mkfifo(news)
    read_end, write_end = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", EMBEDDED],
        cwd=HERE,
        env={**os.environ, "PYTHONPATH": f"{HERE.parents[1]}:{HERE}", "NEWS": str(news)},
        stdout=write_end,
        stderr=write_end,
    )
    try:
        # Blocks until the program has come so far; the test's time limit stands behind it.
        assert news.read_text() == "went on"
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
        os.close(read_end)
        os.close(write_end)


# --- the first moments --------------------------------------------------------------------------

# Says what it imports, so that a test can interrupt it there.
IMPORTING = (sys.executable, "-X", "importtime", "-m", "noex_mp")


@pytest.mark.parametrize("number", [TERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_stops_a_command_that_still_imports_itself(number: signal.Signals) -> None:
    with running("app:tree", program=IMPORTING, until=r"\| +signal$") as run:
        run.until("asyncio.constants")
        run.send(number)
        assert run.status() == 0
    assert not [line for line in run.err if "Traceback" in line]


@pytest.mark.parametrize("words", [("ps",), ("call", "visits", "increment")])
def test_ctrl_c_while_another_command_imports_itself_shows_no_traceback(
    words: tuple[str, ...],
) -> None:
    process = subprocess.Popen(
        [*IMPORTING, *words], cwd=HERE, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    assert process.stderr is not None
    with process.stderr as err:
        seen = next(line for line in err if "asyncio.constants" in line)
        process.send_signal(signal.SIGINT)
        seen += err.read()
    assert process.wait(PATIENCE) in (-signal.SIGINT, 130, 1)
    assert "Traceback" not in seen
