"""`noex-mp` in processes of its own: started, listened to, ended."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

REPOSITORY = Path(__file__).parents[2]
HERE = Path(__file__).parent
# What takes longer has failed; twice this is less than a test may take.
PATIENCE = 8.0


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "noex_mp", *words]


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), **changes}


def noex_mp(
    *words: str, folder: Path = HERE, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        command(*words),
        cwd=folder,
        env=environment(**(variables or {})),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


class Running:
    """A `noex-mp run`, and the lines that came out of it so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.out: list[str] = []
        self.err: list[str] = []
        self._changed = threading.Condition()
        self._readers = [
            threading.Thread(target=self._read, args=(file, lines), daemon=True)
            for file, lines in ((process.stdout, self.out), (process.stderr, self.err))
            if file is not None
        ]
        self._open = len(self._readers)
        for reader in self._readers:
            reader.start()

    def _read(self, file: IO[str], lines: list[str]) -> None:
        for line in file:
            with self._changed:
                lines.append(line.removesuffix("\n"))
                self._changed.notify_all()
        file.close()
        with self._changed:
            self._open -= 1
            self._changed.notify_all()

    def until(
        self, pattern: str, *, in_: str = "err", times: int = 1, patience: float = PATIENCE
    ) -> re.Match[str]:
        """Wait until so many lines match; return the last of these matches."""
        lines: list[str] = getattr(self, in_)
        deadline = time.monotonic() + patience
        with self._changed:
            while True:
                found = [match for line in lines if (match := re.search(pattern, line))]
                if len(found) >= times:
                    return found[times - 1]
                left = deadline - time.monotonic()
                if left <= 0 or self._open == 0 or not self._changed.wait(left):
                    raise AssertionError(f"no {pattern!r} in {in_}:\n" + "\n".join(lines))

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def status(self) -> int:
        """Wait for the end and return the exit status."""
        status = self.process.wait(PATIENCE)
        for reader in self._readers:
            reader.join(PATIENCE)
        return status

    def os_pid_of(self, server: str) -> int:
        return int(self.until(rf" {server} is ready \(os pid (\d+)\)")[1])


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        raise


@contextmanager
def running(
    *words: str,
    program: Sequence[str] = (sys.executable, "-m", "noex_mp"),
    folder: Path = HERE,
    until: str | None = "is up",
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
    variables: Mapping[str, str] | None = None,
) -> Generator[Running]:
    """Start `noex-mp run`, wait until its tree is up, and end it with the block.

    Args:
        variables: What its environment holds besides.
    """
    process = subprocess.Popen(
        [*program, "run", *words],
        cwd=folder,
        env=environment(**(variables or {})),
        stdout=stdout,
        stderr=stderr,
        text=True,
        # A node that a test leaves hanging must not take the tests with it.
        start_new_session=True,
    )
    run = Running(process)
    try:
        if until is not None:
            run.until(until)
        yield run
    except BaseException:
        process.kill()
        raise
    finally:
        if process.poll() is None:
            _end(process)
        run.status()


def texts(lines: Sequence[str]) -> list[str]:
    """Return the lines of a log without their time."""
    return [re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} ", "", line) for line in lines]
