"""A node as a systemd service: `Type=notify` and the watchdog, over real datagram sockets."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from noex_mp.cli import notify
from noex_mp.cli.notify import Notifier, address_of, watchdog_of
from tests.cli.harness import PATIENCE, noex_mp, running

TERM, KILL, STOP, CONT = signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT


class ServiceManager:
    """What systemd is to a service: a socket that it reads."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(PATIENCE)
        self.socket.bind(address.replace("@", "\0") if address.startswith("@") else address)

    def hear(self) -> list[str]:
        """Return the lines of the next datagram."""
        return self.socket.recv(4096).decode().split("\n")

    def hear_until(self, line: str) -> list[list[str]]:
        """Return all datagrams up to the first one that holds a line."""
        heard = [self.hear()]
        while line not in heard[-1]:
            heard.append(self.hear())
        return heard

    def forget(self) -> None:
        """Drop what has arrived so far."""
        while self.says_something_within(0):
            self.hear()

    def says_something_within(self, seconds: float) -> bool:
        return bool(select.select([self.socket], [], [], seconds)[0])


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServiceManager]:
    path = request.param == "path"
    manager = ServiceManager(str(tmp_path / "notify") if path else f"@noex-{uuid.uuid4().hex}")
    with manager.socket:
        yield manager


@pytest.fixture
def stalled(tmp_path: Path) -> Iterator[ServiceManager]:
    """Return one that does not read, and whose queue is full."""
    manager = ServiceManager(str(tmp_path / "notify"))
    with manager.socket, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        other.connect(manager.address)
        while select.select([], [other], [], 0)[1]:
            other.send(b"full")
        yield manager


@pytest.mark.slow
def test_systemd_hears_of_the_start_and_of_the_stop(systemd: ServiceManager) -> None:
    with running("app:tree", variables={"NOTIFY_SOCKET": systemd.address}) as run:
        assert systemd.hear() == ["STATUS=starting"]
        assert systemd.hear() == ["READY=1", "STATUS=up with 2 servers"]
        run.send(TERM)
        assert systemd.hear() == ["STOPPING=1", "STATUS=stopping on SIGTERM"]
        assert run.status() == 0


@pytest.mark.slow
def test_a_tree_is_ready_when_all_of_it_runs(systemd: ServiceManager) -> None:
    address = {"NOTIFY_SOCKET": systemd.address}
    with running("app:hangs_at_start", until=None, variables=address) as run:
        run.until("init hangs", in_="out")
        run.send(TERM)
        assert systemd.hear_until("STOPPING=1") == [
            ["STATUS=starting"],
            ["STOPPING=1", "STATUS=stopping on SIGTERM"],
        ]


@pytest.mark.slow
def test_a_tree_that_gives_up_says_why_and_with_which_status(systemd: ServiceManager) -> None:
    address = {"NOTIFY_SOCKET": systemd.address}
    with running("app:gives_up_soon", variables=address) as run:
        os.kill(run.os_pid_of("weak"), KILL)
        _, status, code = systemd.hear_until("STOPPING=1")[-1]
        assert run.status() == 1
    assert status.startswith("STATUS=supervisor root gave up: more than 0 restarts in 5 s")
    assert code == "EXIT_STATUS=1"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "code"), [("app:fails_to_start", 1), ("refuses:tree", 2)], ids=["init", "preload"]
)
def test_a_tree_that_does_not_start_says_so(
    systemd: ServiceManager, tmp_path: Path, target: str, code: int
) -> None:
    (tmp_path / "app.py").symlink_to(Path(__file__).with_name("app.py"))
    (tmp_path / "refuses.py").write_text(
        "import threading\n"
        "from noex_mp import GenServer, Supervisor, child\n"
        "class A(GenServer): pass\n"
        "tree = Supervisor(child(A))\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    done = noex_mp("run", target, folder=tmp_path, variables={"NOTIFY_SOCKET": systemd.address})
    assert done.returncode == code
    told = systemd.hear_until("STOPPING=1")
    assert told[-1][-1] == f"EXIT_STATUS={code}"
    assert not [lines for lines in told if "READY=1" in lines]


@pytest.mark.slow
def test_workers_and_what_they_start_have_nothing_to_tell(systemd: ServiceManager) -> None:
    variables = {"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "1000000"}
    with running("app:life", variables=variables):
        names = noex_mp("call", "explorer", "variables").stdout
    assert "PATH" in names
    assert "NOTIFY" not in names
    assert "WATCHDOG" not in names


@pytest.mark.slow
def test_the_watchdog_is_answered_as_long_as_the_loop_of_the_root_runs(
    systemd: ServiceManager,
) -> None:
    variables = {"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "100000"}
    with running("app:tree", variables=variables) as run:
        systemd.forget()
        begun = time.monotonic()
        for _ in range(5):
            systemd.hear_until("WATCHDOG=1")
        # At half of the time that systemd allows, and not all the time.
        assert time.monotonic() - begun > 0.1
        run.send(STOP)
        try:
            _wait_until_stopped(run.process.pid)
            systemd.forget()
            assert not systemd.says_something_within(0.5)
        finally:
            run.send(CONT)
        systemd.hear_until("WATCHDOG=1")


def _wait_until_stopped(os_pid: int) -> None:
    os.waitid(os.P_PID, os_pid, os.WSTOPPED | os.WNOWAIT)


@pytest.mark.slow
def test_a_service_manager_that_is_gone_or_does_not_read_harms_nobody(
    stalled: ServiceManager, tmp_path: Path
) -> None:
    for address in (str(tmp_path / "nobody"), stalled.address, "/x" * 100, "vsock:2:1234"):
        variables = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "10000"}
        with running("app:tree", variables=variables) as run:
            assert noex_mp("call", "visits", "increment").stdout == "11\n"
            run.send(TERM)
            assert run.status() == 0


async def test_what_the_queue_has_no_room_for_is_sent_as_soon_as_it_has(
    stalled: ServiceManager,
) -> None:
    notifier = Notifier(stalled.address.encode(), 0.001)
    notifier.begin(asyncio.get_running_loop())
    notifier.tell("READY=1")
    stalled.forget()
    loop = asyncio.get_running_loop()
    stalled.socket.setblocking(False)
    heard: list[bytes] = []
    while b"READY=1" not in heard:
        heard.append(await loop.sock_recv(stalled.socket, 100))
    # One answer to the watchdog was waiting ahead of it, and no more were put behind.
    assert heard == [b"WATCHDOG=1", b"READY=1"]
    notifier.close()


def test_the_last_words_wait_a_moment_for_room(stalled: ServiceManager) -> None:
    notifier = Notifier(stalled.address.encode())
    notifier.tell("STOPPING=1")
    stalled.hear()
    notifier.close()
    stalled.hear_until("STOPPING=1")


def test_the_last_words_wait_once_for_all_and_asleep(
    stalled: ServiceManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "PATIENCE", 0.2)
    notifier = Notifier(stalled.address.encode())
    for word in ("READY=1", "WATCHDOG=1", "STOPPING=1"):
        notifier.tell(word)
    begun = time.thread_time()
    notifier.close()
    assert time.thread_time() - begun < 0.05


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("", None),
        ("/run/systemd/notify", b"/run/systemd/notify"),
        ("@notify", b"\0notify"),
        ("relative/path", None),
        ("vsock:2:1234", None),
    ],
)
def test_where_notifications_go(text: str, address: bytes | None) -> None:
    assert address_of({"NOTIFY_SOCKET": text}) == address


@pytest.mark.parametrize(
    ("microseconds", "os_pid", "seconds"),
    [
        ("30000000", "", 30.0),
        ("30000000", "77", 30.0),
        ("30000000", "78", None),
        ("", "", None),
        ("", "77", None),
        ("0", "", None),
        ("-5", "", None),
        ("soon", "", None),
    ],
)
def test_whether_and_how_often_the_watchdog_waits_for_us(
    microseconds: str, os_pid: str, seconds: float | None
) -> None:
    variables = {"WATCHDOG_USEC": microseconds, "WATCHDOG_PID": os_pid}
    assert watchdog_of(variables, 77) == seconds
