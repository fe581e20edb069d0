"""`noex-mp reload`: new code for a running node, from another terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.harness import noex_mp, running

pytestmark = pytest.mark.slow

SOURCE = """
from noex_mp import GenServer, Supervisor, call, child

VERSION = {version}


class Rolling(GenServer):
    async def init(self):
        {init}

    @call
    def version(self):
        return VERSION


children = [child(Rolling).options(id=name, name=name) for name in {names!r}]
tree = Supervisor(*children)
"""

# Files of one second and one size look alike to what Python caches of them.
UNCACHED = {"PYTHONDONTWRITEBYTECODE": "1"}


def write(folder: Path, version: object, *, init: str = "pass", names: str = "ab") -> None:
    text = SOURCE.format(version=version, init=init, names=names)
    (folder / "rolling.py").write_text(text)


def version(name: str) -> str:
    return noex_mp("call", name, "version").stdout.strip()


def test_reload_replaces_the_servers_of_a_node_or_says_why_not(tmp_path: Path) -> None:
    write(tmp_path, 1)
    with running("rolling:tree", folder=tmp_path, variables=UNCACHED) as run:
        write(tmp_path, 2)
        done = noex_mp("reload")
        assert (done.returncode, done.stderr) == (0, "")
        words = f"node rolling (os pid {run.process.pid}): 2 servers have the new code, after "
        assert done.stdout.startswith(words)
        run.until("a was replaced, to have other code; starts again")
        assert [version(name) for name in "ab"] == ["2", "2"]

        write(tmp_path, 3, init='raise ValueError("not today")')
        done = noex_mp("reload", "rolling")
        assert (done.returncode, done.stdout) == (1, "")
        assert "a did not start with its new code: ValueError: not today\n" in done.stderr
        assert "Traceback" not in done.stderr
        assert [version(name) for name in "ab"] == ["2", "2"]

        write(tmp_path, "1 +")
        done = noex_mp("reload", "rolling")
        assert (done.returncode, done.stdout) == (1, "")
        assert "SyntaxError" in done.stderr
        assert [version(name) for name in "ab"] == ["2", "2"]


def test_reload_wants_to_know_which_of_several(tmp_path: Path) -> None:
    write(tmp_path, 1)
    with (
        running("rolling:tree", "--name", "one", folder=tmp_path),
        running("rolling:tree", "--name", "two", folder=tmp_path),
    ):
        done = noex_mp("reload")
        assert done.returncode == 2
        assert done.stderr == (
            "noex-mp: several nodes run: one, two\nSay which: noex-mp reload NODE\n"
        )
    assert noex_mp("reload").returncode == 1
