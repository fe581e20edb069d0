"""What `make demo` runs: build the index, kill a worker in the middle, ask for something, stop.

Everything goes through the command line, as if typed into two terminals.
"""

from __future__ import annotations

import json
import os
import platform
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final

import psutil

from examples.codeindex.library import standard_library

NODE: Final = f"codeindex-demo-{os.getpid()}"
COMMAND: Final = (sys.executable, "-m", "noex_mp")
VICTIM: Final = "parser-1"
QUERY: Final = "asyncio.Queue"

# In seconds. The index takes about ten, on two cores.
PATIENCE: Final = 100.0
STOP_PATIENCE: Final = 15.0


class DemoError(Exception):
    """Something is not as it should be."""


class Run:
    """`noex-mp run`, watched."""

    def __init__(self, work: str) -> None:
        self.records: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.process = subprocess.Popen(
            [*COMMAND, "run", "examples.codeindex:tree", "--name", NODE, "--log-format", "json"],
            env={**os.environ, "CODEINDEX_WORK": work},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # Ctrl-C is for the demo, which stops the node in order.
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                record = json.loads(line)
                print("   ", record.get("message") or f"{record['server']} | {record['text']}")
                self.records.put(record)
            except ValueError:
                print("   ", line, end="")

    def wait_for(self, event: str, server: str) -> dict[str, Any]:
        """Return the first record of an event."""
        while True:
            try:
                record = self.records.get(timeout=STOP_PATIENCE)
            except queue.Empty:
                raise DemoError(f"{server} was not {event} in {STOP_PATIENCE:g} s") from None
            if (record.get("event"), record.get("server")) == (event, server):
                return record

    def stop(self) -> int:
        """Stop the node as a service manager would, and return its exit status."""
        self.process.terminate()
        try:
            return self.process.wait(STOP_PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise DemoError(f"noex-mp run did not stop in {STOP_PATIENCE:g} s") from None
        finally:
            self._reader.join()


def main() -> int:
    """Run the demo and return its exit status."""
    try:
        with tempfile.TemporaryDirectory(prefix="codeindex-") as work, running(work) as run:
            demonstrate(run)
    except (DemoError, OSError, subprocess.SubprocessError) as error:
        print(f"demo failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def demonstrate(run: Run) -> None:
    """Show it all.

    Raises:
        DemoError: Something is not as it should be.
    """
    begin = time.monotonic()
    half = wait_for_index(
        run, lambda stats: stats["complete"] or stats["files"] >= stats["pending"] > 0
    )
    if half["complete"]:
        raise DemoError("the index was complete before anything could be killed")
    downtime = kill_victim(run, half)
    stats = wait_for_index(run, lambda stats: stats["complete"])
    seconds = time.monotonic() - begin
    show_search()
    retried = ask("call", "crawler", "progress")["retried"]
    stop_and_count(run)
    print(
        f"\n{stats['files']:,} files with {stats['symbols']:,} symbols in {seconds:.1f} s; "
        f"{stats['unparsable']} are no valid Python, on purpose.\n"
        f"{VICTIM} was killed after {half['files']:,} files and back in {downtime * 1000:.0f} ms; "
        f"{retried} file{'' if retried == 1 else 's'} had to be parsed again.\n"
        f"All processes have ended."
    )


@contextmanager
def running(work: str) -> Generator[Run]:
    """Run the node, and leave nothing of it behind."""
    library = len(standard_library().files())
    print(f"Index the {library:,} files of the library of Python {platform.python_version()}:\n")
    print("$ noex-mp run examples.codeindex:tree")
    run = Run(work)
    try:
        yield run
    finally:
        if run.process.poll() is None:
            run.stop()


def ask(*words: str) -> Any:
    """Run a command of `noex-mp` in another process and return the JSON that it prints."""
    done = subprocess.run(
        [*COMMAND, *words, "--node", NODE],
        check=False,
        capture_output=True,
        text=True,
        timeout=STOP_PATIENCE,
    )
    if done.returncode:
        raise DemoError(f"noex-mp {' '.join(words)}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def wait_for_index(run: Run, true: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Ask the index how far it is until it is far enough."""
    deadline = time.monotonic() + PATIENCE
    problem: object = "it has not started"
    while time.monotonic() < deadline:
        if run.process.poll() is not None:
            raise DemoError(f"noex-mp run ended with status {run.process.returncode}")
        try:
            stats: dict[str, Any] = ask("call", "index", "stats")
        except DemoError as error:
            problem = error  # not up yet
        else:
            if true(stats):
                return stats
            problem = stats
        time.sleep(0.1)
    raise DemoError(f"the index is not far enough after {PATIENCE:g} s: {problem}")


def kill_victim(run: Run, stats: dict[str, Any]) -> float:
    """Kill a worker; return how long its server was away, in seconds."""
    servers = ask("ps", "--json")[0]["servers"]
    os_pid = next(server["os_pid"] for server in servers if server["name"] == VICTIM)
    print(f"\n$ kill -9 {os_pid}    # {VICTIM}, at {stats['files']:,} files")
    killed = time.time()
    os.kill(os_pid, signal.SIGKILL)
    back = datetime.fromisoformat(run.wait_for("restarted", VICTIM)["time"])
    return max(0.0, back.timestamp() - killed)


def show_search() -> None:
    """Search, and check that the best hit is what was asked for."""
    print(f"\n$ noex-mp call index search '\"{QUERY}\"'")
    hits = ask("call", "index", "search", json.dumps(QUERY), "limit=3")
    for hit in hits:
        print(f"    {hit['name']}  ({hit['file']}:{hit['line']})  {hit['summary']}")
    if not hits or hits[0]["name"] != "asyncio.queues.Queue":
        raise DemoError(f"the search did not find {QUERY} first")


def stop_and_count(run: Run) -> None:
    """Stop the node, and check that nothing is left."""
    processes = psutil.Process(run.process.pid).children(recursive=True)
    print(f"\n$ kill {run.process.pid}    # noex-mp run and {len(processes)} processes below it")
    status = run.stop()
    if status != 0:
        raise DemoError(f"noex-mp run ended with status {status} instead of 0")
    _, alive = psutil.wait_procs(processes, timeout=STOP_PATIENCE)
    if alive:
        raise DemoError(f"{len(alive)} processes are left: {alive}")


if __name__ == "__main__":
    sys.exit(main())
