"""`noex-mp dlq`: dead letters, from another terminal."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.harness import noex_mp, running


def test_dlq_lists_shows_retries_and_drops_dead_letters(tmp_path: Path) -> None:
    cure = tmp_path / "cure"
    serve = ("call", "cook", "serve", json.dumps(str(cure)))
    with running("app:kitchen", "--name", "kitchen", "--debug") as run:
        assert noex_mp("dlq", "list").stdout.endswith(", 0 dead letters\n")
        failed = noex_mp(*serve)
        assert failed.returncode == 1
        assert "taster ended 3 times in the middle of Taster.taste" in failed.stderr
        assert "\nLook at it: noex-mp dlq show 1\n" in failed.stderr
        run.until("error   taster ended 3 times in the middle of taste: now dead letter 1")
        noex_mp(*serve)

        head, first, second = noex_mp("dlq", "list").stdout.splitlines()
        assert head.endswith(", 2 dead letters")
        summary = "taste ended taster 3 times; the last: taster exited with status 3; restarting"
        assert first.startswith("1  20")
        assert first.endswith(f"  {summary}")
        assert second.startswith("2  20")
        lines = noex_mp("dlq", "list", "--json").stdout.splitlines()
        assert [json.loads(line)["id"] for line in lines] == [1, 2]
        assert json.loads(lines[0])["summary"] == summary
        assert "reports" not in json.loads(lines[0])

        shown = noex_mp("dlq", "show", "1").stdout
        assert f", dead letter 1: {summary}\n" in shown
        assert shown.count("\n\ntaster exited with status 3; restarting\n") == 3
        assert "taste(Item(name='tea'" in shown
        letter = json.loads(noex_mp("dlq", "show", "1", "--json").stdout)
        assert (letter["node"], letter["operation"], letter["deliveries"]) == (
            "kitchen",
            "taste",
            3,
        )
        assert [report["reason"]["type"] for report in letter["reports"]] == ["Exited"] * 3

        again = noex_mp("dlq", "retry", "1")
        assert again.returncode == 1
        assert "taster ended 3 times in the middle of Taster.taste" in again.stderr
        assert again.stderr.endswith("The dead letter stays.\n")
        assert len(noex_mp("dlq", "list").stdout.splitlines()) == 3
        cure.touch()
        # The item is a value of a class that this program does not know.
        well = noex_mp("dlq", "retry", "1")
        assert (well.returncode, well.stderr) == (0, "")
        assert json.loads(well.stdout) == {"name": "tea", "tags": ["a"]}
        # The courier has done its work and is gone.
        run.until("courier-1 stopped normally", times=2)
        assert "courier" not in noex_mp("ps").stdout

        dropped = noex_mp("dlq", "drop", "2", "--node", "kitchen")
        assert (dropped.returncode, dropped.stdout, dropped.stderr) == (0, "", "")
        for words in (("show", "2"), ("retry", "2"), ("drop", "2")):
            gone = noex_mp("dlq", *words)
            assert gone.returncode == 1
            assert gone.stderr == (
                "noex-mp: there is no dead letter 2\nSee them all with: noex-mp dlq list\n"
            )


def test_dlq_asks_which_node_is_meant(tmp_path: Path) -> None:
    serve = ("call", "cook", "serve", json.dumps(str(tmp_path / "cure")), "--node")
    with running("app:kitchen", "--name", "one"), running("app:kitchen", "--name", "two"):
        for node in ("one", "two"):
            noex_mp(*serve, node)
        which = noex_mp("dlq", "show", "1")
        assert (which.returncode, which.stdout) == (2, "")
        assert which.stderr == (
            "noex-mp: 2 nodes have a dead letter 1: one, two\nChoose with --node.\n"
        )
        assert noex_mp("dlq", "show", "1", "--node", "two").returncode == 0


def test_dlq_without_an_action_or_a_node_says_what_to_do() -> None:
    bare = noex_mp("dlq")
    assert bare.returncode == 2
    assert "required: ACTION" in bare.stderr
    none = noex_mp("dlq", "list")
    assert none.returncode == 1
    assert none.stderr.startswith("noex-mp: no node is running")
