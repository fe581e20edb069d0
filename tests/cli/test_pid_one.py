"""A node as the first process of a container: a PID namespace of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.harness import PATIENCE, Running, noex_mp, running

TERM, HUP, INT, KILL = signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL

CONTAINER = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
IN_CONTAINER = (*CONTAINER, sys.executable, "-m", "noex_mp")


def _problem() -> str:
    try:
        done = subprocess.run([*CONTAINER, "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "there is no unshare here"
    return done.stderr.strip()


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(_problem()), reason=f"no PID namespace: {_problem()}"),
]


def _children_of(os_pid: int) -> list[int]:
    children = Path(f"/proc/{os_pid}/task/{os_pid}/children")
    return [int(child) for child in children.read_text().split()]


def _pid_one_of(run: Running) -> int:
    [first] = _children_of(run.process.pid)
    return first


def _state_of(os_pid: int) -> str:
    text = Path(f"/proc/{os_pid}/stat").read_text()
    return text.rpartition(")")[2].split()[0]


@contextmanager
def container(target: str = "app:tree", until: str | None = "is up") -> Generator[Running]:
    with running(target, program=IN_CONTAINER, until=until) as run:
        yield run
        # The program around it, `unshare`, does not listen to signals.
        if run.process.poll() is None:
            os.kill(_pid_one_of(run), TERM)
        run.status()


@pytest.mark.parametrize("number", [TERM, HUP, INT])
def test_a_signal_to_pid_one_stops_the_node_in_order(number: signal.Signals) -> None:
    with container() as run:
        os.kill(_pid_one_of(run), number)
        assert run.status() == 0
    stopped = re.findall(r"info    (\w+) stopped \(", "\n".join(run.err))
    assert stopped == ["second", "visits"]


def test_the_node_answers_from_outside() -> None:
    with container():
        assert noex_mp("call", "visits", "increment").stdout == "11\n"
        # Its own ids of processes mean nothing out here.
        assert "visits" in noex_mp("ps").stdout


@pytest.mark.parametrize(("target", "status"), [("app:fails_to_start", 1), ("app:no_such_tree", 2)])
def test_the_exit_status_is_the_nodes(target: str, status: int) -> None:
    with container(target, until=None) as run:
        assert run.status() == status


def test_a_node_that_is_killed_ends_the_container_with_the_signals_status() -> None:
    with container() as run:
        [node] = _children_of(_pid_one_of(run))
        os.kill(node, KILL)
        assert run.status() == 128 + KILL


def test_orphans_of_workers_vanish() -> None:
    with container("app:life") as run:
        orphan = noex_mp("call", "explorer", "leave_an_orphan").stdout.strip()
        worker = run.os_pid_of("explorer")
        inside = ("nsenter", "--target", str(_pid_one_of(run)), "--pid", "--mount", "--")
        subprocess.run([*inside, "kill", "-KILL", str(worker)], check=True)
        run.until("explorer restarted")
        gone = f"while kill -0 {orphan} 2>/dev/null; do sleep 0.01; done"
        subprocess.run([*inside, "sh", "-c", gone], check=True, timeout=PATIENCE)


def test_what_becomes_a_child_of_pid_one_is_reaped_and_the_nodes_own_children_are_left_to_it() -> (
    None
):
    with container() as run:
        first = _pid_one_of(run)
        [node] = _children_of(first)
        # As `docker exec` does it: its parent is not in the container, so what it leaves behind
        # has only process 1. Ended at once, and still read by nobody until it is reaped.
        script = "(sleep 1000 & echo $!)"
        enter = ["nsenter", "--target", str(first), "--pid", "--mount", "sh", "-c", script]
        subprocess.run(enter, stdout=subprocess.DEVNULL, check=True)
        [adopted] = set(_children_of(first)) - {node}
        os.kill(adopted, KILL)
        _wait_until_gone(adopted)
        # The zygote's end is the node's to notice: nobody has taken its status.
        [zygote] = _children_of(node)
        os.kill(zygote, KILL)
        _wait_until_gone(zygote)
        worker = next(child for child in _children_of(first) if child != node)
        os.kill(worker, KILL)
        report = run.until("error   (.*) killed by SIGKILL; restarting")
        run.until(f"{report[1]} restarted")
        _wait_until_gone(worker)
        os.kill(first, TERM)
        assert run.status() == 0


def _wait_until_gone(os_pid: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while Path(f"/proc/{os_pid}").exists():
        assert time.monotonic() < deadline, _state_of(os_pid)
        time.sleep(0.005)
