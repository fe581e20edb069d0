"""`noex-mp run --reload`: files are saved while the tree runs."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.harness import Running, noex_mp, running
from tests.cli.test_reload import version, write
from tests.processes.harness import wait_for_ends

pytestmark = pytest.mark.slow

UP = "the new version is up with"
OLD = "the old one runs on"


@contextmanager
def reloading(folder: Path) -> Generator[Running]:
    write(folder, 1)
    with running("rolling:tree", "--reload", folder=folder) as run:
        yield run


def test_the_tree_is_started_anew_when_a_file_is_saved(tmp_path: Path) -> None:
    with reloading(tmp_path) as run:
        write(tmp_path, 2)
        run.until("rolling.py changed: loading rolling:tree")
        run.until(f"{UP} 2 servers")
        assert [version(name) for name in "ab"] == ["2", "2"]

        # Many editors write another file, and put it in the place of the old one.
        beside = tmp_path / "beside"
        beside.mkdir()
        write(beside, 3, names="abc")
        os.replace(beside / "rolling.py", tmp_path / "rolling.py")
        run.until(f"{UP} 3 servers")
        assert [version(name) for name in "abc"] == ["3", "3", "3"]


def test_a_module_that_a_new_version_imports_is_watched_too(tmp_path: Path) -> None:
    with reloading(tmp_path) as run:
        (tmp_path / "of_mine.py").write_text("NUMBER = 2\n")
        write(tmp_path, "__import__('of_mine').NUMBER")
        run.until(UP)
        assert version("a") == "2"
        (tmp_path / "of_mine.py").write_text("NUMBER = 3\n")
        run.until(UP, times=2)
        assert version("a") == "3"


def test_a_version_that_cannot_be_loaded_leaves_the_old_one_running(tmp_path: Path) -> None:
    with reloading(tmp_path) as run:
        os_pid = run.os_pid_of("a")
        write(tmp_path, "1 +")
        run.until(OLD)
        run.until("SyntaxError: invalid syntax")
        write(tmp_path, "exit(3)")
        run.until(OLD, times=2)
        write(tmp_path, "__import__('os')._exit(3)")
        run.until(OLD, times=3)
        assert version("a") == "1"
        os.kill(os_pid, 0)
        write(tmp_path, 2)
        run.until(UP)
        assert version("a") == "2"


def test_a_version_that_does_not_start_gives_way_to_the_old_one(tmp_path: Path) -> None:
    with reloading(tmp_path) as run:
        write(tmp_path, 2, init='raise ValueError("not today")')
        run.until("the old version is started again; in the new one a did not start")
        run.until("^    ValueError: not today")
        run.until("a is ready", times=2)
        run.until("b is ready", times=2)
        assert [version(name) for name in "ab"] == ["1", "1"]
        write(tmp_path, 3)
        run.until(UP)
        assert version("a") == "3"


def test_an_old_version_that_does_not_start_any_more_is_told(tmp_path: Path) -> None:
    mark = str(tmp_path / "mark")
    write(tmp_path, 1, init=f"assert not __import__('os').path.exists({mark!r})")
    with running("rolling:tree", "--reload", folder=tmp_path) as run:
        write(tmp_path, 2, init=f"open({mark!r}, 'w').close(); raise ValueError('not today')")
        run.until("the old version does not start any more either; in the new one a did not start")
        run.until("^    ValueError: not today")
        write(tmp_path, 3)
        run.until(UP)
        assert version("a") == "3"


def test_what_is_saved_during_an_import_that_hangs_is_tried_next(tmp_path: Path) -> None:
    started = tmp_path / "started"
    os.mkfifo(started)
    with reloading(tmp_path) as run:
        write(tmp_path, f"open({str(started)!r}, 'wb').close() or __import__('time').sleep(100)")
        started.read_bytes()
        write(tmp_path, 2)
        run.until(UP)
        assert version("a") == "2"


def test_what_a_module_starts_when_it_is_imported_holds_up_no_reload(tmp_path: Path) -> None:
    sleep = "['sleep', '100']"
    thread = "__import__('threading').Thread(target=__import__('time').sleep, args=(100,)).start()"
    write(tmp_path, 1)
    with running("rolling:tree", folder=tmp_path):
        write(tmp_path, f"__import__('subprocess').Popen({sleep}).pid")
        done = noex_mp("reload")
        assert done.returncode == 0
        os.kill(int(version("a")), signal.SIGKILL)
        write(tmp_path, thread)
        done = noex_mp("reload")
        assert done.returncode == 1
        assert "thread" in done.stderr


def test_a_stop_ends_it_in_the_middle_of_an_import_that_hangs(tmp_path: Path) -> None:
    with reloading(tmp_path) as run:
        write(tmp_path, "__import__('time').sleep(100)")
        run.until("rolling.py changed")
        run.send(signal.SIGTERM)
        assert run.status() == 0


def test_an_import_that_hangs_ends_with_a_root_that_is_killed(tmp_path: Path) -> None:
    told = tmp_path / "os_pid"
    os.mkfifo(told)
    with reloading(tmp_path) as run:
        tell = f"open({str(told)!r}, 'w').write(str(__import__('os').getpid()))"
        write(tmp_path, f"{tell} and __import__('time').sleep(100)")
        loader = os.pidfd_open(int(told.read_text()))
        run.send(signal.SIGKILL)
        assert run.status() == -signal.SIGKILL
        assert wait_for_ends([loader]) == []
        os.close(loader)


def test_a_changed_tree_is_told_and_not_applied_by_a_reload(tmp_path: Path) -> None:
    write(tmp_path, 1, names="ab")
    with running("rolling:tree", folder=tmp_path):
        write(tmp_path, 22, names="bc")
        done = noex_mp("reload")
        assert done.returncode == 0
        first, *notes = done.stdout.splitlines()
        assert "2 servers have the new code" in first
        told = "The tree has changed, and that comes with the next start of the node; "
        assert notes == [f"{told}added: /c", f"{told}removed: /a"]
        assert [version(name) for name in "ab"] == ["22", "22"]


def test_the_order_of_a_set_is_no_change_of_the_tree(tmp_path: Path) -> None:
    words = [f"word {number}" for number in range(20)]
    text = f"""
from dataclasses import dataclass
from noex_mp import DynamicSupervisor, GenServer, Supervisor, child

@dataclass(frozen=True)
class Words:
    some: frozenset

class Server(GenServer):
    def __init__(self, words, *more): ...

some = frozenset({words})
tree = Supervisor(
    child(Server, (Words(some), 1), {{1, None, *some}}).options(id="a"),
    DynamicSupervisor(id="b", template=child(Server, some)),
    child(Server, b"x" * 200_000, {{"c": "d"}}).options(id="c"),
    child(Server, 1).options(id="d"),
)
"""
    file = tmp_path / "worded.py"
    file.write_text(text)
    with running("worded:tree", folder=tmp_path):
        assert len(noex_mp("reload").stdout.splitlines()) == 1
        file.write_text(text.replace('"x"', '"y"').replace("Server, 1)", "Server, True)"))
        assert noex_mp("reload").stdout.endswith("described in another way: /c, /d\n")


def test_a_reload_behind_an_import_that_hangs_lets_both_have_the_code_of_now(
    tmp_path: Path,
) -> None:
    write(tmp_path, 1)
    with running("rolling:tree", folder=tmp_path), ThreadPoolExecutor(1) as pool:
        started = tmp_path / "started"
        os.mkfifo(started)
        write(tmp_path, f"open({str(started)!r}, 'wb').close() or __import__('time').sleep(100)")
        reload = pool.submit(noex_mp, "reload")
        started.read_bytes()
        write(tmp_path, 2)
        assert noex_mp("reload").returncode == 0
        assert reload.result().returncode == 0
        assert version("a") == "2"


def test_a_reload_in_the_middle_of_an_import_that_hangs_ends_with_the_node(tmp_path: Path) -> None:
    write(tmp_path, 1)
    with running("rolling:tree", folder=tmp_path) as run:
        started = tmp_path / "started"
        os.mkfifo(started)
        write(tmp_path, f"open({str(started)!r}, 'wb').close() or __import__('time').sleep(100)")
        with ThreadPoolExecutor(1) as pool:
            reload = pool.submit(noex_mp, "reload")
            started.read_bytes()
            run.send(signal.SIGTERM)
            assert run.status() == 0
            done = reload.result()
        assert (done.returncode, done.stdout) == (1, "")
        assert "Traceback" not in done.stderr
