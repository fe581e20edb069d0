"""After kill -9 of the root nothing is left, whatever its servers were doing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from noex_mp.transport.paths import runtime_folder
from noex_mp.transport.platform import FALLBACKS
from tests.processes.harness import REPOSITORY, wait_for_ends

pytestmark = pytest.mark.slow


# Where among the processes of `node_program` are those in a session of their own. With the
# fall-backs nobody finds them.
ESCAPED = (5, 8, 11, 14)


def to_be_gone(pidfds: list[int]) -> list[int]:
    """Return the pidfds of the processes that nothing may leave behind."""
    return [fd for n, fd in enumerate(pidfds) if not FALLBACKS or n not in ESCAPED]


@contextlib.contextmanager
def doomed_node(folder: Path, loop: str) -> Generator[tuple[subprocess.Popen[bytes], list[int]]]:
    """Start a node in a program of its own; give it, and the pidfds of all that runs below."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.node_program", str(folder)],
        cwd=REPOSITORY,
        env={**os.environ, "NOEX_MP_LOOP": loop},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    pidfds: list[int] = []
    try:
        pidfds += [os.pidfd_open(os_pid) for os_pid in json.loads(process.stdout.readline())]
        yield process, pidfds
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        for pidfd in pidfds:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_nothing_outlives_a_killed_root(loop: str, tmp_path: Path) -> None:
    with doomed_node(tmp_path, loop) as (process, pidfds):
        assert len(pidfds) == 17
        assert (runtime_folder() / "doomed.sock").exists()
        process.kill()
        process.wait()
        assert wait_for_ends(to_be_gone(pidfds)) == []
        # The zygote, which was the last, has removed the control socket.
        assert not (runtime_folder() / "doomed.sock").exists()


@pytest.mark.linux_only("a thread that watches the lifeline needs the GIL to act")
def test_nothing_but_escapers_outlives_a_root_that_is_killed_with_its_zygote(
    tmp_path: Path,
) -> None:
    with doomed_node(tmp_path, "asyncio") as (process, pidfds):
        signal.pidfd_send_signal(pidfds[0], signal.SIGSTOP)
        process.kill()
        process.wait()
        # Grandchildren in a session of their own wait for the zygote; the rest is the kernel's.
        escaped = {pidfds[i] for i in ESCAPED}
        assert wait_for_ends([fd for fd in pidfds[1:] if fd not in escaped]) == []
        signal.pidfd_send_signal(pidfds[0], signal.SIGCONT)
        assert wait_for_ends(to_be_gone(pidfds)) == []


def test_a_root_that_is_interrupted_stops_its_servers(tmp_path: Path) -> None:
    with doomed_node(tmp_path, "uvloop") as (process, pidfds):
        signal.pidfd_send_signal(pidfds[2], signal.SIGKILL)
        process.send_signal(signal.SIGTERM)
        process.wait()
        assert wait_for_ends(to_be_gone(pidfds)) == []
