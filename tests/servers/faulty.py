"""Servers that break in every way there is."""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from noex_mp import From, GenServer, Ignore, NoReply, Stop, call, cast
from noex_mp.client import current
from noex_mp.core.reasons import Shutdown
from tests.servers.counters import blow


class TwoArgumentsError(Exception):
    """Pickle would call the constructor with one argument, and fail."""

    def __init__(self, left: object, right: object) -> None:
        super().__init__(f"{left} and {right}")
        self.left = left
        self.right = right


class HoldsAFileError(Exception):
    """Holds what no process can send to another."""

    def __init__(self, text: str) -> None:
        super().__init__(text, sys.stderr)

    def __str__(self) -> str:
        return f"with a file: {self.args[0]}"


class BrokenStrError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text either")


def _local_class() -> type[Exception]:
    class LocalError(Exception):
        pass

    return LocalError


ERRORS: dict[str, Callable[[], BaseException]] = {
    "two arguments": lambda: TwoArgumentsError(1, "b"),
    "holds a file": lambda: HoldsAFileError("oops"),
    "local class": lambda: _local_class()("nobody can import it"),
    "broken str": lambda: BrokenStrError(1),
    "StopIteration": lambda: StopIteration(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "CancelledError": lambda: asyncio.CancelledError("mine"),
    "GeneratorExit": GeneratorExit,
    "group": lambda: ExceptionGroup("two", [ValueError("one"), KeyError("two")]),
    "big": lambda: ValueError("x" * 1_000_000),
}


def an_error(kind: str) -> BaseException:
    return ERRORS[kind]()


class DiesWhenFirstRead:
    """A path outside of this process; the first that reads it dies, others have the path."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return _die_the_first_time, (self.path,)


def _die_the_first_time(path: Path) -> Path:
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return path


class Faulty(GenServer):
    """Breaks on demand; what it raises on purpose is a crash."""

    def __init__(self) -> None:
        self.items: list[Any] = []

    @call
    def echo(self, value: object) -> object:
        return value

    @call
    def os_pid(self) -> int:
        return os.getpid()

    @call
    def step(self, number: int, kill_at: int | None = None) -> int:
        return self._step(number, kill_at)

    @call
    async def step_slowly(self, number: int, kill_at: int | None = None) -> int:
        if number % 7 == 0:
            await asyncio.sleep(0)
        return self._step(number, kill_at)

    @call
    def step_later(self, sender: From[int], number: int, kill_at: int | None = None) -> NoReply:
        """Reply through the sender, but at once."""
        sender.reply(self._step(number, kill_at))
        return NoReply()

    def _step(self, number: int, kill_at: int | None) -> int:
        if number == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.items.append(number)
        return number

    @call(idempotent=True)
    def again(self, marker: str) -> str:
        """Kill the process the first time."""
        if not Path(marker).exists():
            Path(marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return "done"

    @cast
    def note(self, number: int, kill_at: int | None = None) -> None:
        if number == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.items.append(number)

    @call
    def all(self) -> list[Any]:
        return self.items

    @call
    def size(self, data: bytes) -> int:
        return len(data)

    @call
    def big(self, size: int) -> bytes:
        return b"b" * size

    @call
    def big_and_doze(self, sender: From[bytes], size: int, started: str) -> NoReply:
        """Send what the socket takes of a big reply, and doze with the rest."""
        sender.reply(b"b" * size)
        self.doze(started)
        return NoReply()

    # --- ways to die ---

    @call
    def kill(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    @call
    def say_and_kill(self, text: str) -> None:
        print(text, file=sys.stderr)
        os.kill(os.getpid(), signal.SIGKILL)

    @call
    async def kill_slowly(self) -> None:
        await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGKILL)

    @call
    def segfault(self) -> None:
        ctypes.string_at(0)

    @call
    def abort(self) -> None:
        os.abort()

    @call
    def leave(self, code: int) -> None:
        os._exit(code)

    @call
    def sys_exit(self, code: int) -> None:
        sys.exit(code)

    @call
    async def sys_exit_slowly(self, code: int) -> None:
        await asyncio.sleep(0)
        sys.exit(code)

    @call
    def fail(self, kind: str) -> None:
        raise an_error(kind)

    @cast
    def fail_unasked(self, kind: str) -> None:
        raise an_error(kind)

    @call
    async def fail_slowly(self, kind: str) -> None:
        await asyncio.sleep(0)
        raise an_error(kind)

    # --- values that cannot travel ---

    @call
    def unencodable(self) -> object:
        return {"rows": [1, 2, 3, (n for n in range(3))]}

    @call
    async def unencodable_slowly(self) -> object:
        await asyncio.sleep(0)
        return {"rows": [1, 2, 3, (n for n in range(3))]}

    @call
    def unencodable_and_big(self) -> object:
        return [b"x" * 1_000_000, (n for n in range(3))]

    # --- ways to be busy; each says with a fifo that it has begun ---

    @call
    def loop(self, started: str) -> None:
        blow(started)
        while True:
            pass

    @call
    def loop_in_c(self, started: str) -> None:
        blow(started)
        re.match("(a*)*b", "a" * 64)

    @call
    def doze(self, started: str) -> None:
        blow(started)
        time.sleep(600)

    @call
    async def wait(self, started: str) -> None:
        blow(started)
        await asyncio.get_running_loop().create_future()

    @call
    def grandchild(self) -> int:
        return subprocess.Popen(["sleep", "600"]).pid

    @call
    def escaped_grandchild(self) -> int:
        return subprocess.Popen(["sleep", "600"], start_new_session=True).pid

    # --- nonsense on the control plane ---

    @call
    def say_to_root(self, data: bytes) -> None:
        control = current.client()._control  # pyright: ignore[reportPrivateUsage]
        os.write(control.fd, data)


class Expecting(
    GenServer,
    expected=(Exception, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError),
):
    """Raises what belongs to its contract, however odd."""

    @call
    def fail(self, kind: str) -> None:
        raise an_error(kind)

    @call
    async def fail_slowly(self, kind: str) -> None:
        await asyncio.sleep(0)
        raise an_error(kind)

    @call
    def fail_with(self, value: object) -> None:
        raise ValueError(value)

    @call
    def fail_with_an_array(self, size: int) -> None:
        import numpy as np

        raise ValueError(np.zeros(size, "u1"))

    @call
    def echo(self, value: object) -> object:
        return value


class Start(GenServer):
    """Starts in the way that it is told."""

    def __init__(self, how: str = "", marker: str = "") -> None:
        self.how = how
        self.marker = Path(marker) if marker else None
        if how == "loop in the constructor":
            _loop_forever()
        if how == "raise in the constructor":
            raise TwoArgumentsError(1, 2)
        if how == "sys.exit in the constructor":
            sys.exit(4)

    def init(self) -> Ignore | Stop | None:
        first = self._is_first()
        match self.how:
            case "loop":
                _loop_forever()
            case "loop in C":
                re.match("(a*)*b", "a" * 64)
            case "raise":
                raise ValueError("not today")
            case "sys.exit":
                sys.exit(4)
            case "os._exit":
                os._exit(5)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "segfault":
                ctypes.string_at(0)
            case "ignore":
                return Ignore()
            case "stop":
                return Stop(Shutdown("no work"))
            case "raise unless first" if not first:
                raise ValueError("only once")
            case "raise the second time" if not first and not self._is_third():
                raise ValueError("not the second time")
            case "loop unless first" if not first:
                blow(f"{self.marker}.fifo")
                _loop_forever()
            case _:
                pass
        return None

    def _is_first(self) -> bool:
        if self.marker is None or self.marker.exists():
            return False
        self.marker.touch()
        return True

    def _is_third(self) -> bool:
        assert self.marker is not None
        third = self.marker.with_suffix(".third")
        if third.exists():
            return True
        third.touch()
        return False

    @call
    def os_pid(self) -> int:
        return os.getpid()

    @call
    def kill(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    @call
    def block(self, started: str) -> None:
        blow(started)
        time.sleep(600)

    @cast
    def note(self, number: int) -> None:
        pass


def _loop_forever() -> None:
    while True:
        pass


class Stubborn(GenServer):
    """Does not stop when it is told to."""

    def __init__(self, deaf: bool = False) -> None:
        self.deaf = deaf

    def init(self) -> None:
        if self.deaf:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    @call
    def os_pid(self) -> int:
        return os.getpid()

    async def terminate(self, reason: object) -> None:
        await asyncio.get_running_loop().create_future()
