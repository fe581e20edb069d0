"""The same faults under `noex-mp run`: the log names them, and commands work after each."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Generator
from pathlib import Path

import pytest

from noex_mp.transport.platform import FALLBACKS
from tests.cli.harness import Running, noex_mp, running
from tests.nodes.observed import Whistles
from tests.processes.harness import REPOSITORY, wait_for_ends
from tests.servers.hostile import MIB

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

# What is called, its arguments, and what the log says of it; nothing, if it costs nothing.
DEEDS: list[tuple[str, list[object], str]] = [
    ("recurse", [], "hostile crashed with RecursionError: "),
    ("overflow", [], "hostile killed by SIGSEGV; restarting"),
    ("need_memory", [MIB], "hostile crashed with MemoryError; restarting"),
    (
        "close_all_fds",
        [],
        r"hostile (crashed with ProtocolError: it closed|killed by SIGABRT|exited with)",
    ),
    ("fork", ["sys.exit", "FOLDER/forked"], ""),
    ("fork", ["return", "FOLDER/forked"], "came back from the handler"),
    ("handle_signals", [], ""),
    ("segfault_without_faulthandler", [], "hostile killed by SIGSEGV; restarting"),
    ("change_folder", ["FOLDER/gone"], ""),
    ("use_multiprocessing", [], ""),
    # Last: from here on nothing that it says itself can be read.
    ("close_low_fds", [], ""),
]


@contextlib.contextmanager
def run_app(name: str) -> Generator[Running]:
    with running("tests.faults.run_app:tree", "--name", name, folder=REPOSITORY) as run:
        yield run


def test_every_fault_is_named_in_the_log_and_life_goes_on(tmp_path: Path) -> None:
    with run_app("faulty") as run:
        assert noex_mp("call", "target", "increment").stdout == "1\n"
        for deed, arguments, words in DEEDS:
            texts = [json.dumps(a).replace("FOLDER", str(tmp_path)) for a in arguments]
            done = noex_mp("call", "hostile", deed, *texts)
            if words:
                run.until(words)
            else:
                assert done.returncode == 0, done.stderr
            assert noex_mp("call", "hostile", "step", "1").stdout == "1\n", deed
        # Its neighbour is still the same.
        assert noex_mp("call", "target", "increment").stdout == "2\n"
        run.send(signal.SIGTERM)
        assert run.status() == 0


def test_a_flood_of_output_blocks_no_command(whistles: Whistles) -> None:
    started, release = whistles(), whistles()
    with run_app("flooded") as run:
        noex_mp("call", "hostile", "flood_on", f'"{started.path}"', f'"{release.path}"')
        started.wait()
        for n in range(1, 4):
            assert noex_mp("call", "target", "increment").stdout == f"{n}\n"
        release.blow()
        assert noex_mp("call", "hostile", "step", "1").stdout == "1\n"
        assert run.out[0].startswith("hostile | xxx")


def test_a_worker_that_loops_without_its_low_descriptors_ends_with_a_killed_root(
    whistles: Whistles,
) -> None:
    looping = whistles()
    with run_app("doomed") as run:
        hostile = run.os_pid_of("hostile")
        os_pids = [hostile, int(noex_mp("call", "hostile", "fork_and_sleep").stdout)]
        if not FALLBACKS:
            # Without subreapers it is nobody's child any more.
            os_pids.append(int(noex_mp("call", "hostile", "daemonize").stdout))
        pidfds = [os.pidfd_open(os_pid) for os_pid in os_pids]
        noex_mp("call", "hostile", "loop_without_fds", f'"{looping.path}"')
        looping.wait()
        run.process.kill()
        run.process.wait()
        assert wait_for_ends(pidfds) == []
        for pidfd in pidfds:
            os.close(pidfd)
