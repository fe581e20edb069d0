"""The zygote over real processes: preload, audit, fork, exit reports, its end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest
import uvloop

from noex_mp.errors import PreloadError
from noex_mp.transport import fds, lifeline
from noex_mp.transport.platform import DUMP_SIGNAL, FALLBACKS
from tests.processes.harness import SLEEP, Root, running_root, wait_for_ends

WriteModule = Callable[..., str]

NO_SUBREAPER = "what has left a dead worker's group is nobody's child any more"
threads_have_names = pytest.mark.linux_only("native threads show no names elsewhere")

# libuv keeps one pipe per process from its first loop on; that is no test's leak.
uvloop.new_event_loop().close()

pytestmark = [pytest.mark.timeout(20)]


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteModule:
    """Return a function that writes a module and returns its name."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    def write(code: str, name: str = "preloaded_app") -> str:
        (tmp_path / f"{name}.py").write_text(code)
        return name

    return write


# --- fork and exit ---


async def test_a_worker_speaks_on_its_control_socket() -> None:
    async with running_root() as root:
        worker = await root.fork("import os; say([os.getpid(), os.getpgrp()])")
        assert await worker.hear() == [worker.os_pid, worker.os_pid]
        assert await root.exit_of(worker) == 0


async def test_a_fork_may_be_asked_for_before_the_preload_is_done(app: WriteModule) -> None:
    async with running_root([app("import json")]) as root:
        workers = await asyncio.gather(*(root.fork("say(1)") for _ in range(3)))
        assert [await worker.hear() for worker in workers] == [1, 1, 1]


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("raise SystemExit(3)", 3 << 8),
        ("import os; os._exit(4)", 4 << 8),
        ("1 / 0", 70 << 8),
        ("import os; os.kill(os.getpid(), 9)", 9),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", signal.SIGTERM),
        ("import ctypes; ctypes.string_at(0)", signal.SIGSEGV),
    ],
)
async def test_each_exit_is_reported_with_its_wait_status(code: str, status: int) -> None:
    async with running_root() as root:
        worker = await root.fork(code)
        assert await root.exit_of(worker) == status
        assert wait_for_ends([worker.pidfd]) == []


async def test_an_error_that_escapes_is_on_the_workers_own_stderr() -> None:
    async with running_root() as root:
        worker = await root.fork("print('seen'); 1 / 0")
        await root.exit_of(worker)
        assert b"ZeroDivisionError" in os.read(worker.stderr, 65536)
        assert os.read(worker.stdout, 65536) == b"seen\n"


async def test_a_crash_in_c_leaves_its_last_words_at_the_offset_in_the_black_box() -> None:
    async with running_root() as root:
        worker = await root.fork("import ctypes; ctypes.string_at(0)", black_box_offset=4096)
        await root.exit_of(worker)
        assert os.pread(worker.black_box, 4, 0) in (b"", bytes(4))
        assert os.pread(worker.black_box, 40, 4096).startswith(b"Fatal Python error: Segment")


@pytest.mark.skipif(DUMP_SIGNAL is None, reason="there are no such signals elsewhere")
async def test_a_worker_that_is_asked_where_it_is_before_it_listens_answers_then(
    app: WriteModule,
) -> None:
    code = """
        import os
        from noex_mp.transport.platform import DUMP_SIGNAL

        os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), DUMP_SIGNAL))
    """
    async with running_root([app(dedent(code))]) as root:
        worker = await root.fork("say(1)", black_box_offset=4096)
        assert await worker.hear() == 1
        assert os.pread(worker.black_box, 100, 4096).startswith(b"Current thread")
        assert await root.exit_of(worker) == 0


async def test_the_status_can_be_read_from_the_pidfd_after_the_reaping() -> None:
    async with running_root() as root:
        worker = await root.fork("raise SystemExit(3)")
        await root.exit_of(worker)
        status = fds.exit_status_of(worker.pidfd)
        release = tuple(int(part) for part in os.uname().release.split(".")[:2])
        assert status == (3 << 8 if release >= (6, 15) else None)


async def test_the_status_of_a_running_process_is_unknown() -> None:
    async with running_root() as root:
        assert fds.exit_status_of((await root.fork()).pidfd) is None


async def test_many_workers_come_and_go_and_each_is_reported() -> None:
    async with running_root() as root:
        await root.zygote.ready()
        workers = await asyncio.gather(
            *(root.fork(f"raise SystemExit({n % 50})") for n in range(200))
        )
        got = [await root.exit_of(worker) for worker in workers]
        assert got == [(n % 50) << 8 for n in range(200)]
        assert fds.exit_status_of(workers[0].pidfd) in (0, None)


async def test_a_cancelled_fork_leaves_no_worker() -> None:
    async with running_root() as root:
        task = asyncio.create_task(root.fork())
        # The request waits while the zygote still imports.
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        other = await root.fork("say(1)")
        await root.exit_of(other)
        # The first one, killed, is reported too, and nobody else.
        reports = dict([await root.reports.get(), await root.reports.get()])
        assert reports.pop(other.os_pid) == 0
        assert list(reports.values()) == [signal.SIGKILL]


# --- what a worker is ---


DESCRIPTORS = """
import fcntl, os
links = {int(n): f'/proc/self/fd/{n}' for n in os.listdir('/proc/self/fd')}
# The listing's own descriptor is gone by now.
links = {n: os.readlink(link) for n, link in links.items() if os.path.lexists(link)}
"""


async def test_a_worker_holds_no_descriptor_but_its_own() -> None:
    async with running_root() as root:
        links = await (await root.fork(DESCRIPTORS + "say(sorted(links.values()))")).hear()
    kinds = sorted(link.split(":")[0] for link in links)
    # Twice the black box: faulthandler writes through a description of its own; and the log of
    # names. The third pipe is the lifeline; the fourth is standard error, for the runtime's own
    # words.
    black_box = kinds[1]
    pipes = ["pipe"] * 4
    assert kinds == ["/dev/null", *[black_box] * 3, *pipes, "socket"]
    assert black_box == "/memfd" or FALLBACKS


async def test_a_workers_descriptors_are_high_and_close_on_exec() -> None:
    code = (
        DESCRIPTORS
        + """
say([n for n in links if n > 2 and (n < 256 or not fcntl.fcntl(n, fcntl.F_GETFD))])
"""
    )
    async with running_root() as root:
        assert await (await root.fork(code)).hear() == []


async def test_workers_do_not_share_random_numbers(app: WriteModule) -> None:
    name = app("import random, numpy.random\nrandom.seed(1); numpy.random.seed(1)")
    code = "import random, numpy.random; say([random.random(), numpy.random.random()])"
    async with running_root([name]) as root:
        first, second = [await (await root.fork(code)).hear() for _ in range(2)]
    assert first[0] != second[0]
    assert first[1] != second[1]


async def test_a_worker_has_the_roots_environment_folder_path_and_arguments(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    monkeypatch.setenv("ODD", os.fsdecode(b"\xff"))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["prog", "x"])
    code = "import os, sys; say([dict(os.environ), os.getcwd(), sys.path, sys.argv])"
    async with running_root() as root:
        got = await (await root.fork(code)).hear()
    assert got == [dict(os.environ), str(tmp_path), sys.path, ["prog", "x"]]


async def test_signals_are_as_the_root_had_them_whatever_the_preload_did(app: WriteModule) -> None:
    name = app(
        "import ctypes, signal\n"
        "signal.signal(signal.SIGUSR1, lambda *_: None)\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.signal(signal.SIGUSR2, ctypes.cast(libc.abs, ctypes.c_void_p))"
    )
    code = """
import signal
names = ['SIGINT', 'SIGTERM', 'SIGUSR1', 'SIGCHLD', 'SIGHUP', 'SIGPIPE']
handlers = [signal.getsignal(getattr(signal, name)) for name in names]
handlers = [h.__name__ if callable(h) else int(h) for h in handlers]
caught = int(open('/proc/self/status').read().split('SigCgt:')[1].split()[0], 16)
say([handlers, len(signal.pthread_sigmask(0, ())), caught >> signal.SIGUSR2 - 1 & 1])
"""
    async with running_root([name]) as root:
        handlers, blocked, caught_in_c = await (await root.fork(code)).hear()
    # What has no default action that ends it: it is to outlive its zygote.
    assert (handlers, blocked) == ([1, 0, 0, 0, "_go_on", 1], 0)
    # Elsewhere nobody tells what C code has set.
    assert not caught_in_c or FALLBACKS


async def test_a_file_that_the_preload_left_open_stays_open(
    app: WriteModule, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    name = app(f"log = open({str(log)!r}, 'a')")
    async with running_root([name]) as root:
        worker = await root.fork(f"import {name}; {name}.log.write('x'); {name}.log.close()")
        assert await root.exit_of(worker) == 0
    assert log.read_text() == "x"


async def test_no_core_is_written_unless_asked_for() -> None:
    code = "import resource; say(resource.getrlimit(resource.RLIMIT_CORE)[0])"
    async with running_root() as root:
        assert await (await root.fork(code)).hear() == 0


async def test_the_garbage_collector_is_on_and_the_preloaded_heap_is_frozen() -> None:
    code = "import gc; say([gc.isenabled(), gc.get_freeze_count() > 1000])"
    async with running_root() as root:
        assert await (await root.fork(code)).hear() == [True, True]


# --- the preload ---


async def test_a_preloaded_module_is_there_in_the_worker(app: WriteModule) -> None:
    name = app("import os; PID = os.getpid()")
    async with running_root([name]) as root:
        await root.zygote.ready()
        worker = await root.fork(f"import sys; say(sys.modules[{name!r}].PID)")
        assert await worker.hear() == root.zygote.os_pid


async def test_numpy_can_be_preloaded() -> None:
    async with running_root(["numpy"]) as root:
        assert await (await root.fork("import numpy; say(int(numpy.arange(4).sum()))")).hear() == 6


LOOP = "import asyncio\nloop = asyncio.new_event_loop()"
UVLOOP = "import uvloop\nloop = uvloop.new_event_loop()"
SOCKET = "import socket\npair = socket.socketpair()"
THREAD = """
import threading
def wait(): threading.Event().wait()
threading.Thread(target=wait, name='flusher', daemon=True).start()
"""
RAW_THREAD = """
import _thread, threading
def wait(): threading.Event().wait()
_thread.start_new_thread(wait, ())
"""
NATIVE_THREAD = """
import ctypes
libc = ctypes.CDLL(None)
handle = ctypes.c_ulong()
libc.pthread_create(ctypes.byref(handle), None, ctypes.cast(libc.pause, ctypes.c_void_p), None)
libc.pthread_setname_np(handle, b'engine')
"""


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("1 / 0", ["ZeroDivisionError", "preloaded_app.py"]),
        ("import no_such_module", ["No module named 'no_such_module'"]),
        ("raise SystemExit(0)", ["SystemExit"]),
        ("import os; os._exit(5)", ["exited with status 5", "imported preloaded_app"]),
        ("import os; os.kill(os.getpid(), 9)", ["killed by signal 9", "imported preloaded_app"]),
        (THREAD, ["preloaded_app left a thread running: 'flusher'", "preloaded_app:wait"]),
        (RAW_THREAD, ["preloaded_app left a thread running"]),
        (NATIVE_THREAD, ["preloaded_app left native threads running: "]),
        pytest.param(NATIVE_THREAD, ["running: engine"], marks=threads_have_names),
        (SOCKET, ["preloaded_app left 2 open sockets"]),
        (LOOP, ["preloaded_app left an event loop open"]),
        (UVLOOP, ["preloaded_app left an event loop open"]),
        ("input()", ["EOFError"]),
    ],
)
async def test_a_preload_that_cannot_be_forked_is_refused_by_name(
    app: WriteModule, code: str, words: list[str]
) -> None:
    async with running_root([app("import json", "innocent"), app(code)]) as root:
        with pytest.raises(PreloadError) as refusal:
            await root.zygote.ready()
        for word in words:
            assert word in str(refusal.value)
        with pytest.raises(PreloadError):
            await root.fork()


@pytest.mark.parametrize(
    "allowed", [pytest.param("engine", marks=threads_have_names), "preloaded_app"]
)
async def test_a_native_thread_may_be_allowed_by_its_name_or_module(
    app: WriteModule, allowed: str
) -> None:
    async with running_root([app(NATIVE_THREAD)], allow_native_threads=[allowed]) as root:
        await root.zygote.ready()


@threads_have_names
async def test_a_native_thread_that_sees_to_forks_itself_is_no_reason_to_refuse(
    app: WriteModule,
) -> None:
    # That of jemalloc, which pyarrow has.
    async with running_root([app(NATIVE_THREAD.replace("engine", "jemalloc_bg_thd"))]) as root:
        await root.zygote.ready()


async def test_a_thread_that_was_joined_is_no_reason_to_refuse(app: WriteModule) -> None:
    code = """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(4) as pool:
    list(pool.map(str, range(100)))
import asyncio
asyncio.run(asyncio.sleep(0))
"""
    async with running_root([app(code)]) as root:
        await root.zygote.ready()


SCRIPT = """
import dataclasses
from noex_mp.transport import fds
count = 0
preloading = fds.preloading()
@dataclasses.dataclass
class Thing:
    x: int
def bump():
    global count
    count += 1
if __name__ == '__main__':
    1 / 0
"""


async def test_the_users_script_is_a_module_of_another_name(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    code = """
import sys
main = sys.modules['__main__']
main.bump()
say([main is sys.modules['__noex_main__'], main.Thing.__module__, main.count, main.preloading])
"""
    async with running_root(main_path=str(script)) as root:
        worker = await root.fork(code)
        assert await worker.hear() == [True, "__noex_main__", 1, True]


async def test_a_script_started_by_its_module_name_keeps_its_package(
    app: WriteModule, tmp_path: Path
) -> None:
    package = tmp_path / "some_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "other.py").write_text("X = 7")
    (package / "tool.py").write_text("from .other import X")
    async with running_root(main_name="some_package.tool") as root:
        worker = await root.fork("import sys; m = sys.modules['__main__']; say([m.X, m.__name__])")
        assert await worker.hear() == [7, "__noex_main__"]


# --- what is left behind ---

# A daemon as in the textbook: forked twice, in a session of its own.
ESCAPE = """
import os, signal, subprocess, sys
code = '''
import os, signal
if os.fork():
    os._exit(0)
print(os.getpid(), flush=True)
signal.pause()
'''
shell = subprocess.Popen(
    [sys.executable, '-c', code], start_new_session=True, stdout=subprocess.PIPE
)
say(int(shell.stdout.readline()))
signal.pause()
"""


async def escapee_of_a_killed_worker(root: Root) -> int:
    """Return the pidfd of a grandchild that left its group, by now in the zygote's care."""
    worker = await root.fork(ESCAPE)
    escaped = os.pidfd_open(await worker.hear())
    os.kill(worker.os_pid, signal.SIGKILL)
    assert await root.exit_of(worker) == signal.SIGKILL
    return escaped


@pytest.mark.linux_only(NO_SUBREAPER)
async def test_what_left_the_group_of_a_dead_worker_is_ended_too() -> None:
    async with running_root() as root:
        escaped = await escapee_of_a_killed_worker(root)
        assert wait_for_ends([escaped]) == []
        os.close(escaped)


@pytest.mark.linux_only(NO_SUBREAPER)
async def test_orphans_of_a_living_worker_are_its_own() -> None:
    async with running_root() as root:
        parent = await root.fork(ESCAPE)
        spared = os.pidfd_open(await parent.hear())
        # This one's orphan is found and ended, so the zygote has looked.
        other = await escapee_of_a_killed_worker(root)
        assert wait_for_ends([other]) == []
        assert wait_for_ends([spared], timeout=0) == [spared]
    assert wait_for_ends([spared]) == []
    os.close(other)
    os.close(spared)


async def test_the_group_of_a_dead_worker_is_ended_too() -> None:
    code = "import subprocess; say(subprocess.Popen(['sleep', '60']).pid)"
    async with running_root() as root:
        worker = await root.fork(code + "; control.recv(1)")
        grandchild = os.pidfd_open(await worker.hear())
        worker.control.send(b"x")
        assert await root.exit_of(worker) == 0
        assert wait_for_ends([grandchild]) == []
        os.close(grandchild)


async def test_what_the_preload_started_is_spared_while_the_node_runs(app: WriteModule) -> None:
    name = app("import subprocess\nhelper = subprocess.Popen(['sleep', '60'])")
    async with running_root([name]) as root:
        worker = await root.fork(f"import sys; say(sys.modules[{name!r}].helper.pid)")
        helper = os.pidfd_open(await worker.hear())
        # This one's orphan is found and ended, so the zygote has looked.
        if not FALLBACKS:
            escaped = await escapee_of_a_killed_worker(root)
            assert wait_for_ends([escaped]) == []
            os.close(escaped)
        assert wait_for_ends([helper], timeout=0) == [helper]
    assert wait_for_ends([helper]) == []
    os.close(helper)


async def test_close_ends_every_worker_and_removes_the_named_files(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.touch()
    second.touch()
    async with running_root(unlink=[str(first)]) as root:
        root.zygote.unlink_at_end(str(second))
        worker = await root.fork()
        stubborn = await root.fork(f"import signal; signal.signal(15, signal.SIG_IGN); {SLEEP}")
        await root.zygote.close()
        assert wait_for_ends([worker.pidfd, stubborn.pidfd], timeout=0) == []
        assert root.statuses == {worker.os_pid: signal.SIGKILL, stubborn.os_pid: signal.SIGKILL}
        with pytest.raises(ConnectionResetError):
            await root.fork()
    assert not first.exists()
    assert not second.exists()
    assert not root.died.is_set()


async def test_close_does_not_wait_for_a_preload_that_hangs(app: WriteModule) -> None:
    async with running_root([app("import signal; signal.pause()")]) as root:
        begin = time.monotonic()
        await root.zygote.close()
        assert time.monotonic() - begin < 1
        with pytest.raises(ConnectionResetError):
            await root.zygote.ready()


# --- limits ---


async def test_a_fork_that_the_system_refuses_is_an_error_and_life_goes_on(
    app: WriteModule,
) -> None:
    code = """
import errno, os
fork = os.fork
def fail():
    os.fork = fork
    raise OSError(errno.EAGAIN, 'no')
os.fork = fail
"""
    async with running_root([app(code)]) as root:
        with pytest.raises(BlockingIOError) as refusal:
            await root.fork()
        assert refusal.value.errno == errno.EAGAIN
        assert await (await root.fork("say(1)")).hear() == 1


async def test_a_zygote_without_free_descriptors_refuses_and_lives_on(app: WriteModule) -> None:
    code = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (5, 5))
"""
    async with running_root([app(code)]) as root:
        for _ in range(2):
            with pytest.raises(OSError) as refusal:
                await root.fork()
            assert refusal.value.errno == errno.EMFILE


async def test_a_request_that_is_too_large_is_refused_here() -> None:
    async with running_root() as root:
        with pytest.raises(ValueError, match="control socket"):
            await root.fork("", big=bytes(200_000))


async def test_a_large_configuration_arrives() -> None:
    async with running_root(allow_native_threads=["x" * 500_000]) as root:
        await root.zygote.ready()


def test_the_zygote_is_driven_by_uvloop_too() -> None:
    async def scenario() -> None:
        async with running_root() as root:
            worker = await root.fork("say(1); raise SystemExit(3)")
            assert await worker.hear() == 1
            assert await root.exit_of(worker) == 3 << 8

    uvloop.run(scenario())


# --- descriptors ---


def test_high_moves_a_descriptor_near_the_limit_and_closes_the_old_one() -> None:
    old = os.open(os.devnull, os.O_RDONLY)
    moved = fds.high(old)
    assert moved >= 256
    assert not os.get_inheritable(moved)
    with pytest.raises(OSError):
        os.fstat(old)
    os.close(moved)


def test_descriptors_travel_with_a_packet() -> None:
    left, right = fds.socketpair(socket.SOCK_SEQPACKET)
    with left, right:
        with pytest.raises(BlockingIOError):
            fds.recv_fds(right, 100)
        fds.send_fds(left, b"hello", [0, left.fileno()])
        data, passed = fds.recv_fds(right, 100)
        assert data == b"hello"
        assert [os.get_inheritable(fd) for fd in passed] == [False, False]
        fds.close_all(passed)


def test_lost_descriptors_are_noticed() -> None:
    left, right = fds.socketpair(socket.SOCK_SEQPACKET)
    with left, right:
        fds.send_fds(left, b"hello", [0, 1, 2])
        with pytest.raises(fds.DescriptorsLostError) as lost:
            fds.recv_fds(right, 100, max_fds=1)
        assert lost.value.data == b"hello"


def test_a_users_fork_gives_up_the_runtimes_descriptors_and_only_those() -> None:
    reading, writing = os.pipe()
    mine, reused = os.open(os.devnull, os.O_RDONLY), fds.own(os.dup(0))
    fds.own(writing)
    # Closed behind the register's back, and the number is the user's now.
    os.close(reused)
    assert os.dup(reading) == reused
    os_pid = os.fork()
    if os_pid == 0:
        ok = fds.forked() and os.path.samestat(os.fstat(writing), os.stat(os.devnull))
        ok = ok and os.path.samestat(os.fstat(reused), os.fstat(reading))
        os._exit(0 if ok else 1)
    assert os.waitpid(os_pid, 0)[1] == 0
    assert not fds.forked()
    for fd in (reading, mine, reused, fds.disown(writing)):
        os.close(fd)


def test_children_are_found_without_help_of_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    os_pid = os.fork()
    if os_pid == 0:
        with contextlib.suppress(BaseException):
            signal.pause()
        os._exit(0)
    assert os_pid in lifeline.children()

    def absent(path: Path) -> str:
        if path.name == "children":
            raise FileNotFoundError(path)
        return path.read_bytes().decode()

    monkeypatch.setattr(Path, "read_text", absent)
    assert os_pid in lifeline.children()
    os.kill(os_pid, signal.SIGKILL)
    os.waitpid(os_pid, 0)
