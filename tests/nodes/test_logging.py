"""What a node inside a program says through Python's `logging`."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from noex_mp import MaxRestartsExceededError, Node, Ref, Supervisor, child, named, spawn
from noex_mp.client.events import Event, EventKind
from noex_mp.core.reasons import Crash, ExitReport
from noex_mp.node.event_log import ROOM, EventLog
from tests.processes.harness import REPOSITORY
from tests.servers.counters import Counter
from tests.servers.faulty import Faulty


class Handler(logging.Handler):
    """Keeps what is logged, and can be made to block or to raise."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[str, str]] = []
        self.reports: list[ExitReport] = []
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.error: Exception | None = None
        self._said = threading.Semaphore(0)

    def emit(self, record: logging.LogRecord) -> None:
        self.goes_on.wait(15)
        self.lines.append((record.levelname, record.getMessage()))
        self.reports.append(record.__dict__["report"])
        self._said.release()
        if self.error is not None:
            raise self.error

    async def line(self) -> None:
        """Wait for the next line."""
        assert await asyncio.to_thread(self._said.acquire, timeout=10)


@pytest.fixture
def handler() -> Iterator[Handler]:
    logger, handler = logging.getLogger("noex_mp"), Handler()
    logger.addHandler(handler)
    logger.propagate = False
    yield handler
    logger.propagate = True
    logger.removeHandler(handler)


def an_event(kind: EventKind, *, count: int = 0, traceback: str = "", detail: str = "") -> Event:
    report = ExitReport(
        server="visits",
        sid=1,
        incarnation=1,
        reason=Crash("ValueError", "no"),
        os_pid=7,
        uptime=1.0,
        traceback=traceback,
        next="restarting",
    )
    return Event(
        kind=kind,
        ref=Ref[Any]("node", 1),
        server="visits",
        incarnation=1,
        os_pid=7,
        time=0.0,
        report=report,
        count=count,
        detail=detail,
    )


CRASHED = "visits crashed with ValueError: no; restarting"


@pytest.mark.parametrize(
    ("event", "lines"),
    [
        (an_event("crashed"), [("ERROR", f"{CRASHED} (os pid 7)")]),
        (
            an_event("crashed", traceback="Traceback:\n  here\n"),
            [("ERROR", f"{CRASHED} (os pid 7)\nTraceback:\n  here")],
        ),
        (
            an_event("messages_lost", count=1),
            [("WARNING", "visits ended before it came to 1 cast, which was lost")],
        ),
        (
            an_event("messages_lost", count=2),
            [("WARNING", "visits ended before it came to 2 casts, which were lost")],
        ),
        (
            an_event("gave_up", detail="supervisor tree gave up"),
            [("ERROR", "supervisor tree gave up")],
        ),
        (an_event("gave_up"), []),
        (an_event("started"), []),
        (an_event("exited"), []),
    ],
)
def test_what_matters_is_logged(
    event: Event, lines: list[tuple[str, str]], handler: Handler
) -> None:
    log = EventLog()
    log(event)
    log.close()
    assert handler.lines == lines
    assert handler.reports == [event.report] * len(lines)


def test_what_a_blocked_handler_does_not_take_is_counted(handler: Handler) -> None:
    log = EventLog()
    handler.goes_on.clear()
    for _ in range(ROOM + 10):
        log(an_event("crashed"))
    handler.goes_on.set()
    log.close()
    # The thread may have taken the first one before the others came, or not.
    dropped = ROOM + 11 - len(handler.lines)
    text = f"{dropped} messages of noex-mp were dropped: a logging handler had blocked"
    assert dropped in (9, 10)
    assert handler.lines[-1] == ("WARNING", text)


async def test_a_cast_that_crashes_its_server_is_logged_with_its_traceback(
    handler: Handler,
) -> None:
    async with Node(Supervisor(child(Faulty).options(name="faulty"))):
        faulty = named("faulty", Faulty)
        os_pid = await Faulty.os_pid(faulty)
        await Faulty.fail_unasked(faulty, "two arguments")
        await handler.line()
    [(level, text)] = handler.lines
    first, *more = text.splitlines()
    assert level == "ERROR"
    crashed = "faulty crashed with tests.servers.faulty.TwoArgumentsError: 1 and b; restarting"
    assert first == f"{crashed} (os pid {os_pid})"
    assert "in fail_unasked" in "\n".join(more)


async def test_a_tree_that_gives_up_is_logged(handler: Handler) -> None:
    tree = Supervisor(child(Counter).options(name="visits"), max_restarts=0)
    async with Node(tree) as node:
        os.kill((await node.ps())[0]["os_pid"], 9)
        with pytest.raises(MaxRestartsExceededError) as gave_up:
            await node.wait()
    assert [level for level, _ in handler.lines] == ["ERROR", "ERROR"]
    assert handler.lines[1] == ("ERROR", str(gave_up.value))


async def test_a_handler_that_blocks_or_raises_keeps_no_server_down(
    handler: Handler, capsys: pytest.CaptureFixture[str]
) -> None:
    handler.error = ValueError("the handler's own")
    handler.goes_on.clear()
    async with Node() as node:
        counter = await spawn(Counter)
        assert await Counter.increment(counter) == 1
        for _ in range(2):
            os.kill((await node.ps())[0]["os_pid"], 9)
            assert await Counter.increment(counter) == 1
        assert handler.lines == []
        handler.goes_on.set()
    assert [level for level, _ in handler.lines] == ["ERROR", "ERROR"]
    assert capsys.readouterr().err.count("ValueError: the handler's own") == 2


@pytest.mark.slow
def test_without_any_logging_set_up_it_goes_to_standard_error(tmp_path: Path) -> None:
    code = """
    from noex_mp import GenServer, call, cast, sync

    class Hello(GenServer):
        @call
        def hello(self):
            return "hello"
        @cast
        def fail(self):
            raise ValueError("nobody waits for this")

    if __name__ == "__main__":
        hello = sync.spawn(Hello)
        Hello.fail.sync(hello)
        print(Hello.hello.sync(hello))
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(code))
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=18,
        check=False,
    )
    assert done.stdout == "hello\n"
    assert done.stderr.startswith("Hello crashed with ValueError: nobody waits for this; restart")
    assert 'raise ValueError("nobody waits for this")' in done.stderr
