"""`noex-mp scale`: another number of processes for a pool, from another terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.harness import noex_mp, running

pytestmark = pytest.mark.slow

SOURCE = """
from noex_mp import GenServer, Pool, Supervisor, call, child


class Hasher(GenServer):
    @call
    def hash(self, text):
        return len(text)


tree = Supervisor(
    Pool(size=1, name="cpu"),
    Supervisor(Pool.of(Hasher, size=2, name="hashers"), id="inner"),
    child(Hasher).options(name="one"),
)
"""


def members(path: str) -> int:
    servers: list[dict[str, Any]] = json.loads(noex_mp("ps", "--json").stdout)[0]["servers"]
    return sum(server["path"].startswith(f"{path}/members/") for server in servers)


def test_scale_gives_both_kinds_of_pools_another_size_or_says_why_not(tmp_path: Path) -> None:
    (tmp_path / "pools.py").write_text(SOURCE)
    with running("pools:tree", folder=tmp_path):
        done = noex_mp("scale", "cpu", "3")
        assert (done.stdout, done.stderr) == ("cpu: 3 processes, before 1\n", "")
        assert done.returncode == 0
        assert members("/cpu") == 3
        done = noex_mp("scale", "/inner/hashers", "1")
        assert (done.stdout, done.stderr) == ("/inner/hashers: 1 process, before 2\n", "")
        assert members("/inner/hashers") == 1
        assert noex_mp("call", "hashers", "hash", '"tea"').stdout == "3\n"
        assert noex_mp("scale", "hashers", "1").stdout == "hashers: 1 process\n"

        done = noex_mp("scale", "one", "2")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("noex-mp: one is one server, and no pool\n")
        done = noex_mp("scale", "cpus", "2")
        assert done.returncode == 1
        assert "Did you mean cpu?" in done.stderr
        for count in ("0", "-1", "many"):
            done = noex_mp("scale", "--", "cpu", count)
            assert done.returncode == 2
            assert "expected a whole number above zero" in done.stderr
        unknown = noex_mp("call", "hashers", "size")
        assert "noex_mp.pool" not in unknown.stderr
        assert "Traceback" not in unknown.stderr + done.stderr
