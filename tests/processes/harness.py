"""A root for tests below the node: a zygote, a lifeline, and workers that run given code."""

from __future__ import annotations

import asyncio
import json
import os
import select
import socket
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from noex_mp.node.zygote import Zygote, config_of_this_process
from noex_mp.transport import fds, lifeline

REPOSITORY = Path(__file__).parents[2]
ENTRY = "tests.processes.stand_in:main"
SLEEP = "import signal; signal.pause()"


@dataclass
class Worker:
    os_pid: int
    pidfd: int
    control: socket.socket
    stdout: int
    stderr: int
    black_box: int

    async def hear(self) -> Any:
        """Return the next value that the worker says."""
        loop = asyncio.get_running_loop()
        line = b""
        while not line.endswith(b"\n"):
            piece = await loop.sock_recv(self.control, 1)
            assert piece, "the worker closed its control socket"
            line += piece
        return json.loads(line)

    def close(self) -> None:
        self.control.close()
        for fd in (self.pidfd, self.stdout, self.stderr, self.black_box):
            fds.close(fd)


@dataclass
class Root:
    zygote: Zygote = field(init=False)
    lifeline_write_end: int = -1
    workers: list[Worker] = field(default_factory=list[Worker])
    statuses: dict[int, int] = field(default_factory=dict[int, int])
    waiting: dict[int, asyncio.Event] = field(default_factory=dict[int, asyncio.Event])
    reports: asyncio.Queue[tuple[int, int]] = field(default_factory=asyncio.Queue[tuple[int, int]])
    died: asyncio.Event = field(default_factory=asyncio.Event)

    async def fork(self, code: str = SLEEP, **fields: Any) -> Worker:
        control, theirs = fds.socketpair()
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        black_box = fds.anonymous_file("black-box")
        passed = [theirs.fileno(), out_write, err_write, black_box, black_box]
        try:
            os_pid, pidfd = await self.zygote.fork(passed, {"code": code, **fields})
        except BaseException:
            control.close()
            fds.close_all([out_read, err_read, black_box])
            raise
        finally:
            theirs.close()
            fds.close_all([out_write, err_write])
        if pidfd == fds.NO_FD:
            pidfd = _open_pidfd(os_pid)
        worker = Worker(os_pid, pidfd, control, out_read, err_read, black_box)
        self.workers.append(worker)
        return worker

    async def exit_of(self, worker: Worker) -> int:
        """Wait for the report of a worker's exit and return its wait status."""
        await self.waiting.setdefault(worker.os_pid, asyncio.Event()).wait()
        return self.statuses[worker.os_pid]

    def on_exit(self, os_pid: int, status: int, peak_rss: int) -> None:
        self.statuses[os_pid] = status
        self.reports.put_nowait((os_pid, status))
        self.waiting.setdefault(os_pid, asyncio.Event()).set()


@asynccontextmanager
async def running_root(preload: Sequence[str] = (), **options: Any) -> AsyncGenerator[Root]:
    """Start a zygote; end it and everything below at the end."""
    read_end, write_end = lifeline.create_lifeline()
    root = Root(lifeline_write_end=write_end)
    config = config_of_this_process(**{"preload": list(preload), "entry": ENTRY, **options})
    root.zygote = await Zygote.start(
        asyncio.get_running_loop(), config, read_end, root.on_exit, root.died.set
    )
    try:
        yield root
    finally:
        await root.zygote.close()
        for worker in root.workers:
            worker.close()
        fds.close_all([read_end, write_end])


def _open_pidfd(os_pid: int) -> int:
    """Return what the tests watch a worker by, where the runtime does without pidfds."""
    try:
        return os.pidfd_open(os_pid)
    except ProcessLookupError:
        # As readable as the pidfd of a process that has ended.
        return os.open(os.devnull, os.O_RDONLY)


def assert_ended(pidfds: Sequence[int]) -> None:
    """Wait until all these processes have ended, and close their pidfds."""
    try:
        assert wait_for_ends(pidfds) == []
    finally:
        for pidfd in pidfds:
            os.close(pidfd)


def wait_for_ends(pidfds: Sequence[int], timeout: float = 5.0) -> list[int]:
    """Wait until all these processes have ended; return the pidfds of those that have not."""
    left, deadline = set(pidfds), time.monotonic() + timeout
    poll = select.poll()
    for pidfd in left:
        poll.register(pidfd, select.POLLIN)
    while left:
        rest = max(0.0, deadline - time.monotonic())
        ended = poll.poll(rest * 1000)
        if not ended:
            break
        for pidfd, _ in ended:
            poll.unregister(pidfd)
            left.discard(pidfd)
    return sorted(left)
