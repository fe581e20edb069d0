"""Servers that get, keep, make and pass on shared values."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path
from typing import Any

import numpy as np

from noex_mp import From, GenServer, NoReply, Ref, call, cast, shared


class Reader(GenServer):
    """Does all that one can do with a shared value."""

    def __init__(self, kept: list[Any] | None = None) -> None:
        self.kept: list[Any] = kept or []

    @call
    def total(self, array: Any) -> float:
        return float(array.sum())

    @call
    async def total_later(self, array: Any) -> float:
        return float(array.sum())

    @call
    def address(self, array: Any) -> tuple[str, bool]:
        """Tell what the memory of an array belongs to, and whether it can be written to."""
        return where(array), array.flags.writeable

    @call
    def write_to(self, array: Any) -> str:
        """Try to write to an array that says one must not; return how that went."""
        try:
            array.flags.writeable = True
            array[0] = -1.0
        except ValueError as error:
            return str(error)
        return "it was written to"

    @call
    def keep(self, value: Any) -> None:
        self.kept.append(value)

    @cast
    def keep_quietly(self, value: Any) -> None:
        self.kept.append(value)

    @call
    def limit_memory(self, room: int) -> None:
        """Leave so many bytes of address space beyond what is in use."""
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + room, resource.RLIM_INFINITY))

    @call
    def total_kept(self) -> list[float]:
        return [float(array.sum()) for array in self.kept]

    @call
    def drop(self) -> None:
        self.kept.clear()

    @call
    def give(self) -> Any:
        return self.kept[-1]

    @call
    def make(self, size: int, value: float) -> Any:
        """Share an array, and keep nothing of it."""
        return shared(np.full(size, value))

    @call
    def echo(self, value: Any) -> Any:
        return value

    @call
    async def pass_on(self, other: Ref[Reader], array: Any) -> float:
        return await Reader.total(other, array)

    @call
    def kind(self, value: Any) -> str:
        return type(value).__name__

    @call
    def give_and_die(self, sender: From[Any]) -> NoReply:
        """Reply with what is kept, and be dead before anybody reads it."""
        sender.reply(self.kept[-1])
        os.kill(os.getpid(), signal.SIGKILL)
        return NoReply()

    @call
    def make_and_keep(self, size: int, value: float) -> Any:
        self.kept.append(shared(np.full(size, value)))
        return self.kept[-1]

    @call
    def fork(self, array: Any) -> float:
        """Return what a child sees of an array once its parent has let everything go."""
        here, there = os.pipe()
        go, come = os.pipe()
        if os.fork() == 0:
            os.close(come)
            os.read(go, 1)
            os.write(there, np.float64(array.sum()).tobytes())
            os._exit(0)
        os.close(go)
        self.child = come, here
        return 0.0

    @call
    def seen_by_child(self) -> float:
        come, here = self.child
        os.close(come)
        total = np.frombuffer(os.read(here, 8))[0]
        os.close(here)
        os.wait()
        return float(total)

    @call
    def os_pid(self) -> int:
        return os.getpid()


def where(array: Any) -> str:
    """Return what is mapped where an array begins: a path, or nothing."""
    address = array.__array_interface__["data"][0]
    with open("/proc/self/maps") as maps:
        for line in maps:
            start, _, end = line.split()[0].partition("-")
            if int(start, 16) <= address < int(end, 16):
                return " ".join(line.split()[5:])
    return ""
