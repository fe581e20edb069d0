"""Nothing outlives the root, however it ends and whatever the workers are doing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from noex_mp.transport import fds, lifeline
from noex_mp.transport.platform import FALLBACKS
from tests.processes.harness import (
    REPOSITORY,
    SLEEP,
    assert_ended,
    running_root,
    wait_for_ends,
)

pytestmark = [pytest.mark.timeout(20)]

IDLE = f"say([]); {SLEEP}"
IN_PYTHON = "say([])\nwhile True: pass"
# Backtracks for longer than the sun burns, and never gives the GIL back.
IN_C = "import re; say([]); re.match('(a*)*b', 'a' * 64)"
DEAF = f"""
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
{IDLE}
"""
GRANDCHILD = f"""
import subprocess
say([subprocess.Popen(['sleep', '600']).pid])
{SLEEP}
"""
# A daemon as in the textbook: forked twice, in a session of its own.
ESCAPED = f"""
import subprocess, sys
code = '''
import os, signal
if os.fork():
    os._exit(0)
print(os.getpid(), flush=True)
signal.pause()
'''
shell = subprocess.Popen([sys.executable, '-c', code], start_new_session=True, stdout=-1)
say([int(shell.stdout.readline())])
{SLEEP}
"""
ALL = {
    "idle": IDLE,
    "loops in Python": IN_PYTHON,
    "holds the GIL in C": IN_C,
    "blocks signals": DEAF,
    "has a grandchild": GRANDCHILD,
}
if not FALLBACKS:
    # Without subreapers it is nobody's child any more.
    ALL["has a grandchild that left the group"] = ESCAPED

by_signal = pytest.mark.linux_only("a thread that watches the lifeline needs the GIL to act")


@dataclass
class DoomedRoot:
    """A root in a process of its own, and pidfds of all that runs below it."""

    process: subprocess.Popen[bytes]
    zygote: int
    workers: list[int]

    @property
    def everything(self) -> list[int]:
        return [self.zygote, *self.workers]

    def read(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def doomed_root(
    workers: list[str], *, environ: dict[str, str] | None = None, **order: Any
) -> Generator[DoomedRoot]:
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.faults.root_program",
            json.dumps({"workers": workers, **order}),
        ],
        cwd=REPOSITORY,
        env={**os.environ, **(environ or {})},
        stdout=subprocess.PIPE,
        pass_fds=[int(fd) for fd in (environ or {}).values()],
    )
    assert process.stdout is not None
    started = json.loads(process.stdout.readline())
    root = DoomedRoot(
        process, os.pidfd_open(started["zygote"]), [os.pidfd_open(p) for p in started["workers"]]
    )
    try:
        yield root
    finally:
        root.kill()
        process.stdout.close()
        for pidfd in root.everything:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)


@pytest.mark.parametrize("code", ALL.values(), ids=ALL.keys())
def test_nothing_outlives_a_killed_root(code: str) -> None:
    with doomed_root([code]) as root:
        root.kill()
        assert wait_for_ends(root.everything) == []


def test_nothing_outlives_a_killed_root_of_many_workers() -> None:
    with doomed_root([*ALL.values()] * 2) as root:
        root.kill()
        assert wait_for_ends(root.everything) == []


@pytest.mark.parametrize(
    "code", [IDLE, IN_PYTHON, pytest.param(IN_C, marks=by_signal), DEAF, GRANDCHILD]
)
def test_workers_outlive_the_zygote_but_not_the_root(code: str) -> None:
    with doomed_root([code]) as root:
        signal.pidfd_send_signal(root.zygote, signal.SIGKILL)
        assert root.read() == {"died": True}
        assert wait_for_ends(root.workers, timeout=0) == root.workers
        root.kill()
        assert wait_for_ends(root.everything) == []


@pytest.mark.parametrize("code", [IDLE, pytest.param(IN_C, marks=by_signal)])
def test_workers_die_with_a_root_that_dies_together_with_its_zygote(code: str) -> None:
    with doomed_root([code]) as root:
        signal.pidfd_send_signal(root.zygote, signal.SIGSTOP)
        root.kill()
        # The zygote stands still: this is the kernel's work alone.
        assert wait_for_ends(root.workers) == []


@pytest.mark.parametrize(
    "hang", ["import signal; signal.pause()", "while True: pass", IN_C.replace("say([]); ", "")]
)
def test_a_preload_that_hangs_does_not_outlive_the_root(hang: str, tmp_path: Path) -> None:
    # The zygote says who it is from inside of the hanging import.
    report = tmp_path / "report"
    os.mkfifo(report)
    (tmp_path / "hanging_app.py").write_text(
        "import os, subprocess\n"
        f"child = subprocess.Popen(['sleep', '600'])\n"
        f"with open({str(report)!r}, 'w') as file: file.write(f'{{os.getpid()}} {{child.pid}}')\n"
        + hang
    )
    order = {"preload": ["hanging_app"], "workers": [IDLE]}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.root_program", json.dumps(order)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    pidfds = [os.pidfd_open(int(os_pid)) for os_pid in report.read_text().split()]
    assert wait_for_ends(pidfds, timeout=0) == pidfds
    process.kill()
    process.wait()
    assert_ended(pidfds)


def test_a_process_that_the_user_forks_does_not_hold_the_lifeline() -> None:
    hold, release = os.pipe()
    with doomed_root([IDLE, IN_C], environ={"HOLD": str(hold)}, user_fork=True) as root:
        root.kill()
        assert wait_for_ends(root.everything) == []
    os.close(release)
    os.close(hold)


async def test_the_root_hears_of_its_zygotes_death_and_forks_fail_from_then_on() -> None:
    async with running_root() as root:
        worker = await root.fork("control.recv(1); raise SystemExit(5)")
        os.kill(root.zygote.os_pid, signal.SIGKILL)
        await asyncio.wait_for(root.died.wait(), 5)
        with pytest.raises(ConnectionResetError):
            await root.fork()
        worker.control.send(b"x")
        assert wait_for_ends([worker.pidfd]) == []


async def test_forks_under_way_fail_when_the_zygote_dies() -> None:
    async with running_root() as root:
        await root.zygote.ready()
        os.kill(root.zygote.os_pid, signal.SIGSTOP)
        asking = [asyncio.create_task(root.fork()) for _ in range(100)]
        await asyncio.sleep(0)
        os.kill(root.zygote.os_pid, signal.SIGKILL)
        results = await asyncio.gather(*asking, return_exceptions=True)
        assert {type(result) for result in results} == {ConnectionResetError}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_that_ends_programs_does_not_end_the_zygote(number: signal.Signals) -> None:
    async with running_root() as root:
        await root.zygote.ready()
        os.kill(root.zygote.os_pid, number)
        assert await (await root.fork("say(1)")).hear() == 1


def test_a_worker_that_arms_after_the_roots_end_is_killed_all_the_same() -> None:
    read_end, write_end = lifeline.create_lifeline()
    fds.close(write_end)
    os_pid = os.fork()
    if os_pid == 0:
        # The fork gave up the read end, as it should; make the same situation again.
        os.setpgid(0, 0)
        read_end, write_end = lifeline.create_lifeline()
        fds.close(write_end)
        lifeline.arm(read_end)
        os._exit(0)
    assert os.waitpid(os_pid, 0)[1] == signal.SIGKILL
    fds.close(read_end)
