"""`noex-mp exits`: why servers have ended, from another terminal."""

from __future__ import annotations

import json

from tests.cli.harness import noex_mp, running


def test_exits_lists_ends_and_says_all_of_one_server() -> None:
    with running("app:tree", "--name", "ends", "--debug", until="is up") as run:
        os_pid = run.os_pid_of("visits")
        empty = noex_mp("exits", "--node", "ends")
        assert (empty.returncode, empty.stderr) == (0, "")
        assert empty.stdout.endswith(", 0 exits\n")
        noex_mp("call", "visits", "crash")
        run.until("visits restarted")

        listed = noex_mp("exits").stdout.splitlines()
        assert listed[0].endswith(", 1 exit")
        what = "visits crashed with ValueError: this is the end; restarting"
        assert listed[1].endswith(f"  {what} (os pid {os_pid})")

        for name in ("visits", str(os_pid)):
            full = noex_mp("exits", name).stdout
            assert f"\n\n{what}\n" in full
            assert "message:  crash, " in full
            assert 'raise ValueError("this is the end")' in full
            assert len(full.splitlines()) <= 26

        [line] = noex_mp("exits", "visits", "--json").stdout.splitlines()
        report = json.loads(line)
        assert report["node"] == "ends"
        assert report["reason"] == {
            "type": "Crash",
            "error": "ValueError",
            "message": "this is the end",
        }
        assert (report["os_pid"], report["restarts"]) == (os_pid, 0)
        assert report["message"]["operation"] == "crash"

        nobody = noex_mp("exits", "nobody")
        assert nobody.returncode == 1
        assert nobody.stderr == (
            "noex-mp: no server 'nobody' has ended here\nSee them all with: noex-mp exits\n"
        )
        assert noex_mp("exits", "nobody", "--json").stdout == ""


def test_exits_without_a_node_says_how_to_start_one() -> None:
    none = noex_mp("exits")
    assert none.returncode == 1
    assert none.stderr.startswith("noex-mp: no node is running")
