"""Servers for pools: they tell who they are, wait to order, and die to order."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import time
from pathlib import Path

from noex_mp import From, GenServer, NoReply, Reply, call, cast

__all__ = ["Alone", "FailsLate", "Hasher", "Refused"]


class Refused(Exception):
    """A refusal that belongs to the contract."""


class Hasher(GenServer, expected=(Refused,)):
    """Hashes, and keeps a diary."""

    def __init__(self, diary: str = "") -> None:
        self.diary = diary
        self.seen: list[object] = []

    @call
    def digest(self, data: bytes) -> str:
        return hashlib.sha256(data).hexdigest()

    @call
    def pid(self) -> int:
        return os.getpid()

    @call
    def note(self, key: str, value: int) -> int:
        self._write(f"{key} {value} {os.getpid()}")
        return os.getpid()

    @cast
    def remember(self, value: object) -> None:
        self.seen.append(value)
        self._write(f"{value}")

    @call
    def recall(self) -> list[object]:
        return self.seen

    @call
    def refuse(self, why: str) -> None:
        raise Refused(why)

    @call
    def crash(self) -> None:
        raise RuntimeError("broken")

    @call
    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    @call(idempotent=True)
    def die_once(self, mark: str) -> int:
        if not Path(mark).exists():
            Path(mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return os.getpid()

    @call
    def wait_for(self, started: str, gate: str) -> int:
        """Write to one FIFO, and go on when another has been written to."""
        with open(started, "wb", buffering=0) as there:
            there.write(b"x")
        with open(gate, "rb", buffering=0) as here:
            here.read(1)
        return os.getpid()

    @call
    def later(self, sender: From[int], value: int) -> Reply[int] | NoReply:
        sender.reply(2 * value)
        return NoReply()

    @call
    async def forget(self, started: str) -> None:
        """Write to a FIFO, and wait until it is cancelled."""
        await asyncio.to_thread(Path(started).write_bytes, b"x")
        await asyncio.Event().wait()

    def handle_cast(self, request: list[str]) -> None:
        self.wait_for(*request)

    def _write(self, line: str) -> None:
        if self.diary:
            with open(self.diary, "a") as diary:
                diary.write(line + "\n")


class Alone(Hasher):
    """Starts only where nobody has started before, and keeps a diary of when it has tried."""

    def init(self) -> None:
        has_one = Path(self.diary).exists()
        self._write(str(time.monotonic()))
        if has_one:
            raise OSError("too many connections")


class FailsLate(Hasher):
    """Starts where nobody has before; the second waits for a file and fails; later ones start."""

    def __init__(self, diary: str, go_on: str) -> None:
        super().__init__(diary)
        self.go_on = Path(go_on)

    def init(self) -> None:
        self._write("starts")
        if len(Path(self.diary).read_text().splitlines()) == 2:
            while not self.go_on.exists():
                time.sleep(0.001)
            raise OSError("too many connections")
