"""`noex-mp health`, and `noex-mp run --health`: whether a node is alive and ready."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from noex_mp import ConfigError, Health
from noex_mp.cli.probes import MAX_CONNECTIONS, Probes, answer, parse_address
from tests.cli.harness import PATIENCE, Running, noex_mp, running

slow = pytest.mark.slow

READY = Health(True, "running", {"shop": "running"})
STARTING = Health(False, "starting", {}, ("the node is starting",))


# --- without a process --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("8080", ("", 8080)),
        (":8080", ("", 8080)),
        ("0", ("", 0)),
        ("127.0.0.1:8080", ("127.0.0.1", 8080)),
        ("[::1]:8080", ("::1", 8080)),
        ("localhost:8080", ("localhost", 8080)),
    ],
)
def test_an_address_is_a_port_with_or_without_a_host(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "http", "8080:", "65536", "-1", "a:b", "²"])
def test_any_other_address_is_told(text: str) -> None:
    with pytest.raises(ConfigError, match="For example: --health 8080"):
        parse_address(text)


@pytest.mark.parametrize(
    ("request_line", "health", "status"),
    [
        ("GET /healthz HTTP/1.1", READY, 200),
        ("GET /healthz HTTP/1.0", STARTING, 200),
        ("GET /readyz HTTP/1.1", READY, 200),
        ("GET /readyz?verbose HTTP/1.1", READY, 200),
        ("GET /readyz HTTP/1.1", STARTING, 503),
        ("HEAD /readyz HTTP/1.1", STARTING, 503),
        ("GET / HTTP/1.1", READY, 404),
        ("GET /readyz/ HTTP/1.1", READY, 404),
        ("POST /readyz HTTP/1.1", READY, 405),
        ("GET /readyz HTTP/2", READY, 400),
        ("GET /readyz", READY, 400),
        ("", READY, 400),
        ("\xff\xfe \x00 HTTP/1.1", READY, 405),
    ],
)
def test_a_request_has_one_answer(request_line: str, health: Health, status: int) -> None:
    request = f"{request_line}\r\nHost: a\r\n\r\n".encode("latin-1")
    head, _, body = answer(request, lambda: health).partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert (body == b"") == request_line.startswith("HEAD")
    if body:
        assert f"Content-Length: {len(body)}".encode() in head
        json.loads(body)


def test_health_travels_as_plain_values() -> None:
    for health in (READY, STARTING):
        assert Health.from_plain(json.loads(json.dumps(health.as_plain()))) == health


# --- over HTTP ----------------------------------------------------------------------------------


def port_of(run: Running) -> int:
    return int(run.until(r"answers probes at port (\d+)")[1])


def get(port: int, path: str) -> tuple[int, dict[str, Any]]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as asked:
        asked.request("GET", path)
        reply = asked.getresponse()
        return reply.status, json.loads(reply.read())


@slow
def test_probes_follow_the_life_of_a_node(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    options = ("--set", f"gate={gate}", "--set", "slow=60")
    words = ("shop:shop", "--health", "127.0.0.1:0", "--name", "probed", *options)
    with running(*words, until="answers probes") as run:
        port = port_of(run)
        run.until("doors open", in_="out")
        assert get(port, "/healthz") == (200, {"live": True})
        status, body = get(port, "/readyz")
        assert (status, body["status"]) == (503, "starting")
        assert body["applications"] == {"db": "running", "shop": "starting"}
        assert body["not_ready"] == [
            *("the node is starting", "application shop is starting", "shop.master is starting")
        ]
        assert noex_mp("health", "probed").returncode == 1
        gate.write_text("go on")
        run.until("is up")
        assert get(port, "/readyz")[0] == 200
        run.send(signal.SIGTERM)
        run.until("doors close$", in_="out")
        assert get(port, "/healthz")[0] == 200
        assert get(port, "/readyz")[1]["status"] == "stopping"
        run.send(signal.SIGINT)
        assert run.status() == 0


@pytest.fixture
def hostile() -> Generator[list[socket.socket]]:
    """Connections that a test opens, closed at its end."""
    opened: list[socket.socket] = []
    yield opened
    for sock in opened:
        sock.close()


@slow
def test_who_is_slow_or_talks_nonsense_costs_nobody_an_answer(
    hostile: list[socket.socket],
) -> None:
    with running("app:tree", "--health", "127.0.0.1:0", "--name", "hostile") as run:
        port = port_of(run)
        for _ in range(MAX_CONNECTIONS - 2):
            sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
            sock.sendall(b"GET /rea")
            hostile.append(sock)
        for nonsense in (b"\0" * 100_000, b"GET /" + b"a" * 10_000, b"\r\n\r\n"):
            sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
            began = time.monotonic()
            with contextlib.suppress(OSError):
                sock.sendall(nonsense)
                while sock.recv(4096):
                    pass
            sock.close()
            # Answered, or turned away: not waited for.
            assert time.monotonic() - began < 3
            assert get(port, "/readyz")[0] == 200
        # Nobody is kept longer than some seconds.
        began = time.monotonic()
        with contextlib.suppress(ConnectionResetError):
            assert hostile[0].recv(1) == b""
        assert time.monotonic() - began < PATIENCE - 1
        run.send(signal.SIGTERM)
        assert run.status() == 0
    assert not [line for line in run.err if "fault" in line or "Traceback" in line]


@slow
def test_many_that_are_silent_keep_no_probe_from_its_answer(hostile: list[socket.socket]) -> None:
    with running("app:tree", "--health", "127.0.0.1:0", "--name", "full") as run:
        port = port_of(run)
        for _ in range(3 * MAX_CONNECTIONS):
            sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
            sock.sendall(b"GET")
            hostile.append(sock)
        began = time.monotonic()
        assert get(port, "/healthz")[0] == 200
        # The oldest were turned away for the others.
        with contextlib.suppress(ConnectionResetError):
            assert hostile[0].recv(1) == b""
        run.send(signal.SIGTERM)
        assert run.status() == 0
        # Nor do the others keep it for the time that they have.
        assert time.monotonic() - began < 3


def test_a_port_that_is_taken_is_told(hostile: list[socket.socket]) -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    hostile.append(taken)
    with pytest.raises(ConfigError, match="in use"):
        Probes(f"127.0.0.1:{taken.getsockname()[1]}")


# --- from another terminal ----------------------------------------------------------------------


@slow
def test_a_node_says_that_it_is_ready() -> None:
    with running("shop:shop", "--name", "well") as run:
        pid = run.process.pid
        done = noex_mp("health", "well")
        assert (done.returncode, done.stdout) == (0, f"node well (os pid {pid}) is ready\n")
        done = noex_mp("health", "well", "--live")
        assert (done.returncode, done.stdout) == (0, f"node well (os pid {pid}) is alive\n")
        told = json.loads(noex_mp("health", "well", "--json").stdout)
        assert told == {
            "node": "well",
            "os_pid": pid,
            "live": True,
            "ready": True,
            "status": "running",
            "applications": {"db": "running", "shop": "running"},
            "not_ready": [],
        }


@slow
def test_a_node_that_is_not_there_or_does_not_answer_is_not_well() -> None:
    assert noex_mp("health", "nobody").returncode == 1
    with running("app:tree", "--name", "paused") as run:
        run.send(signal.SIGSTOP)
        try:
            done = noex_mp("health", "paused", "--live")
        finally:
            run.send(signal.SIGCONT)
        assert done.returncode == 1
        assert "node paused" in done.stderr
