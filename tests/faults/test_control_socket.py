"""What strangers, floods and half-open connections do to a node's control socket: nothing."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgpack
import pytest

from noex_mp.node.answers import MAX_REQUESTS
from noex_mp.node.control_socket import MAX_PROGRAMS
from noex_mp.transport.paths import connect_unix, runtime_folder
from noex_mp.wire.envelopes import (
    BUFFERS,
    EXITED,
    MONITOR,
    READY,
    REQUEST,
    REQUESTS,
    RESPONSE,
    TIE,
    TRAP,
    UNLINKED,
    UNTIE,
)
from tests.cli.harness import PATIENCE, Running, noex_mp, running

pytestmark = pytest.mark.slow

HERE = Path(__file__).parents[1] / "cli"


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def node(request: pytest.FixtureRequest) -> Iterator[Running]:
    with running("app:tree", folder=HERE, variables={"NOEX_MP_LOOP": request.param}) as run:
        yield run


@pytest.fixture(autouse=True)
def unharmed(node: Running) -> Iterator[None]:
    """Look, after each attack, whether the node is as it was before."""
    before = _fds_of(node)
    yield
    _assert_that_it_answers()
    assert node.process.poll() is None
    deadline = time.monotonic() + PATIENCE
    while _fds_of(node) > before:
        assert time.monotonic() < deadline, "connections were left over"
        time.sleep(0.01)
    assert not [line for line in node.err if "Traceback" in line or "report it" in line]


def _fds_of(node: Running) -> int:
    return len(os.listdir(f"/proc/{node.process.pid}/fd"))


def _memory_of(node: Running) -> int:
    status = Path(f"/proc/{node.process.pid}/status").read_text()
    return 1024 * int(status.partition("VmRSS:")[2].split()[0])


def _assert_that_it_answers() -> None:
    assert noex_mp("call", "second", "increment", "0", folder=HERE).stdout == "0\n"
    assert "visits" in noex_mp("ps", folder=HERE).stdout


def connect() -> socket.socket:
    sock = connect_unix(runtime_folder(), "app.sock")
    sock.settimeout(PATIENCE)
    return sock


def is_hung_up(sock: socket.socket) -> bool:
    try:
        while sock.recv(65536):
            pass
    except ConnectionError:
        return True
    return True


# --- floods -------------------------------------------------------------------------------------


def test_ten_thousand_connections_in_a_row() -> None:
    for number in range(10_000):
        connect().close()
        if number == 5000:
            _assert_that_it_answers()


def test_a_thousand_idle_connections_make_way_for_the_command_line(node: Running) -> None:
    before = _fds_of(node)
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(connect()) for _ in range(1000)]
        _assert_that_it_answers()
        assert _fds_of(node) <= before + MAX_PROGRAMS
        # Who was silent longest has to go.
        assert is_hung_up(idle[0])
        idle[-1].sendall(msgpack.packb([REQUEST, 1, "names"]))
        assert b"visits" in idle[-1].recv(4096)
    node.until(
        rf"noex-mp \| more than {MAX_PROGRAMS} local programs are connected; a local program "
        rf"\(os pid {os.getpid()}\) was silent longest and is disconnected"
    )
    # A few lines, and one for all the others of a second.
    node.until(r"noex-mp \| and \d+ more like this")


def test_who_is_heard_of_stays() -> None:
    with contextlib.ExitStack() as stack:
        busy = stack.enter_context(connect())
        for number in range(3 * MAX_PROGRAMS):
            stack.enter_context(connect())
            busy.sendall(msgpack.packb([REQUEST, number, "names"]))
            assert b"visits" in busy.recv(4096)


def test_half_open_connections() -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(2 * MAX_PROGRAMS):
            # The beginning of a request, and no more.
            stack.enter_context(connect()).send(msgpack.packb([REQUEST, 1, "names"])[:-2])
        _assert_that_it_answers()


# --- nonsense -----------------------------------------------------------------------------------

HUGE = msgpack.packb([BUFFERS, [[False, 2**33]]])

NONSENSE = {
    "garbage": (b"\xc1\xc1\xc1", "is not valid msgpack"),
    "a text": (b"GET / HTTP/1.1\r\n\r\n", "a frame that is no list with a kind in front"),
    "an unknown kind": (msgpack.packb([99]), "a control frame that makes no sense"),
    "an unknown method": (msgpack.packb([REQUEST]), "a control frame that makes no sense"),
    "a monitor": (msgpack.packb([MONITOR, 1, 1, True]), "a monitor, which is for the node's own"),
    "a claim": (
        msgpack.packb([REQUESTS, [[1, "register", "", True, "me", 1, None, b""]]]),
        "requests for the node's own",
    ),
    "a huge list": (b"\xdd\xff\xff\xff\xff", "above the limit"),
    "a huge text": (b"\x92\x01\xc6\xff\xff\xff\xff", "above the limit"),
    "a huge buffer": (HUGE, "buffers of 8589934592 bytes"),
    "deep lists": (b"\x91" * 100_000, "is not valid msgpack"),
}


@pytest.mark.parametrize(("data", "problem"), NONSENSE.values(), ids=NONSENSE)
def test_nonsense_ends_its_connection_and_is_named(
    node: Running, data: bytes, problem: str
) -> None:
    deadline = time.monotonic() + PATIENCE
    while not [line for line in node.err if problem in line]:
        assert time.monotonic() < deadline, node.err
        with connect() as sock:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                sock.sendall(data)
            assert is_hung_up(sock)
        # A flood before this may have used up the log's room, for a second.
        with contextlib.suppress(AssertionError):
            node.until(re.escape(problem), patience=1.0)


def test_a_program_cannot_speak_for_a_worker(node: Running) -> None:
    with connect() as sock:
        for sid in (1, 2):
            for kind in (READY, EXITED):
                sock.sendall(msgpack.packb([kind, sid, 1, None, b"", ""]))
            begun: dict[int, int] = {}
            sock.sendall(msgpack.packb([UNLINKED, sid, begun]))
            for kind in (TIE, UNTIE, TRAP):
                sock.sendall(msgpack.packb([kind, sid, 1, "/nobody"]))
        sock.sendall(msgpack.packb([REQUEST, 1, "ps"]))
        assert b"visits" in sock.recv(4096)


# --- greed --------------------------------------------------------------------------------------


def test_a_program_that_asks_and_does_not_listen_is_disconnected(node: Running) -> None:
    before = _memory_of(node)
    question = msgpack.packb([REQUEST, 1, "ps"]) * 100
    with connect() as sock:
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            _send_for_ever(sock, question)
        _assert_that_it_answers()
    assert _memory_of(node) < before + 50 * 2**20
    _until_asked_too_much(node)


def _send_for_ever(sock: socket.socket, data: bytes) -> None:
    while True:
        sock.sendall(data)


def _until_asked_too_much(node: Running) -> None:
    node.until(r"sent requests and reads no answers; \d+ bytes wait for it|and \d+ more like this")


def test_programs_that_ask_all_the_time_leave_others_their_turn() -> None:
    question = msgpack.packb([REQUEST, 1, "ps"])
    with contextlib.ExitStack() as stack:
        # Each has a whole socket full of questions, and reads no answer yet.
        socks = [stack.enter_context(connect()) for _ in range(20)]
        for sock in socks:
            sock.sendall(question * 500)
        _assert_that_it_answers()


def test_requests_in_work_are_bounded() -> None:
    with running("app:hangs_at_end", "--name", "slow", folder=HERE) as run:
        with connect_unix(runtime_folder(), "slow.sock") as sock:
            sock.settimeout(PATIENCE)
            # None of these is answered before the server's end, which never comes.
            stop = msgpack.packb([REQUEST, 1, "stop", 2, "because", None])
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                sock.sendall(stop * (MAX_REQUESTS + 1))
            assert is_hung_up(sock)
        run.until(f"sent more than {MAX_REQUESTS} requests at a time")
        assert "Counter" in noex_mp("ps", "--node", "slow", folder=HERE).stdout
        run.send(signal.SIGTERM)
        run.until("stopping on SIGTERM")
        run.send(signal.SIGINT)
        assert run.status() == 0


def test_what_a_program_asks_for_in_the_wrong_words_harms_nobody() -> None:
    wrong: list[list[object]] = [
        ["stop", 1, "because", []],
        ["stop", [], "because", 1],
        ["whereis", []],
        ["ps", 1],
        ["spawn", {}],
        ["dance"],
    ]
    with connect() as sock:
        for number, request in enumerate(wrong):
            sock.sendall(msgpack.packb([REQUEST, number, *request]))
            # An answer, which is an error.
            assert sock.recv(65536)[:4] == msgpack.packb([RESPONSE, number, False, None])[:4]


# --- another user -------------------------------------------------------------------------------

NOBODY = 65534


def _as_nobody(act: Callable[[], bytes]) -> bytes:
    """Return what a process of another user gets."""
    read_end, write_end = os.pipe()
    os_pid = os.fork()
    if os_pid == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.write(write_end, act())
        except OSError as error:
            os.write(write_end, type(error).__name__.encode())
        finally:
            os._exit(0)
    os.close(write_end)
    os.waitpid(os_pid, 0)
    with os.fdopen(read_end, "rb") as file:
        return file.read()


only_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")


def _ask_at(path: Path) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(str(path))
        with contextlib.suppress(BrokenPipeError):
            sock.sendall(msgpack.packb([REQUEST, 1, "names"]))
        try:
            return sock.recv(4096) or b"hung up"
        except ConnectionResetError:
            return b"hung up"


@only_root
def test_another_user_does_not_reach_the_socket() -> None:
    path = runtime_folder() / "app.sock"
    assert _as_nobody(lambda: _ask_at(path)) == b"PermissionError"


@only_root
def test_another_user_who_reaches_it_all_the_same_is_refused_and_named(node: Running) -> None:
    folder = runtime_folder()
    path = folder / "app.sock"
    opened = {folder.parent: 0o755, folder: 0o755, path: 0o666}
    before = {each: each.stat().st_mode & 0o777 for each in opened}
    try:
        for each, mode in opened.items():
            each.chmod(mode)
        assert _as_nobody(lambda: _ask_at(path)) == b"hung up"
        # A flood of his is none of our connections.
        _as_nobody(lambda: b"".join(_ask_at(path) for _ in range(200)))
    finally:
        for each, mode in before.items():
            each.chmod(mode)
    node.until(rf"refused process \d+ of the user with the id {NOBODY}|and \d+ more like this")
