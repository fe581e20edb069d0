"""`noex-mp run app:shop`, where shop is an application."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.cli.harness import HERE, noex_mp, running, texts
from tests.processes.harness import wait_for_ends

pytestmark = pytest.mark.slow

TERM = signal.SIGTERM

DAY = [
    *("till at 1", "doors open", "till at 8080"),
    *("doors close", "doors closed", "till closed", "home", "till closed"),
]


def said(out: list[str]) -> list[str]:
    return [line.partition(" | ")[2] for line in out]


def test_an_application_runs_with_what_it_depends_on(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    with running("shop:shop", "--set", f"diary={diary}") as run:
        run.until(r"\btill \| till at 8080", in_="out")
        run.send(TERM)
        assert run.status() == 0
    assert said(run.out) == DAY
    # Each process's lines come on their own way; what is written to one file has one order.
    assert diary.read_text().splitlines() == DAY[1:-1]


def test_options_come_from_a_file_the_environment_and_arguments(tmp_path: Path) -> None:
    file = tmp_path / "shop.toml"
    file.write_text("[shop]\nport = 1\nslow = 60\n[ending]\nport = 7\n")
    words = ("shop:both", "--config", str(file), "--set", "shop.slow=0")
    with running(*words, variables={"SHOP_PORT": "9000"}) as run:
        began = time.monotonic()
        run.send(TERM)
        assert run.status() == 0
    # The environment before the file; the file; an argument before the file.
    assert {"till at 9000", "till at 7"} <= set(said(run.out))
    assert time.monotonic() - began < 1.5


def test_every_mistake_is_told_and_nothing_starts(tmp_path: Path) -> None:
    file = tmp_path / "shop.toml"
    file.write_text("[shop]\nprot = 1\n")
    words = ("--config", str(file), "--set", "slow=very")
    done = noex_mp("run", "shop:shop", *words, variables={"SHOP_PORT": "many"})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "noex-mp: the configuration of shop has 3 mistakes",
        "SHOP_PORT: expected port to be a whole number, got 'many'",
        "--set slow: expected slow to be a number, got 'very'",
        f"{file}:shop.prot: there is no option prot",
        "    did you mean port?",
    ]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("app:tree", "--set", "port=1"), "there is no application that takes options"),
        (("shop:shop", "--set", "port"), "expected OPTION=VALUE"),
        (("shop:shop", "--config", "nowhere.toml"), "nowhere.toml cannot be read"),
        (("shop:lonely",), "application lonely depends on 'nobody'"),
        (("shop:shpo",), "Did you mean shop:shop?"),
    ],
)
def test_what_needs_a_change_is_told(words: tuple[str, ...], text: str) -> None:
    done = noex_mp("run", *words)
    assert done.returncode == 2
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_a_function_that_fails_to_make_the_tree_is_told_as_the_users() -> None:
    done = noex_mp("run", "shop:treeless")
    assert done.returncode == 2
    first, *lines = done.stderr.splitlines()
    assert first == "noex-mp: shop:treeless cannot be made:"
    assert lines[-1] == "ValueError: the key is lost"
    files = [line for line in lines if line.startswith("  File ")]
    assert [line.partition(", line")[0] for line in files] == [f'  File "{HERE / "shop.py"}"']


def test_ctrl_c_after_it_ends_prep_stop_and_breaks_nothing() -> None:
    with running("shop:shop", "--set", "slow=60") as run:
        run.send(TERM)
        run.until("doors close$", in_="out")
        began = time.monotonic()
        run.send(signal.SIGINT)
        assert run.status() == 0
        # It may take 2 s of its own.
        assert time.monotonic() - began < 1.5
    assert "info    stopping at once" in texts(run.err)
    assert texts(run.err)[-1] == "info    node shop has stopped"
    assert not [line for line in run.err if "Traceback" in line]


def test_a_second_sigterm_does_not_break_the_first() -> None:
    with running("shop:shop", "--set", "slow=0.5") as run:
        run.send(TERM)
        run.until("doors close$", in_="out")
        run.send(TERM)
        run.until("SIGTERM changes nothing")
        assert run.status() == 0
    assert said(run.out) == DAY
    assert texts(run.err)[-1] == "info    node shop has stopped"


def test_nothing_outlives_a_root_that_is_killed_in_the_stop() -> None:
    with running("shop:shop", "--set", "slow=60") as run:
        # Kept from now on: the number may be somebody else's later.
        master = os.pidfd_open(run.os_pid_of("shop.master"))
        run.send(TERM)
        run.until("doors close$", in_="out")
        run.send(signal.SIGKILL)
        assert run.status() == -signal.SIGKILL
        assert wait_for_ends([master]) == []
        os.close(master)


def test_the_interpreter_is_gone_within_a_second_of_the_stop() -> None:
    with running("shop:shop") as run:
        run.send(TERM)
        run.until("has stopped")
        began = time.monotonic()
        assert run.status() == 0
        assert time.monotonic() - began < 1


def test_a_start_that_fails_is_shown_and_ends_the_node() -> None:
    done = noex_mp("run", "shop:closed")
    assert done.returncode == 1
    assert "the key is lost" in done.stderr
    assert "till at" not in done.stdout


def test_a_tree_that_gives_up_ends_the_node_which_says_who_it_was() -> None:
    with running("shop:shop", "--name", "given-up") as run:
        assert noex_mp("call", "till", "crash", "--node", "given-up").returncode == 1
        assert run.status() == 1
    [said_at_the_end] = [line for line in texts(run.err) if line.startswith("error   supervisor")]
    assert "supervisor rooms gave up: more than 0 restarts" in said_at_the_end
    assert said(run.out)[-3:] == ["doors closed", "home", "till closed"]


def test_a_tree_that_has_done_its_work_ends_the_node_with_success() -> None:
    with running("shop:ending", "--name", "ending") as run:
        assert noex_mp("call", "last", "finish", "--node", "ending").returncode == 0
        assert run.status() == 0
    run.until("has done its work")
