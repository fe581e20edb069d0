"""Few file descriptors: a clear error before the limit, and life goes on after."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.cli.harness import command, running
from tests.processes.harness import REPOSITORY

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize(
    "scenario",
    [
        "the_limit_is_met_by_a_typed_error_and_life_goes_on",
        "servers_that_nobody_has_called_yet_can_be_called",
        "a_call_that_gets_no_link_says_so_in_the_log",
        "threads_leave_what_restarts_need",
        "starts_at_once_fail_with_nothing_else",
        "a_program_that_eats_all_descriptors_delays_restarts_and_no_more",
    ],
)
def test_with_256_descriptors(scenario: str, loop: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.few_descriptors", scenario, loop],
        cwd=REPOSITORY,
        env={**os.environ, "NOEX_MP_LOOP": loop},
        capture_output=True,
        text=True,
        timeout=18,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    # Not a word of ours that sounds like a bug.
    assert "never retrieved" not in done.stderr
    assert "Traceback" not in done.stderr


HELLO = """
import asyncio
from noex_mp import NoexError, spawn
from tests.servers.counters import Counter

async def main():
    try:
        counter = await spawn(Counter)
    except NoexError as error:
        print(type(error).__name__, error.limit, error)
    else:
        print(await Counter.increment(counter))

asyncio.run(main())
"""


def said_below(limit: str) -> str:
    program = ["sh", "-c", f'ulimit {limit}; exec "$@"', "sh", sys.executable, "-c", HELLO]
    done = subprocess.run(
        program, cwd=REPOSITORY, capture_output=True, text=True, timeout=18, check=False
    )
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.mark.parametrize("limit", [16, 20, 24, 30])
def test_a_start_with_next_to_no_descriptors_names_the_limit(limit: int) -> None:
    said = said_below(f"-n {limit}")
    assert said.startswith(f"OutOfDescriptorsError {limit} ")
    assert f"of {limit} file descriptors are in use, and " in said
    assert "ulimit -n" in said


@pytest.mark.linux_only("memory is no file elsewhere")
@pytest.mark.parametrize("blocks", [1, 20_000])
def test_a_start_where_files_must_be_small_names_the_limit(blocks: int) -> None:
    # What a shell counts in differs: 512 or 1024 bytes.
    said = said_below(f"-f {blocks}")
    name, limit, _ = said.split(maxsplit=2)
    assert name == "FileSizeLimitError"
    assert int(limit) in (512 * blocks, 1024 * blocks)
    assert "ulimit -f" in said


def test_a_server_runs_with_64_descriptors() -> None:
    program = ["sh", "-c", 'ulimit -n 64; exec "$@"', "sh", *command()]
    with running("app:node", program=program, until="node of-its-own is up with 1 server "):
        pass


def test_a_tree_that_is_too_large_for_the_limit_says_so() -> None:
    program = ["sh", "-c", 'ulimit -n 30; exec "$@"', "sh", *command()]
    with running("app:tree", program=program, until=None) as run:
        assert run.status() == 1
    run.until("visits did not start: .* of 30 file descriptors are in use")
    run.until("Raise the limit")
    assert not [line for line in run.err if "Traceback" in line]
