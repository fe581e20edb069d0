"""The leak plugin, on small test files that leave something behind."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import psutil
import pytest

from noex_mp.testing.plugin import Kind, leftovers, take_snapshot

pytest_plugins = ["pytester"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at Linux's own words")

PREAMBLE = """
import os, signal, socket, subprocess, sys, time
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
import pytest

kept = []

def until_it_runs(*command):
    # Of which nobody tells us.
    wanted = "\\0".join([*command, ""]).encode()
    while not any(command_of(entry) == wanted for entry in Path("/proc").glob("[0-9]*")):
        time.sleep(0.01)

def command_of(entry):
    try:
        return (entry / "cmdline").read_bytes()
    except OSError:
        return b""
"""

# Two runs of these tests may go on at once: each has names of its own for what it leaves.
RUN = os.getpid()
SHARED = f"noex-mp-test-left-{RUN}"

# What a test does, and the words that must say so.
LEAKS = {
    "a running process": (
        f"kept.append(subprocess.Popen(['sleep', '61.{RUN}']))",
        f"*process *: sleep 61.{RUN}",
    ),
    "a zombie": (
        "kept.append(subprocess.Popen(['true']))",
        "*zombie * (true), nobody has waited for it",
    ),
    "an orphan in a session of its own": (
        (
            f"subprocess.run(['sh', '-c', 'setsid sleep 62.{RUN} >/dev/null 2>&1 &'])\n"
            f"    until_it_runs('sleep', '62.{RUN}')"
        ),
        f"*process *, child of *: sleep 62.{RUN}",
    ),
    # With an environment of its own, so that it is found by its parents alone.
    "a grandchild": (
        (
            f"kept.append(subprocess.Popen(['env', '-i', 'sh', '-c', 'sleep 63.{RUN}; true']))\n"
            f"    until_it_runs('sleep', '63.{RUN}')"
        ),
        f"*process *, child of *: sleep 63.{RUN}",
    ),
    "a file": ("kept.append(os.open('/dev/null', os.O_RDONLY))", "*fd * -> /dev/null"),
    "a socket": (
        "kept.extend(socket.socketpair())",
        "*fd * -> socket:[[]*[]] (AF_UNIX SOCK_STREAM)",
    ),
    "a pipe": ("kept.append(os.pipe())", "*fd * -> pipe:[[]*[]]"),
    "a memfd": ("kept.append(os.memfd_create('cells'))", "*fd * -> /memfd:cells (deleted)"),
    "a mapping": (
        (
            "import mmap\n    fd = os.memfd_create('mapped')\n    os.truncate(fd, 4096)\n"
            "    kept.append(mmap.mmap(fd, 4096))\n    os.close(fd)"
        ),
        "*mapping of /memfd:mapped (deleted) (inode *)",
    ),
    "an entry in /dev/shm": (
        (
            f"block = SharedMemory(name={SHARED!r}, create=True, size=4096)\n"
            "    resource_tracker.unregister(block._name, 'shared_memory')\n"
            "    block.close()"
        ),
        f"*/dev/shm/{SHARED} (4096 bytes)",
    ),
    "a socket file": (
        (
            "folder = Path(os.environ['XDG_RUNTIME_DIR'], 'noex-mp', 'n')\n"
            "    os.umask(0o077)\n    folder.mkdir(parents=True)\n"
            "    s = socket.socket(socket.AF_UNIX)\n"
            "    s.bind(str(folder / 'control'))\n    s.close()"
        ),
        "*/noex-mp/n/control",
    ),
}

CLEAN = {
    "nothing": "pass",
    "a process that was waited for": "subprocess.run(['true'])",
    "a process that ends by itself a little later": (
        "subprocess.run(['sh', '-c', 'setsid sleep 0.2 >/dev/null 2>&1 &'])"
    ),
    "garbage in a cycle": (
        "import mmap\n    class Node: pass\n    node = Node()\n    node.me = node\n"
        "    fd = os.memfd_create('cycle')\n    os.truncate(fd, 4096)\n"
        "    node.block = mmap.mmap(fd, 4096)\n    os.close(fd)"
    ),
    "multiprocessing's resource tracker": "resource_tracker.ensure_running()",
}


@pytest.fixture
def inner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Let an inner pytest find our code, and end what its tests leave on purpose."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    yield
    for process in psutil.process_iter(["cmdline"]):
        command: list[str] = process.info["cmdline"] or []
        if command[:1] == ["sleep"] and command[-1].endswith(f".{RUN}"):
            process.kill()
    Path("/dev/shm", SHARED).unlink(missing_ok=True)


def run(pytester: pytest.Pytester, source: str, *, leaks: bool = True) -> pytest.RunResult:
    pytester.makeini(
        f"[pytest]\nnoex_mp_leaks = {str(leaks).lower()}\naddopts = -p no:cacheprovider"
    )
    pytester.path.joinpath("test_inner.py").write_text(PREAMBLE + source)
    return pytester.runpytest_subprocess("-p", "noex_mp.testing.plugin", "-p", "no:asyncio")


def as_tests(bodies: list[str]) -> str:
    return "\n".join(f"def test_{i}():\n    {body}\n" for i, body in enumerate(bodies))


@pytest.mark.slow
@pytest.mark.usefixtures("inner")
def test_each_kind_of_leftover_is_caught_and_named(pytester: pytest.Pytester) -> None:
    # One at a time costs a grace of 2 s each, so the inner file shortens it.
    shorten = "import noex_mp.testing.plugin as p\np.leftovers.__kwdefaults__['grace'] = 0.3\n"
    result = run(pytester, shorten + as_tests([body for body, _ in LEAKS.values()]))
    result.assert_outcomes(passed=len(LEAKS), errors=len(LEAKS))
    for i, (_, words) in enumerate(LEAKS.values()):
        result.stdout.fnmatch_lines([f"*ERROR at teardown of test_{i} *", words])


@pytest.mark.slow
@pytest.mark.usefixtures("inner")
def test_a_clean_test_passes(pytester: pytest.Pytester) -> None:
    run(pytester, as_tests(list(CLEAN.values()))).assert_outcomes(passed=len(CLEAN))


@pytest.mark.slow
@pytest.mark.usefixtures("inner")
def test_only_what_the_test_itself_left_counts(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
@pytest.fixture(scope="module", autouse=True)
def shared():
    process = subprocess.Popen(["sleep", "60"])
    ends = os.pipe()
    yield
    process.kill()
    process.wait()
    for end in ends:
        os.close(end)

@pytest.fixture
def own():
    ends = os.pipe()
    yield
    for end in ends:
        os.close(end)

def test_fixtures_of_wider_scopes_and_its_own_do_not_count(own):
    pass

@pytest.mark.may_leave("fds")
def test_what_it_may_leave_does_not_count():
    kept.append(os.pipe())

@pytest.mark.may_leave("socket fles")
def test_a_slip_in_the_marker_is_an_error():
    pass

def test_a_failed_test_is_not_blamed_for_what_its_traceback_holds():
    ends = socket.socketpair()
    assert False
""",
    )
    result.assert_outcomes(passed=2, failed=1, errors=1)
    result.stdout.fnmatch_lines(["*may_leave expects some of *'socket fles'*"])


@pytest.mark.slow
@pytest.mark.usefixtures("inner")
def test_nothing_is_looked_at_unless_asked_for(pytester: pytest.Pytester) -> None:
    run(pytester, as_tests(["kept.append(os.pipe())"]), leaks=False).assert_outcomes(passed=1)


def test_a_snapshot_tells_what_came_after_it() -> None:
    before = take_snapshot()
    assert leftovers(before) == {}
    read, write = os.pipe()
    memfd = os.memfd_create("cells")
    try:
        left = leftovers(before, grace=0.0)
        assert leftovers(before, ignoring=("fds", "shared memory"), grace=0.0) == {}
    finally:
        for fd in (read, write, memfd):
            os.close(fd)
    assert [words.split()[1] for words in left["fds"]] == [str(read), str(write)]
    assert left["shared memory"] == [f"fd {memfd} -> /memfd:cells (deleted)"]
    assert leftovers(before) == {}


def test_a_number_that_was_used_again_is_something_new() -> None:
    first, other = os.pipe()
    before = take_snapshot()
    os.close(first)
    os.close(other)
    again, other = os.pipe()
    try:
        assert again == first
        assert len(leftovers(before, grace=0.0)["fds"]) == 2
    finally:
        os.close(again)
        os.close(other)


def test_shared_memory_is_seen_by_its_entry_and_by_its_mapping() -> None:
    before = take_snapshot()
    block = SharedMemory(create=True, size=4096)
    kinds: set[Kind] = set(leftovers(before, grace=0.0))
    words = " ".join(leftovers(before, grace=0.0)["shared memory"])
    block.close()
    block.unlink()
    assert kinds == {"shared memory"}
    assert f"/dev/shm/{block.name} (4096 bytes)" in words
    assert f"mapping of /dev/shm/{block.name}" in words


def test_a_process_is_left_until_somebody_has_waited_for_it() -> None:
    before = take_snapshot()
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    assert process.stdin is not None
    running = leftovers(before, ignoring=["fds"], grace=0.0)
    process.stdin.close()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    ended = leftovers(before, ignoring=["fds"], grace=0.0)
    process.wait()
    assert running == {"processes": [f"process {process.pid}: cat"]}
    assert ended == {"processes": [f"zombie {process.pid} (cat), nobody has waited for it"]}
    assert leftovers(before) == {}


def test_a_socket_at_which_somebody_else_listens_is_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    folder = tmp_path / "noex-mp"
    folder.mkdir(mode=0o700)
    path = str(folder / "other.sock")
    before = take_snapshot()
    program = (
        "import os, socket, sys, time\n"
        "listener = socket.socket(socket.AF_UNIX)\n"
        "listener.bind(sys.argv[1])\n"
        "listener.listen()\n"
        "print(os.getpid(), flush=True)\n"
        "time.sleep(60)"
    )
    # Nobody's child, and without our mark.
    command = ["sh", "-c", '"$0" -c "$1" "$2" &', sys.executable, program, path]
    with subprocess.Popen(command, env={}, stdout=subprocess.PIPE, text=True) as shell:
        assert shell.stdout is not None
        stranger = os.pidfd_open(int(shell.stdout.readline()))
    try:
        assert leftovers(before, ignoring={"fds"}, grace=0) == {}
    finally:
        signal.pidfd_send_signal(stranger, signal.SIGKILL)
        select.select([stranger], [], [])
        os.close(stranger)
    # Now it is nobody's.
    assert leftovers(before, grace=0) == {"socket files": [path]}
    os.unlink(path)
