"""A server whose handlers fork, and leave it to the child how it ends."""

from __future__ import annotations

import asyncio
import concurrent.futures
import multiprocessing
import os
import signal
import subprocess
import sys

from noex_mp import GenServer, call, cast


class ForkedError(Exception):
    """What a forked child raises."""


def end(how: str) -> None:
    """End this process, or come back."""
    if how == "os._exit":
        os._exit(3)
    if how == "sys.exit":
        sys.exit(3)
    if how == "raise":
        raise ForkedError
    assert how == "return"


class Forking(GenServer):
    def __init__(self) -> None:
        self.count = 0

    @call
    def fork(self, how: str) -> int:
        """Return the status of a child that ends so."""
        return self._fork(how)

    @call
    async def fork_slowly(self, how: str) -> int:
        await asyncio.sleep(0)
        return self._fork(how)

    @call
    async def fork_in_a_task(self, how: str) -> int:
        async def step() -> int:
            return self._fork(how)

        return await asyncio.create_task(step())

    @cast
    def fork_unasked(self, how: str) -> None:
        self._fork(how)

    def _fork(self, how: str) -> int:
        self.count += 1
        os_pid = os.fork()
        if os_pid == 0:
            end(how)
            return -1
        return os.waitstatus_to_exitcode(os.waitpid(os_pid, 0)[1])

    @call
    def fork_and_forget(self, how: str) -> int:
        """Return the child at once; whatever waits goes on beside it."""
        os_pid = os.fork()
        if os_pid == 0:
            end(how)
        return os_pid

    @call
    def fork_and_die(self) -> None:
        """End, after a child has come back from the handler."""
        if self._fork("return") >= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    @call
    async def fork_slowly_and_die(self) -> None:
        await asyncio.sleep(0)
        self.fork_and_die()

    @call
    def wait_for(self, os_pid: int) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(os_pid, 0)[1])

    @call
    def add(self) -> int:
        self.count += 1
        return self.count

    @call
    def use_processes(self, method: str) -> list[int]:
        context = multiprocessing.get_context(method)
        with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
            return list(pool.map(abs, [-1, -2, -3]))

    @call
    def run(self, command: list[str], *, with_preexec: bool) -> str:
        hook = os.getpid if with_preexec else None
        return subprocess.run(
            command, capture_output=True, text=True, check=True, preexec_fn=hook
        ).stdout
